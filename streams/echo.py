"""Echo: a hub that writes into its own source reads its writes again.

Nothing rests on leaving them out: a loop dies after one round, because the write finds nothing to change. But each
costs a change, a model's answer and a write. So a write-back into its own source tells on its receipts what it wrote,
the owner of the source task follows them, and drops the change that is that write and nothing else: the same record
of the same system, the written fields as they were written, and all other content as it was when it was read.

Once for each write, for ten minutes, and never by who changed it. A write-back that shares its system with another one
of its pipeline tells nothing: what one of them wrote may be news for the other.
"""

import logging
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from connectors.clock import Clock
from schemas.change import Change
from schemas.codec import Undecodable, decode, encode
from schemas.event import header
from schemas.outcome import Fate
from schemas.receipt import ReceiptRecord
from schemas.values import JsonValue, Record
from schemas.write import Write
from streams.runtime.kafka import ConsumerRecord
from streams.settled import Incoming

log = logging.getLogger("crossdock.streams.echo")

HEADER = "cd_echo"
ECHO = "echo"
"""Reason of a filtered change that is our own write, read again: the target holds what it held."""
MOST = 50_000
"""Writes whose echo is waited for; the oldest are given up first."""
LIVES = 600.0
TELL_EVERY = 60.0


class Written(msgspec.Struct, frozen=True):
    """What the header says of a write."""

    origin: str
    version: str
    """Of the event that it followed: its echo is newer. The same version again is a source that is read anew."""
    content: str
    """Digest of the record's other content."""
    fields: list[str]
    values: str
    """Digest of what was written into them."""
    reason: str = ECHO


def told_of(write: Write, event: Incoming) -> tuple[str, bytes] | None:
    """The header of a receipt; None where the write is not one into the event's own record."""
    origin = header(event.record.headers, "ce_source")
    if origin is None or sorted(map(str, write.key.values())) != sorted(map(str, event.event.key.values())):
        return None
    fields = sorted(write.fields)
    values = _digest(write.fields, fields)
    reason = "undo" if event.cause.startswith("undo:") else ECHO
    content = event.event_id.rpartition("~")[2]
    return HEADER, encode(Written(origin.removeprefix("/"), event.event.version, content, fields, values or "", reason))


@dataclass(slots=True)
class Counts:
    """What became of the echoes that were waited for."""

    suppressed: int = 0
    expired: int = 0
    near_misses: int = 0
    """The same record, and something else in it changed too."""


class Echoes:
    """The echoes that one source task waits for: the last write of each record."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waited: OrderedDict[bytes, tuple[Written, float]] = OrderedDict()
        self._fields: dict[tuple[str, ...], list[str]] = {}
        self.counts = Counts()
        self._told, self._tell_at = Counts(), clock.monotonic() + TELL_EVERY

    def __len__(self) -> int:
        return len(self._waited)

    def expect(self, receipt: ConsumerRecord) -> None:
        """Takes a record of `<p>.receipts`."""
        told = next((value for name, value in receipt.headers if name == HEADER), None)
        if told is None or receipt.key is None:
            return
        try:
            written = decode(told, Written)
        except Undecodable:
            return  # a newer release's: its echo passes, and has no effect
        fields = self._fields.setdefault(
            tuple(written.fields), written.fields
        )  # held once: they are the same each time
        origin, reason = sys.intern(written.origin), sys.intern(written.reason)
        written = msgspec.structs.replace(written, origin=origin, fields=fields, reason=reason)
        self._waited.pop(receipt.key, None)
        self._waited[receipt.key] = written, self._clock.monotonic() + LIVES
        self._give_up()

    def found(self, change: Change, key: bytes) -> Written | None:
        """The write that this change is the echo of. It is waited for no more.

        Args:
            change: as the source read it.
            key: the canonical form of its key.
        """
        written, until = self._waited.get(key, (None, 0.0))
        if written is None or change.after is None or written.origin != change.origin:
            return None
        if change.version <= written.version:
            return None
        if until < self._clock.monotonic():
            self._give_up()
            return None
        same = change.event_id.rpartition("~")[2] == written.content
        if not same or _digest(change.after, written.fields) != written.values:
            self.counts.near_misses += 1
            return None
        del self._waited[key]
        self.counts.suppressed += 1
        return written

    def tell(self, task: str) -> None:
        """Says how it goes, once a minute and only when there is something new."""
        self._give_up()
        if self._clock.monotonic() < self._tell_at or self.counts == self._told:
            return
        self._tell_at = self._clock.monotonic() + TELL_EVERY
        counts = self.counts
        self._told = Counts(counts.suppressed, counts.expired, counts.near_misses)
        log.info(
            "echo.counted task=%s suppressed=%d expired=%d near_misses=%d",
            task,
            counts.suppressed,
            counts.expired,
            counts.near_misses,
        )

    def _give_up(self) -> None:
        now = self._clock.monotonic()
        while self._waited:
            _, until = next(iter(self._waited.values()))
            if until >= now and len(self._waited) <= MOST:
                return
            self._waited.popitem(last=False)
            self.counts.expired += 1


def receipt_of(change: Change, pipeline: str, written: Written, time: str) -> bytes:
    """What became of a change that is an echo."""
    return encode(
        ReceiptRecord(
            event_id=change.event_id,
            write_id=None,
            pipeline=pipeline,
            writeback=None,
            key=change.key,
            version=change.version,
            fate=Fate.FILTERED,
            reason=written.reason,
            time=time,
        )
    )


def _digest(record: Record, fields: Sequence[str]) -> str | None:
    """Of the values of these fields; None where the record does not have them all."""
    if not fields or any(name not in record for name in fields):
        return None
    return blake2b(encode([_comparable(record[name]) for name in fields]), digest_size=8).hexdigest()


def _comparable(value: JsonValue) -> JsonValue:
    """A number compares the same whether a system gives it back as a number or, as decimals are, as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return f"{float(value):.12g}"
    except ValueError:
        return value
