"""The REST connector against the demo's stations: a real server on a real socket."""

import json
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from connectors.clock import SystemClock
from connectors.contract import Checkable, Readable, SinkTask, SourceTask, System
from connectors.errors import CredentialsRefused, Throttled
from connectors.rest.config import RestSourceConfig, RestSystemConfig, RestWritebackConfig
from connectors.retry import Retrying
from crossdock.demo.stations import Quirks, StationsServer
from crossdock.demo.whims import Whims
from schemas.change import Change
from schemas.outcome import Outcome
from schemas.version import position_of_text
from schemas.write import Write

CLOCK = SystemClock()
TOKEN = "stations-token"

SOURCE = RestSourceConfig.model_validate(
    {
        "system": "stations",
        "path": "/reports",
        "params": {"modified_since": "{cursor}", "limit": "{page}"},
        "records": "items",
        "key": ["id"],
        "paging": {"type": "next_url", "path": "next"},
        "cursor": {"path": "modified", "type": "datetime", "start": "1970-01-01T00:00:00Z", "overlap": "2s"},
        "page": 10,
    }
)
WRITEBACK = {
    "system": "stations",
    "patch": "/reports/{id}",
    "match": {"id": "key.id"},
    "set": {"severity": "answer.severity", "note": "answer.note"},
    "if_match": "etag",
    "idempotency": "key",
}
WRITTEN = frozenset({"severity", "note"})


def soon(seconds: float = 30.0) -> float:
    return CLOCK.monotonic() + seconds


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StationsServer]]:
    monkeypatch.setenv("STATIONS_TOKEN", TOKEN)
    with ExitStack() as stack:

        def start(quirks: Quirks | None = None, folder: Path | None = None) -> StationsServer:
            server = StationsServer(folder or tmp_path, TOKEN, clock=CLOCK, quirks=quirks or Quirks())
            return stack.enter_context(server.running())

        yield start


@pytest.fixture
def speak(started: Callable[..., StationsServer]) -> Iterator[Callable[..., System]]:
    systems: list[System] = []

    def to(server: StationsServer, **more: Any) -> System:
        config = RestSystemConfig.model_validate(
            {
                "name": "stations",
                "type": "rest",
                "base_url": server.address,
                "auth": {"type": "bearer", "token": "${env:STATIONS_TOKEN}"},
                **more,
            }
        )
        systems.append(config.build(CLOCK))
        return systems[-1]

    yield to
    for system in systems:
        system.close()


def rows(count: int, origin: str = "EWR") -> list[dict[str, Any]]:
    return [
        {
            "origin": origin,
            "time_hour": f"2013-01-{i // 24 + 1:02d}T{i % 24:02d}:00:00Z",
            "temp": 39.02,
            "wind_gust": None,
        }
        for i in range(count)
    ]


def load(server: StationsServer, count: int, origin: str = "EWR") -> None:
    body = json.dumps(rows(count, origin)).encode()
    request = urllib.request.Request(f"{server.address}/reports", body, {"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10):
        return


def source_of(system: System, config: RestSourceConfig = SOURCE, offset: Any = None) -> SourceTask:
    source = system.source(config, written=WRITTEN)
    task = source.task(source.tasks()[0].name)
    task.open(offset)
    return task


def drained(task: SourceTask, limit: int = 1000) -> tuple[list[Change], Any]:
    changes: list[Change] = []
    offset = None
    while (batch := task.poll(limit, soon())) is not None:
        changes += batch.changes
        offset = batch.offset
    return changes, offset


def sink_of(system: System, **more: Any) -> SinkTask:
    sink = system.sink(RestWritebackConfig.model_validate({**WRITEBACK, **more}), prefix="hub")
    sink.open()
    return sink


def writes_for(changes: list[Change], severity: float = 0.3) -> list[Write]:
    return [
        Write(
            f"hub/station-weather/stations/{change.event_id}/live",
            {"id": change.key["id"]},
            {"severity": severity, "note": "calm"},
            change.version,
            (change.after or {})["etag"],
        )
        for change in changes
    ]


def effects(server: StationsServer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (server.folder / "effects.jsonl").read_text().splitlines()]


def outcomes(sink: SinkTask, writes: list[Write]) -> Counter[Outcome]:
    return Counter(receipt.outcome for receipt in sink.put(writes, soon()))


def test_each_report_is_read_once_and_a_second_look_finds_nothing(started: Any, speak: Any) -> None:
    """I1: every version of the source is a change."""
    server = started()
    load(server, 37)
    task = source_of(speak(server))
    changes, offset = drained(task)
    versions = [json.loads(line) for line in (server.folder / "versions.jsonl").read_text().splitlines()]
    assert [change.key["id"] for change in changes] == [line["id"] for line in versions]
    assert offset["cursor"] == versions[-1]["modified"]
    assert [change.version for change in changes] == sorted(change.version for change in changes)
    assert changes[0].after is not None
    assert changes[0].after["etag"] == versions[0]["etag"]
    assert task.poll(1000, soon()) is None


def test_the_hubs_own_writes_are_no_news_and_a_new_version_is(started: Any, speak: Any) -> None:
    server = started()
    load(server, 12)
    system = speak(server)
    task, sink = source_of(system), sink_of(system)
    changes, offset = drained(task)
    assert outcomes(sink, writes_for(changes)) == {Outcome.APPLIED: 12}
    assert task.poll(1000, soon()) is None
    again, _ = drained(source_of(system, offset=offset))
    assert {change.event_id for change in again} <= {change.event_id for change in changes}, "the overlap, same ids"
    load(server, 3)
    news, _ = drained(task)
    assert [change.key["id"] for change in news] == ["EWR-2013-01-01T00", "EWR-2013-01-01T01", "EWR-2013-01-01T02"]
    sink.close()


def test_a_restart_amid_the_listing_goes_on_at_the_stored_offset(started: Any, speak: Any) -> None:
    """I1, also where a page is larger than what may be handed out at once."""
    server = started()
    load(server, 50)
    system = speak(server)
    found: set[Any] = set()
    offset = None
    config = SOURCE.model_copy(update={"cursor": SOURCE.cursor.model_copy(update={"overlap": SOURCE.every * 0})})  # type: ignore[union-attr]
    for _ in range(100):
        task = source_of(system, config, offset)
        batch = task.poll(7, soon())
        if batch is None:
            break
        found |= {change.key["id"] for change in batch.changes}
        if batch.offset == offset and {change.key["id"] for change in batch.changes} <= found and len(found) == 50:
            break
        offset = batch.offset
    assert len(found) == 50


def test_reports_that_change_while_they_are_read_are_not_missed(started: Any, speak: Any) -> None:
    """I1: the newest version of every report is read, whatever moves behind the reader's back."""
    server = started()
    load(server, 60)
    task = source_of(speak(server))
    chance = random.Random(7)
    newest: dict[Any, str] = {}
    for _ in range(40):
        batch = task.poll(1000, soon())
        for change in batch.changes if batch else []:
            newest[change.key["id"]] = max(newest.get(change.key["id"], ""), change.version)
        load(server, chance.randrange(1, 4), chance.choice(["EWR", "JFK"]))
    changes, _ = drained(task)
    newest |= {change.key["id"]: change.version for change in changes}
    positions = {name: int(version.split(".")[1]) for name, version in newest.items()}
    lines = [json.loads(line) for line in (server.folder / "versions.jsonl").read_text().splitlines()]
    last = {line["id"]: line["modified"] for line in lines}
    assert positions == {name: position_of_text(modified) for name, modified in last.items()}


def test_a_412_for_one_report_leaves_the_rest_applied(started: Any, speak: Any) -> None:
    """One report moved on meanwhile (conflict), one already holds the values (unchanged), the others are written."""
    server = started()
    load(server, 10)
    system = speak(server)
    sink = sink_of(system)
    changes, _ = drained(source_of(system))
    writes = writes_for(changes)
    load(server, 1)  # another version of the first report
    other = [Write("hub/other", writes[1].key, writes[1].fields, writes[1].version, writes[1].expected)]
    assert outcomes(sink, other) == {Outcome.APPLIED: 1}

    receipts = sink.put(writes, soon())

    assert [receipt.outcome for receipt in receipts] == [Outcome.CONFLICT, Outcome.UNCHANGED] + [Outcome.APPLIED] * 8
    assert receipts[0].code == "412"
    assert isinstance(sink, Readable)
    present = sink.read([writes[0].key], soon())[0]
    assert present is not None
    assert receipts[0].target_version == present["@version"]
    sink.close()


def test_lost_replies_never_mean_a_second_effect(started: Any, speak: Any) -> None:
    """I2: 30 % of the writes are done and their answers lost; the same keys come again."""
    server = started(Quirks(whims=Whims(lost=0.3, seed=3)))
    load(server, 120)
    system = speak(server)
    sink = sink_of(system)
    changes, _ = drained(source_of(system))
    writes = writes_for(changes)
    receipts = Retrying(sink, CLOCK, base=0.01).put(writes, soon())
    assert {receipt.outcome for receipt in receipts} == {Outcome.APPLIED}
    assert max(receipt.attempts for receipt in receipts) > 1
    assert Counter(effect["write_id"] for effect in effects(server)) == {write.write_id: 1 for write in writes}
    sink.close()


def test_lost_replies_of_a_natural_write_are_found_by_reading(started: Any, speak: Any) -> None:
    """I2 without an idempotency key: the repeat meets a moved ETag and its own values."""
    server = started(Quirks(whims=Whims(lost=0.3, seed=4)))
    load(server, 60)
    system = speak(server)
    sink = sink_of(system, idempotency="natural")
    changes, _ = drained(source_of(system))
    receipts = Retrying(sink, CLOCK, base=0.01).put(writes_for(changes), soon())
    assert {receipt.outcome for receipt in receipts} == {Outcome.APPLIED, Outcome.UNCHANGED}
    assert Counter(effect["id"] for effect in effects(server)) == {change.key["id"]: 1 for change in changes}
    sink.close()


def test_a_lost_reply_of_class_none_is_in_doubt_and_exactly_those_are(started: Any, speak: Any) -> None:
    server = started(Quirks(whims=Whims(lost=0.3, seed=5)))
    load(server, 40)
    system = speak(server)
    sink = sink_of(system, idempotency="none")
    changes, _ = drained(source_of(system))
    receipts = Retrying(sink, CLOCK, base=0.01).put(writes_for(changes), soon())
    assert {receipt.outcome for receipt in receipts} == {Outcome.APPLIED, Outcome.UNKNOWN}
    assert len(effects(server)) == 40
    sink.close()


def test_no_call_comes_before_the_time_that_a_429_named(started: Any, speak: Any) -> None:
    """Reading and writing together: one pause for the whole system."""
    server = started(Quirks(busy_every=25))
    load(server, 60)
    system = speak(server, courtesy={"concurrency": 1})
    sink = sink_of(system)
    task = source_of(system, SOURCE.model_copy(update={"page": 30}))
    changes, _ = drained(task)
    began = CLOCK.monotonic()
    receipts = Retrying(sink, CLOCK).put(writes_for(changes), soon())
    assert {receipt.outcome for receipt in receipts} == {Outcome.APPLIED}
    assert CLOCK.monotonic() - began >= 2.0, "at least two pauses of a second"
    assert server.early == 0
    sink.close()


def test_a_busy_server_throttles_the_reader_too(started: Any, speak: Any) -> None:
    server = started(Quirks(busy_every=1))
    task = source_of(speak(server))
    with pytest.raises(Throttled) as throttled:
        task.poll(1000, soon())
    assert throttled.value.retry_after == 1.0


def test_a_refused_token_is_the_systems_trouble_and_no_records(
    started: Any, speak: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = started()
    load(server, 3)
    system = speak(server)
    changes, _ = drained(source_of(system))
    monkeypatch.setenv("STATIONS_TOKEN", "wrong")
    sink = sink_of(system)
    with pytest.raises(CredentialsRefused) as refused:
        sink.put(writes_for(changes), soon())
    assert "wrong" not in str(refused.value) + refused.value.detail
    with pytest.raises(CredentialsRefused):
        source_of(system).poll(10, soon())
    for part in (sink, system.source(SOURCE, written=WRITTEN)):
        assert isinstance(part, Checkable)
        with pytest.raises(CredentialsRefused):  # the hub's health task tries a secret through `check` alone
            part.check()
    sink.close()


def test_one_station_in_service_costs_only_its_own_records(started: Any, speak: Any) -> None:
    server = started(Quirks(unavailable={"EWR-2013-01-01T04"}))
    load(server, 8)
    system = speak(server)
    sink = sink_of(system)
    changes, _ = drained(source_of(system))
    receipts = Retrying(sink, CLOCK, base=0.01).put(writes_for(changes), soon(0.5))
    sick = [
        change.key["id"] for change, receipt in zip(changes, receipts, strict=True) if receipt.outcome is Outcome.RETRY
    ]
    assert sick == ["EWR-2013-01-01T04"]
    assert len(effects(server)) == 7
    sink.close()


def test_an_unknown_report_and_a_refused_value_are_rejected_alone(started: Any, speak: Any) -> None:
    server = started()
    load(server, 3)
    system = speak(server)
    sink = sink_of(system)
    changes, _ = drained(source_of(system))
    first, second, third = writes_for(changes)
    gone = Write("hub/gone", {"id": "EWR/../JFK?x=1#y"}, first.fields, first.version, first.expected)
    strange = Write("hub/strange", second.key, {"colour": "red"}, second.version, second.expected)
    nowhere = Write("hub/nowhere", {"id": ".."}, first.fields, first.version, first.expected)
    receipts = sink.put([first, gone, strange, third, nowhere], soon())
    assert [(receipt.outcome, receipt.code) for receipt in receipts] == [
        (Outcome.APPLIED, None),
        (Outcome.REJECTED, "404"),
        (Outcome.REJECTED, "422"),
        (Outcome.APPLIED, None),
        (Outcome.REJECTED, "key"),
    ]
    assert receipts[2].reason is not None
    assert "severity and note" in receipts[2].reason
    sink.close()


def test_one_key_never_stands_for_two_bodies(started: Any, speak: Any) -> None:
    server = started()
    load(server, 1)
    system = speak(server)
    sink = sink_of(system)
    changes, _ = drained(source_of(system))
    assert outcomes(sink, writes_for(changes, 0.3)) == {Outcome.APPLIED: 1}
    assert outcomes(sink, writes_for(changes, 0.3)) == {Outcome.APPLIED: 1}, "the stored answer"
    assert outcomes(sink, writes_for(changes, 0.4)) == {Outcome.REJECTED: 1}
    assert len(effects(server)) == 1
    sink.close()


def test_an_etag_with_a_compressors_suffix_still_matches(started: Any, speak: Any) -> None:
    server = started(Quirks(etag_suffix="-gzip"))
    load(server, 2)
    system = speak(server)
    sink = sink_of(system)
    changes, _ = drained(source_of(system))
    assert isinstance(sink, Readable)
    found = [record for record in sink.read([change.key for change in changes], soon()) if record is not None]
    assert all(record["@version"].endswith('-gzip"') for record in found)
    as_read = [
        Write(f"hub/{i}", {"id": record["id"]}, {"severity": 0.1, "note": "calm"}, "", record["@version"])
        for i, record in enumerate(found)
    ]
    assert outcomes(sink, as_read) == {Outcome.APPLIED: 2}
    sink.close()


def test_a_write_without_an_etag_reads_it_first(started: Any, speak: Any) -> None:
    server = started(Quirks(etag_suffix="-gzip"))
    load(server, 1)
    system = speak(server)
    sink = sink_of(system)
    changes, _ = drained(source_of(system))
    write = writes_for(changes)[0]
    blind = Write(write.write_id, write.key, write.fields, write.version, None)
    assert outcomes(sink, [blind]) == {Outcome.APPLIED: 1}
    sink.close()


def test_equal_values_are_unchanged_and_an_absent_report_reads_as_none(started: Any, speak: Any) -> None:
    server = started()
    load(server, 1)
    system = speak(server)
    sink = sink_of(system)
    changes, _ = drained(source_of(system))
    assert outcomes(sink, writes_for(changes)) == {Outcome.APPLIED: 1}
    assert isinstance(sink, Readable)
    held = sink.read([{"id": "none"}, {"id": changes[0].key["id"]}], soon())
    assert held[0] is None
    assert held[1] is not None
    again = Write("hub/again", changes[0].key, {"severity": 0.3, "note": "calm"}, "", held[1]["@version"])
    receipts = sink.put([again], soon())
    assert receipts[0].outcome is Outcome.UNCHANGED
    assert len(effects(server)) == 1
    sink.close()


def test_the_stations_keep_their_reports_effects_and_keys_over_a_restart(
    tmp_path: Path, started: Any, speak: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATIONS_TOKEN", TOKEN)
    with StationsServer(tmp_path, TOKEN, clock=CLOCK).running() as server:
        load(server, 5)
        system = speak(server)
        sink = sink_of(system)
        changes, _ = drained(source_of(system))
        assert outcomes(sink, writes_for(changes)) == {Outcome.APPLIED: 5}
        sink.close()
    server = started(folder=tmp_path)
    system = speak(server)
    sink = sink_of(system)
    after, _ = drained(source_of(system))
    assert [change.event_id for change in after] == [change.event_id for change in changes]
    assert outcomes(sink, writes_for(changes)) == {Outcome.APPLIED: 5}, "the stored answers"
    assert len(effects(server)) == 5
    sink.close()


def test_check_finds_what_does_not_fit_before_anything_is_read(started: Any, speak: Any) -> None:
    server = started()
    load(server, 3)
    system = speak(server)

    def problems(**changed: Any) -> list[tuple[str | int, ...]]:
        source = system.source(SOURCE.model_copy(update=changed), written=WRITTEN)
        assert isinstance(source, Checkable)
        return [problem.path for problem in source.check().problems]

    assert problems() == []
    assert problems(key=("id", "station")) == [("key", 1)]
    assert problems(records="reports") == [("records",)]
    assert problems(path="/weather") == [("path",)]
    assert problems(cursor=SOURCE.cursor.model_copy(update={"path": "changed"})) == [("cursor", "path")]  # type: ignore[union-attr]
    sink = sink_of(system)
    assert isinstance(sink, Checkable)
    report = sink.check()
    assert report.problems == []
    assert report.guarantees[0].startswith("I2 holds if the server checks Idempotency-Key")
    sink.close()


def test_it_runs_as_a_process_of_its_own_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATIONS_TOKEN", TOKEN)
    command = [sys.executable, "-m", "crossdock.demo.stations", "--port", "0", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[1]
            request = urllib.request.Request(f"{address}/reports", headers={"Authorization": f"Bearer {TOKEN}"})
            with urllib.request.urlopen(request, timeout=10) as got:
                assert json.load(got) == {"items": [], "next": None}
        finally:
            process.terminate()
            process.wait(10)
