"""A write: one intended effect on one target."""

import msgspec

from schemas.values import JsonValue, Key, Record

LIVE = "live"
"""Cause of a write that follows a change as it happens. Others: rescore:<run>, override:<n>, edit:<n>, replay:<n>."""


class Write(msgspec.Struct, frozen=True):
    """What one write-back wants of one record of its target.

    The operation and the object that it works on are the sink's, from its configuration; a write carries what differs.
    """

    write_id: str
    key: Key
    """The target's own names: `{"id": 17}`."""
    fields: Record
    """The target's own names: `{"delay_risk": 0.31}`."""
    version: str
    """The source's version: orders the writes of one key."""
    expected: JsonValue = None
    """The target's own version or ETag as it was read; None where the write-back does not ask for one."""


def write_id(prefix: str, pipeline: str, writeback: str, event_id: str, cause: str = LIVE) -> str:
    """Identity of a write: the same effect has the same id, whoever tries it and however often."""
    return f"{prefix}/{pipeline}/{writeback}/{event_id}/{cause}"
