"""Plugins of all tests; they lie in `tests/plugins/`."""

pytest_plugins = ["blocking", "documents", "flow", "hostile"]
