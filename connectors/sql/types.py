"""Column types: how a database's value becomes plain, and how a plain value becomes a parameter.

Reading follows the table of `schemas/values.py`. Writing goes as text, which the statement casts to the column's type:
one form for all values, and the database's own rules decide what it takes.
"""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from schemas.values import JsonValue, UnknownType, plain, rfc3339

Reader: TypeAlias = Callable[[Any], JsonValue]
Writer: TypeAlias = Callable[[Any], str]

_AS_TEXT = (
    sa.Uuid,
    postgresql.INET,
    postgresql.CIDR,
    postgresql.MACADDR,
    postgresql.MACADDR8,
)
_AS_IT_IS = (
    sa.Integer,
    sa.Boolean,
    sa.String,
    sa.Enum,
    sa.JSON,
    postgresql.OID,
    postgresql.MONEY,
    postgresql.BIT,
    postgresql.TSVECTOR,
    postgresql.CITEXT,
)
_AS_PLAIN = (sa.Date, sa.Time, sa.Interval, postgresql.INTERVAL, sa.LargeBinary, sa.Float, sa.Numeric)


def reader_of(kind: sa.types.TypeEngine[Any], zone: ZoneInfo | None) -> Reader | None:
    """Makes a column's values plain; None where they are already.

    Raises:
        UnknownType: a type without an agreed form, or a time without a zone and the system's file names none.
    """
    if isinstance(kind, postgresql.DOMAIN):
        return reader_of(kind.data_type, zone)
    if isinstance(kind, sa.ARRAY):
        inner = reader_of(kind.item_type, zone)
        return None if inner is None else lambda values: _each(values, inner)
    if isinstance(kind, sa.DateTime):
        if kind.timezone:
            return rfc3339
        if zone is None:
            raise UnknownType("a time without zone; say `timezone:` in the system's file")
        return lambda moment: rfc3339(moment.replace(tzinfo=zone))
    if isinstance(kind, _AS_TEXT):
        return str
    if isinstance(kind, _AS_IT_IS):
        return None
    if isinstance(kind, _AS_PLAIN):
        return plain
    raise UnknownType(f"no agreed form for the type {kind!r}; leave the column out with `columns:`")


def sqlite_reader_of(kind: sa.types.TypeEngine[Any], zone: ZoneInfo | None) -> Reader | None:
    """The same for SQLite, which keeps times, booleans and JSON as text and numbers. Raises as `reader_of`."""
    if isinstance(kind, sa.DateTime):
        if zone is None:
            raise UnknownType("a time without zone; say `timezone:` in the system's file")
        return lambda text: _with_zone(text, zone)
    if isinstance(kind, sa.Boolean):
        return bool
    if isinstance(kind, sa.JSON):
        return json.loads
    if isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float):
        return str
    if isinstance(kind, sa.Float | sa.LargeBinary):
        return plain
    return None


def _with_zone(text: str, zone: ZoneInfo) -> str:
    moment = datetime.fromisoformat(text)
    return rfc3339(moment.replace(tzinfo=zone) if moment.tzinfo is None else moment)


def _each(values: Any, inner: Reader) -> JsonValue:
    if isinstance(values, list):
        return [_each(value, inner) for value in values]
    return None if values is None else inner(values)


def writer_of(kind: sa.types.TypeEngine[Any], zone: ZoneInfo | None) -> Writer:
    """Makes the text of a plain value, as a column of this type takes it.

    Raises:
        UnknownType: values of this type cannot be written.
    """
    if isinstance(kind, postgresql.DOMAIN):
        return writer_of(kind.data_type, zone)
    if isinstance(kind, sa.ARRAY | sa.types.NullType):
        raise UnknownType(f"values of the type {kind!r} cannot be written")
    if isinstance(kind, sa.JSON):
        return lambda value: json.dumps(value, ensure_ascii=False)
    if isinstance(kind, sa.LargeBinary):
        return lambda value: "\\x" + base64.b64decode(value, validate=True).hex()
    if isinstance(kind, sa.DateTime) and not kind.timezone:
        if zone is None:
            raise UnknownType("a column with a time without zone; say `timezone:` in the system's file")
        return lambda value: _in_zone(value, zone)
    return text_of


def text_of(value: JsonValue) -> str:
    """A plain value as text that every database casts back: JSON's booleans and numbers, strings as they are."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | dict | list):
        return json.dumps(value, ensure_ascii=False)
    raise UnknownType(f"{type(value).__name__} is no plain value")


def _in_zone(value: Any, zone: ZoneInfo) -> str:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return str(moment.astimezone(zone).replace(tzinfo=None))
