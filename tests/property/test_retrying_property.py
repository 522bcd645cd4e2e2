"""Retrying against a scripted sink: whatever the sink answers, each write ends once and no wait is cut short."""

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from connectors.contract import Capabilities, Idempotency
from connectors.errors import AuthExpired, Rejected, Retriable, SystemFault, Throttled, Unknown
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


class ScriptedSink:
    """A target that keeps its promises for its idempotency class and otherwise answers as scripted."""

    def __init__(self, clock: HandClock, idempotency: Idempotency, single: bool, calls: list[str], answers: list[str]):
        self.capabilities = Capabilities(idempotency, per_record_results=single)
        self._clock, self._calls, self._answers = clock, calls, answers
        self.effects: Counter[str] = Counter()
        self.done: dict[str, Receipt] = {}
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
            raise Unknown("no answer")
        wait = max((receipt.retry_after or 0.0 for receipt in receipts), default=0.0)
        self.not_before = self._clock.monotonic() + wait
        return receipts

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
        assert idempotency in REPEATABLE or not sink.effects
        return
    assert len(receipts) == count
    for write, receipt in zip(writes, receipts, strict=True):
        assert receipt.attempts >= 1
        if receipt.outcome is Outcome.APPLIED:
            assert sink.effects[write.write_id] == 1
        if receipt.outcome is Outcome.REJECTED and receipt.code == "22001":
            assert write.write_id in sink.poison
        if receipt.outcome is Outcome.UNKNOWN:
            assert idempotency not in REPEATABLE
        if receipt.outcome is Outcome.RETRY and idempotency not in REPEATABLE:
            assert sink.effects[write.write_id] == 0, "a record that has had its effect is not offered for another"
