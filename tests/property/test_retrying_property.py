"""Retrying against a scripted sink: whatever the sink answers, each write ends once and no wait is cut short."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from connectors.contract import Capabilities, Idempotency
from connectors.errors import AuthExpired, Rejected, Retriable, SystemFault, Throttled, Unknown
from connectors.refusals import IN_A_ROW, is_suspected
from connectors.retry import Retrying
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.write import Write

REPEATABLE = {Idempotency.NATURAL, Idempotency.KEY, Idempotency.LEDGER}
ANSWERS = ["applied", "unchanged", "stale", "conflict", "rejected", "retry", "retry_after", "unknown", "lost_reply"]
CALLS = ["work", "retriable", "throttled", "unknown_before", "unknown_after", "auth", "fault"]


class HandClock:
    """Time that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2013, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def sleep(self, seconds: float, interrupt: threading.Event | None = None) -> bool:
        if interrupt is not None and interrupt.is_set():
            return True
        self.seconds += seconds
        return False


SETTLE = 2.0
"""Seconds until a write whose answer was lost can be found in the target."""


class ScriptedSink:
    """A target that keeps its promises for its idempotency class and otherwise answers as scripted."""

    def __init__(self, clock: HandClock, idempotency: Idempotency, single: bool, calls: list[str], answers: list[str]):
        self.capabilities = Capabilities(idempotency, per_record_results=single, settle=SETTLE)
        self._clock, self._calls, self._answers = clock, calls, answers
        self.effects: Counter[str] = Counter()
        self.done: dict[str, Receipt] = {}
        self.shows_at: dict[str, float] = {}
        self.not_before = 0.0
        self.early = 0
        self.poison: set[str] = set()

    def open(self) -> None: ...
    def close(self) -> None: ...

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        assert writes, "an empty call"
        self.early += self._clock.monotonic() < self.not_before
        self._clock.seconds += 0.01
        call = self._calls.pop(0) if self._calls else "work"
        if call == "retriable":
            raise Retriable("away")
        if call == "throttled":
            self.not_before = self._clock.monotonic() + 3.0
            raise Throttled("slow down", retry_after=3.0)
        if call == "auth":
            raise AuthExpired("log in")
        if call == "fault":
            raise SystemFault("right revoked")
        if call == "unknown_before":
            raise Unknown("no answer")
        if not self.capabilities.per_record_results and any(write.write_id in self.poison for write in writes):
            raise Rejected("one of them", code="22001")
        receipts = [self._apply(write) for write in writes]
        if call == "unknown_after":
            self.shows_at |= {write.write_id: self._clock.seconds + SETTLE for write in writes}
            raise Unknown("no answer")
        wait = max((receipt.retry_after or 0.0 for receipt in receipts), default=0.0)
        self.not_before = self._clock.monotonic() + wait
        return receipts

    def happened(self, writes: Sequence[Write], deadline: float) -> list[Receipt | None]:
        """What the target has, as far as it shows it by now."""
        self._clock.seconds += 0.01
        call = self._calls.pop(0) if self._calls else "work"
        if call in {"retriable", "throttled"}:
            raise Retriable("away")
        if call.startswith("unknown"):
            raise Unknown("no answer")
        return [
            self.done.get(write.write_id)
            if self._clock.seconds >= self.shows_at.get(write.write_id, 0.0) and self.effects[write.write_id]
            else None
            for write in writes
        ]

    def _apply(self, write: Write) -> Receipt:
        if write.write_id in self.done and self.capabilities.idempotency in REPEATABLE:
            return self.done[write.write_id]
        answer = self._answers.pop(0) if self._answers else "applied"
        match answer:
            case "retry":
                return Receipt(Outcome.RETRY)
            case "retry_after":
                return Receipt(Outcome.RETRY, retry_after=2.0)
            case "unknown":
                return Receipt(Outcome.UNKNOWN)
            case "lost_reply":
                self._effect(write, Outcome.APPLIED)
                self.shows_at[write.write_id] = self._clock.seconds + SETTLE
                return Receipt(Outcome.UNKNOWN)
            case "applied":
                return self._effect(write, Outcome.APPLIED)
        return Receipt(Outcome(answer))

    def _effect(self, write: Write, outcome: Outcome) -> Receipt:
        self.effects[write.write_id] += 1
        self.done[write.write_id] = Receipt(outcome)
        return self.done[write.write_id]


@given(
    count=st.integers(1, 8),
    idempotency=st.sampled_from(list(Idempotency)),
    single=st.booleans(),
    calls=st.lists(st.sampled_from(CALLS), max_size=12),
    answers=st.lists(st.sampled_from(ANSWERS), max_size=40),
    poison=st.sets(st.integers(0, 7)),
    seconds=st.floats(0.05, 60.0),
)
def test_every_write_ends_with_one_receipt_and_at_most_one_effect(
    count: int,
    idempotency: Idempotency,
    single: bool,
    calls: list[str],
    answers: list[str],
    poison: set[int],
    seconds: float,
) -> None:
    """I2, I7: one receipt each, in order; no call before its time; no effect twice, whatever the class."""
    clock = HandClock()
    sink = ScriptedSink(clock, idempotency, single, list(calls), list(answers))
    sink.poison = {f"w{i}" for i in poison}
    writes = [Write(f"w{i}", {"id": i}, {"value": i}, "0000.00000000000000000001.0000") for i in range(count)]
    retrying = Retrying(sink, clock=clock)

    failure: Exception | None = None
    receipts: list[Receipt] = []
    try:
        receipts = retrying.put(writes, seconds)
    except (Retriable, AuthExpired, SystemFault) as error:
        failure = error

    assert sink.early == 0
    assert all(times == 1 for times in sink.effects.values())
    if failure is not None:
        assert idempotency is not Idempotency.NONE or not sink.effects
        return
    assert len(receipts) == count
    for write, receipt in zip(writes, receipts, strict=True):
        assert receipt.attempts >= 1
        if receipt.outcome is Outcome.APPLIED:
            assert sink.effects[write.write_id] == 1
        if receipt.outcome is Outcome.REJECTED and receipt.code == "22001":
            assert write.write_id in sink.poison
        if receipt.outcome is Outcome.UNKNOWN:
            assert idempotency is Idempotency.NONE
        if receipt.outcome is Outcome.RETRY and idempotency is Idempotency.NONE:
            assert sink.effects[write.write_id] == 0, "a record that has had its effect is not offered for another"


def passed(retrying: Retrying, writes: Sequence[Write], deadline: float) -> list[Receipt]:
    """What a hub gets that treats a system's failure as `retry` for every write of the call."""
    try:
        return retrying.put(writes, deadline)
    except (Retriable, AuthExpired, SystemFault):
        return [Receipt(Outcome.RETRY)] * len(writes)


def open_ones(writes: Sequence[Write], receipts: Sequence[Receipt]) -> list[Write]:
    return [write for write, receipt in zip(writes, receipts, strict=True) if receipt.outcome is Outcome.RETRY]


CRASHES: dict[Idempotency, Callable[[Sequence[Write], Sequence[Receipt]], list[Write]]] = {
    each: (open_ones if each is Idempotency.NONE else lambda writes, _: list(writes)) for each in Idempotency
}
"""What comes again after a crash that forgot every receipt. Of the class none only what is known to be undone does:
the hub notes an intent before it sends, and puts the rest into the list of doubts."""


@given(
    count=st.integers(1, 6),
    idempotency=st.sampled_from(list(Idempotency)),
    single=st.booleans(),
    lives=st.lists(
        st.tuples(
            st.lists(st.sampled_from(CALLS), max_size=6),
            st.lists(st.sampled_from(ANSWERS), max_size=12),
            st.sampled_from([0.5, 1.0, 5.0, 20.0]),
            st.booleans(),
        ),
        min_size=2,
        max_size=4,
    ),
)
@example(1, Idempotency.READBACK, True, [(["work", "unknown_after"], [], 1.0, False), ([], [], 20.0, False)])
@example(2, Idempotency.READBACK, True, [(["work"], ["lost_reply", "applied"], 1.0, False), ([], [], 20.0, False)])
def test_a_target_that_loses_answers_sees_no_effect_twice_over_many_lives_of_a_worker(
    count: int, idempotency: Idempotency, single: bool, lives: list[tuple[list[str], list[str], float, bool]]
) -> None:
    """I2: the writes come once more, at once or after a crash; the target shows what it did after `settle`."""
    clock = HandClock()
    sink = ScriptedSink(clock, idempotency, single, [], [])
    retrying = Retrying(sink, clock=clock)
    writes = [Write(f"w{i}", {"id": i}, {"value": i}, "0000.00000000000000000001.0000") for i in range(count)]
    todo = writes
    for calls, answers, seconds, crash in lives:
        sink._calls, sink._answers = list(calls), list(answers)
        receipts = passed(retrying, todo, clock.seconds + seconds)
        todo = CRASHES[idempotency](todo, receipts)
        if crash:
            retrying = Retrying(sink, clock=clock)
            clock.seconds += SETTLE
        sink.not_before = 0.0
        if not todo:
            break
    assert all(times == 1 for times in sink.effects.values())


@given(count=st.integers(IN_A_ROW, 200), good=st.integers(0, 60), single=st.booleans())
def test_a_system_that_refuses_everything_is_not_asked_for_everything(count: int, good: int, single: bool) -> None:
    """I7: what is not sure to be refused for its own sake is held and not refused."""
    clock = HandClock()
    sink = ScriptedSink(clock, Idempotency.LEDGER, single, [], ["applied"] * good + ["rejected"] * 1000)
    sink.poison = {f"w{i}" for i in range(good, good + count)}
    writes = [Write(f"w{i}", {"id": i}, {"value": i}, "0") for i in range(good + count)]
    receipts = Retrying(sink, clock=clock).put(writes, 60.0)
    refused = [receipt for receipt in receipts if receipt.outcome is Outcome.REJECTED]
    assert len(refused) == IN_A_ROW
    assert sum(receipt.outcome is Outcome.APPLIED for receipt in receipts) == good
    assert [is_suspected(receipt) for receipt in receipts].count(True) == count - IN_A_ROW
