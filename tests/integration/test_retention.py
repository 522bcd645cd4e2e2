"""Retention at a real broker: what the files say holds, and what nobody has read yet is kept."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import NodeNotReadyError
from kafka.structs import OffsetAndMetadata

from connectors.clock import SystemClock
from connectors.errors import ConfigError, Retriable
from crossdock.broker import Broker
from crossdock.configuration.load import Configuration, load
from crossdock.pauses import pause, resume
from crossdock.ports import free_port
from crossdock.retention import KafkaLook, correct_retention
from schemas.control import Pause, PauseCause
from streams.admin import Admin
from streams.control import Control, outgoing
from streams.retention import RetentionWatch
from streams.runtime.kafka import Kafka
from streams.runtime.publisher import Publisher
from streams.topics import HubTopics, PipelineTopics, Retention, enrich_group

CLOCK = SystemClock()
DAY = 86400.0
_numbers = iter(range(1, 100))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


@pytest.fixture
def configuration(broker: Broker, jsonl_connector: Path, jsonl_folder: Path) -> Configuration:
    """A hub whose topics are there; nothing runs."""
    kafka = f"{{bootstrap: '{broker.bootstrap}', insecure: true, partitions: 2, prefix: hub{next(_numbers)}}}"
    (jsonl_folder / "crossdock.yaml").write_text(f"kafka: {kafka}\n")
    found = load(jsonl_folder, {})
    with Admin(broker.bootstrap) as admin:
        admin.ensure([*HubTopics.of(found.hub.kafka.prefix).all(), *found.topics("orders").all()])
    return found


def set_to(admin: Admin, wanted: dict[str, float]) -> dict[str, float]:
    """Sets them, and waits until the broker says so: it takes a moment to know what it was told."""
    for name, seconds in wanted.items():
        admin.set_retention(name, seconds)
    while not wanted.items() <= (kept := admin.retentions(list(wanted))).items():
        time.sleep(0.05)
    return kept


def append(broker: Broker, topic: str, age: float) -> None:
    """A record that was appended so many days ago."""
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    producer.send(topic, key=b"{}", value=b"{}", partition=0, timestamp_ms=int((time.time() - age * DAY) * 1000)).get(
        30
    )
    producer.close()


def test_a_topic_that_was_shortened_is_lengthened_at_the_start_and_a_longer_one_is_left(
    broker: Broker, configuration: Configuration, caplog: pytest.LogCaptureFixture
) -> None:
    topics = configuration.topics("orders")
    with Admin(broker.bootstrap) as admin:
        kept = set_to(admin, {topics.receipts.name: 3600, topics.changes.name: 30 * DAY})
        correct_retention(admin, topics.all())
        while kept[topics.receipts.name] == 3600:
            kept = admin.retentions([topic.name for topic in topics.all()])
    assert kept[topics.receipts.name] == 400 * DAY
    assert kept[topics.changes.name] == 30 * DAY
    assert topics.latest.name not in kept, "a compacted topic keeps the newest of each key for ever"
    (told,) = [line for line in caplog.messages if line.startswith("retention.corrected")]
    assert topics.receipts.name in told


def test_only_the_retention_of_a_topic_is_changed(broker: Broker, configuration: Configuration) -> None:
    name = configuration.topics("orders").enriched.name
    with Admin(broker.bootstrap) as admin:
        set_to(admin, {name: 3 * DAY})
        settings = admin._client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])["topic"][name]
    assert (
        settings["max.message.bytes"]["value"] == configuration.topics("orders").enriched.settings["max.message.bytes"]
    )


def test_the_files_say_how_long_each_kind_is_kept() -> None:
    retention = Retention(changes=timedelta(days=1), enriched=timedelta(days=2), receipts=timedelta(days=3))
    topics = PipelineTopics.of("hub", "orders", 1, retention)
    days = {topic.name.rpartition(".")[2]: topic.retention / timedelta(days=1) for topic in topics.all()}
    assert (days["changes"], days["backfill"], days["enriched"], days["backfill-enriched"]) == (1, 1, 2, 2)
    assert (days["receipts"], days["dead"], days["review"]) == (3, 400, 400)


async def until(true: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - a condition of another process
            await asyncio.sleep(0.1)


def test_unread_records_near_their_end_pause_the_sources_and_are_kept_until_they_are_read(
    broker: Broker, configuration: Configuration, caplog: pytest.LogCaptureFixture
) -> None:
    """I1: an outage that is longer than a retention is no loss."""
    prefix, topics = configuration.hub.kafka.prefix, configuration.topics("orders")
    append(broker, topics.changes.name, 6.2)
    name, group = topics.changes.name, enrich_group(prefix, "main")
    look, kafka = KafkaLook(configuration, CLOCK), Kafka(broker.bootstrap)

    def kept() -> float:
        with Admin(broker.bootstrap) as admin:
            return admin.retentions([name])[name]

    def read_it() -> None:
        with Admin(broker.bootstrap) as admin:
            admin._client.alter_group_offsets(group, {TopicPartition(name, 0): OffsetAndMetadata(1, "", -1)})

    async def scene() -> None:
        publisher = Publisher(kafka)
        control = Control(kafka, HubTopics.of(prefix).control, publisher)
        await publisher.start()
        await control.follower.start()
        stop = asyncio.Event()
        with ThreadPoolExecutor(1) as thread:
            watch = RetentionWatch(
                look, [PipelineTopics.of("x", "x", 1, Retention(timedelta(0)))], control, thread, CLOCK
            )
            task = asyncio.create_task(watch.run(stop))
            await until(lambda: control.find(Pause, "orders/retention") is not None)
            await until(lambda: any(line.startswith("retention.raised") for line in caplog.messages))
            while await asyncio.to_thread(kept) != 14 * DAY:
                pass
            found = control.find(Pause, "orders/retention")
            assert found is not None
            assert found.raised == {name: 7 * DAY}
            await asyncio.to_thread(read_it)
            await until(lambda: control.find(Pause, "orders/retention") is None)
            while await asyncio.to_thread(kept) != 7 * DAY:
                pass
            stop.set()
            await task
        await control.follower.stop()
        await publisher.stop()

    asyncio.run(scene())
    assert [line for line in caplog.messages if line.startswith("retention.near")]


def test_a_broker_that_goes_away_while_it_is_asked_ends_no_worker(
    broker: Broker, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: the watch tries again."""

    def gone(*_: object) -> None:
        raise NodeNotReadyError("No node_id provided")

    monkeypatch.setattr(Admin, "oldest_unread", gone)
    with pytest.raises(Retriable, match="Kafka does not answer"):
        KafkaLook(configuration, CLOCK).unread()


def test_a_person_pauses_and_resumes_and_the_hubs_own_pause_is_told(
    broker: Broker, configuration: Configuration
) -> None:
    folder = configuration.folder
    with pytest.raises(ConfigError, match="is not paused"):
        resume(folder, "orders")
    with pytest.raises(ConfigError, match="did you mean 'orders'"):
        pause(folder, "order", "x", "anna", CLOCK)
    pause(folder, "orders", "the ERP is moved", "anna", CLOCK)
    assert resume(folder, "orders") is None
    own = Pause(pipeline="orders", cause=PauseCause.RETENTION, reason="late", by="crossdock", time="")
    record = outgoing(own)
    with Admin(broker.bootstrap) as admin:
        admin.append(HubTopics.of(configuration.hub.kafka.prefix).control.name, [(record.key or b"", record.value)])
    pause(folder, "orders", "the ERP is moved", "anna", CLOCK)
    assert resume(folder, "orders") == own
