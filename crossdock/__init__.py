"""Wiring: configuration files become running services."""
