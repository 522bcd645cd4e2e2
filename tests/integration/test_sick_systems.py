"""Through the whole hub: a system that changed, refuses logins or holds one record; nothing of it is a dead letter."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hubs import Hub

from connectors.clock import SystemClock
from crossdock.demo import dataset, flightops
from crossdock.demo.stage import Stage
from crossdock.operator import decide, held
from crossdock.status import status
from schemas.control import Decision
from schemas.outcome import Fate

COUNT = 60
FLIGHTS = [{**row, "id": number} for number, row in zip(range(1, COUNT + 1), dataset.flights(), strict=False)]
WRITEBACK = "delay-risk/flightops"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "stage", SystemClock())
    stage.start(lambda what, where: None)
    yield stage
    stage.stop()


@pytest.fixture
def hub(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name, value in stage.environ.items():
        monkeypatch.setenv(name, value)
    hub = Hub(stage, tmp_path / "config")
    hub.flights_alone()
    yield hub
    hub.stop()


@pytest.fixture
def engine(stage: Stage) -> Iterator[sa.Engine]:
    engine = flightops.connect(stage.flightops_url)
    yield engine
    engine.dispose()


def publish_flights(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        flightops.insert_flights(connection, FLIGHTS)


def run(engine: sa.Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(statement))


def final_fates(hub: Hub, count: int) -> Counter[Fate]:
    """The last fate of the first version of each flight, once so many flights have one and none is parked."""

    def look() -> Counter[Fate]:
        found = hub.receipts("delay-risk", count, seconds=180)
        by_event = {each[0].event_id: each for each in found.values()}
        fates = Counter(
            [each for each in receipts if each.event_id == event][-1].fate for event, receipts in by_event.items()
        )
        return Counter() if fates[Fate.PARKED] else fates

    return Counter(hub.until(look))


def state_of(hub: Hub, word: str) -> Callable[[], str | None]:
    """Asks `crossdock status` until a worker says this of the flights' database; then gives the reason."""

    def look() -> str | None:
        systems = status(hub.folder)["systems"]
        return next((each["reason"] or "-" for each in systems if each["state"] == word), None)

    return look


def test_a_column_that_is_renamed_at_the_target_costs_time_and_no_record(
    hub: Hub, stage: Stage, engine: sa.Engine
) -> None:
    """I7: a target that changed is the system's fault; renamed back, everything is applied in order."""
    columns = "[id, carrier, origin, distance, sched_dep, dep_time, updated_at]"  # of the source: it goes on reading
    hub.change("delay-risk", "key: [id]\n", f"key: [id]\n  columns: {columns}\n")
    hub.start()
    hub.until(lambda: status(hub.folder)["workers"])
    run(engine, "ALTER TABLE flights RENAME COLUMN delay_band TO band")
    publish_flights(engine)
    assert "delay_band" in hub.until(state_of(hub, "breaker_open"))
    assert hub.letters("delay-risk") == []
    run(engine, "ALTER TABLE flights RENAME COLUMN band TO delay_band")
    assert final_fates(hub, COUNT) == {Fate.APPLIED: COUNT}
    assert hub.letters("delay-risk") == []


def test_a_target_that_refuses_every_record_is_held_and_asks_a_person(
    hub: Hub, stage: Stage, engine: sa.Engine
) -> None:
    """I2, I7: twenty in a row; held records go where the person decides, none twice."""
    run(engine, "ALTER TABLE flights ADD CONSTRAINT deployed CHECK (delay_risk IS NULL)")
    publish_flights(engine)
    hub.start()
    (waiting,) = hub.until(lambda: held(hub.folder))
    assert waiting["name"] == WRITEBACK
    assert "deployed" in waiting["reason"]
    assert len(hub.letters("delay-risk")) < 20
    assert "deployed" in hub.until(state_of(hub, "suspected"))
    run(engine, "ALTER TABLE flights DROP CONSTRAINT deployed")
    decide(hub.folder, WRITEBACK, Decision.RETRY, "a person")
    found = final_fates(hub, COUNT)
    assert found[Fate.APPLIED] == COUNT - found[Fate.DEAD]
    assert found[Fate.DEAD] == len(hub.letters("delay-risk")) < 20
    effects = Counter(number for number, _, _ in flightops.effects(engine))
    assert set(effects.values()) == {1}
    assert held(hub.folder) == []


def test_a_wrong_password_is_tried_three_times_at_most_and_a_right_one_within_seconds(
    hub: Hub, stage: Stage, engine: sa.Engine, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    path = hub.folder / "systems" / "flightops.yaml"
    path.write_text(path.read_text().replace("${env:FLIGHTOPS_PASSWORD}", f"${{file:{secret}}}"))
    publish_flights(engine)
    hub.start()
    hub.until(state_of(hub, "credentials"))
    settled = time.monotonic() + 10  # whoever wanted to try again has had the time
    hub.until(lambda: time.monotonic() > settled)
    refused = stage.postgres.log_file.read_text().count("password authentication failed")
    assert 1 <= refused <= 3
    secret.write_text(stage.passwords["FLIGHTOPS_PASSWORD"])
    assert final_fates(hub, COUNT) == {Fate.APPLIED: COUNT}
    assert hub.letters("delay-risk") == []


def test_a_row_that_a_person_holds_is_parked_and_the_others_are_applied(
    hub: Hub, stage: Stage, engine: sa.Engine
) -> None:
    """I3: it is written when it is free, and what came of it meanwhile waited behind it."""
    path = hub.folder / "systems" / "flightops.yaml"
    path.write_text(path.read_text() + "timeouts: {total: 3s, read: 2s, connect: 2s}\n")
    publish_flights(engine)
    with engine.connect() as person:
        person.execute(sa.text("SELECT 1 FROM flights WHERE id = 7 FOR UPDATE"))
        hub.start()
        found = hub.receipts("delay-risk", COUNT, seconds=180)
        assert found[7][0].fate is Fate.PARKED
        assert {receipts[0].fate for number, receipts in found.items() if number != 7} == {Fate.APPLIED}
        hub.until(lambda: any(each["parked"] for each in status(hub.folder)["systems"]))
        person.rollback()
    hub.until(lambda: any(each.fate is Fate.APPLIED for each in hub.receipts("delay-risk", COUNT)[7]))
    assert hub.letters("delay-risk") == []
