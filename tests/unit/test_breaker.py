"""The breaker and the brake, in hand-moved time."""

from hand_clock import HandClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.write import Write
from streams.brake import IN_A_ROW, Brake
from streams.breaker import INTERVAL, Breaker


def test_a_closed_breaker_lets_everybody_call() -> None:
    breaker = Breaker(HandClock())
    assert breaker.wait() == 0
    with breaker.calling() as first, breaker.calling() as second:
        assert (first, second) == (False, False)


def test_an_open_breaker_lets_one_record_through_every_five_seconds() -> None:
    """I8: while it is open nothing but probes."""
    clock = HandClock()
    breaker = Breaker(clock)
    assert breaker.failed("no answer")
    assert breaker.wait() == INTERVAL
    clock.seconds += INTERVAL
    with breaker.calling() as probe:
        assert probe
        assert breaker.wait() > 0, "nobody else calls while a probe is out"
        assert not breaker.failed("no answer")
    assert breaker.wait() == INTERVAL
    clock.seconds += INTERVAL
    assert breaker.wait() == 0


def test_a_probe_that_is_given_up_leaves_the_way_to_the_next() -> None:
    clock = HandClock()
    breaker = Breaker(clock)
    breaker.failed("no answer")
    clock.seconds += INTERVAL
    with breaker.calling():
        pass
    assert breaker.wait() == 0


def test_a_worker_with_a_third_of_the_partitions_probes_a_third_as_often() -> None:
    breaker = Breaker(HandClock())
    breaker.share = lambda: 1 / 3
    breaker.failed("no answer")
    assert round(breaker.wait()) == 3 * INTERVAL


def test_a_system_that_names_a_time_is_not_asked_before() -> None:
    breaker = Breaker(HandClock())
    breaker.failed("busy", retry_after=60)
    assert breaker.wait() == 60


class BreakerRules(RuleBasedStateMachine):
    """Whatever happens: at most one probe in an interval, and an open breaker is opened again by what works."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.breaker = Breaker(self.clock)
        self.probes: list[float] = []

    @rule(seconds=st.floats(0.01, 20))
    def time_passes(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule(works=st.booleans())
    def somebody_calls(self, works: bool) -> None:
        if self.breaker.wait() > 0:
            return
        with self.breaker.calling() as probe:
            if probe:
                self.probes.append(self.clock.seconds)
            if works:
                self.breaker.succeeded()
            else:
                self.breaker.failed("no answer")

    @precondition(lambda self: not self.breaker.is_open)
    @rule()
    def a_call_that_was_out_fails(self) -> None:
        self.breaker.failed("no answer")
        self.probes.clear()

    @invariant()
    def probes_keep_their_distance(self) -> None:
        pairs = zip(self.probes, self.probes[1:], strict=False)
        assert all(later - earlier >= INTERVAL - 1e-6 for earlier, later in pairs)

    @invariant()
    def the_way_is_never_closed_for_ever(self) -> None:
        assert self.breaker.wait() <= INTERVAL + 1e-6


BreakerRules.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBreakerRules = BreakerRules.TestCase


def a_write(number: int, cause: str = "live") -> Write:
    return Write(f"hub/p/w/s/t/{number}@1~ab/{cause}", {"id": number}, {}, "1")


REFUSED = Receipt(Outcome.REJECTED, code="23514", reason="violates check constraint of row 17")
APPLIED = Receipt(Outcome.APPLIED)


def tripped(brake: Brake, *receipts: Receipt, cause: str = "live") -> int | None:
    """After how many the brake spoke."""
    for number, receipt in enumerate(receipts, 1):
        if brake.note(a_write(number, cause), receipt) is not None:
            return number
    return None


def test_twenty_refusals_of_one_kind_in_a_row_are_one_too_many() -> None:
    assert tripped(Brake(), *[REFUSED] * 100) == IN_A_ROW


def test_one_that_is_applied_in_between_begins_the_row_anew() -> None:
    assert tripped(Brake(), *[*[REFUSED] * 19, APPLIED] * 2) is None


def test_refusals_of_different_kinds_are_bad_records() -> None:
    kinds = [Receipt(Outcome.REJECTED, code=str(number), reason="no") for number in range(100)]
    assert tripped(Brake(), *kinds) is None


def test_a_twentieth_of_the_last_thousand_is_too_many() -> None:
    receipts = [REFUSED if number % 20 == 0 else APPLIED for number in range(2000)]
    assert tripped(Brake(), *receipts) == 49 * 20 + 1
    rare = [REFUSED if number % 25 == 0 else APPLIED for number in range(2000)]
    assert tripped(Brake(), *rare) is None


def test_replays_do_not_count_because_a_person_asked_for_them() -> None:
    assert tripped(Brake(), *[REFUSED] * 100, cause="replay:1") is None


def test_a_decision_begins_the_count_anew_once() -> None:
    brake = Brake()
    assert tripped(brake, *[REFUSED] * 19) is None
    brake.decided("2026-01-01")
    assert tripped(brake, *[REFUSED] * 19) is None
    brake.decided("2026-01-01")
    assert tripped(brake, REFUSED) == 1
