"""Archiving: records that have waited long enough, or are many, become a chunk of the archive.

One worker archives: the owner of the task `crossdock.archive`. Between two chunks it holds no records and no position:
each look asks the folder where the chunks end and Kafka what there is behind, and reads that into one file.

| a partition                                             | then                            |
|---------------------------------------------------------|---------------------------------|
| holds `rows` that are not archived                      | a chunk of so many              |
| its oldest record that is not archived is `every` old   | a chunk of all that there is    |
| and it is older than 70 % of the topic's retention      | an alert: something is broken   |
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from connectors.clock import Clock
from connectors.errors import CrossdockError, Retriable
from schemas.values import rfc3339
from streams.archive.manifest import ArchivedMeanwhile, End, Manifest, Place, Shelf
from streams.archive.parquet import ChunkFile
from streams.backoff import backoff, wait_for_stop
from streams.runtime.kafka import ConsumerRecord, Kafka, KafkaError, TopicPartition
from streams.runtime.tail import Tail
from streams.runtime.topic_ids import topic_ids
from streams.topics import Topic

log = logging.getLogger("crossdock.streams.archive")

ALERT = 0.70
"""Of a retention."""
BATCH = 2000
LARGEST = 256 << 20
"""Bytes of keys, values and headers in one file."""
LOOKS = 100
"""In the time after which a chunk is closed; but at most one in a second, and at least one in a minute."""
PATIENCE = 15.0
"""Seconds without a record where there are some: a consumer waits for a broker for ever, and says nothing."""
_LATEST = 253_402_300_799_000
"""The last time that can be written, in milliseconds: a record's time is whatever its producer said."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Chunks:
    """Where chunks go, and when one is closed."""

    folder: Path
    rows: int
    every: timedelta


@dataclass(slots=True)
class _Read:
    """What is known of a chunk while it is read."""

    start: int
    begin: int
    """The first offset that Kafka still had, if it is behind `start`."""
    next: int
    first: int = -1
    last: int = -1
    oldest: int = 0
    newest: int = 0

    def add(self, records: Sequence[ConsumerRecord]) -> None:
        times = [record.timestamp for record in records]
        if self.first < 0:
            self.first, self.oldest, self.newest = records[0].offset, times[0], times[0]
        self.last, self.next = records[-1].offset, records[-1].offset + 1
        self.oldest, self.newest = min(self.oldest, *times), max(self.newest, *times)


class Archiving:
    """Archives some topics. The file system is spoken to in `threads`, one call at a time."""

    def __init__(self, kafka: Kafka, topics: Sequence[Topic], chunks: Chunks, threads: Executor, clock: Clock) -> None:
        self._kafka, self._topics, self._chunks = kafka, {topic.name: topic for topic in topics}, chunks
        self._threads, self._clock = threads, clock
        self._every = min(60.0, max(1.0, chunks.every.total_seconds() / LOOKS))
        self._firsts: dict[TopicPartition, tuple[int, int]] = {}
        """The first record behind a position: that position, and the record's time in milliseconds."""
        self._ids: dict[str, str] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Lives until `stop` is set. What goes wrong here costs log lines, and never the worker."""
        tries, tidied = 0, False
        while not stop.is_set():
            try:
                await self.look(stop)
                tries = 0
                if not tidied:
                    await self._tidy()
                    tidied = True
            except ArchivedMeanwhile as other:
                log.info("archive.overtaken reason=%s (another archives too; going on behind it)", other)
            except (CrossdockError, KafkaError) as error:
                tries += 1
                log.warning("archive.waits tries=%d reason=%s", tries, error)
            except Exception:
                tries += 1
                log.exception("archive.failed tries=%d (a defect; nothing but the archive waits for it)", tries)
            self._alert()
            await wait_for_stop(stop, self._every if tries == 0 else backoff(tries, 30.0))

    async def look(self, stop: asyncio.Event) -> None:
        """Archives what is due.

        Args:
            stop: ends it between two batches; what is begun and not finished is given up.

        Raises:
            ArchivedMeanwhile: another owner is at work.
            Retriable, Damaged: the folder does not answer, or its last manifest cannot be read. All other partitions
                were looked at.
            KafkaError: Kafka does not answer.
        """
        async with Tail(self._kafka, list(self._topics.values())) as tail:
            self._ids = await topic_ids(self._kafka, list(self._topics))
            begins, ends = await tail.begins(), await tail.ends()
        errors: list[CrossdockError] = []
        for tp in sorted(ends):
            try:
                await self._partition(tp, begins[tp], ends[tp], stop)
            except CrossdockError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    async def _partition(self, tp: TopicPartition, begin: int, to: int, stop: asyncio.Event) -> None:
        shelf = self._shelf(tp)
        while not stop.is_set() and shelf is not None:
            try:
                end = await self._in_thread(shelf.end)
            except CrossdockError:
                await self._is_old(tp, self._firsts.get(tp, (begin, 0))[0])  # the alert must know
                raise
            at = begin if end is None else end.next
            if at >= to:
                self._firsts.pop(tp, None)
                if at > to:
                    place = f"{tp.topic}/{tp.partition}"
                    log.error("archive.ahead place=%s archived=%d kafka=%d (Kafka has lost records)", place, at, to)
                return
            due = await self._is_old(tp, at) or to - at >= self._chunks.rows
            if not due or not await self._chunk(tp, shelf, end, stop):
                return

    async def _tidy(self) -> None:
        self._ids = await topic_ids(self._kafka, list(self._topics))
        for topic in self._topics.values():
            for number in range(topic.partitions):
                if (shelf := self._shelf(TopicPartition(topic.name, number))) is not None:
                    await self._in_thread(shelf.tidy)

    def _shelf(self, tp: TopicPartition) -> Shelf | None:
        topic_id = self._ids.get(tp.topic)
        return None if topic_id is None else Shelf(self._chunks.folder, Place(tp.topic, topic_id, tp.partition))

    async def _is_old(self, tp: TopicPartition, at: int) -> bool:
        """Whether the first record behind a position has waited for long enough."""
        if self._firsts.get(tp, (-1, 0))[0] != at:
            self._firsts.pop(tp, None)
            async with Tail(self._kafka, [self._topics[tp.topic]], only=tp) as tail:
                tail.seek({tp: at})
                found = await tail.read(1, 5.0)
            if not found:
                return False  # markers of transactions alone
            self._firsts[tp] = at, found[tp][0].timestamp
        return self._age(tp) >= self._chunks.every.total_seconds()

    def _age(self, tp: TopicPartition) -> float:
        return self._clock.now().timestamp() - self._firsts[tp][1] / 1000

    def _alert(self) -> None:
        for tp in self._firsts:
            part = self._age(tp) / self._topics[tp.topic].retention.total_seconds()
            if part >= ALERT:
                log.error(
                    "archive.late topic=%s partition=%d part=%.0f%% (at 100 %% records expire that are not archived)",
                    tp.topic,
                    tp.partition,
                    100 * part,
                )

    async def _chunk(self, tp: TopicPartition, shelf: Shelf, end: End | None, stop: asyncio.Event) -> bool:
        """Reads one chunk into a file and adds it; False = there was none."""
        file = await self._in_thread(shelf.unfinished)
        chunk = ChunkFile(file)
        try:
            read = await self._read(tp, end, chunk, stop)
            if read is None or not chunk.rows:
                return False
            await self._in_thread(chunk.finish)
            manifest = await self._in_thread(shelf.add, file, self._manifest(shelf.place, read, chunk.rows, end))
        finally:
            await self._in_thread(chunk.give_up)
        self._firsts.pop(tp, None)
        if manifest.expired:
            place, to = f"{tp.topic}/{tp.partition}", read.begin
            log.error("archive.gap place=%s from=%d to=%d (expired before it was archived)", place, read.start, to)
        log.info("archive.written file=%s rows=%d next=%d", manifest.file, manifest.rows, manifest.next)
        return True

    async def _read(self, tp: TopicPartition, end: End | None, chunk: ChunkFile, stop: asyncio.Event) -> _Read | None:
        async with Tail(self._kafka, [self._topics[tp.topic]], only=tp) as tail:
            begin, to = (await tail.begins())[tp], (await tail.ends())[tp]
            start = begin if end is None else end.next
            read = _Read(start, max(begin, start), max(begin, start))
            tail.seek({tp: read.begin})
            moved = self._clock.monotonic()
            while read.next < to and chunk.rows < self._chunks.rows and chunk.bytes < LARGEST:
                if stop.is_set():
                    return None
                before, found = (
                    read.next,
                    (await tail.read(min(BATCH, self._chunks.rows - chunk.rows), 1.0)).get(tp, []),
                )
                if found:
                    read.add(found)
                    await self._in_thread(chunk.add, found)
                else:
                    read.next = (await tail.positions())[tp]
                now = self._clock.monotonic()
                if read.next > before:
                    moved = now
                elif now - moved >= PATIENCE:
                    raise Retriable(f"Kafka gives nothing of {tp.topic}/{tp.partition} from {read.next} on")
            if (await tail.begins())[tp] > read.begin:
                raise Retriable(f"records of {tp.topic}/{tp.partition} expired while they were read")
        return read

    def _manifest(self, place: Place, read: _Read, rows: int, end: End | None) -> Manifest:
        return Manifest(
            topic=place.topic,
            topic_id=place.topic_id,
            partition=place.partition,
            start=read.start,
            next=read.next,
            expired=read.begin - read.start,
            file="",
            sha256="",
            bytes=0,
            rows=rows,
            first=read.first,
            last=read.last,
            oldest=_time(read.oldest),
            newest=_time(read.newest),
            time=rfc3339(self._clock.now()),
            previous=None if end is None else end.digest,
        )

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


def _time(milliseconds: int) -> str:
    return rfc3339(datetime.fromtimestamp(min(max(0, milliseconds), _LATEST) / 1000, UTC))
