"""What a write returned (Outcome) and what finally became of an event (Fate)."""

from enum import StrEnum


class Outcome(StrEnum):
    """What a write returned. What it becomes in the end is its `Fate`."""

    APPLIED = "applied"  # the target changed
    UNCHANGED = "unchanged"  # the target already held the values
    STALE = "stale"  # the target holds a newer version
    CONFLICT = "conflict"  # the target's version is not the one that was read
    REJECTED = "rejected"  # this record will never be accepted
    RETRY = "retry"  # nothing happened; try again
    UNKNOWN = "unknown"  # sent, no answer: it may have happened


class Fate(StrEnum):
    """What finally became of an event for one write-back. Nothing else exists."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"  # a newer version of the key stands in the target, or is on its way
    FILTERED = "filtered"
    DEAD = "dead"
    DISCARDED = "discarded"  # by an operator
    REFUSED = "refused"  # by a reviewer
    IN_DOUBT = "in_doubt"
    REVIEW = "review"  # in flight: waiting for a person
    PARKED = "parked"  # in flight: waiting behind an earlier event of its key
