"""The image and the compose file, for real: where a container engine, its compose and the base images are there."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ("python:3.11-slim", "postgres:15", "apache/kafka:4.3.1")
PUBLISHED = """
INSERT INTO flights (id, carrier, flight, tailnum, origin, dest, distance, sched_dep, sched_arr_time)
SELECT n, 'UA', n, 'N1', 'JFK', 'LAX', 2475, timestamp '2013-01-15 08:00', 1100 FROM generate_series(1, 100) n
"""


def docker(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "FLIGHTOPS_PASSWORD": "secret"}
    return subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=timeout, check=False
    )


def compose(*arguments: str, timeout: float = 120) -> str:
    done = docker("compose", "-p", "crossdock-test", "-f", "docker/compose.yaml", *arguments, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def is_possible() -> bool:
    try:
        answers = docker("info").returncode == 0 and docker("compose", "version").returncode == 0
    except OSError:
        return False
    return answers and all(docker("image", "inspect", image).returncode == 0 for image in IMAGES)


@pytest.fixture(scope="module")
def hub() -> Iterator[None]:
    """The compose file's services, from an image that was just built."""
    if not is_possible():
        pytest.skip(f"no container engine with compose and {', '.join(IMAGES)} answers")
    compose("build", "--quiet", timeout=280)
    compose("up", "--detach")
    yield
    compose("down", "--volumes", "--timeout", "40")


def query(statement: str) -> str:
    return compose("exec", "-T", "postgres", "psql", "-Atq", "-U", "crossdock", "flightops", "-c", statement)


def soon(condition: Callable[[], bool], seconds: float = 90) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


@pytest.mark.chaos
def test_the_image_is_not_root_and_lints_a_folder(hub: None) -> None:
    mount = f"{ROOT / 'config'}:/config:ro"
    secrets = [f"--env={name}=x" for name in ("REGISTRY_PASSWORD", "STATIONS_TOKEN", "FLIGHTOPS_PASSWORD")]
    done = docker("run", "--rm", "--read-only", "-v", mount, *secrets, "crossdock", "crossdock", "lint", "config")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no problem" in done.stdout
    assert docker("run", "--rm", "crossdock", "id", "-u").stdout.strip() == "10001"


@pytest.mark.chaos
def test_a_worker_with_a_read_only_root_scores_flights_and_says_that_it_is_healthy(hub: None) -> None:
    query(PUBLISHED)
    scored = "SELECT count(*) FROM flights WHERE delay_risk IS NOT NULL"
    assert soon(lambda: query(scored) == "100"), compose("logs", "worker")[-3000:]
    assert query("SELECT count(*), count(DISTINCT write_id) FROM effects") == "100|100"
    assert soon(lambda: json.loads(compose("ps", "--format", "json", "worker"))["Health"] == "healthy")


@pytest.mark.chaos
def test_a_worker_that_is_stopped_ends_by_itself(hub: None) -> None:
    worker = compose("ps", "--quiet", "worker")
    compose("stop", "--timeout", "40", "worker")
    state = json.loads(docker("inspect", worker).stdout)[0]["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
