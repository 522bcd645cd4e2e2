"""Plain values: what may stand in a record on the wire, and how richer values become plain.

| value                     | on the wire                                  |
|---------------------------|----------------------------------------------|
| Decimal                   | string                                       |
| datetime with zone        | RFC 3339 in UTC, microseconds                |
| datetime without zone     | converted from the system's `timezone`       |
| date, time                | ISO 8601                                     |
| timedelta                 | ISO 8601 duration                            |
| bytes                     | base64                                       |
| UUID, enum                | string                                       |
| NaN, Infinity             | null (the caller counts them)                |
"""

import base64
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

JsonScalar: TypeAlias = str | int | float | bool | None
JsonValue: TypeAlias = Any  # a recursive alias costs mypy and readers more than it tells: dict | list | JsonScalar
Key: TypeAlias = Mapping[str, JsonScalar]
Record: TypeAlias = dict[str, JsonValue]
Offset: TypeAlias = Mapping[str, JsonValue]
"""A position in a source: opaque to the hub, JSON, written by one connector and read by the same."""


class UnknownType(TypeError):
    """A value of a type that has no place on the wire."""


def rfc3339(moment: datetime) -> str:
    """Text of an aware datetime: UTC, always six decimals, so that texts sort as times do."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond:06d}Z"


def duration(value: timedelta) -> str:
    """ISO 8601 duration in days and seconds (`P1DT3.500000S`); negative ones carry a leading minus."""
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    fraction = f".{value.microseconds:06d}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{value.seconds}{fraction}S"


def plain(value: Any, zone: ZoneInfo | None = None) -> JsonValue:
    """The value as it stands on the wire.

    Args:
        value: what a driver or parser returned.
        zone: where times without a zone were taken; None refuses them.

    Raises:
        UnknownType: there is no agreed form for this type.
    """
    match value:
        case None | bool() | int() | str():
            return value.value if isinstance(value, Enum) else value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return str(value) if value.is_finite() else None
        case datetime():
            if value.tzinfo is None:
                if zone is None:
                    raise UnknownType("a time without zone; say `timezone:` in the system's file")
                value = value.replace(tzinfo=zone)
            return rfc3339(value)
        case date() | time():
            return value.isoformat()
        case timedelta():
            return duration(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode("ascii")
        case UUID():
            return str(value)
        case Enum():
            return plain(value.value, zone)
        case Mapping():
            return {str(name): plain(item, zone) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item, zone) for item in value]
    raise UnknownType(f"no wire form for {type(value).__name__}")
