"""Receipts: what a sink returns for each write, and the proof of it that goes to `<p>.receipts`."""

import msgspec

from schemas.outcome import Fate, Outcome
from schemas.values import JsonValue, Key, Record


class Receipt(msgspec.Struct, frozen=True):
    """A sink's answer for one write."""

    outcome: Outcome
    attempts: int = 1
    target_version: JsonValue = None
    """The target's version or ETag after the write (applied) or as found (stale, conflict)."""
    replaced: Record | None = None
    """The values that the write replaced, where `undo: true` asks for them; empty = there was no record before."""
    code: str | None = None
    """The target's own code for a refusal: an SQLSTATE, a fault code, an HTTP status."""
    reason: str | None = None
    retry_after: float | None = None
    """Seconds that the target asked to wait (outcome retry)."""


class ReceiptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one event for one write-back, as it stands on `<p>.receipts`."""

    cd_schema: int = 1
    event_id: str
    write_id: str | None
    pipeline: str
    writeback: str | None
    key: Key
    version: str
    fate: Fate
    outcome: Outcome | None = None
    reason: str | None = None
    attempts: int = 0
    target_version: JsonValue = None
    replaced: Record | None = None
    time: str
