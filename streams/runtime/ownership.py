"""Ownership: which worker runs which source task. Kafka's own group membership decides; there is no scheduler of ours.

A task belongs to the owner of partition CRC32(name) mod 64 of `crossdock.tasks`. Tasks that stay are kept running
through a rebalance; the transactional id of each makes an overlap of two owners harmless.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError, NoOffsetForPartitionError
from mode import Service

from streams.runtime.kafka import Kafka, stop_quietly
from streams.runtime.reader import Group
from streams.topics import ownership_partition

Body = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""A task's life; it ends soon after the event is set."""


class Ownership(Service, ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs the tasks that belong to this worker, and stops those that no longer do."""

    def __init__(self, group: Group, kafka: Kafka, bodies: Mapping[str, Body], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._group, self._kafka, self._bodies = group, kafka, bodies
        self._consumer: AIOKafkaConsumer | None = None
        self._running: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def label(self) -> str:
        return f"ownership {self._group.name}"

    @property
    def owned(self) -> list[str]:
        return sorted(self._running)

    async def on_start(self) -> None:
        self._consumer = self._kafka.member(self._group.name, self._group.instance, self._group.rebalance_timeout)
        self._consumer.subscribe(list(self._group.topics), listener=self)
        await self._consumer.start()

    async def on_stop(self) -> None:
        for name in list(self._running):
            self._release(name)
        if self._ending:
            await asyncio.wait(self._ending, timeout=self._group.drain)
        for task in self._ending:
            task.cancel()
        if self._consumer is not None:
            await stop_quietly(self._consumer)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing: stopping here would interrupt tasks that stay."""

    async def on_partitions_assigned(self, assigned: Any) -> None:
        mine = {tp.partition for tp in assigned}
        wanted = {name for name in self._bodies if ownership_partition(name) in mine}
        for name in set(self._running) - wanted:
            self._release(name)
        for name in sorted(wanted - set(self._running)):
            stop = asyncio.Event()
            task = asyncio.create_task(self._live(name, stop), name=f"source {name}")
            self._running[name] = (task, stop)
        self.log.info("tasks.assigned owned=%s", ",".join(self.owned) or "-")

    def _release(self, name: str) -> None:
        task, stop = self._running.pop(name)
        stop.set()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _live(self, name: str, stop: asyncio.Event) -> None:
        try:
            await self._bodies[name](stop)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a defect: the supervisor starts the process again
            await self.crash(error)

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch(self) -> None:
        """Nothing is ever written to the topic; reading it is how a fatal error of the group is noticed."""
        assert self._consumer is not None
        while not self.should_stop:
            try:
                await self._consumer.getmany(timeout_ms=1000)
            except NoOffsetForPartitionError:
                if assigned := self._consumer.assignment():
                    await self._consumer.seek_to_beginning(*assigned)
            except KafkaError as error:
                self.log.warning("ownership.interrupted error=%r", error)
                await self.sleep(1.0)
