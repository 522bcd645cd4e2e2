"""The weather stations' memory: hourly reports by id, sorted by the time of their last change.

It is rebuilt from its two append-only logs, which the demo's account is checked against:

- `versions.jsonl`: each version of a report, `{id, modified, etag, at, kind, report}`;
- `effects.jsonl`: each write that really changed a report,
  `{id, modified, replaced, etag, write_id, values, sent, at}`; `replaced` is the ETag that it took the place of.
"""

import bisect
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from connectors.clock import Clock
from crossdock.demo.aircraft import Log, instant, microseconds
from schemas.values import rfc3339

Row: TypeAlias = dict[str, Any]
Position: TypeAlias = tuple[int, str]
"""(microseconds since 1970, id): the order of the listing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MEASURED = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
WRITTEN = ("severity", "note")


class Refusal(Exception):
    """A request that is not done. `status` and `code` are the answer's."""

    def __init__(self, status: int, code: str, **headers: str) -> None:
        super().__init__(code)
        self.status, self.code, self.headers = status, code, headers


class Written(NamedTuple):
    """The answer to a write; kept under its idempotency key, so that a repeat gets the same."""

    etag: str
    values: Row
    sent: str
    """Digest of the body, as a key stands for one body only."""


@dataclass(slots=True)
class Report:
    """One hour at one airport: what was measured, when it last changed, and what was written back."""

    id: str
    modified: int
    row: Row
    writes: int = 0
    values: Row = field(default_factory=lambda: dict.fromkeys(WRITTEN))

    @property
    def etag(self) -> str:
        """Moves with a new version and with each write."""
        return f'"{self.modified:x}-{self.writes}"'

    def plain(self) -> Row:
        """As the listing and the report's own address show it."""
        return {"id": self.id, **self.row, "modified": instant(self.modified), "etag": self.etag, **self.values}


class Reports:
    """All reports. For one thread: the server's event loop."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._clock = clock
        self._reports: dict[str, Report] = {}
        self._order: list[Position] = []
        self._newest = 0
        self._answers: dict[str, Written] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._versions, self._effects = Log(folder / "versions.jsonl"), Log(folder / "effects.jsonl")
        self._replay()

    def load(self, row: Mapping[str, Any]) -> Report:
        """A new version of a report, a row as in weather.csv. The server stamps `modified`, each later than the last.

        Raises:
            Refusal: no `origin` or no `time_hour`.
        """
        origin, hour = row.get("origin"), row.get("time_hour")
        if not isinstance(origin, str) or not isinstance(hour, str):
            raise Refusal(422, "origin and time_hour are needed")
        now = self._clock.now()
        content = {"origin": origin, "time_hour": hour, **{name: row.get(name) for name in MEASURED}}
        modified = max((now - _EPOCH) // timedelta(microseconds=1), self._newest + 1)
        report = self._place(f"{origin}-{hour[:13]}", modified, content)
        self._versions.append(
            id=report.id, modified=instant(modified), etag=report.etag, at=rfc3339(now), kind="live", report=content
        )
        return report

    def page(self, since: int, after: Position | None, size: int) -> tuple[list[Report], Position | None]:
        """At most `size` reports from a time on and behind a position; and the last one's position if there is more."""
        start = (
            bisect.bisect_left(self._order, (since, "")) if after is None else bisect.bisect_right(self._order, after)
        )
        found = self._order[start : start + size]
        more = start + size < len(self._order)
        return [self._reports[name] for _, name in found], found[-1] if found and more else None

    def get(self, name: str) -> Report:
        """Raises Refusal if there is no such report."""
        report = self._reports.get(name)
        if report is None:
            raise Refusal(404, "there is no such report")
        return report

    def write(self, name: str, values: Row, *, body: bytes, key: str | None, expected: str | None) -> Written:
        """Writes severity and note. The idempotency key comes first, then the ETag.

        Raises:
            Refusal: 404, 412 (another ETag), 422 (fields, or a known key with another body), 428 (no ETag).
        """
        sent = hashlib.blake2b(body, digest_size=8).hexdigest()
        known = None if key is None else self._answers.get(key)
        if known is not None:
            if known.sent != sent:
                raise Refusal(422, "this idempotency key came with another body")
            return known
        report = self.get(name)
        if not values or not set(values) <= set(WRITTEN):
            raise Refusal(422, "a report takes severity and note")
        if expected is None:
            raise Refusal(428, "If-Match is needed")
        if expected not in {report.etag, "*"}:
            raise Refusal(412, "the report has another ETag", ETag=report.etag)
        written = self._written(report, values, sent, key)
        if key is not None:
            self._answers[key] = written
        return written

    def __len__(self) -> int:
        return len(self._order)

    def close(self) -> None:
        """Closes the logs."""
        self._versions.close()
        self._effects.close()

    def _written(self, report: Report, values: Row, sent: str, key: str | None) -> Written:
        if all(report.values[name] == value for name, value in values.items()):
            return Written(report.etag, report.values, sent)
        replaced = report.etag
        report.writes += 1
        report.values = {**report.values, **values}
        self._effects.append(
            id=report.id,
            modified=instant(report.modified),
            replaced=replaced,
            etag=report.etag,
            write_id=key,
            values=report.values,
            sent=sent,
            at=rfc3339(self._clock.now()),
        )
        return Written(report.etag, report.values, sent)

    def _place(self, name: str, modified: int, content: Row) -> Report:
        known = self._reports.get(name)
        if known is not None:
            del self._order[bisect.bisect_left(self._order, (known.modified, name))]
        report = Report(name, modified, content)
        if known is not None:
            report.values = known.values
        self._reports[name] = report
        bisect.insort(self._order, (modified, name))
        self._newest = max(self._newest, modified)
        return report

    def _replay(self) -> None:
        for line in self._versions.replay():
            self._place(line["id"], microseconds(line["modified"]), line["report"])
        for line in self._effects.replay():
            report = self._reports[line["id"]]
            report.values = line["values"]
            if report.modified == microseconds(line["modified"]):
                report.writes = int(line["etag"].strip('"').rpartition("-")[2])
            if line["write_id"] is not None:
                self._answers[line["write_id"]] = Written(line["etag"], line["values"], line["sent"])
