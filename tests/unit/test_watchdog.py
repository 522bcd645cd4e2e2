"""The watchdog in hand-moved time: what it takes for stuck, what it lets be, and how it tells a blocked loop."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hand_clock import HandClock

from streams.metrics import METRICS
from streams.runtime import watchdog as module
from streams.runtime.pulse import Pulse
from streams.runtime.watchdog import BLOCKED, QUIET, STUCK, Outside, Stuck, Watchdog


@dataclass
class Group:
    name: str = "hub.write.erp"


@dataclass
class StandIn:
    """What the watchdog sees of a reader, of the source tasks, of a pool of threads and of the broker."""

    pulses: list[Pulse] = field(default_factory=list)
    group: Group = field(default_factory=Group)
    oldest_open: float = 0.0
    open_records: int = 0
    work_raised: bool = False
    late: list[tuple[str, float]] = field(default_factory=list)
    answers: bool = True

    def overdue(self) -> list[tuple[str, float]]:
        return self.late

    def client(self) -> "StandIn":
        return self

    async def bootstrap(self) -> None:
        if not self.answers:
            raise TimeoutError

    async def close(self) -> None: ...


class Kennel:
    """A watchdog, and what it looks at."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.reader, self.tasks, self.threads, self.broker = StandIn(), StandIn(), StandIn(), StandIn()
        made: Any = Watchdog
        self.dog: Watchdog = made(self.broker, self.clock, [self.reader], self.tasks, [self.threads])

    def pulse(self, of: StandIn | None = None) -> Pulse:
        pulse = Pulse("hub.write.erp t/0", self.clock)
        (of or self.reader).pulses.append(pulse)
        return pulse

    async def pass_by(self, seconds: float, each: Callable[[], object] = lambda: None) -> None:
        """Looks every five seconds, as it does by itself."""
        for _ in range(int(seconds // 5)):
            self.clock.seconds += 5
            each()
            await self.dog.look()


@pytest.fixture
def kennel() -> Kennel:
    return Kennel()


async def test_a_lane_that_does_nothing_for_long_ends_the_process_and_counts_as_a_crash_of_its_record(
    kennel: Kennel, caplog: pytest.LogCaptureFixture
) -> None:
    """I10"""
    kennel.pulse()
    await kennel.pass_by(STUCK - 5)
    assert "progress.stuck what=hub.write.erp t/0 seconds=65 broker_answers=for 0 s" in caplog.text
    assert caplog.text.count("progress.stuck") == 4, "once a minute"
    assert not kennel.reader.work_raised
    with pytest.raises(Stuck, match=r"hub\.write\.erp t/0 has done nothing for 305 s"):
        await kennel.pass_by(10)
    assert kennel.reader.work_raised


async def test_a_lane_that_does_something_now_and_then_or_rests_is_let_be(kennel: Kennel) -> None:
    """A slow target that answers each call, and one that is held for an hour, are no reason."""
    busy, resting = kennel.pulse(), kennel.pulse()
    with resting.rest():
        await kennel.pass_by(3600, busy.beat)


async def test_a_lane_that_waits_for_a_broker_that_is_away_is_let_be_until_it_has_been_back_for_long(
    kennel: Kennel,
) -> None:
    """I10: an outage of an hour restarts nothing; a producer that does not recover from it does."""
    kennel.pulse()
    kennel.broker.answers = False
    await kennel.pass_by(3600)
    kennel.broker.answers = True
    await kennel.pass_by(STUCK - QUIET)
    with pytest.raises(Stuck):
        await kennel.pass_by(10)


async def test_a_source_task_that_does_nothing_for_long_ends_the_process(kennel: Kennel) -> None:
    """I10"""
    kennel.pulse(kennel.tasks)
    with pytest.raises(Stuck):
        await kennel.pass_by(STUCK + 10)


async def test_a_call_that_does_not_return_long_after_its_deadline_ends_the_process(
    kennel: Kennel, caplog: pytest.LogCaptureFixture
) -> None:
    """I10: its thread is lost, and with the last one its system would stand still for ever."""
    kennel.threads.late = [("Sink.put", QUIET + 1)]
    await kennel.dog.look()
    assert "progress.stuck what=call Sink.put seconds=61" in caplog.text
    kennel.threads.late = [("Sink.put", STUCK + 1)]
    with pytest.raises(Stuck, match=r"call Sink\.put is 301 s beyond its deadline"):
        await kennel.dog.look()


def test_lag_is_measured_and_told_once_a_minute(kennel: Kennel, caplog: pytest.LogCaptureFixture) -> None:
    kennel.reader.oldest_open, kennel.reader.open_records = 7.0, 42
    kennel.dog._measure(2.5)
    kennel.dog._measure(0.0)
    kennel.dog._measure(3.0)
    assert caplog.text.count("loop.lagged") == 1
    assert METRICS.value("crossdock_loop_lag_seconds") == 3.0
    assert METRICS.value("crossdock_oldest_open_seconds", "hub.write.erp") == 7.0
    assert METRICS.value("crossdock_open_records", "hub.write.erp") == 42
    for _ in range(module.WORST_OF):
        kennel.dog._measure(0.25)
    assert METRICS.value("crossdock_loop_lag_seconds") == 0.25


async def test_a_loop_that_is_blocked_is_told_with_its_place_and_then_ends_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """I10: a blocked loop can neither see itself nor hear a signal's task."""
    left: list[int] = []
    outside = Outside(left.append, every=0.001)
    outside.start()
    outside.join(20)  # the loop stands still here
    assert left == [1]
    assert f"loop.blocked looks={BLOCKED}" in caplog.text
    assert "test_a_loop_that_is_blocked" in caplog.text


async def test_a_loop_that_runs_is_let_be_until_its_watchdog_stops() -> None:
    left: list[int] = []
    outside = Outside(left.append, every=0.002)
    outside.start()
    for _ in range(200):
        outside.ticks += 1
        await asyncio.sleep(0.002)
    outside.over.set()
    await asyncio.to_thread(outside.join, 20)
    assert left == []
