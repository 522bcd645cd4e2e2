"""Publishing: whole batches per partition, and no return before the broker has every record."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from schemas.event import Headers
from streams.runtime.kafka import Kafka, stop_quietly
from streams.runtime.pulse import beat
from streams.topics import Topic, partition_of

log = logging.getLogger("crossdock.streams.publisher")


NO_HEADERS: Headers = []


class Outgoing(NamedTuple):
    """A record on its way out."""

    key: bytes | None
    value: bytes | None
    headers: Headers = NO_HEADERS
    partition: int | None = None
    """None: by the key. Given where a record must lie beside another one, as a parked event beside its lane."""


Outputs = Mapping[Topic, Sequence[Outgoing]]


class Refused(Exception):
    """A record that the broker will never take. Only a change of the topic or of the record helps."""


class Publisher:
    """One idempotent producer for all agents of a worker.

    What it holds is what its callers wait for: a lane publishes one piece of work and goes on when the broker has it.
    """

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._producer: AIOKafkaProducer | None = None
        self._renewing = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._producer = self._kafka.producer()
        await self._producer.start()

    async def stop(self) -> None:
        for each in self._leaving:
            each.cancel()
        if self._producer is not None:
            await stop_quietly(self._producer)

    async def publish(self, outputs: Outputs) -> None:
        """Returns when the broker has all of it.

        While the broker is away this waits, and sends again what it may not have: readers tell repeats by their ids.
        Order within a partition holds, because the caller sends nothing else to it before this returns.

        Raises:
            Refused: a record is larger than its topic takes.
        """
        todo = [
            (topic, partition, records)
            for topic, items in outputs.items()
            if items
            for partition, records in by_partition(topic, items).items()
        ]
        while todo:
            producer = self._producer
            assert producer is not None
            results = await asyncio.gather(*(_deliver(producer, *item) for item in todo), return_exceptions=True)
            beat()
            failed = [(item, result) for item, result in zip(todo, results, strict=True) if result is not None]
            for (topic, partition, _), error in failed:
                if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
                    await self._renew(producer)
                    raise Refused(f"a record is too large for {topic.name}/{partition}") from error
                if not isinstance(error, KafkaError):
                    raise error
            todo = [item for item, _ in failed]
            if todo:
                log.warning("publish.delayed partitions=%d error=%r", len(todo), failed[0][1])
                if any(not getattr(error, "retriable", False) for _, error in failed):
                    await self._renew(producer)
                await asyncio.sleep(1.0)

    async def _renew(self, old: AIOKafkaProducer) -> None:
        """A new producer in the place of one that was refused: its sequence numbers have a gap, so that the broker
        would take nothing for that partition from it any more.
        """
        async with self._renewing:
            if self._producer is not old:
                return
            new = self._kafka.producer()
            try:
                await new.start()
            except KafkaError as error:
                log.info("publish.delayed partitions=0 error=%r", error)
                await stop_quietly(new)
                return
            self._producer = new
        leaving = asyncio.create_task(_let_go(old), name="old producer")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)


async def _let_go(producer: AIOKafkaProducer) -> None:
    """Others may still wait for what they gave it."""
    await producer.flush()
    await stop_quietly(producer)


def by_partition(topic: Topic, items: Sequence[Outgoing]) -> dict[int, list[Outgoing]]:
    """The records of each partition, in order. A record without key or partition goes to partition 0."""
    if topic.partitions == 1:
        return {0: list(items)}
    found: dict[int, list[Outgoing]] = {}
    for item in items:
        partition = item.partition
        if partition is None:
            partition = 0 if item.key is None else partition_of(item.key, topic.partitions)
        found.setdefault(partition, []).append(item)
    return found


async def _deliver(producer: AIOKafkaProducer, topic: Topic, partition: int, records: Sequence[Outgoing]) -> None:
    await asyncio.gather(*await send(producer, topic.name, partition, records))


async def send(
    producer: AIOKafkaProducer, topic: str, partition: int, records: Sequence[Outgoing]
) -> list["asyncio.Future[Any]"]:
    """Hands records to the producer in batches below its size; the futures tell when the broker has them."""
    futures: list[asyncio.Future[Any]] = []
    try:
        batch = producer.create_batch()
        for record in records:
            if batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers) is None:
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
        batch.close()  # an open one could be appended to by another sender
        futures.append(await producer.send_batch(batch, topic, partition=partition))
    except KafkaError:
        await asyncio.gather(*futures, return_exceptions=True)  # else their errors would never be retrieved
        raise
    return futures
