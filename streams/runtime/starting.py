"""Where a reader starts in each partition: the question, and the answer of Kafka's commits alone."""

from collections.abc import Collection, Mapping
from typing import Protocol

from streams.runtime.kafka import Consumer, TopicPartition


class Starting(Protocol):
    """What a reader asks at each assignment, and tells after each commit. Raises KafkaError and TimeoutError."""

    async def begin(
        self, consumer: Consumer, committed: Mapping[TopicPartition, int | None]
    ) -> dict[TopicPartition, int]:
        """Where to read each of these partitions from; those that are not in it are not read."""
        ...

    def asked(self, partitions: Collection[TopicPartition]) -> set[TopicPartition]:
        """Those of them that are wanted elsewhere: `begin` will say where."""
        ...

    async def tell(self, committed: Mapping[TopicPartition, int], *, last: bool = False) -> set[TopicPartition]:
        """Takes note of what was committed; returns those of them that must be begun anew."""
        ...


class AtTheCommit:
    """From the commit, else from the beginning."""

    async def begin(
        self, consumer: Consumer, committed: Mapping[TopicPartition, int | None]
    ) -> dict[TopicPartition, int]:
        fresh = [tp for tp, offset in committed.items() if not offset]
        begins: dict[TopicPartition, int] = await consumer.beginning_offsets(fresh) if fresh else {}
        return {tp: offset or begins[tp] for tp, offset in committed.items()}

    def asked(self, partitions: Collection[TopicPartition]) -> set[TopicPartition]:  # noqa: ARG002
        return set()

    async def tell(self, committed: Mapping[TopicPartition, int], *, last: bool = False) -> set[TopicPartition]:  # noqa: ARG002
        return set()
