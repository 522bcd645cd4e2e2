"""Through the whole hub, while logins are refused, records are refused and systems are away: what it tells of them."""

import base64
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import sqlalchemy as sa
from hubs import Hub

from connectors.clock import SystemClock
from crossdock.demo import dataset, flightops
from crossdock.demo.stage import Stage
from crossdock.demo.verdict import topics_of
from crossdock.ports import free_port
from crossdock.status import status
from streams.admin import Admin
from streams.topics import HubTopics

COUNT = 40
CANARY = "N-CANARY"
PLANES = [row for _, row in zip(range(COUNT), dataset.planes(), strict=False)]
FAULTY = str(PLANES[11]["tailnum"])
WRONG = "a-wrong-one-canary"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "stage", SystemClock(), registry=["--faulty", FAULTY])
    stage.start(lambda what, where: None)
    yield stage
    stage.stop()


@pytest.fixture
def hub(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name, value in stage.environ.items():
        monkeypatch.setenv(name, value)
    hub = Hub(stage, tmp_path / "config")
    yield hub
    hub.stop()


def state_is(hub: Hub, word: str) -> bool:
    return any(each["state"] == word for each in status(hub.folder)["systems"])


def told(hub: Hub, metrics: int) -> Mapping[str, str]:
    """All that the hub shows to somebody who may not see records: by where it is shown."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
        found = {"log": hub.log.read_text(), "metrics": answer.read().decode()}
    for words in (["status"], ["lint"], ["dead", "list"], ["dead", "groups"], ["held", "list"], ["doubt", "list"]):
        arguments = [sys.executable, "-m", "crossdock", *words, str(hub.folder)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=hub.stage.environ, check=False)
        assert done.returncode in (0, 1), (words, done.stderr)
        found[" ".join(words)] = done.stdout + done.stderr
    with Admin(hub.stage.broker.bootstrap) as admin:
        of_hub, pipelines = HubTopics.of("hub"), ("delay-risk", "inspection-priority", "station-weather")
        for topic in (of_hub.control, of_hub.offsets, *(topics_of(name).receipts for name in pipelines)):
            records = admin.read(topic.name)
            found[topic.name] = "\n".join(f"{each.key!r} {each.value!r} {each.headers}" for each in records)
        for name in pipelines:
            letters = list(admin.read(topics_of(name).dead.name))
            found[f"dead letters of {name}"] = "\n".join(str(each.headers) for each in letters)
    return found


def test_no_secret_and_nothing_of_a_record_is_told_while_everything_goes_wrong(
    hub: Hub, stage: Stage, tmp_path: Path
) -> None:
    """I9: in logs, metrics, answers, receipts, and the headers and reasons of dead letters."""
    metrics = free_port()
    hub_file = hub.folder / "crossdock.yaml"
    hub_file.write_text(f"{hub_file.read_text()}metrics: {{port: {metrics}}}\n")
    secret = tmp_path / "secret"
    secret.write_text(WRONG)
    system = hub.folder / "systems" / "flightops.yaml"
    system.write_text(system.read_text().replace("${env:FLIGHTOPS_PASSWORD}", f"${{file:{secret}}}"))

    engine = flightops.connect(stage.flightops_url)
    rows = [{**row, "id": number} for number, row in zip(range(1, COUNT + 1), dataset.flights(), strict=False)]
    rows[6]["tailnum"] = CANARY
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE flights ADD CHECK (id <> 7 OR delay_risk IS NULL)"))
        flightops.insert_flights(connection, rows)
    login = base64.b64encode(f"crossdock:{stage.passwords['REGISTRY_PASSWORD']}".encode()).decode()
    stage.load(
        "registry", "/load", "\n".join(json.dumps(row) for row in PLANES).encode(), {"Authorization": f"Basic {login}"}
    )

    hub.start()
    hub.until(lambda: state_is(hub, "credentials"))
    secret.write_text(stage.passwords["FLIGHTOPS_PASSWORD"])
    hub.until(lambda: hub.letters("delay-risk") and hub.letters("inspection-priority"))
    engine.dispose()
    stage.postgres.stop()
    hub.until(lambda: state_is(hub, "breaker_open") or "task.waits" in hub.log.read_text())

    everything = told(hub, metrics)
    assert len(everything["log"]) > 1000
    assert "crossdock_" in everything["metrics"]
    for what in (*stage.passwords.values(), login, WRONG, CANARY):
        assert [where for where, text in everything.items() if what in text] == []
    (letter,) = hub.letters("delay-risk")
    assert CANARY.encode() in (letter.value or b"")
    assert CANARY not in letter.reason
