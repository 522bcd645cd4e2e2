"""A whole worker inside the test's own process, so that the watch over its event loop sees all of it."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.clock import SystemClock
from crossdock.bootstrap import build
from crossdock.broker import Broker
from crossdock.configuration.load import load
from crossdock.index import status
from crossdock.pauses import pause, resume
from crossdock.ports import free_port
from crossdock.status import status as status_of_hub
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
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


@pytest.fixture
def folder(request: pytest.FixtureRequest, jsonl_connector: Path, jsonl_folder: Path, broker: Broker) -> Path:
    """The pipeline of CONTRIBUTING.md, with one of the shipped models in the middle; the parameter is more of the hub's
    own file.
    """
    more = getattr(request, "param", "")
    kafka = f"{{bootstrap: '{broker.bootstrap}', insecure: true, partitions: 2, prefix: hub{next(_numbers)}}}"
    (jsonl_folder / "crossdock.yaml").write_text(f"kafka: {kafka}\nmodels: {MODELS}\n{more}\n")
    pipeline = jsonl_folder / "pipelines" / "orders.yaml"
    text = pipeline.read_text().replace("\nwriteback:", MODEL).replace("amount: amount", "severity: answer.severity")
    pipeline.write_text(text.replace("  key: [id]\n", "  key: [id]\n  every: 100ms\n"))
    with (jsonl_folder / "drop" / "orders.jsonl").open("w") as file:
        file.writelines(json.dumps({"id": n, "temp": n, "wind_speed": n}) + "\n" for n in range(RECORDS))
    return jsonl_folder


async def until(app: WorkerApp, done: Callable[[], bool]) -> None:
    """Returns when it is true, or at the worker's end or the patience's."""
    for _ in range(1200):
        if app.should_stop or await asyncio.to_thread(done):
            break
        await asyncio.sleep(0.05)


@pytest.fixture
def parts(folder: Path, broker: Broker) -> Iterator[Parts]:
    """All of a worker, put together before there is a loop, as `crossdock run` does."""
    configuration, clock = load(folder, {}), SystemClock()
    system = configuration.systems["drop"].build(clock)
    with Admin(broker.bootstrap) as admin:
        prefix = configuration.hub.kafka.prefix
        admin.ensure([*HubTopics.of(prefix).all(), *PipelineTopics.of(prefix, "orders", 2).all()])
    yield build(configuration, {"drop": system}, "0", clock)
    system.close()


async def life(app: WorkerApp, done: Callable[[], bool]) -> None:
    """The life of a worker until that is true."""
    await app.start()
    try:
        await until(app, done)
        assert not app.should_stop, "the worker crashed"
    finally:
        await app.stop()
        app.consumer._thread.thread_loop.close()  # Faust makes a thread for the consumer that we never start


def run(parts: Parts, done: Callable[[], bool]) -> None:
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())  # Faust's app takes it when it is made, and is made before it runs
        runner.run(life(app_of(parts), done))


def written(folder: Path) -> int:
    return sum(1 for _ in (folder / "drop" / "copies").glob("*.json"))


def test_a_worker_reads_asks_its_model_writes_and_keeps_its_index_without_blocking_its_loop(
    parts: Parts, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    working_directory = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(working_directory)
    run(parts, lambda: written(folder) == RECORDS and status(folder)["rows"]["receipts"] == RECORDS)
    assert written(folder) == RECORDS
    assert status(folder)["rows"]["receipts"] == RECORDS
    assert list(working_directory.iterdir()) == [], "a worker leaves nothing where it was started"


@pytest.mark.parametrize("folder", ["index: {url: 'postgresql://nobody@127.0.0.1:1/nothing'}"], indirect=True)
def test_a_worker_whose_index_is_away_does_all_the_rest(
    parts: Parts, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(parts, lambda: written(folder) == RECORDS and any(line.startswith("index.waits") for line in caplog.messages))
    assert written(folder) == RECORDS
    assert [line for line in caplog.messages if line.startswith("index.waits")]


def test_a_paused_pipeline_reads_nothing_until_it_is_resumed(
    parts: Parts, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def said(event: str) -> bool:
        return any(line.startswith(event) for line in caplog.messages)

    scenes: Iterator[Callable[[], bool]] = iter(
        [
            lambda: written(folder) == RECORDS,
            lambda: pause(folder, "orders", "the drop is cleaned up", "anna", SystemClock()) is None,
            lambda: said("task.paused"),
            lambda: add(folder, RECORDS) is None,
            lambda: time.sleep(1) is None,  # ten looks, if it looked
            lambda: written(folder) == RECORDS,
            lambda: status_of_hub(folder)["pipelines"]["orders"]["paused"]["by"] == "anna",
            lambda: resume(folder, "orders") is None,
            lambda: written(folder) == RECORDS + 1,
        ]
    )
    scene = [next(scenes)]

    def done() -> bool:
        if scene and scene[0]():
            scene[:] = list(itertools.islice(scenes, 1))
        return not scene

    run(parts, done)
    assert not scene


def add(folder: Path, number: int) -> None:
    with (folder / "drop" / "orders.jsonl").open("a") as file:
        file.write(json.dumps({"id": number, "temp": 1, "wind_speed": 1}) + "\n")
