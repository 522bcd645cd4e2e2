"""A service that tells neither times nor versions: everything is read each time, and what differs is a change.

The version is a sequence number of our own, kept in the offset: `{v: 1, sequence: n}`. What was read lives in memory,
so after a restart every record is a change once more, which the targets absorb as unchanged.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from connectors.clock import Clock
from connectors.errors import ConfigError, SystemFault
from connectors.soap.config import SoapSourceConfig
from connectors.soap.listing import Listing, key_of
from schemas.change import Batch, Change, Op, content_digest, event_id, key_text
from schemas.values import Key, Offset, Record, rfc3339
from schemas.version import Version

DOMAIN = 2
"""Of every version that is a sequence number: above that of a cursor, so that a change to this mode is not stale."""

_RECORDS_AT_MOST: Final = 500_000


class SnapshotTask:
    """Reads everything, and hands out what is not as it was."""

    def __init__(
        self,
        origin: str,
        config: SoapSourceConfig,
        *,
        written: frozenset[str],
        listing: Callable[[], Listing],
        clock: Clock,
    ) -> None:
        self._open_listing, self._config, self._origin = listing, config, origin
        self._written, self._clock = written, clock

    def open(self, offset: Offset | None) -> None:
        """Raises ConfigError if the offset or the configuration does not fit."""
        sequence = 0 if offset is None else offset.get("sequence")
        if not isinstance(sequence, int) or (offset is not None and offset.get("v") != 1):
            raise ConfigError(f"the stored offset is not one of a SOAP snapshot: {dict(offset or {})!r}")
        self._sequence, self._listing = sequence, self._open_listing()
        self._held: dict[str, str] = {}
        self._waiting: deque[tuple[Key, Record, str]] = deque()

    def poll(self, limit: int, deadline: float) -> Batch | None:
        if not self._waiting:
            self._read(deadline)
        changes = [self._change(*self._waiting.popleft()) for _ in range(min(limit, len(self._waiting)))]
        return Batch(changes, {"v": 1, "sequence": self._sequence}) if changes else None

    def ack(self, offset: Offset) -> None:
        """Nothing to do: the server keeps nothing for us."""

    def numbered(self, offset: Offset | None, highest: str | None) -> Offset | None:
        """`Numbering`."""
        if highest is None:
            return offset
        return {"v": 1, "sequence": max(int((offset or {}).get("sequence", 0)), Version.parse(highest).position)}

    def close(self) -> None:
        """Nothing to do."""

    def _read(self, deadline: float) -> None:
        rows = self._listing.page("", deadline).rows
        if len(rows) > _RECORDS_AT_MOST:
            raise SystemFault(f"{len(rows):,} records in one answer; a cursor is needed", code="size")
        for row in rows:
            key, digest = key_of(row.record, self._config.key), content_digest(row.record, self._written)
            if self._held.get(key_text(key.values())) != digest:
                self._waiting.append((key, row.record, digest))

    def _change(self, key: Key, record: Record, digest: str) -> Change:
        self._held[key_text(key.values())] = digest
        self._sequence += 1
        version = str(Version(DOMAIN, self._sequence))
        identity = event_id(self._origin, key, version, digest)
        return Change(Op.UPSERT, key, None, record, version, self._origin, identity, rfc3339(self._clock.now()))
