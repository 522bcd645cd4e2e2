"""A worker: one process's share of the hub. The Faust app owns the agents; this service owns what feeds them.

```
ownership ── source tasks ──> <p>.changes
reader (enrich group) ── channel ── agent ── lanes ──> <p>.enriched
reader (one for each target system) ── channel ── agent ── lanes ──> the system, <p>.receipts
```
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from mode import Service

from connectors.clock import Clock
from connectors.errors import Retriable
from schemas.control import SystemState, WorkerState
from schemas.values import rfc3339
from streams.aside import PartitionsAside
from streams.backoff import backoff
from streams.commits import Commits
from streams.control import Control
from streams.credentials import CredentialHealth
from streams.enrich import enrich
from streams.gate import Gate
from streams.ingest import Ingest
from streams.pipeline import Pipeline
from streams.replay import TASK, Replayer
from streams.runtime.app import WorkerApp
from streams.runtime.compacted import Follower
from streams.runtime.kafka import ConsumerRecord, Kafka, TopicPartition
from streams.runtime.lanes import Backfill, Hold, Lanes, Rules, Work
from streams.runtime.lasting import Lasting
from streams.runtime.ownership import Body, Ownership
from streams.runtime.publisher import Outputs, Publisher
from streams.runtime.reader import Batch, Group, Reader
from streams.runtime.threads import Threads
from streams.runtime.watchdog import Watchdog
from streams.runtime.window import BATCH_RECORDS
from streams.topics import HubTopics, Topic, enrich_group, tasks_group, write_group
from streams.writeback import Writeback, write_back

log = logging.getLogger("crossdock.streams.worker")

ENRICH_DRAIN = 5.0
SOURCES_DRAIN = 5.0
TELL_EVERY = 2.0
GOODBYE = 2.0


@dataclass(frozen=True, slots=True)
class TargetSystem:
    """A system that is written to: its own consumer group, over all pipelines that write there."""

    system: str
    drain: float
    """Seconds: the longest that one call may take, so that no call outlives its partition."""
    gate: Gate
    writebacks: Mapping[str, Sequence[Writeback]]
    """By pipeline."""


@dataclass(frozen=True, slots=True)
class Parts:
    """All that a worker runs."""

    prefix: str
    worker_group: str
    instance: str
    kafka: Kafka
    clock: Clock
    publisher: Publisher
    control: Control
    pipelines: Sequence[Pipeline]
    targets: Sequence[TargetSystem]
    ingests: Sequence[Ingest]
    health: Sequence[CredentialHealth]
    tasks: Mapping[str, Body] = field(default_factory=dict)
    """What else one worker of the hub does for all: the index and the like."""
    threads: Sequence[Threads] = ()
    """In which connectors are called."""


class Worker(Lasting):
    """Starts in the order of the flow's end to its beginning, and stops the other way round."""

    def __init__(self, parts: Parts, app: WorkerApp, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._parts, self._app = parts, app
        self.publisher, self.control = parts.publisher, parts.control
        self.ownership = self._owning()
        self._asides = {target.system: self._aside_of(target) for target in parts.targets}
        self.readers = [self._enriching(), *(self._writing(target) for target in parts.targets)]
        self.watchdog = Watchdog(parts.kafka, parts.clock, self.readers, self.ownership, parts.threads)
        self._told: Mapping[str, SystemState] = {}

    @property
    def label(self) -> str:
        return "worker"

    async def on_start(self) -> None:
        await self.publisher.start()
        for follower in self._followers():
            await self.add_runtime_dependency(follower)
        for reader in self.readers:
            await self.add_runtime_dependency(reader)
        await self.add_runtime_dependency(self.ownership)
        await self.add_runtime_dependency(self.watchdog)

    async def on_stop(self) -> None:
        """Nothing is read any more; what is in hand may end; then the producer goes."""
        await asyncio.gather(self.ownership.stop(), *(reader.stop() for reader in self.readers))
        await self._say_goodbye()
        await asyncio.gather(self.publisher.stop(), *(follower.stop() for follower in self._followers()))

    @property
    def drain(self) -> float:
        """The longest of all groups, in seconds."""
        drains: list[float] = [each.group.drain for each in (self.ownership, *self.readers)]
        return max(drains)

    def hurry(self) -> None:
        """Told twice to end: nothing is waited for any more."""
        for each in (self.ownership, *self.readers):
            each.hurry.set()

    def _followers(self) -> Iterator[Follower]:
        yield self.control.follower
        for pipeline in self._parts.pipelines:
            yield from pipeline.lookups.followers

    async def _say_goodbye(self) -> None:
        if self._told:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.control.take_back(WorkerState, self._parts.instance), GOODBYE)

    @Service.timer(TELL_EVERY)  # type: ignore[untyped-decorator]
    async def _tell(self) -> None:
        """What this worker sees of the systems, for `crossdock status`: said when it changes."""
        seen = {
            target.system: msgspec.structs.replace(
                target.gate.state([each.target.writeback for found in target.writebacks.values() for each in found]),
                parked=self._asides[target.system].count,
            )
            for target in self._parts.targets
        }
        if seen != self._told:
            now = rfc3339(self._parts.clock.now())
            await self.control.put(WorkerState(instance=self._parts.instance, systems=seen, time=now))
            self._told = seen

    def _owning(self) -> Ownership:
        parts = self._parts
        group = Group(
            tasks_group(parts.prefix), (HubTopics.of(parts.prefix).tasks.name,), parts.instance, SOURCES_DRAIN
        )
        topics = {pipeline.name: pipeline.topics for pipeline in parts.pipelines}
        bodies = {ingest.task.name: ingest.run for ingest in parts.ingests}
        bodies |= {each.name: each.run for each in parts.health}
        bodies[TASK] = Replayer(parts.prefix, parts.kafka, topics, parts.clock).run
        watched = [ingest.task.name for ingest in parts.ingests]
        return Ownership(group, parts.kafka, parts.clock, bodies | dict(parts.tasks), watched)

    def _enriching(self) -> Reader:
        pipelines = {pipeline.topics.changes.name: pipeline for pipeline in self._parts.pipelines}
        pipelines |= {each.topics.backfill.name: each.in_backfill for each in self._parts.pipelines}
        backfills = [_backfill(each.topics.to_enrich, each) for each in self._parts.pipelines]

        async def work(tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
            await self.publisher.publish(await _enriched(records, pipelines[tp.topic], hold))

        name = enrich_group(self._parts.prefix, self._parts.worker_group)
        group = Group(name, tuple(pipelines), self._parts.instance, ENRICH_DRAIN)
        topics = [topic for each in self._parts.pipelines for topic in each.topics.to_enrich]
        return self._agent("enrich", group, topics, work, Rules(backfills=backfills))

    def _writing(self, target: TargetSystem) -> Reader:
        writebacks = {topic.name: found for found in target.writebacks.values() for topic in found[0].topics.to_write}
        asides = self._asides[target.system]
        pipelines = [each for each in self._parts.pipelines if each.name in target.writebacks]
        backfills = [_backfill(each.topics.to_write, each) for each in pipelines]
        coalesce = {name: max(each.coalesce for each in found) for name, found in writebacks.items()}

        async def work(tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
            publish = self.publisher.publish
            await publish(await write_back(records, writebacks[tp.topic], asides.of(tp), hold, publish))

        name = write_group(self._parts.prefix, target.system)
        batch = min(each.target.batch for found in writebacks.values() for each in found)
        group = Group(name, tuple(writebacks), self._parts.instance, target.drain, min(batch, BATCH_RECORDS))
        topics = [topic for each in pipelines for topic in each.topics.to_write]
        reader = self._agent(f"write-{target.system}", group, topics, work, Rules(asides, backfills, coalesce))
        target.gate.breaker.share = lambda: reader.share
        return reader

    def _aside_of(self, target: TargetSystem) -> PartitionsAside:
        names = {found[0].topics: [each.name for each in found] for found in target.writebacks.values()}
        return PartitionsAside(names, self._parts.kafka, self._parts.clock)

    def _commits(self, group: str, topics: Sequence[Topic]) -> Commits:
        parts = self._parts
        return Commits(
            parts.prefix,
            group,
            topics,
            kafka=parts.kafka,
            publisher=parts.publisher,
            control=parts.control,
            clock=parts.clock,
        )

    def _agent(self, name: str, group: Group, topics: Sequence[Topic], work: Work, rules: Rules) -> Reader:
        """A reader, and the Faust agent that it feeds."""
        channel = self._app.channel()
        commits = self._commits(group.name, topics)
        reader = Reader(group, self._parts.kafka, self._parts.clock, channel.put, commits)
        lanes = Lanes(reader, self._parts.clock, work, self._app.crash, rules)

        async def agent(stream: AsyncIterable[Batch]) -> None:
            await lanes.run(stream)

        self._app.agent(channel, name=name)(agent)
        return reader


def _backfill(topics: tuple[Topic, Topic], pipeline: Pipeline) -> Backfill:
    """A backfill yields while live records are older than half of what the pipeline promises."""
    live, backfill = topics
    return Backfill(backfill.name, live.name, pipeline.freshness.total_seconds() / 2, pipeline.backfill_rate)


async def _enriched(records: Sequence[ConsumerRecord], pipeline: Pipeline, hold: Hold) -> Outputs:
    """Enriches, and waits as long as the model's system is away."""
    tries = 0
    while True:
        try:
            return await enrich(records, pipeline, hold)
        except Retriable as error:
            tries += 1
            log.warning("enrich.holds pipeline=%s waiting=%d reason=%s", pipeline.name, len(records), error)
            await hold(max(error.retry_after or 0.0, backoff(tries)))


def app_of(parts: Parts) -> WorkerApp:
    """The Faust app of a worker, ready to be run by Faust's own worker."""
    app = WorkerApp(f"crossdock-{parts.prefix}-{parts.instance}")
    worker = Worker(parts, app)
    app.drain, app.hurry = worker.drain, worker.hurry

    @app.task  # type: ignore[untyped-decorator]
    async def begin() -> None:
        await app.add_runtime_dependency(worker)

    return app
