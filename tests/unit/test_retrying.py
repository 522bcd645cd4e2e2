"""Retrying, case by case, in hand-moved time."""

import threading
from collections.abc import Sequence

import pytest
from hand_clock import HandClock

from connectors.budget import RetryBudget
from connectors.contract import Capabilities, Idempotency, Readable
from connectors.errors import Rejected, Retriable, SystemFault, Throttled, Unknown
from connectors.refusals import SUSPECTED, Refusals, is_suspected
from connectors.retry import Retrying
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Key, Record
from schemas.write import Write

Answer = list[Receipt] | Exception


class Scripted:
    """Answers with the next entry of its script; the last one for ever."""

    def __init__(self, *script: Answer, idempotency: Idempotency = Idempotency.LEDGER) -> None:
        self.capabilities = Capabilities(idempotency, per_record_results=False)
        self._script = list(script)
        self.calls: list[list[str]] = []

    def open(self) -> None: ...
    def close(self) -> None: ...

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        self.calls.append([write.write_id for write in writes])
        answer = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Looking(Scripted):
    def read(self, keys: Sequence[Key], deadline: float) -> list[Record | None]:
        return [None for _ in keys]


APPLIED, RETRY = Receipt(Outcome.APPLIED), Receipt(Outcome.RETRY)


def writes(count: int) -> list[Write]:
    return [Write(f"w{i}", {"id": i}, {"v": i}, "0000.00000000000000000001.0000") for i in range(count)]


def test_only_the_records_that_asked_for_it_are_put_again() -> None:
    sink, clock = Scripted([APPLIED, RETRY, APPLIED], [APPLIED]), HandClock()
    receipts = Retrying(sink, clock=clock).put(writes(3), 60.0)
    assert sink.calls == [["w0", "w1", "w2"], ["w1"]]
    assert [receipt.attempts for receipt in receipts] == [1, 2, 1]
    assert all(receipt.outcome is Outcome.APPLIED for receipt in receipts)


def test_the_wait_that_the_system_asked_for_is_kept_even_where_the_backoff_is_shorter() -> None:
    sink, clock = Scripted(Throttled("slow down", retry_after=30.0), [APPLIED]), HandClock()
    Retrying(sink, clock=clock, cap=1.0).put(writes(1), 60.0)
    assert clock.naps == [30.0]


def test_backoff_stays_below_its_cap_and_differs_from_call_to_call() -> None:
    clock = HandClock()
    with pytest.raises(Retriable):
        Retrying(Scripted(Retriable("away")), clock=clock, base=0.2, cap=2.0).put(writes(1), 200.0)
    assert max(clock.naps) <= 2.0
    assert len(set(clock.naps)) > len(clock.naps) // 2


def test_a_wait_that_would_pass_the_deadline_is_not_begun() -> None:
    sink, clock = Scripted(Throttled("slow down", retry_after=30.0)), HandClock()
    with pytest.raises(Throttled):
        Retrying(sink, clock=clock).put(writes(1), 20.0)
    assert clock.naps == []
    assert len(sink.calls) == 1


def test_at_the_deadline_a_record_alone_is_a_receipt_and_a_whole_call_is_an_error() -> None:
    receipts = Retrying(Scripted([APPLIED, RETRY], [RETRY]), clock=HandClock()).put(writes(2), 5.0)
    assert [receipt.outcome for receipt in receipts] == [Outcome.APPLIED, Outcome.RETRY]
    with pytest.raises(Retriable, match="away"):
        Retrying(Scripted([APPLIED, RETRY], Retriable("away")), clock=HandClock()).put(writes(2), 5.0)


def test_a_stopping_worker_sends_nothing_before_its_time() -> None:
    stop, clock = threading.Event(), HandClock()
    clock.on_sleep = stop.set
    sink = Scripted(Throttled("slow down", retry_after=5.0))
    with pytest.raises(Throttled):
        Retrying(sink, clock=clock, stop=stop).put(writes(1), 60.0)
    assert len(sink.calls) == 1


@pytest.mark.parametrize("idempotency", [Idempotency.NATURAL, Idempotency.KEY, Idempotency.LEDGER])
def test_an_unknown_outcome_is_repeated_with_the_same_ids_where_the_class_allows(idempotency: Idempotency) -> None:
    sink = Scripted(Unknown("no answer"), [APPLIED, Receipt(Outcome.UNKNOWN)], [APPLIED], idempotency=idempotency)
    receipts = Retrying(sink, clock=HandClock()).put(writes(2), 60.0)
    assert sink.calls == [["w0", "w1"], ["w0", "w1"], ["w1"]]
    assert [receipt.outcome for receipt in receipts] == [Outcome.APPLIED, Outcome.APPLIED]


def test_an_unknown_outcome_of_class_none_is_handed_back() -> None:
    """I2: a repeat could do it twice."""
    sink = Scripted(Unknown("no answer"), idempotency=Idempotency.NONE)
    receipts = Retrying(sink, clock=HandClock()).put(writes(2), 60.0)
    assert [receipt.outcome for receipt in receipts] == [Outcome.UNKNOWN, Outcome.UNKNOWN]
    assert len(sink.calls) == 1


def test_what_was_not_sent_is_sent_again_even_of_class_none() -> None:
    sink = Scripted(Retriable("not reached"), [APPLIED], idempotency=Idempotency.NONE)
    (receipt,) = Retrying(sink, clock=HandClock()).put(writes(1), 60.0)
    assert (receipt.outcome, receipt.attempts) == (Outcome.APPLIED, 2)


class Found(Scripted):
    """Class readback: says of each write whether it happened, as scripted; the last answer for ever."""

    def __init__(self, *script: Answer, found: list[list[Receipt | None] | Exception], settle: float = 0.0) -> None:
        super().__init__(*script)
        self.capabilities = Capabilities(Idempotency.READBACK, settle=settle)
        self._found = found
        self.asked: list[list[str]] = []

    def happened(self, writes: Sequence[Write], deadline: float) -> list[Receipt | None]:
        self.asked.append([write.write_id for write in writes])
        answer = self._found.pop(0) if len(self._found) > 1 else self._found[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_write_that_can_be_found_is_looked_for_before_the_first_send() -> None:
    """I2: after a crash nobody knows what was sent."""
    sink = Found([APPLIED], found=[[APPLIED, None]])
    receipts = Retrying(sink, clock=HandClock()).put(writes(2), 60.0)
    assert sink.asked == [["w0", "w1"]]
    assert sink.calls == [["w1"]]
    assert [receipt.outcome for receipt in receipts] == [Outcome.APPLIED, Outcome.APPLIED]


def test_an_unknown_outcome_is_looked_for_once_it_can_be_found_and_only_then_sent_again() -> None:
    clock = HandClock()
    sink = Found(Unknown("no answer"), [APPLIED, Receipt(Outcome.UNKNOWN)], [APPLIED], found=[[None, None]], settle=3.0)
    sink._found = [[None, None], [None, None], [None], [None]]
    receipts = Retrying(sink, clock=clock, cap=0.01).put(writes(2), 60.0)
    assert sink.asked == [["w0", "w1"], ["w0", "w1"], ["w1"]]
    assert sink.calls == [["w0", "w1"], ["w0", "w1"], ["w1"]]
    assert [nap >= 3.0 for nap in clock.naps] == [True, True]
    assert [receipt.outcome for receipt in receipts] == [Outcome.APPLIED, Outcome.APPLIED]


def test_a_doubt_that_lasts_to_the_deadline_is_not_an_end_but_looked_for_at_the_next_put() -> None:
    sink = Found(Unknown("no answer"), found=[[None], Retriable("away")])
    with pytest.raises(Retriable, match="away"):
        Retrying(sink, clock=HandClock()).put(writes(1), 5.0)
    assert len(sink.calls) == 1
    late = Found([Receipt(Outcome.UNKNOWN)], found=[[None]], settle=30.0)
    (receipt,) = Retrying(late, clock=HandClock()).put(writes(1), 5.0)
    assert receipt.outcome is Outcome.RETRY


def test_a_doubt_keeps_its_time_into_the_next_put_while_others_go_on() -> None:
    """I2: looked for too early, a write that is under way would be sent once more."""
    clock = HandClock()
    sink = Found(Unknown("no answer"), [APPLIED], found=[[None]], settle=3.0)
    retrying = Retrying(sink, clock=clock, cap=0.01)
    with pytest.raises(Retriable) as raised:
        retrying.put(writes(1), 1.0)
    assert raised.value.retry_after == 3.0
    retrying.once([Write("w7", {"id": 7}, {"v": 7}, "1")], 20.0)
    with pytest.raises(Retriable, match="looked for later") as early:
        retrying.once(writes(1), 20.0)
    assert (early.value.retry_after, sink.calls) == (3.0, [["w0"], ["w7"]])
    assert retrying.put(writes(1), 20.0)[0].outcome is Outcome.APPLIED
    assert clock.seconds >= 3.0
    assert sink.asked == [["w0"], ["w7"], ["w0"]]


def test_a_sink_that_promises_readback_and_cannot_look_is_a_defect() -> None:
    with pytest.raises(TypeError, match="happened"):
        Retrying(Scripted([APPLIED], idempotency=Idempotency.READBACK), clock=HandClock())


REJECTED = Receipt(Outcome.REJECTED, code="E1")


def test_the_twenty_first_refusal_in_a_row_is_not_believed_and_a_success_between_begins_anew() -> None:
    refusals = Refusals()
    answers = [*[REJECTED] * 19, APPLIED, *[REJECTED] * 19, Receipt(Outcome.REJECTED, code="E2"), *[REJECTED] * 22]
    judged = [refusals.judged(answer) for answer in answers]
    assert [is_suspected(receipt) for receipt in judged].index(True) == 19 + 1 + 19 + 1 + 20
    assert judged[-1].reason is not None
    assert "E1" in judged[-1].reason


def test_what_a_suspicious_sink_did_not_send_is_not_asked_for_again_by_retrying() -> None:
    suspected = Receipt(Outcome.RETRY, code=SUSPECTED)
    sink = Scripted([REJECTED, suspected, RETRY])
    receipts = Retrying(sink, clock=HandClock()).put(writes(3), 60.0)
    assert len(sink.calls) == 1
    assert [(receipt.outcome, receipt.code) for receipt in receipts] == [
        (Outcome.REJECTED, "E1"),
        (Outcome.RETRY, SUSPECTED),
        (Outcome.RETRY, None),
    ]


class Closed(Scripted):
    """Refuses every batch whatever is in it, as after a vendor's deploy."""

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        self.calls.append([write.write_id for write in writes])
        raise Rejected("unknown field", code="E1")


def test_bisection_ends_after_twenty_refusals_in_a_row() -> None:
    sink = Closed([])
    receipts = Retrying(sink, clock=HandClock()).put(writes(500), 60.0)
    assert [receipt.outcome for receipt in receipts] == [Outcome.REJECTED] * 20 + [Outcome.RETRY] * 480
    assert all(is_suspected(receipt) for receipt in receipts[20:])
    assert sum(len(call) == 1 for call in sink.calls) == 20


def test_what_may_not_be_repeated_is_never_forgotten_behind_an_error() -> None:
    sink = Scripted([APPLIED, RETRY], SystemFault("right revoked"), idempotency=Idempotency.NONE)
    receipts = Retrying(sink, clock=HandClock()).put(writes(2), 60.0)
    assert [receipt.outcome for receipt in receipts] == [Outcome.APPLIED, Outcome.RETRY]


class Choosy(Scripted):
    """Refuses every batch that holds the bad record."""

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        self.calls.append([write.write_id for write in writes])
        if any(write.write_id == "w5" for write in writes):
            raise Rejected("value too long", code="22001")
        return [APPLIED for _ in writes]


def test_a_batch_with_one_bad_record_loses_that_one_and_nothing_else() -> None:
    sink = Choosy([])
    receipts = Retrying(sink, clock=HandClock()).put(writes(16), 60.0)
    assert [i for i, receipt in enumerate(receipts) if receipt.outcome is not Outcome.APPLIED] == [5]
    assert (receipts[5].outcome, receipts[5].code) == (Outcome.REJECTED, "22001")
    assert len(sink.calls) <= 9
    applied = [name for call in sink.calls if "w5" not in call for name in call]
    assert sorted(applied) == sorted(f"w{i}" for i in range(16) if i != 5), "each exactly once"


def test_a_used_up_budget_ends_the_retries() -> None:
    sink, budget = Scripted(Retriable("away")), RetryBudget(share=0.2, reserve=5.0)
    retrying = Retrying(sink, clock=HandClock(), budget=budget, cap=0.01)
    for _ in range(100):
        with pytest.raises(Retriable):
            retrying.put(writes(1), 1e9)
    assert len(sink.calls) <= 100 * 1.2 + 5


def test_a_wrapped_sink_can_read_exactly_if_the_sink_can() -> None:
    clock = HandClock()
    assert isinstance(Retrying(Looking([APPLIED]), clock=clock), Readable)
    assert not isinstance(Retrying(Scripted([APPLIED]), clock=clock), Readable)


def test_a_pause_asked_for_amid_a_bisection_holds_for_the_other_half_too() -> None:
    clock = HandClock()
    sink = Scripted(
        Rejected("one of them", code="22001"), [Receipt(Outcome.RETRY, retry_after=3.0)], [APPLIED, APPLIED]
    )
    Retrying(sink, clock=clock, cap=0.01).put(writes(2), 60.0)
    assert sink.calls == [["w0", "w1"], ["w0"], ["w0", "w1"]]
    assert clock.naps == [3.0]
