"""Lanes: the records of one partition, strictly in order; partitions beside each other.

A lane merges the batches that wait into one piece of work. Its work returns = they are acknowledged; it raises = the
process crashes and they come again. There is no third way: what can be waited for is waited for inside the work.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import Protocol

from aiokafka import ConsumerRecord, TopicPartition

from connectors.clock import Clock
from connectors.failpoints import failpoint
from streams.runtime.reader import Batch, Reader

MERGE_RECORDS = 500
AT_ONCE = 2
"""Lanes of one reader that work at the same time: more would only hold more in memory, as they share one processor."""

Crash = Callable[[BaseException], Awaitable[None]]


class Hold:
    """Waiting inside work: a lane that holds has nothing in hand, so a drain does not wait for it."""

    def __init__(self, lanes: "Lanes", tp: TopicPartition) -> None:
        self._lanes, self._tp = lanes, tp

    async def __call__(self, seconds: float) -> None:
        self._lanes.reader.waits(self._tp)
        self._lanes.in_hand -= 1
        self._lanes.slots.release()
        try:
            await asyncio.sleep(seconds)
        finally:
            await self._lanes.slots.acquire()
            self._lanes.in_hand += 1


class Aside(Protocol):
    """What of partitions stands aside: parked events, calls that are in doubt."""

    async def load(self, partitions: Sequence[TopicPartition]) -> None:
        """Reads what earlier owners left of these partitions, and forgets all others."""
        ...

    def next_due(self, tp: TopicPartition) -> float | None:
        """When something of it is to be looked at, in seconds of the clock's `monotonic()`; None = nothing is."""
        ...


Work = Callable[[TopicPartition, Sequence[ConsumerRecord], Hold], Awaitable[None]]


class Lanes:
    """All lanes of one reader, fed by one agent."""

    def __init__(self, reader: Reader, clock: Clock, work: Work, crash: Crash, aside: "Aside | None" = None) -> None:
        """`aside` knows what of a partition stands aside, and when it is to be looked at though nothing new came."""
        self.in_hand, self.slots = 0, asyncio.Semaphore(AT_ONCE)
        self.reader, self._clock, self._work, self._crash, self._aside = reader, clock, work, crash, aside
        self._stage = "writeback" if ".write." in reader.group.name else "enrich"
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
            await asyncio.shield(known)
            while True:
                ready.clear()
                if queue or await self._woken(tp, ready):
                    await self._step(tp, queue)
                else:
                    await self._look_aside(tp)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a defect: the supervisor starts the process again
            self.reader.work_raised = True
            await self._crash(error)

    async def _woken(self, tp: TopicPartition, ready: asyncio.Event) -> bool:
        """Waits for a batch. False = none came, and something that stands aside is due."""
        due = self._aside.next_due(tp) if self._aside is not None else None
        timeout = None if due is None else max(0.0, due - self._clock.monotonic())
        try:
            await asyncio.wait_for(ready.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def _look_aside(self, tp: TopicPartition) -> None:
        """Work without records: nothing of it is acknowledged, as nothing of it was read."""
        async with self.slots:
            self.in_hand += 1
            try:
                await self._work(tp, [], Hold(self, tp))
            finally:
                self.in_hand -= 1

    async def _step(self, tp: TopicPartition, queue: "deque[Batch]") -> None:
        async with self.slots:
            batches = _merged(queue)
            if not batches:
                return
            self.in_hand += 1
            try:
                await self._work(tp, [record for batch in batches for record in batch.records], Hold(self, tp))
                failpoint(f"{self._stage}_before_acknowledge")
                for batch in batches:
                    batch.acknowledge()
            finally:
                self.in_hand -= 1


def _merged(queue: "deque[Batch]") -> list[Batch]:
    """The first batches that wait, as many as one piece of work may hold; those that were given up are dropped."""
    batches: list[Batch] = []
    size = 0
    while queue and (not batches or size + len(queue[0].records) <= MERGE_RECORDS):
        batch = queue.popleft()
        if batch.live:
            batches.append(batch)
            size += len(batch.records)
    return batches
