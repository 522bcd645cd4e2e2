"""Paths and parameters of a REST system, with the fields of a key filled in."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from connectors.errors import Rejected
from schemas.values import JsonValue

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")


def path_of(template: str, values: Mapping[str, JsonValue]) -> str:
    """The path for a record. Raises Rejected for a value that would lead to another resource."""
    return _PLACEHOLDER.sub(lambda found: _segment(found[1], values.get(found[1])), template)


def filled(template: str, values: Mapping[str, JsonValue]) -> str:
    """The text of a parameter; whoever sends it encodes it."""
    return _PLACEHOLDER.sub(lambda found: text_of(values.get(found[1])), template)


def text_of(value: JsonValue) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _segment(name: str, value: JsonValue) -> str:
    """One segment of a path. Empty ones and dots would lead to another resource."""
    text = text_of(value)
    if text.strip(".") == "":
        raise Rejected(f"the key field {name!r} is empty or only dots: it names no record", code="key")
    return quote(text, safe="")
