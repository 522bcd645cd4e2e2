"""Servers of somebody else's in place of the demo's own: a Kafka, a PostgreSQL.

They are left as they were found: the demo's topics have a prefix that no other run has, its tables a database of their
own, and both go when the demo ends.
"""

import re
import secrets
from typing import LiteralString

import psycopg
import sqlalchemy as sa
from psycopg import sql

from connectors.errors import ConfigError, CrossdockError, Fatal, Retriable
from crossdock.broker import speaks_kafka
from streams.admin import Admin

_BOOTSTRAP = re.compile(r"[^\s,]+:\d{1,5}(,[^\s,]+:\d{1,5})*")
_FORM = "an address has the form postgresql://user:password@host:5432/database"
_CONNECT = 10  # seconds


class GivenKafka:
    """A cluster that runs already, without TLS. Nothing of it is touched but our own topics."""

    def __init__(self, bootstrap: str, prefix: str | None = None) -> None:
        """Raises ConfigError if that is no address. `prefix`: of an earlier run; default: a new one."""
        if not _BOOTSTRAP.fullmatch(bootstrap):
            raise ConfigError(f"--kafka {bootstrap}: an address has the form host:port, several with commas")
        self.bootstrap, self.prefix = bootstrap, prefix or f"demo-{secrets.token_hex(4)}"
        self._used = prefix is not None

    def start(self) -> None:
        """Looks whether it is there.

        Raises:
            ConfigError: nobody answers.
        """
        places = (each.rpartition(":") for each in self.bootstrap.split(","))
        if not any(speaks_kafka(host.strip("[]"), int(port)) for host, _, port in places):
            raise ConfigError(
                f"--kafka {self.bootstrap}: no Kafka broker answers there without TLS; `crossdock broker start` starts "
                "one, and without --kafka the demo starts its own"
            )
        self._used = True

    def clear(self) -> None:
        """Deletes our topics. Our consumer groups have no members any more, and expire.

        Raises:
            Fatal: they are still there.
        """
        if not self._used:
            return
        try:
            with Admin(self.bootstrap) as admin:
                admin.remove(self.prefix)
        except Retriable as error:
            raise Fatal(f"the topics {self.prefix}.* at {self.bootstrap} are still there: {error}") from error


class GivenPostgres:
    """A server that runs already. The password of its URL goes to the server, and is shown nowhere."""

    def __init__(self, url: str, database: str | None = None) -> None:
        """Raises ConfigError if that is no address. `database`: of an earlier run; default: a new name."""
        try:
            found = sa.make_url(re.sub(r"^postgres://", "postgresql://", url))
        except (sa.exc.ArgumentError, ValueError):
            raise ConfigError(f"--postgres: {_FORM}") from None  # its own message may tell the password
        if found.get_backend_name() != "postgresql" or "password" in found.query:
            raise ConfigError(f"--postgres: {_FORM}")
        self.database = database or f"crossdock_demo_{secrets.token_hex(4)}"
        self._used = database is not None
        self._server = found.set(drivername="postgresql", database=found.database or "postgres")
        self._ours = self._server.set(database=self.database)

    @property
    def url(self) -> str:
        """Of our database, with the password: for our own use, never shown."""
        return self._ours.render_as_string(hide_password=False)

    @property
    def address(self) -> str:
        """The same without the password."""
        return self._ours._replace(password=None).render_as_string()

    def secrets(self) -> dict[str, str]:
        """For a worker's environment. Without a password the client's library finds its own, or needs none."""
        if self._ours.password is None:
            return {"CROSSDOCK_SYSTEMS__FLIGHTOPS__PASSWORD": "null"}
        return {"FLIGHTOPS_PASSWORD": str(self._ours.password)}

    def start(self) -> None:
        """Creates our database.

        Raises:
            ConfigError: nobody answers, or that user may not.
        """
        try:
            self._run("CREATE DATABASE {}")
        except psycopg.Error as error:
            raise ConfigError(f"--postgres: no database can be made at {self._place}: {_reason(error)}") from None
        self._used = True

    def clear(self) -> None:
        """Drops our database.

        Raises:
            Fatal: it is still there.
        """
        if not self._used:
            return
        try:
            self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        except psycopg.Error as error:
            raise Fatal(f"the database {self.database} at {self._place} is still there: {_reason(error)}") from None

    @property
    def _place(self) -> str:
        return f"{self._server.host or 'the local socket'}:{self._server.port or 5432}"

    def _run(self, statement: LiteralString) -> None:
        conninfo = self._server.render_as_string(hide_password=False)
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=_CONNECT) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(self.database)))


def cleared(*given: GivenKafka | GivenPostgres | None) -> list[str]:
    """Leaves these servers as they were found. Returns a line for each thing that is still there."""
    left = []
    for each in given:
        try:
            if each is not None:
                each.clear()
        except CrossdockError as error:
            left.append(str(error))
    return left


def _reason(error: psycopg.Error) -> str:
    """In one line; a failed connect tells one for each address of the host, and asks whether the server runs."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Is the server")) or type(error).__name__
