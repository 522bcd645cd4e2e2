"""The demo on servers of somebody else's: a real broker and a real PostgreSQL, left as they were found."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from connectors.clock import SystemClock
from connectors.errors import ConfigError
from crossdock.broker import Broker
from crossdock.demo.given import GivenKafka, GivenPostgres
from crossdock.demo.stage import Stage, stop_kept
from crossdock.ports import free_port
from streams.admin import Admin
from streams.topics import Topic
from tests.conftest import Database


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("kafka"), port=free_port())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def url(postgres: Database) -> str:
    """As a person types it: with the password."""
    return sa.make_url(postgres.url).set(password=postgres.password).render_as_string(hide_password=False)


def databases(postgres: Database) -> set[str]:
    engine = postgres.engine()
    with engine.connect() as connection:
        found = set(connection.execute(sa.text("SELECT datname FROM pg_database")).scalars())
    engine.dispose()
    return found


def topics(broker: Broker) -> set[str]:
    with Admin(broker.bootstrap) as admin:
        return {found["name"] for found in admin._describe(None)}


def told(what: str, where: str) -> None:
    """Nobody reads the checklist here."""


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "crossdock", "demo", "--folder", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_stage_on_given_servers_has_a_database_and_a_prefix_of_its_own_and_leaves_nothing(
    broker: Broker, postgres: Database, url: str, tmp_path: Path
) -> None:
    before = databases(postgres)
    kafka, server = GivenKafka(broker.bootstrap), GivenPostgres(url)
    assert kafka.prefix != GivenKafka(broker.bootstrap).prefix
    stage = Stage(tmp_path, SystemClock(), kafka=kafka, postgres=server)
    stage.start(told)
    try:
        assert databases(postgres) == before | {server.database}
        engine = sa.create_engine(stage.flightops_url)
        connection = engine.connect()  # stays open: a dropped database does not wait for it
        assert connection.execute(sa.text("SELECT count(*) FROM flights")).scalar_one() == 0
        assert stage.environ["CROSSDOCK_KAFKA__PREFIX"] == kafka.prefix
        assert stage.environ["FLIGHTOPS_PASSWORD"] == postgres.password
        assert stage.addresses.kafka == broker.bootstrap
        with Admin(broker.bootstrap) as admin:
            admin.ensure([Topic(f"{kafka.prefix}.ours", 1), Topic(f"{kafka.prefix}x.theirs", 1)])
    finally:
        left = stage.stop()
    connection.invalidate()
    engine.dispose()
    assert left == []
    assert databases(postgres) == before
    assert f"{kafka.prefix}.ours" not in topics(broker)
    assert f"{kafka.prefix}x.theirs" in topics(broker)
    assert not stage.broker.folder.exists()
    assert not stage.postgres.folder.exists()


def test_what_keep_left_on_a_given_server_goes_with_its_url_and_is_told_without_it(
    postgres: Database, broker: Broker, url: str, tmp_path: Path
) -> None:
    before = databases(postgres)
    for given_again, remains in ((None, True), (url, False)):
        server = GivenPostgres(url)
        stage = Stage(tmp_path, SystemClock(), kafka=GivenKafka(broker.bootstrap), postgres=server)
        stage.start(told)
        assert postgres.password not in (tmp_path / "stage.json").read_text()
        left = stop_kept(tmp_path, given_again)
        for process in stage._servers.values():
            process.wait(20)
        assert (server.database in databases(postgres)) is remains
        assert left == (
            [f"the database {server.address} is still there; drop it there (next time: --stop --postgres URL)"]
            if remains
            else []
        )
        GivenPostgres(url, server.database).clear()
    assert databases(postgres) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--kafka", "127.0.0.1:PORT"], "--kafka 127.0.0.1:PORT: no Kafka broker answers there"),
        (["--kafka", "localhost"], "--kafka localhost: an address has the form host:port"),
        (["--postgres", "postgresql://me:geheim@127.0.0.1:PORT/x"], "at 127.0.0.1:PORT: connection failed"),
        (["--postgres", "mysql://me:geheim@127.0.0.1:PORT/x"], "--postgres: an address has the form postgresql://"),
        (["--postgres", "postgresql://me:geheim@127.0.0.1:x/x"], "--postgres: an address has the form postgresql://"),
        (["--kafka", "127.0.0.1:PORT", "--broker-down", "5"], "--broker-down stops the demo's own broker"),
    ],
)
def test_a_server_that_cannot_be_used_is_told_in_one_line_without_the_password(
    arguments: list[str], line: str, tmp_path: Path
) -> None:
    port = str(free_port())
    done = demo(tmp_path, *(each.replace("PORT", port) for each in arguments))
    assert done.returncode == 2
    assert line.replace("PORT", port) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "geheim" not in done.stdout + done.stderr


def test_a_wrong_password_is_told_and_not_shown(postgres: Database, tmp_path: Path) -> None:
    url = sa.make_url(postgres.url).set(password="geheim").render_as_string(hide_password=False)
    with pytest.raises(ConfigError, match="password authentication failed") as told:
        GivenPostgres(url).start()
    assert "geheim" not in f"{told.value} {told.value.detail}"
