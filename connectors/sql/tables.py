"""Tables as the database describes them. Every identifier in a statement comes from here, matched exactly."""

import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import sqlalchemy as sa

from connectors.errors import ConfigError


class NoTable(ConfigError):
    """The file names a table that is not there."""


def reflected(connection: sa.Connection, name: str) -> sa.Table:
    """The table `name` or `schema.table`.

    Raises:
        NoTable: there is none of exactly this name.
    """
    schema, _, table = name.rpartition(".")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Did not recognize type")  # told by us, where the column is used
            found = sa.Table(table, sa.MetaData(), schema=schema or None, autoload_with=connection, resolve_fks=False)
    except sa.exc.NoSuchTableError as error:
        inspector = sa.inspect(connection)
        there = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
        raise NoTable(unknown("table", name, [f"{schema}.{each}" if schema else each for each in there])) from error
    return found


def column(table: sa.Table, name: str) -> sa.Column[Any] | None:
    """The column of exactly this name; SQL's own folding of cases is not ours to guess."""
    return next((each for each in table.columns if each.name == name), None)


def names_of(columns: Iterable[sa.Column[Any]]) -> list[str]:
    return [str(each.name) for each in columns]


def unknown(what: str, name: str, valid: Iterable[str]) -> str:
    """The sentence for a name that is not there."""
    there = sorted(valid)
    near = get_close_matches(name, there, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}; there: {', '.join(there) or 'none'}{hint}"


def is_unique(connection: sa.Connection, table: sa.Table, columns: Iterable[str]) -> bool:
    """Whether no two rows can agree in these columns: they hold the primary key, or all of a unique index."""
    wanted = set(columns)
    primary = set(names_of(table.primary_key.columns))
    if primary and primary <= wanted:
        return True
    inspector = sa.inspect(connection)
    automatic = {"include_auto_indexes": True} if connection.dialect.name == "sqlite" else {}
    indexes = inspector.get_indexes(str(table.name), table.schema, **automatic)
    constraints = inspector.get_unique_constraints(str(table.name), table.schema)
    unique: list[Sequence[str | None]] = [index["column_names"] for index in indexes if index["unique"]]
    unique += [constraint["column_names"] for constraint in constraints]
    return any(names and {str(name) for name in names} <= wanted for names in unique)


def quoted(name: str, dialect: sa.Dialect) -> str:
    """An identifier out of reflection, as it stands in a statement for `sqlalchemy.text`."""
    return dialect.identifier_preparer.quote_identifier(name).replace(":", "\\:")


def qualified(table: sa.Table, dialect: sa.Dialect) -> str:
    """The table's name with its schema, quoted."""
    parts = [str(table.name)] if table.schema is None else [str(table.schema), str(table.name)]
    return ".".join(quoted(part, dialect) for part in parts)
