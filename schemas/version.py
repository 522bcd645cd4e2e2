"""Versions: fixed-width text `<domain>.<position>.<cause sequence>`, totally ordered by its bytes.

The domain rises when a source changes its mode or its system, so that versions of different kinds never mix.
The position is the source's own order: UTC microseconds, an integer, a log position. The cause sequence tells
several writes about one source version apart (live 0, then one per re-score, override, edit, replay, undo).
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Version(NamedTuple):
    """The three parts of a version's text."""

    domain: int
    position: int
    cause: int = 0

    def __str__(self) -> str:
        return f"{self.domain:04d}.{self.position:020d}.{self.cause:04d}"

    @classmethod
    def parse(cls, text: str) -> "Version":
        """Raises ValueError when `text` is not a version."""
        domain, position, cause = text.split(".")
        return cls(int(domain), int(position), int(cause))


def position_of(moment: datetime) -> int:
    """UTC microseconds since 1970. Raises ValueError for a time without zone."""
    if moment.tzinfo is None:
        raise ValueError("a version's time needs a zone")
    return (moment - _EPOCH) // _MICROSECOND


def position_of_text(rfc3339: str) -> int:
    """UTC microseconds of an RFC 3339 text."""
    return position_of(datetime.fromisoformat(rfc3339))
