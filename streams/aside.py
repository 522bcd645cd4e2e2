"""What of a partition stands aside: parked events, and calls in doubt. Known before the first delivery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connectors.clock import Clock
from streams import intents, parking
from streams.intents import Intents
from streams.parking import Parked
from streams.runtime.compacted import newest_of
from streams.runtime.kafka import ConsumerRecord, Kafka, TopicPartition
from streams.topics import PipelineTopics

DOUBTS_EVERY = 5.0
"""Seconds between two looks for a person's verdict."""


@dataclass(frozen=True, slots=True)
class StandingAside:
    """What of one partition stands aside, by write-back. Known before the first delivery, and the lane's own."""

    parked: Mapping[str, Parked]
    intents: Mapping[str, Intents]

    def next_due(self, clock: Clock) -> float | None:
        """When something of it is to be looked at though nothing new came, in seconds of the clock's `monotonic()`."""
        moments = [moment for each in self.parked.values() if (moment := each.next_due()) is not None]
        if any(each.in_doubt for each in self.intents.values()):
            moments.append(clock.monotonic() + DOUBTS_EVERY)
        return min(moments, default=None)


class PartitionsAside:
    """What stands aside of the partitions that this worker writes back into one system."""

    def __init__(self, names: Mapping[PipelineTopics, Sequence[str]], kafka: Kafka, clock: Clock) -> None:
        """`names` are those of the write-backs, by their pipeline's topics."""
        self._kafka, self._clock, self._names = kafka, clock, names
        self._topics = {topic.name: topics for topics in names for topic in topics.to_write}
        self._of: dict[TopicPartition, StandingAside] = {}

    @property
    def count(self) -> int:
        """Events that are parked."""
        distinct = {id(each): each for each in self._of.values()}
        return sum(len(parked) for each in distinct.values() for parked in each.parked.values())

    def of(self, tp: TopicPartition) -> StandingAside:
        return self._of[tp]

    def next_due(self, tp: TopicPartition) -> float | None:
        return self._of[tp].next_due(self._clock)

    async def load(self, partitions: Sequence[TopicPartition]) -> None:
        """Live and backfill of one partition share what stands aside of it: it is the same records'."""
        numbers = {(self._topics[tp.topic], tp.partition) for tp in partitions}
        wanted = [
            TopicPartition(topic.name, number)
            for topics, number in numbers
            for topic in (topics.parked, topics.intents)
        ]
        records = await newest_of(self._kafka, wanted)
        found = {(topics, number): self._found(topics, number, records) for topics, number in numbers}
        self._of = {tp: found[self._topics[tp.topic], tp.partition] for tp in partitions}

    def _found(
        self,
        topics: PipelineTopics,
        number: int,
        records: Mapping[TopicPartition, Mapping[bytes, ConsumerRecord]],
    ) -> StandingAside:
        names = self._names[topics]
        parked = records[TopicPartition(topics.parked.name, number)]
        begun = records[TopicPartition(topics.intents.name, number)]
        return StandingAside(
            parking.found(names, topics.parked, number, parked, self._clock),
            intents.found(names, topics.intents, number, begun),
        )
