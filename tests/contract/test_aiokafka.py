"""What we rely on in aiokafka without its promise, at a real broker. When one of these fails after an upgrade, read
the place. The private names stand in `streams/runtime/insides.py` and nowhere else.

| relied on | where |
|---|---|
| `_coordinator.generation`, `.member_id`: two processes of one name: same generation, new id | `insides.identity` |
| `_coordinator.fetch_committed_offsets`: the metadata, which `committed()` hides | `insides.committed_with_metadata` |
| `_coordinator._group_instance_id`: `stop()` leaves the group only where it is None | `insides.leave_at_stop` |
| `_coordinator.check_errors`: raises an error of the group, once | `insides.check_errors` |
| `_coordinator._coordination_task`, `._reset_committed_task`: done when it works no more | `insides.check_errors` |
| `_fetcher.error_future`: done when reading has ended, of which `getmany()` says nothing | `insides.check_errors` |
| an exception of a rebalance listener is logged and forgotten | `Reader`, `Ownership` |
| `seek_to_committed()` does nothing for offset 0 or None | `Reader._rewind` |
| `getmany()` waits through a rebalance, and then moves the positions of the new assignment | `Reader._read_once` |
| `getmany(max_records=)` is kept | `READ_RECORDS` |
| no offset and `auto_offset_reset="none"` raises `NoOffsetForPartitionError` | `Reader._read_once` |
| the position passes over transaction markers, and aborted records are never seen | `Reader._pass_markers` |
| `max_poll_interval_ms`: who fetches nothing for so long leaves, and never comes again | `Kafka.member` |
| `BatchBuilder.append()` is None when full or closed, never for the first record | `publisher.send` |
| a `BatchBuilder` that is open takes the records of other senders | `publisher.send` |
| `send_batch()` waits while the partition has a batch that was not yet taken | `Publisher` |
| after a refused batch an idempotent producer is refused for that partition for ever | `Publisher` |
| a fenced producer raises `ProducerFenced`, and `AssertionError` from then on | `TaskTransactions.commit` |
| outside of a transaction `send_batch()` raises `IllegalOperation` | `TaskTransactions` |
| `stop()` waits for a broker that is away | `stop_quietly` |
| the names of its loggers | `quiet_logs` |
| `protocol.api` and `client.send()` take a request that aiokafka itself does not know | `topic_ids` |
| the range assignor gives one number in several topics to one member | `Kafka.member` |
"""

import asyncio
import itertools
import logging
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib import import_module
from typing import Any

import aiokafka
import aiokafka.consumer
import aiokafka.producer
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    IllegalOperation,
    KafkaError,
    MessageSizeTooLargeError,
    NoOffsetForPartitionError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
)
from aiokafka.structs import OffsetAndMetadata
from kafka import KafkaAdminClient

from crossdock.broker import Broker
from crossdock.ports import free_port
from streams.admin import Admin
from streams.runtime import insides
from streams.runtime.kafka import LOGGERS, Kafka, stop_quietly
from streams.runtime.topic_ids import topic_ids
from streams.topics import Topic

pytestmark = pytest.mark.filterwarnings(  # clients that a test makes fail leave their sockets to the collector
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


@pytest.fixture
def kafka(broker: Broker) -> Kafka:
    return Kafka(broker.bootstrap)


_numbers = itertools.count(1)


@pytest.fixture
async def topic(broker: Broker) -> str:
    """A topic of two partitions."""
    name = f"contract-{next(_numbers)}"
    await asyncio.to_thread(make_topic, broker, Topic(name, 2))
    return name


def make_topic(broker: Broker, topic: Topic) -> None:
    with Admin(broker.bootstrap) as admin:
        admin.ensure([topic])


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def member(kafka: Kafka, topic: str, stack: AsyncExitStack) -> Callable[..., Awaitable[AIOKafkaConsumer]]:
    async def join(instance: str = "0", listener: ConsumerRebalanceListener | None = None) -> AIOKafkaConsumer:
        consumer = kafka.member(f"{topic}.group", instance, 30)
        consumer.subscribe([topic], listener=listener)
        stack.push_async_callback(stop_quietly, consumer)  # one that lost its fetcher raises
        await consumer.start()
        return consumer

    return join


@asynccontextmanager
async def producing(kafka: Kafka, transactional_id: str | None = None) -> AsyncIterator[AIOKafkaProducer]:
    producer = kafka.producer() if transactional_id is None else kafka.transactional(transactional_id)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def produce(kafka: Kafka, topic: str, count: int, partition: int = 0) -> None:
    async with producing(kafka) as producer:
        for number in range(count):
            await (await producer.send(topic, b"%d" % number, partition=partition))


async def eventually(look: Callable[[], Any], seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = look()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.05)


def members_of(broker: Broker, group: str) -> int:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    try:
        return len(admin.describe_groups([group])[group]["members"])
    finally:
        admin.close()


async def read(consumer: AIOKafkaConsumer, tp: TopicPartition, count: int) -> list[int]:
    found: list[int] = []

    async def look() -> bool:
        for records in (await consumer.getmany(tp, timeout_ms=200)).values():
            found.extend(record.offset for record in records)
        return len(found) >= count

    await eventually(look)
    return found


async def test_a_static_member_that_comes_again_has_a_new_id_in_the_same_generation(
    member: Callable[..., Awaitable[AIOKafkaConsumer]],
) -> None:
    """Two processes under one name see no more than that, and take the group from each other for ever."""
    first = await member()
    before = insides.identity(first)
    second = await member()  # under the same name, while the first lives
    after = insides.identity(second)
    assert before is not None
    assert after is not None
    assert (before[0], before[1] != after[1]) == (after[0], True)
    await eventually(lambda: _reads_and_has_another_id(first, before))


async def _reads_and_has_another_id(consumer: AIOKafkaConsumer, before: tuple[int, str]) -> bool:
    with suppress(NoOffsetForPartitionError):
        await consumer.getmany(timeout_ms=100)
    now = insides.identity(consumer)
    return now is not None and now[0] == before[0] and now[1] != before[1]


async def test_the_metadata_of_a_commit_is_told_inside_and_hidden_outside(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], topic: str
) -> None:
    consumer, tp = await member(), TopicPartition(topic, 0)
    await consumer.commit({tp: OffsetAndMetadata(0, "a note")})
    assert (await insides.committed_with_metadata(consumer, [tp]))[tp] == OffsetAndMetadata(0, "a note")
    assert await consumer.committed(tp) == 0


async def test_a_static_member_stays_in_its_group_after_stop_unless_it_leaves(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], broker: Broker, topic: str
) -> None:
    consumer = await member()
    await consumer.stop()
    assert await asyncio.to_thread(members_of, broker, f"{topic}.group") == 1
    again = await member()
    insides.leave_at_stop(again)
    await again.stop()
    assert await asyncio.to_thread(members_of, broker, f"{topic}.group") == 0


async def test_a_client_whose_end_fails_half_way_keeps_its_connections_unless_it_hangs_up(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = await member()
    connections, close = consumer._client._conns, consumer._fetcher.close

    async def broken() -> None:
        await close()
        assert any(each.connected() for each in connections.values())
        raise KafkaError("the broker is away")

    monkeypatch.setattr(consumer._fetcher, "close", broken)
    await stop_quietly(consumer)
    assert not any(each.connected() for each in connections.values())


async def test_an_error_of_the_group_is_told_once_and_also_where_nothing_is_fetched(
    member: Callable[..., Awaitable[AIOKafkaConsumer]],
) -> None:
    consumer = await member()
    insides.check_errors(consumer)
    pushing = asyncio.ensure_future(consumer._coordinator._push_error_to_user(KafkaError("for a person")))
    await asyncio.sleep(0)
    with pytest.raises(KafkaError, match="for a person"):
        insides.check_errors(consumer)
    insides.check_errors(consumer)
    pushing.cancel()


async def test_a_reading_that_ended_is_told_inside_while_getmany_finds_nothing_for_ever(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = await member()
    await produce(kafka, topic, 3)
    await consumer.seek_to_beginning()
    assert await read(consumer, TopicPartition(topic, 0), 3) == [0, 1, 2]

    def broken(assignment: object) -> None:
        raise ZeroDivisionError("a defect of the fetcher")

    monkeypatch.setattr(consumer._fetcher, "_get_actions_per_node", broken)
    await eventually(consumer._fetcher.error_future.done)
    await produce(kafka, topic, 3)
    assert await consumer.getmany(timeout_ms=1500) == {}
    with pytest.raises(insides.Dead, match="reads no more"):
        insides.check_errors(consumer)


async def test_a_group_whose_work_ended_is_told_inside(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], kafka: Kafka
) -> None:
    consumer = await member()
    consumer._coordinator._coordination_task.cancel()
    await eventually(consumer._coordinator._coordination_task.done)
    with pytest.raises(insides.Dead, match="coordinates no more"):
        insides.check_errors(consumer)
    viewer = kafka.viewer()
    await viewer.start()
    try:
        insides.check_errors(viewer)
        viewer._coordinator._reset_committed_task.cancel()
        await eventually(viewer._coordinator._reset_committed_task.done)
        with pytest.raises(insides.Dead, match="coordinates no more"):
            insides.check_errors(viewer)
    finally:
        with suppress(asyncio.CancelledError):  # `stop()` awaits what the test cancelled
            await viewer.stop()
        await viewer._client.close()


class Listener(ConsumerRebalanceListener):
    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.assigned, self.again = error, asyncio.Event(), asyncio.Event()

    async def on_partitions_revoked(self, revoked: Any) -> None:
        if self.assigned.is_set():
            self.again.set()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self.assigned.set()
        if self.error is not None:
            raise self.error


async def test_what_a_listener_raises_is_logged_and_forgotten(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "aiokafka"):
        consumer = await member(listener=Listener(ZeroDivisionError("a defect")))
    await consumer.seek_to_beginning()
    assert await consumer.getmany(timeout_ms=200) == {}
    assert "failed on partition assignment" in caplog.text


async def test_seeking_to_the_committed_offset_does_nothing_for_0_and_none(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], kafka: Kafka, topic: str
) -> None:
    consumer, first, second = await member(), TopicPartition(topic, 0), TopicPartition(topic, 1)
    for partition in (0, 1):
        await produce(kafka, topic, 5, partition)
    await consumer.seek_to_beginning()
    await read(consumer, first, 5)
    await read(consumer, second, 5)
    await consumer.commit({first: 0})
    assert await consumer.seek_to_committed() == {first: 0, second: None}
    assert [await consumer.position(tp) for tp in (first, second)] == [5, 5]
    await consumer.commit({first: 2})
    assert await consumer.seek_to_committed(first) == {first: 2}
    assert await consumer.position(first) == 2


async def test_a_read_during_a_rebalance_returns_records_of_the_new_assignment_and_moves_its_positions(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], kafka: Kafka, topic: str
) -> None:
    for partition in (0, 1):
        await produce(kafka, topic, 5, partition)
    tps = [TopicPartition(topic, n) for n in (0, 1)]
    revoked, go_on = asyncio.Event(), asyncio.Event()

    class Slow(ConsumerRebalanceListener):
        armed = False

        async def on_partitions_revoked(self, _: Any) -> None:
            if self.armed:
                revoked.set()
                await go_on.wait()

        async def on_partitions_assigned(self, _: Any) -> None: ...

    slow = Slow()
    consumer = await member(listener=slow)
    await consumer.commit(dict.fromkeys(tps, 1))
    slow.armed = True
    joining = asyncio.ensure_future(member("1"))
    await asyncio.wait_for(revoked.wait(), 20)
    reading = asyncio.ensure_future(consumer.getmany(timeout_ms=20_000))
    done, _ = await asyncio.wait({reading}, timeout=0.3)
    assert not done, "it waits through the rebalance"
    go_on.set()
    found = await asyncio.wait_for(reading, 30)
    (tp,) = consumer.assignment()
    assert {tp: [record.offset for record in records] for tp, records in found.items()} == {tp: [1, 2, 3, 4]}
    assert await consumer.position(tp) == 5
    await joining


async def test_a_read_returns_no_more_than_it_was_asked_for(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], kafka: Kafka, topic: str
) -> None:
    await produce(kafka, topic, 10)
    consumer, tp = await member(), TopicPartition(topic, 0)
    await consumer.seek_to_beginning()
    found: list[int] = []

    async def look() -> bool:
        records = (await consumer.getmany(tp, timeout_ms=500, max_records=3)).get(tp, [])
        assert len(records) <= 3
        found.extend(record.offset for record in records)
        return len(found) == 10

    await eventually(look)
    assert found == list(range(10))


async def test_without_an_offset_and_a_reset_reading_raises(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], topic: str
) -> None:
    consumer = await member()
    with pytest.raises(NoOffsetForPartitionError):
        await eventually(lambda: consumer.getmany(timeout_ms=200), 20)


async def test_aborted_records_are_never_seen_and_the_position_passes_over_the_markers(
    member: Callable[..., Awaitable[AIOKafkaConsumer]], kafka: Kafka, topic: str
) -> None:
    consumer, tp = await member(), TopicPartition(topic, 0)
    await consumer.seek_to_beginning()
    async with producing(kafka, f"{topic}.id") as producer:
        for end in (producer.commit_transaction, producer.abort_transaction, producer.commit_transaction):
            await producer.begin_transaction()
            await producer.send(topic, b"x", partition=0)
            await end()
    assert await read(consumer, tp, 2) == [0, 4]
    assert await consumer.getmany(tp, timeout_ms=500) == {}

    async def passed() -> bool:
        await consumer.getmany(tp, timeout_ms=100)
        return await consumer.position(tp) == 6

    await eventually(passed)


@pytest.mark.parametrize("interval", [1_000, 10**12])
async def test_who_fetches_nothing_for_the_poll_interval_leaves_and_comes_again_only_with_a_read(
    broker: Broker, topic: str, interval: int
) -> None:
    """So it is off. A partition that is held for an hour must cost nothing."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap,
        group_id=f"{topic}.group",
        heartbeat_interval_ms=300,
        max_poll_interval_ms=interval,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        left = asyncio.ensure_future(eventually(lambda: _has_left(broker, topic), 8))
        await asyncio.wait({left})
        assert (left.exception() is None) is (interval == 1_000)
        if interval == 1_000:
            await asyncio.sleep(2)
            assert await asyncio.to_thread(members_of, broker, f"{topic}.group") == 0
    finally:
        await consumer.stop()


async def _has_left(broker: Broker, topic: str) -> bool:
    return await asyncio.to_thread(members_of, broker, f"{topic}.group") == 0


async def test_a_full_or_closed_batch_takes_nothing_and_the_first_record_is_never_refused(kafka: Kafka) -> None:
    async with producing(kafka) as producer:
        batch = producer.create_batch()
        assert batch.append(key=None, value=b"x" * 2_000_000, timestamp=None) is not None
        assert batch.append(key=None, value=b"x", timestamp=None) is None
        batch = producer.create_batch()
        assert batch.append(key=None, value=b"x", timestamp=None) is not None
        batch.close()
        assert batch.append(key=None, value=b"x", timestamp=None) is None


@pytest.mark.parametrize("closed", [True, False])
async def test_a_batch_that_was_not_closed_takes_records_of_other_senders(
    kafka: Kafka, topic: str, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with producing(kafka) as producer:
        await producer.send_and_wait(topic, b"first", partition=0)
        drain = producer._message_accumulator.drain_by_nodes
        monkeypatch.setattr(producer._message_accumulator, "drain_by_nodes", lambda **_: ({}, False))
        batch = producer.create_batch()
        batch.append(key=None, value=b"ours", timestamp=None)
        if closed:
            batch.close()
        sent = await producer.send_batch(batch, topic, partition=0)
        other = asyncio.ensure_future(producer.send(topic, b"theirs", partition=0))
        await asyncio.wait({other}, timeout=0.3)
        assert batch.record_count() == (1 if closed else 2)
        monkeypatch.setattr(producer._message_accumulator, "drain_by_nodes", drain)
        await producer.send_and_wait(topic, b"wakes the sender", partition=1)
        await sent
        await (await other)


async def test_a_second_batch_waits_until_the_first_of_its_partition_was_taken(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a producer holds no more than one batch for each partition and each sender that waits."""
    async with producing(kafka) as producer:
        await producer.send_and_wait(topic, b"first", partition=0)
        drain = producer._message_accumulator.drain_by_nodes
        monkeypatch.setattr(producer._message_accumulator, "drain_by_nodes", lambda **_: ({}, False))
        batches = [producer.create_batch() for _ in range(2)]
        for batch in batches:
            batch.append(key=None, value=b"x", timestamp=None)
            batch.close()
        first = await producer.send_batch(batches[0], topic, partition=0)
        second = asyncio.ensure_future(producer.send_batch(batches[1], topic, partition=0))
        done, _ = await asyncio.wait({second}, timeout=0.3)
        assert not done
        monkeypatch.setattr(producer._message_accumulator, "drain_by_nodes", drain)
        await producer.send_and_wait(topic, b"wakes the sender", partition=1)
        await asyncio.gather(first, await second)


async def test_after_a_refused_batch_a_producer_is_refused_for_that_partition_for_ever(
    kafka: Kafka, topic: str
) -> None:
    """The sequence number of the refused batch is used up. Only a new producer helps."""
    async with producing(kafka) as producer:
        await producer.send_and_wait(topic, b"fits", partition=0)
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait(topic, b"x" * 2_000_000, partition=0)
        for _ in range(2):
            with pytest.raises(OutOfOrderSequenceNumber):
                await producer.send_and_wait(topic, b"fits", partition=0)
        await producer.send_and_wait(topic, b"fits", partition=1)
    async with producing(kafka) as producer:
        await producer.send_and_wait(topic, b"fits", partition=0)


async def test_a_fenced_producer_tells_so_and_is_dead_from_then_on(kafka: Kafka, topic: str) -> None:
    async with producing(kafka, f"{topic}.id") as zombie:
        await zombie.begin_transaction()
        await zombie.send_and_wait(topic, b"old", partition=0)
        async with producing(kafka, f"{topic}.id"):
            with pytest.raises(ProducerFenced):
                await zombie.commit_transaction()
            with pytest.raises(AssertionError, match="FATAL_ERROR"):
                await zombie.begin_transaction()


async def test_nothing_is_sent_outside_of_a_transaction(kafka: Kafka, topic: str) -> None:
    async with producing(kafka, f"{topic}.id") as producer:
        batch = producer.create_batch()
        batch.append(key=None, value=b"x", timestamp=None)
        with pytest.raises(IllegalOperation):
            await producer.send_batch(batch, topic, partition=0)


async def test_the_end_of_a_producer_waits_for_a_broker_that_is_away_and_its_batch_does_not_expire(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    broker = Broker(tmp_path_factory.mktemp("away"), free_port())
    await asyncio.to_thread(broker.start)
    try:
        await asyncio.to_thread(make_topic, broker, Topic("t", 1))
        producer = AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap, enable_idempotence=True, request_timeout_ms=2000
        )
        await producer.start()
        await producer.send_and_wait("t", b"x", partition=0)
        await asyncio.to_thread(broker.kill)
        sent = await producer.send("t", b"y", partition=0)
        stopping = asyncio.ensure_future(producer.stop())
        done, _ = await asyncio.wait({stopping}, timeout=4)
        assert not done
        await asyncio.to_thread(broker.start)
        await asyncio.wait_for(stopping, 60)
        assert (await sent).offset == 1
    finally:
        await asyncio.to_thread(broker.stop)


async def test_a_topic_tells_its_id_and_one_that_was_made_anew_another(
    broker: Broker, kafka: Kafka, topic: str
) -> None:
    first = await topic_ids(kafka, [topic, "none-such"])
    assert list(first) == [topic]

    def make_anew() -> None:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        try:
            admin.delete_topics([topic])
        finally:
            admin.close()

    await asyncio.to_thread(make_anew)
    await eventually(lambda: _is_gone(kafka, topic))
    await asyncio.to_thread(make_topic, broker, Topic(topic, 2))
    assert (await topic_ids(kafka, [topic]))[topic] != first[topic]


async def _is_gone(kafka: Kafka, topic: str) -> bool:
    return not await topic_ids(kafka, [topic])


async def test_one_number_in_several_topics_has_one_owner(
    kafka: Kafka, broker: Broker, topic: str, stack: AsyncExitStack
) -> None:
    other = f"{topic}-other"
    await asyncio.to_thread(make_topic, broker, Topic(other, 2))
    consumers = []
    for instance in ("0", "1"):
        consumer = kafka.member(f"{topic}.group", instance, 30)
        consumer.subscribe([topic, other])
        stack.push_async_callback(stop_quietly, consumer)
        await consumer.start()
        consumers.append(consumer)
    await eventually(lambda: all(len(each.assignment()) == 2 for each in consumers))
    for consumer in consumers:
        (number,) = {tp.partition for tp in consumer.assignment()}
        assert consumer.assignment() == {TopicPartition(topic, number), TopicPartition(other, number)}


def test_the_loggers_whose_lines_we_limit_are_all_that_there_are() -> None:
    names = set()
    for package in (aiokafka, aiokafka.consumer, aiokafka.producer):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not found.ispkg and found.name != "aiokafka.helpers":
                log = getattr(import_module(found.name), "log", None)
                names |= set() if log is None else {log.name}
    assert names == set(LOGGERS)
