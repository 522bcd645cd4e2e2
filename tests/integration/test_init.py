"""`crossdock init`: what it writes is clean, and works."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossdock.broker import Broker
from crossdock.ports import free_port
from streams.admin import Admin
from streams.topics import PipelineTopics

SECRETS = {"REGISTRY_PASSWORD": "x", "STATIONS_TOKEN": "y"}


def crossdock(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crossdock", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **SECRETS}, check=False
    )


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    one = Broker(tmp_path / "kafka", free_port())
    one.start()
    yield one
    one.stop()


@pytest.mark.parametrize("kind", ["sql", "soap", "rest"])
def test_what_it_writes_has_no_problem(tmp_path: Path, kind: str) -> None:
    assert crossdock("init", str(tmp_path / "hub"), "--from", kind, "--name", "old-system").returncode == 0
    done = crossdock("lint", str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    assert "1 systems and 1 pipelines" in done.stdout


def test_systems_are_added_beside_each_other_and_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = str(tmp_path / "hub")
    for kind in ("sql", "soap", "rest"):
        assert crossdock("init", folder, "--from", kind).returncode == 0
    assert "3 systems and 3 pipelines" in crossdock("lint", folder).stdout
    again = crossdock("init", folder, "--from", "sql")
    assert again.returncode == 2
    assert "systems/erp.yaml is there already" in again.stderr
    assert "Traceback" not in again.stderr


def test_the_first_pipeline_really_writes_into_its_database(tmp_path: Path, broker: Broker) -> None:
    """The five minutes of the README: a change is read, and comes back with a region, and one that follows too."""
    folder = tmp_path / "hub"
    crossdock("init", str(folder))
    environ = {**os.environ, "CROSSDOCK_KAFKA__BOOTSTRAP": broker.bootstrap}
    log = (tmp_path / "worker.log").open("wb")
    worker = subprocess.Popen([sys.executable, "-m", "crossdock", "run", str(folder)], env=environ, stderr=log)
    try:
        wait_for(folder, {1: "EMEA", 2: "AMER", 3: "APAC", 4: "other"})
        with sqlite3.connect(folder / "erp.db", timeout=20) as connection:
            connection.execute("INSERT INTO orders (id, country, amount) VALUES (5, 'FR', 1)")
        connection.close()
        wait_for(folder, {1: "EMEA", 2: "AMER", 3: "APAC", 4: "other", 5: "EMEA"})
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(40) == 0, (tmp_path / "worker.log").read_text()[-2000:]
        log.close()


def test_two_pipelines_that_read_one_table_both_see_all_of_it(tmp_path: Path, broker: Broker) -> None:
    """I1: each has a task, an offset and a transactional id of its own."""
    folder = tmp_path / "hub"
    crossdock("init", str(folder))
    first = folder / "pipelines" / "erp-region.yaml"
    second = first.read_text().replace("name: erp-region", "name: erp-totals").partition("writeback:")[0]
    (folder / "pipelines" / "erp-totals.yaml").write_text(second)
    environ = {**os.environ, "CROSSDOCK_KAFKA__BOOTSTRAP": broker.bootstrap}
    log = (tmp_path / "worker.log").open("wb")
    worker = subprocess.Popen([sys.executable, "-m", "crossdock", "run", str(folder)], env=environ, stderr=log)
    try:
        for pipeline in ("erp-region", "erp-totals"):
            wait_for_changes(broker, pipeline, {1, 2, 3, 4})
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(40) == 0, (tmp_path / "worker.log").read_text()[-2000:]
        log.close()


def wait_for_changes(broker: Broker, pipeline: str, keys: set[int]) -> None:
    end = time.monotonic() + 60
    topics = PipelineTopics.of("hub", pipeline, 6)
    with Admin(broker.bootstrap) as admin:
        while True:
            found = {json.loads(each.key)["id"] for topic in topics.to_enrich for each in admin.read(topic.name)}
            if found == keys:
                return
            assert time.monotonic() < end, (pipeline, found)
            time.sleep(0.2)


def wait_for(folder: Path, regions: dict[int, str]) -> None:
    end = time.monotonic() + 60
    while True:
        connection = sqlite3.connect(folder / "erp.db", timeout=20)
        found = dict(connection.execute("SELECT id, region FROM orders"))
        connection.close()
        if found == regions:
            return
        assert time.monotonic() < end, found
        time.sleep(0.1)
