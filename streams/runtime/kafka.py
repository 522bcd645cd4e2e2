"""How the data plane reaches Kafka: the one place where aiokafka's clients are made."""

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from streams.runtime import insides

__all__ = [
    "Consumer",
    "ConsumerRecord",
    "Kafka",
    "KafkaError",
    "Security",
    "TopicPartition",
    "quiet_logs",
    "stop_quietly",
]

Consumer: TypeAlias = AIOKafkaConsumer

MAX_BATCH = 900_000
"""Bytes of one record batch: below the broker's limit of 1 MiB."""
FETCH, FETCH_PARTITION = 1 << 20, 256 << 10
"""Bytes of one answer, and of a partition in it: aiokafka holds them packed beside what the readers hold unpacked. A
batch that is larger comes whole."""
_NEVER = 10**12
_REQUEST_TIMEOUT = 120_000


@dataclass(frozen=True, slots=True)
class Kafka:
    """Address and safety of the cluster."""

    bootstrap: str
    client_id: str = "crossdock"
    security: "Security | None" = None

    def producer(self) -> AIOKafkaProducer:
        """Idempotent, all replicas; returns from `send_batch` futures only what the broker has."""
        return AIOKafkaProducer(
            acks="all", enable_idempotence=True, request_timeout_ms=_REQUEST_TIMEOUT, **self._common(), **_SIZES
        )

    def transactional(self, transactional_id: str) -> AIOKafkaProducer:
        """A producer that fences older owners of its id when it starts.

        The timeout is how long readers stall behind an owner that died inside a transaction.
        """
        return AIOKafkaProducer(
            acks="all",
            transactional_id=transactional_id,
            transaction_timeout_ms=15_000,
            request_timeout_ms=40_000,
            **self._common(),
            **_SIZES,
        )

    def member(self, group: str, instance: str, rebalance_timeout: float) -> AIOKafkaConsumer:
        """A static member of a group. It leaves only when it is told to, or silent for a session of 10 s.

        Partitions are given out by range: what has one number in several topics has one owner, as the live records of a
        partition and those of its backfill must have.

        The poll interval is off: aiokafka leaves the group when nobody fetches for that long, and never rejoins.
        """
        return AIOKafkaConsumer(
            group_id=group,
            group_instance_id=f"{group}.{instance}",
            session_timeout_ms=10_000,
            heartbeat_interval_ms=2_000,
            rebalance_timeout_ms=int(rebalance_timeout * 1000),
            max_poll_interval_ms=_NEVER,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            partition_assignment_strategy=(RangePartitionAssignor,),
            **_FETCHED,
            **self._common(),
        )

    def viewer(self, *, committed: bool = True, wait: float = 0.5) -> AIOKafkaConsumer:
        """A reader without a group.

        Args:
            committed: False = it also sees what open transactions have written.
            wait: seconds that the broker keeps a fetch at the end of a partition, and every other request with it.
        """
        return AIOKafkaConsumer(
            fetch_max_wait_ms=int(wait * 1000),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed" if committed else "read_uncommitted",
            **_FETCHED,
            **self._common(),
        )

    def client(self) -> AIOKafkaClient:
        """A bare client, for a question that consumers and producers do not ask."""
        return AIOKafkaClient(**self._common())

    def _common(self) -> dict[str, Any]:
        security = {} if self.security is None else self.security.arguments()
        return {"bootstrap_servers": self.bootstrap, "client_id": self.client_id, **security}


_SIZES: dict[str, Any] = {"max_batch_size": MAX_BATCH, "max_request_size": 5 << 20}
_FETCHED: dict[str, Any] = {"fetch_max_bytes": FETCH, "max_partition_fetch_bytes": FETCH_PARTITION}


@dataclass(frozen=True, slots=True)
class Security:
    """TLS, and SASL if a user is given."""

    context: ssl.SSLContext
    mechanism: str | None = None
    username: str | None = None
    password: str | None = None

    def arguments(self) -> dict[str, Any]:
        if self.username is None:
            return {"security_protocol": "SSL", "ssl_context": self.context}
        return {
            "security_protocol": "SASL_SSL",
            "ssl_context": self.context,
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }

    def __repr__(self) -> str:
        return f"Security(mechanism={self.mechanism!r}, username={self.username!r})"


STOP_PATIENCE = 5.0


async def stop_quietly(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Stops a client within a time: with the broker away, `stop()` alone would wait for it.

    A consumer's own end raises `CancelledError` where a fetch was under way; only ours is one.
    """
    try:
        await asyncio.wait_for(client.stop(), STOP_PATIENCE)
    except (KafkaError, TimeoutError, AssertionError, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        logging.getLogger("crossdock.streams.kafka").info("client.stopped_late error=%r", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(insides.hang_up(client), 1.0)


class _RateLimit(logging.Filter):
    """At most ten lines in ten seconds, per logger: while a broker is away aiokafka writes 180 a second."""

    def __init__(self) -> None:
        super().__init__()
        self._recent: deque[float] = deque(maxlen=10)

    def filter(self, record: logging.LogRecord) -> bool:
        if len(self._recent) == self._recent.maxlen and record.created - self._recent[0] < 10:
            return False
        self._recent.append(record.created)
        return True


LOGGERS = (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.consumer",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.consumer.subscription_state",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
)


def quiet_logs() -> None:
    """Limits what aiokafka's loggers may say."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(item, _RateLimit) for item in logger.filters):
            logger.addFilter(_RateLimit())
        logger.setLevel(logging.WARNING)
