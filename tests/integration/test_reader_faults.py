"""The reader and its lanes when something else than work goes wrong: who comes again, who takes over, who is told."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from flow import Flow, Member, eventually, take, until

from connectors.clock import SystemClock
from connectors.errors import Fatal
from crossdock.broker import Broker
from crossdock.ports import free_port
from streams.runtime import insides, watchdog
from streams.runtime.group import Group
from streams.runtime.kafka import ConsumerRecord, Kafka
from streams.runtime.lanes import Hold
from streams.runtime.ownership import Ownership
from streams.runtime.publisher import Outgoing
from streams.runtime.transaction import TaskTransactions
from streams.topics import Topic

PLUGINS = Path(__file__).parents[1] / "plugins"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


async def crashed(member: Member) -> BaseException | None:
    await asyncio.wait_for(member.reader.wait_until_stopped(), 30)
    reason: BaseException | None = member.reader.crash_reason
    return reason


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(0), RecursionError("x"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_work_raises_ends_the_worker_and_acknowledges_nothing(flow: Flow, error: BaseException) -> None:
    """I1, I10: a lane that was cancelled by its own work would else stand still, and its partition with it."""

    async def broken(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        raise error

    await flow.produce(10)
    member = await flow.join(broken)
    await until(lambda: bool(member.failures))
    assert member.failures == [error]
    await member.stop()
    assert (await asyncio.to_thread(flow.committed))[0] == 0


async def test_what_fails_while_partitions_change_hands_ends_the_worker(flow: Flow) -> None:
    """I10: aiokafka would log it, and the reader would go on with partitions that it was not given."""
    member = await flow.join()
    abandon = member.reader.abandon

    async def fails() -> None:
        member.reader.abandon = abandon
        raise ZeroDivisionError("a defect")

    member.reader.abandon = fails
    await flow.join(instance="1")
    assert isinstance(await crashed(member), ZeroDivisionError)


async def test_a_reader_that_can_read_no_more_ends_the_worker(flow: Flow) -> None:
    """I10: aiokafka would find nothing, for ever."""
    member = await flow.join()
    assert member.reader._consumer is not None
    member.reader._consumer._fetcher._fetch_task.cancel()
    assert isinstance(await crashed(member), insides.Dead)


async def test_work_that_hangs_ends_the_worker_and_work_that_waits_for_a_sick_system_does_not(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: the watchdog's minutes are shortened to tenths of seconds."""
    for name, seconds in (("QUIET", 0.5), ("STUCK", 1.5), ("LOOK_EVERY", 0.1)):
        monkeypatch.setattr(watchdog, name, seconds)

    async def hangs_or_holds(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        while tp.partition == 1:
            await hold(0.05)
        await asyncio.Event().wait()

    await flow.produce(1, partition=1)
    member = await flow.join(hangs_or_holds, drain=0.1)
    kafka, clock = Kafka(flow.bootstrap), SystemClock()
    nothing = Ownership(Group("none", (), "0", 0.1), kafka, clock, {})
    dog = watchdog.Watchdog(kafka, clock, [member.reader], nothing, [])
    await dog.start()
    ended = asyncio.ensure_future(dog.wait_until_stopped())
    done, _ = await asyncio.wait({ended}, timeout=4)
    assert not done, "what holds is not stuck"
    await flow.produce(1, partition=0)
    await asyncio.wait_for(ended, 30)
    assert isinstance(dog.crash_reason, watchdog.Stuck)
    assert f"{flow.group} {flow.topic}/0 has done nothing" in str(dog.crash_reason)
    assert member.reader.work_raised
    await dog.stop()


async def test_two_workers_of_one_name_end_with_a_message_that_says_what_to_do(flow: Flow) -> None:
    """I2, I10: they would else take the group from each other for ever, and do everything twice and more."""
    first = await flow.join(instance="same")
    second = await flow.join(instance="same")
    reason = await crashed(first)
    assert isinstance(reason, Fatal)
    assert str(reason) == (
        f"another process joined {flow.group} as instance 'same'; give each worker an --instance of its own"
    )
    assert second.reader.group == first.reader.group


async def killed(member: Member) -> None:
    """What the broker sees of SIGKILL: the connections of a static member end, and nothing is said or committed."""
    consumer, member.reader._consumer = member.reader._consumer, None
    assert consumer is not None
    await consumer.stop()
    await member.stop()


async def test_a_worker_that_comes_again_at_once_has_its_partitions_and_disturbs_nobody(flow: Flow) -> None:
    """I6, I10: a static member is given what it had, without a new round for the others."""
    first, other = await flow.join(instance="0"), await flow.join(instance="1")
    await until(lambda: len(first.reader.assigned) == len(other.reader.assigned) == 1)
    had, epoch = first.reader.assigned, other.reader.epoch
    await killed(first)
    began = asyncio.get_running_loop().time()
    again = await flow.join(instance="0")
    (tp,) = had
    await flow.produce(5, tp.partition)
    await flow.until_committed(5, tp.partition)
    took = asyncio.get_running_loop().time() - began
    print(f"committed {took:.1f} s after it came again")
    assert again.reader.assigned == had
    assert other.reader.epoch == epoch, "the other was disturbed"
    assert took < 8, "that is as long as a session"


async def test_who_gave_work_up_that_may_still_run_does_not_say_that_it_leaves(flow: Flow) -> None:
    """I2: the next owner would begin while the call is still out; so it waits until this process is surely dead."""
    in_hand = asyncio.Event()

    async def hangs(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
        in_hand.set()
        await asyncio.sleep(60)

    await flow.produce(1)
    member = await flow.join(hangs, drain=0.2)
    await in_hand.wait()
    await member.stop()
    assert await asyncio.to_thread(flow.members_at_the_broker) == 1
    again = await flow.join(take)
    await flow.until_committed(1)
    await again.stop()
    assert await asyncio.to_thread(flow.members_at_the_broker) == 0


async def test_a_zombie_that_wakes_after_its_session_is_fenced_and_its_acknowledgements_count_for_nothing(
    flow: Flow, caplog: pytest.LogCaptureFixture
) -> None:
    """I1, I2: SIGSTOP for longer than a session of 10 s, then SIGCONT."""
    await flow.produce(5)
    name = f"{flow.topic}.task"
    zombie = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "zombie", flow.bootstrap, flow.topic, name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PLUGINS)},
    )
    assert zombie.stdout is not None
    assert zombie.stdin is not None
    try:
        assert await asyncio.wait_for(zombie.stdout.readline(), 60) == b"works\n"
        zombie.send_signal(signal.SIGSTOP)
        heir = await flow.join()
        async with TaskTransactions(Kafka(flow.bootstrap), name) as transactions:
            await transactions.commit({Topic(flow.topic, 2): [Outgoing(b"k", b"from the heir", partition=1)]})
        await until(lambda: len(heir.handled) >= 6)
        await flow.until_committed(5)
        await flow.produce(3)
        await flow.until_committed(8)
        zombie.send_signal(signal.SIGCONT)
        zombie.stdin.write(b"go\n")
        lines = [(await asyncio.wait_for(zombie.stdout.readline(), 60)).decode().strip() for _ in range(2)]
        assert lines == ["transaction NotMine", "joined again, failures 0"]
        assert await asyncio.wait_for(zombie.wait(), 30) == 0
    finally:
        if zombie.returncode is None:
            zombie.kill()
            await zombie.wait()
    assert (await asyncio.to_thread(flow.committed))[0] >= 8, "the zombie moved the group back"
    assert {record.value for record in heir.handled if record.partition == 1} == {b"from the heir"}
    await eventually(lambda: asyncio.to_thread(lambda: flow.members_at_the_broker() == 1))
