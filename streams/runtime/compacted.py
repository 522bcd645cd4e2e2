"""Reading topics without a group: the newest value of each key, once, or for as long as a worker lives."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from mode import Service

from schemas.codec import Undecodable
from streams.runtime import insides
from streams.runtime.kafka import Kafka, stop_quietly
from streams.runtime.lasting import Lasting
from streams.runtime.pulse import beat
from streams.topics import Topic

log = logging.getLogger("crossdock.streams.compacted")


class TopicMissing(Exception):
    """Kafka has no such topic."""


async def newest_values(
    kafka: Kafka, topic: Topic, partition: int, wanted: Callable[[bytes], bool]
) -> dict[bytes, bytes]:
    """The last committed value of each wanted key of a partition; keys that were deleted are not in it.

    Call it for a source offset only after the task was taken over: then no older owner can change it any more.

    Raises:
        KafkaError: Kafka does not answer.
        TopicMissing: there is no such topic.
    """
    found: dict[bytes, ConsumerRecord] = {}
    async for record in committed(kafka, [TopicPartition(topic.name, partition)]):
        if record.key is not None and wanted(record.key):
            _keep(found, record)
    return {key: record.value for key, record in found.items()}


async def newest_of(
    kafka: Kafka, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, dict[bytes, ConsumerRecord]]:
    """The last committed record of every key that was not deleted. Waits for as long as the broker is away."""
    while True:
        found: dict[TopicPartition, dict[bytes, ConsumerRecord]] = {tp: {} for tp in partitions}
        try:
            async for record in committed(kafka, partitions):
                _keep(found[TopicPartition(record.topic, record.partition)], record)
        except (KafkaError, TopicMissing) as error:
            log.warning("compacted.interrupted error=%r", error)
            await asyncio.sleep(1.0)
        else:
            return found


def _keep(found: dict[bytes, ConsumerRecord], record: ConsumerRecord) -> None:
    if record.value is None:
        found.pop(record.key, None)
    else:
        found[record.key] = record


async def committed(kafka: Kafka, partitions: Sequence[TopicPartition]) -> AsyncGenerator[ConsumerRecord, None]:
    """The committed records of these partitions, up to where they end now; each partition in its order.

    It waits for the transactions that are open before that end: what is committed behind them would else not be seen.

    Raises:
        KafkaError: Kafka does not answer.
        TopicMissing: there is no such topic.
    """
    left = await _not_empty(kafka, partitions)
    if not left:
        return
    consumer = kafka.viewer()
    try:
        await consumer.start()
        consumer.assign(list(left))
        await consumer.seek_to_beginning(*left)
        while left:
            insides.check_errors(consumer)
            beat()
            for tp, records in (await consumer.getmany(*left, timeout_ms=500)).items():
                for record in records:
                    if record.offset < left[tp]:
                        yield record
            left = {tp: end for tp, end in left.items() if await consumer.position(tp) < end}
    finally:
        await stop_quietly(consumer)


async def _not_empty(kafka: Kafka, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """Where those end that hold anything, open transactions included."""
    consumer = kafka.viewer(committed=False)
    try:
        await consumer.start()
        there = await consumer.topics()  # to ask for the end of a topic that is not there would wait for ever
        for tp in partitions:
            if tp.topic not in there:
                raise TopicMissing(f"the topic {tp.topic} is missing")
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        return {tp: end for tp, end in ends.items() if end > begins[tp]}
    finally:
        await stop_quietly(consumer)


class Follower(Lasting):
    """Follows all partitions of a topic from the beginning, or from its end; for as long as the worker lives."""

    def __init__(
        self, kafka: Kafka, topic: Topic, take: Callable[[ConsumerRecord], None], *, at_end: bool = False, **kwargs: Any
    ) -> None:
        """`take` raises Undecodable for a record that it cannot read, which is passed over."""
        super().__init__(**kwargs)
        self._kafka, self._topic, self._take, self._at_end = kafka, topic, take, at_end
        self._consumer: AIOKafkaConsumer | None = None
        self.caught_up = asyncio.Event()
        self.moved = asyncio.Event()
        """Set and replaced each time something new was taken."""

    @property
    def label(self) -> str:
        return f"follower {self._topic.name}"

    async def on_start(self) -> None:
        self._consumer = self._kafka.viewer()
        await self._consumer.start()
        self._consumer.assign([TopicPartition(self._topic.name, n) for n in range(self._topic.partitions)])
        if self._at_end:
            await self._consumer.seek_to_end()

    async def on_stop(self) -> None:
        if self._consumer is not None:
            await stop_quietly(self._consumer)

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow(self) -> None:
        assert self._consumer is not None
        ends: dict[TopicPartition, int] | None = None
        while not self.should_stop:
            try:
                insides.check_errors(self._consumer)
                if ends is None:
                    ends = await self._consumer.end_offsets(self._consumer.assignment())
                found = await self._consumer.getmany(timeout_ms=500)
                for records in found.values():
                    for record in records:
                        self._take_one(record)
                if found:
                    moved, self.moved = self.moved, asyncio.Event()
                    moved.set()
                if not self.caught_up.is_set():
                    await self._look_whether_caught_up(ends)
            except KafkaError as error:
                self.log.warning("follower.interrupted topic=%s error=%r", self._topic.name, error)
                await self.sleep(1.0)

    def _take_one(self, record: ConsumerRecord) -> None:
        """One record that nobody can read must not keep every worker from starting."""
        try:
            self._take(record)
        except Undecodable as error:
            self.log.error(
                "follower.unreadable topic=%s partition=%d offset=%d reason=%s (passed over)",
                record.topic,
                record.partition,
                record.offset,
                error,
            )

    async def _look_whether_caught_up(self, ends: dict[TopicPartition, int]) -> None:
        assert self._consumer is not None
        for tp, end in ends.items():
            if await self._consumer.position(tp) < end:
                return
        self.caught_up.set()
