"""The last receipt of events that have a dead one, read from `<p>.receipts` as far back as it is asked for."""

from datetime import datetime, timedelta

import msgspec

from schemas.codec import Undecodable, decode
from schemas.dead_letter import LetterHead
from schemas.outcome import Fate
from streams.marks import number_of
from streams.runtime.kafka import TopicPartition
from streams.runtime.view import View

_DEAD = f'"fate":"{Fate.DEAD.value}"'.encode()
_SLACK = timedelta(seconds=1)
"""A letter's time is taken before its receipt is written."""


class Ended(msgspec.Struct, frozen=True):
    """What of a receipt is held."""

    event_id: str
    writeback: str | None
    fate: Fate
    time: str
    write_id: str | None = None


class Fates:
    """One entry for each event that has died since the earliest time asked for."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._read: dict[TopicPartition, tuple[int, int]] = {}
        """From which offset, and up to which."""
        self._keys: set[bytes | None] = set()
        self._last: dict[tuple[str, str | None], Ended] = {}
        """By event and write-back, and by event alone under the write-back `*`."""
        self._causes: dict[str, int] = {}
        """The highest number of a cause, of events that have one: a person's verdict on a doubt makes causes too."""

    async def read(self, tp: TopicPartition, since: datetime) -> None:
        """Knows, afterwards, all receipts of this partition from that time on."""
        start = await self._view.offset_at(tp, since - _SLACK)
        end = await self._view.end(tp)
        known = self._read.get(tp)
        begin = start if known is None or start < known[0] else known[1]
        async for record in self._view.between(tp, begin, end):
            if record.value is not None and (record.key in self._keys or _DEAD in record.value):
                self._take(record.key, record.value)
        self._read[tp] = (start if known is None else min(start, known[0]), end)

    def otherwise(self, letter: LetterHead) -> Ended | None:
        """How this letter's event ended after all; None = the refusal is the last that was heard of it."""
        if letter.event_id is None:
            return None
        last = self._last.get((letter.event_id, letter.writeback or "*"))
        if last is None or (last.fate is Fate.DEAD and last.writeback == letter.writeback):
            return None
        return last

    def last_cause(self, letter: LetterHead) -> int:
        """The highest number that a cause of this letter's event has in its receipts; 0 = none but `live`."""
        return 0 if letter.event_id is None else self._causes.get(letter.event_id, 0)

    def _take(self, key: bytes | None, value: bytes) -> None:
        try:
            receipt: Ended = decode(value, Ended)
        except Undecodable:
            return
        if receipt.fate is Fate.DEAD:
            self._keys.add(key)
        elif (receipt.event_id, "*") not in self._last:
            return
        number = 0 if receipt.write_id is None else number_of(receipt.write_id.rpartition("/")[2])
        if number > self._causes.get(receipt.event_id, 0):
            self._causes[receipt.event_id] = number
        self._last[receipt.event_id, receipt.writeback] = receipt
        self._last[receipt.event_id, "*"] = receipt
