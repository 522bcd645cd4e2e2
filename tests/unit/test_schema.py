"""The JSON schemas of the files are those of the classes that read them."""

import re
from pathlib import Path

import pytest
import yaml

from connectors.registry import known
from crossdock.configuration.schema import schemas, text_of

CONFIG = Path(__file__).parents[2] / "config"


@pytest.mark.parametrize("name", ["hub.schema.json", "system.schema.json", "pipeline.schema.json"])
def test_the_committed_schema_is_current(name: str) -> None:
    """`make schema` writes it anew."""
    assert (CONFIG / "schema" / name).read_text() == text_of(schemas()[name])


def test_every_connector_that_is_installed_has_its_blocks() -> None:
    made = schemas()
    assert len(made["system.schema.json"]["anyOf"]) == len(known())
    assert len(made["pipeline.schema.json"]["properties"]["source"]["anyOf"]) == len(known())


def test_what_people_write_as_a_duration_fits_the_pattern_of_the_schema() -> None:
    freshness = schemas()["pipeline.schema.json"]["properties"]["freshness"]
    shipped = [yaml.safe_load(path.read_text())["freshness"] for path in (CONFIG / "pipelines").glob("*.yaml")]
    assert shipped
    assert all(re.fullmatch(freshness["pattern"], each) for each in shipped)
