"""Ownership: which worker runs which source task. Kafka's own group membership decides; there is no scheduler of ours.

A task belongs to the owner of partition CRC32(name) mod 64 of `crossdock.tasks`. Tasks that stay are kept running
through a rebalance; the transactional id of each makes an overlap of two owners harmless.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError, NoOffsetForPartitionError
from mode import Service

from connectors.clock import Clock
from streams.runtime import insides
from streams.runtime.kafka import Kafka, stop_quietly
from streams.runtime.lasting import EndedByItself, Lasting, crashing, unless, was_cancelled
from streams.runtime.pulse import Pulse, living
from streams.runtime.reader import Group
from streams.topics import ownership_partition

Body = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""A task's life; it ends soon after the event is set, and never before."""


class Ownership(Lasting, ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs the tasks that belong to this worker, and stops those that no longer do."""

    def __init__(
        self,
        group: Group,
        kafka: Kafka,
        clock: Clock,
        bodies: Mapping[str, Body],
        watched: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        """`watched`: the tasks that rest when they wait, so that one that does nothing else is stuck."""
        super().__init__(**kwargs)
        self._watched = frozenset(watched)
        self.group, self._kafka, self._clock, self._bodies = group, kafka, clock, bodies
        self._consumer: AIOKafkaConsumer | None = None
        self._running: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._pulses: dict[str, Pulse] = {}
        self.hurry = asyncio.Event()
        """Set: nothing is waited for any more."""

    @property
    def label(self) -> str:
        return f"ownership {self.group.name}"

    @property
    def owned(self) -> list[str]:
        return sorted(self._running)

    @property
    def pulses(self) -> list[Pulse]:
        """Of the watched tasks that run here."""
        return [self._pulses[name] for name in self._running if name in self._watched]

    async def on_start(self) -> None:
        self._consumer = self._kafka.member(self.group.name, self.group.instance, self.group.rebalance_timeout)
        self._consumer.subscribe(list(self.group.topics), listener=self)
        await self._consumer.start()

    async def on_stop(self) -> None:
        for name in list(self._running):
            self._release(name)
        if self._ending:
            await unless(self.hurry, self._ended())
        for task in self._ending:
            task.cancel()
        if self._consumer is not None:
            if not self.crashed:
                insides.leave_at_stop(self._consumer)  # a task that still hangs is fenced by its next owner
            await stop_quietly(self._consumer)

    async def _ended(self) -> None:
        await asyncio.wait(self._ending, timeout=self.group.drain)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing: stopping here would interrupt tasks that stay."""

    @crashing
    async def on_partitions_assigned(self, assigned: Any) -> None:
        mine = {tp.partition for tp in assigned}
        wanted = {name for name in self._bodies if ownership_partition(name) in mine}
        for name in set(self._running) - wanted:
            self._release(name)
        for name in sorted(wanted - set(self._running)) if not self.should_stop else ():
            stop = asyncio.Event()
            self._pulses[name] = Pulse(f"source {name}", self._clock)
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
            with living(self._pulses[name]):
                await self._bodies[name](stop)
            if not stop.is_set():
                raise EndedByItself(f"source task {name}")
        except BaseException as error:  # a defect: the supervisor starts the process again
            if isinstance(error, asyncio.CancelledError) and was_cancelled():
                raise
            await self.crash(error)

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch(self) -> None:
        """Nothing is ever written to the topic; reading it is how a fatal error of the group is noticed."""
        assert self._consumer is not None
        while not self.should_stop:
            try:
                insides.check_errors(self._consumer)
                await self._consumer.getmany(timeout_ms=1000)
            except NoOffsetForPartitionError:
                await self._begin_at_the_beginning()
            except KafkaError as error:
                self.log.warning("ownership.interrupted error=%r", error)
                await self.sleep(1.0)

    async def _begin_at_the_beginning(self) -> None:
        assert self._consumer is not None
        try:
            if assigned := self._consumer.assignment():
                await self._consumer.seek_to_beginning(*assigned)
        except KafkaError as error:  # taken away a moment ago
            self.log.info("ownership.interrupted error=%r", error)
