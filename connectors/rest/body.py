"""JSON from a foreign server, read strictly: what Python's reader lets through would be wrong data later."""

import json
import math
from typing import Any

from connectors.errors import CrossdockError
from schemas.values import JsonValue

DEEPEST = 64
_INT64 = 2**63


class Unreadable(CrossdockError):
    """A body that is not the JSON that was promised."""


def parse(body: bytes) -> JsonValue:
    """A JSON text as plain values.

    NaN, Infinity and numbers too large for a float become null; integers beyond 64 bits become text.

    Raises:
        Unreadable: no UTF-8 JSON, a name twice in one object, or nested deeper than 64.
    """
    try:
        value = _DECODER.decode(body.decode("utf-8-sig"))
    except RecursionError:
        raise Unreadable(f"nested deeper than {DEEPEST}") from None
    except ValueError as error:
        raise Unreadable("not JSON", detail=str(error)) from error
    if _deeper_than(value, DEEPEST):
        raise Unreadable(f"nested deeper than {DEEPEST}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return made


def _float(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _int(text: str) -> int | str:
    if len(text) < 19:
        return int(text)
    if len(text) > 20:
        return text
    value = int(text)
    return value if -_INT64 <= value < _INT64 else text


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=lambda _: None
)


def _deeper_than(value: JsonValue, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(_deeper_than(item, levels - 1) for item in value if isinstance(item, dict | list))
