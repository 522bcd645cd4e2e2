"""Reading compacted topics without a group: the newest value per key, or one key's newest value."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from mode import Service

from schemas.codec import Undecodable
from streams.runtime import insides
from streams.runtime.kafka import Kafka, stop_quietly
from streams.runtime.lasting import Lasting
from streams.topics import Topic


async def newest_value(kafka: Kafka, topic: Topic, partition: int, key: bytes) -> bytes | None:
    """The last committed value of one key; None if there is none or it was deleted.

    Call it for a source offset only after the task was taken over: then no older owner can change it any more.
    """
    consumer = kafka.viewer()
    await consumer.start()
    try:
        tp = TopicPartition(topic.name, partition)
        consumer.assign([tp])
        found: bytes | None = None
        async for record in _to_the_end(consumer, tp):
            if record.key == key:
                found = record.value
        return found
    finally:
        await stop_quietly(consumer)


async def _to_the_end(consumer: AIOKafkaConsumer, tp: TopicPartition) -> Any:
    end = (await consumer.end_offsets([tp]))[tp]
    await consumer.seek_to_beginning(tp)
    while await consumer.position(tp) < end:
        insides.check_errors(consumer)
        for records in (await consumer.getmany(tp, timeout_ms=500)).values():
            for record in records:
                yield record


class Follower(Lasting):
    """Follows all partitions of a compacted topic from the beginning, for as long as the worker lives."""

    def __init__(self, kafka: Kafka, topic: Topic, take: Callable[[ConsumerRecord], None], **kwargs: Any) -> None:
        """`take` raises Undecodable for a record that it cannot read, which is passed over."""
        super().__init__(**kwargs)
        self._kafka, self._topic, self._take = kafka, topic, take
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
