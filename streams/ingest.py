"""Ingest: changes of a source into Kafka, each batch and its offset in one transaction.

```
take over -> stored offset -> open -> poll -> records + offset in one transaction -> ack -> poll -> ...
```
The order of the first two is the proof that nothing is emitted twice: after taking over, no older owner can commit.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from connectors.clock import Clock
from connectors.contract import Source, SourceTask, TaskSpec
from connectors.errors import AuthExpired, ConfigError, Retriable, SystemFault
from connectors.failpoints import failpoint
from schemas.change import Batch, Change, canonical_key
from schemas.codec import encode, encode_change
from schemas.dead_letter import DeadLetter, fingerprint
from schemas.event import headers_of
from schemas.values import rfc3339
from streams import offsets
from streams.backoff import backoff
from streams.runtime.kafka import Kafka
from streams.runtime.publisher import Outgoing
from streams.runtime.pulse import rest
from streams.runtime.threads import Threads
from streams.runtime.transaction import Interrupted, NotMine, TaskTransactions
from streams.topics import MAX_CHANGE, HubTopics, PipelineTopics, Topic

log = logging.getLogger("crossdock.streams.ingest")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Ingest:
    """One source task of one pipeline, as this worker would run it."""

    pipeline: str
    source: Source
    task: TaskSpec
    kafka: Kafka
    topics: PipelineTopics
    hub: HubTopics
    transactional_id: str
    config: str
    every: float
    limit: int
    total_timeout: float
    threads: Threads
    clock: Clock

    async def run(self, stop: asyncio.Event) -> None:
        """Lives until `stop` is set, or the task turns out to be somebody else's."""
        patience = _Patience()
        while not stop.is_set():
            try:
                await self._own(stop, patience)
            except NotMine:
                log.info("task.fenced task=%s (another worker owns it now, or this one was too slow)", self.task.name)
                await _pause(stop, 2.0)
            except ConfigError as error:
                log.error("task.failed task=%s reason=%s", self.task.name, error)
                await _pause(stop, 30.0)
            except (Interrupted, Retriable) as error:
                wait = max(patience.next(), getattr(error, "retry_after", None) or 0.0)
                log.warning("task.waits task=%s seconds=%.1f reason=%s", self.task.name, wait, error)
                await _pause(stop, wait)
            except (SystemFault, AuthExpired) as error:
                log.error("task.system_fault task=%s reason=%s (next look in 30 s)", self.task.name, error)
                await _pause(stop, 30.0)

    async def _own(self, stop: asyncio.Event, patience: "_Patience") -> None:
        async with TaskTransactions(self.kafka, self.transactional_id) as transactions:
            record = await offsets.stored(self.kafka, self.hub.offsets, self.task)
            task = self.source.task(self.task.name)
            try:
                await self._in_thread(task.open, None if record is None else record.offset)
                await self._loop(task, transactions, 0 if record is None else record.changes, stop, patience)
            finally:
                await self._in_thread(task.close)

    async def _loop(
        self, task: SourceTask, transactions: TaskTransactions, emitted: int, stop: asyncio.Event, patience: "_Patience"
    ) -> None:
        batch = await self._poll(task)
        while not stop.is_set():
            if batch is None:
                await _pause(stop, self.every)
                batch = None if stop.is_set() else await self._poll(task)
                continue
            emitted += len(batch.changes)
            upcoming = asyncio.ensure_future(self._poll(task))  # the source reads on while Kafka commits
            try:
                await transactions.commit(self._outputs(batch, emitted))
            except BaseException:
                await asyncio.gather(upcoming, return_exceptions=True)  # a task is never in two threads at once
                raise
            failpoint("ingest_before_ack")
            following = await asyncio.gather(upcoming, return_exceptions=True)
            await self._in_thread(task.ack, batch.offset)
            patience.reset()
            if isinstance(following[0], BaseException):
                raise following[0]
            batch = following[0]

    async def _poll(self, task: SourceTask) -> Batch | None:
        return await self._in_thread(task.poll, self.limit, self.clock.monotonic() + self.total_timeout)

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await self.threads.call(call, *arguments, patience=self.total_timeout)

    def _outputs(self, batch: Batch, emitted: int) -> dict[Topic, list[Outgoing]]:
        now = rfc3339(self.clock.now())
        changes: list[Outgoing] = []
        latest: list[Outgoing] = []
        dead: list[Outgoing] = []
        config = self.config.encode()
        for change in batch.changes:
            key, value = canonical_key(change.key), encode_change(change)
            if len(value) > MAX_CHANGE:
                dead.append(self._too_large(change, key, value, now))
                continue
            changes.append(Outgoing(key, value, headers_of(change, config)))
            latest.append(Outgoing(key, None if change.after is None else value))
        moved = offsets.outgoing(self.task, batch.offset, emitted, now)
        outputs: dict[Topic, list[Outgoing]] = {self.hub.offsets: [moved]}
        found = {self.topics.changes: changes, self.topics.latest: latest, self.topics.dead: dead}
        return outputs | {topic: records for topic, records in found.items() if records}

    def _too_large(self, change: Change, key: bytes, value: bytes, now: str) -> Outgoing:
        """A row that Kafka would refuse: its place at the source and its hash, instead of its bytes."""
        digest = hashlib.sha256(value).hexdigest()
        reason = (
            f"{len(value)} bytes, more than {MAX_CHANGE}; sha256 {digest}; read it at {change.origin} {key.decode()}"
        )
        letter = DeadLetter(
            event_id=change.event_id,
            pipeline=self.pipeline,
            stage="produce",
            code="too_large",
            reason=reason,
            fingerprint=fingerprint("produce", "too_large", change.origin),
            topic=self.topics.changes.name,
            partition=-1,
            offset=-1,
            key=key,
            value=None,
            config=self.config,
            first_seen=now,
            last_seen=now,
        )
        return Outgoing(key, encode(letter), headers_of(change, self.config.encode()))


class _Patience:
    """Pauses that grow from half a second to half a minute, with full jitter."""

    def __init__(self) -> None:
        self._tries = 0

    def next(self) -> float:
        self._tries += 1
        return backoff(self._tries, 30.0)

    def reset(self) -> None:
        self._tries = 0


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with rest():
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            return
