"""A topic of a real broker, and the readers with their lanes that read it, without the rest of a worker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from kafka import KafkaAdminClient
from kafka.structs import TopicPartition as AdminPartition

from connectors.clock import SystemClock
from crossdock.broker import Broker
from streams.admin import Admin
from streams.runtime.kafka import ConsumerRecord, Kafka
from streams.runtime.lanes import Hold, Lanes
from streams.runtime.reader import Batch, Group, Reader
from streams.topics import Topic

PARTITIONS = 2


@dataclass
class Member:
    """One worker's reader with its lanes, fed through a queue as an agent is fed through its channel."""

    reader: Reader
    lanes: Lanes
    handled: list[ConsumerRecord] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    feeding: "asyncio.Task[None] | None" = None

    def offsets(self, partition: int) -> list[int]:
        return [record.offset for record in self.handled if record.partition == partition]

    async def stop(self) -> None:
        """An orderly end; after a failure the end of a crash, whose process will come again under its name."""
        if self.failures:
            await self.reader.crash(self.failures[0])
        await self.reader.stop()
        if self.feeding is not None:
            self.feeding.cancel()


Work = Callable[[Member, TopicPartition, Sequence[ConsumerRecord], Hold], Awaitable[None]]


async def take(member: Member, tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
    member.handled += records


@dataclass
class Flow:
    """One topic of a real broker, and the members of one group that read it."""

    bootstrap: str
    topic: str
    members: list[Member] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"{self.topic}.enrich"

    async def produce(self, count: int, partition: int = 0) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        for number in range(count):
            await producer.send(self.topic, b"%d" % number, partition=partition)
        await producer.stop()

    async def join(self, work: Work = take, instance: str = "0", drain: float = 1.0) -> Member:
        queue: asyncio.Queue[Batch] = asyncio.Queue()
        kafka = Kafka(self.bootstrap, client_id=instance, security=None)
        reader = Reader(Group(self.group, (self.topic,), instance, drain), kafka, SystemClock(), queue.put)

        async def crash(error: BaseException) -> None:
            member.failures.append(error)

        async def own(tp: TopicPartition, records: Sequence[ConsumerRecord], hold: Hold) -> None:
            await work(member, tp, records, hold)

        async def stream() -> AsyncIterator[Batch]:
            while True:
                yield await queue.get()

        member = Member(reader, Lanes(reader, SystemClock(), own, crash))
        member.feeding = asyncio.create_task(member.lanes.run(stream()))
        self.members.append(member)
        await reader.start()
        return member

    def committed(self, partition: int = 0) -> tuple[int, str]:
        """Offset and metadata, as the broker has them; (0, "") where there is nothing."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            tp = AdminPartition(self.topic, partition)
            found = admin.list_group_offsets({self.group: [tp]})[self.group].get(tp)
            return (0, "") if found is None or found.offset < 0 else (found.offset, found.metadata or "")
        finally:
            admin.close()

    def members_at_the_broker(self) -> int:
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            return len(admin.describe_groups([self.group])[self.group]["members"])
        finally:
            admin.close()

    async def until_committed(self, offset: int, partition: int = 0) -> None:
        await eventually(lambda: asyncio.to_thread(lambda: self.committed(partition)[0] == offset))


@pytest.fixture
async def flow(broker: Broker, request: pytest.FixtureRequest) -> AsyncIterator[Flow]:
    name = f"t{abs(hash(request.node.name))}"

    def make() -> None:
        with Admin(broker.bootstrap) as admin:
            admin.ensure([Topic(name, PARTITIONS)])

    await asyncio.to_thread(make)
    flow = Flow(broker.bootstrap, name)
    yield flow
    for member in flow.members:
        await member.stop()


async def eventually(look: Callable[[], Awaitable[bool]], seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while not await look():  # noqa: ASYNC110 - most of what is waited for happens at the broker
            await asyncio.sleep(0.05)


async def until(condition: Callable[[], bool], seconds: float = 40) -> None:
    async def look() -> bool:
        return condition()

    await eventually(look, seconds)
