"""Reading a table by its time of change: pages in order, each version of a row once, and none missed.

One look: the bound (see `late_commits.py`), then pages from where the last look ended, less the overlap. Rows of the
overlap that were seen are dropped. After a restart the overlap is emitted again, with the same event ids.
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from connectors.buckets import without_cause
from connectors.contract import Bucket, Held, KeyRange, Passed, Report, TaskSpec
from connectors.errors import ConfigError
from connectors.sql.compare import ComparedTable, OfCursor
from connectors.sql.config import SqlSourceConfig
from connectors.sql.database import Database
from connectors.sql.late_commits import ActiveTransactions, guard_of, rights
from connectors.sql.position import Reached, reached
from connectors.sql.rows import DOMAIN, Row, Rows
from connectors.sql.tables import reflected
from schemas.change import Batch, Change, canonical_key
from schemas.values import Key, Offset, rfc3339
from schemas.version import Version, position_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REMEMBERED = 500_000
"""Rows of the overlap that are remembered at most; more are emitted again, with the same event ids."""


class SqlSource:
    """One table; one task."""

    def __init__(self, config: SqlSourceConfig, database: Database, *, written: frozenset[str]) -> None:
        self._config, self._database, self._written = config, database, written
        self._name = f"{config.system}.{config.object}"

    def tasks(self) -> Sequence[TaskSpec]:
        depends = self._config.model_dump(mode="json", include={"system", "table", "columns", "key", "read"})
        digest = hashlib.blake2b(msgspec.json.encode(depends, order="sorted"), digest_size=8).hexdigest()
        read = {f"read.{name}": value for name, value in depends.pop("read").items()}
        return [TaskSpec(self._name, digest, {**depends, **read})]

    def task(self, name: str) -> "SqlSourceTask":
        assert name == self._name
        return SqlSourceTask(self._config, self._database, written=self._written)

    def check(self) -> Report:
        from connectors.sql.check import check_source

        return check_source(self._config, self._database)

    def digest(self, key_range: KeyRange, deadline: float) -> list[Bucket]:
        """`Comparable`."""
        return self._compared(deadline).digest(key_range, deadline)

    def held(self, key_range: KeyRange, deadline: float) -> list[Held]:
        """`Comparable`."""
        return self._compared(deadline).held(key_range, deadline)

    def passed(self, offset: Offset, deadline: float) -> Passed | None:
        """`Rereadable`. Below the bound of a finished look; within one, up to the time of the last row."""
        cursor = self._rows(deadline).cursor
        at = reached(offset, cursor, len(self._config.order)).at
        if at is None:
            return None
        moment = cursor.moment(at[0]) + (timedelta() if len(at) == 1 else timedelta(microseconds=1))
        return Passed(without_cause(str(Version(DOMAIN, position_of(moment)))), rfc3339(moment))

    def reread(self, keys: Sequence[Key], deadline: float) -> list[Change | None]:
        """`Rereadable`."""
        rows = self._rows(deadline)
        with self._database.reading(deadline, f"read {self._config.table} again") as connection:
            found = [rows.change(row, rows.moment(row)) for row in rows.of_keys(connection, keys)]
        by_key = {canonical_key(change.key): change for change in found}
        return [by_key.get(canonical_key(key)) for key in keys]

    def _rows(self, deadline: float) -> Rows:
        with self._database.reading(deadline, f"read {self._config.table}") as connection:
            return Rows(self._config, reflected(connection, self._config.table), self._database, self._written)

    def _compared(self, deadline: float) -> ComparedTable:
        place = f"compare {self._config.table}"
        with self._database.reading(deadline, place) as connection:
            table = reflected(connection, self._config.table)
        rows = Rows(self._config, table, self._database, self._written)
        cursor = OfCursor(table.columns[self._config.read.timestamp], rows.cursor, self._database)
        return ComparedTable(self._database, table, cursor, place)


class SqlSourceTask:
    """Reads the table. Life cycle: see `connectors/contract.py`."""

    _rows: Rows
    _reached: Reached
    _transactions: ActiveTransactions | None

    def __init__(self, config: SqlSourceConfig, database: Database, *, written: frozenset[str]) -> None:
        self._config, self._database, self._written = config, database, written
        self._place = f"read {config.table}"
        self._overlap = config.late_commits.overlap
        self._look: _Look | None = None
        self._seen: frozenset[int] = frozenset()
        """Rows of the last look that the next one reads again."""

    def open(self, offset: Offset | None) -> None:
        config, database = self._config, self._database
        guarded = guard_of(config.late_commits, database.dialect) == "active_transactions"
        with database.reading(database.clock.monotonic() + database.total, self._place) as connection:
            self._rows = Rows(config, reflected(connection, config.table), database, self._written)
            wrong = rights(connection) if guarded else None
            if wrong is not None:
                raise ConfigError(f"late_commits: {wrong}")
        self._reached = reached(offset, self._rows.cursor, len(config.order))
        before = self._reached.bound
        self._transactions = ActiveTransactions(config.late_commits, self._place, before) if guarded else None
        self._look, self._seen = None, frozenset()

    def poll(self, limit: int, deadline: float) -> Batch | None:
        while True:
            with self._database.reading(deadline, self._place) as connection:
                look = self._look or self._begin(connection)
                if look is None:
                    return None
                page = self._rows.page(connection, look.after, look.bound, limit)
            self._look = look
            changes = self._take(look, page, complete=len(page) < limit)
            if changes:
                return Batch(changes, self._reached.offset(self._rows.cursor))
            if self._look is None or self._database.clock.monotonic() >= deadline:
                return None

    def ack(self, offset: Offset) -> None:
        """The database keeps no position for us."""

    def offset_at(self, moment: datetime) -> Offset:
        """`Rewindable`: everything from that time on, the time itself included."""
        return Reached((self._rows.cursor.since(moment),), None).offset(self._rows.cursor)

    def count_between(self, start: Offset | None, end: Offset | None, deadline: float) -> int:
        """`Countable`. The overlap does not count: its rows are read again at each look."""
        cursor, width = self._rows.cursor, len(self._config.order)
        after, until = reached(start, cursor, width).at, reached(end, cursor, width).at
        if end is not None and until is None:
            return 0  # nothing is before the beginning
        with self._database.reading(deadline, self._place) as connection:
            return self._rows.count(connection, after, until)

    def went_back(self, newest: str, deadline: float) -> str | None:
        """`Comparing`: one look at the end of the cursor's index."""
        with self._database.reading(deadline, self._place) as connection:
            found = self._rows.newest(connection)
        if found is None or position_of(found + self._overlap) >= Version.parse(newest).position:
            return None
        read = rfc3339(_EPOCH + Version.parse(newest).position * timedelta(microseconds=1))
        return f"the newest {self._config.read.timestamp} is {rfc3339(found)}, and {read} was read before"

    def close(self) -> None:
        self._look = None

    def _begin(self, connection: sa.Connection) -> "_Look | None":
        """A new look; None while nothing can be said to be complete."""
        bound = None
        if self._transactions is not None:
            bound = self._transactions.read(connection)
            if bound is None:
                return None
        return _Look(self._reached.low(self._rows.cursor, self._overlap), bound, self._overlap)

    def _take(self, look: "_Look", page: Sequence[Row], *, complete: bool) -> list[Change]:
        """The changes of a page, without those that the last look gave."""
        changes = []
        for row in page:
            moment = self._rows.moment(row)
            again = look.comes_again(moment)
            mark = _mark(row) if again or self._seen else 0
            if again:
                look.remember(moment, mark)
            if mark not in self._seen:
                changes.append(self._rows.change(row, moment))
        if page:
            look.after = self._rows.place(page[-1])
            self._reached = Reached(look.after, look.bound)
        if complete:
            if look.bound is not None:
                self._reached = Reached((self._rows.cursor.parameter(look.bound),), look.bound)
            self._look, self._seen = None, look.marks
        return changes


class _Look:
    """One pass over what may be new."""

    def __init__(self, after: tuple[Any, ...] | None, bound: datetime | None, overlap: timedelta) -> None:
        self.after, self.bound, self._overlap = after, bound, overlap
        self._again: deque[tuple[datetime, int]] = deque(maxlen=_REMEMBERED)

    def comes_again(self, moment: datetime) -> bool:
        """Whether the next look may read a row of this time again."""
        return bool(self._overlap) and (self.bound is None or moment >= self.bound - self._overlap)

    def remember(self, moment: datetime, mark: int) -> None:
        self._again.append((moment, mark))
        if self.bound is None:
            while self._again[0][0] < moment - self._overlap:
                self._again.popleft()

    @property
    def marks(self) -> frozenset[int]:
        return frozenset(mark for _, mark in self._again)


def _mark(row: Row) -> int:
    """Tells one content of a row from another, within this process."""
    try:
        return hash(tuple(row))
    except TypeError:  # lists and objects in it
        return hash(repr(row))
