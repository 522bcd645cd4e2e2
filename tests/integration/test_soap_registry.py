"""The SOAP connector against the demo's aircraft register, over real sockets."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
import zeep
from lxml import etree

from connectors.clock import SystemClock
from connectors.errors import CredentialsRefused, Rejected, Retriable, SystemFault, Throttled
from connectors.refusals import SUSPECTED
from connectors.retry import Retrying
from connectors.soap.config import SoapSourceConfig, SoapSystemConfig, SoapWritebackConfig
from connectors.soap.envelope import parse
from connectors.soap.sink import SoapSink
from connectors.soap.system import SoapSystem
from crossdock.demo.dataset import planes
from crossdock.demo.registry import RegistryServer
from schemas.change import Batch, Change
from schemas.outcome import Outcome
from schemas.values import plain
from schemas.write import Write

CONFIG = Path(__file__).parents[2] / "config"
WSDL = CONFIG / "wsdl" / "registry.wsdl"
CLOCK = SystemClock()
WRITTEN = frozenset({"priority", "score", "scoredBy"})


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    monkeypatch.setenv("REGISTRY_PASSWORD", "open sesame")
    with RegistryServer(tmp_path / "registry", WSDL, "open sesame").running() as server:
        yield server


@pytest.fixture
def system(registry: RegistryServer) -> Iterator[SoapSystem]:
    one = build(registry)
    yield one
    one.close()


def build(registry: RegistryServer, **changed: Any) -> SoapSystem:
    block = yaml.safe_load((CONFIG / "systems" / "registry.yaml").read_text())
    block |= {"address": registry.address, **changed}
    return SoapSystemConfig.model_validate(block, context={"folder": CONFIG / "systems"}).build(CLOCK)


def pipeline() -> dict[str, Any]:
    return yaml.safe_load((CONFIG / "pipelines" / "inspection-priority.yaml").read_text())


def source_config(**changed: Any) -> SoapSourceConfig:
    return SoapSourceConfig.model_validate({**pipeline()["source"], **changed})


def cursor(**changed: Any) -> dict[str, Any]:
    return {**pipeline()["source"]["cursor"], **changed}


def sink_of(system: SoapSystem, **changed: Any) -> SoapSink:
    sink = system.sink(SoapWritebackConfig.model_validate({**pipeline()["writeback"][0], **changed}), prefix="hub")
    sink.open()
    return sink


def task_of(system: SoapSystem, offset: Any = None, **changed: Any) -> Any:
    task = system.source(source_config(**changed), written=WRITTEN).task("registry.listAircraft")
    task.open(offset)
    return task


def soon() -> float:
    return CLOCK.monotonic() + 20.0


def batches(task: Any, limit: int = 1000) -> Iterator[Batch]:
    while (batch := task.poll(limit, soon())) is not None:
        yield batch


def changes(task: Any, limit: int = 1000) -> list[Change]:
    return [change for batch in batches(task, limit) for change in batch.changes]


def aircraft(number: int) -> list[dict[str, Any]]:
    return list(itertools.islice(planes(), number))


def write(tail_number: str, version: int = 1, **fields: Any) -> Write:
    values = {"priority": "high", "score": 0.75, "scoredBy": "inspection-1", **fields}
    return Write(f"hub/p/registry/{tail_number}@{version}/live", {"tailNumber": tail_number}, values, f"{version:04d}")


def effects(registry: RegistryServer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (registry.folder / "effects.jsonl").read_text().splitlines()]


def outcomes(receipts: Any) -> list[Outcome]:
    return [receipt.outcome for receipt in receipts]


# Reading


def test_every_aircraft_is_read_once_and_in_order(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(planes())
    found = changes(task_of(system))
    assert len(found) == 3322
    assert len({change.key["tailNumber"] for change in found}) == 3322
    assert [change.version for change in found] == sorted(change.version for change in found)
    assert found[0].after is not None
    assert found[0].after["tailNumber"] == "N10156"
    assert found[0].after["seats"] == 55
    assert found[0].after["speed"] is None
    assert found[0].origin == "registry/listAircraft"


def test_the_fast_decoder_gives_the_values_of_zeep_over_the_whole_list(
    registry: RegistryServer, system: SoapSystem
) -> None:
    registry.register.load(planes())
    for row in aircraft(100):
        registry.register.score(row["tailnum"], "1", {"priority": "low", "score": "0.2500", "scoredBy": "m"})
    listing = {"modifiedSince": "1970-01-01T00:00:00Z", "pageSize": "1000"}
    operation = system.service.operation("listAircraft")
    more = system.service.operation("listAircraftMore")
    client = zeep.Client(str(WSDL))
    binding = next(iter(client.wsdl.bindings.values()))
    request, seen = operation.request(listing), 0
    while True:
        envelope = registry.operations.call(request.content)
        theirs = binding.get(operation.name).process_reply(etree.fromstring(envelope))
        ours = system.decoder.value(parse(envelope)[0][0], operation.answer.type)
        assert ours == plain(zeep.helpers.serialize_object(theirs, dict))
        seen += len(ours["aircraft"])
        if ours["done"]:
            break
        operation, request = more, more.request({"locator": ours["locator"]})
    assert seen == 3322
    assert not system.decoder.drift


def test_the_offset_is_the_cursor_as_the_server_wrote_it_and_never_a_locator(
    registry: RegistryServer, system: SoapSystem
) -> None:
    registry.register.load(aircraft(5))
    batch = task_of(system, page=3).poll(100, soon())
    assert batch.offset["cursor"] == batch.changes[-1].after["lastModified"]
    assert set(batch.offset) == {"v", "cursor", "boundary"}


def test_reading_resumes_behind_the_offset_without_a_gap(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(50))
    first = task_of(system, page=20, cursor=cursor(overlap="0s")).poll(1000, soon())
    rest = changes(task_of(system, first.offset, page=20, cursor=cursor(overlap="0s")))
    tails = [change.key["tailNumber"] for change in [*first.changes, *rest]]
    assert tails == [row["tailnum"] for row in aircraft(50)]


def test_a_limit_below_the_page_loses_nothing_between_two_polls(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(50))
    task = task_of(system, page=20, cursor=cursor(overlap="0s"))
    first = task.poll(7, soon())
    assert len(first.changes) == 7
    resumed = task_of(system, first.offset, page=20, cursor=cursor(overlap="0s"))
    assert len(changes(resumed, limit=7)) == 43


def test_the_overlap_is_emitted_again_after_a_restart_with_the_same_event_ids(
    registry: RegistryServer, system: SoapSystem
) -> None:
    registry.register.load(aircraft(30))
    task = task_of(system)
    *_, last = batches(task)
    first = {change.event_id for change in changes(task_of(system))}
    again = {change.event_id for change in changes(task_of(system, last.offset))}
    assert again
    assert again <= first


def test_what_was_read_is_not_read_again_by_the_same_task(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(30))
    task = task_of(system)
    assert len(changes(task)) == 30
    assert task.poll(1000, soon()) is None
    registry.register.load(aircraft(1))
    assert [change.key["tailNumber"] for change in changes(task)] == ["N10156"]


def test_the_hubs_own_write_is_no_change_of_the_aircraft(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(3))
    task = task_of(system)
    assert len(changes(task)) == 3
    assert outcomes(sink_of(system).put([write("N10156")], soon())) == [Outcome.APPLIED]
    assert task.poll(1000, soon()) is None


def test_a_locator_that_expires_in_the_middle_of_a_listing_loses_nothing(
    registry: RegistryServer, system: SoapSystem
) -> None:
    registry.register.load(aircraft(200))
    registry.quirks.locator_pages = 2
    found = changes(task_of(system, page=20, cursor=cursor(overlap="0s")))
    assert Counter(change.key["tailNumber"] for change in found) == Counter(row["tailnum"] for row in aircraft(200))


def test_a_listing_that_never_gets_past_its_overlap_says_so(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(100))
    registry.quirks.locator_pages = 2
    with pytest.raises(SystemFault, match="larger `page` or a shorter `overlap`"):
        changes(task_of(system, page=20, cursor=cursor(overlap="1h")))


def test_a_busy_register_is_read_to_the_end(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(100))
    registry.quirks.busy_every, registry.quirks.retry_after = 3, 0
    task, found, refused = task_of(system, page=10), [], 0
    while len(found) < 100:
        try:
            batch = task.poll(1000, soon())
        except Retriable:
            refused += 1
        else:
            found += batch.changes if batch else []
    assert refused > 0
    assert len({change.event_id for change in found}) == len(found) == 100


def test_an_unsorted_listing_stops_the_task_and_names_the_setting(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(10))
    registry.register._order.reverse()
    registry.register.page = lambda after, size: (  # type: ignore[method-assign]
        [registry.register._aircraft[tail] for _, tail in registry.register._order],
        None,
    )
    with pytest.raises(SystemFault, match="ordered: false"):
        task_of(system).poll(100, soon())
    assert len(changes(task_of(system, ordered=False))) == 10


def test_an_unsorted_listing_is_safe_at_its_end_only(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(40))
    task = task_of(system, page=10, ordered=False, cursor=cursor(overlap="0s"))
    offsets = [batch.offset["cursor"] for batch in batches(task)]
    assert offsets[:3] == ["1970-01-01T00:00:00Z"] * 3
    assert offsets[-1] > "2020"


def test_an_aircraft_from_the_future_does_not_hide_the_others(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(2))
    registry.register._place("N0FUTURE", 4_000_000_000_000_000, registry.register._aircraft["N10156"].row)
    registry.register._newest = 0
    task = task_of(system)
    assert len(changes(task)) == 3
    registry.register.load(aircraft(4)[3:])
    assert [change.key["tailNumber"] for change in changes(task)] == ["N104UW"]


def test_a_wrong_password_is_told_and_not_shown(registry: RegistryServer, system: SoapSystem, monkeypatch: Any) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "wrong")
    with pytest.raises(CredentialsRefused) as raised:
        task_of(system).poll(10, soon())
    assert "wrong" not in f"{raised.value} {raised.value.detail}"


def test_a_snapshot_hands_out_only_what_differs(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(20))
    params = {"modifiedSince": "1970-01-01T00:00:00Z", "pageSize": "1000"}
    whole = {"read": "single", "params": params, "more": None, "cursor": None}
    task = task_of(system, **whole)
    assert len(changes(task, limit=7)) == 20
    registry.register.load(aircraft(1))
    [batch] = batches(task)
    assert [change.key["tailNumber"] for change in batch.changes] == ["N10156"]
    assert batch.offset == {"v": 1, "sequence": 21}


# Writing


def test_a_batch_is_applied_and_a_redelivery_has_no_second_effect(registry: RegistryServer, system: SoapSystem) -> None:
    """I2: per write_id at most one effect in the target's own log."""
    registry.register.load(aircraft(100))
    sink, writes = sink_of(system), [write(row["tailnum"]) for row in aircraft(100)]
    assert outcomes(sink.put(writes, soon())) == [Outcome.APPLIED] * 100
    assert outcomes(sink.put(writes, soon())) == [Outcome.UNCHANGED] * 100
    assert Counter(effect["tailNumber"] for effect in effects(registry)).most_common(1)[0][1] == 1


def test_an_older_version_is_stale_and_a_newer_one_with_equal_values_unchanged(
    registry: RegistryServer, system: SoapSystem
) -> None:
    """I3: per key, effects are strictly increasing in version."""
    registry.register.load(aircraft(1))
    sink = sink_of(system)
    sink.put([write("N10156", 5)], soon())
    assert outcomes(sink.put([write("N10156", 6)], soon())) == [Outcome.UNCHANGED]
    [stale] = sink.put([write("N10156", 5, priority="low")], soon())
    assert (stale.outcome, stale.code) == (Outcome.STALE, "STALE")
    assert outcomes(sink.put([write("N10156", 7, priority="low")], soon())) == [Outcome.APPLIED]
    assert [effect["source_version"] for effect in effects(registry)] == ["0005", "0007"]


def test_a_refused_aircraft_leaves_the_rest_of_its_batch_applied(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(5))
    registry.quirks.rejected, registry.quirks.locked = {"N103US"}, {"N104UW"}
    receipts = sink_of(system).put([write(row["tailnum"]) for row in aircraft(5)], soon())
    assert outcomes(receipts) == [
        *(Outcome.APPLIED, Outcome.APPLIED),
        *(Outcome.REJECTED, Outcome.RETRY),
        Outcome.APPLIED,
    ]
    assert receipts[2].reason == "this aircraft is exempt from inspection"


def test_a_fault_for_one_aircraft_leaves_the_rest_applied(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(64))
    registry.quirks.faulty = {"N103US"}
    writes = [write(row["tailnum"]) for row in aircraft(64)]
    with pytest.raises(Rejected, match="N103US cannot be inspected"):
        sink_of(system).put(writes, soon())
    assert effects(registry) == []
    receipts = Retrying(sink_of(system), clock=CLOCK).put(writes, soon())
    assert Counter(outcomes(receipts)) == {Outcome.APPLIED: 63, Outcome.REJECTED: 1}
    assert receipts[2].code == "InvalidRequest"
    assert len(effects(registry)) == 63


def test_a_register_that_refuses_each_aircraft_leaves_most_of_them_to_a_person(
    registry: RegistryServer, system: SoapSystem
) -> None:
    """I7: by results of one call, and by faults of each call."""
    registry.register.load(aircraft(100))
    writes = [write(row["tailnum"]) for row in aircraft(100)]
    registry.quirks.rejected = {row["tailnum"] for row in aircraft(100)[10:]}
    expected = [Outcome.APPLIED] * 10 + [Outcome.REJECTED] * 20 + [Outcome.RETRY] * 70
    assert outcomes(sink_of(system).put(writes, soon())) == expected
    registry.quirks.faulty, registry.quirks.rejected = registry.quirks.rejected, set()
    receipts = Retrying(sink_of(system), clock=CLOCK).put(writes, soon())
    assert outcomes(receipts) == [Outcome.UNCHANGED] * 10 + expected[10:]
    assert receipts[-1].code == SUSPECTED


def test_what_the_wsdl_forbids_is_refused_here_and_the_rest_is_sent(
    registry: RegistryServer, system: SoapSystem
) -> None:
    registry.register.load(aircraft(5))
    rows = [row["tailnum"] for row in aircraft(5)]
    writes = [
        write(rows[0], priority="LOUD"),
        write(rows[1], score="lots"),
        write(rows[2], scoredBy="bell\x07"),
        write(rows[3], score={"a": 1}),
        write(rows[4], score=1e-7),
    ]
    receipts = sink_of(system).put(writes, soon())
    assert outcomes(receipts) == [Outcome.REJECTED] * 4 + [Outcome.APPLIED]
    assert [receipt.code for receipt in receipts[:4]] == ["schema", "type", "schema", "type"]
    assert [effect["values"]["score"] for effect in effects(registry)] == ["0.0000001"]


def test_a_batch_of_forbidden_records_is_never_sent(registry: RegistryServer, system: SoapSystem) -> None:
    sink = sink_of(system)
    registry.quirks.busy_every = 1
    assert outcomes(sink.put([write("N1", priority="LOUD")], soon())) == [Outcome.REJECTED]


def test_a_busy_register_is_retried_and_its_time_is_kept(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(1))
    registry.quirks.busy_every, registry.quirks.retry_after = 1, 9
    sink = sink_of(system)
    with pytest.raises(Throttled, match="Busy") as raised:
        sink.put([write("N10156")], soon())
    assert raised.value.retry_after == 9
    with pytest.raises(Retriable, match="rate is used up"):  # the whole system is closed until then
        sink.put([write("N10156")], CLOCK.monotonic() + 1.0)


def test_a_status_that_nobody_listed_is_unknown(registry: RegistryServer, system: SoapSystem) -> None:
    registry.register.load(aircraft(1))
    results = {**pipeline()["writeback"][0]["results"], "applied": ["DONE"]}
    [receipt] = sink_of(system, results=results).put([write("N10156")], soon())
    assert (receipt.outcome, receipt.code) == (Outcome.UNKNOWN, "UPDATED")


# Checking


def problems(report: Any) -> dict[tuple[str | int, ...], str]:
    return {problem.path: problem.message for problem in report.problems}


def test_the_shipped_configuration_has_no_problem(registry: RegistryServer, system: SoapSystem) -> None:
    source = system.source(source_config(), written=WRITTEN)
    assert source.check().problems == []
    assert sink_of(system).check().problems == []
    assert any("I2 holds" in sentence for sentence in sink_of(system).check().guarantees)


def test_lint_names_every_wrong_path_of_a_source_and_asks_nobody(registry: RegistryServer, system: SoapSystem) -> None:
    registry.quirks.busy_every = 1
    found = problems(
        system.source(
            source_config(
                params={"modifiedSinze": "{cursor}", "pageSize": "{page}"},
                records="aircrafts",
                more={"operation": "listMore", "token_in": "locator", "token_out": "lokator", "done": "done"},
            ),
            written=WRITTEN,
        ).lint()
    )
    assert "did you mean 'modifiedSince'" in found["params", "modifiedSinze"]
    assert "did you mean 'aircraft'" in found["records",]
    assert "did you mean 'locator'" in found["more", "token_out"]
    assert "listAircraftMore" in found["more", "operation"]
    wrong = problems(system.source(source_config(operation="listAircrafts"), written=WRITTEN).lint())
    assert "did you mean 'listAircraft'" in wrong["operation",]
    keys = source_config(key=["tailNumber", "tale"], cursor=cursor(path="seats"))
    wrong = problems(system.source(keys, written=WRITTEN).lint())
    assert ("key", 1) in wrong
    assert "Int" in wrong["cursor", "type"]


def test_check_names_every_wrong_path_of_a_write_back(system: SoapSystem) -> None:
    block = pipeline()["writeback"][0]
    found = problems(
        sink_free(
            system,
            set={"prioritie": "answer.priority"},
            version={"param": "sourceVersions", "rule": "newer"},
            results={**block["results"], "status": "state", "key": "scoredBy"},
        )
    )
    assert "did you mean 'priority'" in found["set", "prioritie"]
    assert "did you mean 'sourceVersion'" in found["version", "param"]
    assert "did you mean 'status'" in found["results", "status"]
    assert ("results", "key") in found
    assert "priority" in found["set",]
    assert ("call",) in problems(sink_free(system, call="setPriority"))
    assert ("records",) in problems(sink_free(system, records="updates.priority"))


def sink_free(system: SoapSystem, **changed: Any) -> Any:
    block = {**pipeline()["writeback"][0], **changed}
    return system.sink(SoapWritebackConfig.model_validate(block), prefix="hub").check()


def test_check_of_either_direction_tells_a_refused_login_from_everything_else(
    registry: RegistryServer, system: SoapSystem, monkeypatch: Any
) -> None:
    """The hub's health task tries a secret through `check` alone: it must never take a refusal for a success."""
    monkeypatch.setenv("REGISTRY_PASSWORD", "wrong")
    for part in (system.source(source_config(), written=WRITTEN), sink_of(system)):
        with pytest.raises(CredentialsRefused):
            part.check()
    monkeypatch.setenv("REGISTRY_PASSWORD", "open sesame")
    assert "takes the login" in sink_of(system).check().guarantees[-1]
    elsewhere = build(registry, address=registry.address.replace("/registry", "/nowhere"))
    assert "no SOAP service answers: HTTP 404" in problems(sink_of(elsewhere).check())["system",]
    elsewhere.close()


def test_a_register_that_is_busy_at_the_check_is_no_error_of_the_configuration(
    registry: RegistryServer, system: SoapSystem
) -> None:
    """A worker that starts again meanwhile must not end for good."""
    registry.quirks.busy_every = 1
    source = system.source(source_config(), written=WRITTEN)
    with pytest.raises(Retriable):
        source.check()
