"""Refusals in a row: where a whole system has changed, a sink stops asking for each record of a batch."""

SUSPECTED = "suspected"
"""Code of the receipts `retry` of writes that were not tried, because those before them were refused in a row."""
