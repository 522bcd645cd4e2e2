"""A table that is written to: its columns, and what the sink asks of each dialect."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from connectors.errors import ConfigError, Rejected
from connectors.reference import Form, reference_of
from connectors.sql.config import SqlWritebackConfig
from connectors.sql.tables import column, names_of, unknown
from connectors.sql.types import Reader
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import JsonValue, Key, Record, UnknownType
from schemas.write import Write


class Target(Protocol):
    """One table of one database. Every method works inside the caller's transaction."""

    def claim(self, connection: sa.Connection, write_ids: Sequence[str]) -> set[str]:
        """Puts the ids into the ledger; returns those that were not there."""
        ...

    def release(self, connection: sa.Connection, write_ids: Sequence[str]) -> None:
        """Takes ids out of the ledger again: their writes had no effect."""
        ...

    def apply(self, connection: sa.Connection, writes: Sequence[Write]) -> list[Receipt]:
        """Writes, and says what became of each, in the same order."""
        ...

    def look(self, connection: sa.Connection, writes: Sequence[Write]) -> list["Found | None"]:
        """The rows beside what the writes want; None = there is none."""
        ...

    def read(self, connection: sa.Connection, keys: Sequence[Key]) -> list[Record | None]:
        """See `connectors.contract.Readable`."""
        ...

    def there(self, connection: sa.Connection, write_ids: Sequence[str]) -> list[bool]:
        """Whether a row carries the reference of each write."""
        ...


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that a write-back uses, as the database has them."""

    table: sa.Table
    key: tuple[sa.Column[Any], ...]
    fields: tuple[sa.Column[Any], ...]
    version: sa.Column[Any] | None
    rule: str | None
    reference: sa.Column[Any] | None = None
    form: Form = "text"

    @classmethod
    def of(cls, config: SqlWritebackConfig, table: sa.Table) -> "Columns":
        """Raises ConfigError for the first name that is no column."""
        version = config.version
        return cls(
            table=table,
            key=tuple(_needed(table, name) for name in config.match),
            fields=tuple(_needed(table, name) for name in config.set),
            version=None if version is None else _needed(table, version.column),
            rule=None if version is None else version.rule,
            reference=None if config.reference is None else _needed(table, config.reference.field),
            form="text" if config.reference is None else config.reference.form,
        )

    @property
    def all(self) -> list[sa.Column[Any]]:
        """Every column that is read or written."""
        return [*self.key, *self.fields, *(each for each in (self.version, self.reference) if each is not None)]

    def reference_of(self, write_id: str) -> str:
        """What stands in the column `reference` of a row that this write added."""
        return reference_of(write_id, self.form)

    def compared(self, write: Write) -> JsonValue:
        """What the version column is compared with."""
        return write.expected if self.rule == "equals" or write.expected is not None else write.version


def added(rows: int, wanted: int) -> list[Receipt]:
    """The receipts of a statement that only adds rows.

    Raises:
        Rejected: the database took fewer, as a trigger may do: nothing tells which.
    """
    if rows != wanted:
        raise Rejected(f"the database added {rows} rows of {wanted}: a trigger left some out", code="not-added")
    return [Receipt(Outcome.APPLIED)] * wanted


def undecided(columns: Columns, found: "Found | None", *, update: bool) -> Receipt:
    """What a write without effect means, after a look at the row.

    Args:
        columns: of the write-back.
        found: the row; None = there is none.
        update: rows are not added.
    """
    if found is None:
        if update:
            return Receipt(Outcome.REJECTED, code="missing", reason=f"{columns.table.name} has no row with this key")
        return Receipt(Outcome.RETRY, reason="the row was removed meanwhile")
    if columns.rule == "newer" and not found.is_newer:
        return Receipt(Outcome.RETRY, reason="the row changed meanwhile")
    if found.same:  # whatever the versions say: our own write of an earlier attempt, or nothing to do
        return Receipt(Outcome.UNCHANGED, target_version=found.version)
    if columns.rule == "newer":
        reason = "the row holds this version or a newer one"
        return Receipt(Outcome.STALE, target_version=found.version, reason=reason)
    if columns.rule == "equals":
        reason = f"{columns.version.name if columns.version is not None else ''} is not the one that was read"
        return Receipt(Outcome.CONFLICT, target_version=found.version, code="version", reason=reason)
    return Receipt(Outcome.RETRY, reason="the row changed meanwhile")


@dataclass(frozen=True, slots=True)
class Found:
    """A row as it stands, beside what a write wants."""

    version: JsonValue
    same: bool
    """It holds the values already."""
    is_newer: bool
    """Its version is the write's, or newer (rule `newer`)."""


def plain_record(names: Sequence[str], values: Sequence[Any], readers: Mapping[str, Reader | None]) -> Record:
    """A row's values by name, in wire form."""
    record: Record = {}
    for name, value in zip(names, values, strict=True):
        reader = readers[name]
        record[name] = value if value is None or reader is None else reader(value)
    return record


def converted(make: Callable[..., Any], columns: Sequence[sa.Column[Any]], zone: Any) -> dict[str, Any]:
    """A reader or writer for each column. Raises ConfigError for a type that has none."""
    found = {}
    for each in columns:
        try:
            found[str(each.name)] = make(each.type, zone)
        except UnknownType as error:
            raise ConfigError(f"column {each.name!r}: {error}") from error
    return found


def _needed(table: sa.Table, name: str) -> sa.Column[Any]:
    found = column(table, name)
    if found is None:
        raise ConfigError(unknown("column", name, names_of(table.columns)))
    return found
