"""Wrong files: one clear line each, with its place, exit code 2 and no traceback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "config"
SECRETS = {"REGISTRY_PASSWORD": "x", "STATIONS_TOKEN": "y"}


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


def test_help_imports_no_heavy_library() -> None:
    heavy = ["faust", "zeep", "sqlalchemy", "onnxruntime", "aiokafka", "kafka", "httpx"]
    code = (
        "import sys\nfrom typer.testing import CliRunner\nimport crossdock.cli as c\n"
        "r = CliRunner().invoke(c.app, ['--help'])\nassert r.exit_code == 0, r.output\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr
