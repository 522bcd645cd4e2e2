"""The replayer against a real broker: commands are carried out once, whatever happens to the one that does it."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from kafka.structs import TopicPartition as AdminPartition

from connectors.clock import SystemClock
from crossdock.broker import Broker
from crossdock.ports import free_port
from schemas.codec import decode, encode
from schemas.control import Command, Discard, Edit, Mark, Replay
from schemas.dead_letter import DeadLetter
from schemas.event import cause_of
from schemas.outcome import Fate
from schemas.receipt import ReceiptRecord
from schemas.values import rfc3339
from schemas.version import Version
from streams.admin import Admin
from streams.control import outgoing, read_record
from streams.replay import AT_ONCE, Replayer
from streams.runtime.kafka import ConsumerRecord, Kafka
from streams.runtime.publisher import Outgoing, Publisher
from streams.topics import HubTopics, PipelineTopics, Topic

CLOCK = SystemClock()
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def admin(broker: Broker) -> Iterator[Admin]:
    with Admin(broker.bootstrap) as one:
        yield one


@dataclass
class Hub:
    """The topics of a hub with one pipeline, a producer for what its lanes would write, and its replayer."""

    prefix: str
    kafka: Kafka
    publisher: Publisher
    admin: Admin

    @property
    def topics(self) -> PipelineTopics:
        return PipelineTopics.of(self.prefix, "risk", 2)

    @property
    def control(self) -> Topic:
        return HubTopics.of(self.prefix).control

    def replayer(self) -> Replayer:
        return Replayer(self.prefix, self.kafka, {"risk": self.topics}, CLOCK)

    @asynccontextmanager
    async def replaying(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        running = asyncio.create_task(self.replayer().run(stop))
        try:
            yield
        finally:
            stop.set()
            await running

    async def refused(self, count: int = 1, **other: Any) -> list[str]:
        """So many letters and their receipts, each about a flight of its own; their ids."""
        first = len(await self.read(self.topics.dead))
        letters = [a_letter(self.topics, number, **other) for _, number in zip(range(count), numbers, strict=False)]
        await self.publisher.publish(
            {
                self.topics.dead: [Outgoing(each.key, encode(each)) for each in letters],
                self.topics.receipts: [receipt(each, Fate.DEAD) for each in letters if each.stage != "decode"],
            }
        )
        return [f"risk/{first + row}" for row in range(count)]

    async def letter(self, number: str) -> DeadLetter:
        return decode((await self.read(self.topics.dead))[int(number[5:])].value, DeadLetter)

    async def ask(self, *commands: Command) -> None:
        await self.publisher.publish({self.control: [outgoing(each) for each in commands]})  # type: ignore[arg-type]

    async def read(self, topic: Topic) -> list[ConsumerRecord]:
        return await asyncio.to_thread(lambda: list(self.admin.read(topic.name)))

    async def marks(self, count: int) -> list[Any]:
        """All marks, once there are so many."""
        async with asyncio.timeout(60):
            while True:
                records = await self.read(self.control)
                found = [read_record(each.value) for each in records if each.value and b"mark/" in (each.key or b"")]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.05)

    async def sent(self) -> list[ConsumerRecord]:
        return await self.read(self.topics.enriched)


@pytest.fixture
async def hub(broker: Broker, admin: Admin) -> AsyncIterator[Hub]:
    prefix = f"hub{next(numbers)}"
    kafka = Kafka(broker.bootstrap)
    topics = [*HubTopics.of(prefix).all(), *PipelineTopics.of(prefix, "risk", 2).all()]
    await asyncio.to_thread(admin.ensure, topics)
    publisher = Publisher(kafka)
    await publisher.start()
    yield Hub(prefix, kafka, publisher, admin)
    await publisher.stop()


def a_letter(topics: PipelineTopics, number: int, **other: Any) -> DeadLetter:
    version, now = str(Version(1, number)), rfc3339(CLOCK.now())
    key = {"id": number}
    fields: dict[str, Any] = {
        "event_id": f"flightops/flights/{number}@{version}~00000000",
        "pipeline": "risk",
        "writeback": "flightops",
        "stage": "put",
        "code": "23514",
        "reason": "refused",
        "fingerprint": "0",
        "topic": topics.enriched.name,
        "partition": 0,
        "offset": number,
        "key": encode(key),
        "value": encode({"op": "upsert", "key": key, "after": {**key, "distance": 1}, "version": version}),
        "headers": [("cd_version", version.encode()), ("cd_config", b"c0ffee")],
        "first_seen": now,
        "last_seen": now,
    }
    return DeadLetter(**{**fields, **other})


def receipt(letter: DeadLetter, fate: Fate, cause: str = "live", writeback: str | None = "flightops") -> Outgoing:
    assert letter.event_id is not None
    record = ReceiptRecord(
        event_id=letter.event_id,
        write_id=f"hub/risk/{writeback}/{letter.event_id}/{cause}",
        pipeline="risk",
        writeback=writeback,
        key=decode(letter.key or b"{}", dict[str, Any]),
        version="",
        fate=fate,
        time=rfc3339(CLOCK.now()),
    )
    return Outgoing(letter.key, encode(record))


def replay(letter: str, rate: float = 1000.0) -> Replay:
    return Replay(**said(letter), rate=rate)


def said(letter: str) -> dict[str, Any]:
    return {
        "name": f"{letter}#{next(numbers)}",
        "letter": letter,
        "by": "ada",
        "reason": "fixed",
        "time": rfc3339(CLOCK.now()),
    }


def transactions(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.getMessage().startswith("commands.carried_out") for record in caplog.records)


def refusals(marks: Sequence[Mark]) -> list[str | None]:
    return [mark.refused for mark in marks]


async def test_two_people_who_want_the_same_letter_send_it_once(hub: Hub) -> None:
    """I2: the second is told what the first did, also when both asked before anybody carried it out."""
    (letter,) = await hub.refused()
    await hub.ask(replay(letter), replay(letter))
    async with hub.replaying():
        await hub.marks(2)
        await hub.ask(replay(letter))
        marks = await hub.marks(3)
    assert refusals(marks) == [None, "it is done with already: replay:1", "it is done with already: replay:1"]
    assert [(mark.by, mark.reason) for mark in marks] == [("ada", "fixed")] * 3
    (event,) = await hub.sent()
    assert cause_of(event.headers) == ("replay:1", "flightops")


async def test_two_replayers_at_once_send_a_letter_once(hub: Hub) -> None:
    """I2: as when a worker lost its task and does not know it yet. The older one is shut out."""
    letters = await hub.refused(40)
    async with hub.replaying():
        await hub.ask(*map(replay, letters))
        async with hub.replaying():
            await hub.marks(40)
            (late,) = await hub.refused()
            await hub.ask(replay(late))
            marks = await hub.marks(41)
    assert refusals(marks) == [None] * 41
    assert len(await hub.sent()) == 41


async def test_a_transaction_that_was_never_committed_leaves_neither_event_nor_mark(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: the command still waits, and whoever takes over carries it out."""
    (letter,) = await hub.refused()
    await hub.ask(replay(letter))
    reached = asyncio.Event()

    async def never(producer: AIOKafkaProducer) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(AIOKafkaProducer, "commit_transaction", never)
        dying = asyncio.create_task(hub.replayer().run(asyncio.Event()))
        await asyncio.wait_for(reached.wait(), 30)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    assert not await hub.sent()
    async with hub.replaying():
        assert refusals(await hub.marks(1)) == [None]
    assert len(await hub.sent()) == 1


async def test_a_letter_whose_event_was_applied_after_all_is_not_sent_again(hub: Hub) -> None:
    """I7: it came again after a crash, and the second attempt succeeded. So its refusal was not the last word."""
    applied, other, refused = await hub.refused(3)
    first, second = await hub.letter(applied), await hub.letter(other)
    found = {hub.topics.receipts: [receipt(first, Fate.APPLIED), receipt(second, Fate.APPLIED, writeback="registry")]}
    await hub.publisher.publish(found)
    await hub.ask(replay(applied), replay(other), replay(refused))
    async with hub.replaying():
        marks = await hub.marks(3)
    assert refusals(marks)[1:] == [None, None]
    assert (marks[0].refused or "").startswith(f"its last outcome is applied (hub/risk/flightops/{first.event_id}/live")
    assert {event.key for event in await hub.sent()} == {(await hub.letter(each)).key for each in (other, refused)}


async def test_an_event_that_was_enriched_after_all_is_not_enriched_again(hub: Hub) -> None:
    (letter,) = await hub.refused(stage="guard-in", writeback=None, topic=hub.topics.changes.name)
    written = await hub.letter(letter)
    await hub.publisher.publish({hub.topics.receipts: [receipt(written, Fate.DEAD)]})
    await hub.ask(replay(letter), Discard(**said(letter)))
    async with hub.replaying():
        marks = await hub.marks(2)
    assert [(mark.refused or "")[:24] for mark in marks] == ["its last outcome is dead"] * 2
    assert not await hub.read(hub.topics.changes)


async def test_a_refusal_of_what_was_sent_again_is_a_letter_of_its_own_with_the_next_cause(hub: Hub) -> None:
    (letter,) = await hub.refused()
    first = await hub.letter(letter)
    await hub.ask(replay(letter))
    async with hub.replaying():
        await hub.marks(1)
        (event,) = await hub.sent()
        await hub.publisher.publish({hub.topics.receipts: [receipt(first, Fate.DEAD, "replay:1")]})
        again = a_letter(
            hub.topics, 0, event_id=first.event_id, key=event.key, value=event.value, headers=list(event.headers)
        )
        await hub.publisher.publish({hub.topics.dead: [Outgoing(again.key, encode(again))]})
        await hub.ask(replay("risk/1"))
        marks = await hub.marks(2)
    assert [mark.cause for mark in marks] == ["replay:1", "replay:2"]
    assert [cause_of(event.headers)[0] for event in await hub.sent()] == ["replay:1", "replay:2"]


async def test_a_cause_that_only_a_receipt_tells_of_is_counted_too(hub: Hub) -> None:
    """A person's verdict on a call in doubt makes a write without any mark: no cause is used twice."""
    (letter,) = await hub.refused()
    found = await hub.letter(letter)
    await hub.publisher.publish({hub.topics.receipts: [receipt(found, Fate.DEAD, "replay:4")]})
    await hub.ask(replay(letter))
    async with hub.replaying():
        (mark,) = await hub.marks(1)
    assert mark.cause == "replay:5"


async def test_a_copy_from_a_second_delivery_is_done_with_its_first_and_a_later_refusal_is_open(hub: Hub) -> None:
    (letter,) = await hub.refused()
    copy = Outgoing((await hub.letter(letter)).key, encode(await hub.letter(letter)))
    await hub.publisher.publish({hub.topics.dead: [copy]})
    await hub.ask(replay(letter))
    async with hub.replaying():
        await hub.marks(1)
        await hub.publisher.publish({hub.topics.dead: [copy]})
        await hub.ask(replay("risk/1"), replay("risk/2"))
        marks = await hub.marks(3)
    assert refusals(marks) == [None, "it is done with already: replay:1", None]
    assert [mark.cause for mark in marks] == ["replay:1", None, "replay:2"]


async def test_letters_that_are_gone_or_cannot_be_sent_are_answered_and_the_others_go_on(hub: Hub) -> None:
    large, good = await hub.refused(stage="produce", value=None), await hub.refused()
    gone = ["risk/999", "unknown/1", "nonsense"]
    await hub.ask(*map(replay, [*gone, *large, *good]))
    async with hub.replaying():
        marks = {mark.letter: mark.refused for mark in await hub.marks(5)}
    assert marks.pop(good[0]) is None
    assert "too large" in (marks.pop(large[0]) or "")
    assert all("no such letter" in (marks[each] or "") for each in gone)
    assert len(await hub.sent()) == 1


async def test_a_discard_is_a_receipt_and_an_edit_an_event(hub: Hub) -> None:
    """Each with its mark; what was discarded is not sent any more."""
    one, other = await hub.refused(2)
    await hub.ask(Discard(**said(one)), replay(one), Edit(**said(other), after=msgspec.Raw(b'{"id":2,"distance":500}')))
    async with hub.replaying():
        marks = await hub.marks(3)
    assert [(mark.verb, mark.cause, mark.refused) for mark in marks] == [
        ("discard", None, None),
        ("replay", None, "it is done with already: discard"),
        ("edit", "edit:1", None),
    ]
    (event,) = await hub.sent()
    assert decode(event.value, dict[str, Any])["after"] == {"id": 2, "distance": 500}
    records = [decode(each.value, ReceiptRecord) for each in await hub.read(hub.topics.receipts)]
    assert [each.fate for each in records].count(Fate.DISCARDED) == 1


async def test_letters_go_no_faster_than_their_rate(hub: Hub) -> None:
    letters = await hub.refused(12)
    await hub.ask(*(replay(each, rate=2.0) for each in letters))
    async with hub.replaying():
        moments = sorted(datetime.fromisoformat(mark.time) for mark in await hub.marks(12))
    assert moments[-1] - moments[0] > timedelta(seconds=11 / 2 - 0.5)


async def test_more_letters_than_a_transaction_holds_go_each_once(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "crossdock.streams.replay")
    count = 3 * AT_ONCE + 7
    letters = await hub.refused(count)
    await hub.ask(*(replay(each, rate=10_000.0) for each in letters))
    async with hub.replaying():
        marks = await hub.marks(count)
    assert sorted(mark.letter for mark in marks) == sorted(letters)
    assert len(await hub.sent()) == count
    assert transactions(caplog) >= 4


async def test_a_replayer_stops_amid_many_letters_and_the_next_one_goes_on(hub: Hub) -> None:
    letters = await hub.refused(30)
    await hub.ask(*(replay(each, rate=10.0) for each in letters))
    async with hub.replaying():
        await hub.marks(4)
    left = 30 - len(await hub.sent())
    assert left > 0
    async with hub.replaying():
        marks = await hub.marks(30)
    assert sorted(mark.letter for mark in marks) == sorted(letters)
    assert len(await hub.sent()) == 30


async def test_large_letters_go_in_several_transactions(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """I5: what is held at a time is bounded by bytes."""
    caplog.set_level(logging.INFO, "crossdock.streams.replay")
    value = encode({"op": "upsert", "key": {}, "after": {"text": "x" * 1_500_000}, "version": str(Version(1, 1))})
    letters = await hub.refused(6, value=value)
    await hub.ask(*map(replay, letters))
    async with hub.replaying():
        marks = await hub.marks(6)
    assert refusals(marks) == [None] * 6
    assert len(await hub.sent()) == 6
    assert transactions(caplog) == 2  # a letter is 2 MB there: 4 MiB, and the one that goes over them


async def test_a_worker_of_an_older_release_passes_over_commands_that_it_does_not_know(hub: Hub) -> None:
    (letter,) = await hub.refused()
    await hub.publisher.publish({hub.control: [Outgoing(b"x", b'{"type":"of-tomorrow"}'), Outgoing(b"y", None)]})
    await hub.ask(replay(letter))
    async with hub.replaying():
        assert refusals(await hub.marks(1)) == [None]


async def test_what_was_done_with_a_letter_is_forgotten_when_the_letter_has_expired(hub: Hub) -> None:
    """`crossdock.control` is compacted and never ends by itself."""
    old, young = await hub.refused(2)
    await hub.ask(replay(old), replay(young))
    async with hub.replaying():
        await hub.marks(2)

    beginning = {AdminPartition(hub.topics.dead.name, 0): 1}
    await asyncio.to_thread(hub.admin._client.delete_records, beginning)
    async with hub.replaying():
        await hub.ask(replay(young))
        await hub.marks(3)
    left = {record.key: record.value for record in await hub.read(hub.control)}
    assert {(key or b"").partition(b"#")[0] for key, value in left.items() if value is not None} == {
        f"replay/{young}".encode(),
        f"mark/{young}".encode(),
    }
    assert len(await hub.sent()) == 2


async def test_receipts_older_than_the_letter_do_not_speak_about_it(hub: Hub) -> None:
    """An event that was applied long ago and is refused today - the target lost a right - can be sent again."""
    letter = a_letter(hub.topics, next(numbers))
    await hub.publisher.publish({hub.topics.receipts: [receipt(letter, Fate.APPLIED)]})
    later = a_letter(
        hub.topics,
        0,
        event_id=letter.event_id,
        key=letter.key,
        last_seen=rfc3339(CLOCK.now() + timedelta(milliseconds=1)),
    )
    await hub.publisher.publish({hub.topics.receipts: [receipt(letter, Fate.DEAD)]})
    await hub.publisher.publish({hub.topics.dead: [Outgoing(later.key, encode(later))]})
    await hub.ask(replay("risk/0"))
    async with hub.replaying():
        assert refusals(await hub.marks(1)) == [None]
