"""What a table holds, for reconcile: counts and hashes of its keys and versions, computed in the database.

| database   | key columns           | computed by                      |
|------------|-----------------------|----------------------------------|
| PostgreSQL | integers, texts, UUID | the database, in one pass        |
| PostgreSQL | others                | us, out of the rows              |
| SQLite     | any                   | us, out of the rows              |
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa

from connectors.buckets import KEY_DIGITS, RECORD_DIGITS, bucketed, cut, within, without_cause
from connectors.contract import Bucket, Held, KeyRange
from connectors.errors import ConfigError
from connectors.sql.database import Database
from connectors.sql.position import CursorColumn
from connectors.sql.rows import DOMAIN, reader_for
from connectors.sql.tables import column, names_of, qualified, quoted, unknown
from schemas.version import Version, position_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WIDTH = len(without_cause(str(Version(0, 0))))
_SAME_TEXT_EVERYWHERE = (sa.Integer, sa.String, sa.Uuid)
_AT_ONCE = 5000


class Versions(Protocol):
    """How a table tells the version of a row, and which rows are of an earlier one."""

    column: sa.Column[Any]

    def sql(self, name: str) -> str: ...
    def of(self, value: Any) -> str: ...
    def parameters(self, below: str | None) -> dict[str, Any]: ...


class OfCursor:
    """A source: its cursor column, in microseconds."""

    def __init__(self, each: sa.Column[Any], cursor: CursorColumn, database: Database) -> None:
        self.column, self._cursor = each, cursor
        self._zone = database.zone.key if database.zone is not None and not _has_zone(each) else None

    def sql(self, name: str) -> str:
        time = name if self._zone is None else f"({name} AT TIME ZONE :zone)"
        return (
            f"'{DOMAIN:04d}.' || lpad(CAST(CAST(round(extract(epoch FROM {time}) * 1000000) AS bigint) AS text), "
            "20, '0')"
        )

    def of(self, value: Any) -> str:
        return without_cause(str(Version(DOMAIN, position_of(self._cursor.moment(value)))))

    def parameters(self, below: str | None) -> dict[str, Any]:
        zone = {} if self._zone is None else {"zone": self._zone}
        if below is None:
            return zone
        moment = _EPOCH + timedelta(microseconds=Version.parse(f"{below}.0").position)
        return zone | {"below": self._cursor.parameter(moment)}


class OfColumn:
    """A target: a column that holds the hub's versions."""

    def __init__(self, each: sa.Column[Any]) -> None:
        self.column = each

    def sql(self, name: str) -> str:
        return f"left({name}, {_WIDTH})"

    def of(self, value: Any) -> str:
        return str(value)[:_WIDTH]

    def parameters(self, below: str | None) -> dict[str, Any]:
        return {} if below is None else {"below": below}


@dataclass(frozen=True, slots=True)
class ComparedTable:
    """One table, as it is compared. Raises ConfigError for a key column that is not there or cannot be read."""

    database: Database
    table: sa.Table
    versions: Versions
    place: str

    def digest(self, key_range: KeyRange, deadline: float) -> list[Bucket]:
        """See `connectors.contract.Comparable`."""
        with self.database.reading(deadline, self.place) as connection:
            if not self._same_text(key_range):
                return bucketed(self._read(connection, key_range), key_range)
            self._take_time(connection, deadline)
            found = connection.execute(sa.text(self._digest_text(key_range)), self._parameters(key_range)).all()
        return cut(key_range, {int(number): (int(count), int(total)) for number, count, total in found})

    def held(self, key_range: KeyRange, deadline: float) -> list[Held]:
        """See `connectors.contract.Comparable`."""
        with self.database.reading(deadline, self.place) as connection:
            if not self._same_text(key_range):
                return within(self._read(connection, key_range), key_range)
            self._take_time(connection, deadline)
            inside = f"{self._hash(key_range)} >= :start AND {self._hash(key_range)} < :end"
            return list(self._read(connection, key_range, inside))

    def _take_time(self, connection: sa.Connection, deadline: float) -> None:
        """One pass over a large table takes longer than a statement of the flow may."""
        left = max(1, round((deadline - self.database.clock.monotonic()) * 1000))
        connection.exec_driver_sql(f"SET statement_timeout = {left}")

    def _read(self, connection: sa.Connection, key_range: KeyRange, inside: str | None = None) -> Iterator[Held]:
        keys = self._keys(key_range)
        readers = [reader_for(each, self.database) for each in keys]
        shown = ", ".join(self._quoted(each) for each in (*keys, self.versions.column))
        where = " AND ".join([*self._conditions(key_range), *([] if inside is None else [inside])])
        statement = f"SELECT {shown} FROM {qualified(self.table, self._dialect)} WHERE {where}"
        found = connection.execute(sa.text(statement), self._parameters(key_range))
        for part in found.partitions(_AT_ONCE):
            for *values, version in part:
                key = (v if v is None or r is None else r(v) for v, r in zip(values, readers, strict=True))
                yield Held(tuple(key), self.versions.of(version))

    def _digest_text(self, key_range: KeyRange) -> str:
        text, version = self._key(key_range), self.versions.sql(self._quoted(self.versions.column))
        content = f"{text} || chr(31) || {version}"
        return (
            f"SELECT (place - :start) * :buckets / (:end - :start) AS number, count(*), sum(record) "
            f"FROM (SELECT {_hash(text, KEY_DIGITS)} AS place, {_hash(content, RECORD_DIGITS)} AS record "
            f"FROM {qualified(self.table, self._dialect)} WHERE {' AND '.join(self._conditions(key_range))}) AS hashed "
            "WHERE place >= :start AND place < :end GROUP BY 1"
        )

    def _conditions(self, key_range: KeyRange) -> list[str]:
        """SQLite compares times as the texts that they are; there the rows are sorted out by us alone."""
        version = self._quoted(self.versions.column)
        bounded = key_range.below is not None and self.database.dialect == "postgresql"
        return [f"{version} IS NOT NULL", *([f"{version} < :below"] if bounded else [])]

    def _parameters(self, key_range: KeyRange) -> dict[str, Any]:
        parameters = {"start": key_range.start, "end": key_range.end, "buckets": key_range.buckets}
        return parameters | self.versions.parameters(key_range.below)

    def _keys(self, key_range: KeyRange) -> list[sa.Column[Any]]:
        found = [column(self.table, name) for name in key_range.fields]
        for name, each in zip(key_range.fields, found, strict=True):
            if each is None:
                raise ConfigError(unknown("column", name, names_of(self.table.columns)))
        return [each for each in found if each is not None]

    def _same_text(self, key_range: KeyRange) -> bool:
        """Whether the database's texts of the keys are those of the events."""
        kinds = [each.type for each in self._keys(key_range)]
        plain = all(isinstance(kind, _SAME_TEXT_EVERYWHERE) and not isinstance(kind, sa.CHAR) for kind in kinds)
        return plain and self.database.dialect == "postgresql"

    def _key(self, key_range: KeyRange) -> str:
        return "concat_ws(chr(31), " + ", ".join(self._quoted(each) for each in self._keys(key_range)) + ")"

    def _hash(self, key_range: KeyRange) -> str:
        return _hash(self._key(key_range), KEY_DIGITS)

    def _quoted(self, each: sa.Column[Any]) -> str:
        return quoted(str(each.name), self._dialect)

    @property
    def _dialect(self) -> sa.Dialect:
        return self.database.engine.dialect


def _hash(text: str, digits: int) -> str:
    return f"CAST(CAST('x' || substr(md5({text}), 1, {digits}) AS bit({digits * 4})) AS bigint)"


def _has_zone(each: sa.Column[Any]) -> bool:
    return bool(getattr(each.type, "timezone", False))
