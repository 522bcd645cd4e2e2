"""The parts of the runtime beside the reader, against a real broker: none of them ends without a word, and what each
holds is bounded.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from aiokafka import TopicPartition

from connectors.clock import SystemClock
from crossdock.broker import Broker
from crossdock.ports import free_port
from schemas.codec import Undecodable
from streams.admin import Admin
from streams.lookups import Table
from streams.runtime import insides
from streams.runtime.compacted import Follower
from streams.runtime.kafka import ConsumerRecord, Kafka
from streams.runtime.lasting import EndedByItself, Lasting
from streams.runtime.ownership import Body, Ownership
from streams.runtime.publisher import Outgoing, Publisher, Refused
from streams.runtime.reader import Group
from streams.topics import Topic, ownership_partition

CLOCK = SystemClock()
DEFECTS = [ZeroDivisionError("x"), RecursionError("x"), MemoryError(), asyncio.CancelledError(), KeyboardInterrupt()]


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
async def topic(broker: Broker) -> Topic:
    made = Topic(f"runtime-{next(_numbers)}", 2, compacted=True)
    await asyncio.to_thread(make_topic, broker, made)
    return made


def make_topic(broker: Broker, topic: Topic) -> None:
    with Admin(broker.bootstrap) as admin:
        admin.ensure([topic])


@asynccontextmanager
async def running(service: Lasting) -> AsyncIterator[None]:
    await service.start()
    try:
        yield
    finally:
        await service.stop()


async def ended(service: Lasting) -> BaseException | None:
    """Why the service crashed."""
    await asyncio.wait_for(service.wait_until_stopped(), 30)
    reason: BaseException | None = service.crash_reason
    return reason


async def until(condition: Callable[[], bool], seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - others do what is waited for
            await asyncio.sleep(0.02)


# Source tasks


TASK = next(f"task-{n}" for n in itertools.count() if ownership_partition(f"task-{n}") < 2)
"""A task whose partition is one of a topic of two."""


def owning(kafka: Kafka, topic: Topic, body: Body) -> Ownership:
    return Ownership(Group(f"{topic.name}.tasks", (topic.name,), "0", 1.0), kafka, CLOCK, {TASK: body})


@pytest.mark.parametrize("error", DEFECTS, ids=lambda error: type(error).__name__)
async def test_a_source_task_that_raises_ends_the_process(kafka: Kafka, topic: Topic, error: BaseException) -> None:
    """I10"""

    async def body(stop: asyncio.Event) -> None:
        raise error

    ownership = owning(kafka, topic, body)
    async with running(ownership):
        assert await ended(ownership) is error


async def test_a_source_task_that_returns_before_it_was_told_to_ends_the_process(kafka: Kafka, topic: Topic) -> None:
    """I10"""

    async def body(stop: asyncio.Event) -> None:
        return

    ownership = owning(kafka, topic, body)
    async with running(ownership):
        assert isinstance(await ended(ownership), EndedByItself)


async def test_a_group_that_can_no_more_be_read_ends_the_process(kafka: Kafka, topic: Topic) -> None:
    """I10: source tasks would else stay where they are for ever, and new ones would never come."""

    async def body(stop: asyncio.Event) -> None:
        await stop.wait()

    ownership = owning(kafka, topic, body)
    async with running(ownership):
        assert ownership._consumer is not None
        coordinator = ownership._consumer._coordinator
        coordinator.ensure_coordinator_known = raises
        coordinator.request_rejoin()
        assert isinstance(await ended(ownership), insides.Dead)


async def raises() -> None:
    raise ZeroDivisionError("a defect of aiokafka")


# Followers


async def put(kafka: Kafka, topic: Topic, *records: tuple[bytes, bytes | None]) -> None:
    publisher = Publisher(kafka)
    await publisher.start()
    await publisher.publish({topic: [Outgoing(key, value, partition=0) for key, value in records]})
    await publisher.stop()


async def test_a_record_that_a_lookup_cannot_read_is_passed_over_and_told(
    kafka: Kafka, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    """I10: it must not keep every worker from starting, at each start anew."""
    await put(
        kafka,
        topic,
        (b'{"id":1}', b'{"after":{"id":1}}'),
        (b'{"id":2}', b"no json"),
        (b'{"id":3}', b'{"after":[3]}'),
        (b'{"id":4}', b'{"after":' + b"[" * 100_000),
        (b'{"id":5}', b'{"after":{"id":5}}'),
    )
    table = Table(["id"])
    follower = Follower(kafka, topic, table.take)
    with caplog.at_level(logging.ERROR):
        async with running(follower):
            await asyncio.wait_for(follower.caught_up.wait(), 30)
            assert not follower.crashed
    assert [table.find((number,)) is not None for number in range(1, 6)] == [True, False, False, False, True]
    assert [f"offset={offset}" in caplog.text for offset in range(5)] == [False, True, True, True, False]


@pytest.mark.parametrize("error", DEFECTS, ids=lambda error: type(error).__name__)
async def test_a_follower_whose_taker_fails_ends_the_process(kafka: Kafka, topic: Topic, error: BaseException) -> None:
    """I10: a lookup that is not followed any more would answer with what was, for ever."""

    def take(record: ConsumerRecord) -> None:
        raise error

    await put(kafka, topic, (b"key", b"value"))
    follower = Follower(kafka, topic, take)
    async with running(follower):
        reason = await ended(follower)
    assert error in (reason, reason.__cause__ if reason else None)


async def test_a_follower_that_reads_no_more_ends_the_process(kafka: Kafka, topic: Topic) -> None:
    """I10: aiokafka itself would say nothing."""
    follower = Follower(kafka, topic, lambda record: None)
    async with running(follower):
        await asyncio.wait_for(follower.caught_up.wait(), 30)
        assert follower._consumer is not None
        follower._consumer._fetcher._fetch_task.cancel()
        assert isinstance(await ended(follower), insides.Dead)


def test_what_is_passed_over_is_only_what_cannot_be_read() -> None:
    table = Table(["id"])
    with pytest.raises(Undecodable):
        table.take(a_record(b"x"))


def a_record(value: bytes) -> ConsumerRecord:
    return ConsumerRecord("t", 0, 0, 0, 0, b"{}", value, None, 0, 0, ())


# Publishing


@pytest.fixture
async def publisher(kafka: Kafka) -> AsyncIterator[Publisher]:
    one = Publisher(kafka)
    await one.start()
    yield one
    await one.stop()


async def test_a_record_that_is_too_large_is_refused_and_its_partition_goes_on(
    publisher: Publisher, topic: Topic, kafka: Kafka
) -> None:
    """I10: with the same producer the broker would take nothing more for that partition, and the lane would wait."""
    fits = {topic: [Outgoing(b"k", b"fits", partition=0)]}
    await publisher.publish(fits)
    with pytest.raises(Refused, match=f"too large for {topic.name}/0"):
        await publisher.publish({topic: [Outgoing(b"k", b"x" * 2_000_000, partition=0)]})
    await asyncio.wait_for(publisher.publish(fits), 30)


async def test_a_producer_that_lost_its_place_is_replaced_and_everything_arrives(
    publisher: Publisher, topic: Topic, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1, I10: others who publish at that moment lose nothing."""
    before = publisher._producer
    assert before is not None
    await publisher.publish({topic: [Outgoing(b"k", b"0", partition=0)]})
    before._txn_manager.increment_sequence_number(TopicPartition(topic.name, 0), 5)  # a gap, as after a refused batch
    every = [publisher.publish({topic: [Outgoing(b"k", b"%d" % n, partition=n % 2)]}) for n in range(10)]
    await asyncio.wait_for(asyncio.gather(*every), 60)
    assert publisher._producer is not before
    seen = await values(kafka, topic)
    assert {b"%d" % n for n in range(10)} <= seen


async def values(kafka: Kafka, topic: Topic) -> set[bytes]:
    found: set[bytes] = set()
    follower = Follower(kafka, topic, lambda record: found.add(record.value))
    async with running(follower):
        await asyncio.wait_for(follower.caught_up.wait(), 30)
    return found


async def test_a_publisher_holds_no_more_than_its_callers_wait_for_while_the_broker_is_away(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """I5: a caller that waits hands over nothing more; after a minute of outage the same is held as after a second."""
    own = Broker(tmp_path_factory.mktemp("away"), free_port())
    topic = Topic("t", 4)
    await asyncio.to_thread(own.start)
    try:
        await asyncio.to_thread(make_topic, own, topic)
        publisher = Publisher(Kafka(own.bootstrap))
        await publisher.start()
        piece = {topic: [Outgoing(b"%d" % n, b"x" * 1000, partition=n % 4) for n in range(500)]}
        await publisher.publish(piece)
        await asyncio.to_thread(own.kill)
        accumulator = publisher._producer._message_accumulator  # type: ignore[union-attr]
        waiting = [asyncio.ensure_future(publisher.publish(piece)) for _ in range(4)]
        await until(lambda: len(accumulator._pending_batches) + len(accumulator._batches) >= 4)
        await asyncio.sleep(1)
        before = psutil.Process().memory_info().rss
        done, _ = await asyncio.wait(waiting, timeout=15)
        assert not done
        assert sum(map(len, accumulator._batches.values())) + len(accumulator._pending_batches) <= 4 * 4
        assert psutil.Process().memory_info().rss - before < 8 << 20
        await asyncio.to_thread(own.start)
        await asyncio.wait_for(asyncio.gather(*waiting), 60)
        await publisher.stop()
    finally:
        await asyncio.to_thread(own.stop)


# Services


async def returns() -> None:
    return


async def cancels_itself() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("body", [returns, cancels_itself])
async def test_a_task_of_a_service_that_ends_by_itself_ends_the_process(body: Callable[[], Awaitable[Any]]) -> None:
    """I10: mode says nothing of either."""
    service = Lasting()
    await service.start()
    service.add_future(body())
    assert isinstance(await ended(service), EndedByItself)
    await service.stop()


async def test_a_service_that_is_told_to_stop_does_not_crash() -> None:
    service = Lasting()
    await service.start()
    service.add_future(asyncio.sleep(60))
    await asyncio.sleep(0)
    await service.stop()
    assert not service.crashed
