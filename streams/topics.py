"""Every topic of the hub: its name, partitions, clean-up and who writes it.

| topic                  | writer            | partitions | clean-up | holds                                     |
|------------------------|-------------------|------------|----------|-------------------------------------------|
| `<p>.changes`          | ingest            | n          | delete   | changes                                   |
| `<p>.latest`           | ingest            | n          | compact  | newest change per key, for lookups        |
| `<p>.enriched`         | enrich            | n          | delete   | changes with answer and lookups           |
| `<p>.backfill`         | ingest            | n          | delete   | what is read before a source has caught up |
| `<p>.backfill-enriched` | enrich           | n          | delete   | the same with answer and lookups          |
| `<p>.parked`           | writeback         | n          | compact  | events that wait behind one of their key  |
| `<p>.intents`          | writeback         | n          | compact  | calls of class `none`, before they are made |
| `<p>.receipts`         | enrich, writeback | n          | delete   | what became of each event                 |
| `<p>.dead`             | all               | 1          | delete   | events refused for good                   |
| `<p>.review`           | enrich            | 1          | delete   | events that wait for a person             |
| `crossdock.offsets`    | ingest            | 64         | compact  | source offsets                            |
| `crossdock.tasks`      | nobody            | 64         | delete   | ownership of source tasks                 |
| `crossdock.control`    | CLI, workers      | 1          | compact  | commands, pauses, state of credentials    |
"""

import zlib
from dataclasses import dataclass, replace
from datetime import timedelta

OWNERSHIP_PARTITIONS = 64
MAX_CHANGE = 1 << 20
"""Bytes of a change's value; a larger row becomes a dead letter at ingest."""

_WEEK = timedelta(days=7)
_AUDIT = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it must be."""

    name: str
    partitions: int
    compacted: bool = False
    retention: timedelta = _WEEK
    max_message: int = 1 << 20

    @property
    def settings(self) -> dict[str, str]:
        """Kafka's own settings."""
        common = {"max.message.bytes": str(self.max_message + 65_536)}
        if self.compacted:
            return common | {"cleanup.policy": "compact", "segment.bytes": str(16 << 20)}
        return common | {"cleanup.policy": "delete", "retention.ms": str(int(self.retention.total_seconds() * 1000))}


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a pipeline's topics keep their records."""

    changes: timedelta = _WEEK
    enriched: timedelta = _WEEK
    receipts: timedelta = _AUDIT
    dead: timedelta = _AUDIT
    review: timedelta = _AUDIT


DEFAULT = Retention()


@dataclass(frozen=True, slots=True)
class PipelineTopics:
    """The topics of one pipeline."""

    changes: Topic
    backfill: Topic
    latest: Topic
    enriched: Topic
    backfill_enriched: Topic
    parked: Topic
    intents: Topic
    receipts: Topic
    dead: Topic
    review: Topic

    @classmethod
    def of(cls, prefix: str, pipeline: str, partitions: int, retention: Retention = DEFAULT) -> "PipelineTopics":
        """`retention` matters only to those who make topics, or watch over them."""
        stem, changes, enriched = f"{prefix}.{pipeline}", retention.changes, retention.enriched
        return cls(
            changes=Topic(f"{stem}.changes", partitions, retention=changes),
            backfill=Topic(f"{stem}.backfill", partitions, retention=changes),
            latest=Topic(f"{stem}.latest", partitions, compacted=True),
            enriched=Topic(f"{stem}.enriched", partitions, retention=enriched, max_message=2 << 20),
            backfill_enriched=Topic(f"{stem}.backfill-enriched", partitions, retention=enriched, max_message=2 << 20),
            parked=Topic(f"{stem}.parked", partitions, compacted=True, max_message=2 << 20),
            intents=Topic(f"{stem}.intents", partitions, compacted=True),
            receipts=Topic(f"{stem}.receipts", partitions, retention=retention.receipts),
            dead=Topic(f"{stem}.dead", 1, retention=retention.dead, max_message=4 << 20),
            review=Topic(f"{stem}.review", 1, retention=retention.review, max_message=2 << 20),
        )

    @property
    def to_enrich(self) -> tuple[Topic, Topic]:
        """What enrich reads: live, and backfill."""
        return self.changes, self.backfill

    @property
    def to_write(self) -> tuple[Topic, Topic]:
        """What write-back reads: live, and backfill."""
        return self.enriched, self.backfill_enriched

    @property
    def expiring(self) -> tuple[Topic, ...]:
        """What must be read before it expires."""
        return (*self.to_enrich, *self.to_write)

    @property
    def audited(self) -> tuple[Topic, ...]:
        """What must be archived before it expires."""
        return self.receipts, self.dead, self.review

    @property
    def in_backfill(self) -> "PipelineTopics":
        """The same pipeline as its backfill sees it: what is enriched goes on in the backfill."""
        return replace(self, enriched=self.backfill_enriched)

    def all(self) -> list[Topic]:
        return [
            self.changes,
            self.backfill,
            self.latest,
            self.enriched,
            self.backfill_enriched,
            self.parked,
            self.intents,
            self.receipts,
            self.dead,
            self.review,
        ]


@dataclass(frozen=True, slots=True)
class HubTopics:
    """The topics that all pipelines share."""

    offsets: Topic
    tasks: Topic
    control: Topic

    @classmethod
    def of(cls, prefix: str) -> "HubTopics":
        return cls(
            offsets=Topic(f"{prefix}.crossdock.offsets", OWNERSHIP_PARTITIONS, compacted=True),
            tasks=Topic(f"{prefix}.crossdock.tasks", OWNERSHIP_PARTITIONS),
            control=Topic(f"{prefix}.crossdock.control", 1, compacted=True),
        )

    def all(self) -> list[Topic]:
        return [self.offsets, self.tasks, self.control]


def partition_of(key: bytes, partitions: int) -> int:
    """CRC32 of the key (librdkafka's `consistent`): C speed, and every client can compute it."""
    return zlib.crc32(key) % partitions


def ownership_partition(task: str) -> int:
    """The partition of `crossdock.tasks` whose owner runs this task; also its partition of `crossdock.offsets`."""
    return partition_of(task.encode(), OWNERSHIP_PARTITIONS)


def enrich_group(prefix: str, worker_group: str) -> str:
    return f"{prefix}.crossdock.enrich.{worker_group}"


def write_group(prefix: str, system: str) -> str:
    return f"{prefix}.crossdock.write.{system}"


def tasks_group(prefix: str) -> str:
    return f"{prefix}.crossdock.tasks"
