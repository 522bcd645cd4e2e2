"""Dead letters through the whole hub: a worker, a database that refuses, and the commands that people give."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import sqlalchemy as sa
from hubs import Hub
from typer.testing import CliRunner

from connectors.clock import SystemClock
from connectors.errors import ConfigError
from connectors.failpoints import VARIABLE
from crossdock.cli import app
from crossdock.demo import dataset, flightops
from crossdock.demo.stage import PREFIX, Stage
from crossdock.demo.verdict import topics_of
from schemas.codec import decode, encode
from schemas.dead_letter import DeadLetter
from schemas.event import cause_of
from schemas.outcome import Fate
from schemas.receipt import ReceiptRecord
from streams.admin import Admin
from streams.topics import HubTopics

PIPELINE = "delay-risk"
TOPICS = topics_of(PIPELINE)
_T = TypeVar("_T")


@dataclass
class Airline:
    """The flights' database and a worker on it; each test takes a flight of its own."""

    hub: Hub
    engine: sa.Engine
    admin: Admin

    def refuse(self, number: int) -> None:
        """From now on the database takes no risk for that flight."""
        self._execute(f"ALTER TABLE flights ADD CONSTRAINT no_{number} CHECK (id <> {number} OR delay_risk IS NULL)")

    def allow(self, number: int) -> None:
        self._execute(f"ALTER TABLE flights DROP CONSTRAINT no_{number}")

    def change(self, number: int, what: str) -> None:
        self._execute(f"UPDATE flights SET {what} WHERE id = {number}")

    def publish(self, number: int, **other: Any) -> None:
        with self.engine.begin() as connection:
            flightops.insert_flights(connection, [{**next(iter(dataset.flights())), "id": number, **other}])

    def effects(self, number: int) -> list[str]:
        """Causes of the writes that changed the flight, by the database's own log."""
        return [str(write).rpartition("/")[2] for of, _, write in flightops.effects(self.engine) if of == number]

    def row(self, number: int) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(sa.text(f"SELECT * FROM flights WHERE id = {number}")).one()

    def letters(self, number: int) -> list[dict[str, Any]]:
        """Those of one flight, as `dead list` tells of them."""
        found = dead("list", self.hub.folder)["letters"]
        return [each for each in found if f"/flights/{number}@" in (each["event"] or "")]

    def refused(self, number: int, count: int = 1) -> dict[str, Any]:
        """Its newest letter, once there are so many."""
        return until(lambda: found[-1] if len(found := self.letters(number)) >= count else None, self.hub)

    def letter(self, number: str) -> DeadLetter:
        record = self.admin.at(TOPICS.dead.name, int(number.rpartition("/")[2]))
        assert record is not None
        return decode(record.value, DeadLetter)

    def fates(self, number: int) -> list[tuple[str, Fate]]:
        """Causes and fates of a flight, in the order of their receipts."""
        found = [decode(each.value, ReceiptRecord) for each in self.admin.read(TOPICS.receipts.name)]
        return [((each.write_id or "").rpartition("/")[2], each.fate) for each in found if each.key == {"id": number}]

    def sent(self, number: int) -> list[tuple[str, Any]]:
        """Causes and values of a flight's events that were sent to be written."""
        key = encode({"id": number})
        records = [each for each in self.admin.read(TOPICS.enriched.name) if each.key == key]
        return [(cause_of(each.headers)[0], decode(each.value, dict[str, Any])) for each in records]

    def _execute(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement))


@pytest.fixture(scope="module")
def airline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airline]:
    folder = tmp_path_factory.mktemp("airline")
    stage = Stage(folder / "stage", SystemClock())
    hub = Hub(stage, folder / "config")
    hub.flights_alone()
    try:
        stage.start(lambda what, where: None)
        engine = flightops.connect(stage.flightops_url)
        hub.start()
        with pytest.MonkeyPatch.context() as patch, Admin(stage.broker.bootstrap) as admin:
            for name, value in stage.environ.items():
                patch.setenv(name, value)
            yield Airline(hub, engine, admin)
        engine.dispose()
    finally:
        hub.stop()
        stage.stop()


def dead(verb: str, *arguments: object) -> dict[str, Any]:
    """`crossdock dead VERB ... --json`."""
    done = CliRunner().invoke(app, ["dead", verb, *map(str, arguments), "--json"])
    if done.exception is not None:
        raise done.exception
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def until(look: Callable[[], _T | None], hub: Hub, seconds: float = 90) -> _T:
    """What it finds, once it finds something."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, hub.log.read_text()[-3000:]
        time.sleep(0.2)
    return found


def test_a_replay_before_the_cause_is_gone_makes_one_new_letter_and_afterwards_one_effect(airline: Airline) -> None:
    """I2, I7: and whoever asks again changes nothing."""
    airline.refuse(7)
    airline.publish(7)
    first = airline.refused(7)
    assert (first["stage"], first["code"], first["state"], first["cause"]) == ("put", "23514", "open", "live")
    asked = dead("replay", airline.hub.folder, "--id", first["id"], "--by", "ada", "--reason", "just a try")
    assert (asked["letters"], asked["workers"]) == ([first["id"]], 1)
    second = airline.refused(7, count=2)
    assert [(each["state"], each["cause"]) for each in airline.letters(7)] == [
        ("replayed (1)", "live"),
        ("open", "replay:1"),
    ]
    assert not airline.effects(7)
    original, again = airline.letter(first["id"]).value or b"", airline.letter(second["id"]).value or b""
    before, after = (decode(each, dict[str, msgspec.Raw]) for each in (original, again))
    assert [name for name in before if bytes(before[name]) != bytes(after[name])] == ["version"]

    airline.allow(7)
    dead("replay", airline.hub.folder, "--group", second["fingerprint"], "--pipeline", PIPELINE)
    until(lambda: airline.effects(7), airline.hub)
    for letter in (first, second):
        assert dead("replay", airline.hub.folder, "--id", letter["id"])["letters"] == []
    assert [each["state"] for each in airline.letters(7)] == ["replayed (1)", "replayed (2)"]
    assert airline.effects(7) == ["replay:2"]
    assert airline.fates(7)[:3] == [("live", Fate.DEAD), ("replay:1", Fate.DEAD), ("replay:2", Fate.APPLIED)]

    (told,) = dead("show", first["id"], airline.hub.folder)["audit"]
    assert (told["verb"], told["by"], told["reason"], told["became"]) == ("replay", "ada", "just a try", "replay:1")
    assert first["at"] < told["asked"] < told["done"]


@pytest.mark.parametrize(
    ("number", "place", "sent"),
    [(13, "replay_before_commit", []), (15, "replay_after_commit", ["replay:1"])],
)
def test_a_worker_that_is_killed_amid_a_replay_leaves_one_event_and_one_effect(
    airline: Airline, number: int, place: str, sent: list[str]
) -> None:
    """I2: event and mark are there both or neither; whoever takes over does what has no mark, and nothing else."""
    airline.refuse(number)
    airline.publish(number)
    out_of_the_overlap = time.monotonic() + 1.5  # a source that starts anew reads its last second again
    letter = airline.refused(number)
    until(lambda: time.monotonic() > out_of_the_overlap, airline.hub)
    settle_another(airline, number + 500)
    airline.allow(number)
    airline.hub.stop()
    environ = {**airline.hub.stage.environ, VARIABLE: f"{place}:1:kill"}
    command = [sys.executable, "-m", "crossdock", "run", str(airline.hub.folder), "--no-supervise"]
    try:
        with airline.hub.log.open("ab") as log, subprocess.Popen(command, env=environ, stderr=log) as dying:
            dead("replay", airline.hub.folder, "--id", letter["id"])
            assert dying.wait(120) == -signal.SIGKILL
    except BaseException:
        airline.hub.start()  # the others of this module share it
        raise
    assert replays(airline, number) == sent
    assert airline.letters(number)[0]["state"] == ("replayed (1)" if sent else "open")
    airline.hub.start()
    until(lambda: airline.effects(number), airline.hub)
    settle_another(airline, number + 1000)
    assert airline.letters(number)[0]["state"] == "replayed (1)"
    assert replays(airline, number) == ["replay:1"]
    assert airline.effects(number) == ["replay:1"]


def replays(airline: Airline, number: int) -> list[str]:
    return [cause for cause, _ in airline.sent(number) if cause != "live"]


def settle_another(airline: Airline, number: int) -> None:
    """Once a later command is carried out, all before it are."""
    airline.publish(number, distance=9000)
    dead("discard", airline.hub.folder, "--id", airline.refused(number)["id"])
    until(lambda: airline.refused(number)["state"] == "discarded", airline.hub)


def test_a_newer_version_that_came_meanwhile_wins(airline: Airline) -> None:
    """I3: what is sent again is older than what stands there, and ends as superseded."""
    airline.refuse(9)
    airline.publish(9)
    letter = airline.refused(9)
    airline.allow(9)
    airline.change(9, "distance = 2500, carrier = 'HA'")  # which the model answers otherwise
    until(lambda: airline.effects(9), airline.hub)
    written = airline.row(9)
    dead("replay", airline.hub.folder, "--id", letter["id"])
    until(lambda: ("replay:1", Fate.SUPERSEDED) in airline.fates(9), airline.hub)
    assert airline.effects(9) == ["live"]
    assert airline.row(9) == written


def test_an_edit_sends_the_corrected_record_and_keeps_the_original(airline: Airline, tmp_path: Path) -> None:
    airline.publish(11, distance=9000)
    airline.publish(12, distance=9001)
    one, other = airline.refused(11), airline.refused(12)
    assert (one["stage"], one["fingerprint"]) == ("guard-in", other["fingerprint"])
    original = airline.letter(one["id"])
    assert original.model == "delay-risk@1.0.0"
    edit = ("edit", one["id"], airline.hub.folder, "--set", "after.distance=900")
    assert dead(*edit, "--dry-run")["after"]["distance"] == 900
    dead(*edit, "--by", "ada", "--reason", "typo")
    file = tmp_path / "after.json"
    file.write_text(
        json.dumps({**decode(airline.letter(other["id"]).value or b"", dict[str, Any])["after"], "distance": 901})
    )
    dead("edit", other["id"], airline.hub.folder, "--value", file)
    for number, distance in ((11, 900), (12, 901)):
        until(lambda number=number: airline.effects(number), airline.hub)
        assert airline.effects(number) == ["edit:1"]
        cause, value = airline.sent(number)[0]
        assert (cause, value["after"]["distance"]) == ("edit:1", distance)
        assert value["version"].endswith(".0001")
        assert airline.row(number).delay_risk is not None
        assert airline.letters(number)[0]["state"] == "edited"  # its next version, after our write, is refused anew
    assert airline.letter(one["id"]) == original


def test_a_discarded_letter_has_that_fate_and_is_not_sent_any_more(airline: Airline) -> None:
    airline.publish(14, distance=9000)
    letter = airline.refused(14)
    dead("discard", airline.hub.folder, "--id", letter["id"], "--reason", "cancelled")
    until(lambda: airline.refused(14)["state"] == "discarded", airline.hub)
    assert airline.fates(14) == [("", Fate.DEAD), ("", Fate.DISCARDED)]
    found = dead("replay", airline.hub.folder, "--id", letter["id"])
    assert found["skipped"] == [{"id": letter["id"], "why": "already discarded"}]


def test_letters_are_chosen_and_grouped(airline: Airline) -> None:
    airline.refuse(21)
    airline.publish(21)
    for number, distance in ((22, 9000), (23, 7), (24, 12_345)):
        airline.publish(number, distance=distance)
    put, guard, other = airline.refused(21), airline.refused(22), airline.refused(24)
    mine = {put["id"], guard["id"], other["id"]}

    def chosen(*options: str) -> set[str]:
        return {each["id"] for each in dead("list", airline.hub.folder, *options)["letters"]} & mine

    assert chosen() == chosen("--pipeline", PIPELINE) == chosen("--since", "1h") == mine
    assert chosen("--stage", "put") == chosen("--code", "23514") == chosen("--group", put["fingerprint"]) == {put["id"]}
    assert chosen("--stage", "guard-in") == {guard["id"], other["id"]}
    assert chosen("--stage", "put", "--code", guard["code"]) == chosen("--since", "1ms") == set()
    assert chosen("--id", put["id"], "--id", guard["id"], "--stage", "put") == {put["id"]}
    groups = dead("groups", airline.hub.folder)["groups"]
    assert [each["count"] for each in groups] == sorted((each["count"] for each in groups), reverse=True)
    (group,) = [each for each in groups if each["fingerprint"] == guard["fingerprint"]]
    assert group["count"] >= group["open"] >= 2
    assert group["first_seen"] <= guard["at"] <= group["last_seen"]
    assert (group["stage"], group["pipelines"]) == ("guard-in", [PIPELINE])
    assert not airline.letters(23)
    airline.allow(21)


def test_a_dry_run_does_nothing(airline: Airline) -> None:
    airline.publish(31, distance=9000)
    letter = airline.refused(31)
    control = HubTopics.of(PREFIX).control.name
    before = [record.offset for record in airline.admin.read(control)]
    for verb in ("replay", "discard"):
        found = dead(verb, airline.hub.folder, "--id", letter["id"], "--dry-run")
        assert (found["letters"], found["dry_run"]) == ([letter["id"]], True)
    dead("edit", letter["id"], airline.hub.folder, "--set", "after.distance=5", "--dry-run")
    assert [record.offset for record in airline.admin.read(control)] == before
    assert airline.refused(31)["state"] == "open"


def test_a_letter_that_came_twice_is_shown_and_sent_once(airline: Airline) -> None:
    """I2: its batch came again after a crash, and was refused again."""
    airline.refuse(33)
    airline.publish(33)
    first = airline.refused(33)
    letter = airline.letter(first["id"])
    copy = msgspec.structs.replace(
        letter, first_seen="2100-01-01T00:00:00.000000Z", last_seen="2100-01-01T00:00:00.000000Z"
    )
    airline.admin.append(TOPICS.dead.name, [(letter.key or b"", encode(copy))])
    (row,) = airline.letters(33)
    assert (row["times"], row["first_seen"], row["last_seen"]) == (2, letter.first_seen, copy.last_seen)
    assert row["id"] != first["id"]
    airline.allow(33)
    dead("replay", airline.hub.folder, "--id", first["id"])
    until(lambda: airline.effects(33), airline.hub)
    assert [each["state"] for each in airline.letters(33)] == ["replayed (1)"]
    assert dead("replay", airline.hub.folder, "--id", row["id"])["letters"] == []
    assert airline.effects(33) == ["replay:1"]


def too_large(airline: Airline) -> str:
    """The id of a letter about a row that Kafka would not take."""
    letter = DeadLetter(
        event_id="flightops/flights/99@1~0",
        pipeline=PIPELINE,
        stage="produce",
        code="too_large",
        reason="2000000 bytes",
        fingerprint="0",
        topic=TOPICS.changes.name,
        partition=-1,
        offset=-1,
        key=b'{"id":99}',
        value=None,
        first_seen="2026-01-01T00:00:00.000000Z",
        last_seen="2026-01-01T00:00:00.000000Z",
    )
    airline.admin.append(TOPICS.dead.name, [(b"", encode(letter))])
    return str(airline.refused(99)["id"])


def test_what_cannot_be_done_is_one_clear_line(airline: Airline) -> None:
    folder, large = airline.hub.folder, too_large(airline)
    airline.publish(41, distance=9000)
    letter = airline.refused(41)["id"]
    for arguments, said in (
        (("replay", folder, "--id", large), f"{large} cannot be replayed: its row was too large for Kafka"),
        (("edit", large, folder, "--set", "after.id=1"), "its bytes are no event"),
        (("replay", folder), "say which letters to replay: --id, --pipeline, --group, --stage, --code or --since"),
        (("discard", folder, "--pipeline", "nonsense"), f"no pipeline 'nonsense'; known: {PIPELINE}"),
        (("show", f"{PIPELINE}/999999", folder), f"no dead letter '{PIPELINE}/999999'; `crossdock dead list` shows"),
        (("show", "nonsense", folder), "no dead letter 'nonsense'"),
        (("list", folder, "--since", "yesterday"), "--since 'yesterday': a number and a unit are needed"),
        (("edit", letter, folder), "say what to change: --value FILE"),
        (("edit", letter, folder, "--set", "distance=5"), "after.FIELD=JSON is needed"),
        (("edit", letter, folder, "--set", "after.distance=JFK"), "'JFK' is no JSON"),
        (("edit", letter, folder, "--set", "after.distanse=5"), "updated_at; did you mean 'distance'?"),
        (("edit", letter, folder, "--value", folder / "nothing.json"), "nothing.json: No such file or directory"),
        (("edit", letter, folder, "--value", folder / "crossdock.yaml"), "a JSON object is needed"),
    ):
        with pytest.raises(ConfigError) as raised:
            dead(*arguments)  # type: ignore[arg-type]
        assert said in str(raised.value)
        assert "\n" not in str(raised.value)
    skipped = dead("replay", folder, "--stage", "produce", "--dry-run")["skipped"]
    assert [each["id"] for each in skipped] == [large]
    command = [sys.executable, "-m", "crossdock", "dead", "replay", str(folder), "--id", large]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_people_read_what_programs_read(airline: Airline) -> None:
    """Without --json: a line for each letter, group and act, and none of a record's own control characters."""
    airline.publish(51, distance=9000, tailnum="\x1b[2J")
    letter = airline.refused(51)["id"]

    def told(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["dead", *map(str, arguments)])
        assert done.exit_code == 0, done.exception
        return done.stdout

    folder = airline.hub.folder
    assert f"{letter}  " in told("list", folder)
    assert "guard-in range" in told("groups", folder, "--stage", "guard-in")
    assert "1 letters; nothing was done" in told("replay", folder, "--id", letter, "--dry-run")
    assert "is asked for" in told("discard", folder, "--id", letter, "--by", "ada", "--reason", "no \x1b[2J flight")
    until(lambda: "discard by ada: done" in told("show", letter, folder), airline.hub)
    assert "\x1b" not in told("show", letter, folder)
    assert f"not {letter}: already discarded" in told("replay", folder, "--id", letter)
