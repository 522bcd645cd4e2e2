"""Reconcile: what differs between a source and its targets is found, and nothing that is merely on its way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from connectors.clock import SystemClock
from crossdock.broker import Broker
from crossdock.index import status
from crossdock.ports import free_port
from crossdock.reconcile.hub import hub_of
from crossdock.reconcile.run import run
from crossdock.supervisor import Supervised
from tests.conftest import Database

CLOCK = SystemClock()
ROWS = 300
SYSTEM = """
name: {name}
type: sql
url: {url}
{password}
timezone: UTC
"""
ORDERS = """
name: orders
owner: sales
source:
  system: erp
  table: orders
  key: [id]
  read: {timestamp: updated_at, incrementing: id}
  every: 100ms
only: region != 'none'
writeback:
  - system: store
    upsert: copies
    match: {no: key.id}
    set: {total: amount}
    version: {column: rev, rule: newer}
    idempotency: natural
"""
CUSTOMERS = """
name: customers
owner: sales
source:
  system: erp
  table: customers
  key: [id]
  read: {timestamp: updated_at, incrementing: id}
  every: 100ms
derive:
  region: {map: country, to: {DE: EMEA, US: AMER}, otherwise: other}
writeback:
  - system: erp
    update: customers
    match: {id: key.id}
    set: {region: region}
    version: {column: updated_at, rule: equals}
    if_changed: newer_comes
    idempotency: ledger
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


_numbers = iter(range(1, 100))


class Hub:
    """Two databases, two pipelines, one worker."""

    def __init__(self, folder: Path, broker: Broker, urls: list[str], engines: list[sa.Engine]) -> None:
        self.folder = folder
        self.source, self.target = engines
        kafka = f"{{bootstrap: '{broker.bootstrap}', insecure: true, partitions: 2, prefix: hub{next(_numbers)}}}"
        (folder / "systems").mkdir(parents=True)
        (folder / "pipelines").mkdir()
        (folder / "crossdock.yaml").write_text(f"kafka: {kafka}\n")
        for name, url in zip(("erp", "store"), urls, strict=True):
            password = "password: ${env:DB_PASSWORD}" if url.startswith("postgresql") else ""
            (folder / "systems" / f"{name}.yaml").write_text(SYSTEM.format(name=name, url=url, password=password))
        for name, text in (("orders", ORDERS), ("customers", CUSTOMERS)):
            (folder / "pipelines" / f"{name}.yaml").write_text(text)
        self._tables()
        self.log = folder / "worker.log"
        command = [sys.executable, "-m", "crossdock", "run", str(folder), "--no-supervise"]
        self._worker = Supervised(command, CLOCK, log_file=self.log, environ=dict(os.environ))

    def _tables(self) -> None:
        is_sqlite = self.source.dialect.name == "sqlite"
        kind = "timestamp" if is_sqlite else "timestamptz"
        now = "(strftime('%Y-%m-%d %H:%M:%f', 'now'))" if is_sqlite else "now()"
        stamp = f"updated_at {kind} NOT NULL DEFAULT {now}"
        execute(self.source, f"CREATE TABLE orders (id int PRIMARY KEY, region text, amount numeric(9, 2), {stamp})")
        execute(self.source, f"CREATE TABLE customers (id int PRIMARY KEY, country text, region text, {stamp})")
        execute(self.target, "CREATE TABLE copies (no bigint PRIMARY KEY, total numeric(9, 2), rev text)")
        for number in range(ROWS):
            region = "'none'" if number % 10 == 0 else "'x'"
            execute(self.source, f"INSERT INTO orders (id, region, amount) VALUES ({number}, {region}, {number}.5)")
            execute(self.source, f"INSERT INTO customers (id, country) VALUES ({number}, 'DE')")

    def start(self) -> None:
        self._worker.start()
        wait_until(self._all_is_written, lambda: self.log.read_text()[-3000:])

    def _all_is_written(self) -> bool:
        assert self._worker.exit_code is None, self.log.read_text()
        if not (self.folder / ".crossdock" / "index.db").exists():
            return False
        found = status(self.folder)
        return bool(found["rows"]["receipts"] >= 2 * ROWS and found["behind"] == 0)

    def stop(self) -> None:
        self._worker.stop()

    def reconcile(self, pipeline: str, **options: Any) -> dict[str, Any]:
        chosen = {"bucket": None, "reread": False, "show": 50, **options}
        return run(self.folder, pipeline, clock=CLOCK, **chosen)


BOTH = pytest.mark.parametrize("hub", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def hub(request: pytest.FixtureRequest, tmp_path: Path, broker: Broker, monkeypatch: Any) -> Iterator[Hub]:
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("erp", "store")]
    engines = [sa.create_engine(url) for url in urls]
    if getattr(request, "param", "sqlite") == "postgresql":
        database: Database = request.getfixturevalue("database")
        monkeypatch.setenv("DB_PASSWORD", database.password)
        urls, engines = [database.url] * 2, [database.engine(), database.engine()]
    hub = Hub(tmp_path / "hub", broker, urls, engines)
    hub.start()
    yield hub
    hub.stop()
    for engine in engines:
        engine.dispose()


def execute(engine: sa.Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def wait_until(true: Callable[[], bool], told: Callable[[], str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, told()
        time.sleep(0.2)


def differences(found: dict[str, Any]) -> dict[int, str]:
    """Kind by id."""
    return {row["key"]["id"]: row["kind"] for each in found["writebacks"] for row in each["differences"]}


@BOTH
def test_differences_of_every_kind_are_found_and_nothing_else(hub: Hub) -> None:
    """The source against a target that keeps our versions; a tenth of the records ends otherwise."""
    clean = hub.reconcile("orders")
    (written,) = clean["writebacks"]
    assert clean["ok"], written
    assert (written["against"], written["source"], written["records"]) == ("target", "itself", ROWS)
    assert written["values_compared"] >= ROWS - ROWS // 10
    assert written["verified_through"] is not None

    execute(hub.target, "UPDATE copies SET rev = '0001.00000000000000000007.0000' WHERE no = 11")
    execute(hub.target, "UPDATE copies SET total = 99999 WHERE no = 12")
    execute(hub.target, "DELETE FROM copies WHERE no = 13")
    execute(hub.target, "INSERT INTO copies VALUES (9999, 1, '0001.00000000000000000009.0000')")
    late = "INSERT INTO orders VALUES (5000, 'x', 5, '2020-01-01 00:00:00')"
    execute(hub.source, late)  # as a transaction leaves it that a naive poller has passed
    found = hub.reconcile("orders")
    assert not found["ok"]
    assert differences(found) == {11: "different", 12: "different", 13: "missing", 9999: "extra", 5000: "missing"}
    assert found["writebacks"][0]["verified_through"] == written["verified_through"], "not a step further"


@BOTH
def test_the_last_receipts_stand_in_for_a_target_without_our_versions(hub: Hub) -> None:
    clean = hub.reconcile("customers")
    (written,) = clean["writebacks"]
    assert clean["ok"], written
    assert (written["against"], written["records"]) == ("receipts", ROWS)
    assert written["values_compared"] >= ROWS  # what a source gave twice, as after a rebalance, is compared twice

    execute(hub.source, "UPDATE customers SET region = 'changed' WHERE id = 21")
    execute(hub.source, "DELETE FROM customers WHERE id = 22")
    execute(hub.source, "INSERT INTO customers VALUES (5000, 'DE', NULL, '2020-01-01 00:00:00')")
    assert differences(hub.reconcile("customers")) == {21: "different", 22: "extra", 5000: "missing"}


def test_what_is_missing_is_read_again_and_then_nothing_differs(hub: Hub) -> None:
    """I1: a version that was never read is found, and gets its fate."""
    execute(hub.source, "INSERT INTO orders VALUES (5000, 'x', 5, '2020-01-01 00:00:00')")
    found = hub.reconcile("orders", reread=True)
    assert (differences(found), found["asked_again"]) == ({5000: "missing"}, 1)
    wait_until(lambda: hub.reconcile("orders")["ok"], lambda: hub.log.read_text()[-3000:])
    with hub.target.connect() as connection:
        assert connection.exec_driver_sql("SELECT total FROM copies WHERE no = 5000").scalar() == 5


def test_what_is_on_its_way_is_no_difference(hub: Hub) -> None:
    """A record that was read and not written yet, and one that was not read yet."""
    hub.stop()
    execute(hub.source, "INSERT INTO orders VALUES (5000, 'x', 5, '2020-01-01 00:00:00')")
    execute(hub.source, "INSERT INTO orders (id, region, amount) VALUES (5001, 'x', 5)")
    with hub_of(hub.folder, "orders", CLOCK) as one:
        assert one.ask_again([{"id": 5000}]) == 1
    found = hub.reconcile("orders")
    assert found["ok"], found
    assert found["writebacks"][0]["in_flight"] == 1


def test_one_bucket_can_be_compared_alone(hub: Hub) -> None:
    execute(hub.target, "UPDATE copies SET total = 99999 WHERE no IN (11, 12)")
    found = hub.reconcile("orders")
    (one, other) = found["writebacks"][0]["differences"]
    assert one["bucket"] != other["bucket"]
    alone = hub.reconcile("orders", bucket=one["bucket"])
    assert differences(alone) == {one["key"]["id"]: "different"}
    assert alone["writebacks"][0]["records"] < ROWS / 10


def crossdock(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crossdock", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_says_what_differs_and_ends_with_1(hub: Hub) -> None:
    done = crossdock("reconcile", str(hub.folder), "orders")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "missing 0, extra 0, different 0; verified through 20" in done.stdout
    execute(hub.target, "DELETE FROM copies WHERE no IN (13, 14)")
    done = crossdock("reconcile", str(hub.folder), "orders", "--show", "1")
    assert done.returncode == 1
    assert "missing 2" in done.stdout
    assert "and 1 more" in done.stdout
    done = crossdock("reconcile", str(hub.folder), "orders", "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)
    for wrong in (["order"], ["orders", "--bucket", "xyz"]):
        done = crossdock("reconcile", str(hub.folder), *wrong)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
