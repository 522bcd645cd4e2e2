"""The campaign as CI runs it: small, and bounded. `make chaos` runs all of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.campaign.scenarios import SCENARIOS
from tests.chaos.campaign.schedule import Size, schedule_of

ROOT = Path(__file__).parents[2]
SIZE = Size(seconds=600, events=1000)


def campaign(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-m", "tests.chaos.campaign", "--folder", str(folder), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            out, err = running.communicate(timeout=540)
        except subprocess.TimeoutExpired:
            running.terminate()  # it ends its servers and workers
            out, err = running.communicate(timeout=60)
            pytest.fail(f"it did not end in time:\n{err[-3000:]}")
    return subprocess.CompletedProcess(command, running.returncode, out, err)


def played(folder: Path, scenario: str, *arguments: str) -> dict[str, Any]:
    """The verdict on one scenario, once it held: nothing lost, doubled, out of order or wrong."""
    done = campaign(folder, "--scenario", scenario, *arguments)
    assert done.stdout, done.stderr[-3000:]
    verdict = json.loads(done.stdout.splitlines()[-1])
    found: dict[str, Any] = verdict["scenarios"][scenario]
    assert (found["violations"], found["exceeded"]) == ({}, {}), found["examples"]
    assert done.returncode == 0, done.stderr
    assert all(flow["applied"] for flow in found["flows"].values())
    return found


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_ten_killed_workers_lose_double_and_disorder_nothing_on_any_sink(tmp_path: Path) -> None:
    """I1, I2, I3, I4: SQL with a ledger and with a version rule, SOAP by version, REST by key."""
    found = played(tmp_path, "kill", "--minutes", "1", "--events", "20000", "--seed", "1")
    assert found["faults"] >= 10
    assert found["lives"] == 2 + found["faults"]
    assert found["events"] > 20_000


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_schedule_follows_from_the_seed_alone(name: str) -> None:
    plan = SCENARIOS[name].plan
    assert schedule_of(name, plan, 7, SIZE) == schedule_of(name, plan, 7, SIZE)


def test_another_seed_is_another_schedule() -> None:
    plan = SCENARIOS["kill"].plan
    assert schedule_of("kill", plan, 7, SIZE) != schedule_of("kill", plan, 8, SIZE)


def test_the_schedule_is_printed_before_anything_happens(tmp_path: Path) -> None:
    first, second = (campaign(tmp_path, "--seed", "3", "--schedule") for _ in range(2))
    assert first.stdout == second.stdout
    steps = [json.loads(line) for line in first.stdout.splitlines()]
    assert {step["scenario"] for step in steps} >= {"kill", "zombie", "broker-away", "offsets-lost"}
    assert not (tmp_path / "kill").exists()


def test_an_unknown_scenario_is_one_clear_line(tmp_path: Path) -> None:
    done = campaign(tmp_path, "--scenario", "kil")
    assert done.returncode == 2
    assert "no scenario 'kil'; known: kill, failpoints" in done.stderr
    assert "Traceback" not in done.stderr
