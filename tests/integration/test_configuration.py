"""Wrong files: one clear line each, with its place, exit code 2 and no traceback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "config"
SECRETS = {"REGISTRY_PASSWORD": "x", "STATIONS_TOKEN": "y", "FLIGHTOPS_PASSWORD": "z"}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crossdock", "lint", str(folder)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **SECRETS}, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CONFIG, tmp_path / "config"))


def test_the_shipped_files_are_clean(folder: Path) -> None:
    done = lint(folder)
    assert done.returncode == 0, done.stderr
    assert "no problem" in done.stdout


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pipelines/station-weather.yaml", "owner:", "ownr:", "3:1: unknown key 'ownr'"),
        ("pipelines/station-weather.yaml", "every: 1s", "every: 1", "a duration needs a number and a unit"),
        (
            "pipelines/station-weather.yaml",
            "  system: stations\n  path",
            "  system: station\n  path",
            "did you mean 'stations'?",
        ),
        ("pipelines/station-weather.yaml", "if_changed: newer_comes", "if_changed: NO", "if_changed"),
        ("systems/registry.yaml", "registry.wsdl", "registri.wsdl", "registri.wsdl"),
        ("systems/registry.yaml", "type: soap", "type: sopa", "did you mean 'soap'?"),
        ("systems/stations.yaml", "${env:STATIONS_TOKEN}", "plaintext", "write ${env:NAME}"),
        ("systems/stations.yaml", "name: stations", "name: stations\nname: stations", "a second time"),
        ("crossdock.yaml", "partitions: 6", "partitions: six", "3:"),
        (
            "pipelines/station-weather.yaml",
            "    if_match: etag",
            "    put: /x\n    #",
            "yaml:29:5: this: exactly one of patch",
        ),
        (
            "pipelines/delay-risk.yaml",
            "idempotency: ledger",
            "idempotency: none",
            "yaml:43:5: idempotency: none is not",
        ),
        (
            "pipelines/inspection-priority.yaml",
            "idempotency: natural",
            "idempotency: key",
            "yaml:36:5: idempotency: key",
        ),
        (
            "pipelines/inspection-priority.yaml",
            "idempotency: natural",
            "idempotency: natural\n    undo: true",
            "37:5: undo",
        ),
        ("systems/flightops.yaml", "timezone:", "ledger: {keep: 7d}\ntimezone:", "yaml:6:10: keep: more than 7d"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(folder: Path, file: str, old: str, new: str, said: str) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    done = lint(folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{path.name}:" in done.stderr
    if said != "3:":
        assert said in done.stderr


FLIGHTS, AIRCRAFT = "pipelines/delay-risk.yaml", "pipelines/inspection-priority.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (FLIGHTS, "only: dep_time", "only: delay_risk", ":40:11: flightops/flights.delay_risk is used by 'delay-risk'"),
        (FLIGHTS, "{path: carrier}", "{path: after.delay_band}", "a feedback loop (delay-risk -> delay-risk)"),
        (FLIGHTS, "set: {delay_risk: answer.risk,", "set: {origin: answer.band,", "flightops/flights.origin is used"),
        (FLIGHTS, "    carrier:    {", "    carier:    {", "did you mean 'carrier'?"),
        (FLIGHTS, "    precip:     {path: weather.precip, missing: impute}\n", "", "the model needs 'precip'"),
        (FLIGHTS, "[low, medium, high]", "[low, medium, hihg]", "did you mean 'high'?"),
        (FLIGHTS, "delay-risk@champion", "delay-risk@2.0.0", "2.0.0"),
        (FLIGHTS, "{path: carrier}", "{path: 'carrier['}", "not a path: 'carrier['"),
        (FLIGHTS, "freshness: 2m", "freshness: 100ms", ":4:1: shorter than source.every"),
        (FLIGHTS, "weather: {pipeline: station-weather", "hour_utc: {pipeline: station-weather", "a derived field"),
        (FLIGHTS, "weather: {pipeline: station-weather", "answer: {pipeline: station-weather", "is reserved"),
        (FLIGHTS, "weather: {pipeline: station-weather", "weather: {pipeline: delay-risk", "cannot look itself up"),
        (AIRCRAFT, "operation: listAircraft\n", "operation: listAircrafts\n", "did you mean 'listAircraft'?"),
        (AIRCRAFT, "set: {priority:", "set: {priorty:", "priorty"),
        ("systems/registry.yaml", "courtesy:", "timeouts: {total: 60s}\ncourtesy:", "must end within a drain"),
    ],
)
def test_what_does_not_fit_together_is_told_with_its_place(
    folder: Path, file: str, old: str, new: str, said: str
) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    done = lint(folder)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    assert f"{path.name}:" in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("kind", ["receipts", "dead", "review"])
def test_production_keeps_what_became_of_each_record_for_half_a_year(folder: Path, kind: str) -> None:
    path = folder / "crossdock.yaml"
    path.write_text(f"{path.read_text()}retention: {{changes: 1d, {kind}: 183d}}\n")
    assert lint(folder).returncode == 0
    path.write_text(path.read_text().replace("environment: development", "environment: production"))
    done = lint(folder)
    line = path.read_text().splitlines().index(f"retention: {{changes: 1d, {kind}: 183d}}") + 1
    assert done.returncode == 2
    assert f"crossdock.yaml:{line}:26: {kind}: " in done.stderr
    assert "at least 184d" in done.stderr


def test_a_field_that_two_pipelines_write_is_an_error_at_the_second(folder: Path) -> None:
    text = (folder / FLIGHTS).read_text().replace("name: delay-risk", "name: second-opinion")
    (folder / "pipelines" / "second-opinion.yaml").write_text(text)
    done = lint(folder)
    assert done.returncode == 2
    assert "second-opinion.yaml:40:11:" in done.stderr
    assert "flightops/flights.delay_risk is already written by the pipeline 'delay-risk'" in done.stderr


def test_all_problems_are_told_at_once(folder: Path) -> None:
    path = folder / FLIGHTS
    path.write_text(
        path.read_text().replace("freshness: 2m", "freshness: 100ms").replace("only: dep_time", "only: delay_risk")
    )
    assert len(lint(folder).stderr.strip().splitlines()) == 2


def test_help_imports_no_heavy_library() -> None:
    heavy = ["faust", "zeep", "sqlalchemy", "onnxruntime", "aiokafka", "kafka", "httpx"]
    code = (
        "import sys\nfrom typer.testing import CliRunner\nimport crossdock.cli as c\n"
        "r = CliRunner().invoke(c.app, ['--help'])\nassert r.exit_code == 0, r.output\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr
