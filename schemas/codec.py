"""The wire format, and the only place that knows it: UTF-8 JSON, strict in both directions."""

from typing import Any, TypeVar

import msgspec

from schemas.change import Change
from schemas.event import ChangeValue, EventValue

_T = TypeVar("_T")

_ENCODER = msgspec.json.Encoder()
_EVENT = msgspec.json.Decoder(EventValue)


class Undecodable(ValueError):
    """Bytes that are not what their topic promises."""


def encode(value: Any) -> bytes:
    """JSON of plain values and our own structs."""
    return _ENCODER.encode(value)


def encode_change(change: Change) -> bytes:
    """Value of a record on `<p>.changes`."""
    return _ENCODER.encode(ChangeValue(1, change.op, change.key, change.before, change.after, change.version))


def decode_event(value: bytes | None) -> EventValue:
    """The typed view of an event's value.

    Raises:
        Undecodable: no JSON, a missing or mistyped field, or a `cd_schema` of the future.
    """
    if value is None:
        raise Undecodable("a tombstone, where an event was expected")
    try:
        event = _EVENT.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from error
    if event.cd_schema > 1:
        raise Undecodable(f"cd_schema {event.cd_schema}: this worker reads up to 1; upgrade it first")
    return event


def decode(value: bytes, as_type: type[_T]) -> _T:
    """Any of our structs. Raises Undecodable."""
    try:
        return msgspec.json.decode(value, type=as_type)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from error


def extend(value: bytes, **fields: Any) -> bytes:
    """The event's own bytes with more fields at the end.

    What we do not know passes through untouched, and nothing is encoded twice.
    """
    added = _ENCODER.encode(fields)
    return value.rstrip()[:-1] + b"," + added[1:]
