"""Derived fields: a closed list of small functions, run before the lookups. No expressions, no code.

| verb         | fields             | gives                                                                          |
|--------------|--------------------|--------------------------------------------------------------------------------|
| `floor_time` | `to`, `zone`       | start of the zone's hour or day, in UTC to the second: `2013-01-01T10:00:00Z`  |
| `to_zone`    | `zone`             | the local time with its offset, to the second: `2013-01-01T05:15:00-05:00`     |
| `part`       | `of`, `zone`       | hour 0-23, weekday 0 = Monday, day, month or minute, in that zone              |
| `concat`     | `with`             | the texts of several paths, `with` between them                                |
| `lower` `upper` `strip` |         | the text changed                                                               |
| `coalesce`   |                    | the first of several paths that is not null                                    |
| `map`        | `to`, `otherwise`  | the value under the field's text                                               |
| `diff`       | `unit`             | first minus second: numbers as they are, times in `unit`                       |

Null in, null out (but for `coalesce` and `map`'s `otherwise`). A derived field may use those above it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import available_timezones

from pydantic import AfterValidator, Discriminator, Field, Tag

from connectors.config import Block
from schemas.values import JsonScalar, JsonValue
from streams.model.contract import RowError
from streams.moments import NotATime, floored, local_time, moment_of, part_of
from streams.scope import Getter, Scope, compile_path
from streams.selector import Selector
from streams.words import did_you_mean

NO_LOOKUPS: frozenset[str] = frozenset()
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


class Underivable(ValueError):
    """A value that the verb cannot work on: a text where a time was promised."""


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError(f"no such time zone: {value!r}{did_you_mean(value, available_timezones())}")
    return value


Zone = Annotated[str, AfterValidator(_zone)]
Pure: TypeAlias = Callable[[Scope], JsonValue]


class FloorTime(Block):
    """The start of the hour or day. One canonical text, so that two systems' times match in a lookup."""

    floor_time: Selector
    to: Literal["hour", "day"]
    zone: Zone = "UTC"

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        to, zone = self.to, self.zone
        return _on_value(compile_path(self.floor_time, lookups), lambda value: floored(_text(value), to, zone))


class ToZone(Block):
    """The local time, with its offset."""

    to_zone: Selector
    zone: Zone

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        zone = self.zone
        return _on_value(
            compile_path(self.to_zone, lookups),
            lambda value: local_time(_text(value), zone).isoformat(timespec="seconds"),
        )


class Part(Block):
    """One part of a local time."""

    part: Literal["hour", "weekday", "day", "month", "minute"]
    of: Selector
    zone: Zone

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        part, zone = self.part, self.zone
        return _on_value(compile_path(self.of, lookups), lambda value: part_of(_text(value), part, zone))


class Concat(Block):
    """Texts joined; null if one of them is."""

    concat: list[Selector] = Field(min_length=1)
    with_: str = Field(default="", alias="with")

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        getters, between = [compile_path(path, lookups) for path in self.concat], self.with_

        def concat(scope: Scope) -> JsonValue:
            values = [get(scope) for get in getters]
            return None if None in values else between.join(_scalar_text(value) for value in values)

        return concat


class Lower(Block):
    """Small letters."""

    lower: Selector

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        return _on_value(compile_path(self.lower, lookups), lambda value: _text(value).lower())


class Upper(Block):
    """Capital letters."""

    upper: Selector

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        return _on_value(compile_path(self.upper, lookups), lambda value: _text(value).upper())


class Strip(Block):
    """Without white space at both ends."""

    strip: Selector

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        return _on_value(compile_path(self.strip, lookups), lambda value: _text(value).strip())


class Coalesce(Block):
    """The first value that is not null."""

    coalesce: list[Selector] = Field(min_length=1)

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        getters = [compile_path(path, lookups) for path in self.coalesce]
        return lambda scope: next((value for get in getters if (value := get(scope)) is not None), None)


class Map(Block):
    """A value for a value; `otherwise` for null and for what is not listed."""

    map: Selector
    to: dict[str, JsonScalar] = Field(min_length=1)
    otherwise: JsonScalar = None

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        get, to, otherwise = compile_path(self.map, lookups), self.to, self.otherwise

        def mapped(scope: Scope) -> JsonValue:
            value = get(scope)
            return otherwise if value is None else to.get(_scalar_text(value), otherwise)

        return mapped


class Diff(Block):
    """First minus second."""

    diff: tuple[Selector, Selector]
    unit: Literal["seconds", "minutes", "hours", "days"] | None = Field(
        default=None, description="for times; numbers have none"
    )

    def compile(self, lookups: frozenset[str] = NO_LOOKUPS) -> Pure:
        first, second = (compile_path(path, lookups) for path in self.diff)
        unit = self.unit

        def difference(scope: Scope) -> JsonValue:
            left, right = first(scope), second(scope)
            if left is None or right is None:
                return None
            if unit is None:
                return _number(left) - _number(right)
            return (moment_of(_text(left)) - moment_of(_text(right))).total_seconds() / _SECONDS[unit]

        return difference


_VERBS: dict[str, type[Block]] = {
    "floor_time": FloorTime,
    "to_zone": ToZone,
    "part": Part,
    "concat": Concat,
    "lower": Lower,
    "upper": Upper,
    "strip": Strip,
    "coalesce": Coalesce,
    "map": Map,
    "diff": Diff,
}


def _verb(block: Any) -> str | None:
    """The block's verb: the one key of it that is in the list."""
    names = block if isinstance(block, Mapping) else type(block).model_fields if isinstance(block, Block) else ()
    return next((verb for verb in _VERBS if verb in names), None)


DeriveConfig = Annotated[
    Annotated[FloorTime, Tag("floor_time")]
    | Annotated[ToZone, Tag("to_zone")]
    | Annotated[Part, Tag("part")]
    | Annotated[Concat, Tag("concat")]
    | Annotated[Lower, Tag("lower")]
    | Annotated[Upper, Tag("upper")]
    | Annotated[Strip, Tag("strip")]
    | Annotated[Coalesce, Tag("coalesce")]
    | Annotated[Map, Tag("map")]
    | Annotated[Diff, Tag("diff")],
    Discriminator(
        _verb,
        custom_error_type="derive_verb",
        custom_error_message=f"a derived field needs one verb of: {', '.join(_VERBS)}",
    ),
]
"""One derived field, told by its single verb."""


class Derive:
    """All derived fields of a pipeline, in the file's order."""

    def __init__(self, fields: Mapping[str, DeriveConfig], lookups: frozenset[str] = NO_LOOKUPS) -> None:
        """Raises ValueError for a path that is none."""
        self._steps = [(name, config.compile(lookups)) for name, config in fields.items()]

    def apply(self, scopes: Sequence[Scope]) -> dict[int, RowError]:
        """Fills `derived` of every scope. Returns the rows that could not be derived: index -> why."""
        refused: dict[int, RowError] = {}
        if not self._steps:
            return refused
        for row, scope in enumerate(scopes):
            derived = scope.derived
            name = ""
            try:
                for name, step in self._steps:
                    derived[name] = step(scope)
            except (Underivable, NotATime) as error:
                refused[row] = RowError("derive", f"{name}: {error}")
        return refused


def _on_value(get: Getter, change: Callable[[JsonValue], JsonValue]) -> Pure:
    def changed(scope: Scope) -> JsonValue:
        value = get(scope)
        return None if value is None else change(value)

    return changed


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise Underivable(f"a text is needed, not {type(value).__name__}")
    return value


def _scalar_text(value: JsonValue) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return str(value)
    raise Underivable(f"a single value is needed, not {type(value).__name__}")


def _number(value: JsonValue) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Underivable(f"a number is needed, not {type(value).__name__}; for times say `unit:`")
    return value
