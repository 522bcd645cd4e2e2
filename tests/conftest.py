"""The servers that tests use: in containers where a container engine answers, embedded ones elsewhere."""

import functools
import gc
import itertools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from crossdock.ports import free_port
from crossdock.postgres import USER, PostgresServer

IMAGE = "postgres:15"
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # each fixture ends its own container
SETTINGS = {"wal_level": "logical", "max_prepared_transactions": "20", "max_connections": "100"}


@functools.cache
def container_engine_answers() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        answers = _engine_answers()
        gc.collect()  # where nobody answers, docker's client leaves its socket open: no test of ours may fail for that
        return answers


def _engine_answers() -> bool:
    import docker

    try:
        client = docker.from_env(timeout=5)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping()) and bool(client.images.list(name=IMAGE))
    except docker.errors.DockerException:
        return False
    finally:
        client.close()


def pytest_report_header() -> str:
    embedded = f"the embedded one (no container engine with {IMAGE} answers)"
    return f"PostgreSQL: {f'a container of {IMAGE}' if container_engine_answers() else embedded}"


@dataclass(frozen=True)
class Database:
    """One empty database of a real server."""

    host: str
    port: int
    name: str
    password: str

    @property
    def url(self) -> str:
        """As it stands in a system's file: without the password."""
        return f"postgresql://{USER}@{self.host}:{self.port}/{self.name}"

    def engine(self) -> sa.Engine:
        """For the test's own use, as somebody who is not the hub."""
        return sa.create_engine(sa.make_url(self.url).set(password=self.password))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A real PostgreSQL with prepared transactions allowed; each test takes a `database` of its own in it."""
    if container_engine_answers():
        yield from _in_container()
        return
    server = PostgresServer(tmp_path_factory.mktemp("postgres") / "server", free_port(), "secret")
    server.start()
    try:
        yield Database("127.0.0.1", server.port, "postgres", server.password)
    finally:
        server.remove()


def _in_container() -> Iterator[Database]:
    from testcontainers.community.postgres import PostgresContainer

    settings = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    container = PostgresContainer(IMAGE, username=USER, password="secret", dbname="postgres", driver="psycopg")
    with container.with_command(settings) as running:
        port = int(running.get_exposed_port(5432))
        yield Database(running.get_container_host_ip(), port, "postgres", "secret")


_numbers = itertools.count(1)


@pytest.fixture
def database(postgres: Database) -> Database:
    name = f"test_{next(_numbers)}"
    engine = postgres.engine()
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return Database(postgres.host, postgres.port, name, postgres.password)
