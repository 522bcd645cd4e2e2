"""The index: what is on Kafka stands in its tables once, whatever is killed, and can be made again."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from connectors.clock import SystemClock
from crossdock.broker import Broker
from crossdock.configuration.load import Configuration, load
from crossdock.index import catch_up, database_of, opened, projection_of, rebuild, status
from crossdock.ports import free_port
from schemas.codec import encode
from schemas.dead_letter import DeadLetter, fingerprint
from schemas.event import EventValue
from schemas.outcome import Fate, Outcome
from schemas.receipt import ReceiptRecord
from streams.admin import Admin
from streams.index import find
from streams.index.database import IndexDatabase
from streams.index.tables import DEAD, OFFSETS, POSITIONS, RECEIPTS, REVIEWS
from streams.offsets import OffsetRecord
from streams.runtime.kafka import Kafka
from streams.runtime.publisher import Outgoing, Publisher
from streams.topics import HubTopics, PipelineTopics, Topic

PIPELINE = "orders"
TIME = "2026-01-01T00:00:00.000000Z"
_numbers = iter(range(1, 1000))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


class Hub:
    """One hub's folder and topics; nothing runs."""

    def __init__(self, folder: Path, broker: Broker, index: str = "") -> None:
        self.folder, self.kafka, self.prefix = folder, Kafka(broker.bootstrap), f"hub{next(_numbers)}"
        kafka = f"{{bootstrap: '{broker.bootstrap}', insecure: true, partitions: 2, prefix: {self.prefix}}}"
        (folder / "crossdock.yaml").write_text(f"kafka: {kafka}\n{index}\n")
        self.topics, self.shared = PipelineTopics.of(self.prefix, PIPELINE, 2), HubTopics.of(self.prefix)
        self.broker = broker
        with Admin(broker.bootstrap) as admin:
            admin.ensure([*self.shared.all(), *self.topics.all()])

    @property
    def configuration(self) -> Configuration:
        return load(self.folder, os.environ)

    def publish(self, topic: Topic, records: list[Outgoing]) -> None:
        async def all_of_it() -> None:
            publisher = Publisher(self.kafka)
            await publisher.start()
            await publisher.publish({topic: records})
            await publisher.stop()

        asyncio.run(all_of_it())

    def receipts(self, numbers: range) -> None:
        self.publish(self.topics.receipts, [receipt(number) for number in numbers])

    def rows(self) -> dict[str, list[Any]]:
        """Every row of every table, in the order of their places."""
        with opened(self.configuration) as database, database.reading() as connection:
            return {
                table.name: sorted(tuple(row) for row in connection.execute(sa.select(table)))
                for table in (RECEIPTS, DEAD, REVIEWS, OFFSETS)
            }


@pytest.fixture(params=["sqlite", "postgresql"])
def hub(
    request: pytest.FixtureRequest, jsonl_connector: Path, jsonl_folder: Path, broker: Broker, monkeypatch: Any
) -> Hub:
    if request.param == "sqlite":
        return Hub(jsonl_folder, broker)
    database = request.getfixturevalue("database")
    monkeypatch.setenv("INDEX_PASSWORD", database.password)
    return Hub(jsonl_folder, broker, f"index: {{url: '{database.url}', password: '${{env:INDEX_PASSWORD}}'}}")


def receipt(number: int, fate: Fate = Fate.APPLIED) -> Outgoing:
    record = ReceiptRecord(
        event_id=f"drop/orders/{number}@0001.{number:020d}.0000~ab",
        write_id=f"hub/{PIPELINE}/drop/drop/orders/{number}@0001~ab/live",
        pipeline=PIPELINE,
        writeback="drop",
        key={"id": number},
        version=f"0001.{number:020d}.0000",
        fate=fate,
        outcome=Outcome.APPLIED,
        reason="with a \0 in it",
        attempts=1,
        time=TIME,
    )
    return Outgoing(encode({"id": number}), encode(record))


def letter(number: int, reason: str) -> Outgoing:
    record = DeadLetter(
        event_id=f"drop/orders/{number}@1~ab",
        pipeline=PIPELINE,
        writeback="drop",
        stage="put",
        code="23514",
        reason=reason,
        fingerprint=fingerprint("put", "23514", reason),
        topic="x",
        partition=0,
        offset=number,
        key=encode({"id": number}),
        value=b"\xff\x00",
        first_seen=TIME,
        last_seen=TIME,
    )
    return Outgoing(record.key, encode(record))


def offset(task: str, changes: int) -> Outgoing:
    record = OffsetRecord(task=task, depends_on="x", offset={"line": changes}, changes=changes, time=TIME)
    return Outgoing(task.encode(), encode(record))


def fill(hub: Hub, count: int = 20) -> None:
    hub.receipts(range(count))
    hub.publish(hub.topics.dead, [letter(n, f"{n} is too large") for n in range(3)] + [letter(9, "no such row")])
    event = encode(EventValue(op="upsert", key={"id": 5}, version="1"))  # type: ignore[arg-type]
    hub.publish(hub.topics.review, [Outgoing(b"5", event, [("ce_id", b"drop/orders/5@1~ab")])])
    others = [Outgoing(b"group/x", b"{}"), Outgoing(b"history/drop.orders", b"{}")]
    hub.publish(hub.shared.offsets, [offset("drop.orders", 1), *others, offset("drop.orders", 20)])


def test_what_is_on_kafka_stands_in_the_index_and_answers_say_as_of_when(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    fill(hub)
    with opened(hub.configuration) as database:
        catch_up(hub.configuration, database)
        catch_up(hub.configuration, database)
        answer = find.receipts_of_key(database, [hub.topics.receipts.name], {"id": 7})
        assert [(row["fate"], row["cause"], row["writeback"]) for row in answer.rows] == [("applied", "live", "drop")]
        assert answer.as_of is not None
        event = answer.rows[0]["event_id"]
        assert find.receipts_of_event(database, event).rows == answer.rows
        groups = find.groups_of_dead_letters(database, [hub.topics.dead.name])
        assert [(group["count"], group["code"]) for group in groups.rows] == [(1, "23514"), (3, "23514")]
        found = find.dead_letters_of_group(database, [hub.topics.dead.name], groups.rows[1]["fingerprint"])
        assert [(row["origin_offset"], row["key"]) for row in found.rows] == [(n, f'{{"id":{n}}}') for n in range(3)]
    assert [line for line in caplog.messages if line.startswith("index.")] == []
    rows = hub.rows()
    assert {name: len(each) for name, each in rows.items()} == {
        "crossdock_receipts": 20,
        "crossdock_dead": 4,
        "crossdock_reviews": 1,
        "crossdock_source_offsets": 1,
    }
    assert status(hub.folder) == {
        "url": hub.configuration.hub.index.url or status(hub.folder)["url"],
        "as_of": status(hub.folder)["as_of"],
        "behind": 0,
        "rows": {"receipts": 20, "dead": 4, "reviews": 1, "offsets": 1},
    }


KILLED = """
import sys, os
from pathlib import Path
from crossdock.configuration.load import load
from crossdock.index import catch_up, opened
configuration = load(Path(sys.argv[1]), os.environ)
with opened(configuration) as database:
    catch_up(configuration, database)
"""


def killed_at(hub: Hub, failpoint: str) -> int:
    environ = {**os.environ, "CROSSDOCK_FAILPOINT": f"{failpoint}:2:kill", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(hub.folder)], env=environ, check=False, timeout=120
    ).returncode


def test_a_projector_that_is_killed_repeats_nothing_and_skips_nothing(hub: Hub) -> None:
    """I1: positions and rows are one transaction, so what was committed is passed and what was not comes again."""
    hub.receipts(range(9000))
    for failpoint in ("index_before_commit", "index_after_commit"):
        assert killed_at(hub, failpoint) == -9
        with opened(hub.configuration) as database, database.reading() as connection:
            rows = connection.execute(sa.select(sa.func.count()).select_from(RECEIPTS)).scalar_one()
            passed = connection.execute(sa.select(sa.func.sum(POSITIONS.c.next))).scalar_one()
        assert 0 < rows < 9000
        assert rows == passed
    with opened(hub.configuration) as database:
        catch_up(hub.configuration, database)
    found = hub.rows()["crossdock_receipts"]
    assert len(found) == 9000
    assert len({row[3] for row in found}) == 9000


def test_two_that_project_at_once_do_not_harm_each_other(hub: Hub) -> None:
    """A worker that was frozen while another took over is such a second one."""
    hub.receipts(range(9000))

    def project() -> None:
        with opened(hub.configuration) as database:
            catch_up(hub.configuration, database)

    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(project) for _ in range(2)]:
            each.result(120)
    assert len(hub.rows()["crossdock_receipts"]) == 9000
    assert status(hub.folder)["behind"] == 0


def test_a_rebuild_ends_with_the_same_rows_while_the_owner_projects_on(hub: Hub) -> None:
    fill(hub, 5000)
    with opened(hub.configuration) as database:
        catch_up(hub.configuration, database)
    before = hub.rows()
    steps: list[tuple[int, int]] = []
    with projecting(hub):
        found = rebuild(hub.folder, lambda done, total: steps.append((done, total)))
    assert found["rows"] == {"receipts": 5000, "dead": 4, "reviews": 1, "offsets": 1}
    assert hub.rows() == before
    assert steps
    assert steps[-1][0] <= steps[-1][1]


def test_the_owner_makes_an_index_again_that_was_emptied_under_it(hub: Hub) -> None:
    """As a rebuild leaves it that was killed."""
    hub.receipts(range(100))
    with projecting(hub), opened(hub.configuration) as database:
        wait_until(lambda: status(hub.folder)["behind"] == 0)
        database.clear([hub.topics.receipts.name])
        wait_until(lambda: status(hub.folder)["behind"] == 0 and len(hub.rows()["crossdock_receipts"]) == 100)


class projecting:  # noqa: N801 - reads as a sentence
    """The owner's task, in a thread of its own."""

    def __init__(self, hub: Hub, database: IndexDatabase | None = None) -> None:
        self._ready = threading.Event()
        self._database, self._pool = database or database_of(hub.configuration), ThreadPoolExecutor(1)
        self._projection = projection_of(hub.configuration, self._database, hub.kafka, self._pool, SystemClock())
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._projection.run(self._stop)
        self._database.close()

    def __enter__(self) -> None:
        self._thread.start()
        self._ready.wait()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._pool.shutdown()


def test_a_topic_that_was_made_anew_leaves_no_rows_of_the_old_one(hub: Hub) -> None:
    hub.receipts(range(100))
    with opened(hub.configuration) as database:
        catch_up(hub.configuration, database)
    with Admin(hub.broker.bootstrap) as admin:
        admin._client.delete_topics([hub.topics.receipts.name])
        while admin.spans([hub.topics.receipts.name]):
            pass
        admin.ensure([hub.topics.receipts])
    hub.receipts(range(500, 510))
    with opened(hub.configuration) as database:
        catch_up(hub.configuration, database)
    assert sorted(json.loads(row[6])["id"] for row in hub.rows()["crossdock_receipts"]) == list(range(500, 510))


def test_a_record_that_is_no_receipt_is_told_and_passed(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.publish(hub.topics.receipts, [Outgoing(b"x", b"no JSON"), Outgoing(b"x", None), receipt(1)])
    with opened(hub.configuration) as database:
        catch_up(hub.configuration, database)
    assert len(hub.rows()["crossdock_receipts"]) == 1
    assert [line for line in caplog.messages if line.startswith("index.unreadable")]


def test_a_full_disk_costs_log_lines_and_lag_and_is_caught_up_with_afterwards(
    jsonl_connector: Path, jsonl_folder: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(jsonl_folder, broker)
    hub.receipts(range(9000))
    room = {"pages": 100}
    database = database_of(hub.configuration)

    @sa.event.listens_for(database._engine, "begin")
    def _small(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {room['pages']}")

    with projecting(hub, database):
        wait_until(lambda: any("is full" in line for line in caplog.messages if line.startswith("index.waits")))
        assert status(hub.folder)["behind"] > 0
        room["pages"] = 1 << 30
        wait_until(lambda: status(hub.folder)["behind"] == 0)
    assert len(hub.rows()["crossdock_receipts"]) == 9000


def wait_until(true: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)
