"""The ledger: write ids in the target's own database. A row there and the write's effect are one transaction.

Rows that no event can ask for any more are removed: at most once an hour, by whichever worker comes first, in small
transactions of their own that follow a write and never delay or fail one. The turn is taken in the database itself, by
a row of the hub's own prefix, so that two hubs on one target leave each other's rows alone.
"""

import logging
import threading
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa

from connectors.errors import CrossdockError
from connectors.sql.database import Database

log = logging.getLogger("crossdock.connectors.sql")

LEDGER: Final = "crossdock_applied"
INDEX: Final = f"{LEDGER}_by_time"
CHUNK: Final = 5000
"""Rows of one transaction at most."""
EVERY: Final = timedelta(hours=1)

_PATIENCE = 5.0
"""Seconds that one chunk may take, and that must be left of the write's own time."""
_AFTER_TROUBLE = 60.0


class Ledger:
    """The rows of one hub in the ledger of one database. One object for all sinks of a worker."""

    def __init__(self, database: Database, prefix: str, keep: timedelta) -> None:
        self._database, self._keep = database, keep
        self._own, self._mark = f"{prefix}/", f"{prefix}//pruned"  # no pipeline has an empty name
        self._working = threading.Lock()
        self._is_our_turn, self._look_at = False, 0.0
        self._oldest = (
            "applied_at < now() - make_interval(secs => :keep)"
            if database.dialect == "postgresql"
            else "applied_at < datetime('now', '-' || :keep || ' seconds')"
        )

    def create(self, deadline: float) -> None:
        """Makes the table. Raises SystemFault without the right to."""
        postgresql = self._database.dialect == "postgresql"
        time = "timestamptz" if postgresql else "datetime"
        columns = f"write_id text PRIMARY KEY, applied_at {time} NOT NULL DEFAULT CURRENT_TIMESTAMP"
        with self._database.writing(deadline, f"create {LEDGER}") as connection:
            if postgresql:  # two workers at once: IF NOT EXISTS races
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7240951367)")
            connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {LEDGER} ({columns})")
            connection.exec_driver_sql(f"CREATE INDEX IF NOT EXISTS {INDEX} ON {LEDGER} (applied_at)")
            connection.commit()

    def prune(self, deadline: float) -> None:
        """Called after a write: removes one chunk if it is time for one, and never fails."""
        clock = self._database.clock
        if not self._working.acquire(blocking=False):
            return
        try:
            if clock.monotonic() < self._look_at or deadline - clock.monotonic() < _PATIENCE:
                return
            try:
                self._one_step(clock.monotonic() + _PATIENCE)
            except CrossdockError as error:
                log.warning("ledger.unpruned system=%s reason=%s", self._database.name, error)
                self._look_at = clock.monotonic() + _AFTER_TROUBLE
        finally:
            self._working.release()

    def _one_step(self, deadline: float) -> None:
        self._is_our_turn = self._is_our_turn or self._take_turn(deadline)
        if self._is_our_turn and self._remove(deadline) == CHUNK:
            return  # the next write goes on
        self._is_our_turn = False
        self._look_at = self._database.clock.monotonic() + EVERY.total_seconds()

    def _take_turn(self, deadline: float) -> bool:
        """Whether nobody did it within the last hour, by the database's own clock."""
        seconds = EVERY.total_seconds()
        expired = f"DELETE FROM {LEDGER} WHERE write_id = :mark AND {self._oldest}"
        taken = f"INSERT INTO {LEDGER} (write_id) VALUES (:mark) ON CONFLICT DO NOTHING"
        with self._database.writing(deadline, f"prune {LEDGER}") as connection:
            self._run(connection, expired, mark=self._mark, keep=seconds)
            mine = self._run(connection, taken, mark=self._mark) == 1
            connection.commit()
        return mine

    def _remove(self, deadline: float) -> int:
        row = "ctid" if self._database.dialect == "postgresql" else "rowid"
        found = (
            f"SELECT {row} FROM {LEDGER} WHERE {self._oldest} AND substr(write_id, 1, :length) = :own "
            f"ORDER BY applied_at LIMIT {CHUNK}"
        )
        some = f"= ANY(ARRAY({found}))" if row == "ctid" else f"IN ({found})"
        values = {"keep": self._keep.total_seconds(), "own": self._own, "length": len(self._own)}
        with self._database.writing(deadline, f"prune {LEDGER}") as connection:
            removed = self._run(connection, f"DELETE FROM {LEDGER} WHERE {row} {some}", **values)
            connection.commit()
        return removed

    @staticmethod
    def _run(connection: sa.Connection, statement: str, **values: Any) -> int:
        return connection.execute(sa.text(statement), values).rowcount
