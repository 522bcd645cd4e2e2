"""Transactions of a task: records and the new offset or mark, all or nothing, and only by the task's present owner."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced

from connectors.failpoints import failpoint
from streams.runtime.kafka import Kafka, stop_quietly
from streams.runtime.publisher import Outgoing, by_partition, send
from streams.topics import Topic


class NotMine(Exception):
    """Fenced: another worker took the task over, or this one was too slow. The producer is dead."""


class Interrupted(Exception):
    """The transaction did not happen. The producer must be dropped; the task goes on from its stored offset."""


class TaskTransactions:
    """`async with TaskTransactions(...) as transactions:` takes the task over; after that no older owner can commit."""

    def __init__(self, kafka: Kafka, transactional_id: str) -> None:
        self._replays = transactional_id.endswith(".crossdock.replay")
        self._producer: AIOKafkaProducer = kafka.transactional(transactional_id)

    async def __aenter__(self) -> "TaskTransactions":
        try:
            await self._producer.start()
        except (KafkaError, AssertionError) as error:
            await stop_quietly(self._producer)
            raise Interrupted(f"taking over: {error!r}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await stop_quietly(self._producer)

    async def commit(self, outputs: Mapping[Topic, Sequence[Outgoing]]) -> None:
        """Writes all of it in one transaction and returns when it is committed.

        Raises:
            NotMine: fenced.
            Interrupted: Kafka is away or refused; nothing of it will ever be visible.
        """
        try:
            await self._producer.begin_transaction()
            await self._write(outputs)
            failpoint("replay_before_commit" if self._replays else "ingest_before_commit")
            await self._producer.commit_transaction()
        except ProducerFenced as error:
            raise NotMine(str(error)) from error
        except (KafkaError, AssertionError) as error:  # AssertionError: its state machine, after a fatal error
            raise Interrupted(repr(error)) from error

    async def _write(self, outputs: Mapping[Topic, Sequence[Outgoing]]) -> None:
        sending = [
            send(self._producer, topic.name, partition, records)
            for topic, items in outputs.items()
            for partition, records in by_partition(topic, items).items()
        ]
        sent = await asyncio.gather(*sending, return_exceptions=True)
        failpoint("ingest_after_send")
        futures = [future for found in sent if not isinstance(found, BaseException) for future in found]
        delivered = await asyncio.gather(*futures, return_exceptions=True)
        for result in (*sent, *delivered):
            if isinstance(result, BaseException):
                raise result
