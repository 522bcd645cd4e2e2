"""The whole hub over real processes, judged by the systems' own logs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from crossdock.broker import Broker
from crossdock.ports import free_port
from streams.admin import Admin
from streams.topics import Topic
from tests.conftest import Database

JANUARY = 27_004


def demo(folder: Path, *arguments: str) -> dict[str, Any]:
    """Plays the demo in a process of its own; its last line, and its exit code as `exit`."""
    command = [sys.executable, "-W", "ignore", "-m", "crossdock", "demo", "--json", "--folder", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr[-3000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "exit": done.returncode, "said": done.stderr}


def assert_that_every_change_is_accounted_for(found: dict[str, Any]) -> None:
    assert found["exit"] == 0, found["said"]
    assert found["ok"] is True
    pipelines = found["pipelines"]
    assert pipelines["delay-risk"]["changes"] >= 2 * JANUARY  # each is published, and its result is entered
    assert pipelines["inspection-priority"]["changes"] == 3322
    assert pipelines["station-weather"]["changes"] == 2226
    for figures in pipelines.values():
        assert (figures["lost"], figures["doubled"], figures["in_flight"]) == (0, 0, 0)
        assert figures["changes"] == sum(v for k, v in figures.items() if k not in ("changes", "doubled"))
        assert figures["applied"] > 0


@pytest.mark.chaos
def test_three_killed_workers_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """I1, I2: 3 times SIGKILL while two workers move January's flights, its weather and all aircraft."""
    found = demo(tmp_path, "--kill", "3", "--workers", "2", "--seconds", "20")
    assert_that_every_change_is_accounted_for(found)
    assert found["worker_starts"] == 5
    assert found["naive_poller_lost"] > 0


@pytest.mark.chaos
def test_a_broker_that_is_away_for_a_while_costs_only_time(tmp_path: Path) -> None:
    """I1, I2, I10: the worker is not restarted by hand, and every change is accounted for."""
    assert_that_every_change_is_accounted_for(demo(tmp_path, "--broker-down", "15", "--seconds", "20"))


@pytest.mark.chaos
def test_a_zombie_that_wakes_after_its_session_has_no_second_effect(tmp_path: Path) -> None:
    """I1, I2: SIGSTOP for longer than a session; another worker takes over; then SIGCONT."""
    found = demo(tmp_path, "--freeze", "1", "--workers", "2", "--seconds", "25")
    assert_that_every_change_is_accounted_for(found)
    assert "woken" in found["said"]


@pytest.mark.chaos
def test_workers_that_come_and_go_move_nothing_twice(tmp_path: Path) -> None:
    """I1, I2: one worker, three, and one again, while the flights go on."""
    found = demo(tmp_path, "--scale", "3", "--seconds", "30")
    assert_that_every_change_is_accounted_for(found)
    assert found["said"].count("scaled") == 2


@pytest.mark.chaos
def test_the_demo_plays_on_servers_that_were_given_and_leaves_nothing_on_them(
    tmp_path: Path, postgres: Database
) -> None:
    """I1, I2: a broker and a PostgreSQL that run already; what others have there stays, what the demo made goes."""
    broker = Broker(tmp_path / "kafka", port=free_port())
    broker.start()
    try:
        with Admin(broker.bootstrap) as admin:
            admin.ensure([Topic("somebody.elses", 1)])
        url = sa.make_url(postgres.url).set(password=postgres.password)
        given = ("--kafka", broker.bootstrap, "--postgres", url.render_as_string(hide_password=False))
        found = demo(tmp_path / "demo", *given, "--kill", "1", "--seconds", "20")
        with Admin(broker.bootstrap) as admin:
            there = {topic for topic, _ in admin.spans(["somebody.elses", f"{found['prefix']}.crossdock.offsets"])}
    finally:
        broker.stop()
    assert_that_every_change_is_accounted_for(found)
    assert found["kafka"] == broker.bootstrap
    assert there == {"somebody.elses"}
    engine = postgres.engine()
    with engine.connect() as connection:
        names = set(connection.execute(sa.text("SELECT datname FROM pg_database")).scalars())
    engine.dispose()
    assert not {name for name in names if name.startswith("crossdock_demo_")}
    logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "demo").glob("*.log"))
    assert f":{postgres.password}@" not in json.dumps(found) + logs
