"""Reading topics from positions that the caller keeps, without a group: what reads so never holds anybody up."""

from collections.abc import Mapping, Sequence
from types import TracebackType

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from streams.runtime.kafka import Kafka, stop_quietly
from streams.topics import Topic


class Tail:
    """`async with Tail(kafka, topics) as tail: tail.seek(...); await tail.read(...)`."""

    def __init__(self, kafka: Kafka, topics: Sequence[Topic], only: TopicPartition | None = None) -> None:
        """`only`: this partition of them."""
        self._consumer: AIOKafkaConsumer = kafka.viewer()
        every = [TopicPartition(topic.name, n) for topic in topics for n in range(topic.partitions)]
        self.partitions = every if only is None else [only]

    async def __aenter__(self) -> "Tail":
        try:
            await self._consumer.start()
        except BaseException:
            await stop_quietly(self._consumer)
            raise
        self._consumer.assign(self.partitions)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await stop_quietly(self._consumer)

    async def begins(self) -> dict[TopicPartition, int]:
        """The first offset that each partition still has."""
        found: dict[TopicPartition, int] = await self._consumer.beginning_offsets(self.partitions)
        return found

    async def ends(self) -> dict[TopicPartition, int]:
        """The offset after the last committed record of each partition."""
        found: dict[TopicPartition, int] = await self._consumer.end_offsets(self.partitions)
        return found

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        for tp, position in positions.items():
            self._consumer.seek(tp, position)

    async def read(self, limit: int, seconds: float) -> dict[TopicPartition, list[ConsumerRecord]]:
        """At most `limit` records; empty when nothing came within that time."""
        found: dict[TopicPartition, list[ConsumerRecord]] = await self._consumer.getmany(
            timeout_ms=int(seconds * 1000), max_records=limit
        )
        return {tp: records for tp, records in found.items() if records}

    async def positions(self) -> dict[TopicPartition, int]:
        """What is read next, markers of transactions passed."""
        return {tp: await self._consumer.position(tp) for tp in self.partitions}

    def behind(self, tp: TopicPartition, position: int) -> bool:
        """Whether more is there than that, as far as the last answer of the broker told."""
        end = self._consumer.last_stable_offset(tp)
        return end is not None and position < end
