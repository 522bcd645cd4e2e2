"""Connections to one SQL database: the pool, its time-outs, and transactions for reading and writing."""

import contextlib
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from connectors.clock import Clock
from connectors.errors import Rejected, Retriable, SystemFault
from connectors.limits import RateLimit
from connectors.sql.config import SqlSystemConfig
from connectors.sql.errors import failure_of
from connectors.sql.login import Logins
from connectors.sql.patience import Patience


class Database:
    """Connections to one database. Opens none before the first use."""

    def __init__(self, config: SqlSystemConfig, clock: Clock) -> None:
        self.name, self.clock = config.name, clock
        self.zone = ZoneInfo(config.timezone) if config.timezone is not None else None
        self.total = config.timeouts.total.total_seconds()
        self._limit = RateLimit(config.courtesy.rate, clock)
        self._patience = Patience(clock)
        url = sa.make_url(config.url)
        self._logins = Logins(config.name, url.username, config.password, clock, self.total)
        self.engine = _sqlite(url, config) if url.get_backend_name() == "sqlite" else _postgresql(url, config)
        if url.get_backend_name() != "sqlite":
            _connect_by(self._logins, self.engine)
        self.dialect = self.engine.dialect.name

    @contextlib.contextmanager
    def reading(self, deadline: float, place: str) -> Iterator[sa.Connection]:
        """A connection where each statement is a transaction of its own, and sees what is committed when it begins.

        Raises:
            Retriable, SystemFault: see `connectors.sql.errors`.
        """
        options = {"reading": True} if self.dialect == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
        try:
            with self._connection(deadline, place, **options) as connection:
                yield connection
        except Rejected as refusal:  # nothing was written: what the database refuses is not a record
            raise SystemFault(refusal.message, code=refusal.code) from refusal

    @contextlib.contextmanager
    def writing(self, deadline: float, place: str) -> Iterator[sa.Connection]:
        """A connection in a transaction, which the caller commits; without that it is rolled back.

        Raises:
            Retriable, Rejected, SystemFault: see `connectors.sql.errors`.
        """
        with self._connection(deadline, place) as connection:
            yield connection

    @contextlib.contextmanager
    def _connection(self, deadline: float, place: str, **options: Any) -> Iterator[sa.Connection]:
        if self.clock.monotonic() >= deadline:
            raise Retriable(f"{place}: no time is left")
        self._limit.wait(deadline)
        try:
            with (
                self.engine.execution_options(**options).connect() as connection,
                self._patience.until(deadline, connection.connection.driver_connection),
            ):
                yield connection
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise failure_of(error, place) from error

    def credentials_digest(self) -> str:
        """See `connectors.contract.System`."""
        return self._logins.digest()

    def close(self) -> None:
        self._patience.close()
        self.engine.dispose()


def _postgresql(url: sa.URL, config: SqlSystemConfig) -> sa.Engine:
    milliseconds = {
        "statement_timeout": config.courtesy.statement_timeout,
        "lock_timeout": config.lock_timeout,
        "idle_in_transaction_session_timeout": 2 * config.timeouts.total,
    }
    settings = {name: f"{value.total_seconds() * 1000:.0f}" for name, value in milliseconds.items()}
    settings |= {"timezone": "UTC", "application_name": "crossdock"}
    return sa.create_engine(
        url,
        pool_size=config.courtesy.concurrency,
        max_overflow=1,  # reading goes on while all writers are busy
        pool_timeout=config.timeouts.connect.total_seconds(),
        pool_recycle=1800,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": max(2, round(config.timeouts.connect.total_seconds())),  # libpq's least is 2 s
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            "keepalives_idle": 30,
            "tcp_user_timeout": round(config.timeouts.read.total_seconds() * 1000),
        },
    )


def _connect_by(logins: Logins, engine: sa.Engine) -> None:
    """Neither the engine nor its pool knows the password or logs in by itself."""

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> Any:
        return logins.connect(parameters)


def _sqlite(url: sa.URL, config: SqlSystemConfig) -> sa.Engine:
    """SQLite with real transactions: the driver's own begin only at the first change, and too late for a check."""
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": config.lock_timeout.total_seconds(), "isolation_level": None},
    )

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        reads = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
