"""Changes out of a SOAP service: its listings, turned into versions of records, each read once.

A sorted listing is safe up to each record of it, so the offset moves with every page; an unsorted one only at its end.
When a locator dies the listing begins again at the cursor, and what was already read of it is recognised.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from connectors.clock import Clock
from connectors.contract import Report, SourceTask, TaskSpec
from connectors.errors import ConfigError, CrossdockError, SystemFault
from connectors.soap.check import check_source, reach
from connectors.soap.config import SoapSourceConfig
from connectors.soap.listing import Listing, LocatorExpired, Page, Row, key_of
from connectors.soap.position import Reached
from connectors.soap.rows import Decoder
from connectors.soap.snapshot import SnapshotTask
from connectors.soap.transport import Calls
from connectors.soap.wsdl import Service
from schemas.change import Batch, Change, Op, content_digest, event_id, key_text
from schemas.values import Offset, rfc3339
from schemas.version import Version

DOMAIN = 1
"""Of every version that a cursor orders."""

_RESTARTS_AT_MOST = 3


class SoapSource:
    """One operation that lists records, as one task."""

    def __init__(
        self,
        system: str,
        config: SoapSourceConfig,
        *,
        written: frozenset[str],
        service: Service,
        decoder: Decoder,
        calls: Calls,
        clock: Clock,
        zone: ZoneInfo | None,
    ) -> None:
        self._system, self._config, self._written = system, config, written
        self._service, self._decoder, self._calls = service, decoder, calls
        self._clock, self._zone = clock, zone
        self._name = f"{system}.{config.object}"

    def tasks(self) -> Sequence[TaskSpec]:
        config = self._config
        parts = {
            "operation": self._name,
            "read": config.read,
            "key": config.key,
            "records": config.records,
            "params": config.params,
            "cursor.path": config.cursor and config.cursor.path,
        }
        digest = hashlib.blake2b(msgspec.json.encode(list(parts.values())), digest_size=8).hexdigest()
        return [TaskSpec(self._name, digest, parts)]

    def task(self, name: str) -> SourceTask:
        assert name == self._name
        origin = f"{self._system}/{self._config.object}"
        if self._config.cursor is None:
            return SnapshotTask(origin, self._config, written=self._written, listing=self._listing, clock=self._clock)
        return ListingTask(
            origin, self._config, written=self._written, listing=self._listing, clock=self._clock, zone=self._zone
        )

    def lint(self) -> Report:
        """What the WSDL alone says about the configuration; nothing is sent."""
        return check_source(self._service, self._config)

    def check(self) -> Report:
        """The same, and one page is read if nothing stands against it."""
        report = self.lint()
        if not report.problems:
            reach(self._listing(), self._config, self._clock, report)
        return report

    def _listing(self) -> Listing:
        return Listing(self._config, self._service, self._decoder, self._calls)


class _Waiting(NamedTuple):
    """A change that was read and not handed out yet."""

    change: Change
    cursor: str
    position: int
    key: str
    digest: str

    @property
    def mark(self) -> str:
        """This version, among those of one cursor."""
        return f"{self.key}~{self.digest}"


class ListingTask:
    """Reads one sorted or unsorted listing after the other."""

    def __init__(
        self,
        origin: str,
        config: SoapSourceConfig,
        *,
        written: frozenset[str],
        listing: Callable[[], Listing],
        clock: Clock,
        zone: ZoneInfo | None,
    ) -> None:
        self._config, self._written, self._clock, self._zone = config, written, clock, zone
        self._origin, self._open_listing = origin, listing

    def open(self, offset: Offset | None) -> None:
        """Raises ConfigError if the offset or the configuration does not fit."""
        assert self._config.cursor is not None
        self._reached = Reached(self._config.cursor, offset, self._clock, self._zone)
        self._listing = self._open_listing()
        self._waiting: deque[_Waiting] = deque()
        self._last, self._restarts, self._floor = -1, 0, 0
        self._whole = _Whole()

    def poll(self, limit: int, deadline: float) -> Batch | None:
        while not self._waiting and self._read_page(deadline):
            pass
        handed = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        for one in handed:
            self._reached.see(one.key, one.position, one.digest)
            if self._config.ordered:
                self._reached.move(one.cursor, one.position, [one.mark])
            else:
                self._whole.add(one.cursor, one.position, one.mark)
        if not self._waiting and not self._listing.is_under_way and self._whole.is_known:
            self._reached.move(*self._whole.end())
            self._whole = _Whole()
            return Batch([one.change for one in handed], self._reached.offset)
        return Batch([one.change for one in handed], self._reached.offset) if handed else None

    def ack(self, offset: Offset) -> None:
        """Nothing to do: the server keeps nothing for us."""

    def offset_at(self, moment: datetime) -> Offset:
        """`Rewindable`. Raises ConfigError for a cursor that is an integer."""
        if self._config.cursor is None or self._config.cursor.type != "datetime":
            raise ConfigError(f"the cursor of {self._config.operation} is no time; give a position")
        return {"v": 1, "cursor": rfc3339(moment), "boundary": []}

    def close(self) -> None:
        """Nothing to do: locators die by themselves."""

    def _read_page(self, deadline: float) -> bool:
        """Reads one page into `_waiting`. False = the listing is at its end."""
        since = self._reached.since
        if not self._listing.is_under_way:
            self._last, self._whole, self._floor = -1, _Whole(), self._reached.position(since)
        try:
            page = self._listing.page(since, deadline)
        except LocatorExpired as error:
            self._restarts += 1
            if self._restarts > _RESTARTS_AT_MOST:
                self._restarts = 0
                raise SystemFault(
                    f"{self._config.operation}: the locator expires before anything new is read: {error}; "
                    "a larger `page` or a shorter `overlap` helps",
                    code="locator",
                ) from error
            return True
        try:
            self._waiting.extend(self._new(page))
        except CrossdockError:
            self._listing.begin_anew()  # its next page would leave this one out
            raise
        if self._waiting:
            self._restarts = 0
        return not page.done

    def _new(self, page: Page) -> list[_Waiting]:
        rows = [(self._reached.position(row.cursor), row) for row in page.rows]
        if self._config.read == "single":
            rows.sort(key=lambda pair: pair[0])  # one answer is whole: its order can be ours
        found = []
        for position, row in rows:
            if self._config.ordered and position < self._last:
                raise SystemFault(
                    f"{self._config.operation} is not sorted by {self._config.cursor and self._config.cursor.path}; "
                    "say `ordered: false`",
                    code="unordered",
                )
            self._last = position
            one = self._versioned(row, position)
            if position >= self._floor and self._reached.is_new(one.key, position, one.digest):
                found.append(one)
        return found

    def _versioned(self, row: Row, position: int) -> _Waiting:
        """The change that a record is."""
        key = key_of(row.record, self._config.key)
        digest, text = content_digest(row.record, self._written), key_text(key.values())
        version = str(Version(DOMAIN, position))
        identity = event_id(self._origin, key, version, digest)
        time = self._reached.time_of(position)
        change = Change(Op.UPSERT, key, None, row.record, version, self._origin, identity, time)
        return _Waiting(change, row.cursor or "", position, text, digest)


class _Whole:
    """How far an unsorted listing reaches; known at its end."""

    def __init__(self) -> None:
        self._cursor, self._position, self._marks = "", -1, list[str]()

    def add(self, cursor: str, position: int, mark: str) -> None:
        if position > self._position:
            self._cursor, self._position, self._marks = cursor, position, []
        if position == self._position:
            self._marks.append(mark)

    @property
    def is_known(self) -> bool:
        return self._position >= 0

    def end(self) -> tuple[str, int, list[str]]:
        return self._cursor, self._position, self._marks
