"""How far a table may be read: never past the start of a transaction that may still commit rows.

A row's time is stamped when its transaction begins (or later), and others see it when it commits. A poller that has
passed that time never sees the row. So the upper bound of each look is the start of the oldest open transaction; it is
read in a statement of its own, and the rows in a younger snapshot. Bound and rows in one statement lose rows.

A prepared transaction (two-phase commit) shows when it was prepared, not when it began: while one exists, the bound
stays where it was at the look before it was first seen.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from connectors.sql.config import LateCommits

log = logging.getLogger("crossdock.connectors.sql")

_OPEN = sa.text(
    """
    SELECT now(), oldest.xact_start, oldest.pid, oldest.usename, oldest.application_name, oldest.client_addr::text
    FROM (SELECT 1) AS one LEFT JOIN LATERAL (
        SELECT xact_start, pid, usename, application_name, client_addr FROM pg_stat_activity
        WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()
          AND backend_type NOT IN ('autovacuum worker', 'walsender')
        ORDER BY xact_start LIMIT 1) AS oldest ON true
    """
)
"""All open transactions, also those that have not written yet: they have no xid, and their time is stamped already."""

_PREPARED = sa.text("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid")
"""Asked second: a transaction that is prepared between the two is then in this answer, and never in neither."""

_RIGHTS = sa.text(
    """
    SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
           OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery(), current_user
    """
)


@dataclass(slots=True)
class _Prepared:
    """A prepared transaction, and the bound before it was first seen (None: no look was before)."""

    bound: datetime | None


def guard_of(config: LateCommits, dialect: str) -> str:
    """The guard that holds: the configured one, or the database's own."""
    return config.type or ("active_transactions" if dialect == "postgresql" else "none")


class ActiveTransactions:
    """The bound on PostgreSQL."""

    def __init__(self, config: LateCommits, place: str, before: datetime | None) -> None:
        """
        Args:
            config: `max_hold`.
            place: what is read, for the log.
            before: the bound of the look before, out of the stored offset.
        """
        self._max_hold, self._place, self._before = config.max_hold, place, before
        self._prepared: dict[str, _Prepared] = {}
        self._told: datetime | None = None

    def read(self, connection: sa.Connection) -> datetime | None:
        """Rows before this time are complete; None = that cannot be said of any time now.

        Args:
            connection: in autocommit, so that the rows are read in a younger snapshot than this.
        """
        now, started, *owner = connection.execute(_OPEN).one()
        gids = list(connection.execute(_PREPARED).scalars())
        bound: datetime | None = min(now, started) if started is not None else now
        self._prepared = {gid: self._prepared.get(gid) or _Prepared(self._before) for gid in gids}
        for prepared in self._prepared.values():
            bound = None if bound is None or prepared.bound is None else min(bound, prepared.bound)
        self._tell(now, bound, owner, gids)
        if bound is not None and (self._before is None or bound > self._before):
            self._before = bound
        return bound

    def _tell(self, now: datetime, bound: datetime | None, owner: list[Any], gids: list[str]) -> None:
        """Once a minute while something holds the bound for too long."""
        if bound is not None and now - bound <= self._max_hold:
            return
        if self._told is not None and now - self._told < timedelta(minutes=1):
            return
        self._told = now
        if gids:
            log.error("bound.held place=%s prepared=%s (COMMIT PREPARED or ROLLBACK PREPARED it)", self._place, gids)
        else:
            pid, user, application, address = owner
            log.error(
                "bound.held place=%s pid=%s user=%s application=%r address=%s open_since=%s",
                self._place,
                pid,
                user,
                application,
                address,
                bound,
            )


def rights(connection: sa.Connection) -> str | None:
    """What stands in the way of the bound, as a sentence; None = nothing."""
    may_see, replica, user = connection.execute(_RIGHTS).one()
    if replica:
        return "this is a read replica: it does not know the primary's open transactions; give the primary's address"
    if not may_see:
        return f"the user must see all transactions: GRANT pg_read_all_stats TO {user}"
    return None
