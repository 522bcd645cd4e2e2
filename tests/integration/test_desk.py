"""Writing to a server whose calls are not idempotent: answers really lost, conflicts, and what was replaced."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.clock import SystemClock
from connectors.contract import Readable, Readback, SinkTask, System
from connectors.errors import Retriable, SystemFault
from connectors.reference import reference_of
from connectors.rest.config import RestSystemConfig, RestWritebackConfig
from connectors.retry import Retrying
from connectors.soap.config import SoapSystemConfig, SoapWritebackConfig
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.write import Write
from tests.desk import WSDL, Desk, eventually

CLOCK = SystemClock()

NEW: dict[str, Any] = {
    "system": "desk",
    "match": {"subject": "key.id"},
    "set": {"body": "answer.note"},
    "reference": {"field": "reference", "form": "uuid"},
}
REST_NEW = {
    **NEW,
    "post": "/tickets",
    "idempotency": "readback",
    "readback": {"get": "/tickets", "params": {"reference": "{reference}"}, "records": "items", "settle": "300ms"},
}
FIND = {"operation": "findTickets", "params": {"reference": "{reference}"}, "record": "tickets", "settle": "300ms"}
SOAP_NEW = {**NEW, "call": "createTicket", "results": {}, "idempotency": "readback", "readback": FIND}
SOAP_LIST = {
    **SOAP_NEW,
    "call": "createTickets",
    "records": "tickets",
    "results": {"path": "results", "status": "status", "applied": ["OK"]},
}
CHANGE: dict[str, Any] = {"system": "desk", "match": {"id": "key.id"}, "set": {"state": "a.state", "score": "a.score"}}
GET = {"operation": "getTicket", "params": {"id": "{id}"}, "record": "ticket", "absent": ["NotFound"]}
SOAP_CHANGE = {
    **CHANGE,
    "call": "updateTicket",
    "results": {
        "status": "status",
        "applied": ["UPDATED"],
        "unchanged": ["SAME"],
        "rejected": ["MISSING"],
        "conflict": ["CONFLICT"],
    },
}


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Desk() as server:
        yield server


@pytest.fixture
def sink(desk: Desk) -> Iterator[Callable[..., SinkTask]]:
    systems: list[System] = []

    def build(block: dict[str, Any]) -> SinkTask:
        config: Any
        if "call" in block:
            soap = {"name": "desk", "type": "soap", "wsdl": {"file": str(WSDL)}, "address": f"{desk.address}/soap"}
            systems.append(SoapSystemConfig.model_validate(soap).build(CLOCK))
            config = SoapWritebackConfig.model_validate(block)
        else:
            rest = {"name": "desk", "type": "rest", "base_url": f"{desk.address}/api"}
            systems.append(RestSystemConfig.model_validate(rest).build(CLOCK))
            config = RestWritebackConfig.model_validate(block)
        made = systems[-1].sink(config, prefix="hub")
        made.open()
        return made

    yield build
    for system in systems:
        system.close()


def new(number: int) -> Write:
    return Write(f"hub/p/desk/orders/{number}@1~ab/live", {"subject": f"order {number}"}, {"body": "late"}, "1")


def change(number: str, state: str = "done", score: Any = 0.5) -> Write:
    return Write(f"hub/p/desk/{number}@{state}/live", {"id": number}, {"state": state, "score": score}, "1")


def soon(seconds: float = 20.0) -> float:
    return CLOCK.monotonic() + seconds


def outcomes(receipts: list[Receipt]) -> Counter[Outcome]:
    return Counter(receipt.outcome for receipt in receipts)


def put(sink: SinkTask, *writes: Write) -> list[Receipt]:
    """As the hub does: as many at once as the sink takes."""
    retrying, most = Retrying(sink, CLOCK, base=0.01), sink.capabilities.max_batch
    found: list[Receipt] = []
    for start in range(0, len(writes), most):
        found += retrying.put(writes[start : start + most], soon())
    return found


def each_once(desk: Desk, count: int) -> None:
    assert Counter(desk.effects) == {reference_of(new(i).write_id, "uuid"): 1 for i in range(count)}


EACH_WAY = pytest.mark.parametrize("block", [REST_NEW, SOAP_NEW, SOAP_LIST], ids=["rest", "soap", "soap-list"])


@EACH_WAY
def test_lost_answers_of_calls_that_add_something_add_it_once(desk: Desk, sink: Any, block: dict[str, Any]) -> None:
    """I2: no idempotency key, no version: found by the reference that the write carried."""
    desk.quirks.lose_answers = 12
    receipts = put(sink(block), *(new(i) for i in range(40)))
    assert outcomes(receipts) == {Outcome.APPLIED: 40}
    each_once(desk, 40)


@EACH_WAY
def test_a_redelivery_after_a_crash_is_looked_for_before_it_is_sent(
    desk: Desk, sink: Any, block: dict[str, Any]
) -> None:
    """I2: nobody knows what the worker that is gone had sent."""
    put(sink(block), *(new(i) for i in range(5)))
    receipts = put(sink(block), *(new(i) for i in range(8)))
    assert outcomes(receipts) == {Outcome.APPLIED: 8}
    assert "earlier attempt" in (receipts[0].reason or "")
    each_once(desk, 8)


@EACH_WAY
def test_a_server_that_still_works_on_a_lost_call_is_given_its_time(
    desk: Desk, sink: Any, block: dict[str, Any]
) -> None:
    """I2: looked for at once, the write would not be there yet."""
    desk.quirks.lose_answers, desk.quirks.works_for = 1, 0.2
    assert outcomes(put(sink(block), new(0))) == {Outcome.APPLIED: 1}
    eventually(lambda: len(desk.effects) == 1)
    each_once(desk, 1)


@EACH_WAY
def test_a_search_that_does_not_search_stops_everything_and_sends_nothing(
    desk: Desk, sink: Any, block: dict[str, Any]
) -> None:
    """I2: an answer that does not say "it is not there" clearly is no such answer."""
    put(sink(block), new(0))
    desk.quirks.ignores_search = True
    with pytest.raises(SystemFault, match="do not show the reference"):
        put(sink(block), new(1))
    each_once(desk, 1)


@pytest.mark.parametrize("block", [REST_NEW, SOAP_NEW], ids=["rest", "soap"])
def test_a_lost_answer_of_class_none_is_in_doubt_and_sent_no_second_time(
    desk: Desk, sink: Any, block: dict[str, Any]
) -> None:
    """I2."""
    desk.quirks.lose_answers = 3
    block = {name: each for name, each in block.items() if name != "readback"}
    receipts = put(sink({**block, "idempotency": "none"}), *(new(i) for i in range(10)))
    assert outcomes(receipts) == {Outcome.APPLIED: 7, Outcome.UNKNOWN: 3}
    each_once(desk, 10)


def test_a_fault_of_the_servers_own_is_no_proof_that_nothing_happened(desk: Desk, sink: Any) -> None:
    """I2: unless its code is listed as one that means so."""
    desk.quirks.server_faults = 1
    block = {name: each for name, each in SOAP_NEW.items() if name != "readback"}
    (receipt,) = put(sink({**block, "idempotency": "none"}), new(0))
    assert receipt.outcome is Outcome.UNKNOWN
    desk.quirks.server_faults = 1
    (receipt,) = put(sink(SOAP_NEW), new(1))
    assert receipt.outcome is Outcome.APPLIED
    each_once(desk, 2)
    desk.quirks.server_faults = 1
    with pytest.raises(Retriable):
        sink({**block, "idempotency": "none", "faults": {"retry": ["Crashed"]}}).put([new(2)], soon())


def test_a_field_that_carries_the_writes_id_is_a_key_where_the_service_remembers_it(desk: Desk, sink: Any) -> None:
    """I2: `requestId` is what the service looks at first."""
    for number in range(4):
        desk.add({"subject": f"order {number}"})
    desk.effects.clear()
    desk.quirks.lose_answers = 2
    key = {**SOAP_CHANGE, "idempotency": "key", "reference": {"field": "requestId"}}
    receipts = put(sink(key), *(change(f"T{i + 1}") for i in range(4)))
    assert outcomes(receipts) == {Outcome.APPLIED: 4}
    assert Counter(desk.effects) == {f"T{i + 1}:done": 1 for i in range(4)}


@pytest.mark.parametrize(
    "block",
    [
        {**CHANGE, "patch": "/tickets/{id}", "idempotency": "readback"},
        {**SOAP_CHANGE, "idempotency": "readback", "read": GET},
    ],
    ids=["rest", "soap"],
)
def test_a_record_that_holds_the_values_needs_no_second_write(desk: Desk, sink: Any, block: dict[str, Any]) -> None:
    for number in range(3):
        desk.add({"subject": f"order {number}"})
    desk.effects.clear()
    desk.quirks.lose_answers = 1
    made = sink(block)
    assert isinstance(made, Readback)
    assert isinstance(made, Readable)
    receipts = put(made, *(change(f"T{i + 1}") for i in range(3)))
    assert outcomes(receipts) == {Outcome.APPLIED: 2, Outcome.UNCHANGED: 1}
    assert Counter(desk.effects) == {f"T{i + 1}:done": 1 for i in range(3)}
    (gone,) = put(made, change("T9"))
    assert gone.outcome is Outcome.REJECTED
    assert made.read([{"id": "T9"}, {"id": "T1"}], soon())[0] is None


# Compared before it is called a conflict


def test_a_conflict_whose_record_holds_the_values_is_none(desk: Desk, sink: Any) -> None:
    """SOAP: a decimal is compared as one, whatever zeros the service writes."""
    desk.add({})
    desk.update("T1", {"state": "done", "score": "0.500"})
    desk.quirks.strict_version = True
    made = sink({**SOAP_CHANGE, "idempotency": "natural", "read": GET})
    assert outcomes(put(made, change("T1"))) == {Outcome.UNCHANGED: 1}
    assert outcomes(put(made, change("T1", score=0.6))) == {Outcome.CONFLICT: 1}
    blind = sink({**SOAP_CHANGE, "idempotency": "natural"})
    assert outcomes(put(blind, change("T1"))) == {Outcome.CONFLICT: 1}


def test_rest_compares_what_a_number_means_and_what_is_absent(desk: Desk, sink: Any) -> None:
    desk.add({})
    desk.update("T1", {"state": "done", "score": "0.500"})
    desk.quirks.strict_version = True
    made = sink({**CHANGE, "patch": "/tickets/{id}", "idempotency": "key"})
    assert outcomes(put(made, change("T1"))) == {Outcome.UNCHANGED: 1}
    assert outcomes(put(made, change("T1", score=0.6))) == {Outcome.CONFLICT: 1}


def test_a_natural_write_without_a_version_as_read_looks_first(desk: Desk, sink: Any) -> None:
    """I2: an unconditional repetition would be a second effect."""
    desk.add({})
    desk.effects.clear()
    made = sink({**CHANGE, "patch": "/tickets/{id}", "if_match": "etag", "idempotency": "natural"})
    desk.quirks.lose_answers = 1
    assert outcomes(put(made, change("T1"))) == {Outcome.UNCHANGED: 1}
    assert desk.effects == ["T1:done"]


# What was replaced

UNDO = [
    {**CHANGE, "patch": "/tickets/{id}", "idempotency": "readback", "undo": True},
    {**SOAP_CHANGE, "idempotency": "natural", "read": GET, "undo": True},
    {**SOAP_CHANGE, "idempotency": "readback", "read": GET, "undo": True},
]
KEEPS = pytest.mark.parametrize("block", UNDO, ids=["rest", "soap", "soap-readback"])


@KEEPS
def test_receipts_keep_what_was_replaced(desk: Desk, sink: Any, block: dict[str, Any]) -> None:
    desk.add({})
    desk.update("T1", {"score": "0.1"})
    made = sink(block)
    applied, gone = (*put(made, change("T1")), *put(made, change("T9")))
    assert applied.replaced == {"state": "new", "score": "0.1"}
    assert (gone.outcome, gone.replaced) == (Outcome.REJECTED, None)
    (again,) = put(made, change("T1"))
    assert (again.outcome, again.replaced) == (Outcome.UNCHANGED, None), "nothing was replaced"


@KEEPS
def test_what_was_replaced_is_kept_over_a_lost_answer_and_is_never_the_value_that_was_written(
    desk: Desk, sink: Any, block: dict[str, Any]
) -> None:
    desk.add({})
    desk.quirks.lose_answers = 1
    (receipt,) = put(sink(block), change("T1"))
    assert receipt.outcome in {Outcome.APPLIED, Outcome.UNCHANGED}
    assert receipt.replaced == {"state": "new", "score": None}
    assert desk.effects[1:] == ["T1:done"]
    (later,) = put(sink(block), change("T1"))
    assert later.replaced is None, "another worker does not know it, and does not make it up"


def test_a_change_between_the_look_and_the_write_is_met_by_its_etag(
    desk: Desk, sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ETag as read goes with the write, so that it replaces just what was read; else it is read again."""
    desk.add({})
    made = sink(UNDO[0])
    send, between = made._send, iter(["busy"])

    def later(*call: Any) -> Any:
        for state in between:
            desk.update("T1", {"state": state})
        return send(*call)

    monkeypatch.setattr(made, "_send", later)
    (receipt,) = made.put([change("T1")], soon())
    assert (receipt.outcome, receipt.replaced) == (Outcome.APPLIED, {"state": "busy", "score": None})


# Refused offline


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({**REST_NEW, "readback": None}, "needs `reference:` and `readback:` where records are added"),
        ({**REST_NEW, "reference": None}, "say `reference:`"),
        ({**REST_NEW, "idempotency": "key"}, "readback: is for idempotency: readback; this one is key"),
        ({**REST_NEW, "readback": {"get": "/tickets"}}, "nothing in it asks for {reference}"),
        ({**REST_NEW, "readback": {"get": "/t/{reference}/{nr}"}}, "{nr} is neither {reference} nor in `match:`"),
        ({**REST_NEW, "reference": {"field": "body"}}, "also in `match:` or `set:`"),
        ({**REST_NEW, "undo": True}, "undo: an added record replaces nothing"),
        ({**SOAP_CHANGE, "idempotency": "natural", "undo": True}, "undo: needs `read:`"),
        ({**CHANGE, "put": "/t/{id}", "idempotency": "natural"}, "natural needs `patch:` or `put:` with `if_match:`"),
        ({**SOAP_NEW, "readback": None}, "needs `reference:` and `readback:`, or `read:`"),
        ({**SOAP_NEW, "idempotency": "key", "reference": None, "readback": None}, "key needs `reference:`"),
        ({**SOAP_NEW, "idempotency": "ledger", "readback": None}, "ledger is for SQL"),
        ({**SOAP_NEW, "idempotency": "natural", "readback": None}, "natural needs `version:` or `results.unchanged`"),
        ({**SOAP_NEW, "idempotency": "none"}, "readback: is for idempotency: readback; this one is none"),
        ({**SOAP_NEW, "batch": 20}, "each call is one record"),
        ({**SOAP_NEW, "readback": {**FIND, "params": {"reference": "x"}}}, "nothing in its params asks for"),
        ({**SOAP_NEW, "results": {"applied": ["OK"]}}, "no `status:` says"),
    ],
)
def test_a_combination_that_is_not_safe_is_refused_offline(block: dict[str, Any], said: str) -> None:
    kind = SoapWritebackConfig if "call" in block else RestWritebackConfig
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(block)
    assert said in str(refused.value)


def test_lint_names_what_the_wsdl_does_not_have(desk: Desk, sink: Any) -> None:
    wrong = {
        **SOAP_LIST,
        "reference": {"field": "refrence"},
        "readback": {**FIND, "record": "ticket", "params": {"referenz": "{reference}"}},
        "read": {**GET, "operation": "readTicket", "params": {"id": "{subject}"}},
    }
    system = SoapSystemConfig.model_validate(
        {"name": "desk", "type": "soap", "wsdl": {"file": str(WSDL)}, "address": f"{desk.address}/soap"}
    ).build(CLOCK)
    report = system.sink(SoapWritebackConfig.model_validate(wrong), prefix="hub").lint()
    found = {problem.path: problem.message for problem in report.problems}
    assert "did you mean 'reference'" in found["reference", "field"]
    assert "did you mean 'reference'" in found["readback", "params", "referenz"]
    assert "did you mean 'tickets'" in found["readback", "record"]
    assert ("read", "operation") in found
    many, one = (SoapWritebackConfig.model_validate(block) for block in (SOAP_LIST, SOAP_NEW))
    assert system.sink(many, prefix="hub").capabilities.max_batch == 25
    assert system.sink(one, prefix="hub").capabilities.max_batch == 1
    system.close()


def test_check_says_which_class_holds_and_where_it_does_not(sink: Any) -> None:
    def said(block: dict[str, Any]) -> str:
        return next(sentence for sentence in sink(block).check().guarantees if sentence.startswith("I2"))

    assert "for one sender at a time" in said(SOAP_NEW)
    assert said({**SOAP_CHANGE, "idempotency": "readback", "read": GET}).startswith("I2 does not hold if another")
    assert said({**CHANGE, "patch": "/tickets/{id}", "idempotency": "readback"}).startswith("I2 does not hold if")
    assert "in doubt" in said({**SOAP_CHANGE, "idempotency": "none"})
    assert "requestId" in said({**SOAP_CHANGE, "idempotency": "key", "reference": {"field": "requestId"}})
    assert "/tickets is asked" in said(REST_NEW)


def test_check_names_the_fields_that_cannot_be_undone(sink: Any) -> None:
    block = {**UNDO[1], "set": {"state": "a.state", "hint": "a.hint"}}
    assert "hint cannot be restored" in " ".join(sink(block).check().guarantees)
    assert "that GET /tickets/{id} does not show" in " ".join(sink(UNDO[0]).check().guarantees)
