"""The control plane: topics, lag, and looking into topics from outside. The one place that uses kafka-python."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import CoordinatorNotAvailableError, KafkaError, UnknownTopicOrPartitionError

from connectors.errors import ConfigError, Retriable
from streams.topics import Topic

logging.getLogger("kafka").setLevel(logging.ERROR)

_LOOKS = 20
"""Polls after which a partition that gave nothing is left for the next time."""
_FOR_EVER = 1e12


class Position(NamedTuple):
    """Where a group stands in one topic, summed over its partitions."""

    committed: int
    end: int

    @property
    def behind(self) -> int:
        return max(0, self.end - self.committed)


class Span(NamedTuple):
    """What one partition holds: the first offset that is still there, and the one after the last."""

    begin: int
    end: int


class GroupPlace(NamedTuple):
    """Where a group stands in one partition."""

    committed: int | None
    low: int
    high: int
    topic_id: str


class Admin:
    """`with Admin(bootstrap) as admin:`; every call is short and blocking.

    Raises:
        Retriable: no broker answers at that address.
    """

    def __init__(self, bootstrap: str, security: Mapping[str, Any] | None = None) -> None:
        self._arguments: dict[str, Any] = {"bootstrap_servers": bootstrap, **(security or {})}
        try:
            self._client = KafkaAdminClient(request_timeout_ms=15_000, **self._arguments)
        except KafkaError as error:
            raise Retriable(f"no Kafka broker answers at {bootstrap}", detail=repr(error)) from error

    def __enter__(self) -> "Admin":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def ensure(self, topics: Sequence[Topic]) -> list[str]:
        """Creates what is missing and checks what is there. Returns the names that were created.

        Raises:
            ConfigError: a topic has another number of partitions: changing it in place would break the order per key.
        """
        present = {found["name"]: found for found in self._describe(None)}
        missing = {topic.name: topic for topic in topics if topic.name not in present}
        if missing:
            self._client.create_topics(
                {
                    topic.name: {
                        "num_partitions": topic.partitions,
                        "replication_factor": -1,
                        "configs": topic.settings,
                    }
                    for topic in missing.values()
                },
                raise_errors=False,  # another worker may be creating them at this moment
            )
            self._client.wait_for_topics(list(missing), timeout_ms=30_000)
        for topic in topics:
            found = present.get(topic.name)
            if found is not None and len(found["partitions"]) != topic.partitions:
                raise ConfigError(
                    f"the topic {topic.name} has {len(found['partitions'])} partitions, and the configuration says "
                    f"{topic.partitions}; put `kafka: partitions` back, or start with a new `prefix`"
                )
        return sorted(missing)

    def remove(self, prefix: str) -> list[str]:
        """Deletes all topics of a hub, with all that is in them. Returns their names.

        Raises:
            Retriable: Kafka did not delete all of them.
        """
        names = sorted(found["name"] for found in self._describe(None) if found["name"].startswith(f"{prefix}."))
        try:
            if names:
                self._client.delete_topics(names)
        except KafkaError as error:
            raise Retriable(f"Kafka does not delete the topics of {prefix}", detail=repr(error)) from error
        return names

    def retentions(self, topics: Sequence[str]) -> dict[str, float]:
        """Seconds that each of these topics really keeps its records; compacted and missing ones are left out."""
        present = {found["name"] for found in self._describe(None)}
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics if name in present]
        try:
            found = self._client.describe_configs(asked, config_filter="all")["topic"] if asked else {}
        except KafkaError as error:
            raise Retriable("Kafka does not tell how long its topics keep records", detail=repr(error)) from error
        kept = {name: settings for name, settings in found.items() if settings["cleanup.policy"]["value"] == "delete"}
        return {name: _seconds(settings["retention.ms"]["value"]) for name, settings in kept.items()}

    def set_retention(self, topic: str, seconds: float) -> None:
        """Changes that one setting of a topic, and no other.

        Raises:
            Retriable: Kafka refused or did not answer.
        """
        changed = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": str(round(seconds * 1000))})
        try:
            self._client.alter_configs([changed], incremental=True)
        except KafkaError as error:
            raise Retriable(f"the retention of {topic} could not be changed", detail=repr(error)) from error

    def oldest_unread(self, group: str, topics: Sequence[str]) -> dict[tuple[str, int], float]:
        """When the oldest record was appended that a group has not passed yet, for each partition that has any."""
        found: dict[tuple[str, int], float] = {}
        for topic in topics:
            with self._unread(group, topic) as (consumer, ends):
                left = ends
                for _ in range(_LOOKS if ends else 0):
                    for tp, records in consumer.poll(timeout_ms=500, max_records=500).items():
                        found.setdefault((tp.topic, tp.partition), records[0].timestamp / 1000)
                        consumer.pause(tp)
                    seen = {tp for tp in left if tuple(tp) in found or consumer.position(tp) >= left[tp]}
                    left = {tp: end for tp, end in left.items() if tp not in seen}
        return found

    def positions(self, group: str, topics: Sequence[str]) -> dict[str, Position]:
        """Committed offset and end of each topic. What a group has not committed counts from the beginning."""
        ends = self._ends(topics)
        committed = self._committed(group, list(ends))
        found: dict[str, Position] = {topic: Position(0, 0) for topic in topics}
        for tp, end in ends.items():
            before = found[tp.topic]
            found[tp.topic] = Position(before.committed + committed.get(tp, 0), before.end + end)
        return found

    def places(self, group: str, topic: str) -> dict[int, "GroupPlace"]:
        """Where a group stands in each partition of a topic; nothing if the topic is not there."""
        found = self._describe([topic])
        if not found:
            return {}
        topic_id = found[0]["topic_id"]
        partitions = [TopicPartition(topic, each["partition_index"]) for each in found[0]["partitions"]]
        lows = self._client.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        highs = self._client.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        committed = self._committed(group, partitions)
        return {
            tp.partition: GroupPlace(committed.get(tp), lows[tp].offset, highs[tp].offset, str(topic_id))
            for tp in partitions
        }

    def newest(self, topic: str) -> dict[bytes, bytes]:
        """The newest value of each key of a compacted topic."""
        found: dict[bytes, bytes] = {}
        for record in self.read(topic):
            if record.value is None:
                found.pop(record.key, None)
            else:
                found[record.key] = record.value
        return found

    def _committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        if not partitions:
            return {}  # no worker has made the topics yet
        try:
            found = self._client.list_group_offsets({group: list(partitions)})[group]
        except CoordinatorNotAvailableError:
            return {}  # a new cluster: nobody has committed anything yet
        except KafkaError as error:
            raise Retriable(f"Kafka does not tell where {group} stands", detail=repr(error)) from error
        return {tp: at.offset for tp, at in found.items() if at is not None and at.offset >= 0}

    def size(self, topic: str) -> int:
        """Records ever appended to a topic, markers of transactions included."""
        return sum(self._ends([topic]).values())

    def spans(self, topics: Sequence[str]) -> dict[tuple[str, int], Span]:
        """What each partition of these topics holds, by topic and number."""
        begins, ends = self._offsets(topics, OffsetSpec.EARLIEST), self._ends(topics)
        return {tuple(tp): Span(begins[tp], end) for tp, end in ends.items() if tp in begins}

    def _ends(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        return self._offsets(topics, OffsetSpec.LATEST)

    def _offsets(self, topics: Sequence[str], which: OffsetSpec) -> dict[TopicPartition, int]:
        partitions = [
            TopicPartition(found["name"], each["partition_index"])
            for found in self._describe(list(topics))
            for each in found["partitions"]
        ]
        if not partitions:
            return {}
        found = self._client.list_partition_offsets(dict.fromkeys(partitions, which))
        return {tp: found[tp].offset for tp in partitions}

    def read(self, topic: str, since: datetime | None = None) -> Iterator[Any]:
        """All committed records of a topic, up to its end at the time of the call; each has key, value, headers,
        partition, offset. A topic that does not exist has none. With `since`, only those appended from then on.
        """
        with self._reading(topic) as (consumer, partitions):
            if not partitions:
                return
            ends = consumer.end_offsets(partitions)
            if since is None:
                consumer.seek_to_beginning(*partitions)
            else:
                found = consumer.offsets_for_times(dict.fromkeys(partitions, int(since.timestamp() * 1000)))
                for tp in partitions:
                    consumer.seek(tp, ends[tp] if found.get(tp) is None else found[tp].offset)
            while any(consumer.position(tp) < end for tp, end in ends.items()):
                for tp, records in consumer.poll(timeout_ms=500, max_records=2000).items():
                    yield from (record for record in records if record.offset < ends[tp])

    def unread(self, group: str, topic: str) -> Iterator[Any]:
        """The committed records of a topic that a group has not passed yet, up to its end at the time of the call."""
        with self._unread(group, topic) as (consumer, ends):
            while any(consumer.position(tp) < end for tp, end in ends.items()):
                for tp, records in consumer.poll(timeout_ms=500, max_records=2000).items():
                    yield from (record for record in records if record.offset < ends[tp])

    @contextmanager
    def _unread(self, group: str, topic: str) -> Iterator[tuple[KafkaConsumer, dict[TopicPartition, int]]]:
        """A consumer at what a group has committed, and the ends of those partitions that hold more."""
        ends = self._ends([topic])
        try:
            committed = self._client.list_group_offsets({group: list(ends)})[group] if ends else {}
        except CoordinatorNotAvailableError:
            committed = {}
        except KafkaError as error:
            raise Retriable(f"Kafka does not tell where {group} stands", detail=repr(error)) from error
        at = {tp: max(0, committed[tp].offset) if tp in committed else 0 for tp in ends}
        with self._reading(topic) as (consumer, _):
            left = {tp: end for tp, end in ends.items() if at[tp] < end}
            consumer.assign(list(left))
            for tp in left:
                consumer.seek(tp, at[tp])
            yield consumer, left

    def at(self, topic: str, offset: int) -> Any | None:
        """The committed record at that offset of partition 0; None if it has expired or never was."""
        with self._reading(topic) as (consumer, partitions):
            tp = TopicPartition(topic, 0)
            if tp not in partitions:
                return None
            end = min(offset + 1, consumer.end_offsets([tp])[tp])
            consumer.seek(tp, offset)
            while consumer.position(tp) < end:
                for record in consumer.poll(timeout_ms=500, max_records=1).get(tp, []):
                    return record if record.offset == offset else None
            return None

    @contextmanager
    def _reading(self, topic: str) -> Iterator[tuple[KafkaConsumer, list[TopicPartition]]]:
        """A consumer without a group, with all partitions of the topic."""
        consumer = KafkaConsumer(
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            **self._arguments,
        )
        try:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(partitions)
            yield consumer, partitions
        finally:
            consumer.close()

    def append(self, topic: str, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Appends keys and values to partition 0 of a topic, and returns when all replicas have them.

        Raises:
            Retriable: Kafka did not take them; some may be there.
        """
        producer = KafkaProducer(acks="all", enable_idempotence=True, **self._arguments)
        try:
            sent = [producer.send(topic, key=key, value=value, partition=0) for key, value in records]
            for each in sent:
                each.get(timeout=30)
        except KafkaError as error:
            raise Retriable(f"Kafka did not take the records for {topic}", detail=repr(error)) from error
        finally:
            producer.close(timeout=5)

    def _describe(self, names: list[str] | None) -> list[dict[str, Any]]:
        try:
            return [
                {**found, "name": found.get("name", found.get("topic"))}
                for found in self._client.describe_topics(names)
                if found.get("error_code", 0) == 0
            ]
        except UnknownTopicOrPartitionError:
            return []

    def members(self, group: str) -> list[str]:
        """Instance ids of a group's members."""
        try:
            found = self._client.describe_groups([group])[group]
        except CoordinatorNotAvailableError:
            return []  # a new cluster: there is no group yet
        except KafkaError as error:
            raise Retriable(f"Kafka does not tell who is in {group}", detail=repr(error)) from error
        return sorted(member.get("group_instance_id") or member["member_id"] for member in found.get("members", []))


def _seconds(milliseconds: str) -> float:
    return _FOR_EVER if milliseconds == "-1" else int(milliseconds) / 1000
