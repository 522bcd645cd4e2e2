"""JSON, ETags, idempotency keys and response rules: the small strict parts of the REST connector."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import CredentialsRefused, Rejected, SystemFault, Throttled
from connectors.http import HttpAnswer
from connectors.reference import reference_of
from connectors.rest.body import Unreadable, parse
from connectors.rest.config import Response
from connectors.rest.etag import for_if_match, same
from connectors.rest.paging import next_link
from connectors.rest.rules import Action, Rules, failure_of, pause_of

NOW = datetime(2013, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": NaN, "b": Infinity, "c": 1e400, "d": -1e400}', {"a": None, "b": None, "c": None, "d": None}),
        ("[9223372036854775807, 9223372036854775808]", [9223372036854775807, "9223372036854775808"]),
        ("[-9223372036854775808, -9223372036854775809]", [-9223372036854775808, "-9223372036854775809"]),
        ('\ufeff{"a": "\u00fc"}', {"a": "ü"}),
        ('{"a": {"b": [1.5, true, null]}}', {"a": {"b": [1.5, True, None]}}),
    ],
)
def test_values_that_have_no_place_on_the_wire_become_plain(text: str, value: object) -> None:
    assert parse(text.encode()) == value


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 2}}',
        b"[" * 100_000,
        b"[" * 70 + b"]" * 70,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b"{",
        b"",
        b"\xff\xfe",
        b"<html>",
        b'{"a": 1} trailing',
        b"9" * 5000 + b"x",
    ],
)
def test_a_body_that_only_looks_like_json_is_refused(body: bytes) -> None:
    with pytest.raises(Unreadable):
        parse(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_either_read_or_refused(body: bytes) -> None:
    with suppress(Unreadable):
        json.dumps(parse(body), allow_nan=False)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ('"44f3-gzip"', '"44f3"', True),
        ('W/"44f3"', '"44f3"', True),
        ("44f3", '"44f3"', True),
        ('W/"44f3-br"', "44f3", True),
        ('"44f3"', '"44f4"', False),
        ('"a-gzip-b"', '"a-b"', False),
        (None, None, False),
        (17, '"17"', False),
    ],
)
def test_etags_are_compared_weakly(one: object, other: object, equal: bool) -> None:
    assert same(one, other) is equal


def test_if_match_gets_quotes_and_loses_a_compressors_suffix() -> None:
    assert [for_if_match(etag) for etag in ("44f3", '"44f3-gzip"', 'W/"44f3"', "*")] == [
        '"44f3"',
        '"44f3"',
        'W/"44f3"',
        "*",
    ]
    for nothing in ("", "  ", 17, None, ["x"]):
        with pytest.raises(Rejected):
            for_if_match(nothing)


@given(st.text(max_size=400))
def test_any_write_id_is_fit_for_a_header(write_id: str) -> None:
    made = reference_of(write_id)
    assert made.isascii()
    assert made.isprintable() or not made
    assert len(made) <= 255


def test_a_common_write_id_stays_readable() -> None:
    write_id = (
        "hub/station-weather/stations/stations/reports/EWR-2013-01-01T06@0001.01795495872590442.0000~71b69e21/live"
    )
    assert reference_of(write_id) == write_id
    assert reference_of(write_id * 3) != reference_of(write_id * 3 + "x")


def answer(status: int, body: bytes = b"{}", **headers: str) -> HttpAnswer:
    return HttpAnswer(status, {"Content-Type": "application/json", **headers}, body, "http://h/")


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (200, Action.SUCCESS), (204, Action.SUCCESS), (302, Action.FAULT), (304, Action.UNCHANGED),
        (400, Action.REJECTED), (401, Action.AUTH), (403, Action.FAULT), (404, Action.REJECTED),
        (408, Action.RETRY), (409, Action.CONFLICT), (410, Action.REJECTED), (412, Action.CONFLICT),
        (413, Action.REJECTED), (415, Action.REJECTED), (422, Action.REJECTED), (425, Action.RETRY),
        (428, Action.CONFLICT), (429, Action.RATE_LIMITED), (500, Action.RETRY), (501, Action.FAULT),
        (502, Action.RETRY), (503, Action.RATE_LIMITED), (504, Action.RETRY),
    ],
)  # fmt: skip
def test_each_status_has_its_action(status: int, action: Action) -> None:
    assert Rules(()).action(answer(status)) is action


def test_a_page_for_people_with_200_is_the_systems_fault() -> None:
    for page in (
        answer(200, b"<html>", **{"Content-Type": "text/html"}),
        HttpAnswer(200, {}, b"  <!DOCTYPE html>", ""),
    ):
        action = Rules(()).action(page)
        assert action is Action.FAULT
        failure = failure_of(action, page, "GET /x", None)
        assert isinstance(failure, SystemFault)
        assert failure.code == "html"


def test_a_login_form_with_200_says_that_the_credentials_are_refused() -> None:
    form = b"<!doctype html><form><input name=u><input type='password'></form>"
    page = answer(200, form, **{"Content-Type": "text/html"})
    failure = failure_of(Rules(()).action(page), page, "GET /x", None)
    assert isinstance(failure, CredentialsRefused)
    assert failure.code == "credentials"


def test_own_rules_come_first_and_see_errors_inside_a_200() -> None:
    rules = Rules(
        [
            Response(status=(200,), when="error.code == 'RATE'", action="rate_limited"),
            Response(when="error", action="rejected"),
            Response(status=(404,), action="end"),
        ]
    )
    assert rules.action(answer(200, b'{"error": {"code": "RATE"}}')) is Action.RATE_LIMITED
    assert rules.action(answer(200, b'{"error": {"code": "E"}}')) is Action.REJECTED
    assert rules.action(answer(404)) is Action.END
    assert rules.action(answer(200)) is Action.SUCCESS


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7", "X-RateLimit-Reset": "1"}, 7.0),
        ({"X-RateLimit-Reset": "2.5"}, 2.5),
        ({"X-RateLimit-Reset": str(int(NOW.timestamp()) + 40)}, 40.0),
        ({"RateLimit-Reset": "nan"}, None),
        ({"RateLimit-Reset": "inf"}, None),
        ({}, None),
    ],
)
def test_a_pause_is_read_from_any_of_its_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert pause_of(headers, NOW) == seconds


def test_failures_carry_what_to_do_about_them() -> None:
    throttled = failure_of(Action.RATE_LIMITED, answer(429), "GET /x", 3.0)
    assert isinstance(throttled, Throttled)
    assert throttled.retry_after == 3.0
    assert isinstance(failure_of(Action.AUTH, answer(401), "GET /x", None), CredentialsRefused)


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('<http://h/2>; rel="next"', "http://h/2"),
        ("</p?a=1,2>; rel=next", "/p?a=1,2"),
        ('<http://h/0>; rel="prev", <http://h/2>; title="a, b; c"; rel="last next"', "http://h/2"),
        ('<http://h/0>; rel="prev"', None),
        ('<http://h/0>; rel="nextish"', None),
        ("", None),
    ],
)
def test_the_next_link_is_found_among_others(header: str, target: str | None) -> None:
    assert next_link({"Link": header}) == target
