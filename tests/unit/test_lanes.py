"""Lanes without a broker: what goes beside what, and what waits for whom."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from connectors.clock import SystemClock
from streams.runtime.kafka import ConsumerRecord, TopicPartition
from streams.runtime.lanes import Backfill, Hold, Lanes, Rules
from streams.runtime.pulse import Pulse
from streams.runtime.reader import Batch, Group

LIVE, LATER = TopicPartition("orders.enriched", 0), TopicPartition("orders.backfill-enriched", 0)
OTHER = TopicPartition("orders.enriched", 1)
CLOCK = SystemClock()


class Readerlike:
    """The parts of a reader that lanes know."""

    def __init__(self, name: str = "hub.crossdock.write.erp") -> None:
        self.group = Group(name, (), "0", 5.0)
        self.epoch, self.giving_up, self.work_raised = 0, False, False
        self.acknowledged: list[TopicPartition] = []

    def closed(self, batch: Batch) -> None:
        self.acknowledged.append(batch.tp)

    def waits(self, tp: TopicPartition) -> None: ...

    def pulse(self, tp: TopicPartition) -> Pulse:
        return Pulse(tp.topic, CLOCK)


def batch(reader: Readerlike, tp: TopicPartition, count: int = 1, age: float = 0.0) -> Batch:
    came = int((CLOCK.now().timestamp() - age) * 1000)
    records = [ConsumerRecord(tp.topic, tp.partition, n, came, 0, b"k", b"v", None, 0, 0, ()) for n in range(count)]
    return Batch(reader, 0, tp, records)  # type: ignore[arg-type]


@dataclass
class Bench:
    """Lanes under work that a test holds and lets go."""

    lanes: Lanes
    reader: Readerlike
    begun: list[tuple[str, int]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    channel: "asyncio.Queue[Batch]" = field(default_factory=asyncio.Queue)

    async def stream(self) -> AsyncIterator[Batch]:
        while True:
            yield await self.channel.get()

    async def put(self, *batches: Batch) -> None:
        for each in batches:
            await self.channel.put(each)

    async def until(self, what: object) -> None:
        async with asyncio.timeout(10):
            while not what():  # type: ignore[operator]  # noqa: ASYNC110 - anything may be asked
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    reader = Readerlike()
    bench: Bench

    async def work(tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        bench.begun.append((tp.topic, len(records)))
        bench.at_once += 1
        bench.most_at_once = max(bench.most_at_once, bench.at_once)
        try:
            await bench.gate.wait()
        finally:
            bench.at_once -= 1

    async def crash(error: BaseException) -> None:
        raise AssertionError(error)

    lanes = Lanes(reader, CLOCK, work, crash, request.param)  # type: ignore[arg-type]
    bench = Bench(lanes, reader)
    reader.begin([LIVE, LATER, OTHER])  # type: ignore[attr-defined]
    agent = asyncio.create_task(lanes.run(bench.stream()))
    yield bench
    agent.cancel()
    await reader.abandon()  # type: ignore[attr-defined]


YIELDING = Rules(backfills=[Backfill(LATER.topic, LIVE.topic, late=1.0, rate=None)])


@pytest.mark.parametrize("bench", [YIELDING], indirect=True)
async def test_live_and_backfill_of_one_partition_are_never_worked_on_at_once(bench: Bench) -> None:
    """A sink must never have one key in two calls; another partition goes beside."""
    await bench.put(batch(bench.reader, LIVE), batch(bench.reader, LATER))
    await bench.until(lambda: len(bench.begun) == 1)
    await bench.put(batch(bench.reader, OTHER))
    await bench.until(lambda: len(bench.begun) == 2)
    assert (LATER.topic, 1) not in bench.begun
    bench.gate.set()
    await bench.until(lambda: len(bench.reader.acknowledged) == 3)
    assert bench.begun[2] == (LATER.topic, 1)
    assert bench.most_at_once == 2


@pytest.mark.parametrize("bench", [YIELDING], indirect=True)
async def test_a_backfill_waits_while_live_records_are_late(bench: Bench) -> None:
    await bench.put(batch(bench.reader, OTHER, age=30.0))
    await bench.until(lambda: bench.begun)
    await bench.put(batch(bench.reader, LATER))
    await asyncio.sleep(0.6)  # longer than two looks: it must not have begun
    assert bench.begun == [(OTHER.topic, 1)]
    bench.gate.set()
    await bench.until(lambda: len(bench.reader.acknowledged) == 2)


@pytest.mark.parametrize(
    "bench", [Rules(backfills=[Backfill(LATER.topic, LIVE.topic, late=1.0, rate=20.0)])], indirect=True
)
async def test_a_backfill_goes_at_its_rate(bench: Bench) -> None:
    bench.gate.set()
    began = CLOCK.monotonic()
    for _ in range(3):
        await bench.put(batch(bench.reader, LATER, count=10))
        await bench.until(lambda: not bench.channel.qsize() and bench.at_once == 0)
    await bench.until(lambda: sum(count for _, count in bench.begun) == 30)
    assert CLOCK.monotonic() - began >= 0.5


@pytest.mark.parametrize("bench", [Rules(coalesce={LIVE.topic: 0.6})], indirect=True)
async def test_writes_that_may_be_coalesced_wait_for_newer_ones_and_a_backlog_does_not(bench: Bench) -> None:
    bench.gate.set()
    await bench.put(batch(bench.reader, LIVE))
    await asyncio.sleep(0.1)
    await bench.put(batch(bench.reader, LIVE), batch(bench.reader, LIVE))
    await bench.until(lambda: bench.begun)
    assert bench.begun == [(LIVE.topic, 3)]
    await bench.put(batch(bench.reader, LIVE, age=60.0))
    await bench.until(lambda: len(bench.begun) == 2)


@pytest.mark.parametrize("bench", [Rules()], indirect=True)
async def test_what_was_given_up_is_not_worked_on(bench: Bench) -> None:
    given_up = batch(bench.reader, LIVE)
    bench.reader.epoch = 1
    await bench.put(given_up)
    await bench.until(bench.channel.empty)
    assert bench.begun == []
