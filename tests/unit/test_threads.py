"""Calls of connectors in their threads: how each thing that they may raise arrives, and which of them are overdue."""

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator

import pytest
from hand_clock import HandClock

from connectors.errors import Retriable
from streams.runtime.pulse import Pulse, living
from streams.runtime.threads import Defect, Threads


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def threads(clock: HandClock) -> AsyncIterator[Threads]:
    pool = Threads("test", 2, 10.0, clock)
    yield pool
    pool.shutdown()


def raising(error: BaseException) -> None:
    raise error


async def in_thread(threads: Threads, error: BaseException) -> BaseException:
    try:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().run_in_executor(threads, raising, error)
    except BaseException as raised:  # noqa: BLE001 - they are what is looked at
        return raised
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        StopIteration(),
        SystemExit(0),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_no_connector_may_raise_arrives_as_a_defect(threads: Threads, error: BaseException) -> None:
    """I10: a future would wait for ever, the process would end as if all were well, or its task without a word."""
    raised = await in_thread(threads, error)
    assert isinstance(raised, Defect)
    assert raised.__cause__ is error
    assert "raising raised" in str(raised)


@pytest.mark.parametrize("error", [Retriable("away"), ZeroDivisionError(), MemoryError(), RecursionError()])
async def test_what_a_connector_may_raise_and_what_is_a_plain_defect_arrive_as_they_are(
    threads: Threads, error: BaseException
) -> None:
    assert await in_thread(threads, error) is error


async def test_a_call_that_is_not_back_in_time_is_known_until_it_returns(threads: Threads, clock: HandClock) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hangs() -> None:
        begun.set()
        go_on.wait()

    call = asyncio.get_running_loop().run_in_executor(threads, hangs)
    await asyncio.to_thread(begun.wait)
    clock.seconds += 9
    assert list(threads.overdue()) == []
    clock.seconds += 3
    ((what, seconds),) = threads.overdue()
    assert what.endswith("hangs")
    assert seconds == 2.0
    call.cancel()  # nobody waits for it any more, and it still holds its thread
    assert len(list(threads.overdue())) == 1
    go_on.set()
    while list(threads.overdue()):  # noqa: ASYNC110 - a thread's end
        await asyncio.sleep(0.01)


async def test_each_return_is_a_beat_of_whoever_called(threads: Threads, clock: HandClock) -> None:
    pulse = Pulse("lane", clock)
    clock.seconds += 50
    assert pulse.silent == 50
    with living(pulse):
        await asyncio.get_running_loop().run_in_executor(threads, int)
    assert pulse.silent == 0
    clock.seconds += 50
    with pulse.rest():
        assert pulse.silent == 0
        with pulse.rest():
            clock.seconds += 50
        assert pulse.silent == 0
    assert pulse.silent == 0
