"""Echoes: dropped once, when nothing else changed, and for a time. Busy records: written to so often and no more."""

from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from connectors.clock import Clock
from schemas.change import Change, Op, canonical_key, content_digest, event_id
from schemas.codec import decode, decode_event, encode_change
from schemas.event import headers_of
from schemas.outcome import Fate
from schemas.receipt import ReceiptRecord
from schemas.write import LIVE, Write
from streams import echo
from streams.busy import HOUR, Busy
from streams.echo import Counts, Echoes, receipt_of, told_of
from streams.settled import Incoming

KEY = {"id": 17}
WRITTEN = frozenset({"risk", "updated_at"})


class Hands:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    def sleep(self, seconds: float, interrupt: Any = None) -> bool:
        raise AssertionError("nothing sleeps here")


@pytest.fixture
def clock() -> Hands:
    return Hands()


def change(number: int, risk: Any, carrier: str = "UA", key: dict[str, Any] = KEY) -> Change:
    """A version of a row, as the source reads it."""
    after = {**key, "carrier": carrier, "risk": risk, "updated_at": f"t{number}"}
    version = f"0001.{number:020d}.0000"
    identity = event_id("erp/flights", key, version, content_digest(after, WRITTEN))
    return Change(Op.UPSERT, key, None, after, version, "erp/flights", identity, "t")


def record(key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> ConsumerRecord:
    return ConsumerRecord("t", 0, 0, 0, 0, key, value, None, len(key), len(value), tuple(headers))


def receipt(read: Change, fields: dict[str, Any], key: dict[str, Any] = KEY, cause: str = LIVE) -> ConsumerRecord:
    """The receipt of a write that followed this change."""
    value = encode_change(read)
    event = Incoming(
        record(canonical_key(read.key), value, headers_of(read, b"")), decode_event(value), read.event_id, cause
    )
    told = told_of(Write("w", key, fields, read.version), event)
    return record(canonical_key(read.key), b"{}", [] if told is None else [told])


def test_the_echo_of_a_write_is_found_once(clock: Clock) -> None:
    echoes = Echoes(clock)
    echoes.expect(receipt(change(1, None), {"risk": 0.31}))
    assert echoes.found(change(2, 0.31)) is not None
    assert echoes.found(change(3, 0.31)) is None, "somebody touched the row: that is news"
    assert echoes.counts == Counts(suppressed=1)


@pytest.mark.parametrize(
    "seen",
    [
        change(2, 0.31, carrier="DL"),
        change(2, 0.5),
        change(2, None),
        change(2, "0.32"),
    ],
)
def test_what_differs_in_anything_is_no_echo(clock: Clock, seen: Change) -> None:
    """I1: a change of a person is never dropped because the hub wrote at the same time."""
    echoes = Echoes(clock)
    echoes.expect(receipt(change(1, None), {"risk": 0.31}))
    assert echoes.found(seen) is None
    assert echoes.counts == Counts(near_misses=1)
    assert echoes.found(change(3, 0.31)) is not None, "the echo itself may still come"


def test_another_record_or_object_is_no_echo(clock: Clock) -> None:
    echoes = Echoes(clock)
    echoes.expect(receipt(change(1, None), {"risk": 0.31}))
    assert echoes.found(change(2, 0.31, key={"id": 18})) is None
    other = change(2, 0.31)
    other = Change(other.op, other.key, None, other.after, other.version, "erp/archive", other.event_id, other.time)
    assert echoes.found(other) is None


def test_a_number_is_the_same_as_a_decimal_that_comes_back_as_text(clock: Clock) -> None:
    for there, back in (
        (0.31, "0.31"),
        (1, "1.00"),
        (True, True),
        ("high", "high"),
        (None, None),
        ({"a": 1}, {"a": 1}),
    ):
        echoes = Echoes(clock)
        echoes.expect(receipt(change(1, "before"), {"risk": there}))
        assert echoes.found(change(2, back)) is not None, there


def test_an_echo_is_waited_for_ten_minutes(clock: Hands) -> None:
    echoes = Echoes(clock)
    echoes.expect(receipt(change(1, None), {"risk": 0.31}))
    clock.time += echo.LIVES + 1
    assert echoes.found(change(2, 0.31)) is None
    assert (len(echoes), echoes.counts) == (0, Counts(expired=1))


def test_what_is_waited_for_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: the oldest are given up first."""
    monkeypatch.setattr(echo, "MOST", 3)
    echoes = Echoes(clock)
    for number in range(5):
        key = {"id": number}
        echoes.expect(receipt(change(1, None, key=key), {"risk": 0.31}, key))
    assert (len(echoes), echoes.counts.expired) == (3, 2)
    assert echoes.found(change(2, 0.31, key={"id": 1})) is None
    assert echoes.found(change(2, 0.31, key={"id": 4})) is not None


def test_a_write_into_another_record_tells_nothing(clock: Clock) -> None:
    echoes = Echoes(clock)
    echoes.expect(receipt(change(1, None), {"risk": 0.31}, key={"flight": 18}))
    echoes.expect(record(b"{}", b"{}", [(echo.HEADER, b"not ours")]))
    assert len(echoes) == 0


def test_a_dropped_change_has_its_fate(clock: Clock) -> None:
    """I1: filtered, by the rule that says so."""
    for cause, reason in ((LIVE, "echo"), ("undo:7", "undo")):
        echoes = Echoes(clock)
        echoes.expect(receipt(change(1, None), {"risk": 0.31}, cause=cause))
        seen = change(2, 0.31)
        found = echoes.found(seen)
        assert found is not None
        told = decode(receipt_of(seen, "delay-risk", found, "now"), ReceiptRecord)
        assert (told.event_id, told.fate, told.reason, told.write_id) == (seen.event_id, Fate.FILTERED, reason, None)


def test_how_it_goes_is_told_once_a_minute(clock: Hands, caplog: pytest.LogCaptureFixture) -> None:
    echoes = Echoes(clock)
    echoes.expect(receipt(change(1, None), {"risk": 0.31}))
    echoes.found(change(2, 0.31))
    with caplog.at_level("INFO"):
        for _ in range(4):
            clock.time += 40
            echoes.tell("erp.flights")
    told = [each.getMessage() for each in caplog.records]
    assert told == ["echo.counted task=erp.flights suppressed=1 expired=0 near_misses=0"]


def test_a_record_is_written_to_so_often_within_an_hour(clock: Hands) -> None:
    """I8: two systems that answer each other would else write for ever."""
    busy = Busy(3, clock)
    for _ in range(3):
        assert busy.until(b"k") is None
        busy.wrote(b"k")
    assert busy.until(b"k") == 1000.0 + HOUR
    assert busy.until(b"other") is None
    clock.time += HOUR
    assert busy.until(b"k") is None
    busy.wrote(b"k")
    assert busy.until(b"k") is None, "a new hour, a new count"


def test_without_a_limit_nothing_is_counted(clock: Clock) -> None:
    busy = Busy(None, clock)
    for _ in range(1000):
        busy.wrote(b"k")
    assert busy.until(b"k") is None
