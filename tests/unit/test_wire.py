"""The wire format: golden bytes, strictness, and what passes through."""

import base64
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.change import Change, Op, canonical_key, content_digest, event_id
from schemas.codec import Undecodable, decode, decode_event, encode, encode_change, extend
from schemas.dead_letter import DeadLetter, fingerprint
from schemas.event import header, headers_of
from schemas.values import UnknownType, plain
from schemas.version import Version, position_of, position_of_text

GOLDEN = (
    b'{"cd_schema":1,"op":"upsert","key":{"id":17},"before":null,"after":{"id":17,"carrier":"UA","dep_time":null},'
    b'"version":"0001.00001356998400000000.0000"}'
)


def a_change() -> Change:
    after = {"id": 17, "carrier": "UA", "dep_time": None}
    version = str(Version(1, 1356998400000000))
    digest = content_digest(after, frozenset())
    return Change(
        op=Op.UPSERT,
        key={"id": 17},
        before=None,
        after=after,
        version=version,
        origin="flightops/flights",
        event_id=event_id("flightops/flights", {"id": 17}, version, digest),
        time="2013-01-01T00:00:00.000000Z",
    )


def test_a_change_has_the_bytes_of_the_first_release() -> None:
    assert encode_change(a_change()) == GOLDEN


def test_an_event_of_the_first_release_is_read() -> None:
    event = decode_event(GOLDEN)
    assert (event.op, event.key, event.version) == (Op.UPSERT, {"id": 17}, "0001.00001356998400000000.0000")


def test_the_headers_are_cloudevents_in_binary_mode() -> None:
    headers = headers_of(a_change(), b"c0ffee")
    assert header(headers, "ce_specversion") == "1.0"
    assert header(headers, "ce_id") == "flightops/flights/17@0001.00001356998400000000.0000~8826017a"
    assert header(headers, "ce_source") == "/flightops/flights"
    assert header(headers, "ce_subject") == "17"
    assert header(headers, "ce_time") == "2013-01-01T00:00:00.000000Z"
    assert header(headers, "cd_config") == "c0ffee"


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"not json",
        b"[]",
        b'{"op":"upsert"}',
        b'{"op":"move","key":{},"version":"1"}',
        b'{"op":"upsert","key":{},"version":1}',
        b'{"cd_schema":2,"op":"upsert","key":{"id":1},"version":"1"}',
        b'{"op":"upsert","key":{"id":1},"version":"1","after":{"x":NaN}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_bytes_that_are_no_event_are_refused_and_never_raise_anything_else(value: bytes | None) -> None:
    with pytest.raises(Undecodable):
        decode_event(value)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_undecodable(value: bytes) -> None:
    refused = None
    try:
        decode_event(value)
    except Undecodable as error:
        refused = str(error)
    assert refused is None or refused


def test_extending_an_event_keeps_what_we_do_not_know() -> None:
    value = GOLDEN[:-1] + b',"x_vendor":{"a":1e3}}'
    extended = extend(value, ai={"risk": 0.25}, lookups={"weather": None})
    assert extended == value[:-1] + b',"ai":{"risk":0.25},"lookups":{"weather":null}}'
    assert decode_event(extended).ai == {"risk": 0.25}


def test_the_digest_of_the_content_leaves_out_what_the_hub_writes() -> None:
    before = {"id": 17, "carrier": "UA", "delay_risk": None}
    after = {"carrier": "UA", "id": 17, "delay_risk": 0.25}
    assert content_digest(before, frozenset({"delay_risk"})) == content_digest(after, frozenset({"delay_risk"}))
    assert content_digest(before, frozenset()) != content_digest(after, frozenset())


def test_one_record_has_one_key_whatever_the_order_of_its_fields() -> None:
    assert canonical_key({"b": 1, "a": "x"}) == canonical_key({"a": "x", "b": 1}) == b'{"a":"x","b":1}'


def test_the_key_in_an_event_id_cannot_break_out_of_it() -> None:
    assert event_id("s/o", {"id": "a/b@c~d,e%"}, "v", "0") == "s/o/a%2Fb%40c~d%2Ce%25@v~0"


@given(st.integers(0, 9999), st.integers(0, 10**20 - 1), st.integers(0, 9999), st.integers(0, 10**20 - 1))
def test_versions_sort_as_their_text_does(domain: int, position: int, cause: int, other: int) -> None:
    left, right = Version(domain, position, cause), Version(domain, other, cause)
    assert (left < right) == (str(left) < str(right))
    assert Version.parse(str(left)) == left


def test_a_time_s_position_is_its_microseconds() -> None:
    moment = datetime(2013, 1, 1, 5, 0, 0, 1, tzinfo=ZoneInfo("America/New_York"))
    assert position_of(moment) == position_of_text("2013-01-01T10:00:00.000001Z") == 1357034400000001
    with pytest.raises(ValueError, match="zone"):
        position_of(datetime(2013, 1, 1))


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "on_the_wire"),
    [
        (Decimal("10.50"), "10.50"),
        (Decimal("NaN"), None),
        (float("inf"), None),
        (1.5, 1.5),
        (True, True),
        (2**63, 2**63),
        (datetime(2013, 1, 1, tzinfo=UTC), "2013-01-01T00:00:00.000000Z"),
        (datetime(2013, 7, 1, 12), "2013-07-01T16:00:00.000000Z"),
        (date(2013, 1, 1), "2013-01-01"),
        (time(1, 2, 3), "01:02:03"),
        (timedelta(days=1, seconds=2, microseconds=3), "P1DT2.000003S"),
        (-timedelta(seconds=5), "-P0DT5S"),
        (b"\x00\xff", base64.b64encode(b"\x00\xff").decode()),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        ({"a": [Decimal(1)]}, {"a": ["1"]}),
    ],
)
def test_each_type_has_one_form_on_the_wire(value: object, on_the_wire: object) -> None:
    assert plain(value, ZoneInfo("America/New_York")) == on_the_wire


def test_a_time_without_zone_and_an_unknown_type_are_refused() -> None:
    with pytest.raises(UnknownType, match="timezone"):
        plain(datetime(2013, 1, 1))
    with pytest.raises(UnknownType, match="complex"):
        plain(1j)


def test_a_dead_letter_keeps_the_original_bytes() -> None:
    """I7."""
    letter = DeadLetter(
        event_id=None,
        pipeline="p",
        stage="decode",
        code="undecodable",
        reason="no JSON",
        fingerprint="0",
        topic="t",
        partition=0,
        offset=1,
        key=b"\xff",
        value=bytes(range(256)),
        headers=[("ce_id", b"\x00")],
        first_seen="now",
        last_seen="now",
    )
    assert decode(encode(letter), DeadLetter) == letter


def test_letters_with_one_cause_share_a_fingerprint() -> None:
    one = fingerprint("put", "23514", "row 17 breaks 'risk_range'")
    assert one == fingerprint("put", "23514", "row 99 breaks 'other'")
    assert one != fingerprint("put", "23505", "row 17 breaks 'risk_range'")
