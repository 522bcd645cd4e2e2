"""Reading a REST listing: pages in order, each record once for each of its versions.

The offset is `{v, cursor, seq}`. `cursor` is the server's own text of the newest record that is safe; the next look
begins `overlap` before it, and a bounded memory of (key, content) drops what was seen. After a restart the overlap is
emitted again, with the same event ids. `seq` numbers the changes where the cursor gives no order for versions.

With `sorted: true` (default) the listing ascends by the cursor and the offset moves at each page; else, and with
counted pages, it moves when the listing is complete. Records slip over the borders of counted pages when others change
meanwhile, so a listing of several such pages is read again until a pass finds nothing new.
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec

from connectors.contract import Report, TaskSpec
from connectors.errors import ConfigError, SystemFault
from connectors.rest.config import RestSourceConfig
from connectors.rest.pages import ListingIsGone, Pages
from connectors.rest.paging import Walk
from connectors.rest.position import CursorReader, Mark
from connectors.rest.records import REMEMBERED, Records
from connectors.rest.wire import Wire
from schemas.change import Batch, Change
from schemas.values import Offset, Record, rfc3339
from schemas.version import Version


class RestSource:
    """One listing; one task."""

    def __init__(self, config: RestSourceConfig, wire: Wire, *, zone: ZoneInfo | None, written: frozenset[str]) -> None:
        self._config, self._wire, self._zone = config, wire, zone
        self._ignored = written | frozenset(config.ignore)
        self._name = f"{config.system}.{config.object}"

    def tasks(self) -> Sequence[TaskSpec]:
        depends = self._config.model_dump(
            mode="json", by_alias=True, include={"system", "path", "method", "params", "records", "key", "cursor"}
        )
        digest = hashlib.blake2b(msgspec.json.encode(depends, order="sorted"), digest_size=8).hexdigest()
        cursor = {f"cursor.{name}": value for name, value in (depends.pop("cursor") or {}).items()}
        return [TaskSpec(self._name, digest, {**depends, **cursor})]

    def task(self, name: str) -> "RestSourceTask":
        assert name == self._name
        return RestSourceTask(self._config, self._wire, zone=self._zone, ignored=self._ignored)

    def check(self) -> Report:
        from connectors.rest.check import check_source

        return check_source(self._config, self._wire, self._zone)


class RestSourceTask:
    """Reads the listing. Life cycle: see `connectors/contract.py`."""

    def __init__(self, config: RestSourceConfig, wire: Wire, *, zone: ZoneInfo | None, ignored: frozenset[str]) -> None:
        self._config, self._clock = config, wire.clock
        self._pages = Pages(config, wire)
        self._records = Records(config, ignored, wire.clock)
        self._cursor = CursorReader(config.cursor, zone) if config.cursor is not None else None
        self._walk: Walk | None = None
        self._newest: Mark | None = None
        self._fresh = 0
        """Changes that this walk has found so far."""
        self._again = False
        """The walk found something on counted pages: only another one can tell that nothing slipped through."""
        self._begin_at(None)

    def open(self, offset: Offset | None) -> None:
        if offset is not None and offset.get("v") != 1:
            raise ConfigError(f"the offset of {self._config.system}.{self._config.object} is of another version")
        self._begin_at(offset)

    def poll(self, limit: int, deadline: float) -> Batch | None:
        while not self._has_something():
            walk = self._walk = self._walk or self._new_walk(limit)
            self._read_page(walk, deadline)
            at_the_end = walk.step is None and not self._again
            if not self._has_something() and (at_the_end or self._clock.monotonic() >= deadline):
                return None
        return self._take(limit)

    def ack(self, offset: Offset) -> None:
        """The server keeps nothing for us."""

    def offset_at(self, moment: datetime) -> Offset:
        """`Rewindable`. Raises ConfigError for a cursor that is no time."""
        if self._config.cursor is None or self._config.cursor.type != "datetime":
            raise ConfigError(f"the position in {self._config.path} is no time; give an offset")
        return {"v": 1, "cursor": rfc3339(moment)}

    def numbered(self, offset: Offset | None, highest: str | None) -> Offset | None:
        """`Numbering`, where the cursor gives no order."""
        if highest is None or not self._records.numbered:
            return offset
        start: Offset = {"v": 1, "cursor": None} if offset is None else offset
        return {**start, "seq": max(int(start.get("seq", 0)), Version.parse(highest).position)}

    def close(self) -> None:
        """The connections are the system's."""

    def _begin_at(self, offset: Offset | None) -> None:
        self._offset: Offset | None = offset
        """After what was handed out."""
        self._safe: Offset | None = offset
        """After what waits, too."""
        self._waiting: deque[Change] = deque()
        self._walk, self._again = None, False
        self._records.forget(0 if offset is None else int(offset.get("seq", 0)))

    def _has_something(self) -> bool:
        return bool(self._waiting) or self._safe != self._offset

    def _new_walk(self, limit: int) -> Walk:
        self._newest, self._fresh = None, 0
        cursor = "" if self._cursor is None else self._cursor.asked(self._stored())
        return self._pages.walk(cursor, min(self._config.page, limit))

    def _read_page(self, walk: Walk, deadline: float) -> None:
        try:
            for record, mark in self._marked(self._pages.read(walk, deadline)):
                change = self._records.change(record, mark)
                if change is not None:
                    self._waiting.append(change)
                    self._fresh += 1
        except (ListingIsGone, SystemFault, ConfigError):
            self._walk = None  # the walk is past this page, the offset is not
            raise
        self._move(walk)

    def _marked(self, records: list[Record]) -> list[tuple[Record, Mark | None]]:
        if self._cursor is None:
            return [(record, None) for record in records]
        marks = [self._cursor.mark(record) for record in records]
        if self._config.sorted and any(b.order < a.order for a, b in pairwise(marks)):
            raise SystemFault("the listing does not ascend by its cursor; say `sorted: false`", code="unsorted")
        for mark in marks:
            if self._newest is None or mark.order > self._newest.order:
                self._newest = mark
        return list(zip(records, marks, strict=True))

    def _move(self, walk: Walk) -> None:
        """Says where the offset may go once everything of this page is acknowledged."""
        complete = walk.step is None
        if complete:
            self._walk = None
            self._again = walk.counted and walk.pages > 1 and 0 < self._fresh < REMEMBERED
            complete = not self._again
        if (complete or (self._config.sorted and not walk.counted)) and self._is_newer(self._newest):
            assert self._newest is not None
            self._safe = {"v": 1, "cursor": self._newest.text}

    def _is_newer(self, mark: Mark | None) -> bool:
        """A look that only met the overlap leaves the offset where it is."""
        if mark is None or self._cursor is None:
            return False
        stored = self._stored()
        return stored is None or mark.order > self._cursor.read(stored).order

    def _stored(self) -> object:
        return None if self._offset is None else self._offset.get("cursor")

    def _take(self, limit: int) -> Batch:
        changes = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        reached = self._offset if self._waiting else self._safe
        offset = {"v": 1, "cursor": None if reached is None else reached.get("cursor")}
        if self._records.sequence:
            offset["seq"] = self._records.sequence - len(self._waiting)
        self._offset = offset
        if not self._waiting:
            self._safe = offset
        return Batch(changes, offset)
