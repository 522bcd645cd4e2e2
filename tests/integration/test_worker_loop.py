"""A whole worker inside the test's own process, so that the watch over its event loop sees all of it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.clock import SystemClock
from crossdock.bootstrap import build
from crossdock.broker import Broker
from crossdock.configuration.load import load
from crossdock.ports import free_port
from streams.admin import Admin
from streams.runtime.app import WorkerApp
from streams.topics import HubTopics, PipelineTopics
from streams.worker import Parts, app_of

MODELS = Path(__file__).parents[2] / "config" / "models"
MODEL = """
model:
  use: weather-severity@champion
  inputs:
    temp:       {path: temp, missing: impute}
    humid:      {path: humid, missing: impute}
    wind_speed: {path: wind_speed, missing: impute}
    wind_gust:  {path: wind_gust, missing: impute}
    precip:     {path: precip, missing: impute}
    pressure:   {path: pressure, missing: impute}
    visib:      {path: visib, missing: impute}
  outputs:
    severity: {range: [0, 1]}
    note: {allow: [calm, rough, severe]}
writeback:"""
RECORDS = 50


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


@pytest.fixture
def folder(jsonl_connector: Path, jsonl_folder: Path, broker: Broker) -> Path:
    """The pipeline of CONTRIBUTING.md, with one of the shipped models in the middle."""
    (jsonl_folder / "crossdock.yaml").write_text(
        f"kafka: {{bootstrap: '{broker.bootstrap}', insecure: true, partitions: 2}}\nmodels: {MODELS}\n"
    )
    pipeline = jsonl_folder / "pipelines" / "orders.yaml"
    text = pipeline.read_text().replace("\nwriteback:", MODEL).replace("amount: amount", "severity: answer.severity")
    pipeline.write_text(text.replace("  key: [id]\n", "  key: [id]\n  every: 100ms\n"))
    with (jsonl_folder / "drop" / "orders.jsonl").open("w") as file:
        file.writelines(json.dumps({"id": n, "temp": n, "wind_speed": n}) + "\n" for n in range(RECORDS))
    return jsonl_folder


async def all_are_written(copies: Path, app: WorkerApp) -> int:
    """The records that were written back: all of them, or those up to the worker's end or the patience's."""
    found = 0
    for _ in range(1200):
        found = await asyncio.to_thread(lambda: sum(1 for _ in copies.glob("*.json")))
        if app.should_stop or found == RECORDS:
            break
        await asyncio.sleep(0.05)
    return found


@pytest.fixture
def parts(folder: Path, broker: Broker) -> Iterator[Parts]:
    """All of a worker, put together before there is a loop, as `crossdock run` does."""
    configuration, clock = load(folder, {}), SystemClock()
    system = configuration.systems["drop"].build(clock)
    with Admin(broker.bootstrap) as admin:
        admin.ensure([*HubTopics.of("hub").all(), *PipelineTopics.of("hub", "orders", 2).all()])
    yield build(configuration, {"drop": system}, "0", clock)
    system.close()


async def written_by(app: WorkerApp, copies: Path) -> int:
    """The life of a worker until everything is written back."""
    await app.start()
    try:
        found = await all_are_written(copies, app)
        assert not app.should_stop, "the worker crashed"
        return found
    finally:
        await app.stop()
        app.consumer._thread.thread_loop.close()  # Faust makes a thread for the consumer that we never start


def test_a_worker_reads_asks_its_model_and_writes_without_blocking_its_loop(
    parts: Parts, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    working_directory = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(working_directory)
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())  # Faust's app takes it when it is made, and is made before it runs
        assert runner.run(written_by(app_of(parts), folder / "drop" / "copies")) == RECORDS
    assert list(working_directory.iterdir()) == [], "a worker leaves nothing where it was started"
