"""Rows of one table: the statement of a page, and a row as a change."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa

from connectors.errors import ConfigError, SystemFault
from connectors.sql.config import SqlSourceConfig
from connectors.sql.database import Database
from connectors.sql.position import CursorColumn
from connectors.sql.tables import column, names_of, qualified, quoted, unknown
from connectors.sql.types import Reader, reader_of, sqlite_reader_of
from schemas.change import Change, Op, content_digest, event_id
from schemas.values import Key, Record, UnknownType, rfc3339
from schemas.version import Version, position_of

Row: TypeAlias = Sequence[Any]
DOMAIN = 1
_KEYS_AT_ONCE = 100


class Rows:
    """How the rows of a table are read, and what they become."""

    def __init__(self, config: SqlSourceConfig, table: sa.Table, database: Database, written: frozenset[str]) -> None:
        """Raises ConfigError for the first column that is not there, or whose type cannot be read."""
        columns = [_column(table, name) for name in columns_of(config, table)]
        self._names = tuple(names_of(columns))
        self._dialect = database.engine.dialect
        self.cursor = CursorColumn(_column(table, config.read.timestamp), database.zone, database.dialect)
        self._cursor_at = self._names.index(config.read.timestamp)
        self._order = config.order
        self._order_at = [self._names.index(name) for name in config.order]
        self._key = config.key
        self._origin = f"{config.system}/{config.object}"
        self._ignored = written | {config.read.timestamp}
        readers = [(i, reader_for(each, database)) for i, each in enumerate(columns)]
        self._readers = [(i, reader) for i, reader in readers if reader is not None]
        shown = ", ".join(quoted(name, self._dialect) for name in self._names)
        self._table = qualified(table, self._dialect)
        self._from = f"SELECT {shown} FROM {self._table}"
        self._time = quoted(config.read.timestamp, self._dialect)

    def page(
        self, connection: sa.Connection, after: tuple[Any, ...] | None, bound: datetime | None, limit: int
    ) -> Sequence[Row]:
        """At most `limit` rows in order.

        Args:
            connection: in autocommit.
            after: (cursor, order values..) of the last row that was read, or (cursor,) to begin with; None = all.
            bound: rows before this time alone; None = all.
        """
        where, parameters = self._after(after, "after")
        if bound is not None:
            where.append(f"{self._time} < :bound")
            parameters["bound"] = self.cursor.parameter(bound)
        order = ", ".join([self._time, *(quoted(name, self._dialect) for name in self._order)])
        condition = f" WHERE {' AND '.join(where)}" if where else ""
        statement = sa.text(f"{self._from}{condition} ORDER BY {order} LIMIT :limit")
        return connection.execute(statement, parameters | {"limit": limit}).fetchall()

    def count(self, connection: sa.Connection, after: tuple[Any, ...] | None, until: tuple[Any, ...] | None) -> int:
        """Rows behind one place and not behind another; None = everywhere. Places are as in `page`."""
        where, parameters = self._after(after, "after")
        beyond, more = self._after(until, "until")
        if beyond:
            where.append(f"NOT ({' AND '.join(beyond)})")
        condition = " AND ".join([f"{self._time} IS NOT NULL", *where])
        statement = sa.text(f"SELECT count(*) FROM {self._table} WHERE {condition}")
        return int(connection.execute(statement, parameters | more).scalar_one())

    def newest(self, connection: sa.Connection) -> datetime | None:
        """The greatest cursor; None = there is no row."""
        found = connection.execute(sa.text(f"SELECT max({self._time}) FROM {self._table}")).scalar_one()
        return None if found is None else self.cursor.moment(found)

    def _after(self, after: tuple[Any, ...] | None, name: str) -> tuple[list[str], dict[str, Any]]:
        """`a >= :a AND (a > :a OR b > :b)`: the form that every database answers from an index."""
        if after is None:
            return [], {}
        parameters = {f"{name}_{i}": value for i, value in enumerate(after)}
        where = [f"{self._time} >= :{name}_0"]
        if len(after) > 1:
            beyond, equal = f"{self._time} > :{name}_0", ""
            for i, column in enumerate(self._order, 1):
                beyond += f" OR ({equal}{quoted(column, self._dialect)} > :{name}_{i})"
                equal += f"{quoted(column, self._dialect)} = :{name}_{i} AND "
            where.append(f"({beyond})")
        return where, parameters

    def of_keys(self, connection: sa.Connection, keys: Sequence[Key]) -> Iterator[Row]:
        """The rows of these keys, as far as they are there."""
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            part = keys[start : start + _KEYS_AT_ONCE]
            each = [
                " AND ".join(f"{quoted(name, self._dialect)} = :k{n}_{i}" for i, name in enumerate(self._key))
                for n in range(len(part))
            ]
            values = {f"k{n}_{i}": key[name] for n, key in enumerate(part) for i, name in enumerate(self._key)}
            yield from connection.execute(sa.text(f"{self._from} WHERE ({') OR ('.join(each)})"), values)

    def moment(self, row: Row) -> datetime:
        """When the row changed, in UTC."""
        return self.cursor.moment(row[self._cursor_at])

    def place(self, row: Row) -> tuple[Any, ...]:
        """Where the row stands in the order of reading."""
        cursor = row[self._cursor_at]
        stands = cursor if isinstance(cursor, str) else self.cursor.parameter(self.cursor.moment(cursor))
        return (stands, *(row[i] for i in self._order_at))

    def change(self, row: Row, moment: datetime) -> Change:
        """The row as a change. Raises SystemFault for a value that has no plain form, or a key that is null."""
        after = self.record(row)
        key = {name: after[name] for name in self._key}
        if None in key.values():
            raise SystemFault(f"a row of {self._origin} has a null in its key: {key!r}", code="key")
        version = str(Version(DOMAIN, position_of(moment)))
        digest = content_digest(after, self._ignored)
        return Change(
            op=Op.UPSERT,
            key=key,
            before=None,
            after=after,
            version=version,
            origin=self._origin,
            event_id=event_id(self._origin, key, version, digest),
            time=rfc3339(moment),
        )

    def record(self, row: Row) -> Record:
        """The row's plain values, by name."""
        values = list(row)
        for i, reader in self._readers:
            value = values[i]
            if value is not None:
                try:
                    values[i] = reader(value)
                except (UnknownType, ValueError, TypeError, AttributeError) as error:
                    where = f"{self._origin}, column {self._names[i]!r}"
                    raise SystemFault(f"a value of {where} cannot be read: {error}", code="type") from error
        return dict(zip(self._names, values, strict=True))


def columns_of(config: SqlSourceConfig, table: sa.Table) -> list[str]:
    """The names that are read: those of the file, and always the cursor, the order and the key."""
    needed = (config.read.timestamp, *config.order, *config.key)
    return list(dict.fromkeys((*(config.columns or names_of(table.columns)), *needed)))


def reader_for(each: sa.Column[Any], database: Database) -> Reader | None:
    """Makes the column's values plain. Raises ConfigError if nothing can."""
    try:
        return (sqlite_reader_of if database.dialect == "sqlite" else reader_of)(each.type, database.zone)
    except UnknownType as error:
        raise ConfigError(f"column {each.name!r}: {error}") from error


def _column(table: sa.Table, name: str) -> sa.Column[Any]:
    found = column(table, name)
    if found is None:
        raise ConfigError(unknown("column", name, names_of(table.columns)))
    return found
