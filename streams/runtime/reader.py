"""Reading: one consumer group, its records in batches on a Faust channel, and a commit that never passes open work.

```
getmany -> note everything as open -> put batches on the channel -> lane works -> batch.acknowledge()
                                                                                        │
commit every second: the first open offset of a partition, else the read position  <────┘
```
The rules that hold here, and what broke without them, are told in `docs/decisions/002-faust-agents-on-channels.md`:
acknowledgements of older epochs are ignored; whoever discards what it read rewinds; only the read loop moves positions.
A partition whose first open record crashed the process three times is held: see `attempts.py`. One whose commit cannot
be trusted is not read: see `starting.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata
from mode import Service

from connectors.clock import Clock
from connectors.errors import Fatal
from connectors.failpoints import failpoint
from streams.metrics import METRICS
from streams.runtime import insides
from streams.runtime.attempts import CRASHES, Attempts
from streams.runtime.group import Group
from streams.runtime.kafka import Kafka, stop_quietly
from streams.runtime.lasting import Lasting, crashing, unless
from streams.runtime.pulse import Pulse
from streams.runtime.starting import AtTheCommit, Starting
from streams.runtime.window import READ_RECORDS, Batch, Open, parts

__all__ = ["Batch", "Group", "Reader"]


class Reader(Lasting, ConsumerRebalanceListener):  # type: ignore[misc]
    """One group of one worker. `begin`, `settle` and `abandon` are the lanes': start for an assignment, let work end in
    time, give up the rest.
    """

    def __init__(
        self,
        group: Group,
        kafka: Kafka,
        clock: Clock,
        deliver: Callable[[Batch], Awaitable[Any]],
        starting: Starting | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._starting, self._shut = starting or AtTheCommit(), set[TopicPartition]()
        self.group, self.epoch, self.giving_up = group, 0, False
        self.begin: Callable[[Sequence[TopicPartition]], None] = _nothing_begins
        self.settle: Callable[[float], Awaitable[None]] = _nothing
        self.abandon: Callable[[], Awaitable[None]] = _nothing_at_all
        self.hurry = asyncio.Event()
        """Set: nothing is waited for any more; what is in hand is given up."""
        self._abandoned = False
        """What was given up may still be in a thread: the next owner must not begin before this process has ended."""
        self._pulses: dict[TopicPartition, Pulse] = {}
        self._kafka, self._clock, self._deliver = kafka, clock, deliver
        self._consumer: AIOKafkaConsumer | None = None
        self._open: dict[TopicPartition, Open] = {}
        self._position: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._attempts, self._take_back = Attempts(), set[TopicPartition]()
        self.work_raised = False
        """Work of this reader raised: what it left open counts as an attempt."""
        self._rewind_due, self._rebalances = True, 0
        self._member: tuple[int, str] | None = None
        self._room = asyncio.Event()

    @property
    def label(self) -> str:
        return f"reader {self.group.name}"

    @property
    def assigned(self) -> set[TopicPartition]:
        return set(self._open)

    @property
    def share(self) -> float:
        """This worker's part of all partitions that the group reads, 0 to 1."""
        if self._consumer is None:
            return 0.0
        every = sum(len(self._consumer.partitions_for_topic(topic) or ()) for topic in self.group.topics)
        return len(self._open) / every if every else 0.0

    @property
    def oldest_open(self) -> float:
        """Age in seconds of the oldest delivered and unacknowledged batch; 0 when there is none."""
        since = [delivered for state in self._open.values() for _, _, delivered in state.batches.values()]
        return self._clock.monotonic() - min(since) if since else 0.0

    @property
    def open_records(self) -> int:
        return sum(state.records for state in self._open.values())

    def closed(self, batch: Batch) -> None:
        """Takes a batch out of the open ones; the next commit may pass it."""
        state = self._open.get(batch.tp)
        if state is None:
            return
        found = state.batches.pop(batch.records[0].offset, None)
        if found is not None:
            state.records -= found[0]
            state.size -= found[1]
            self.pulse(batch.tp).beat()
            self._room.set()

    def pulse(self, tp: TopicPartition) -> Pulse:
        """Of the lane of a partition."""
        if tp not in self._pulses:
            self._pulses[tp] = Pulse(f"{self.group.name} {tp.topic}/{tp.partition}", self._clock)
        return self._pulses[tp]

    @property
    def pulses(self) -> list[Pulse]:
        """Of the lanes that have something to do."""
        return [self.pulse(tp) for tp, state in self._open.items() if state.batches]

    def waits(self, tp: TopicPartition) -> None:
        """Work waits for a sick system: a crash meanwhile is not its fault."""
        self._take_back.add(tp)

    # Life

    async def on_start(self) -> None:
        self._consumer = self._kafka.member(self.group.name, self.group.instance, self.group.rebalance_timeout)
        self._consumer.subscribe(list(self.group.topics), listener=self)
        await self._consumer.start()

    async def on_stop(self) -> None:
        self.giving_up = True
        await self._give_up()
        await self._tell(last=True)
        if self._consumer is not None:
            if not (self.crashed or self._abandoned):
                insides.leave_at_stop(self._consumer)  # else it would be missed for a whole session
            await stop_quietly(self._consumer)

    @crashing
    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - aiokafka's signature
        self._rebalances += 1
        self.giving_up = True
        await self._give_up()
        self.epoch += 1
        self._open, self._position, self._committed = {}, {}, {}

    @crashing
    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._rebalances += 1
        self.epoch += 1
        self._open, self._pulses = {tp: Open({}) for tp in assigned}, {}
        self._position, self._committed = {}, {}
        self._attempts, self._take_back, self._shut = Attempts(), set(), set()
        self._rewind_due, self.giving_up = True, self.should_stop
        self._room.set()
        self.begin(sorted(self._open))
        self.log.info("partitions.assigned group=%s count=%d", self.group.name, len(self._open))

    async def _give_up(self) -> None:
        """Work in hand may end within the drain time; what is left will be delivered again."""
        failpoint("reader_before_give_up")
        deadline = self._clock.monotonic() + self.group.drain
        await unless(self.hurry, self.settle(deadline))
        self._abandoned = self.hurry.is_set() or self._clock.monotonic() >= deadline
        await self.abandon()
        if not self.work_raised:
            self._take_back.update(self._open)
        await self._commit()
        failpoint("reader_after_give_up")

    # Committing

    async def _commit(self) -> None:
        low = {tp: next(iter(self._open[tp].batches), end) for tp, end in self._position.items() if tp in self._open}
        low = {tp: offset for tp, offset in low.items() if offset > self._committed.get(tp, 0)}
        notes, self._take_back = self._attempts.take_back(self._take_back), set()
        if not (low or notes) or self._consumer is None:
            return
        failpoint("writeback_before_commit" if ".write." in self.group.name else "enrich_before_commit")
        try:
            await asyncio.wait_for(self._consumer.commit({**notes, **low}), 5)
            failpoint("writeback_after_commit" if ".write." in self.group.name else "enrich_after_commit")
            self._committed.update(low)
            for tp in low:
                self._attempts.passed(tp)
            METRICS.count("crossdock_commits", 1, self.group.name, "done")
        except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError) as error:
            METRICS.count("crossdock_commits", 1, self.group.name, "refused")
            self.log.warning("commit.refused group=%s error=%r (these records come again)", self.group.name, error)

    @Service.timer(1.0)  # type: ignore[untyped-decorator]
    async def _commit_regularly(self) -> None:
        if self.giving_up:
            return
        await self._commit()
        changed = await self._tell() | self._starting.asked(self._open)
        if changed and not self.giving_up:
            await self._begin_anew(changed)

    async def _tell(self, *, last: bool = False) -> set[TopicPartition]:
        try:
            committed = {tp: offset for tp, offset in self._committed.items() if tp not in self._shut}
            return await asyncio.wait_for(self._starting.tell(committed, last=last), 10)
        except (KafkaError, TimeoutError) as error:
            self.log.warning("commit.unmirrored group=%s error=%r", self.group.name, error)
            return set()

    async def _begin_anew(self, changed: Iterable[TopicPartition]) -> None:
        """As at an assignment: work in hand may end, and what is left comes again. Of the changed nothing counts."""
        rebalances, self.giving_up = self._rebalances, True
        for tp in changed:
            self._position.pop(tp, None)
        await self._give_up()
        if rebalances == self._rebalances:
            await self.on_partitions_assigned(set(self._open))

    # Reading

    @Service.task  # type: ignore[untyped-decorator]
    async def _read(self) -> None:
        while not self.should_stop:
            closed = self._attempts.held | self._shut
            room = [tp for tp, state in self._open.items() if not state.full and tp not in closed]
            if self.giving_up or not room:
                await self._wait_for_room()
            elif self._rewind_due:
                await self._rewind()
            else:
                await self._read_once(room)

    async def _wait_for_room(self) -> None:
        self._room.clear()
        try:
            await asyncio.wait_for(self._room.wait(), 0.2)
        except TimeoutError:
            assert self._consumer is not None
            if not self.should_stop:
                insides.check_errors(self._consumer)

    async def _read_once(self, room: list[TopicPartition]) -> None:
        assert self._consumer is not None
        epoch = self.epoch
        timeout = 500 if len(room) == len(self._open.keys() - self._attempts.held - self._shut) else 50
        try:
            found = await self._consumer.getmany(*room, timeout_ms=timeout, max_records=READ_RECORDS)
        except (NoOffsetForPartitionError, IllegalStateError):
            self._rewind_due = True  # a fresh partition, or one that was just taken away
            return
        except OffsetOutOfRangeError as error:
            await self._begin_anew(error.args[0])  # deleted or made anew under us
            return
        self._guard_instance()
        if epoch != self.epoch or self._rewind_due or self.giving_up:
            self._rewind_due = True  # what was read is dropped: its positions must not stay behind it
            return
        insides.check_errors(self._consumer)
        batches = self._note(found)
        await self._begin(found)
        if found:
            failpoint("reader_before_deliver")
        else:
            await self._pass_markers(room, epoch)
        for batch in batches:
            await self._deliver(batch)

    def _note(self, found: dict[TopicPartition, list[ConsumerRecord]]) -> list[Batch]:
        """Everything that was read is open before the first of it is delivered."""
        now, batches = self._clock.monotonic(), []
        for tp, records in found.items():
            state = self._open[tp]
            if not state.batches:
                self.pulse(tp).beat()
            for part, size in parts(records, self.group.batch):
                state.batches[part[0].offset] = (len(part), size, now)
                state.records += len(part)
                state.size += size
                batches.append(Batch(self, self.epoch, tp, part))
            self._position[tp] = records[-1].offset + 1
        return batches

    async def _begin(self, partitions: Iterable[TopicPartition]) -> None:
        """Notes the attempt before the first batch after an assignment is worked on: one request for all."""
        assert self._consumer is not None
        notes = self._attempts.begin(partitions)
        if notes:
            try:
                await asyncio.wait_for(self._consumer.commit(notes), 5)
            except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError) as error:
                self.log.warning(
                    "attempt.unnoted group=%s error=%r (a crash now does not count)", self.group.name, error
                )

    async def _pass_markers(self, idle: list[TopicPartition], epoch: int) -> None:
        """Moves the read position over transaction markers, so that lag at rest is 0 and not 1."""
        assert self._consumer is not None
        for tp in idle:
            if tp in self._position and not self._open[tp].batches:
                try:
                    position = await asyncio.wait_for(self._consumer.position(tp), 5)
                except (IllegalStateError, KafkaError, TimeoutError):
                    return
                if epoch != self.epoch or self._rewind_due:
                    return
                self._position[tp] = position

    async def _rewind(self) -> None:
        """Back to where it starts. A read in flight during a rebalance moves the *new* positions: without this, one
        record in some hundred is skipped at each rebalance. aiokafka does not seek to offset 0 or None by itself.
        """
        assert self._consumer is not None
        failpoint("reader_before_rewind")
        epoch = self.epoch
        try:
            assigned = [tp for tp in self._open if tp in self._consumer.assignment()]
            noted = await asyncio.wait_for(insides.committed_with_metadata(self._consumer, assigned), 10)
            committed = {tp: _offset(noted.get(tp)) for tp in assigned}
            starts = await asyncio.wait_for(self._starting.begin(self._consumer, committed), 60)
            if epoch != self.epoch:
                return
            for tp, offset in starts.items():
                self._consumer.seek(tp, offset)
        except (KafkaError, TimeoutError) as error:
            if not isinstance(error, IllegalStateError):  # partitions that were just taken away
                self.log.warning("start.delayed group=%s error=%r", self.group.name, error)
            await self.sleep(0.1)
            return
        self._rewind_due, self._shut = False, set(assigned) - starts.keys()
        same = {tp: noted[tp] if committed[tp] == at else OffsetAndMetadata(at, "") for tp, at in starts.items()}
        self._tell_held(self._attempts.found(same))
        self._position.update(starts)
        self._committed.update(starts)

    def _tell_held(self, held: set[TopicPartition]) -> None:
        for tp in held:
            self.log.error(
                "partition.held group=%s topic=%s partition=%d offset=%d (the process crashed %d times on its first "
                "open record; all others go on; remove the cause, then restart this worker to try it again)",
                self.group.name,
                tp.topic,
                tp.partition,
                self._attempts.offset(tp),
                CRASHES,
            )

    def _guard_instance(self) -> None:
        """Two processes with one instance id take the group from each other for ever, with only warnings.

        aiokafka sends the instance id in Join and Sync alone, so nobody is fenced: a changed member id inside one
        generation is the only sign.
        """
        assert self._consumer is not None
        now = insides.identity(self._consumer)
        if now is None:
            return
        before, self._member = self._member, now
        if before is not None and before[0] == now[0] and before[1] != now[1]:
            raise Fatal(
                f"another process joined {self.group.name} as instance {self.group.instance!r}; "
                "give each worker an --instance of its own"
            )


def _offset(at: OffsetAndMetadata | None) -> int | None:
    """A committed offset; Kafka says -1 where there is none."""
    return None if at is None or at.offset < 0 else at.offset


def _nothing_begins(partitions: Sequence[TopicPartition]) -> None:  # noqa: ARG001 - the lanes' signature
    return None


async def _nothing(deadline: float) -> None:  # noqa: ARG001 - the lanes' signature
    return None


async def _nothing_at_all() -> None:
    return None
