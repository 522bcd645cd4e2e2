"""Dead letters sent again: what of their bytes changes, how causes are counted, and which letters are one."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode, decode_event, encode
from schemas.control import Credentials, CredentialState, Discard, Edit, Mark, Replay, control_key
from schemas.dead_letter import DeadLetter, connect_headers, fingerprint
from schemas.event import cause_of, header
from schemas.outcome import Fate
from schemas.receipt import ReceiptRecord
from schemas.version import Version
from streams.control import outgoing, read_record
from streams.letters import NotSendable, again, discarded, edited, refusal, with_fields
from streams.marks import Marks, number_of, subject_of
from streams.topics import PipelineTopics

TOPICS = PipelineTopics.of("hub", "risk", 3)
EVENT = "flightops/flights/17@0001.00001356998400000000.0000~8826017a"
VALUE = (
    b'{"cd_schema":1,"op":"upsert","key":{"id":17},"before":null,'
    b'"after":{"id":17,"big":123456789012345678901234567890,"x":1.50e3,"t":"\\u00e9"},'
    b'"version":"0001.00001356998400000000.0000","x_vendor":{"a":1e3, "b":[ 1 ]},"derived":{},"lookups":{}}'
)
HEADERS = [
    ("ce_id", EVENT.encode()),
    ("content-type", b"application/json"),
    ("cd_version", b"0001.00001356998400000000.0000"),
    ("cd_config", b"c0ffee"),
]


def a_letter(**other: Any) -> DeadLetter:
    fields: dict[str, Any] = {
        "event_id": EVENT,
        "pipeline": "risk",
        "writeback": "flightops",
        "stage": "put",
        "error": "Rejected",
        "code": "23514",
        "reason": "row 17 breaks a rule",
        "fingerprint": "0",
        "topic": TOPICS.enriched.name,
        "partition": 2,
        "offset": 40,
        "key": b'{"id":17}',
        "value": VALUE,
        "headers": HEADERS,
        "first_seen": "2026-01-01T00:00:00.000000Z",
        "last_seen": "2026-01-01T00:00:00.000000Z",
    }
    return DeadLetter(**{**fields, **other})


def a_mark(letter: DeadLetter, cause: str | None, **other: Any) -> Mark:
    fields: dict[str, Any] = {
        "command": "risk/3#1",
        "verb": "replay",
        "letter": "risk/3",
        "identity": letter.identity,
        "through": 10,
        "subject": subject_of(letter),
        "cause": cause,
        "by": "ada",
        "reason": "",
        "asked": "",
        "time": "",
    }
    return Mark(**{**fields, **other})


def a_replay(name: str, letter: str = "risk/3") -> Replay:
    return Replay(name=name, letter=letter, by="ada", reason="fixed", time="2026-01-01T00:00:00.000000Z", rate=50.0)


def test_a_letter_sent_again_differs_in_its_version_and_cause_and_in_nothing_else() -> None:
    """I7: every other byte is the one that came, also of fields and numbers that we do not know."""
    sent = again(a_letter(), "replay", TOPICS, last=0)
    assert (sent.topic, sent.cause) == (TOPICS.enriched, "replay:1")
    assert sent.outgoing.value == VALUE.replace(b"00.0000", b"00.0001")
    assert sent.outgoing.key == b'{"id":17}'
    assert sent.outgoing.partition is None
    assert cause_of(sent.outgoing.headers) == ("replay:1", "flightops")
    assert header(sent.outgoing.headers, "cd_version") == "0001.00001356998400000000.0001"
    assert [each for each in sent.outgoing.headers if each[0] in ("ce_id", "content-type", "cd_config")] == [
        each for each in HEADERS if each[0] != "cd_version"
    ]


@pytest.mark.parametrize(("stage", "writeback"), [("guard-in", None), ("model", None), ("only", None)])
def test_what_the_model_never_answered_goes_to_the_changes_for_all_write_backs(
    stage: str, writeback: str | None
) -> None:
    letter = a_letter(stage=stage, writeback=writeback, topic=TOPICS.changes.name)
    sent = again(letter, "replay", TOPICS, last=0)
    assert sent.topic is TOPICS.changes
    assert cause_of(sent.outgoing.headers) == ("replay:1", None)


def test_a_parked_event_that_was_refused_goes_back_to_the_enriched_ones_without_the_notes_of_its_way() -> None:
    notes = [("cd_parked", b"slow"), ("cd_intent", b"begun")]
    sent = again(a_letter(topic=TOPICS.parked.name, headers=[*HEADERS, *notes]), "replay", TOPICS, last=0)
    assert sent.topic is TOPICS.enriched
    assert not {name for name, _ in sent.outgoing.headers} & {"cd_parked", "cd_intent"}


@given(st.integers(0, 9000), st.integers(0, 9000))
def test_a_cause_is_above_all_that_its_event_had(last: int, version: int) -> None:
    """Whether a mark tells of them or the event's own version: causes never tie."""
    old = Version(1, 1356998400000000, version)
    letter = a_letter(value=with_fields(VALUE, str(old)), headers=[*HEADERS, ("cd_cause", b"replay:%d" % version)])
    sent = again(letter, "edit", TOPICS, last)
    assert number_of(sent.cause) == max(last, version) + 1
    assert decode_event(sent.outgoing.value).version == str(old._replace(cause=max(last, version) + 1)) > str(old)
    assert [name for name, _ in sent.outgoing.headers].count("cd_cause") == 1


def test_an_edit_changes_the_record_and_leaves_the_rest() -> None:
    after = edited(a_letter(), {"x": msgspec.Raw(b"2")})
    assert bytes(after) == b'{"id":17,"big":123456789012345678901234567890,"x":2,"t":"\\u00e9"}'
    sent = again(a_letter(), "edit", TOPICS, 3, after)
    assert sent.cause == "edit:4"
    assert sent.outgoing.value == VALUE.replace(b"1.50e3", b"2").replace(b"00.0000", b"00.0004")


def test_a_field_that_the_record_does_not_have_is_named_with_those_that_it_has() -> None:
    with pytest.raises(NotSendable, match="no field 'y'; it has big, id, t, x"):
        edited(a_letter(), {"y": msgspec.Raw(b"1")})


def test_bytes_that_were_no_event_are_sent_as_they_were() -> None:
    letter = a_letter(stage="decode", writeback=None, value=b"\xff\x00", topic=TOPICS.changes.name, headers=[])
    sent = again(letter, "replay", TOPICS, last=1)
    assert (sent.topic, sent.outgoing.value, sent.cause) == (TOPICS.changes, b"\xff\x00", "replay:2")
    assert cause_of(sent.outgoing.headers) == ("replay:2", None)
    with pytest.raises(NotSendable, match="no event"):
        again(letter, "edit", TOPICS, 1, msgspec.Raw(b"{}"))


def test_a_record_without_key_goes_back_to_its_partition() -> None:
    letter = a_letter(stage="decode", value=b"x", key=None, topic=TOPICS.changes.name)
    assert again(letter, "replay", TOPICS, 0).outgoing.partition == 2


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"stage": "produce", "code": "too_large", "value": None, "writeback": None}, "too large for Kafka"),
        ({"stage": "decode", "value": None}, "holds no bytes"),
        ({"value": with_fields(VALUE, "v7")}, "none of ours"),
        ({"value": with_fields(VALUE, "0001.00001356998400000000.9999")}, "9,999 times"),
        ({"value": b"{}"}, "no event"),
    ],
)
def test_a_letter_that_cannot_be_sent_says_why(other: dict[str, Any], said: str) -> None:
    with pytest.raises(NotSendable, match=said):
        again(a_letter(**other), "replay", TOPICS, 0)


def test_an_edit_that_makes_a_record_too_large_is_refused() -> None:
    huge = msgspec.Raw(encode({"id": "x" * (3 << 20)}))
    with pytest.raises(NotSendable, match=r"more than hub\.risk\.enriched takes"):
        again(a_letter(), "edit", TOPICS, 0, huge)


def test_a_deleted_record_cannot_be_edited() -> None:
    gone = a_letter(value=VALUE.replace(b'"upsert"', b'"delete"'))
    with pytest.raises(NotSendable, match="deleted"):
        again(gone, "edit", TOPICS, 0, msgspec.Raw(b"{}"))
    assert refusal(gone, "replay") is None


def test_a_discarded_letter_has_the_receipt_of_its_write() -> None:
    record = discarded(a_letter(), "hub", "ada", "sold", "2026-01-02T00:00:00.000000Z")
    assert record is not None
    assert record.key == b'{"id":17}'
    receipt = decode(record.value or b"", ReceiptRecord)
    assert (receipt.fate, receipt.key, receipt.writeback) == (Fate.DISCARDED, {"id": 17}, "flightops")
    assert receipt.write_id == f"hub/risk/flightops/{EVENT}/live"
    assert receipt.reason == "by ada: sold"


def test_discarded_bytes_have_a_receipt_as_far_as_they_name_an_event() -> None:
    unreadable = a_letter(stage="decode", value=b"\xff", writeback=None)
    record = discarded(unreadable, "hub", "ada", "", "now")
    assert record is not None
    receipt = decode(record.value or b"", ReceiptRecord)
    assert (receipt.key, receipt.version) == ({"id": 17}, "0001.00001356998400000000.0000")
    assert discarded(a_letter(stage="decode", value=b"\xff", event_id=None), "hub", "ada", "", "now") is None


# Which letters are one


def test_a_refusal_that_came_again_after_a_crash_has_the_same_identity() -> None:
    first = a_letter()
    assert a_letter(offset=90, code="23505", reason="other", last_seen="later").identity == first.identity
    for other in ({"writeback": "registry"}, {"stage": "model"}, {"event_id": "another"}, {"pipeline": "other"}):
        assert a_letter(**other).identity != first.identity
    assert a_letter(headers=[*HEADERS, ("cd_cause", b"replay:1")]).identity != first.identity


def test_bytes_that_are_no_event_are_one_letter_for_one_place() -> None:
    """Two write-backs of two systems refuse the same record; another record may carry the same wrong id."""
    one = a_letter(stage="decode", writeback=None)
    assert one.identity == a_letter(stage="decode", writeback=None, code="x").identity
    assert one.identity != a_letter(stage="decode", writeback=None, offset=41).identity


def test_letters_with_one_cause_are_one_group_whatever_their_values() -> None:
    one = fingerprint("put", "23514", "row 17 breaks 'a'")
    assert one == fingerprint("put", "23514", "row 99 breaks 'b'") != fingerprint("model", "23514", "row 17 breaks 'a'")


# Marks


def test_a_marked_letter_is_done_and_so_are_its_earlier_copies_and_no_later_ones() -> None:
    marks, letter = Marks(), a_letter()
    assert marks.done(letter, 3) is None
    marks.take(a_mark(letter, "replay:1", through=10))
    assert marks.done(letter, 3) == marks.done(letter, 9) == "replay:1"
    assert marks.done(letter, 10) is None
    assert marks.done(a_letter(writeback="registry"), 3) is None


def test_a_command_waits_until_its_mark() -> None:
    marks, letter = Marks(), a_letter()
    first, second = a_replay("risk/3#1"), a_replay("risk/3#2")
    for record in (first, second):
        marks.take(record)
    assert list(marks.waiting) == [first, second]
    for _ in range(2):  # the owner takes its own mark, and reads it again
        marks.take(a_mark(letter, "replay:1"))
    assert list(marks.waiting) == [second]


def test_a_refused_command_leaves_its_letter_open() -> None:
    marks, letter = Marks(), a_letter()
    marks.take(a_replay("risk/3#1"))
    marks.take(a_mark(letter, None, refused="its last outcome is applied"))
    assert marks.done(letter, 3) is None
    assert not marks.waiting


def test_causes_of_one_source_version_are_counted_together() -> None:
    """One counter for replays and edits, whatever the content and the write-back."""
    marks, letter = Marks(), a_letter()
    marks.take(a_mark(letter, "replay:1"))
    marks.take(a_mark(a_letter(event_id=EVENT.replace("8826017a", "00000000"), writeback="registry"), "edit:2"))
    marks.take(a_mark(letter, "replay:1"))
    assert marks.last_cause(subject_of(letter)) == 2
    assert marks.last_cause(subject_of(a_letter(event_id="other@1~0"))) == 0


def test_other_records_of_control_are_no_business_of_marks() -> None:
    marks = Marks()
    state = CredentialState.REFUSED
    marks.take(Credentials(system="s", state=state, digest="", attempts=1, reason="", time=""))
    assert not marks.waiting


def test_commands_and_marks_come_back_from_the_topic_as_they_went() -> None:
    said = {"letter": "risk/3", "by": "ada", "reason": "why", "time": "now"}
    edit = Edit(name="risk/3#2", after=msgspec.Raw(b'{"x": 1.50}'), **said)
    found = read_record(outgoing(edit).value or b"")
    assert isinstance(found, Edit)
    assert bytes(found.after) == b'{"x": 1.50}'
    for record in (a_replay("risk/3#1"), Discard(name="risk/3#3", **said), a_mark(a_letter(), "replay:1")):
        sent = outgoing(record)
        assert read_record(sent.value or b"") == record
        assert sent.key == control_key(type(record), record.name)


# Kafka Connect's names


def test_kafka_connect_s_tools_find_their_headers() -> None:
    found = dict(connect_headers(a_letter()))
    assert {name.removeprefix("__connect.errors."): value.decode() for name, value in found.items()} == {
        "topic": "hub.risk.enriched",
        "partition": "2",
        "offset": "40",
        "connector.name": "risk",
        "task.id": "2",
        "stage": "TASK_PUT",
        "class.name": "streams.writeback",
        "exception.class.name": "Rejected",
        "exception.message": "row 17 breaks a rule",
    }


@pytest.mark.parametrize(
    ("stage", "theirs", "ours"),
    [
        ("decode", "VALUE_CONVERTER", "streams.enrich"),
        ("guard-in", "TRANSFORMATION", "streams.enrich"),
        ("produce", "KAFKA_PRODUCE", "streams.ingest"),
    ],
)
def test_a_stage_has_kafka_connect_s_name(stage: str, theirs: str, ours: str) -> None:
    found = dict(connect_headers(a_letter(stage=stage, topic=TOPICS.changes.name)))
    assert found["__connect.errors.stage"] == theirs.encode()
    assert found["__connect.errors.class.name"] == ours.encode()


def test_a_row_that_never_came_to_kafka_has_no_place_there() -> None:
    names = dict(connect_headers(a_letter(stage="produce", partition=-1, offset=-1)))
    assert not {f"__connect.errors.{name}" for name in ("partition", "offset", "task.id")} & names.keys()


def test_a_letter_of_an_older_release_is_read() -> None:
    older = json.loads(encode(a_letter()))
    del older["error"]
    assert decode(json.dumps(older).encode(), DeadLetter).error == ""
