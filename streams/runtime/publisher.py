"""Publishing: whole batches per partition, and no return before the broker has every record."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.event import Headers
from streams.runtime.kafka import Kafka, stop_quietly
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


class Publisher:
    """One idempotent producer for all agents of a worker."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        self._producer = self._kafka.producer()
        await self._producer.start()

    async def stop(self) -> None:
        if self._producer is not None:
            await stop_quietly(self._producer)

    async def publish(self, outputs: Outputs) -> None:
        """Returns when the broker has all of it.

        While the broker is away this waits, and sends again what it may not have: readers tell repeats by their ids.
        Order within a partition holds, because the caller sends nothing else to it before this returns.
        """
        assert self._producer is not None
        producer = self._producer
        todo = [
            (topic, partition, records)
            for topic, items in outputs.items()
            if items
            for partition, records in by_partition(topic, items).items()
        ]
        while todo:
            results = await asyncio.gather(*(_deliver(producer, *item) for item in todo), return_exceptions=True)
            failed = [(item, result) for item, result in zip(todo, results, strict=True) if result is not None]
            for _, error in failed:
                if not isinstance(error, KafkaError):
                    assert error is not None
                    raise error
            todo = [item for item, _ in failed]
            if todo:
                log.warning("publish.delayed partitions=%d error=%r", len(todo), failed[0][1])
                await asyncio.sleep(1.0)


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
