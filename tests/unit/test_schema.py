"""The JSON schemas of the files are those of the classes that read them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CONFIG = Path(__file__).parents[2] / "config"
NAMES = ["hub.schema.json", "pipeline.schema.json", "system.schema.json"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make schema` writes, in a process where no test has added a connector of its own."""
    folder = tmp_path_factory.mktemp("schema")
    subprocess.run([sys.executable, "-m", "crossdock.configuration.schema", str(folder)], check=True, timeout=60)
    return folder


def test_the_committed_schemas_are_current(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == NAMES
    for name in NAMES:
        assert (CONFIG / "schema" / name).read_text() == (written / name).read_text(), "run: make schema"


def test_each_kind_of_system_has_its_blocks() -> None:
    system = json.loads((CONFIG / "schema" / "system.schema.json").read_text())
    pipeline = json.loads((CONFIG / "schema" / "pipeline.schema.json").read_text())
    assert len(system["anyOf"]) == len(pipeline["properties"]["source"]["anyOf"]) == 3


def test_what_people_write_as_a_duration_fits_the_pattern_of_the_schema() -> None:
    freshness = json.loads((CONFIG / "schema" / "pipeline.schema.json").read_text())["properties"]["freshness"]
    shipped = [yaml.safe_load(path.read_text())["freshness"] for path in (CONFIG / "pipelines").glob("*.yaml")]
    assert shipped
    assert all(re.fullmatch(freshness["pattern"], each) for each in shipped)
