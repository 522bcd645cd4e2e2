"""Offsets of REST and SOAP sources that a person moves: a time becomes one, and numbers of our own go on."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors.clock import SystemClock
from connectors.contract import Numbering, Rewindable, SourceTask
from connectors.errors import ConfigError
from connectors.rest.config import RestSourceConfig, RestSystemConfig
from connectors.soap.config import SoapSourceConfig, SoapSystemConfig
from schemas.version import Version

CONFIG = Path(__file__).parents[2] / "config"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TIMES = {"path": "modified", "type": "datetime", "start": "1970-01-01T00:00:00Z"}


def rest(cursor: dict[str, Any] | None) -> SourceTask:
    system = RestSystemConfig.model_validate({"name": "stations", "type": "rest", "base_url": "http://127.0.0.1:9"})
    source = {"system": "stations", "path": "/reports", "key": ["id"], "cursor": cursor}
    return (
        system.build(SystemClock())
        .source(RestSourceConfig.model_validate(source), written=frozenset())
        .task("stations.reports")
    )


@pytest.fixture
def soap(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**changed: Any) -> SourceTask:
        system = yaml.safe_load((CONFIG / "systems" / "registry.yaml").read_text())
        source = yaml.safe_load((CONFIG / "pipelines" / "inspection-priority.yaml").read_text())["source"]
        config = SoapSystemConfig.model_validate(system, context={"folder": CONFIG / "systems"})
        made = config.build(SystemClock()).source(
            SoapSourceConfig.model_validate({**source, **changed}), written=frozenset()
        )
        return made.task("registry.listAircraft")

    monkeypatch.setenv("REGISTRY_PASSWORD", "x")
    return make


def test_a_time_is_an_offset_where_the_cursor_is_a_time(soap: Any) -> None:
    found = rest(TIMES)
    assert isinstance(found, Rewindable)
    assert found.offset_at(NOON) == {"v": 1, "cursor": "2026-01-01T12:00:00.000000Z"}
    listing = soap()
    assert isinstance(listing, Rewindable)
    offset = listing.offset_at(NOON)
    assert offset == {"v": 1, "cursor": "2026-01-01T12:00:00.000000Z", "boundary": []}
    listing.open(offset)


def test_a_time_is_refused_where_the_cursor_is_none(soap: Any) -> None:
    for task in (rest({"path": "id", "type": "number"}), soap(cursor={"path": "id", "type": "integer", "start": "0"})):
        assert isinstance(task, Rewindable)
        with pytest.raises(ConfigError, match="no time"):
            task.offset_at(NOON)
    snapshot = soap(cursor=None, read="single", more=None, params={})
    assert not isinstance(snapshot, Rewindable)


def test_numbers_of_our_own_go_on_after_a_move(soap: Any) -> None:
    """I1: a later change with a lower number would count as old at the target, and be lost."""
    highest = str(Version(1, 41))
    numbered = rest({"path": "name", "type": "text"})
    assert isinstance(numbered, Numbering)
    assert numbered.numbered(None, highest) == {"v": 1, "cursor": None, "seq": 41}
    assert numbered.numbered({"v": 1, "cursor": "m", "seq": 99}, highest) == {"v": 1, "cursor": "m", "seq": 99}
    assert numbered.numbered(None, None) is None
    ordered = rest(TIMES)
    assert isinstance(ordered, Numbering)
    assert ordered.numbered(None, highest) is None
    snapshot = soap(cursor=None, read="single", more=None, params={})
    assert isinstance(snapshot, Numbering)
    assert snapshot.numbered(None, str(Version(2, 41))) == {"v": 1, "sequence": 41}
