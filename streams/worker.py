"""A worker: one process's share of the hub. The Faust app owns the agents; this service owns what feeds them.

```
ownership ── source tasks ──> <p>.changes
reader (enrich group) ── channel ── agent ── lanes ──> <p>.enriched
reader (one for each target system) ── channel ── agent ── lanes ──> the system, <p>.receipts
```
"""

import asyncio
import logging
from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mode import Service

from connectors.clock import Clock
from connectors.errors import Retriable
from streams.backoff import backoff
from streams.control import Control
from streams.enrich import enrich
from streams.ingest import Ingest
from streams.pipeline import Pipeline
from streams.runtime.app import WorkerApp
from streams.runtime.compacted import Follower
from streams.runtime.kafka import ConsumerRecord, Kafka, TopicPartition
from streams.runtime.lanes import Hold, Lanes, Work
from streams.runtime.ownership import Ownership
from streams.runtime.publisher import Outputs, Publisher
from streams.runtime.reader import BATCH_RECORDS, Batch, Group, Reader
from streams.topics import HubTopics, enrich_group, tasks_group, write_group
from streams.writeback import Writeback, write_back

log = logging.getLogger("crossdock.streams.worker")

ENRICH_DRAIN = 5.0
SOURCES_DRAIN = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """A system that is written to: its own consumer group, over all pipelines that write there."""

    system: str
    drain: float
    """Seconds: the longest that one call may take, so that no call outlives its partition."""
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
    pipelines: Sequence[Pipeline]
    targets: Sequence[Target]
    ingests: Sequence[Ingest]


class Worker(Service):  # type: ignore[misc]
    """Starts in the order of the flow's end to its beginning, and stops the other way round."""

    def __init__(self, parts: Parts, app: WorkerApp, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._parts, self._app = parts, app
        self.publisher = Publisher(parts.kafka)
        self.control = Control(parts.kafka, HubTopics.of(parts.prefix).control, self.publisher)
        self.ownership = self._owning()
        self.readers = [self._enriching(), *(self._writing(target) for target in parts.targets)]

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

    async def on_stop(self) -> None:
        """Nothing is read any more; what is in hand may end; then the producer goes."""
        await asyncio.gather(self.ownership.stop(), *(reader.stop() for reader in self.readers))
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

    def _owning(self) -> Ownership:
        parts = self._parts
        group = Group(
            tasks_group(parts.prefix), (HubTopics.of(parts.prefix).tasks.name,), parts.instance, SOURCES_DRAIN
        )
        return Ownership(group, parts.kafka, parts.clock, {ingest.task.name: ingest.run for ingest in parts.ingests})

    def _enriching(self) -> Reader:
        pipelines = {pipeline.topics.changes.name: pipeline for pipeline in self._parts.pipelines}

        async def work(tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
            await self.publisher.publish(await _enriched(records, pipelines[tp.topic], hold))

        name = enrich_group(self._parts.prefix, self._parts.worker_group)
        return self._agent("enrich", Group(name, tuple(pipelines), self._parts.instance, ENRICH_DRAIN), work)

    def _writing(self, target: Target) -> Reader:
        writebacks = {found[0].topics.enriched.name: found for found in target.writebacks.values()}

        async def work(tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
            await self.publisher.publish(await write_back(records, writebacks[tp.topic], hold))

        name = write_group(self._parts.prefix, target.system)
        batch = min(each.batch for found in writebacks.values() for each in found)
        group = Group(name, tuple(writebacks), self._parts.instance, target.drain, min(batch, BATCH_RECORDS))
        return self._agent(f"write-{target.system}", group, work)

    def _agent(self, name: str, group: Group, work: Work) -> Reader:
        """A reader, and the Faust agent that it feeds."""
        channel = self._app.channel()
        reader = Reader(group, self._parts.kafka, self._parts.clock, channel.put)
        lanes = Lanes(reader, self._parts.clock, work, self._app.crash)

        async def agent(stream: AsyncIterable[Batch]) -> None:
            await lanes.run(stream)

        self._app.agent(channel, name=name)(agent)
        return reader


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
