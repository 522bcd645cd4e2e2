"""Everything that a comparison asks: the files, Kafka, the index, the source and the sinks of one pipeline."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.buckets import without_cause
from connectors.clock import Clock
from connectors.config import WritebackConfig
from connectors.contract import Comparable, Passed, Rereadable, SinkTask, Source, System
from connectors.errors import ConfigError, Retriable
from crossdock.configuration.load import Configuration, load_from_environment
from crossdock.configuration.pipeline import PipelineConfig
from crossdock.index import catch_up, opened
from crossdock.operator import records
from crossdock.reconcile.sides import LatestChanges
from crossdock.sources import source_of
from schemas.change import Change, canonical_key
from schemas.codec import encode_change
from schemas.control import ControlRecord, Verified, control_key
from schemas.event import headers_of
from schemas.values import Key, rfc3339
from streams.admin import Admin
from streams.control import outgoing
from streams.index.database import IndexDatabase
from streams.index.find import source_offset
from streams.offsets import in_hub
from streams.runtime.kafka import Kafka
from streams.runtime.publisher import Outgoing, Publisher
from streams.topics import HubTopics, PipelineTopics

LOOK = 60.0
"""Seconds that a look at some records may take."""


@dataclass(frozen=True, slots=True)
class Hub:
    """One pipeline of a hub, from outside."""

    configuration: Configuration
    pipeline: PipelineConfig
    topics: PipelineTopics
    admin: Admin
    database: IndexDatabase
    systems: dict[str, System]
    source: Source
    key: tuple[str, ...]
    latest: LatestChanges
    clock: Clock

    @property
    def rereadable(self) -> Rereadable | None:
        """The source, where it can be asked itself."""
        source, tasks = self.source, self.source.tasks()
        return source if isinstance(source, Rereadable) and isinstance(source, Comparable) and len(tasks) == 1 else None

    @property
    def source_side(self) -> Comparable:
        if self.rereadable is None:
            return self.latest
        assert isinstance(self.source, Comparable)
        return self.source

    def passed(self) -> Passed:
        """How far the source was read.

        Raises:
            Retriable: nothing was read yet.
        """
        if self.rereadable is None:
            return Passed("", rfc3339(self.clock.now()))
        topic, (task,) = HubTopics.of(self.configuration.hub.kafka.prefix).offsets.name, self.source.tasks()
        stored = source_offset(self.database, topic, in_hub(self.pipeline.name, task).name)
        offset = None if stored is None else json.loads(stored)
        found = None if offset is None else self.rereadable.passed(offset, self.clock.monotonic() + LOOK)
        if found is None:
            raise Retriable(f"nothing of {task.name} was read yet; `crossdock run` starts a worker")
        return found

    def versions(self, keys: Sequence[Key]) -> list[str | None]:
        """What the source holds of each record now, without the cause; None = it has no such record."""
        if self.rereadable is not None:
            found = self.rereadable.reread(keys, self.clock.monotonic() + LOOK)
            return [None if change is None else without_cause(change.version) for change in found]
        return self.latest.versions(keys)

    def sink(self, block: WritebackConfig) -> SinkTask:
        """A sink that is open."""
        found = self.systems[block.system].sink(block, prefix=self.configuration.hub.kafka.prefix)
        found.open()
        return found

    def catch_up(self) -> None:
        """The index holds all that is on Kafka now."""
        self.latest.again()
        catch_up(self.configuration, self.database)

    def verified(self, block: WritebackConfig) -> str | None:
        """Up to when a write-back was verified at an earlier time."""
        known = records(self.admin, self.configuration.hub.kafka.prefix)
        found = known.get(control_key(Verified, f"{self.pipeline.name}/{block.name or block.system}"))
        return found.through if isinstance(found, Verified) else None

    def tell(self, record: ControlRecord) -> None:
        made = outgoing(record)
        assert made.key is not None
        self.admin.append(HubTopics.of(self.configuration.hub.kafka.prefix).control.name, [(made.key, made.value)])

    def ask_again(self, keys: Sequence[Key]) -> int:
        """Sends the present version of these records once more, under the ids that they have; says how many.

        Raises:
            ConfigError: the source cannot be asked for single records.
        """
        if self.rereadable is None:
            raise ConfigError(
                f"{self.pipeline.source.system} cannot be asked for single records; `crossdock offsets set` reads all "
                "of it again from a time on"
            )
        found = self.rereadable.reread(keys, self.clock.monotonic() + LOOK)
        asyncio.run(self._publish([change for change in found if change is not None]))
        return sum(1 for change in found if change is not None)

    async def _publish(self, changes: Sequence[Change]) -> None:
        kafka, config = self.configuration.hub.kafka, self.pipeline.digest.encode()
        publisher = Publisher(Kafka(kafka.bootstrap, client_id="crossdock-reconcile", security=kafka.security()))
        await publisher.start()
        try:
            made = [
                Outgoing(canonical_key(each.key), encode_change(each), headers_of(each, config)) for each in changes
            ]
            await publisher.publish({self.topics.changes: made})
        finally:
            await publisher.stop()


@contextlib.contextmanager
def hub_of(folder: Path, name: str, clock: Clock) -> Iterator[Hub]:
    """One pipeline, with the index up to date.

    Raises:
        ConfigError: there is no such pipeline, or its source names no key.
        Retriable: Kafka or the index does not answer.
    """
    configuration = load_from_environment(folder)
    pipeline = configuration.pipeline(name)
    key = tuple(getattr(pipeline.source, "key", ()))
    if not key:
        raise ConfigError(f"the source of {name} names no `key:`, and records are compared by their keys")
    kafka = configuration.hub.kafka
    topics = configuration.topics(name)
    with (
        Admin(kafka.bootstrap, kafka.admin_security()) as admin,
        opened(configuration) as database,
        contextlib.ExitStack() as systems_in_use,
    ):
        catch_up(configuration, database)
        wanted = {pipeline.source.system, *(block.system for block in pipeline.writeback)}
        systems = {each: configuration.systems[each].build(clock) for each in sorted(wanted)}
        for system in systems.values():
            systems_in_use.callback(system.close)
        source, latest = source_of(configuration, systems, pipeline.source), LatestChanges(admin, topics)
        yield Hub(configuration, pipeline, topics, admin, database, systems, source, key, latest, clock)
