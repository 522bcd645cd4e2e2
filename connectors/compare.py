"""Whether a target already holds what a write wants: asked before a conflict is called one.

Targets write one value in many ways, so values are compared for what they mean: `0.30` is 0.3, and one moment is one
moment in any zone. Two texts are the same only if they are equal or both are times: `1.10` is not `1.1`.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from schemas.values import JsonValue, Record

_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?")
"""As in JSON: `007` is a code, and no number."""


def holds(found: Record, wanted: Mapping[str, JsonValue]) -> bool:
    """Whether a target's record has all of these values; a field that is absent there counts as null."""
    return all(same(found.get(name), value) for name, value in wanted.items())


def same(one: JsonValue, other: JsonValue) -> bool:
    """Whether two plain values mean the same."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, str) and isinstance(other, str):
        return one == other or _same_moment(one, other)
    if isinstance(one, str | int | float) and isinstance(other, str | int | float):
        number = _number(one)
        return number is not None and number == _number(other)
    return False


def _number(value: Any) -> Decimal | None:
    text = str(value)
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def _same_moment(one: str, other: str) -> bool:
    try:
        moments = datetime.fromisoformat(one), datetime.fromisoformat(other)
    except ValueError:
        return False
    return moments[0].tzinfo is not None and moments[1].tzinfo is not None and moments[0] == moments[1]
