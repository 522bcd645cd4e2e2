"""Through the whole hub: one record that a system refuses ends as the design names it, and the others are applied."""

import base64
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hubs import Hub

from connectors.clock import SystemClock
from crossdock.demo import dataset, flightops
from crossdock.demo.stage import Stage
from schemas.outcome import Fate
from schemas.receipt import ReceiptRecord

COUNT = 30
PLANES = [row for _, row in zip(range(COUNT), dataset.planes(), strict=False)]
FAULTY = str(PLANES[11]["tailnum"])


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "stage", SystemClock(), registry=["--faulty", FAULTY])
    stage.start(lambda what, where: None)
    yield stage
    stage.stop()


@pytest.fixture
def hub(stage: Stage, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(stage, tmp_path / "config")
    yield hub
    hub.stop()


def fates(found: dict[Any, list[ReceiptRecord]]) -> Counter[Fate]:
    return Counter(receipts[0].fate for receipts in found.values())


def load_reports(stage: Stage, rows: list[dict[str, Any]]) -> None:
    headers = {"Authorization": f"Bearer {stage.passwords['STATIONS_TOKEN']}", "Content-Type": "application/json"}
    stage.load("stations", "/api/reports", json.dumps(rows).encode(), headers)


def test_a_flight_that_the_database_refuses_is_one_dead_letter_and_the_others_are_applied(
    hub: Hub, stage: Stage
) -> None:
    """I7: its original bytes, the database's own code, and nothing that would be gone tomorrow."""
    hub.flights_alone()
    engine = flightops.connect(stage.flightops_url)
    rows = [{**row, "id": number} for number, row in zip(range(1, COUNT + 1), dataset.flights(), strict=False)]
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE flights ADD CHECK (id <> 7 OR delay_risk IS NULL)"))
        flightops.insert_flights(connection, rows)
    hub.start()
    found = hub.receipts("delay-risk", COUNT)
    assert fates(found) == {Fate.APPLIED: COUNT - 1, Fate.DEAD: 1}
    (letter,) = hub.letters("delay-risk")
    assert (letter.stage, letter.code, json.loads(letter.key or b"")) == ("put", "23514", {"id": 7})
    assert json.loads(letter.value or b"")["after"]["id"] == 7
    effects = list(flightops.effects(engine))
    engine.dispose()
    assert sorted(number for number, _, _ in effects) == [n for n in range(1, COUNT + 1) if n != 7]


def test_an_aircraft_whose_update_faults_is_one_dead_letter_and_the_others_are_applied(hub: Hub, stage: Stage) -> None:
    """A Client fault refuses the whole call: the batch is bisected until the aircraft stands alone."""
    hub.only("inspection-priority")
    credentials = base64.b64encode(f"crossdock:{stage.passwords['REGISTRY_PASSWORD']}".encode()).decode()
    body = "\n".join(json.dumps(row) for row in PLANES).encode()
    stage.load("registry", "/load", body, {"Authorization": f"Basic {credentials}"})
    hub.start()
    found = hub.receipts("inspection-priority", COUNT)
    assert fates(found) == {Fate.APPLIED: COUNT - 1, Fate.DEAD: 1}
    (letter,) = hub.letters("inspection-priority")
    assert letter.stage == "put"
    assert f"{FAULTY} cannot be inspected" in letter.reason
    assert found[FAULTY][0].fate is Fate.DEAD


@pytest.mark.parametrize(
    ("if_changed", "fate"),
    [
        ("newer_comes", Fate.SUPERSEDED),
        ("reread", Fate.APPLIED),
        ("overwrite", Fate.APPLIED),
        ("dead", Fate.DEAD),
    ],
)
def test_a_report_that_moved_since_it_was_read_ends_as_if_changed_says(
    hub: Hub, stage: Stage, if_changed: str, fate: Fate
) -> None:
    """The stations answer 412: the ETag that one report was read with is not its ETag any more."""
    hub.only("station-weather")
    load_reports(stage, [row for _, row in zip(range(COUNT), dataset.weather(), strict=False)])
    one = first_report(stage)
    hub.change(
        "station-weather",
        "model:\n",
        f"derive:\n  stale: {{map: id, to: {{{one}: '\"moved\"'}}}}\n  tag: {{coalesce: [stale, etag]}}\nmodel:\n",
    )
    hub.change("station-weather", "if_match: etag ", "if_match: tag ")
    hub.change("station-weather", "if_changed: newer_comes", f"if_changed: {if_changed}")
    hub.start()
    found = hub.receipts("station-weather", COUNT)
    expected = Counter({Fate.APPLIED: COUNT})
    if fate is not Fate.APPLIED:
        expected = Counter({Fate.APPLIED: COUNT - 1, fate: 1})
    assert fates(found) == expected
    assert found[one][0].fate is fate
    assert [letter.code for letter in hub.letters("station-weather")] == (["412"] if fate is Fate.DEAD else [])


@pytest.mark.parametrize(
    ("pipeline", "old", "new", "said"),
    [
        ("delay-risk", "set: {delay_risk:", "set: {delay_rsk:", ":40:11: unknown column 'delay_rsk'"),
        ("delay-risk", "  table: flights", "  table: flihgts", ":7:3: unknown table 'flihgts'"),
        ("delay-risk", "timestamp: updated_at", "timestamp: sched_dep", "repeats an hour each autumn"),
    ],
)
def test_a_name_that_the_system_does_not_know_ends_the_start_with_its_place(
    hub: Hub, stage: Stage, pipeline: str, old: str, new: str, said: str
) -> None:
    hub.change(pipeline, old, new)
    command = [sys.executable, "-m", "crossdock", "run", str(hub.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=stage.environ, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{pipeline}.yaml" in done.stderr
    assert said in done.stderr


def test_a_flight_waits_for_its_weather_and_without_one_the_model_stands_in_its_own_values(
    hub: Hub, stage: Stage
) -> None:
    """The report comes after the flight; another flight's hour has none."""
    hub.change("delay-risk", "missing: {wait: 1s,", "missing: {wait: 8s,")
    hub.change("delay-risk", "  unsure: {", "  # unsure: {")
    reports = [row for _, row in zip(range(40), dataset.weather(), strict=False)]
    known = {(row["origin"], row["time_hour"]) for row in reports}
    flights = list(dataset.flights())
    with_weather = next(row for row in flights if (row["origin"], row["time_hour"]) in known)
    without = next(row for row in flights if (row["origin"], row["time_hour"]) not in known)
    engine = flightops.connect(stage.flightops_url)
    with engine.begin() as connection:
        flightops.insert_flights(connection, [{**with_weather, "id": 1}, {**without, "id": 2}])
    engine.dispose()
    hub.start()
    hub.changes("delay-risk", 2)
    load_reports(stage, reports)
    found = hub.receipts("delay-risk", 2, each=2)  # the hub reads its two writes again, and finds nothing to change
    assert fates(found) == {Fate.APPLIED: 2}
    assert {receipts[1].fate for receipts in found.values()} <= {Fate.UNCHANGED, Fate.FILTERED}  # or known as an echo
    events = {event.key["id"]: event for event in hub.enriched("delay-risk")}
    joined = events[1].lookups["weather"] or {}
    assert (joined["origin"], joined["time_hour"]) == (with_weather["origin"], with_weather["time_hour"])
    assert events[2].lookups["weather"] is None


def first_report(stage: Stage) -> str:
    """The id of the first report, as the stations name it."""
    request = urllib.request.Request(
        f"{stage.addresses.stations}/api/reports?modified_since=1970-01-01T00:00:00Z&limit=1",
        headers={"Authorization": f"Bearer {stage.passwords['STATIONS_TOKEN']}"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(json.load(answer)["items"][0]["id"])
