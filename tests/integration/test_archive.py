"""The archive at a real broker: every committed record once, whatever is killed, also when Kafka's is gone."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from typer.testing import CliRunner

from connectors.clock import SystemClock
from crossdock.archive import archiving, status, verify
from crossdock.broker import Broker
from crossdock.cli import app
from crossdock.configuration.load import Configuration, load
from crossdock.index import catch_up, opened, rebuild
from crossdock.ports import free_port
from schemas.codec import encode
from schemas.dead_letter import DeadLetter
from schemas.outcome import Fate, Outcome
from schemas.receipt import ReceiptRecord
from streams.admin import Admin
from streams.archive.archiving import Archiving, Chunks
from streams.archive.manifest import shelves
from streams.archive.parquet import records_of
from streams.index import find
from streams.runtime.kafka import Kafka
from streams.runtime.publisher import Outgoing, Publisher
from streams.topics import HubTopics, PipelineTopics, Topic

TIME = "2026-01-01T00:00:00.000000Z"
HEADERS = [("ce_id", b"x"), ("twice", b"1"), ("twice", b"")]
_numbers = iter(range(1, 1000))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


class Hub:
    """One hub's folder and topics; nothing runs."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder, self.kafka, self.broker = folder, Kafka(broker.bootstrap), broker
        self.prefix = f"hub{next(_numbers)}"
        kafka = f"{{bootstrap: '{broker.bootstrap}', insecure: true, partitions: 2, prefix: {self.prefix}}}"
        archive = "{folder: archive, every: 1s, rows: 700}"
        (folder / "crossdock.yaml").write_text(f"kafka: {kafka}\narchive: {archive}\n")
        self.topics = PipelineTopics.of(self.prefix, "orders", 2)
        with Admin(broker.bootstrap) as admin:
            admin.ensure([*HubTopics.of(self.prefix).all(), *self.topics.all()])

    @property
    def configuration(self) -> Configuration:
        return load(self.folder, os.environ)

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    def publish(self, topic: Topic, records: list[Outgoing]) -> None:
        async def all_of_it() -> None:
            publisher = Publisher(self.kafka)
            await publisher.start()
            await publisher.publish({topic: records})
            await publisher.stop()

        asyncio.run(all_of_it())

    def fill(self, receipts: range) -> None:
        self.publish(self.topics.receipts, [receipt(number) for number in receipts])
        self.publish(self.topics.dead, [letter(number) for number in range(3)])
        self.publish(self.topics.review, [Outgoing(b"5", b"no JSON", [("ce_id", b"orders/5")]), Outgoing(b"5", None)])

    def aborted(self) -> None:
        """A transaction that came to nothing, and one that did: records and markers between the others."""

        async def both() -> None:
            producer = self.kafka.transactional(f"{self.prefix}.test")
            await producer.start()
            await producer.begin_transaction()
            await producer.send_and_wait(self.topics.receipts.name, b"aborted", partition=0)
            await producer.abort_transaction()
            await producer.begin_transaction()
            await producer.send_and_wait(self.topics.receipts.name, b"committed", partition=0)
            await producer.commit_transaction()
            await producer.stop()

        asyncio.run(both())

    def look(self, every: timedelta = timedelta(0)) -> None:
        """What the owner does once."""

        async def once() -> None:
            with ThreadPoolExecutor(1) as thread:
                chunks = Chunks(self.archive, 700, every)
                await Archiving(self.kafka, self.topics.audited, chunks, thread, SystemClock()).look(asyncio.Event())

        asyncio.run(once())

    def delete(self, topic: Topic, before: int) -> None:
        """As retention does it: from the beginning of each partition."""
        client = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        with Admin(self.broker.bootstrap) as admin:
            spans = admin.spans([topic.name])
        client.delete_records({TopicPartition(*tp): min(before, span.end) for tp, span in spans.items()})
        client.close()

    def on_kafka(self) -> list[tuple[Any, ...]]:
        with Admin(self.broker.bootstrap) as admin:
            return sorted(plain(record) for topic in self.topics.audited for record in admin.read(topic.name))

    def archived(self) -> list[tuple[Any, ...]]:
        """In the order of the files; not made unique."""
        return sorted(
            plain(record)
            for shelf in shelves(self.archive)
            for file, _ in shelf.manifests()
            for records in records_of(file)
            for record in records
        )


def plain(record: Any) -> tuple[Any, ...]:
    headers = tuple((name, value) for name, value in record.headers)
    return (record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, headers)


@pytest.fixture
def hub(jsonl_connector: Path, jsonl_folder: Path, broker: Broker) -> Hub:
    return Hub(jsonl_folder, broker)


def receipt(number: int) -> Outgoing:
    record = ReceiptRecord(
        event_id=event(number),
        write_id=f"hub/orders/drop/drop/orders/{number}@0001~ab/live",
        pipeline="orders",
        writeback="drop",
        key={"id": number},
        version=f"0001.{number:020d}.0000",
        fate=Fate.APPLIED,
        outcome=Outcome.APPLIED,
        attempts=1,
        time=TIME,
    )
    return Outgoing(encode({"id": number}), encode(record), HEADERS)


def event(number: int) -> str:
    return f"drop/orders/{number}@0001.{number:020d}.0000~ab"


def letter(number: int) -> Outgoing:
    record = DeadLetter(
        event_id=event(number),
        pipeline="orders",
        writeback="drop",
        stage="put",
        code="23514",
        reason="too large",
        fingerprint="f",
        topic="x",
        partition=0,
        offset=number,
        key=encode({"id": number}),
        value=b"\xff\x00",
        first_seen=TIME,
        last_seen=TIME,
    )
    return Outgoing(record.key, encode(record))


def wait_until(true: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_every_committed_record_is_archived_once_with_its_bytes(hub: Hub) -> None:
    hub.fill(range(3000))
    hub.aborted()
    hub.fill(range(3000, 3100))
    hub.look()
    hub.look()
    found = hub.archived()
    assert found == hub.on_kafka()
    assert len(found) == 3101 + 6 + 4
    assert [record for record in found if record[5] == b"committed"]
    assert not [record for record in found if record[5] == b"aborted"]
    told = status(hub.folder)["topics"]
    assert {name.rpartition(".")[2]: (each["rows"], each["waiting"]) for name, each in told.items()} == {
        "receipts": (3101, 0),
        "dead": (6, 0),
        "review": (4, 0),
    }
    assert told[hub.topics.receipts.name]["files"] >= 5, "at most 700 rows in a file"
    assert verify(hub.folder)["problems"] == []


def test_what_is_young_and_little_waits_for_its_file(hub: Hub) -> None:
    hub.fill(range(2000))
    hub.look(timedelta(hours=1))
    told = status(hub.folder)["topics"]
    assert told[hub.topics.receipts.name]["rows"] == 1400
    assert told[hub.topics.receipts.name]["waiting"] == 600
    assert told[hub.topics.dead.name]["rows"] == 0


OWNER = """
import asyncio, os, sys
from pathlib import Path
from connectors.clock import SystemClock
from crossdock.archive import TASK, archiving, status
from crossdock.configuration.load import load
from streams.runtime.kafka import Kafka
configuration = load(Path(sys.argv[1]), os.environ)
body = archiving(configuration, Kafka(configuration.hub.kafka.bootstrap), SystemClock())[TASK]

async def live():
    stop = asyncio.Event()
    task = asyncio.create_task(body(stop))
    while any(each["waiting"] for each in (await asyncio.to_thread(status, Path(sys.argv[1])))["topics"].values()):
        await asyncio.sleep(0.2)
    stop.set()
    await task

asyncio.run(live())
"""


def owner(hub: Hub, failpoints: str = "") -> "subprocess.Popen[bytes]":
    """A process that archives until nothing waits."""
    environ = {**os.environ, "CROSSDOCK_FAILPOINT": failpoints, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", OWNER, str(hub.folder)], env=environ)


@pytest.mark.parametrize("action", ["kill", "raise"])
def test_an_owner_that_fails_anywhere_archives_nothing_twice_and_skips_nothing(hub: Hub, action: str) -> None:
    """I1: the position is what the manifests say, so a file without one is made again and one with it is passed."""
    hub.fill(range(6000))
    for failpoint in ("archive_before_rename", "archive_before_manifest", "archive_after_manifest"):
        with owner(hub, f"{failpoint}:2:{action}") as process:
            assert process.wait(120) == (-9 if action == "kill" else 0)
        assert verify(hub.folder)["problems"] == []
        if action == "raise":
            hub.fill(range(6000))
    with owner(hub) as process:
        assert process.wait(120) == 0
    assert hub.archived() == hub.on_kafka()
    assert verify(hub.folder)["problems"] == []
    assert not list(hub.archive.rglob("*.part"))
    named = {manifest.file for shelf in shelves(hub.archive) for _, manifest in shelf.manifests()}
    assert {file.name for file in hub.archive.rglob("*.parquet")} == named


def test_an_owner_that_was_frozen_before_its_manifest_adds_nothing_to_the_next_ones(hub: Hub) -> None:
    """I1: a manifest is linked to its position, and the position is taken."""
    hub.fill(range(3000))
    frozen = owner(hub, "archive_before_manifest:2:stop")
    try:
        wait_until(lambda: state(frozen.pid) == "T")
        with owner(hub) as process:
            assert process.wait(120) == 0
        before = hub.archived()
        assert before == hub.on_kafka()
        os.kill(frozen.pid, 18)
        assert frozen.wait(120) == 0
    finally:
        frozen.kill()
        frozen.wait()
    assert hub.archived() == before
    assert verify(hub.folder)["problems"] == []


def state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_broker_that_goes_and_comes_costs_nothing(
    tmp_path: Path, jsonl_connector: Path, jsonl_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """I1, and the owner's task lives on."""
    broker = Broker(tmp_path / "own", free_port())
    broker.start()
    hub = Hub(jsonl_folder, broker)
    hub.fill(range(3000))
    bodies = archiving(hub.configuration, hub.kafka, SystemClock())
    ready, stops = threading.Event(), []

    async def live() -> None:
        stops.extend([asyncio.get_running_loop(), asyncio.Event()])
        ready.set()
        await bodies["crossdock.archive"](stops[1])

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        ready.wait()
        wait_until(lambda: len(list(hub.archive.rglob("*.json"))) >= 2)
        broker.stop()
        wait_until(lambda: any(line.startswith("archive.waits") for line in caplog.messages))
        broker.start()
        hub.fill(range(3000, 3500))
        wait_until(lambda: all(each["waiting"] == 0 for each in status(hub.folder)["topics"].values()))
    finally:
        stops[0].call_soon_threadsafe(stops[1].set)
        thread.join(60)
        found, kafka = hub.archived(), hub.on_kafka()
        broker.stop()
    assert found == kafka
    assert verify(hub.folder)["problems"] == []


def test_a_worker_archives_beside_its_work(hub: Hub) -> None:
    hub.fill(range(100))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-m", "crossdock", "run", str(hub.folder), "--no-supervise"]
    with subprocess.Popen(command, env=environ) as worker:
        try:
            wait_until(lambda: len(list(hub.archive.rglob("*.json"))) >= 4)
            wait_until(lambda: all(each["waiting"] == 0 for each in status(hub.folder)["topics"].values()))
            worker.terminate()
            assert worker.wait(60) == 0
        finally:
            worker.kill()
    assert hub.archived() == hub.on_kafka()


def test_a_receipt_that_has_expired_on_kafka_is_in_a_rebuilt_index(hub: Hub) -> None:
    hub.fill(range(2000))
    hub.look()
    hub.publish(hub.topics.receipts, [receipt(number) for number in range(2000, 2100)])
    with opened(hub.configuration) as database:
        catch_up(hub.configuration, database)
        before = find.receipts_of_event(database, event(7)).rows
    hub.delete(hub.topics.receipts, 500)
    hub.delete(hub.topics.dead, 3)
    steps: list[tuple[int, int]] = []
    found = rebuild(hub.folder, lambda done, total: steps.append((done, total)))
    assert found["rows"] == {"receipts": 2100, "dead": 3, "reviews": 0, "offsets": 0}
    assert found["behind"] == 0
    assert all(done <= total for done, total in steps)
    with opened(hub.configuration) as database:
        assert find.receipts_of_event(database, event(7)).rows == before
        assert before
        assert len(find.receipts_of_event(database, event(2050)).rows) == 1


def test_an_index_that_is_made_without_files_lacks_what_expired(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """What the test before is for: nothing was archived here."""
    hub.fill(range(2000))
    hub.delete(hub.topics.receipts, 500)
    found = rebuild(hub.folder, lambda done, total: None)
    assert found["rows"]["receipts"] == 1000


def test_what_expired_before_it_was_archived_is_told_for_ever(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.fill(range(1000))
    hub.look()
    hub.fill(range(1000, 2000))
    hub.delete(hub.topics.receipts, 700)
    hub.look()
    assert [line for line in caplog.messages if line.startswith("archive.gap")]
    problems = verify(hub.folder)["problems"]
    assert problems
    assert all("expired before they were archived" in problem for problem in problems)
    assert CliRunner().invoke(app, ["archive", "verify", str(hub.folder)]).exit_code == 1


def test_a_topic_that_was_made_anew_is_archived_beside_the_old_one(hub: Hub) -> None:
    hub.fill(range(1000))
    hub.look()
    old = hub.archived()
    with Admin(hub.broker.bootstrap) as admin:
        admin._client.delete_topics([hub.topics.receipts.name])
        while admin.spans([hub.topics.receipts.name]):
            pass
        admin.ensure([hub.topics.receipts])
    hub.publish(hub.topics.receipts, [receipt(number) for number in range(5000, 5100)])
    hub.look()
    new = [record for record in hub.on_kafka() if record[0] == hub.topics.receipts.name]
    assert len(new) == 100
    assert hub.archived() == sorted([*old, *new])
    assert verify(hub.folder)["problems"] == []


def test_records_that_wait_too_long_for_the_archive_are_an_alert(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """With a folder that cannot be written, which is why they wait."""
    hub.fill(range(10))
    hub.archive.touch()
    topics = PipelineTopics.of(hub.prefix, "orders", 2, hub.configuration.hub.retention.build())
    soon = [Topic(topic.name, topic.partitions, retention=timedelta(seconds=2)) for topic in topics.audited]

    async def live() -> None:
        stop = asyncio.Event()
        with ThreadPoolExecutor(1) as thread:
            chunks = Chunks(hub.archive, 700, timedelta(seconds=1))
            task = asyncio.create_task(Archiving(hub.kafka, soon, chunks, thread, SystemClock()).run(stop))
            async with asyncio.timeout(90):
                while not any(line.startswith("archive.late") for line in caplog.messages):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            stop.set()
            await task

    asyncio.run(live())
    assert any(line.startswith("archive.waits") for line in caplog.messages)
