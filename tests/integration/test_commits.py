"""Where a group starts, against a real broker: what Kafka forgot, deleted or made anew is never jumped over."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
from aiokafka import AIOKafkaProducer
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as AdminPartition

from connectors.clock import SystemClock
from crossdock.broker import Broker
from crossdock.ports import free_port
from schemas.codec import decode
from schemas.control import OffsetMove, Stopped, Trouble
from streams.admin import Admin
from streams.commits import Commits
from streams.control import Control
from streams.offsets import OffsetHistory, history_key
from streams.runtime.compacted import newest_values
from streams.runtime.kafka import Kafka
from streams.runtime.publisher import Outgoing, Publisher
from streams.runtime.reader import Batch, Group, Reader
from streams.standing import GroupOffset, mirror_key
from streams.topics import HubTopics, Topic, enrich_group

RECORDS = 20
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


@dataclass
class Flow:
    """One topic of two partitions, one group, and its reader, which acknowledges all that it gets."""

    bootstrap: str
    prefix: str
    admin: Admin
    publisher: Publisher
    control: Control
    seen: list[tuple[int, int]] = field(default_factory=list)
    reader: Reader | None = None
    commits: Commits | None = None

    @property
    def topic(self) -> Topic:
        return Topic(f"{self.prefix}.orders.changes", 2)

    @property
    def group(self) -> str:
        return enrich_group(self.prefix, "main")

    def subject(self, partition: int) -> str:
        return f"enrich.main/orders.changes/{partition}"

    async def produce(self, count: int = RECORDS) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        for number in range(count):
            for partition in range(2):
                await producer.send(self.topic.name, b"%d" % number, partition=partition)
        await producer.stop()

    async def start(self) -> None:
        async def take(batch: Batch) -> None:
            self.seen += [(record.partition, record.offset) for record in batch.records]
            batch.acknowledge()

        kafka = Kafka(self.bootstrap)
        self.commits = Commits(
            self.prefix,
            self.group,
            [self.topic],
            kafka=kafka,
            publisher=self.publisher,
            control=self.control,
            clock=SystemClock(),
        )
        group = Group(self.group, (self.topic.name,), "0", 1.0)
        self.reader = Reader(group, kafka, SystemClock(), take, self.commits)
        await self.reader.start()

    async def stop(self) -> None:
        if self.reader is not None and not self.reader.should_stop:
            await self.reader.stop()

    async def read_to(self, *ends: int) -> None:
        """Runs until each partition was committed up to there, and stops."""
        await self.start()
        for partition, end in enumerate(ends):
            await self.until(lambda: self.committed(partition) == end)  # noqa: B023 - awaited inside the loop
        await self.stop()

    def committed(self, partition: int) -> int | None:
        return self.admin.places(self.group, self.topic.name)[partition].committed

    def seen_of(self, partition: int) -> list[int]:
        return [offset for number, offset in self.seen if number == partition]

    async def empty(self) -> None:
        """A static member is missed only after its session."""
        await self.until(lambda: self.admin.members(self.group) == [])

    async def forget(self) -> None:
        """As Kafka does with a group that was empty for seven days."""
        await self.empty()
        told = await asyncio.to_thread(self.admin._client.delete_groups, [self.group])
        assert told == {self.group: "OK"}

    def mirrored(self, partition: int) -> GroupOffset | None:
        value = self.admin.newest(HubTopics.of(self.prefix).offsets.name).get(mirror_key(self.subject(partition)))
        return None if value is None else decode(value, GroupOffset)

    async def until(self, condition: Callable[[], object]) -> None:
        await eventually(lambda: asyncio.to_thread(condition))

    async def until_stopped(self, partition: int) -> Stopped:
        await eventually(lambda: _now(self.control.find(Stopped, self.subject(partition)) is not None))
        found = self.control.find(Stopped, self.subject(partition))
        assert found is not None
        return found

    async def move(self, partition: int, offset: int | None, **extra: str) -> str:
        number = f"move-{next(_numbers)}"
        action = "reset" if offset is None else "set"
        record = OffsetMove(
            **{"subject": self.subject(partition), "id": number, "action": action, "offset": offset, **extra},
            by="Ada",
            reason="to see it",
            time="now",
        )
        await self.control.put(record)
        return number


async def _now(value: bool) -> bool:
    return value


async def eventually(look: Callable[[], Awaitable[object]], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await look():  # noqa: ASYNC110 - most of what is waited for happens at the broker
            await asyncio.sleep(0.1)


@pytest.fixture
async def flow(broker: Broker) -> AsyncIterator[Flow]:
    prefix, kafka = f"h{next(_numbers)}", Kafka(broker.bootstrap)
    admin = await asyncio.to_thread(Admin, broker.bootstrap)
    topics = HubTopics.of(prefix)
    publisher = Publisher(kafka)
    flow = Flow(broker.bootstrap, prefix, admin, publisher, Control(kafka, topics.control, publisher))
    await asyncio.to_thread(admin.ensure, [*topics.all(), flow.topic])
    await publisher.start()
    await flow.control.follower.start()
    yield flow
    await flow.stop()
    await flow.control.follower.stop()
    await publisher.stop()
    await asyncio.to_thread(admin.close)


async def test_a_group_that_kafka_forgot_goes_on_from_its_mirrored_commits(
    flow: Flow, caplog: pytest.LogCaptureFixture
) -> None:
    """I1: Kafka forgets the commits of a group that is empty for seven days."""
    await flow.produce()
    await flow.read_to(RECORDS, RECORDS)
    await flow.forget()
    await flow.produce(5)
    flow.seen.clear()
    await flow.read_to(RECORDS + 5, RECORDS + 5)
    assert flow.seen_of(0) == list(range(RECORDS, RECORDS + 5))
    assert f"offset.restored group={flow.group} topic={flow.topic.name} partition=0 offset={RECORDS}" in caplog.text


async def test_a_partition_that_neither_kafka_nor_the_mirror_knows_stops_and_the_other_goes_on(flow: Flow) -> None:
    """I1, I10: and a group that is new begins at the beginning; only a person tells the two apart here."""
    await flow.produce()
    await flow.read_to(RECORDS, RECORDS)
    assert flow.seen_of(0) == list(range(RECORDS))
    await flow.forget()
    topics = HubTopics.of(flow.prefix)
    assert flow.commits is not None
    tombstone = Outgoing(mirror_key(flow.subject(0)), None, partition=flow.commits._partition)
    await flow.publisher.publish({topics.offsets: [tombstone]})
    await flow.produce(5)
    flow.seen.clear()
    await flow.start()
    stopped = await flow.until_stopped(0)
    assert (stopped.trouble, stopped.command) == (Trouble.LOST, f"crossdock offsets reset FOLDER {flow.subject(0)}")
    await flow.until(lambda: flow.committed(1) == RECORDS + 5)
    assert (flow.seen_of(0), flow.seen_of(1)) == ([], list(range(RECORDS, RECORDS + 5)))


async def test_records_that_were_deleted_unread_stop_their_partition_until_a_person_decides(flow: Flow) -> None:
    """I1: retention passed the offset. The command decides, is carried out once, and is kept."""
    await flow.produce()
    await flow.read_to(RECORDS, RECORDS)
    await flow.produce()
    deleted = {AdminPartition(flow.topic.name, 0): RECORDS + 7}
    await asyncio.to_thread(flow.admin._client.delete_records, deleted)
    flow.seen.clear()
    await flow.start()
    stopped = await flow.until_stopped(0)
    assert (stopped.trouble, stopped.reason) == (
        Trouble.RETENTION_PASSED,
        f"the 7 records from {RECORDS} on were deleted before they were read",
    )
    await flow.until(lambda: flow.committed(1) == 2 * RECORDS)
    assert flow.seen_of(0) == []
    number = await flow.move(0, None)
    await flow.until(lambda: flow.committed(0) == 2 * RECORDS)
    assert flow.seen_of(0) == list(range(RECORDS + 7, 2 * RECORDS))
    await eventually(lambda: _now(flow.control.find(Stopped, flow.subject(0)) is None))
    mirrored = await asyncio.to_thread(flow.mirrored, 0)
    assert mirrored is not None
    assert mirrored.move == number
    stored = await asyncio.to_thread(flow.admin.newest, HubTopics.of(flow.prefix).offsets.name)
    (past,) = decode(stored[history_key(flow.subject(0))], OffsetHistory).moves
    assert (past.action, past.before, past.by) == ("reset", RECORDS, "Ada")
    await flow.stop()
    flow.seen.clear()
    await flow.produce(1)
    await flow.read_to(2 * RECORDS + 1, 2 * RECORDS + 1)
    assert flow.seen_of(0) == [2 * RECORDS], "the move was carried out once"


async def test_a_topic_that_was_made_anew_stops_its_partitions_though_the_offset_lies_in_it(flow: Flow) -> None:
    """I1: the same name and enough records, but not the ones that were read."""
    await flow.produce()
    await flow.read_to(RECORDS, RECORDS)
    await asyncio.to_thread(flow.admin._client.delete_topics, [flow.topic.name])
    await eventually(lambda: asyncio.to_thread(lambda: bool(flow.admin.ensure([flow.topic]))))
    await flow.produce(2 * RECORDS)
    flow.seen.clear()
    await flow.start()
    for partition in range(2):
        assert (await flow.until_stopped(partition)).trouble is Trouble.RECREATED
        await flow.move(partition, None)
    for partition in range(2):
        await flow.until(lambda: flow.committed(partition) == 2 * RECORDS)  # noqa: B023
        assert flow.seen_of(partition) == list(range(2 * RECORDS))


async def test_an_offset_beyond_the_end_of_its_topic_stops_its_partition(flow: Flow) -> None:
    """As after an unclean election, or a cluster that was put back from a backup."""
    await flow.produce()
    await flow.read_to(RECORDS, RECORDS)
    await flow.empty()
    moved = {AdminPartition(flow.topic.name, 0): OffsetAndMetadata(RECORDS + 100, "", None)}
    await asyncio.to_thread(flow.admin._client.alter_group_offsets, flow.group, moved)
    await flow.start()
    assert (await flow.until_stopped(0)).trouble is Trouble.BEYOND_THE_END


async def test_a_running_reader_moves_where_a_person_says_and_notices_a_topic_that_is_made_anew(flow: Flow) -> None:
    """I10: the other partition only begins anew, and what is written twice finds itself done."""
    await flow.produce()
    await flow.start()
    await flow.until(lambda: (flow.committed(0), flow.committed(1)) == (RECORDS, RECORDS))
    flow.seen.clear()
    await flow.move(0, 15)
    await eventually(lambda: _now(flow.seen_of(0) == list(range(15, RECORDS))))
    assert flow.seen_of(1) == []
    assert flow.commits is not None
    await asyncio.to_thread(flow.admin._client.delete_topics, [flow.topic.name])
    await eventually(lambda: asyncio.to_thread(lambda: bool(flow.admin.ensure([flow.topic]))))
    await flow.produce(2 * RECORDS)
    flow.commits._mirror_due = 0.0
    for partition in range(2):
        assert (await flow.until_stopped(partition)).trouble is Trouble.RECREATED
    assert await asyncio.to_thread(lambda: flow.committed(0)) in (None, RECORDS), (
        "nothing of the new topic is committed"
    )


async def test_what_is_committed_behind_an_open_transaction_of_another_task_is_seen(flow: Flow) -> None:
    """I2: a task that takes over would else go on from an older offset than its own last one."""
    offsets, kafka = HubTopics.of(flow.prefix).offsets, Kafka(flow.bootstrap)
    other, own = kafka.transactional("other"), kafka.transactional("own")
    await other.start()
    await own.start()
    try:
        await other.begin_transaction()
        await (await other.send(offsets.name, b"x", key=b"other", partition=3))
        async with own.transaction():
            await own.send(offsets.name, b"1", key=b"own", partition=3)
        looking = asyncio.create_task(newest_values(kafka, offsets, 3, b"own".__eq__))
        done, _ = await asyncio.wait([looking], timeout=2.0)
        assert not done, "what stands behind it is not known yet"
        await other.abort_transaction()
        assert await looking == {b"own": b"1"}
    finally:
        await other.stop()
        await own.stop()
