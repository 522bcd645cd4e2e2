"""`only:` which changes a pipeline wants. The rest ends as filtered(only)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jmespath
import jmespath.exceptions

from schemas.values import JsonValue
from streams.model.contract import RowError
from streams.scope import RESERVED, Scope, compile_path


class Split(NamedTuple):
    """Row numbers of a batch; every row is in exactly one of the three."""

    wanted: list[int]
    filtered: list[int]
    refused: dict[int, RowError]
    """The predicate itself failed on these, as a function of JMESPath does on a value of the wrong type."""


class Only:
    """A compiled predicate: a JMESPath over the record's fields, `before`, `after` and `key`, true as JMESPath says."""

    def __init__(self, predicate: str | None) -> None:
        """None wants everything. Raises ValueError if it is not valid JMESPath."""
        self._wants = None if predicate is None else _compiled(predicate)

    def split(self, scopes: Sequence[Scope]) -> Split:
        """Sorts the rows of a batch."""
        if self._wants is None:
            return Split(list(range(len(scopes))), [], {})
        split, wants = Split([], [], {}), self._wants
        for row, scope in enumerate(scopes):
            try:
                (split.wanted if _true(wants(scope)) else split.filtered).append(row)
            except jmespath.exceptions.JMESPathError as error:
                split.refused[row] = RowError("only", str(error).splitlines()[0])
        return split


def _true(value: JsonValue) -> bool:
    """JMESPath's truth: null, false, and empty texts, lists and objects are not; zero is."""
    return not (value is None or value is False or value in ("", [], {}))


def _compiled(predicate: str) -> Callable[[Scope], JsonValue]:
    try:
        expression = jmespath.compile(predicate)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f"only: not a JMESPath: {predicate!r} ({str(error).splitlines()[0]})") from error
    return _fast(expression.parsed) or (lambda scope: expression.search(scope.merged()))


def _fast(node: Any) -> Callable[[Scope], JsonValue] | None:
    """A plain function for fields compared with a text or null, and for `&&`, `||`, `!` of such; else None.

    Twenty times cheaper than walking the expression for every row.
    """
    children = node["children"]
    if node["type"] == "comparator" and node["value"] in ("eq", "ne") and children[1]["type"] == "literal":
        return _compared(_path_of(children[0]), children[1]["value"], equal=node["value"] == "eq")
    if node["type"] in ("and_expression", "or_expression", "not_expression"):
        parts = [part for child in children if (part := _fast(child)) is not None]
        if len(parts) == len(children):
            return _combined(node["type"], parts)
    return None


def _path_of(node: Any) -> str | None:
    nodes = node["children"] if node["type"] == "subexpression" else [node]
    if not all(part["type"] == "field" and part["value"].isidentifier() for part in nodes):
        return None
    names = [part["value"] for part in nodes]
    plain = len(names) == 1 and names[0] not in RESERVED
    return ".".join(names) if plain or (len(names) == 2 and names[0] in RESERVED) else None


def _compared(path: str | None, literal: JsonValue, *, equal: bool) -> Callable[[Scope], JsonValue] | None:
    if path is None or (literal is not None and not isinstance(literal, str)):
        return None  # numbers and truth values compare by JMESPath's own rules
    get = compile_path(path)
    if literal is None:
        return (lambda scope: get(scope) is None) if equal else (lambda scope: get(scope) is not None)
    return (lambda scope: get(scope) == literal) if equal else (lambda scope: get(scope) != literal)


def _combined(kind: str, parts: list[Callable[[Scope], JsonValue]]) -> Callable[[Scope], JsonValue]:
    if kind == "not_expression":
        (only,) = parts
        return lambda scope: not only(scope)
    left, right = parts
    if kind == "and_expression":
        return lambda scope: left(scope) and right(scope)
    return lambda scope: left(scope) or right(scope)
