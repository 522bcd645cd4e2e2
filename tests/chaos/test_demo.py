"""The whole hub over real processes, judged by the systems' own logs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def demo(folder: Path, *arguments: str) -> dict[str, object]:
    """Plays the demo in a process of its own; its last line, and its exit code as `exit`."""
    command = [sys.executable, "-W", "ignore", "-m", "crossdock", "demo", "--json", "--folder", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr[-3000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "exit": done.returncode, "said": done.stderr[-3000:]}


@pytest.mark.chaos
def test_three_killed_workers_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """I1, I2: 3 times SIGKILL while two workers move all aircraft and January's weather."""
    found = demo(tmp_path, "--kill", "3", "--workers", "2", "--seconds", "20")
    assert found["exit"] == 0, found["said"]
    assert found["worker_starts"] == 5
    pipelines = found["pipelines"]
    assert isinstance(pipelines, dict)
    assert {name: each["changes"] for name, each in pipelines.items()} == {
        "inspection-priority": 3322,
        "station-weather": 2226,
    }
    for figures in pipelines.values():
        assert (figures["lost"], figures["doubled"], figures["in_flight"]) == (0, 0, 0)
        assert figures["changes"] == sum(v for k, v in figures.items() if k not in ("changes", "doubled"))


@pytest.mark.chaos
def test_a_broker_that_is_away_for_a_while_costs_only_time(tmp_path: Path) -> None:
    """I1, I2, I10: the worker is not restarted by hand, and every change is accounted for."""
    found = demo(tmp_path, "--broker-down", "15", "--seconds", "20")
    assert found["exit"] == 0, found["said"]
    assert found["ok"] is True
