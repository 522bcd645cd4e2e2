"""Projecting: records of Kafka become rows of the index, a batch and its positions in one transaction.

One worker projects: the owner of the task `crossdock.index`. A rebuild projects beside it, and so may anybody who
cannot wait: see `database.py` for why they do not harm each other.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any, TypeVar

from connectors.clock import Clock
from connectors.errors import CrossdockError, Retriable
from schemas.codec import Undecodable
from schemas.values import rfc3339
from streams.archive.manifest import Place
from streams.archive.past import Past
from streams.backoff import backoff, wait_for_stop
from streams.index.database import IndexDatabase, Overtaken, Projected
from streams.index.tables import Kind, Row, row_of
from streams.runtime.kafka import ConsumerRecord, Kafka, KafkaError, TopicPartition
from streams.runtime.tail import Tail
from streams.runtime.topic_ids import topic_ids
from streams.topics import HubTopics, PipelineTopics, Topic

log = logging.getLogger("crossdock.streams.index")

BATCH = 2000
GATHER = 0.5
"""Seconds between two transactions while little comes: a full batch costs little more than one row."""
IDLE = 5.0
"""Seconds between two notes that nothing is new."""

_T = TypeVar("_T")
Records = Mapping[TopicPartition, Sequence[ConsumerRecord]]


def projected_topics(pipelines: Sequence[PipelineTopics], hub: HubTopics) -> dict[Topic, Kind]:
    """What is projected, and into what."""
    found = {hub.offsets: Kind.OFFSETS}
    for topics in pipelines:
        found |= {topics.receipts: Kind.RECEIPTS, topics.dead: Kind.DEAD, topics.review: Kind.REVIEWS}
    return found


class Projection:
    """Projects the topics of one hub. The database is spoken to in `threads`, one call at a time."""

    def __init__(
        self,
        kafka: Kafka,
        topics: Mapping[Topic, Kind],
        database: IndexDatabase,
        threads: Executor,
        clock: Clock,
        *,
        past: Past | None = None,
    ) -> None:
        """`past`: where records are that Kafka no longer has."""
        self._past = past
        self._kafka, self._topics, self._database = kafka, list(topics), database
        self._kinds = {topic.name: kind for topic, kind in topics.items()}
        self._threads, self._clock = threads, clock
        self._positions: dict[TopicPartition, int] = {}
        self._noted = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Lives until `stop` is set. What goes wrong here costs lag and log lines, and never the worker."""
        tries = 0
        while not stop.is_set():
            try:
                await self._follow(stop)
            except Overtaken as other:
                log.info("index.overtaken reason=%s (another projects too; reading on from its positions)", other)
                tries = 0
            except (CrossdockError, KafkaError) as error:
                tries += 1
                log.warning("index.waits tries=%d reason=%s", tries, error)
            except Exception:
                tries += 1
                log.exception("index.failed tries=%d (a defect; nothing but the index waits for it)", tries)
            await wait_for_stop(stop, backoff(tries, 30.0))

    async def catch_up(self, told: Callable[[int], None] | None = None) -> None:
        """Projects up to what is on Kafka now, for those who cannot wait for the owner.

        Args:
            told: hears of each step how many records are done.

        Raises:
            Retriable: the database or Kafka does not answer.
        """
        ends: dict[TopicPartition, int] | None = None
        while True:
            try:
                async with Tail(self._kafka, self._topics) as tail:
                    ends = ends or await tail.ends()
                    await self._begin(tail, told)
                    while left := {tp for tp, end in ends.items() if self._positions.get(tp, 0) < end}:
                        before = sum(self._positions.get(tp, 0) for tp in left)
                        await self._step(tail, 0.5)
                        if told is not None:
                            told(max(0, sum(self._positions.get(tp, 0) for tp in left) - before))
                return
            except Overtaken:
                await asyncio.sleep(0.2)
            except KafkaError as error:
                raise Retriable("Kafka does not answer", detail=repr(error)) from error

    async def _follow(self, stop: asyncio.Event) -> None:
        async with Tail(self._kafka, self._topics) as tail:
            await self._begin(tail)
            while not stop.is_set():
                if await self._step(tail, 1.0) < BATCH:
                    await wait_for_stop(stop, GATHER)

    async def _begin(self, tail: Tail, told: Callable[[int], None] | None = None) -> None:
        """Where the database ends, as far as Kafka still knows of it; what is older comes out of the archive."""
        await self._in_thread(self._database.open)
        names = [topic.name for topic in self._topics]
        stored = await self._in_thread(self._database.positions, names)
        begins, ends = await tail.begins(), await tail.ends()
        anew = [tp for tp, at in stored.items() if tp in ends and at > ends[tp]]
        if anew:
            log.warning("index.topic_recreated partitions=%s (their rows are dropped and made again)", _told(anew))
            moved = {tp: (stored[tp], begins[tp]) for tp in anew}
            await self._in_thread(self._database.store, Projected(moved=moved, emptied=anew))
            stored |= {tp: begins[tp] for tp in anew}
        gone = {tp: begin for tp, begin in begins.items() if stored.get(tp, 0) < begin}
        if gone and self._past is not None:
            await self._from_archive(self._past, gone, stored, told)
        gaps = [tp for tp, at in stored.items() if at < begins.get(tp, 0)]
        if gaps:
            log.warning("index.gap partitions=%s (records expired before they were projected)", _told(gaps))
        self._positions = stored
        tail.seek({tp: max(begins[tp], stored.get(tp, 0)) for tp in tail.partitions})

    async def _from_archive(
        self,
        past: Past,
        gone: Mapping[TopicPartition, int],
        stored: dict[TopicPartition, int],
        told: Callable[[int], None] | None,
    ) -> None:
        """Projects what Kafka no longer has, and moves `stored` on; `gone` says where Kafka begins."""
        ids = await topic_ids(self._kafka, {tp.topic for tp in gone})
        for tp, begin in gone.items():
            place = Place(tp.topic, ids.get(tp.topic, ""), tp.partition)
            parts = past.between(place, stored.get(tp, 0), begin)
            while (part := await self._in_thread(next, parts, None)) is not None:
                moved = {tp: (stored.get(tp, -1), part.next)}
                await self._in_thread(self._store, {tp: part.records}, Projected(moved=moved))
                stored[tp] = part.next
                if told is not None:
                    told(len(part.records))

    async def _step(self, tail: Tail, seconds: float) -> int:
        """One batch and its positions; says how many records it held."""
        now = self._clock.now()
        found = await tail.read(BATCH, seconds)
        reached = {tp: records[-1].offset + 1 for tp, records in found.items()} or await tail.positions()
        moved = {tp: (self._positions.get(tp, -1), at) for tp, at in reached.items() if self._positions.get(tp) != at}
        idle = self._clock.monotonic() - self._noted >= IDLE
        if idle and not moved and await self._in_thread(self._database.positions, self._kinds) != self._positions:
            raise Overtaken("the positions are others than before")
        if moved or idle:
            projected = Projected(moved=moved, as_of=self._as_of(tail, found, now))
            await self._in_thread(self._store, found, projected)
            self._positions |= {tp: after for tp, (_, after) in moved.items()}
            self._noted = self._clock.monotonic()
        return sum(len(records) for records in found.values())

    def _store(self, found: Records, projected: Projected) -> None:
        projected.rows = self._rows(found)
        self._database.store(projected)

    def _rows(self, found: Records) -> dict[Kind, list[Row]]:
        rows: dict[Kind, list[Row]] = {}
        for tp, records in found.items():
            kind = self._kinds[tp.topic]
            into = rows.setdefault(kind, [])
            for record in records:
                try:
                    row = row_of(kind, record)
                except Undecodable as error:
                    place = f"{tp.topic}/{tp.partition}/{record.offset}"
                    log.warning("index.unreadable record=%s reason=%s (it is not in the index)", place, error)
                    continue
                if row is not None:
                    into.append(row)
        return rows

    def _as_of(self, tail: Tail, found: Records, now: datetime) -> str | None:
        """Now, where all is read; else the oldest of the last records of those partitions that hold more."""
        late = [records[-1].timestamp for tp, records in found.items() if tail.behind(tp, records[-1].offset + 1)]
        if late:
            return rfc3339(datetime.fromtimestamp(min(late) / 1000, UTC))
        silent = any(tail.behind(tp, self._positions.get(tp, 0)) for tp in tail.partitions if tp not in found)
        return None if silent else rfc3339(now)

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


def _told(partitions: Sequence[TopicPartition]) -> str:
    return ",".join(f"{tp.topic}/{tp.partition}" for tp in partitions[:8]) + (",..." if len(partitions) > 8 else "")
