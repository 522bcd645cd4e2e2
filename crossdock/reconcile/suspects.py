"""Comparing: buckets first, and the records of those alone that differ."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from connectors.buckets import FAN, key_text
from connectors.clock import Clock
from connectors.contract import Bucket, Comparable, Held, KeyRange
from schemas.values import JsonScalar

AT_ONCE = 20_000
"""Records of one side that are listed together."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side, and how it calls the fields of the key."""

    of: Comparable
    fields: tuple[str, ...]
    seconds: float
    """What one pass over it may take."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A record whose two sides did not agree at the first look. Versions are without the cause; None = not there."""

    text: str
    key: tuple[JsonScalar, ...]
    """In the order of the fields."""
    source: str | None
    target: str | None


@dataclass(slots=True)
class Counts:
    """What was compared."""

    records: int = 0
    """Of the source."""
    unequal: int = 0
    """Buckets of the first cut that differed."""


def suspects(source: Side, target: Side, whole: KeyRange, clock: Clock, counts: Counts) -> Iterator[Suspect]:
    """Every record that is on one side alone, or in another version."""
    first = _pairs(source, target, whole, clock)
    counts.records = sum(mine.records for mine, _ in first)
    counts.unequal = sum(1 for mine, theirs in first if mine != theirs)
    for part in _together(_unequal(source, target, first, whole, clock)):
        held = [
            {
                key_text(each.key): each
                for each in side.of.held(part._replace(fields=side.fields), clock.monotonic() + side.seconds)
            }
            for side in (source, target)
        ]
        yield from _differences(*held)


def _differences(source: dict[str, Held], target: dict[str, Held]) -> Iterator[Suspect]:
    for text in sorted(source.keys() | target.keys()):
        mine, theirs = source.get(text), target.get(text)
        if mine is None or theirs is None or mine.version != theirs.version:
            either = mine or theirs
            assert either is not None
            yield Suspect(text, either.key, mine and mine.version, theirs and theirs.version)


def _pairs(source: Side, target: Side, part: KeyRange, clock: Clock) -> list[tuple[Bucket, Bucket]]:
    found = [
        side.of.digest(part._replace(fields=side.fields), clock.monotonic() + side.seconds) for side in (source, target)
    ]
    return list(zip(*found, strict=True))


def _unequal(
    source: Side, target: Side, pairs: Iterable[tuple[Bucket, Bucket]], around: KeyRange, clock: Clock
) -> Iterator[tuple[KeyRange, int]]:
    """Ranges that differ, with the records in them: each small enough to be listed."""
    for mine, theirs in pairs:
        if mine == theirs:
            continue
        records, width = max(mine.records, theirs.records), mine.end - mine.start
        part = around._replace(start=mine.start, end=mine.end, buckets=min(FAN, width))
        if records <= AT_ONCE or width == 1:
            yield part, records
        else:
            yield from _unequal(source, target, _pairs(source, target, part, clock), part, clock)


def _together(parts: Iterable[tuple[KeyRange, int]]) -> Iterator[KeyRange]:
    """Neighbours as one range, as far as they can be listed together: each list is a pass over a table."""
    open_: KeyRange | None = None
    size = 0
    for part, records in parts:
        if open_ is not None and open_.end == part.start and size + records <= AT_ONCE:
            open_, size = open_._replace(end=part.end), size + records
            continue
        if open_ is not None:
            yield open_
        open_, size = part, records
    if open_ is not None:
        yield open_
