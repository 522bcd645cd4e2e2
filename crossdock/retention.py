"""The watch over retention, wired: its task in the workers, and what it asks of Kafka."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from connectors.clock import Clock
from connectors.errors import Retriable
from crossdock.configuration.load import Configuration
from streams.control import Control
from streams.retention import RetentionWatch, Unread
from streams.runtime.ownership import Body
from streams.topics import Topic, enrich_group, write_group

if TYPE_CHECKING:
    from streams.admin import Admin

log = logging.getLogger("crossdock.retention")

TASK = "crossdock.retention"


def correct_retention(admin: "Admin", topics: Sequence[Topic]) -> None:
    """Lengthens what is shorter than the files say, and says so.

    A start is not refused for it: while the hub does not run, the records expire all the same, and to keep them longer
    loses nothing. What is longer is left: a person or the watch has made it so, and to shorten it deletes records.
    """
    real = admin.retentions([topic.name for topic in topics if not topic.compacted])
    for topic in topics:
        declared = topic.retention.total_seconds()
        if real.get(topic.name, declared) < declared:
            admin.set_retention(topic.name, declared)
            log.warning(
                "retention.corrected topic=%s was_days=%.1f days=%.1f (somebody had shortened it)",
                topic.name,
                real[topic.name] / 86400,
                declared / 86400,
            )


def watching(configuration: Configuration, control: Control, clock: Clock) -> Body:
    """The life of the watch's owner."""
    topics = [configuration.topics(name) for name in configuration.pipelines]

    async def run(stop: asyncio.Event) -> None:
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retention")
        try:
            await RetentionWatch(KafkaLook(configuration, clock), topics, control, thread, clock).run(stop)
        finally:
            thread.shutdown(wait=False)  # a call in hand must not hold the loop

    return run


@dataclass(frozen=True, slots=True)
class KafkaLook:
    """`streams.retention.Look`. Each question is a connection of its own: there is one in a minute."""

    configuration: Configuration
    clock: Clock

    def unread(self) -> list[Unread]:
        with self._asked() as admin:
            return [each for found in self._groups() for each in self._of_group(admin, *found)]

    def _of_group(self, admin: "Admin", pipeline: str, group: str, topics: list[str]) -> Iterator[Unread]:
        kept = admin.retentions(topics)
        now = self.clock.now().timestamp()
        for (topic, partition), moment in admin.oldest_unread(group, topics).items():
            if topic in kept:
                yield Unread(pipeline, group, topic, partition, max(0.0, now - moment), kept[topic])

    def set_retention(self, topic: str, seconds: float) -> None:
        with self._asked() as admin:
            admin.set_retention(topic, seconds)

    def _groups(self) -> list[tuple[str, str, list[str]]]:
        """Pipeline, group, and what the group reads of it."""
        hub, found = self.configuration.hub, []
        for name, pipeline in self.configuration.pipelines.items():
            topics = self.configuration.topics(name)
            found.append((name, enrich_group(hub.kafka.prefix, hub.worker_group), [t.name for t in topics.to_enrich]))
            written = [t.name for t in topics.to_write]
            systems = sorted({block.system for block in pipeline.writeback})
            found += [(name, write_group(hub.kafka.prefix, system), written) for system in systems]
        return found

    @contextmanager
    def _asked(self) -> Iterator["Admin"]:
        """Raises Retriable for whatever Kafka's client says while the broker is away."""
        from kafka.errors import KafkaError

        from streams.admin import Admin

        kafka = self.configuration.hub.kafka
        try:
            with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
                yield admin
        except KafkaError as error:
            raise Retriable("Kafka does not answer", detail=repr(error)) from error
