"""The reader and its lanes against a real broker: what is committed, when, and what happens when work goes wrong."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from aiokafka import TopicPartition
from flow import PARTITIONS, Flow, Member, Work, eventually, take, until

from crossdock.broker import Broker
from crossdock.ports import free_port
from streams.runtime.attempts import CRASHES
from streams.runtime.kafka import ConsumerRecord
from streams.runtime.lanes import MERGE_RECORDS, Hold
from streams.runtime.reader import Batch
from streams.runtime.window import READ_RECORDS, WINDOW_RECORDS


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


async def test_an_offset_is_committed_only_after_its_work_has_returned(flow: Flow) -> None:
    """I1: two regular commits go by while the work is in hand."""
    in_hand, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        in_hand.set()
        await go_on.wait()
        member.handled += records

    await flow.produce(10)
    member = await flow.join(slowly)
    await in_hand.wait()
    await member.reader._commit()
    await member.reader._commit()
    assert (await asyncio.to_thread(flow.committed))[0] == 0
    go_on.set()
    await flow.until_committed(10)
    assert member.offsets(0) == list(range(10))


async def test_records_of_one_partition_are_worked_on_in_order_and_partitions_beside_each_other(flow: Flow) -> None:
    """I3: and the merged work is never larger than a statement should be."""
    sizes: list[int] = []

    async def slowly(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        sizes.append(len(records))
        await asyncio.sleep(0.01)
        member.handled += records

    for partition in range(PARTITIONS):
        await flow.produce(2500, partition)
    member = await flow.join(slowly)
    for partition in range(PARTITIONS):
        await flow.until_committed(2500, partition)
        assert member.offsets(partition) == list(range(2500))
    assert max(sizes) <= MERGE_RECORDS


async def test_a_full_partition_waits_and_the_other_goes_on(flow: Flow) -> None:
    """I5: what was delivered and not acknowledged is bounded, whatever the lag."""
    go_on = asyncio.Event()

    async def stuck(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        if tp.partition == 0:
            await go_on.wait()
        member.handled += records

    for partition in range(PARTITIONS):
        await flow.produce(3 * WINDOW_RECORDS, partition)
    member = await flow.join(stuck)
    await flow.until_committed(3 * WINDOW_RECORDS, 1)
    waiting = member.reader._open[TopicPartition(flow.topic, 0)].records
    assert WINDOW_RECORDS <= waiting < WINDOW_RECORDS + READ_RECORDS
    go_on.set()
    await flow.until_committed(3 * WINDOW_RECORDS, 0)
    assert member.offsets(0) == list(range(3 * WINDOW_RECORDS))


async def test_a_late_acknowledgement_of_a_partition_that_was_given_up_commits_nothing(flow: Flow) -> None:
    """I1: its records come again, to the new owner."""
    batches: list[Batch] = []
    await flow.produce(5)
    first = await flow.join(drain=0.1)
    await until(lambda: len(first.handled) == 5)
    await flow.until_committed(5)
    deliver = first.reader._deliver

    async def keep(batch: Batch) -> None:
        batches.append(batch)

    first.reader._deliver = keep
    await flow.produce(5)
    await until(lambda: bool(batches))
    await first.reader.on_partitions_revoked(set())
    batches[0].acknowledge()
    await first.reader._commit()
    assert (await asyncio.to_thread(flow.committed))[0] == 5
    first.reader._deliver = deliver
    await first.stop()
    second = await flow.join(instance="1")
    await until(lambda: len(second.handled) == 5)
    assert second.offsets(0) == [5, 6, 7, 8, 9]


async def test_members_that_come_and_go_skip_nothing(flow: Flow) -> None:
    """I1, I3: at least once, and each member's own deliveries are in order."""
    handled: dict[str, list[tuple[int, int]]] = {}

    def work_of(instance: str) -> Work:
        async def work(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
            await asyncio.sleep(len(records) / 500)
            handled.setdefault(instance, []).extend((record.partition, record.offset) for record in records)

        return work

    for partition in range(PARTITIONS):
        await flow.produce(4000, partition)
    first = await flow.join(work_of("0"), "0", drain=0.5)
    await until(lambda: len(handled.get("0", ())) > 500)
    second = await flow.join(work_of("1"), "1", drain=0.5)
    await until(lambda: len(handled.get("1", ())) > 500)
    await first.stop()
    for partition in range(PARTITIONS):
        await flow.until_committed(4000, partition)
    await second.stop()
    everything = {place for places in handled.values() for place in places}
    assert everything == {(partition, offset) for partition in range(PARTITIONS) for offset in range(4000)}


async def test_work_that_raises_ends_the_worker_and_acknowledges_nothing(flow: Flow) -> None:
    """I10: no lane ends silently."""

    async def broken(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        raise ZeroDivisionError("a defect")

    await flow.produce(10)
    member = await flow.join(broken)
    await until(lambda: bool(member.failures))
    assert isinstance(member.failures[0], ZeroDivisionError)
    await member.stop()
    assert (await asyncio.to_thread(flow.committed))[0] == 0


async def poisoned(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
    if tp.partition == 0:
        raise ZeroDivisionError("a record that no code survives")
    member.handled += records


async def test_a_partition_whose_first_record_crashed_three_times_is_held_and_the_others_go_on(
    flow: Flow, caplog: pytest.LogCaptureFixture
) -> None:
    """I10: the process would else crash for ever, and everything with it."""
    await flow.produce(10, 0)
    for crash in range(1, CRASHES + 1):
        member = await flow.join(poisoned)
        await until(lambda: bool(member.failures))  # noqa: B023 - waited for inside the loop
        await member.stop()
        assert await asyncio.to_thread(flow.committed) == (0, f"crossdock attempts={crash}")
    await flow.produce(10, 1)
    with caplog.at_level("ERROR"):
        survivor = await flow.join(poisoned)
        await flow.until_committed(10, 1)
    assert survivor.failures == []
    assert survivor.offsets(1) == list(range(10))
    assert f"partition.held group={flow.group} topic={flow.topic} partition=0 offset=0" in caplog.text
    await survivor.stop()
    repaired = await flow.join(take)  # an orderly restart tries it again
    await flow.until_committed(10, 0)
    assert repaired.offsets(0) == list(range(10))


async def test_the_attempt_is_with_the_broker_before_the_work_begins(flow: Flow) -> None:
    """A process that is killed writes nothing any more."""
    seen: list[tuple[int, str]] = []

    async def look(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        seen.append(await asyncio.to_thread(flow.committed))

    await flow.produce(10)
    await flow.join(look)
    await flow.until_committed(10)
    assert seen[0] == (0, "crossdock attempts=1")
    assert await asyncio.to_thread(flow.committed) == (10, "")


async def test_waiting_for_a_sick_system_is_no_attempt(flow: Flow) -> None:
    """An outage during which the worker is killed three times must not hold a partition."""
    go_on = asyncio.Event()
    noted: list[tuple[int, str]] = []

    async def waiting(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        noted.append(await asyncio.to_thread(flow.committed))
        while not go_on.is_set():
            await hold(0.05)

    await flow.produce(10)
    await flow.join(waiting)
    await until(lambda: bool(noted))
    assert noted == [(0, "crossdock attempts=1")]
    await eventually(lambda: asyncio.to_thread(lambda: flow.committed() == (0, "")))
    go_on.set()
    await flow.until_committed(10)
