"""The airline's flight database, as old systems are: local times without a zone, gaps, a trigger that moves the cursor.

`flights` is what people and the hub write. Two logs stand beside it, outside the hub: `flight_versions` (every version
of a row that was ever committed) and `effects` (every change of the hub's columns, with the write id that the same
transaction put into the ledger). The trigger moves `updated_at` with every update, also the hub's own: so the hub reads
its own writes again.

On SQLite the schema is the same, for the smallest tests; all its times are UTC, as it knows no zones.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

NEW_YORK = ZoneInfo("America/New_York")
SYSTEM, TABLE = "flightops", "flights"

_PUBLISHED = (*("id", "carrier", "flight", "tailnum", "origin", "dest", "distance", "sched_dep"), "sched_arr_time")
_RESULT = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")


Row = dict[str, Any]


def connect(url: str) -> sa.Engine:
    """As the airline's own people: another user of the same database."""
    return sa.create_engine(url, pool_size=2)


def create(engine: sa.Engine) -> None:
    """Tables, triggers and logs, all empty."""
    with engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        script = resources.files("crossdock.demo").joinpath(f"flightops-{engine.dialect.name}.sql").read_text()
        (driver.executescript if engine.dialect.name == "sqlite" else driver.execute)(script)


def insert_flights(connection: sa.Connection, rows: Sequence[Row]) -> None:
    """Publishes flights.

    Args:
        connection: in the clerk's transaction.
        rows: of the data set, with an `id`.
    """
    utc = connection.dialect.name == "sqlite"
    values = [tuple(_published(row, utc=utc)[name] for name in _PUBLISHED) for row in rows]
    driver: Any = connection.connection.driver_connection
    names = ", ".join(_PUBLISHED)
    if utc:
        driver.executemany(f"INSERT INTO flights ({names}) VALUES ({', '.join('?' * len(_PUBLISHED))})", values)  # noqa: S608
        return
    with driver.cursor().copy(f"COPY flights ({names}) FROM STDIN") as copy:
        for each in values:
            copy.write_row(each)


def departed(connection: sa.Connection, rows: Sequence[Row]) -> None:
    """Enters what really happened to flights; a cancelled one has no `dep_time`."""
    sets = ", ".join(f"{name} = d.{name}" for name in _RESULT)
    if connection.dialect.name == "sqlite":
        sets = ", ".join(f"{name} = :{name}" for name in _RESULT)
        parameters = [{name: row[name] for name in ("id", *_RESULT)} for row in rows]
        connection.execute(sa.text(f"UPDATE flights SET {sets} WHERE id = :id"), parameters)  # noqa: S608
        return
    arrays = {name: [row[name] for row in rows] for name in ("id", *_RESULT)}
    data = ", ".join(f"CAST(:{name} AS int[])" for name in arrays)
    connection.execute(
        sa.text(f"UPDATE flights SET {sets} FROM unnest({data}) AS d({', '.join(arrays)}) WHERE flights.id = d.id"),  # noqa: S608
        arrays,
    )


def versions(engine: sa.Engine) -> Iterator[tuple[int, datetime]]:
    """Every version of a flight that was ever committed, in the order of the changes: id and `updated_at`."""
    yield from _moments(engine, "SELECT id, updated_at FROM flight_versions ORDER BY number")


def effects(engine: sa.Engine) -> Iterator[tuple[int, datetime, str | None]]:
    """Every change of the hub's columns: id, the `updated_at` of the version that it replaced, the write's id."""
    yield from _moments(engine, "SELECT id, replaced, write_id FROM effects")


def unscored(engine: sa.Engine) -> int:
    """Flights that are published, not departed and without a risk."""
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT count(*) FROM flights WHERE dep_time IS NULL AND delay_model IS NULL")
        )
        return int(found.scalar_one())


def _published(row: Row, *, utc: bool) -> Row:
    hour, minute = divmod(row["sched_dep_time"], 100)
    local = datetime(row["year"], row["month"], row["day"], hour % 24, minute, tzinfo=NEW_YORK)
    planned = local.astimezone(UTC if utc else NEW_YORK).replace(tzinfo=None)
    return {**row, "sched_dep": str(planned)}


def _moments(engine: sa.Engine, statement: str) -> Iterator[Any]:
    with engine.connect().execution_options(yield_per=10_000) as connection:
        for number, moment, *rest in connection.exec_driver_sql(statement):
            at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
            yield number, at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC), *rest
