"""Writing into SQLite: row by row, inside one transaction that holds the only write lock."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from connectors.sql.config import SqlWritebackConfig
from connectors.sql.ledger import LEDGER
from connectors.sql.tables import qualified, quoted
from connectors.sql.target import Columns, Found, added, converted, plain_record, undecided
from connectors.sql.types import sqlite_reader_of
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Key, Record, UnknownType
from schemas.write import Write

_CLAIM = sa.text(f"INSERT INTO {LEDGER} (write_id) VALUES (:id) ON CONFLICT DO NOTHING")
_RELEASE = sa.text(f"DELETE FROM {LEDGER} WHERE write_id = :id")


class SqliteTarget:
    """See `connectors.sql.target.Target`."""

    def __init__(
        self, config: SqlWritebackConfig, columns: Columns, dialect: sa.Dialect, zone: ZoneInfo | None
    ) -> None:
        """Raises ConfigError if a column's type cannot be read or written."""
        self._columns, self._update, self._dialect = columns, config.update is not None, dialect
        self._only_adds, self._undo = config.insert is not None, config.undo
        self._writers = converted(_writer_of, columns.all, zone)
        self._readers = converted(sqlite_reader_of, columns.all, zone)
        self._table = qualified(columns.table, dialect)
        self._statement = sa.text(
            self._update_text() if self._update else self._insert_text(conflict=config.insert is None)
        )
        self._look = sa.text(self._look_text())

    def claim(self, connection: sa.Connection, write_ids: Sequence[str]) -> set[str]:
        return {each for each in write_ids if connection.execute(_CLAIM, {"id": each}).rowcount}

    def release(self, connection: sa.Connection, write_ids: Sequence[str]) -> None:
        for each in write_ids:
            connection.execute(_RELEASE, {"id": each})

    def apply(self, connection: sa.Connection, writes: Sequence[Write]) -> list[Receipt]:
        return [self._one(connection, write) for write in writes]

    def read(self, connection: sa.Connection, keys: Sequence[Key]) -> list[Record | None]:
        names = [str(each.name) for each in (*self._columns.key, *self._columns.fields)]
        shown = [self._quoted(each) for each in (*self._columns.key, *self._columns.fields)]
        statement = sa.text(
            f"SELECT {self._shown_version()}, {', '.join(shown)} FROM {self._table} WHERE {self._match()}"
        )
        found: list[Record | None] = []
        for key in keys:
            row = connection.execute(statement, self._key(key)).one_or_none()
            found.append(
                None
                if row is None
                else plain_record(names, row[1:], self._readers) | {"@version": self._version(row[0])}
            )
        return found

    def there(self, connection: sa.Connection, write_ids: Sequence[str]) -> list[bool]:
        column = self._columns.reference
        assert column is not None
        statement = sa.text(f"SELECT 1 FROM {self._table} WHERE {self._quoted(column)} = :r LIMIT 1")
        return [
            connection.execute(statement, {"r": self._columns.reference_of(each)}).first() is not None
            for each in write_ids
        ]

    def look(self, connection: sa.Connection, writes: Sequence[Write]) -> list[Found | None]:
        return [self._found(connection, self._parameters(write)) for write in writes]

    def _one(self, connection: sa.Connection, write: Write) -> Receipt:
        parameters = self._parameters(write)
        before = self._replaced(connection, write.key) if self._undo else None
        applied = connection.execute(self._statement, parameters).rowcount > 0
        if self._only_adds:
            return added(int(applied), 1)[0]
        found = self._found(connection, parameters)
        if applied:
            return Receipt(Outcome.APPLIED, target_version=None if found is None else found.version, replaced=before)
        return undecided(self._columns, found, update=self._update)

    def _found(self, connection: sa.Connection, parameters: dict[str, Any]) -> Found | None:
        row = connection.execute(self._look, parameters).one_or_none()
        return None if row is None else Found(self._version(row[0]), bool(row[1]), bool(row[2]))

    def _parameters(self, write: Write) -> dict[str, Any]:
        parameters = self._key(write.key)
        parameters |= {
            f"f{i}": self._value(each, write.fields[str(each.name)]) for i, each in enumerate(self._columns.fields)
        }
        if self._columns.version is not None:
            parameters["x"] = self._value(self._columns.version, self._columns.compared(write))
        if self._columns.reference is not None:
            parameters["r"] = self._columns.reference_of(write.write_id)
        return parameters

    def _replaced(self, connection: sa.Connection, key: Key) -> Record:
        """The row's fields as they are: this transaction holds the only write lock."""
        (found,) = self.read(connection, [key])
        return {} if found is None else {str(each.name): found[str(each.name)] for each in self._columns.fields}

    def _key(self, key: Key) -> dict[str, Any]:
        return {f"k{i}": self._value(each, key[str(each.name)]) for i, each in enumerate(self._columns.key)}

    def _value(self, column: sa.Column[Any], value: Any) -> Any:
        return None if value is None else self._writers[str(column.name)](value)

    def _version(self, value: Any) -> Any:
        if value is None or self._columns.version is None:
            return None
        reader = self._readers[str(self._columns.version.name)]
        return value if reader is None else reader(value)

    # Statements

    def _quoted(self, each: sa.Column[Any]) -> str:
        return quoted(str(each.name), self._dialect)

    def _match(self) -> str:
        return " AND ".join(f"{self._quoted(each)} = :k{i}" for i, each in enumerate(self._columns.key))

    def _shown_version(self) -> str:
        return "NULL" if self._columns.version is None else self._quoted(self._columns.version)

    def _differs(self, table: str = "") -> str:
        return (
            "("
            + " OR ".join(f"{table}{self._quoted(each)} IS NOT :f{i}" for i, each in enumerate(self._columns.fields))
            + ")"
        )

    def _may(self, table: str = "") -> str:
        version = self._columns.version
        if version is None:
            return self._differs(table)
        column = f"{table}{self._quoted(version)}"
        if self._columns.rule == "equals":
            if isinstance(version.type, sa.DateTime):
                return f"{_normal(column)} = {_normal(':x')} AND {self._differs(table)}"
            return f"{column} = :x AND {self._differs(table)}"
        return f"({column} IS NULL OR {column} < :x)"

    def _update_text(self) -> str:
        sets = [f"{self._quoted(each)} = :f{i}" for i, each in enumerate(self._columns.fields)]
        if self._columns.rule == "newer":
            sets.append(f"{self._shown_version()} = :x")
        return f"UPDATE {self._table} SET {', '.join(sets)} WHERE {self._match()} AND {self._may()}"

    def _insert_text(self, *, conflict: bool) -> str:
        columns = self._columns
        key = [self._quoted(each) for each in columns.key]
        names = [*key, *(self._quoted(each) for each in columns.fields)]
        values = [*(f":k{i}" for i in range(len(key))), *(f":f{i}" for i in range(len(columns.fields)))]
        if columns.version is not None:
            names.append(self._shown_version())
            values.append(":x")
        if columns.reference is not None:
            names.append(self._quoted(columns.reference))
            values.append(":r")
        then = ""
        if conflict:
            sets = ", ".join(f"{name} = excluded.{name}" for name in names[len(key) :])
            then = f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets} WHERE {self._may(f'{self._table}.')}"
        return f"INSERT INTO {self._table} ({', '.join(names)}) VALUES ({', '.join(values)}){then}"

    def _look_text(self) -> str:
        newer = f"{self._shown_version()} >= :x" if self._columns.rule == "newer" else "NULL"
        return (
            f"SELECT {self._shown_version()}, NOT {self._differs()}, {newer} FROM {self._table} WHERE {self._match()}"
        )


def _writer_of(kind: sa.types.TypeEngine[Any], zone: ZoneInfo | None) -> Any:
    """Makes a plain value a parameter of SQLite. Raises UnknownType."""
    if isinstance(kind, sa.DateTime):
        if zone is None:
            raise UnknownType("a column with a time without zone; say `timezone:` in the system's file")
        return lambda text: _local(text, zone)
    if isinstance(kind, sa.JSON):
        return lambda value: json.dumps(value, ensure_ascii=False)
    if isinstance(kind, sa.LargeBinary):
        return lambda value: base64.b64decode(value, validate=True)
    return lambda value: json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _normal(moment: str) -> str:
    """One text for one time: SQLite's own functions write no fraction, and drivers write six digits."""
    return f"replace(CASE WHEN instr({moment}, '.') THEN rtrim(rtrim({moment}, '0'), '.') ELSE {moment} END, 'T', ' ')"


def _local(text: str, zone: ZoneInfo) -> str:
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return moment.astimezone(zone).replace(tzinfo=None).isoformat(" ", "microseconds")
