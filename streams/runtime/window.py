"""The window of a partition: what was delivered of it and not acknowledged; and how records are cut into batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from aiokafka import ConsumerRecord, TopicPartition

BATCH_RECORDS = 250
BATCH_BYTES = 1 << 20
READ_RECORDS = 250
"""What one read may decode; the rest of a fetch stays packed. Without it a fetch of small records breaks the window."""
WINDOW_RECORDS = 250
WINDOW_BYTES = 3 << 20


@dataclass(slots=True)
class Open:
    """What of one partition was delivered and not acknowledged."""

    batches: dict[int, tuple[int, int, float]]
    """first offset -> records, bytes, when it was delivered; in order of delivery"""
    records: int = 0
    size: int = 0

    @property
    def full(self) -> bool:
        return self.records >= WINDOW_RECORDS or self.size >= WINDOW_BYTES


class _Reads(Protocol):
    """The reader of a batch."""

    epoch: int
    giving_up: bool

    def closed(self, batch: "Batch") -> None: ...


class Batch:
    """Consecutive records of one partition: the item of a channel."""

    __slots__ = ("_reader", "epoch", "records", "tp")

    def __init__(self, reader: "_Reads", epoch: int, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        self._reader, self.epoch, self.tp, self.records = reader, epoch, tp, records

    @property
    def live(self) -> bool:
        """False once the partition was given up: the batch will be delivered again, here or elsewhere."""
        return self.epoch == self._reader.epoch and not self._reader.giving_up

    def acknowledge(self) -> None:
        """Every output of these records is with the broker. Without effect if the partition was given up meanwhile."""
        if self.epoch == self._reader.epoch:
            self._reader.closed(self)


_Headers: TypeAlias = Sequence[tuple[str, bytes]]


def parts(records: Sequence[ConsumerRecord], limit: int = BATCH_RECORDS) -> list[tuple[Sequence[ConsumerRecord], int]]:
    """Cuts records into batches of at most so many records and 1 MiB."""
    found: list[tuple[Sequence[ConsumerRecord], int]] = []
    start = size = 0
    shared: _Headers = ()
    for index, record in enumerate(records):
        # Most headers are those of the record before: kept once, a record takes half of its memory.
        shared = record.headers = _shared(shared, record.headers)
        length = len(record.value or b"") + len(record.key or b"")
        if index > start and (index - start >= limit or size + length > BATCH_BYTES):
            found.append((records[start:index], size))
            start, size = index, 0
        size += length
    if records:
        found.append((records[start:], size))
    return found


def _shared(before: _Headers, headers: _Headers) -> _Headers:
    if len(before) != len(headers):
        return headers
    return tuple([old if old == new else new for old, new in zip(before, headers, strict=True)])
