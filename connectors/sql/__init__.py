"""The sql connector."""
