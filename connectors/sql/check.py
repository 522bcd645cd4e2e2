"""Whether a pipeline's SQL blocks fit the database: read-only, and sentences about what holds."""

from typing import Any

import sqlalchemy as sa

from connectors.config import Reference
from connectors.contract import Idempotency, Problem, Report
from connectors.errors import ConfigError
from connectors.guarantees import IN_DOUBT, ONE_SENDER
from connectors.reference import LONGEST
from connectors.sql.config import SqlSourceConfig, SqlWritebackConfig, VersionRule
from connectors.sql.database import Database
from connectors.sql.late_commits import guard_of, rights
from connectors.sql.ledger import LEDGER
from connectors.sql.position import CursorColumn
from connectors.sql.rows import columns_of, reader_for
from connectors.sql.sink import target_of
from connectors.sql.tables import NoTable, column, is_unique, names_of, qualified, quoted, reflected, unknown
from connectors.sql.target import Columns


def check_source(config: SqlSourceConfig, database: Database) -> Report:
    """Raises Retriable, SystemFault if the database cannot be asked now."""
    with database.reading(database.clock.monotonic() + database.total, f"check {config.table}") as connection:
        try:
            table = reflected(connection, config.table)
        except NoTable as error:
            return Report([Problem(("table",), error.message)])
        named: list[tuple[tuple[str | int, ...], str]] = [(("read", "timestamp"), config.read.timestamp)]
        named += [(("read", "incrementing"), config.read.incrementing)] if config.read.incrementing else []
        named += [(("key", i), name) for i, name in enumerate(config.key)]
        named += [(("columns", i), name) for i, name in enumerate(config.columns or ())]
        report = Report(_missing(table, named))
        if not report.problems:
            _look_at_source(config, database, connection, table, report)
    return report


def _look_at_source(
    config: SqlSourceConfig, database: Database, connection: sa.Connection, table: sa.Table, report: Report
) -> None:
    problems, holds = report.problems, report.guarantees
    problems += _unreadable(config, table, database)
    if not is_unique(connection, table, config.key):
        problems.append(
            Problem(("key",), f"{', '.join(config.key)} is not unique in {config.table}: rows would be mixed up")
        )
    if guard_of(config.late_commits, database.dialect) == "active_transactions":
        if database.dialect != "postgresql":
            problems.append(
                Problem(("late_commits", "type"), "active_transactions is for PostgreSQL; valid here: none")
            )
        elif (wrong := rights(connection)) is not None:
            problems.append(Problem(("late_commits",), wrong))
        else:
            holds.append("rows that are committed late are not missed, if the database stamps the cursor")
    else:
        holds.append("late_commits: none - a row that is committed later than the overlap reaches back is missed")
    time = quoted(config.read.timestamp, database.engine.dialect)
    empty = sa.text(f"SELECT 1 FROM {qualified(table, database.engine.dialect)} WHERE {time} IS NULL LIMIT 1")
    if connection.execute(empty).first() is not None:
        problems.append(
            Problem(("read", "timestamp"), f"{config.read.timestamp} is null in some rows: they are never read")
        )
    first = [index["column_names"][:1] for index in sa.inspect(connection).get_indexes(str(table.name), table.schema)]
    if [config.read.timestamp] not in first:
        holds.append(f"{config.read.timestamp} has no index: each look reads the whole table")
    holds.append("deleted rows are not seen")


def check_sink(config: SqlWritebackConfig, database: Database) -> Report:
    """Raises Retriable, SystemFault if the database cannot be asked now."""
    verb = "update" if config.update else "upsert" if config.upsert else "insert"
    with database.reading(database.clock.monotonic() + database.total, f"check {config.table}") as connection:
        try:
            table = reflected(connection, config.table)
        except NoTable as error:
            return Report([Problem((verb,), error.message)])
        named: list[tuple[tuple[str | int, ...], str]] = [(("match", name), name) for name in config.match]
        named += [(("set", name), name) for name in config.set]
        named += [(("version", "column"), config.version.column)] if config.version is not None else []
        named += [(("reference", "field"), config.reference.field)] if config.reference is not None else []
        report = Report(_missing(table, named))
        if not report.problems:
            _look_at_sink(config, database, connection, table, report)
    return report


def _look_at_sink(
    config: SqlWritebackConfig, database: Database, connection: sa.Connection, table: sa.Table, report: Report
) -> None:
    problems, holds = report.problems, report.guarantees
    try:
        target_of(config, Columns.of(config, table), database)
    except ConfigError as error:
        problems.append(Problem(("set",), error.message))
    if config.insert is None and not is_unique(connection, table, config.match):
        problems.append(Problem(("match",), f"{', '.join(config.match)} is not unique in {config.table}"))
    if config.version is not None:
        version: sa.Column[Any] | None = column(table, config.version.column)
        if version is not None and version.nullable and config.version.rule == "equals":
            problems.append(Problem(("version", "column"), f"{version.name} may be null, and null equals nothing"))
    else:
        holds.append("no version rule: a change that another made meanwhile is overwritten")
    holds.insert(0, _second_effects(config, connection, table))
    if config.undo:
        stay = "; a row that it added stays" if config.upsert else ""
        holds.append(f"undo: every field of `set:` can be restored{stay}")
    if config.reference is not None:
        problems.extend(_too_short(config.reference, table))
    if database.dialect == "postgresql":
        problems.extend(_rights_to_write(config, connection, table, database))


def _second_effects(config: SqlWritebackConfig, connection: sa.Connection, table: sa.Table) -> str:
    """Whether a repeated write can be a second effect (I2)."""
    match config.idempotency, config.version, config.reference:
        case Idempotency.LEDGER, _, _:
            return f"I2 holds: a repeated write finds its id in {LEDGER}, in the same transaction"
        case Idempotency.NATURAL, VersionRule(rule="newer", column=name), _:
            return f"I2 holds: a repeated write finds its own version in {name}"
        case Idempotency.NATURAL, VersionRule(column=name), _:
            return (
                f"I2 holds if {name} moves with every change, whoever makes it: a repeated write finds it moved, and "
                "its values there"
            )
        case Idempotency.READBACK, _, Reference(field=name):
            if is_unique(connection, table, [name]):
                return f"I2 holds: a write is looked for by {name} before it is sent, and {name} is unique"
            return f"I2 holds {ONE_SENDER}: a write is looked for by {name} before it is sent; make {name} unique"
    return IN_DOUBT


def _too_short(reference: Reference, table: sa.Table) -> list[Problem]:
    found = column(table, reference.field)
    needed = 36 if reference.form == "uuid" else LONGEST
    length = getattr(found.type, "length", None) if found is not None else None
    if length is None or length >= needed:
        return []
    hint = "; `form: uuid` needs 36" if reference.form == "text" else ""
    return [
        Problem(("reference", "field"), f"{reference.field} takes {length} characters, and {needed} are needed{hint}")
    ]


def _rights_to_write(
    config: SqlWritebackConfig, connection: sa.Connection, table: sa.Table, database: Database
) -> list[Problem]:
    name, user = qualified(table, database.engine.dialect), connection.exec_driver_sql("SELECT current_user").scalar()
    asked = [("UPDATE", each) for each in config.set] if config.insert is None else []
    added = [*config.match, *config.set, *([] if config.reference is None else [config.reference.field])]
    asked += [("INSERT", each) for each in added] if config.update is None else []
    allowed = sa.text("SELECT has_column_privilege(:table, :column, :right)")
    problems = []
    for right, each in asked:
        if not connection.execute(
            allowed, {"table": name.replace("\\:", ":"), "column": each, "right": right}
        ).scalar():
            problems.append(
                Problem(("set", each), f"no right to write it: GRANT {right} ({each}) ON {config.table} TO {user}")
            )
    if config.idempotency is Idempotency.LEDGER:
        problems += _rights_to_the_ledger(connection, str(user))
    return problems


def _rights_to_the_ledger(connection: sa.Connection, user: str) -> list[Problem]:
    if not sa.inspect(connection).has_table(LEDGER):
        if connection.exec_driver_sql("SELECT has_schema_privilege(current_schema(), 'CREATE')").scalar():
            return []
        return [Problem(("idempotency",), f"there is no table {LEDGER}, and no right to create it")]
    allowed = sa.text("SELECT has_table_privilege(:table, :right)")
    missing = [
        right
        for right in ("SELECT", "INSERT", "DELETE")
        if not connection.execute(allowed, {"table": LEDGER, "right": right}).scalar()
    ]
    if not missing:
        return []
    return [Problem(("idempotency",), f"no right to the ledger: GRANT {', '.join(missing)} ON {LEDGER} TO {user}")]


def _unreadable(config: SqlSourceConfig, table: sa.Table, database: Database) -> list[Problem]:
    problems = []
    for name in columns_of(config, table):
        named = config.columns or ()
        place: tuple[str | int, ...] = ("columns", named.index(name)) if name in named else ("table",)
        if name == config.read.timestamp:
            place = ("read", "timestamp")
        try:
            each = table.columns[name]
            reader_for(each, database)
            if name == config.read.timestamp:
                CursorColumn(each, database.zone, database.dialect)
        except ConfigError as error:
            problems.append(Problem(place, error.message))
    return problems


def _missing(table: sa.Table, named: list[tuple[tuple[str | int, ...], str]]) -> list[Problem]:
    there = names_of(table.columns)
    return [Problem(place, unknown("column", name, there)) for place, name in named if name not in there]
