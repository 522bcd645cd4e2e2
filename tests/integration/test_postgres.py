"""The embedded PostgreSQL, started for real."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from connectors.errors import ConfigError
from crossdock.ports import free_port
from crossdock.postgres import PostgresServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "postgres", free_port(), "first password")
    yield server
    server.remove()


def test_it_starts_answers_and_keeps_its_data_over_a_stop(server: PostgresServer) -> None:
    server.start()
    server.create_database("flights")
    with psycopg.connect(server.url("flights")) as connection:
        connection.execute("CREATE TABLE one AS SELECT 1 AS n")
    assert server.stop()
    assert not server.running
    server.start()
    with psycopg.connect(server.url("flights")) as connection:
        assert connection.execute("SELECT n FROM one").fetchone() == (1,)


def test_a_crash_loses_no_committed_row(server: PostgresServer) -> None:
    server.start()
    with psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TABLE one AS SELECT 1 AS n")
    server.stop(immediately=True)
    server.start()
    with psycopg.connect(server.url("postgres")) as connection:
        assert connection.execute("SELECT n FROM one").fetchone() == (1,)


def test_a_wrong_password_is_refused(server: PostgresServer) -> None:
    server.start()
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(server.url("postgres").replace("first%20password", "another"))


def test_it_can_be_read_by_log_and_prepares_transactions(server: PostgresServer) -> None:
    server.start()
    with psycopg.connect(server.url("postgres")) as connection:
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
        assert connection.execute("SHOW max_prepared_transactions").fetchone() == ("20",)


def test_a_busy_port_is_said_before_anything_is_started(server: PostgresServer, tmp_path: Path) -> None:
    server.start()
    second = PostgresServer(tmp_path / "second", server.port, "x")
    with pytest.raises(ConfigError, match=f"port {server.port} .* in use"):
        second.start()
    assert not (second.home / "data").exists()


def test_its_password_is_in_no_file_and_no_text(server: PostgresServer) -> None:
    server.start()
    assert "first password" not in repr(server)
    files = [path for path in server.home.rglob("*") if path.is_file() and path.stat().st_size < 1_000_000]
    assert not [path for path in files if b"first password" in path.read_bytes()]
