"""The connector of CONTRIBUTING.md, installed from that page and run: five steps, and no sixth."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.clock import SystemClock
from connectors.contract import SinkTask, SourceTask, System
from connectors.errors import ConfigError, CrossdockError, Retriable, SystemFault
from connectors.registry import known
from connectors.retry import Retrying
from crossdock.configuration.load import Configuration, load
from schemas.outcome import Outcome
from schemas.write import Write

CLOCK = SystemClock()


@pytest.fixture
def configuration(jsonl_connector: Path, jsonl_folder: Path) -> Configuration:
    return load(jsonl_folder, {})


@pytest.fixture
def system(configuration: Configuration) -> Iterator[System]:
    built = configuration.systems["drop"].build(CLOCK)
    yield built
    built.close()


def source_of(system: System, configuration: Configuration) -> SourceTask:
    source = system.source(configuration.pipelines["orders"].source, written=frozenset({"score"}))
    (spec,) = source.tasks()
    assert spec.name == "drop.orders"
    return source.task(spec.name)


@pytest.fixture
def sink(system: System, configuration: Configuration) -> Iterator[SinkTask]:
    made = Retrying(system.sink(configuration.pipelines["orders"].writeback[0], prefix="hub"), CLOCK)
    made.open()
    yield made
    made.close()


def add(jsonl_folder: Path, *records: object) -> None:
    with (jsonl_folder / "drop" / "orders.jsonl").open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in records)


def soon() -> float:
    return CLOCK.monotonic() + 2.0


def a_write(number: int, amount: float, line: int) -> Write:
    return Write(f"hub/orders/drop/{number}@{line}", {"id": number}, {"amount": amount}, f"0001.{line:020d}.0000")


def test_the_installed_connector_is_a_type_of_the_files(jsonl_connector: Path, jsonl_folder: Path) -> None:
    assert "jsonl" in known()
    done = subprocess.run(
        [sys.executable, "-m", "crossdock", "lint", str(jsonl_folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(jsonl_connector)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 systems and 1 pipelines, no problem" in done.stdout


def test_a_class_that_the_page_does_not_allow_is_told_with_its_place(jsonl_connector: Path, jsonl_folder: Path) -> None:
    pipeline = jsonl_folder / "pipelines" / "orders.yaml"
    pipeline.write_text(pipeline.read_text().replace("idempotency: natural", "idempotency: ledger"))
    with pytest.raises(ConfigError, match=r"orders\.yaml:13:5: idempotency: .* valid here: natural"):
        load(jsonl_folder, {})


def test_it_reads_every_line_once_and_goes_on_after_a_restart(
    jsonl_folder: Path, configuration: Configuration, system: System
) -> None:
    add(jsonl_folder, {"id": 1, "amount": 5}, {"id": 2, "amount": 7}, {"id": 1, "amount": 6})
    task = source_of(system, configuration)
    task.open(None)
    first = task.poll(2, soon())
    assert first is not None
    task.ack(first.offset)
    task.close()

    again = source_of(system, configuration)
    again.open(first.offset)
    second = again.poll(10, soon())
    assert second is not None
    found = [*first.changes, *second.changes]
    assert [each.after for each in found] == [
        {"id": 1, "amount": 5},
        {"id": 2, "amount": 7},
        {"id": 1, "amount": 6},
    ]
    assert found[0].version < found[2].version
    assert found[0].event_id.startswith("drop/orders/1@0001.")
    assert len({each.event_id for each in found}) == 3
    assert again.poll(10, soon()) is None


def test_it_leaves_a_line_that_is_still_being_written(
    jsonl_folder: Path, configuration: Configuration, system: System
) -> None:
    add(jsonl_folder, {"id": 1})
    with (jsonl_folder / "drop" / "orders.jsonl").open("a") as file:
        file.write('{"id": 2')
    task = source_of(system, configuration)
    task.open(None)
    batch = task.poll(10, soon())
    assert batch is not None
    assert [each.key for each in batch.changes] == [{"id": 1}]
    assert task.poll(10, soon()) is None


def test_it_tells_an_absent_file_from_a_bad_line(
    jsonl_folder: Path, configuration: Configuration, system: System
) -> None:
    task = source_of(system, configuration)
    task.open(None)
    with pytest.raises(Retriable, match="cannot be read"):
        task.poll(10, soon())
    add(jsonl_folder, {"id": 1}, {"number": 2})
    for _ in range(2):  # the next poll continues where the last batch ended
        with pytest.raises(SystemFault, match=r"orders\.jsonl:2 is no record"):
            task.poll(10, soon())
    batch = task.poll(1, soon())
    assert batch is not None
    assert batch.changes[0].key == {"id": 1}


def test_fields_that_the_hub_writes_are_no_content(
    jsonl_folder: Path, configuration: Configuration, system: System
) -> None:
    add(jsonl_folder, {"id": 1, "score": 0.1}, {"id": 1, "score": 0.2}, {"id": 1, "amount": 3})
    task = source_of(system, configuration)
    task.open(None)
    batch = task.poll(10, soon())
    assert batch is not None
    digests = [each.event_id.rpartition("~")[2] for each in batch.changes]
    assert digests[0] == digests[1] != digests[2]


def test_it_gives_a_receipt_for_each_write_in_order(jsonl_folder: Path, sink: SinkTask) -> None:
    sink.put([a_write(2, 7, 9)], soon())
    too_long = Write("w", {"id": "x" * 300}, {"amount": 1}, "0001.00000000000000000001.0000")
    receipts = sink.put([a_write(1, 5, 1), too_long, a_write(2, 6, 8), a_write(3, 1, 1)], soon())
    outcomes = [each.outcome for each in receipts]
    assert outcomes == [Outcome.APPLIED, Outcome.REJECTED, Outcome.STALE, Outcome.APPLIED]
    assert json.loads((jsonl_folder / "drop" / "copies" / "2.json").read_text())["amount"] == 7
    assert sink.put([a_write(1, 5, 1)], soon())[0].outcome is Outcome.UNCHANGED


def test_a_jsonl_folder_that_is_away_costs_only_time(jsonl_folder: Path, sink: SinkTask) -> None:
    copies = jsonl_folder / "drop" / "copies"
    copies.rmdir()
    copies.write_text("in the way")
    with pytest.raises(CrossdockError, match="cannot be written") as failure:
        sink.put([a_write(1, 5, 1)], CLOCK.monotonic() + 0.5)
    assert isinstance(failure.value, Retriable)
    copies.unlink()
    copies.mkdir()
    assert sink.put([a_write(1, 5, 1)], soon())[0].outcome is Outcome.APPLIED
