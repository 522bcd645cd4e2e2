"""Lanes: the records of one partition, strictly in order; partitions beside each other.

A lane merges the batches that wait into one piece of work. Its work returns = they are acknowledged; it raises = the
process crashes and they come again. There is no third way: what can be waited for is waited for inside the work.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from aiokafka import ConsumerRecord, TopicPartition

from connectors.clock import Clock
from connectors.failpoints import failpoint
from streams.runtime.lasting import was_cancelled
from streams.runtime.pulse import living, rest
from streams.runtime.reader import Batch, Reader

MERGE_RECORDS = 500
AT_ONCE = 2
"""Lanes of one reader that work at the same time: more would only hold more in memory, as they share one processor."""

Crash = Callable[[BaseException], Awaitable[None]]


class _Slots(asyncio.Semaphore):
    """A lane that waits for its slot is not stuck."""

    async def acquire(self) -> Literal[True]:
        with rest():
            return await super().acquire()


class Hold:
    """Waiting inside work: a lane that holds has nothing in hand, so a drain does not wait for it."""

    def __init__(self, lanes: "Lanes", tp: TopicPartition) -> None:
        self._lanes, self._tp = lanes, tp

    async def __call__(self, seconds: float) -> None:
        self._lanes.reader.waits(self._tp)
        self._lanes.in_hand -= 1
        self._lanes.slots.release()
        try:
            with rest():
                await asyncio.sleep(seconds)
        finally:
            await self._lanes.slots.acquire()
            self._lanes.in_hand += 1


@dataclass(frozen=True, slots=True)
class Backfill:
    """A topic whose records are not in a hurry: they go at a rate, and wait while those of the live topic are late."""

    topic: str
    live: str
    late: float
    """Seconds of age of a live record from which on the backfill waits."""
    rate: float | None
    """Records a second, for this worker."""


YIELD = 0.25
"""Seconds between two looks of a backfill that waits for its live topic."""


class Aside(Protocol):
    """What of partitions stands aside: parked events, calls that are in doubt."""

    async def load(self, partitions: Sequence[TopicPartition]) -> None:
        """Reads what earlier owners left of these partitions, and forgets all others."""
        ...

    def next_due(self, tp: TopicPartition) -> float | None:
        """When something of it is to be looked at, in seconds of the clock's `monotonic()`; None = nothing is."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """How the lanes of one reader go about its topics."""

    aside: Aside | None = None
    """Knows what of a partition stands aside, and when it is to be looked at though nothing new came."""
    backfills: Sequence[Backfill] = ()
    """The topics that yield to live ones."""
    coalesce: Mapping[str, float] = field(default_factory=dict)
    """Seconds that a topic's records wait for newer ones of their keys."""


Work = Callable[[TopicPartition, Sequence[ConsumerRecord], Hold], Awaitable[None]]


class Lanes:
    """All lanes of one reader, fed by one agent."""

    def __init__(self, reader: Reader, clock: Clock, work: Work, crash: Crash, rules: "Rules | None" = None) -> None:
        """
        Args:
            reader: of the group whose records are worked on.
            clock: of the worker.
            work: what is done with the records of one partition.
            crash: ends the process.
            rules: of the reader's topics.
        """
        rules = rules or Rules()
        self._backfills = {each.topic: _Pace(each) for each in rules.backfills}
        self._backfill_slot = _Slots(1)
        self._locks: dict[TopicPartition, asyncio.Lock] = {}
        self._in_work: dict[TopicPartition, float] = {}
        self._coalesce = rules.coalesce
        self.in_hand, self.slots = 0, _Slots(AT_ONCE)
        self.reader, self._clock, self._work, self._crash, self._aside = reader, clock, work, crash, rules.aside
        self._writes = ".write." in reader.group.name
        self._queues: dict[TopicPartition, tuple[deque[Batch], asyncio.Event]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        reader.begin, reader.settle, reader.abandon = self._begin, self._settle, self._abandon

    async def run(self, stream: AsyncIterable[Batch]) -> None:
        """The body of the agent: sorts batches into lanes."""
        async for batch in stream:
            if batch.live:
                queue, ready = self._queues[batch.tp]
                queue.append(batch)
                ready.set()

    def _begin(self, partitions: Sequence[TopicPartition]) -> None:
        """A lane for each partition of a new assignment; none works before what stands aside of all is known."""
        known = asyncio.create_task(self._known(partitions), name="aside")
        self._queues = {tp: (deque(), asyncio.Event()) for tp in partitions}
        lanes = [asyncio.create_task(self._lane(tp, known), name=f"lane {tp}") for tp in partitions]
        self._tasks = [known, *lanes]

    async def _known(self, partitions: Sequence[TopicPartition]) -> None:
        if self._aside is not None and partitions:
            failpoint("writeback_before_aside")
            await self._aside.load(partitions)

    async def _settle(self, deadline: float) -> None:
        while self.in_hand and self._clock.monotonic() < deadline:  # noqa: ASYNC110 - once per rebalance, no hot path
            await asyncio.sleep(0.02)

    async def _abandon(self) -> None:
        tasks, self._tasks, self._queues = self._tasks, [], {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _lane(self, tp: TopicPartition, known: "asyncio.Task[None]") -> None:
        queue, ready = self._queues[tp]
        try:
            with living(self.reader.pulse(tp)):
                await asyncio.shield(known)
                while True:
                    ready.clear()
                    if queue or await self._woken(tp, ready):
                        await self._gather(tp, queue)
                        await self._step(tp, queue)
                    else:
                        await self._look_aside(tp)
        except BaseException as error:  # a defect: the supervisor starts the process again
            if isinstance(error, asyncio.CancelledError) and was_cancelled():
                raise
            self.reader.work_raised = True
            await self._crash(error)

    async def _woken(self, tp: TopicPartition, ready: asyncio.Event) -> bool:
        """Waits for a batch. False = none came, and something that stands aside is due."""
        due = None
        if self._aside is not None and tp.topic not in self._backfills:
            due = self._aside.next_due(tp)
        timeout = None if due is None else max(0.0, due - self._clock.monotonic())
        try:
            await asyncio.wait_for(ready.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def _look_aside(self, tp: TopicPartition) -> None:
        """Work without records: nothing of it is acknowledged, as nothing of it was read."""
        async with self._alone(tp), self.slots:
            await self._do(tp, [])

    async def _step(self, tp: TopicPartition, queue: "deque[Batch]") -> None:
        pace = self._backfills.get(tp.topic)
        if pace is not None:
            await self._yield_to_live(pace)
        async with contextlib.AsyncExitStack() as stack:
            if pace is not None:
                await stack.enter_async_context(self._backfill_slot)
            with rest():
                await stack.enter_async_context(self._alone(tp))
            await stack.enter_async_context(self.slots)
            batches = _merged(queue, min(MERGE_RECORDS, self.reader.group.batch))
            if not batches:
                return
            records = [record for batch in batches for record in batch.records]
            if pace is not None:
                pace.took(len(records), self._clock.monotonic())
            await self._do(tp, records)
            failpoint("writeback_before_acknowledge" if self._writes else "enrich_before_acknowledge")
            for batch in batches:
                batch.acknowledge()

    async def _do(self, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        self.in_hand += 1
        if records:
            self._in_work[tp] = records[0].timestamp / 1000
        try:
            await self._work(tp, records, Hold(self, tp))
        finally:
            self._in_work.pop(tp, None)
            self.in_hand -= 1

    # Live and backfill, and writes that wait for newer ones

    def _alone(self, tp: TopicPartition) -> asyncio.Lock:
        """A partition's live records and those of its backfill are the same records': a sink never has a key twice."""
        pace = self._backfills.get(tp.topic)
        name = tp if pace is None else TopicPartition(pace.of.live, tp.partition)
        return self._locks.setdefault(name, asyncio.Lock()) if self._writes else asyncio.Lock()

    async def _yield_to_live(self, pace: "_Pace") -> None:
        """Returns when it is the backfill's turn: live records are in time, and its rate has room."""
        while self._age(pace.of.live) > pace.of.late or pace.free_at > self._clock.monotonic():
            with rest():
                await asyncio.sleep(YIELD)

    def _age(self, topic: str) -> float:
        """Seconds since the oldest record of a topic that waits or is worked on came to Kafka; 0 if there is none."""
        came = [moment for tp, moment in self._in_work.items() if tp.topic == topic]
        came += [_came(queue) for tp, (queue, _) in self._queues.items() if tp.topic == topic and queue]
        now = self._clock.now().timestamp()
        return now - min(came, default=now)

    async def _gather(self, tp: TopicPartition, queue: "deque[Batch]") -> None:
        """Where writes may be coalesced: waits for newer versions of what has come, within that time."""
        wait = self._coalesce.get(tp.topic, 0.0)
        while wait and queue and _count(queue) < MERGE_RECORDS:
            left = _came(queue) + wait - self._clock.now().timestamp()
            if left <= 0:
                return
            with rest():
                await asyncio.sleep(min(left, YIELD))


class _Pace:
    """How fast one backfill goes."""

    def __init__(self, of: Backfill) -> None:
        self.of, self.free_at = of, 0.0

    def took(self, count: int, now: float) -> None:
        if self.of.rate is not None:
            self.free_at = max(now, self.free_at) + count / self.of.rate


def _count(queue: "deque[Batch]") -> int:
    return sum(len(batch.records) for batch in queue)


def _came(queue: "deque[Batch]") -> float:
    """When the first record that waits came to Kafka."""
    return float(queue[0].records[0].timestamp) / 1000


def _merged(queue: "deque[Batch]", limit: int) -> list[Batch]:
    """The first batches that wait, as many as one piece of work may hold; those that were given up are dropped."""
    batches: list[Batch] = []
    size = 0
    while queue and (not batches or size + len(queue[0].records) <= limit):
        batch = queue.popleft()
        if batch.live:
            batches.append(batch)
            size += len(batch.records)
    return batches
