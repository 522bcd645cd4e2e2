"""Values between XML text and the wire, by the built-in type of the WSDL that an element has or is derived from."""

import math
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from connectors.errors import Rejected
from connectors.soap.library import xsd
from schemas.values import JsonValue, UnknownType, plain, rfc3339

FromText: TypeAlias = Callable[[str], JsonValue]
_SPACES = str.maketrans("\n\r\t", "   ")
_TEXT_AS_IT_IS = (xsd.gYearMonth, xsd.gYear, xsd.gMonthDay, xsd.gDay, xsd.gMonth, xsd.HexBinary)


def moment(text: str, zone: ZoneInfo | None) -> datetime:
    """The aware time of an xs:dateTime.

    Raises:
        UnknownType: it has no zone, and the system's file names none.
        ValueError: it is no time.
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        found = xsd.DateTime().pythonvalue(text)  # 24:00:00 and the like, at twenty times the price
    if found.tzinfo is None:
        if zone is None:
            raise UnknownType("a time without zone; say `timezone:` in the system's file")
        found = found.replace(tzinfo=zone)
    return found


def from_text(xsd_type: Any, zone: ZoneInfo | None) -> FromText:
    """A converter from an element's text to its value on the wire; the same values as zeep's, then made plain.

    It raises ValueError or ArithmeticError for a text that the type does not allow.
    """
    match xsd_type:
        case xsd.Token() | xsd.AnyURI() | xsd.QName():
            return lambda text: text.translate(_SPACES).strip()
        case xsd.NormalizedString():
            return lambda text: text.translate(_SPACES)
        case xsd.String():
            return _itself
        case xsd.Integer():
            return int
        case xsd.Decimal():
            return lambda text: str(Decimal(text.strip()))
        case xsd.Float() | xsd.Double():
            return _finite
        case xsd.Boolean():
            return lambda text: text.strip() in {"true", "1"}
        case xsd.DateTime():
            return lambda text: rfc3339(moment(text, zone))
        case _ if isinstance(xsd_type, _TEXT_AS_IT_IS):
            return _itself
    return lambda text: plain(xsd_type.pythonvalue(text), zone)


def _itself(text: str) -> str:
    return text


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def to_text(xsd_type: Any, value: JsonValue, name: str) -> str:
    """The text of an element for a value that is not null. The schema judges the text afterwards.

    Raises:
        Rejected: the value has no text of this type; the message names the element.
    """
    if isinstance(value, dict | list):
        raise Rejected(f"{name}: a list or an object, where the WSDL has one value", code="type")
    try:
        if isinstance(value, bool):
            return _bool_text(xsd_type, value)
        match xsd_type:
            case xsd.Integer():
                return _integer_text(value)
            case xsd.Decimal():
                return format(Decimal(str(value)), "f")
            case xsd.Float() | xsd.Double() if isinstance(value, float) and math.isinf(value):
                return "INF" if value > 0 else "-INF"
    except (ValueError, InvalidOperation) as error:
        raise Rejected(f"{name}: {value!r} is no {type(xsd_type).__name__}", code="type") from error
    return str(value)


def _bool_text(xsd_type: Any, value: bool) -> str:
    if isinstance(xsd_type, xsd.Decimal | xsd.Float | xsd.Double):
        raise ValueError("a number is wanted")
    return "true" if value else "false"


def _integer_text(value: int | float | str) -> str:
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError("not whole")
        return str(int(value))
    return str(value)
