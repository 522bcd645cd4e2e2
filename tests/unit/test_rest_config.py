"""What may stand in the files of a REST system, and the one line that a mistake gets."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from connectors.registry import system_class
from connectors.rest.config import RestSourceConfig, RestSystemConfig, RestWritebackConfig

CONFIG = Path(__file__).parents[2] / "config"


def block(file: str) -> Any:
    return yaml.safe_load((CONFIG / file).read_text())


SYSTEM = {"name": "stations", "type": "rest", "base_url": "http://127.0.0.1:18082/api"}
SOURCE = {"system": "stations", "path": "/reports", "key": ["id"]}
WRITEBACK = {
    "system": "stations",
    "patch": "/r/{id}",
    "match": {"id": "key.id"},
    "set": {"a": "b"},
    "idempotency": "key",
}


def test_the_demos_files_are_read_as_they_stand() -> None:
    pipeline = block("pipelines/station-weather.yaml")
    system = RestSystemConfig.model_validate(block("systems/stations.yaml"))
    source = RestSourceConfig.model_validate(pipeline["source"])
    writeback = RestWritebackConfig.model_validate(pipeline["writeback"][0])
    assert system.auth.type == "bearer"
    assert (source.object, source.key, source.page) == ("reports", ("id",), 200)
    assert (writeback.object, writeback.method, writeback.expected_path) == ("reports", "PATCH", "etag")


def test_the_type_rest_is_found_by_its_name() -> None:
    assert system_class("rest") is RestSystemConfig


def test_reading_the_configuration_loads_no_http_library() -> None:
    code = (
        "import sys, connectors.rest.config; sys.exit(' '.join({'httpx', 'httpcore', 'jmespath'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"base_url": "stations.example"}, "an address has the form"),
        ({"base_url": "http://user:pw@h/api"}, "no user or password"),
        ({"base_url": "http://h/api?x=1"}, "without query"),
        ({"headers": {"Authorization": "Bearer abc"}}, "write it under `auth:`"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "pattern"),
        ({"auth": {"type": "bearer", "token": "abc"}}, "a secret stands in the file itself"),
        ({"auth": {"type": "kerberos"}}, "'none', 'basic', 'bearer', 'api_key'"),
        ({"max_response": "big"}, "a size needs a number and a unit"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_a_system_that_does_not_fit_is_told_why(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=r".") as refused:
        RestSystemConfig.model_validate({**SYSTEM, **changed})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"path": "reports"}, "pattern"),
        ({"params": {"since": "{now}"}}, "unknown placeholder {now}; known: {cursor}, {page}"),
        ({"params": {"since": "{cursor}"}}, "say `cursor:` with a `start:`"),
        ({"cursor": {"path": "modified", "start": "2013-01-01T00:00:00"}}, "a time needs a zone"),
        ({"cursor": {"path": "modified", "type": "number", "start": "1"}}, "is not a number"),
        ({"records": "items["}, "not a JMESPath"),
        ({"paging": {"type": "guess"}}, "'next_url'"),
        ({"responses": [{"action": "retry"}]}, "needs `status:`, `when:` or both"),
        ({"key": []}, "at least 1"),
    ],
)
def test_a_source_that_does_not_fit_is_told_why(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=r".") as refused:
        RestSourceConfig.model_validate({**SOURCE, **changed})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"put": "/r/{id}"}, "exactly one of patch, put, post is needed; given: patch, put"),
        ({"patch": None}, "given: none"),
        ({"patch": "/r/{code}"}, "{code} is not in `match:`; there: id"),
        ({"patch": "/r"}, "the path names no record"),
        ({"idempotency": "ledger"}, "ledger is for SQL"),
        ({"idempotency": "natural"}, "natural needs"),
        ({"idempotency_header": "Idempotency Key"}, "pattern"),
    ],
)
def test_a_write_back_that_does_not_fit_is_told_why(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=r".") as refused:
        RestWritebackConfig.model_validate({**WRITEBACK, **changed})
    assert said in str(refused.value)
