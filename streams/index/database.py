"""The index's database: rows and the positions that they reach to, always in one transaction.

A projector says from which positions it read. If they are not those of the database any more, another projected
meanwhile and nothing of its transaction happens: so two owners, or an owner and a rebuild, cannot harm each other.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from connectors.errors import ConfigError, Retriable
from connectors.failpoints import failpoint
from streams.index.tables import OFFSETS, POSITIONS, SCHEMA, STATE, Kind, Row, metadata
from streams.runtime.kafka import TopicPartition

_BUSY = 15.0
"""Seconds that SQLite waits for another writer."""
_LOCK = sa.text("SELECT pg_advisory_xact_lock(7240951368)")
"""Two workers that make the tables at once: IF NOT EXISTS races."""

Password = Callable[[], str]


class Overtaken(Exception):
    """Another projector was here meanwhile; nothing was stored."""


@dataclass(slots=True)
class Projected:
    """What one transaction puts into the index."""

    rows: dict[Kind, list[Row]] = field(default_factory=dict)
    moved: dict[TopicPartition, tuple[int, int]] = field(default_factory=dict)
    """Position before and after; -1 before = there was none."""
    emptied: list[TopicPartition] = field(default_factory=list)
    """Partitions that were made anew in Kafka: what the index holds of them is of another topic."""
    as_of: str | None = None


class IndexDatabase:
    """One database; opens nothing before the first use.

    Every method raises Retriable while the database is away, locked or full.
    """

    def __init__(self, url: str, prefix: str, password: Password | None = None) -> None:
        """
        Args:
            url: without a password.
            prefix: of the hub; several hubs may share a database.
            password: asked at each connect, so that a rotated one is seen.
        """
        self.url, self._prefix = url, prefix
        self._engine = _engine(url, password)
        is_sqlite = self._engine.dialect.name == "sqlite"
        self._mark = "?" if is_sqlite else "%s"
        self._insert: Callable[[sa.Table], Any] = sqlite.insert if is_sqlite else postgresql.insert

    def open(self) -> None:
        """Makes the tables where they are missing, and anew where they are of another release."""
        self._make_folder()
        with self._transaction() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(_LOCK)
            if sa.inspect(connection).has_table(STATE.name):
                others = connection.execute(sa.select(STATE.c.schema).where(STATE.c.schema != SCHEMA)).first()
                if others is not None:
                    metadata.drop_all(connection)
            metadata.create_all(connection)
            first = {"prefix": self._prefix, "schema": SCHEMA, "as_of": None}
            connection.execute(self._insert(STATE).on_conflict_do_nothing(), [first])

    def positions(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """What is to be read next, of partitions that were read before."""
        wanted = sa.select(POSITIONS).where(POSITIONS.c.topic.in_(list(topics)))
        with self.reading() as connection:
            return {TopicPartition(topic, number): at for topic, number, at in connection.execute(wanted)}

    def store(self, projected: Projected) -> None:
        """All of it, or nothing.

        Raises:
            Overtaken: the positions before are not those that stand here.
        """
        with self._transaction() as connection:
            for tp in sorted(projected.moved):
                self._move(connection, tp, *projected.moved[tp])
            for tp in projected.emptied:
                self._empty(connection, tp)
            for kind, rows in projected.rows.items():
                self._put(connection, kind, rows)
            if projected.as_of is not None:
                here = STATE.c.prefix == self._prefix
                connection.execute(sa.update(STATE).where(here).values(as_of=projected.as_of))
            failpoint("index_before_commit")
        failpoint("index_after_commit")

    def put(self, kind: Kind, rows: Sequence[Row]) -> None:
        """Rows of records that Kafka no longer has; those that are here already stay."""
        with self._transaction() as connection:
            self._put(connection, kind, rows)

    def clear(self, topics: Iterable[str]) -> None:
        """Forgets all about these topics."""
        names = list(topics)
        with self._transaction() as connection:
            for table in (*(kind.value for kind in Kind), POSITIONS):
                connection.execute(sa.delete(table).where(table.c.topic.in_(names)))
            connection.execute(sa.update(STATE).where(STATE.c.prefix == self._prefix).values(as_of=None))

    def counts(self, topics: Iterable[str]) -> tuple[dict[str, int], str | None]:
        """Rows of each kind, and as of when."""
        names = list(topics)
        with self.reading() as connection:
            counted = {
                kind.name.lower(): sa.select(sa.func.count()).where(kind.value.c.topic.in_(names)) for kind in Kind
            }
            rows = {name: int(connection.execute(each).scalar_one()) for name, each in counted.items()}
            return rows, self.as_of(connection)

    def as_of(self, connection: sa.Connection) -> str | None:
        """All that was on Kafka by then is in the tables; None = nothing was read to its end yet."""
        found = sa.select(STATE.c.as_of).where(STATE.c.prefix == self._prefix)
        return connection.execute(found).scalar_one_or_none()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One snapshot, read-only."""
        sqlite_ = self._engine.dialect.name == "sqlite"
        options = {"reading": True} if sqlite_ else {"isolation_level": "REPEATABLE READ"}
        try:
            with self._engine.execution_options(**options).connect() as connection:
                yield connection
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise _away(error) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise _away(error) from error

    def close(self) -> None:
        self._engine.dispose()

    def _make_folder(self) -> None:
        if self._engine.dialect.name == "sqlite" and self._engine.url.database:
            try:
                Path(self._engine.url.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _away(error) from error

    def _move(self, connection: sa.Connection, tp: TopicPartition, before: int, after: int) -> None:
        if before < 0:
            new = {"topic": tp.topic, "partition": tp.partition, "next": after}
            first = self._insert(POSITIONS).values(new).on_conflict_do_nothing()
            done = connection.execute(first.execution_options(preserve_rowcount=True))
        else:
            here = (POSITIONS.c.topic == tp.topic) & (POSITIONS.c.partition == tp.partition)
            moved = sa.update(POSITIONS).where(here & (POSITIONS.c.next == before)).values(next=after)
            done = connection.execute(moved)
        if done.rowcount != 1:
            raise Overtaken(f"{tp.topic}/{tp.partition} is not at {before} any more")

    def _empty(self, connection: sa.Connection, tp: TopicPartition) -> None:
        for table in (kind.value for kind in Kind):
            here = (table.c.topic == tp.topic) & (table.c.partition == tp.partition)
            connection.execute(sa.delete(table).where(here))

    def _put(self, connection: sa.Connection, kind: Kind, rows: Sequence[Row]) -> None:
        """By the driver itself: a statement of SQLAlchemy's costs more for each row than all the rest."""
        if rows:
            connection.exec_driver_sql(_insert_text(kind, self._mark), list(rows))


def _insert_text(kind: Kind, mark: str) -> str:
    """Rows that are here already stay; of source offsets the newest."""
    names = [f'"{name}"' for name in kind.value.columns.keys()]  # noqa: SIM118 - no mapping of Python's
    then = "DO NOTHING"
    if kind is Kind.OFFSETS:
        changed = ", ".join(f"{name} = excluded.{name}" for name in names[2:])
        then = f'(topic, task) DO UPDATE SET {changed} WHERE excluded."offset" >= {OFFSETS.name}."offset"'
    values = ", ".join([mark] * len(names))
    return f"INSERT INTO {kind.value.name} ({', '.join(names)}) VALUES ({values}) ON CONFLICT {then}"  # noqa: S608


def _away(error: Exception) -> Retriable:
    told = getattr(error, "orig", None) or error
    return Retriable(f"the index's database does not answer: {' '.join(str(told).split())}")


def _engine(url: str, password: Password | None) -> sa.Engine:
    made = sa.make_url(url)
    if made.get_backend_name() == "sqlite":
        return _sqlite(made)
    if made.get_backend_name() != "postgresql":
        raise ConfigError(f"index: url: no support for {made.get_backend_name()}; valid: postgresql, sqlite")
    engine = sa.create_engine(
        made,
        pool_size=1,
        max_overflow=1,
        hide_parameters=True,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "options": "-c statement_timeout=60000 -c timezone=UTC -c application_name=crossdock-index",
            "keepalives_idle": 30,
            "tcp_user_timeout": 30_000,
        },
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        if password is not None:
            parameters["password"] = password()

    return engine


def _sqlite(url: sa.URL) -> sa.Engine:
    """Readers beside one writer (WAL), and real transactions: the driver's own begin at the first change."""
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY, "isolation_level": None})

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        reads = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
