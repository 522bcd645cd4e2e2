"""The aircraft register's memory: aircraft by tail number, sorted by the time of their last change.

It is rebuilt from its append-only logs; the first two are also what the demo's account is checked against:

- `versions.jsonl`: each version of an aircraft, `{tailNumber, lastModified, at, kind, aircraft}`;
- `effects.jsonl`: each priority that really changed, `{tailNumber, source_version, write_id, values, at}`;
- `confirmed.jsonl`: a newer source version that brought the same values, `{tailNumber, source_version}`.
"""

import bisect
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from connectors.clock import Clock
from schemas.values import rfc3339

Row: TypeAlias = dict[str, Any]
Position: TypeAlias = tuple[int, str]
"""(microseconds since 1970, tail number): the order of every listing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = ("year", "type", "manufacturer", "model", "engines", "seats", "speed", "engine")
SCORED = ("priority", "score", "scoredBy")


@dataclass(slots=True)
class Aircraft:
    """One aircraft: the data set's columns, when they last changed, and what was written back."""

    tail_number: str
    modified: int
    row: Row
    source_version: str = ""
    scored: Row = field(default_factory=dict)


class AircraftRegister:
    """All aircraft. Every public method is safe to call from any thread."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._aircraft: dict[str, Aircraft] = {}
        self._order: list[Position] = []
        self._newest = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._versions = Log(folder / "versions.jsonl")
        self._effects = Log(folder / "effects.jsonl")
        self._confirmed = Log(folder / "confirmed.jsonl")
        for line in self._versions.replay():
            self._place(line["tailNumber"], microseconds(line["lastModified"]), line["aircraft"])
        for line in self._effects.replay():
            aircraft = self._aircraft[line["tailNumber"]]
            aircraft.source_version, aircraft.scored = line["source_version"], line["values"]
        for line in self._confirmed.replay():
            aircraft = self._aircraft[line["tailNumber"]]
            aircraft.source_version = max(aircraft.source_version, line["source_version"])

    def load(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Inserts or updates aircraft, rows as in planes.csv (`tailnum`, ...; None where the data set has NA).

        Raises:
            KeyError: a row without `tailnum`.
        """
        count = 0
        for row in rows:
            tail_number = str(row["tailnum"])
            content = {name: row.get(name) for name in COLUMNS}
            with self._lock:
                now = self._clock.now()
                modified = max((now - _EPOCH) // timedelta(microseconds=1), self._newest + 1)
                self._versions.append(
                    tailNumber=tail_number,
                    lastModified=instant(modified),
                    at=rfc3339(now),
                    kind="live",
                    aircraft=content,
                )
                self._place(tail_number, modified, content)
            count += 1
        return count

    def page(self, after: Position, size: int) -> tuple[list[Aircraft], Position | None]:
        """At most `size` aircraft behind a position, and the position to go on from; None = that was the end."""
        with self._lock:
            start = bisect.bisect_right(self._order, after)
            found = self._order[start : start + size]
            more = start + size < len(self._order)
            return [self._aircraft[tail_number] for _, tail_number in found], found[-1] if found and more else None

    def score(self, tail_number: str, source_version: str, values: Row) -> str:
        """Writes one priority: UPDATED, UNCHANGED (it holds these values), STALE (it holds a newer source version)."""
        with self._lock:
            aircraft = self._aircraft.get(tail_number)
            if aircraft is None:
                return "REJECTED"
            if source_version < aircraft.source_version:
                return "STALE"
            if _equal(aircraft.scored, values):
                if source_version > aircraft.source_version:
                    self._confirmed.append(tailNumber=tail_number, source_version=source_version)
                    aircraft.source_version = source_version
                return "UNCHANGED"
            self._effects.append(
                tailNumber=tail_number,
                source_version=source_version,
                write_id=None,
                values=values,
                at=rfc3339(self._clock.now()),
            )
            aircraft.source_version, aircraft.scored = source_version, values
            return "UPDATED"

    def get(self, tail_number: str) -> Aircraft | None:
        """The present state of one aircraft."""
        return self._aircraft.get(tail_number)

    def __len__(self) -> int:
        return len(self._order)

    def close(self) -> None:
        """Closes the logs."""
        for log in (self._versions, self._effects, self._confirmed):
            log.close()

    def _place(self, tail_number: str, modified: int, content: Row) -> None:
        known = self._aircraft.get(tail_number)
        if known is None:
            self._aircraft[tail_number] = Aircraft(tail_number, modified, content)
        else:
            del self._order[bisect.bisect_left(self._order, (known.modified, tail_number))]
            known.modified, known.row = modified, content
        bisect.insort(self._order, (modified, tail_number))
        self._newest = max(self._newest, modified)


class Log:
    """A file of JSON lines that only grows. A line that a crash cut off is removed when the file is read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    def replay(self) -> list[Row]:
        """All whole lines."""
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._file, whole)
        return [json.loads(line) for line in content[:whole].splitlines()]

    def append(self, **line: Any) -> None:
        """One line in one write: a kill leaves it whole or, at the worst, cut off at the end."""
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def instant(modified: int) -> str:
    """RFC 3339 text of microseconds since 1970."""
    return rfc3339(_EPOCH + timedelta(microseconds=modified))


def microseconds(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 text; a time without zone counts as UTC, as the register's own do.

    Raises:
        ValueError: the text is no time.
    """
    moment = datetime.fromisoformat(text.strip())
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def _equal(held: Row, wanted: Row) -> bool:
    return bool(held) and all(_comparable(held.get(name)) == _comparable(wanted.get(name)) for name in SCORED)


def _comparable(value: Any) -> Any:
    try:
        return Decimal(value)
    except (ArithmeticError, TypeError, ValueError):
        return value
