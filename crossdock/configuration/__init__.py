"""Configuration files: read with places, checked, and turned into blocks."""
