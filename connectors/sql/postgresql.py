"""Writing into PostgreSQL: one statement for a batch, and the outcome of each row out of it.

Values travel as arrays of text, which the statement casts to the columns' own types. Text columns are not cast to
their length: an explicit cast to varchar(3) cuts silently, where an assignment refuses.
"""

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from connectors.errors import Retriable
from connectors.sql.config import SqlWritebackConfig
from connectors.sql.ledger import LEDGER
from connectors.sql.tables import qualified, quoted
from connectors.sql.target import Columns, Found, added, converted, plain_record, undecided
from connectors.sql.types import reader_of, writer_of
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Key, Record
from schemas.write import Write

_CLAIM = sa.text(
    f"INSERT INTO {LEDGER} (write_id) SELECT unnest(CAST(:ids AS text[])) ON CONFLICT DO NOTHING RETURNING write_id"
)
_RELEASE = sa.text(f"DELETE FROM {LEDGER} WHERE write_id = ANY(CAST(:ids AS text[]))")


class PostgresTarget:
    """See `connectors.sql.target.Target`."""

    def __init__(
        self, config: SqlWritebackConfig, columns: Columns, dialect: sa.Dialect, zone: ZoneInfo | None
    ) -> None:
        """Raises ConfigError if a column's type cannot be read or written."""
        self._columns, self._update, self._dialect = columns, config.update is not None, dialect
        self._only_adds = config.insert is not None
        self._writers, self._readers = converted(writer_of, columns.all, zone), converted(reader_of, columns.all, zone)
        self._table = qualified(columns.table, dialect)
        self._statement = sa.text(
            self._update_text() if self._update else self._insert_text() if self._only_adds else self._upsert_text()
        )
        self._undo, self._before = config.undo, sa.text(self._before_text())
        self._look = sa.text(self._look_text())
        self._read = sa.text(self._read_text())

    def claim(self, connection: sa.Connection, write_ids: Sequence[str]) -> set[str]:
        return set(connection.execute(_CLAIM, {"ids": list(write_ids)}).scalars())

    def release(self, connection: sa.Connection, write_ids: Sequence[str]) -> None:
        connection.execute(_RELEASE, {"ids": list(write_ids)})

    def apply(self, connection: sa.Connection, writes: Sequence[Write]) -> list[Receipt]:
        wanted = sorted(range(len(writes)), key=lambda row: str(writes[row].key))  # two writers lock in one order
        parameters = self._parameters(writes, wanted)
        if self._only_adds:
            return added(connection.execute(self._statement, parameters).rowcount, len(writes))
        before = self._replaced(connection, parameters) if self._undo else {}
        done = connection.execute(self._statement, parameters)
        applied = {row: self._applied(version, was_added, before.get(row)) for row, version, was_added in done}
        rest = [row for row in wanted if row not in applied]
        found = self._found(connection, writes, rest) if rest else {}
        return [
            applied[row] if row in applied else undecided(self._columns, found.get(row), update=self._update)
            for row in range(len(writes))
        ]

    def _applied(self, version: Any, was_added: bool, before: Record | None) -> Receipt:
        if self._undo and before is None and not was_added:
            raise Retriable("a row appeared between the look and the write; nothing tells what it held")
        replaced = None if not self._undo else {} if before is None else before
        return Receipt(Outcome.APPLIED, target_version=self._version(version), replaced=replaced)

    def _replaced(self, connection: sa.Connection, parameters: dict[str, Any]) -> dict[int, Record]:
        """The rows as they are, locked: nobody changes them before they are written."""
        names = [str(each.name) for each in self._columns.fields]
        keys = {name: value for name, value in parameters.items() if name[0] in "nk"}
        rows = connection.execute(self._before, keys)
        return {row: plain_record(names, values, self._readers) for row, *values in rows}

    def look(self, connection: sa.Connection, writes: Sequence[Write]) -> list[Found | None]:
        found = self._found(connection, writes, range(len(writes)))
        return [found.get(row) for row in range(len(writes))]

    def read(self, connection: sa.Connection, keys: Sequence[Key]) -> list[Record | None]:
        columns, records = self._columns, [None] * len(keys)
        names = [str(each.name) for each in (*columns.key, *columns.fields)]
        parameters: dict[str, Any] = {"n": list(range(len(keys)))}
        parameters |= {
            f"k{i}": [self._text(each, key[str(each.name)]) for key in keys] for i, each in enumerate(columns.key)
        }
        found: list[Record | None] = list(records)
        for row, version, *values in connection.execute(self._read, parameters):
            found[row] = plain_record(names, values, self._readers) | {"@version": self._version(version)}
        return found

    def there(self, connection: sa.Connection, write_ids: Sequence[str]) -> list[bool]:
        column = self._columns.reference
        assert column is not None
        kind = _cast(column.type, self._dialect)
        statement = sa.text(
            f"SELECT d.n FROM unnest(CAST(:n AS int[]), CAST(CAST(:r AS text[]) AS {kind}[])) AS d(n, r) "
            f"WHERE EXISTS (SELECT 1 FROM {self._table} AS t WHERE t.{self._quoted(column)} = d.r)"
        )
        wanted = [self._columns.reference_of(each) for each in write_ids]
        found = set(connection.execute(statement, {"n": list(range(len(wanted))), "r": wanted}).scalars())
        return [row in found for row in range(len(wanted))]

    # Parameters and answers

    def _parameters(self, writes: Sequence[Write], rows: Sequence[int]) -> dict[str, Any]:
        columns = self._columns
        parameters: dict[str, Any] = {"n": list(rows)}
        for i, each in enumerate(columns.key):
            parameters[f"k{i}"] = [self._text(each, writes[row].key[str(each.name)]) for row in rows]
        for i, each in enumerate(columns.fields):
            parameters[f"f{i}"] = [self._text(each, writes[row].fields[str(each.name)]) for row in rows]
        if columns.version is not None:
            parameters["x"] = [self._text(columns.version, columns.compared(writes[row])) for row in rows]
        if columns.reference is not None:
            parameters["r"] = [columns.reference_of(writes[row].write_id) for row in rows]
        return parameters

    def _text(self, column: sa.Column[Any], value: Any) -> str | None:
        text: str | None = None if value is None else self._writers[str(column.name)](value)
        return text

    def _version(self, value: Any) -> Any:
        if value is None or self._columns.version is None:
            return None
        reader = self._readers[str(self._columns.version.name)]
        return value if reader is None else reader(value)

    def _found(self, connection: sa.Connection, writes: Sequence[Write], rows: Sequence[int]) -> dict[int, Found]:
        answer = connection.execute(self._look, self._parameters(writes, rows))
        return {row: Found(self._version(version), same, bool(newer)) for row, version, same, newer in answer}

    # Statements

    def _data(self, *, fields: bool) -> str:
        """The batch as a table `d`: n, k0.., f0.., x."""
        columns = self._columns
        names, arrays = ["n"], ["CAST(:n AS int[])"]
        parts = [("k", columns.key), ("f", columns.fields if fields else ())]
        for letter, group in parts:
            for i, each in enumerate(group):
                names.append(f"{letter}{i}")
                arrays.append(f"CAST(CAST(:{letter}{i} AS text[]) AS {_cast(each.type, self._dialect)}[])")
        for letter, extra in (("x", columns.version), ("r", columns.reference)):
            if fields and extra is not None:
                names.append(letter)
                arrays.append(f"CAST(CAST(:{letter} AS text[]) AS {_cast(extra.type, self._dialect)}[])")
        return f"unnest({', '.join(arrays)}) AS d({', '.join(names)})"

    def _quoted(self, each: sa.Column[Any]) -> str:
        return quoted(str(each.name), self._dialect)

    def _match(self, left: str) -> str:
        return " AND ".join(f"{left}.{self._quoted(each)} = d.k{i}" for i, each in enumerate(self._columns.key))

    def _differs(self, other: str) -> str:
        """Whether row `t` does not hold the values of `other` (`d`, or `excluded` with the table's own names)."""
        mine, theirs = [], []
        for i, each in enumerate(self._columns.fields):
            value = f"d.f{i}" if other == "d" else f"{other}.{self._quoted(each)}"
            as_jsonb = isinstance(each.type, sa.JSON) and not isinstance(each.type, postgresql.JSONB)
            mine.append(f"CAST(t.{self._quoted(each)} AS jsonb)" if as_jsonb else f"t.{self._quoted(each)}")
            theirs.append(f"CAST({value} AS jsonb)" if as_jsonb else value)
        return f"ROW({', '.join(mine)}) IS DISTINCT FROM ROW({', '.join(theirs)})"

    def _may(self, other: str) -> str:
        """When a row is changed: it differs, and the version rule holds. `newer` moves the version in any case."""
        version = self._columns.version
        if version is None:
            return self._differs(other)
        column = self._quoted(version)
        value = "d.x" if other == "d" else f"{other}.{column}"
        if self._columns.rule == "equals":
            return f"t.{column} = {value} AND {self._differs(other)}"
        return f"(t.{column} IS NULL OR t.{column} < {value})"

    def _returned(self) -> str:
        return "NULL" if self._columns.version is None else f"t.{self._quoted(self._columns.version)}"

    def _update_text(self) -> str:
        sets = [f"{self._quoted(each)} = d.f{i}" for i, each in enumerate(self._columns.fields)]
        if self._columns.rule == "newer" and self._columns.version is not None:
            sets.append(f"{self._quoted(self._columns.version)} = d.x")
        return (
            f"UPDATE {self._table} AS t SET {', '.join(sets)} FROM {self._data(fields=True)} "
            f"WHERE {self._match('t')} AND {self._may('d')} RETURNING d.n, {self._returned()}, false"
        )

    def _columns_and_values(self) -> tuple[list[str], list[str]]:
        """Of a row that is added: the key first."""
        columns = self._columns
        names = [self._quoted(each) for each in (*columns.key, *columns.fields)]
        values = [*(f"d.k{i}" for i in range(len(columns.key))), *(f"d.f{i}" for i in range(len(columns.fields)))]
        for letter, each in (("x", columns.version), ("r", columns.reference)):
            if each is not None:
                names.append(self._quoted(each))
                values.append(f"d.{letter}")
        return names, values

    def _insert_text(self) -> str:
        names, values = self._columns_and_values()
        data = self._data(fields=True)
        return f"INSERT INTO {self._table} ({', '.join(names)}) SELECT {', '.join(values)} FROM {data}"

    def _upsert_text(self) -> str:
        names, values = self._columns_and_values()
        key = names[: len(self._columns.key)]
        sets = ", ".join(f"{name} = excluded.{name}" for name in names[len(key) :])
        returned = ", ".join(f"t.{name} AS r{i}" for i, name in enumerate(key))
        same = " AND ".join(f"done.r{i} = d.k{i}" for i in range(len(key)))
        return (
            f"WITH d AS (SELECT * FROM {self._data(fields=True)}), "
            f"done AS (INSERT INTO {self._table} AS t ({', '.join(names)}) SELECT {', '.join(values)} FROM d "
            f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets} WHERE {self._may('excluded')} "
            f"RETURNING {returned}, {self._returned()} AS version, t.xmax = 0 AS was_added) "
            f"SELECT d.n, done.version, done.was_added FROM done JOIN d ON {same}"
        )

    def _look_text(self) -> str:
        newer = "NULL"
        if self._columns.rule == "newer" and self._columns.version is not None:
            newer = f"t.{self._quoted(self._columns.version)} >= d.x"
        return (
            f"SELECT d.n, {self._returned()}, NOT {self._differs('d')}, {newer} "
            f"FROM {self._data(fields=True)} JOIN {self._table} AS t ON {self._match('t')}"
        )

    def _before_text(self) -> str:
        """In the order of the key, in which the rows are locked: two writers then never wait in a circle."""
        shown = "".join(f", t.{self._quoted(each)}" for each in self._columns.fields)
        order = ", ".join(f"t.{self._quoted(each)}" for each in self._columns.key)
        return (
            f"SELECT d.n{shown} FROM {self._data(fields=False)} JOIN {self._table} AS t ON {self._match('t')} "
            f"ORDER BY {order} FOR UPDATE OF t"
        )

    def _read_text(self) -> str:
        shown = [f"t.{self._quoted(each)}" for each in (*self._columns.key, *self._columns.fields)]
        return (
            f"SELECT d.n, {self._returned()}, {', '.join(shown)} "
            f"FROM {self._data(fields=False)} JOIN {self._table} AS t ON {self._match('t')}"
        )


def _cast(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> str:
    if isinstance(kind, sa.String) and not isinstance(kind, sa.Enum | postgresql.CITEXT):
        return "text"
    return kind.compile(dialect=dialect).replace(":", "\\:")
