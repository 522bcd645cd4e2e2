"""Lanes: the records of one partition, strictly in order; partitions beside each other.

A lane merges the batches that wait into one piece of work. Its work returns = they are acknowledged; it raises = the
process crashes and they come again. There is no third way: what can be waited for is waited for inside the work.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import Literal

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


Work = Callable[[TopicPartition, Sequence[ConsumerRecord], Hold], Awaitable[None]]


class Lanes:
    """All lanes of one reader, fed by one agent."""

    def __init__(self, reader: Reader, clock: Clock, work: Work, crash: Crash) -> None:
        self.in_hand, self.slots = 0, _Slots(AT_ONCE)
        self.reader, self._clock, self._work, self._crash = reader, clock, work, crash
        self._stage = "writeback" if ".write." in reader.group.name else "enrich"
        self._queues: dict[TopicPartition, tuple[deque[Batch], asyncio.Event]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        reader.settle, reader.abandon = self._settle, self._abandon

    async def run(self, stream: AsyncIterable[Batch]) -> None:
        """The body of the agent: sorts batches into lanes, and starts a lane for a partition that is new."""
        async for batch in stream:
            if not batch.live:
                continue
            if batch.tp not in self._queues:
                self._queues[batch.tp] = (deque(), asyncio.Event())
                self._tasks.append(asyncio.create_task(self._lane(batch.tp), name=f"lane {batch.tp}"))
            queue, ready = self._queues[batch.tp]
            queue.append(batch)
            ready.set()

    async def _settle(self, deadline: float) -> None:
        while self.in_hand and self._clock.monotonic() < deadline:  # noqa: ASYNC110 - once per rebalance, no hot path
            await asyncio.sleep(0.02)

    async def _abandon(self) -> None:
        tasks, self._tasks, self._queues = self._tasks, [], {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _lane(self, tp: TopicPartition) -> None:
        queue, ready = self._queues[tp]
        try:
            with living(self.reader.pulse(tp)):
                while True:
                    while not queue:
                        ready.clear()
                        await ready.wait()
                    await self._step(tp, queue)
        except BaseException as error:  # a defect: the supervisor starts the process again
            if isinstance(error, asyncio.CancelledError) and was_cancelled():
                raise
            self.reader.work_raised = True
            await self._crash(error)

    async def _step(self, tp: TopicPartition, queue: "deque[Batch]") -> None:
        async with self.slots:
            batches = _merged(queue, min(MERGE_RECORDS, self.reader.group.batch))
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
