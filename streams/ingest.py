"""Ingest: changes of a source into Kafka, each batch and its offset in one transaction.

```
take over -> stored offset -> a move that was asked for -> open -> poll -> records + offset in one transaction -> ack
```
The order of the first two is the proof that nothing is emitted twice: after taking over, no older owner can commit.
An offset that cannot be trusted is never jumped over: the task stands still, says so, and a person decides.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from connectors.clock import Clock
from connectors.contract import Comparing, Numbering, Source, SourceTask, TaskSpec
from connectors.errors import AuthExpired, ConfigError, CredentialsRefused, Retriable, SystemFault
from connectors.failpoints import failpoint
from schemas.change import Batch, Change, canonical_key
from schemas.codec import encode, encode_change
from schemas.control import OffsetMove, Pause, Stopped
from schemas.dead_letter import DeadLetter, connect_headers, fingerprint
from schemas.event import headers_of
from schemas.values import Offset, rfc3339
from streams import offsets, pauses
from streams.backoff import wait_for_stop
from streams.control import Control
from streams.credentials import SystemCredentials
from streams.echo import Echoes, receipt_of
from streams.offsets import OffsetRecord, Stored
from streams.runtime.compacted import Follower
from streams.runtime.kafka import Kafka, KafkaError
from streams.runtime.publisher import Outgoing
from streams.runtime.pulse import rest
from streams.runtime.transaction import Interrupted, NotMine, TaskTransactions
from streams.topics import MAX_CHANGE, HubTopics, PipelineTopics, Topic, ownership_partition
from streams.turn import Patience, Turn, first_of

log = logging.getLogger("crossdock.streams.ingest")

_T = TypeVar("_T")
TRIES = 8
"""Failures in a row of a source that is read, after which its task is opened anew."""


@dataclass(frozen=True, slots=True)
class Ingest:
    """One source task of one pipeline, as this worker would run it."""

    pipeline: str
    source: Source
    task: TaskSpec
    kafka: Kafka
    control: Control
    topics: PipelineTopics
    hub: HubTopics
    transactional_id: str
    config: str
    credentials: SystemCredentials
    backfills: bool
    """What is read before the source has caught up goes to the backfill: every target tells old versions from new."""
    fresh: float
    """Seconds of age up to which a change counts as live."""
    echoes: Echoes | None
    """None: the pipeline does not write into what it reads."""
    every: float
    limit: int
    total_timeout: float
    threads: Executor
    clock: Clock

    async def run(self, stop: asyncio.Event) -> None:
        """Lives until `stop` is set, or the task turns out to be somebody else's."""
        patience = Patience()
        with rest():
            await first_of(stop.wait(), self.control.known())
        while not stop.is_set():
            if not self.credentials.usable:
                await wait_for_stop(stop, 1.0)
                continue
            if (paused := pauses.standing(self.control, self.pipeline)) is not None:
                await self._while_paused(paused, stop)
                continue
            try:
                await self._own(stop, patience)
            except NotMine:
                log.info("task.fenced task=%s (another worker owns it now, or this one was too slow)", self.task.name)
                await wait_for_stop(stop, 2.0)
            except offsets.Halted as halted:
                await self._stand_still(halted, stop)
            except ConfigError as error:
                log.error("task.failed task=%s reason=%s", self.task.name, error)
                await wait_for_stop(stop, 30.0)
            except (Interrupted, Retriable, KafkaError) as error:
                await wait_for_stop(stop, self._wait_after(error, patience))
            except CredentialsRefused as error:
                await self.credentials.refused(error)
            except (SystemFault, AuthExpired) as error:
                log.error("task.system_fault task=%s reason=%s (next look in 30 s)", self.task.name, error)
                await wait_for_stop(stop, 30.0)

    async def _while_paused(self, paused: Pause, stop: asyncio.Event) -> None:
        log.warning("task.paused task=%s by=%s reason=%s", self.task.name, paused.by, paused.reason)
        with rest():
            while not stop.is_set() and pauses.standing(self.control, self.pipeline) is not None:
                await first_of(stop.wait(), self.control.moved.wait())
        log.info("task.resumed task=%s", self.task.name)

    async def _own(self, stop: asyncio.Event, patience: Patience) -> None:
        async with TaskTransactions(self.kafka, self.transactional_id) as transactions:
            failpoint("ingest_after_take_over")
            stored = await offsets.stored(self.kafka, self.hub.offsets, self.task)
            move = self.control.move(self.task.name, stored.move)
            if move is not None:
                stored = await self._move(stored, move, transactions)
            record = await self._trusted(stored)
            task = self.source.task(offsets.at_source(self.task.name))
            failpoint("ingest_before_open")
            try:
                await self._in_thread(task.open, record.offset)
                await self._compare(task, record)
                await self._tell_that_it_runs()
                async with self._following_receipts() as follower:
                    turn = Turn(self.control, self.pipeline, self.task.name, record.move, stop, follower)
                    await self._loop(task, transactions, record, turn, patience)
            finally:
                await self._in_thread(task.close)

    @contextlib.asynccontextmanager
    async def _following_receipts(self) -> AsyncIterator[Follower | None]:
        """Where the pipeline writes into what it reads: what it wrote is told by its receipts."""
        if self.echoes is None:
            yield None
            return
        follower = Follower(self.kafka, self.topics.receipts, self.echoes.expect, at_end=True)
        try:
            await follower.start()
            yield follower
        finally:
            await follower.stop()
        if follower.crash_reason is not None:
            raise follower.crash_reason

    async def _move(self, at: Stored, move: OffsetMove, transactions: TaskTransactions) -> Stored:
        """Carries a person's command out: the new offset, the note that it was done and the history, or nothing."""
        to = await self._numbered(at, move.offset)
        now = offsets.moved(self.task, at, move, to, rfc3339(self.clock.now()))
        assert now.record is not None
        beside = ownership_partition(self.task.name)
        both = [offsets.outgoing(now.record), offsets.outgoing_history(now.history, beside)]
        await transactions.commit({self.hub.offsets: both})
        log.warning(
            "offset.moved task=%s action=%s done=%s before=%s after=%s by=%s reason=%s",
            self.task.name,
            move.action,
            at.history.allows(move),
            at.offset,
            now.offset,
            move.by,
            move.reason,
        )
        return now

    async def _numbered(self, at: Stored, offset: Offset | None) -> Offset | None:
        """The same offset, where the source numbers its versions itself with numbers that go on."""
        task = self.source.task(offsets.at_source(self.task.name))
        if not isinstance(task, Numbering):
            return offset
        highest = None if at.record is None else at.record.highest
        return task.numbered(offset, highest or await offsets.highest_version(self.kafka, self.topics.latest))

    async def _trusted(self, at: Stored) -> OffsetRecord:
        """The record to go on from. Raises Halted if only a person can tell where that is."""
        if at.record is not None:
            offsets.refuse_other_configuration(self.task, at.record)
            return at.record
        if await offsets.was_read_before(self.kafka, self.topics.to_enrich, self.task.name):
            raise offsets.lost(self.task.name, self.topics.changes.name)
        return offsets.first_record(self.task)

    async def _compare(self, task: SourceTask, record: OffsetRecord) -> None:
        """Raises Halted if the source is older than what was read of it."""
        if record.newest is None or not isinstance(task, Comparing):
            return
        deadline = self.clock.monotonic() + self.total_timeout
        said = await self._in_thread(task.went_back, record.newest, deadline)
        if said is not None:
            raise offsets.went_back(self.task.name, said)

    async def _stand_still(self, halted: offsets.Halted, stop: asyncio.Event) -> None:
        """Until a person decides; and looks again each minute, as the cause may go by itself."""
        log.error(
            "task.stopped task=%s trouble=%s reason=%s decide=`%s`",
            self.task.name,
            halted.trouble.value,
            halted.reason,
            halted.command,
        )
        known, asked = self.control.find(Stopped, self.task.name), self.control.find(OffsetMove, self.task.name)
        if known is None or known.trouble is not halted.trouble:
            now = rfc3339(self.clock.now())
            await self.control.put(
                Stopped(
                    subject=self.task.name,
                    trouble=halted.trouble,
                    reason=halted.reason,
                    command=halted.command,
                    time=now,
                )
            )
        await Turn(self.control, self.pipeline, self.task.name, None if asked is None else asked.id, stop).rest(60.0)

    async def _tell_that_it_runs(self) -> None:
        if self.control.find(Stopped, self.task.name) is not None:
            await self.control.take_back(Stopped, self.task.name)

    async def _loop(
        self,
        task: SourceTask,
        transactions: TaskTransactions,
        record: OffsetRecord,
        turn: Turn,
        patience: Patience,
    ) -> None:
        batch = await self._read(task, turn, patience)
        while not turn.is_over:
            if batch is None:
                record = offsets.caught_up(record)
                if self.echoes is not None:
                    self.echoes.tell(self.task.name)
                await turn.rest(self.every)
                batch = None if turn.is_over else await self._read(task, turn, patience)
                continue
            failpoint("ingest_after_poll")
            if self._is_fresh(batch):
                record = offsets.caught_up(record)
            record = offsets.followed(record, batch, rfc3339(self.clock.now()))
            upcoming = asyncio.ensure_future(self._poll(task))  # the source reads on while Kafka commits
            try:
                await transactions.commit(self._outputs(batch, record))
            except BaseException:
                await asyncio.gather(upcoming, return_exceptions=True)  # a task is never in two threads at once
                raise
            failpoint("ingest_before_ack")
            following = await asyncio.gather(upcoming, return_exceptions=True)
            await self._in_thread(task.ack, batch.offset)
            failpoint("ingest_after_ack")
            if isinstance(following[0], Retriable):
                await turn.rest(self._wait_after(following[0], patience))
                batch = await self._read(task, turn, patience)
            elif isinstance(following[0], BaseException):
                raise following[0]
            else:
                patience.reset()
                batch = following[0]

    async def _read(self, task: SourceTask, turn: Turn, patience: Patience) -> Batch | None:
        """The next batch; None also where the turn ends meanwhile.

        A system that is busy for a moment is waited for here: a task that is opened anew has forgotten which versions
        of its overlap it gave, and would give them all again.
        """
        while not turn.is_over:
            try:
                batch = await self._poll(task)
            except Retriable as error:
                if patience.tries >= TRIES:
                    raise  # what is opened anew may be well again
                await turn.rest(self._wait_after(error, patience))
            else:
                patience.reset()
                return batch
        return None

    def _wait_after(self, error: Exception, patience: Patience) -> float:
        """Seconds, and says so."""
        wait = max(patience.next(), getattr(error, "retry_after", None) or 0.0)
        log.warning("task.waits task=%s seconds=%.1f reason=%s", self.task.name, wait, str(error) or repr(error))
        return wait

    def _is_fresh(self, batch: Batch) -> bool:
        """Whether the newest change of a batch is as young as live ones are to be."""
        if not batch.changes:
            return False
        age = self.clock.now() - datetime.fromisoformat(batch.changes[-1].time)
        return age.total_seconds() <= self.fresh

    async def _poll(self, task: SourceTask) -> Batch | None:
        return await self._in_thread(task.poll, self.limit, self.clock.monotonic() + self.total_timeout)

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, call, *arguments)

    def _outputs(self, batch: Batch, record: OffsetRecord) -> dict[Topic, list[Outgoing]]:
        changes: list[Outgoing] = []
        latest: list[Outgoing] = []
        dead: list[Outgoing] = []
        filtered: list[Outgoing] = []
        config = self.config.encode()
        for change in batch.changes:
            key, value = canonical_key(change.key), encode_change(change)
            if len(value) > MAX_CHANGE:
                dead.append(self._too_large(change, key, value, record.time))
                continue
            echo = None if self.echoes is None else self.echoes.found(change, key)
            if echo is None:
                changes.append(Outgoing(key, value, headers_of(change, config)))
            else:
                filtered.append(Outgoing(key, receipt_of(change, self.pipeline, echo, record.time)))
            latest.append(Outgoing(key, None if change.after is None else value))
        outputs: dict[Topic, list[Outgoing]] = {self.hub.offsets: [offsets.outgoing(record)]}
        live = record.live or not self.backfills
        found = {
            self.topics.changes if live else self.topics.backfill: changes,
            self.topics.latest: latest,
            self.topics.dead: dead,
            self.topics.receipts: filtered,
        }
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
            error="Rejected",
            code="too_large",
            reason=reason,
            fingerprint=fingerprint("produce", "too_large", change.origin),
            topic=self.topics.changes.name,
            partition=-1,
            offset=-1,
            key=key,
            value=None,
            headers=headers_of(change, self.config.encode()),
            config=self.config,
            first_seen=now,
            last_seen=now,
        )
        return Outgoing(key, encode(letter), connect_headers(letter))
