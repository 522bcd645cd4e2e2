"""The soap connector."""
