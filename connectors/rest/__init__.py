"""The rest connector."""
