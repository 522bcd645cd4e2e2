"""Offsets through a whole hub: moved by a command, lost, of another configuration, of a source that was put back."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.clock import SystemClock
from connectors.errors import ConfigError
from crossdock.broker import Broker
from crossdock.moves import Action, Wish, move
from crossdock.offsets import show
from crossdock.ports import free_port
from crossdock.status import status
from crossdock.supervisor import Supervised
from schemas.codec import decode
from schemas.receipt import ReceiptRecord
from streams.admin import Admin
from streams.topics import HubTopics, PipelineTopics

# kafka-python, closed while it connects, leaves that socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*<socket.socket:pytest.PytestUnraisableExceptionWarning")

COUNT = 300
TOPICS = PipelineTopics.of("hub", "erp-region", 2)
OFFSETS = HubTopics.of("hub").offsets.name


class Hub:
    """`crossdock init`, with some hundred orders in its database and a log of every effect beside them."""

    def __init__(self, folder: Path, broker: Broker, admin: Admin) -> None:
        self.folder, self.admin = folder / "hub", admin
        self.database = self.folder / "erp.db"
        self.log = folder / "worker.log"
        self._worker: Supervised | None = None
        self.run("init", str(self.folder))
        hub = self.folder / "crossdock.yaml"
        bootstrap = f"bootstrap: {broker.bootstrap}\n  partitions: 2"
        hub.write_text(hub.read_text().replace("bootstrap: 127.0.0.1:19092", bootstrap))
        self.change("every: 1s", "every: 200ms")
        self.sql(
            "DELETE FROM orders",
            "CREATE TABLE effects (id integer, region text)",
            "CREATE TRIGGER log AFTER UPDATE OF region ON orders BEGIN "
            "INSERT INTO effects VALUES (NEW.id, NEW.region); END",
            "INSERT INTO orders (id, country, amount, updated_at) "
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {COUNT}) "
            "SELECT i, 'DE', 1, strftime('%Y-%m-%d %H:%M:%f', '2026-01-01', i || ' minutes') FROM n",
        )

    def change(self, old: str, new: str) -> None:
        file = self.folder / "pipelines" / "erp-region.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def sql(self, *statements: str) -> list[Any]:
        with sqlite3.connect(self.database, timeout=20) as connection:
            rows = [connection.execute(each).fetchall() for each in statements]
        connection.close()
        return rows[-1]

    @property
    def effects(self) -> int:
        return int(self.sql("SELECT count(*) FROM effects")[0][0])

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "crossdock", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)

    def offsets(self, verb: str, *arguments: str) -> dict[str, Any]:
        """The command line itself, once; `move` is the same without its start."""
        done = self.run("offsets", verb, str(self.folder), *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def move(
        self, action: Action, subject: str = "erp-region/erp.orders", wait: float = 60, **to: Any
    ) -> dict[str, Any]:
        wish = Wish(subject, action, "Ada", "to see it", **to)
        return move(self.folder, wish, SystemClock(), yes=True, wait=wait)

    def refused(self, verb: str, *arguments: str) -> str:
        done = self.run("offsets", verb, str(self.folder), *arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def task(self) -> dict[str, Any]:
        (task,) = show(self.folder, SystemClock(), "erp-region/erp.orders")["tasks"]
        return dict(task)

    def start(self) -> None:
        command = [sys.executable, "-m", "crossdock", "run", str(self.folder), "--no-supervise"]
        self._worker = Supervised(command, SystemClock(), log_file=self.log)
        self._worker.start()

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()

    def times_read(self) -> int:
        """How often the first order was read. The last one, in the overlap, is read again once it was written to."""
        records = [record for topic in TOPICS.to_enrich for record in self.admin.read(topic.name)]
        return sum(1 for record in records if record.key == b'{"id":1}')

    def receipts(self) -> int:
        return sum(1 for _ in self.admin.read(TOPICS.receipts.name))

    def fates(self) -> list[tuple[str, str | None]]:
        """What became of the first order, in the order of the topic."""
        records = [record for record in self.admin.read(TOPICS.receipts.name) if record.key == b'{"id":1}']
        return [(each.fate.value, each.reason) for each in (decode(record.value, ReceiptRecord) for record in records)]

    def until(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def until_logged(self, event: str) -> None:
        self.until(lambda: self.log.exists() and event in self.log.read_text())

    def settle(self, times: int) -> None:
        """Everything was read so often, and each write-back of it has its receipt."""
        self.until(lambda: self.times_read() == times and self.receipts() >= times * COUNT)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


@pytest.fixture
def hub(tmp_path: Path, broker: Broker) -> Iterator[Hub]:
    with Admin(broker.bootstrap) as admin:
        hub = Hub(tmp_path, broker, admin)
        yield hub
        hub.stop()
        admin._client.delete_topics([name for name in admin._client.list_topics() if name.startswith("hub.")])


def test_a_reset_is_carried_out_once_reads_all_again_and_changes_nothing_at_the_target(hub: Hub) -> None:
    """I1, I2: and what it would mean is told before, and what was moved stays known, to be undone."""
    hub.start()
    hub.settle(1)
    before = hub.task()["offset"]
    plan = hub.offsets("reset", "erp-region/erp.orders")
    assert (plan["asked"], plan["moves"][0]["again"], plan["moves"][0]["skipped"]) == (False, COUNT, 0)
    assert hub.task()["history"] == []
    made = hub.offsets(
        "reset", "erp-region/erp.orders", "--yes", "--reason", "to see it", "--by", "Ada", "--wait", "60"
    )
    assert made["done"]
    hub.settle(2)
    assert hub.effects == COUNT
    task = hub.task()
    assert task["offset"] == before
    (move,) = task["history"]
    assert (move["action"], move["before"], move["after"], move["by"]) == ("reset", before, None, "Ada")
    assert hub.move("undo")["done"]
    assert hub.task()["offset"] == before
    assert [each["undone"] for each in hub.task()["history"]] == [True, False]
    assert "nothing of erp-region/erp.orders is there to be undone" in hub.refused(
        "undo", "erp-region/erp.orders", "--yes", "--reason", "x"
    )
    assert hub.times_read() == 2


def test_a_move_waits_for_a_worker_and_an_offset_of_another_configuration_stops_its_task(hub: Hub) -> None:
    """I10: the message says what changed, and the command that it names decides."""
    hub.start()
    hub.settle(1)
    hub.stop()
    noon = datetime(2026, 1, 1, 4, 0, tzinfo=UTC)
    asked = hub.move("set", moment=noon, wait=0)
    assert (asked["done"], asked["moves"][0]["again"], asked["moves"][0]["skipped"]) == (False, 61, 0)
    assert hub.task()["waits"]["action"] == "set"
    with pytest.raises(ConfigError, match="by Ada waits for a worker"):
        hub.move("undo")
    hub.start()
    hub.until(lambda: hub.task()["waits"] is None and hub.receipts() >= COUNT + 61)
    assert (hub.times_read(), hub.effects) == (1, COUNT)
    hub.stop()
    hub.change("incrementing: id", "incrementing: amount")
    hub.start()
    hub.until(lambda: hub.task()["state"] == "other_configuration")
    told = hub.task()
    assert 'read.incrementing was "id" and is "amount"' in told["reason"]
    assert told["decide"] == "crossdock offsets reset FOLDER erp-region/erp.orders"
    assert hub.times_read() == 1
    assert hub.move("reset")["done"]
    hub.settle(2)
    assert hub.effects == COUNT
    assert hub.task()["state"] == "running"
    with pytest.raises(ConfigError, match="belongs to another configuration"):
        hub.move("undo")


def test_a_lost_offsets_topic_stops_the_source_and_a_full_replay_has_no_new_effect(hub: Hub) -> None:
    """I1, I2, I10: nothing is read again before a person says so."""
    hub.start()
    hub.settle(1)
    hub.stop()
    hub.admin._client.delete_topics([OFFSETS])
    hub.start()
    hub.until(lambda: hub.task()["state"] == "lost")
    assert "task.stopped task=erp-region/erp.orders trouble=lost" in hub.log.read_text()
    (told,) = status(hub.folder)["stopped"]
    assert told["decide"] == "crossdock offsets reset FOLDER erp-region/erp.orders"
    assert "partition.stopped" not in hub.log.read_text(), "Kafka's own commits hold"
    assert (hub.times_read(), hub.effects) == (1, COUNT)
    assert hub.move("reset")["done"]
    hub.settle(2)
    assert hub.effects == COUNT
    hub.sql("INSERT INTO orders (id, country, amount) VALUES (1000, 'US', 1)")
    hub.until(lambda: hub.effects == COUNT + 1)


def test_a_source_that_was_put_back_from_a_backup_stops_until_a_person_says_where_it_goes_on(hub: Hub) -> None:
    """I10: its new rows would have versions that were used already."""
    hub.start()
    hub.settle(1)
    hub.stop()
    backup = hub.database.with_suffix(".backup")
    shutil.copy(hub.database, backup)
    hub.sql("INSERT INTO orders (id, country, amount) VALUES (1000, 'US', 1)")
    hub.start()
    hub.until(lambda: hub.effects == COUNT + 1)
    hub.stop()
    shutil.copy(backup, hub.database)
    hub.start()
    hub.until(lambda: hub.task()["state"] == "went_back")
    assert "the newest updated_at is 2026-01-01T05:00:00" in hub.task()["reason"]
    assert hub.move("set", moment=datetime(2026, 1, 1, 5, 0, tzinfo=UTC))["done"]
    hub.until(lambda: hub.task()["state"] == "running")
    hub.sql(
        "INSERT INTO orders (id, country, amount, updated_at) VALUES (2000, 'US', 1, '2026-01-01 06:00:00.000')",
    )
    hub.until(lambda: hub.effects == COUNT + 1)


def test_a_hub_drops_the_echo_of_its_own_write_and_nothing_that_a_person_changed(hub: Hub) -> None:
    """I1, I2: the database moves the cursor of each row that the hub writes to, so each write is read again."""
    hub.change("every: 200ms", "every: 3s")
    hub.sql(
        "DELETE FROM orders",
        "CREATE TRIGGER stamp AFTER UPDATE OF region ON orders BEGIN "
        "UPDATE orders SET updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE id = NEW.id; END",
    )
    hub.start()
    hub.until_logged("tasks.assigned")
    hub.sql("INSERT INTO orders (id, country, amount) VALUES (1, 'DE', 1)")
    hub.until(lambda: hub.fates() == [("applied", None), ("filtered", "echo")])
    assert (hub.times_read(), hub.effects) == (1, 1)
    hub.sql("UPDATE orders SET country = 'US', region = 'EMEA', updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now')")
    hub.until(lambda: len(hub.fates()) == 4)
    assert hub.fates()[2:] == [("applied", None), ("filtered", "echo")]
    assert hub.sql("SELECT region FROM orders") == [("AMER",)]
    assert hub.times_read() == 2
