"""Parked events and calls in doubt, through the write-back verb, in hand-moved time; crashes lose only memory."""

import dataclasses
from collections.abc import Iterator, Sequence, Set

import pytest
from hand_target import Scene

from connectors.config import IfChanged
from connectors.contract import Capabilities, Idempotency
from connectors.retry import Retrying
from schemas.change import Change, Op, canonical_key
from schemas.codec import decode, encode_change
from schemas.control import Resolution, Verdict, control_key
from schemas.event import headers_of
from schemas.outcome import Fate, Outcome
from schemas.receipt import Receipt, ReceiptRecord
from schemas.version import Version
from streams import intents, parking
from streams.aside import StandingAside
from streams.busy import HOUR, Busy
from streams.runtime.kafka import ConsumerRecord
from streams.runtime.publisher import Outputs
from streams.topics import HubTopics, PipelineTopics
from streams.writeback import Writeback, write_back

TOPICS, CONTROL = PipelineTopics.of("hub", "orders", 6), HubTopics.of("hub").control


def record(number: int, version: int) -> ConsumerRecord:
    """An event of `orders.enriched`."""
    change = Change(
        op=Op.UPSERT,
        key={"id": number},
        before=None,
        after={"id": number, "n": version},
        version=str(Version(1, version)),
        origin="erp/orders",
        event_id=f"erp/orders/{number}@{Version(1, version)}~00000000",
        time="2013-01-01T00:00:00.000000Z",
    )
    key, value = canonical_key(change.key), encode_change(change)
    return ConsumerRecord(TOPICS.enriched.name, 0, version, 0, 0, key, value, None, 0, 0, headers_of(change, b"c"))


class Lane:
    """One partition of one write-back, and the compacted topics that it would find after a crash."""

    def __init__(self, scene: Scene, *, idempotency: Idempotency = Idempotency.NATURAL, replaces: bool = True) -> None:
        self.scene = scene
        scene.system.capabilities = Capabilities(idempotency)
        self.writeback = Writeback(
            name="erp",
            pipeline="orders",
            prefix="hub",
            topics=TOPICS,
            config="c",
            target=dataclasses.replace(scene.target, sink=Retrying(scene.system, scene.clock)),
            match={"id": lambda scope: scope.key["id"]},
            fields={"n": lambda scope: (scope.after or {})["n"]},
            expected=None,
            if_changed="newer_comes",
            coalesce=0.0,
            replaces=replaces,
            echoes=True,
            busy=Busy(2, scene.clock),
            newest=self.newest,
            control=scene.control,  # type: ignore[arg-type]
            control_topic=CONTROL,
            clock=scene.clock,
        )
        self.compacted: dict[str, dict[bytes, ConsumerRecord]] = {TOPICS.parked.name: {}, TOPICS.intents.name: {}}
        self.latest: dict[bytes, str] = {}
        """Version of each key on `orders.latest`."""
        self.receipts: list[ReceiptRecord] = []
        self.told: list[list[str]] = []
        """Names of the headers of each receipt."""
        self.taken_back: list[bytes | None] = []
        self.restart()

    def restart(self) -> None:
        """Another worker takes over: all it knows is what stands on the topics."""
        self.aside = StandingAside(
            parking.found(["erp"], TOPICS.parked, 0, self.compacted[TOPICS.parked.name], self.scene.clock),
            intents.found(["erp"], TOPICS.intents, 0, self.compacted[TOPICS.intents.name]),
        )

    async def newest(self, partition: int, keys: Set[bytes]) -> dict[bytes, str]:
        assert partition == 0
        return {key: version for key, version in self.latest.items() if key in keys}

    async def publish(self, outputs: Outputs) -> None:
        for topic, records in outputs.items():
            for each in records:
                if topic == TOPICS.receipts:
                    self.receipts.append(decode(each.value or b"", ReceiptRecord))
                    self.told.append([name for name, _ in each.headers])
                elif topic == TOPICS.dead:
                    pass
                elif topic == CONTROL:
                    self.taken_back.append(each.key)
                else:
                    assert each.partition == 0
                    self._keep(self.compacted[topic.name], each.key or b"", each.value, each.headers)

    def _keep(
        self, held: dict[bytes, ConsumerRecord], key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> None:
        if value is None:
            held.pop(key, None)
        else:
            held[key] = ConsumerRecord("t", 0, len(self.receipts), 0, 0, key, value, None, 0, 0, headers)

    async def work(self, *records: ConsumerRecord) -> None:
        await self.publish(await write_back(records, [self.writeback], self.aside, self.scene.clock.hold, self.publish))

    def fates(self, number: int) -> list[tuple[int, Fate]]:
        """Of one key: version and fate, in order."""
        found = [each for each in self.receipts if each.key == {"id": number}]
        return [(Version.parse(each.version).position, each.fate) for each in found]

    async def later(self, seconds: float = 400) -> None:
        self.scene.clock.seconds += seconds
        await self.work()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.threads.shutdown()


async def test_a_sick_record_is_parked_and_written_when_it_is_well_again(scene: Scene) -> None:
    """I3: nothing of its key goes before it; other keys flow."""
    lane = Lane(scene)
    scene.system.sick = {1}
    await lane.work(record(1, 10), record(2, 11))
    assert lane.fates(1) == [(10, Fate.PARKED)]
    assert lane.fates(2) == [(11, Fate.APPLIED)]
    await lane.later()
    assert lane.fates(1) == [(10, Fate.PARKED)]
    scene.system.sick.clear()
    await lane.later()
    assert lane.fates(1) == [(10, Fate.PARKED), (10, Fate.APPLIED)]
    assert lane.compacted[TOPICS.parked.name] == {}
    assert lane.aside.next_due(scene.clock) is None


async def test_a_newer_version_takes_the_place_of_the_parked_one(scene: Scene) -> None:
    lane = Lane(scene)
    scene.system.sick = {1}
    await lane.work(record(1, 10), record(2, 11))
    await lane.work(record(1, 20))
    assert lane.fates(1) == [(10, Fate.PARKED), (10, Fate.SUPERSEDED), (20, Fate.PARKED)]
    scene.system.sick.clear()
    await lane.later()
    assert lane.fates(1)[3:] == [(20, Fate.APPLIED)]
    assert scene.system.applied[1] == 1


async def test_writes_that_each_add_something_wait_in_their_order(scene: Scene) -> None:
    """I3, where a newer version does not make the older one superfluous."""
    lane = Lane(scene, replaces=False)
    scene.system.sick = {1}
    await lane.work(record(1, 10), record(2, 11))
    await lane.work(record(1, 20))
    scene.system.sick.clear()
    await lane.later()
    await lane.later()
    assert lane.fates(1)[2:] == [(10, Fate.APPLIED), (20, Fate.APPLIED)]


async def test_what_is_parked_survives_the_worker(scene: Scene) -> None:
    """I1: another worker finds it, before it delivers anything newer."""
    lane = Lane(scene)
    scene.system.sick = {1}
    await lane.work(record(1, 10), record(2, 11))
    lane.restart()
    await lane.work(record(1, 20))
    assert lane.fates(1)[1:] == [(10, Fate.SUPERSEDED), (20, Fate.PARKED)]
    lane.restart()
    scene.system.sick.clear()
    await lane.later()
    assert lane.fates(1)[3:] == [(20, Fate.APPLIED)]


async def test_an_event_that_comes_again_after_a_crash_is_parked_once(scene: Scene) -> None:
    lane = Lane(scene, replaces=False)
    scene.system.sick = {1}
    await lane.work(record(1, 10), record(2, 11))
    lane.restart()
    await lane.work(record(1, 10), record(2, 11))
    scene.system.sick.clear()
    await lane.later()
    await lane.later()
    assert scene.system.applied[1] == 1


async def test_a_partition_with_too_much_parked_stands_still(scene: Scene) -> None:
    """I5: bounded."""
    lane = Lane(scene, replaces=False)
    scene.system.sick = {1, 2}
    await lane.work(record(1, 1), record(3, 2))
    for version in range(10, 10 + parking.MOST - 1):
        await lane.work(record(1, version))
    assert lane.aside.parked["erp"].full
    began = scene.clock.seconds
    scene.after(began + 1000, scene.system.sick.clear)
    await lane.work(record(2, 500), record(3, 501))
    assert scene.clock.seconds >= began + 1000
    assert scene.system.applied[2] in (0, 1)


async def test_nothing_parked_is_tried_while_the_system_itself_is_away(scene: Scene) -> None:
    lane = Lane(scene)
    scene.system.sick = {1}
    await lane.work(record(1, 10), record(2, 11))
    scene.gate.breaker.failed("away")
    calls = len(scene.system.calls)
    await lane.later()
    assert len(scene.system.calls) == calls


class Died(BaseException):
    """A SIGKILL, as far as one coroutine can have it."""


async def test_a_call_that_was_begun_by_somebody_who_died_is_in_doubt_and_never_repeated(scene: Scene) -> None:
    """I2, for targets that can tell nothing: the intent is with the broker before the call is made."""
    lane = Lane(scene, idempotency=Idempotency.NONE)
    put = scene.system.put

    def dies(*arguments: object) -> list[Receipt]:
        put(*arguments)  # type: ignore[arg-type]
        raise Died

    scene.system.put = dies  # type: ignore[method-assign]
    with pytest.raises(Died):
        await lane.work(record(1, 10))
    scene.system.put = put  # type: ignore[method-assign]
    lane.restart()
    await lane.work(record(1, 10))
    await lane.work(record(1, 20))
    assert lane.fates(1) == [(10, Fate.IN_DOUBT), (20, Fate.APPLIED)]
    assert scene.system.applied[1] == 2, "the call of the dead one, and the next version's"
    assert len(lane.compacted[TOPICS.intents.name]) == 1
    lane.restart()
    await lane.work(record(1, 10))
    assert scene.system.applied[1] == 2


async def test_a_call_without_an_answer_is_in_doubt(scene: Scene) -> None:
    lane = Lane(scene, idempotency=Idempotency.NONE)
    put = scene.system.put

    def unknown(writes: Sequence[object], deadline: float) -> list[Receipt]:
        return [Receipt(Outcome.UNKNOWN, reason="the connection was lost")] * len(writes)

    scene.system.put = unknown  # type: ignore[method-assign,assignment]
    await lane.work(record(1, 10), record(2, 11))
    scene.system.put = put  # type: ignore[method-assign]
    assert [lane.fates(n)[-1][1] for n in (1, 2)] == [Fate.IN_DOUBT, Fate.IN_DOUBT]


@pytest.mark.parametrize(
    ("verdict", "fate", "calls"),
    [
        (Verdict.APPLIED, Fate.APPLIED, 0),
        (Verdict.DISCARD, Fate.DISCARDED, 0),
        (Verdict.RETRY, Fate.APPLIED, 1),
    ],
)
async def test_a_person_ends_a_doubt_once(scene: Scene, verdict: Verdict, fate: Fate, calls: int) -> None:
    await test_a_call_without_an_answer_is_in_doubt(scene)
    lane = Lane(scene, idempotency=Idempotency.NONE)
    event = record(1, 10)
    lane.aside.intents["erp"].open.clear()
    name = f"hub/orders/erp/erp/orders/1@{Version(1, 10)}~00000000/live"
    begun = lane.aside.intents["erp"].begin(name, settled(event))
    await lane.publish({TOPICS.intents: [begun, lane.aside.intents["erp"].doubt(name)]})
    lane.restart()
    assert lane.aside.next_due(scene.clock) is not None
    scene.control.records[Resolution, name] = Resolution(
        write_id=name, verdict=verdict, by="anna", reason="looked", time=""
    )
    before = scene.system.applied[1]
    await lane.work()
    await lane.work()
    assert lane.fates(1) == [(10, fate)]
    assert scene.system.applied[1] == before + calls
    assert lane.taken_back == [control_key(Resolution, name)]
    assert lane.compacted[TOPICS.intents.name] == {}
    if verdict is Verdict.RETRY:
        assert lane.receipts[-1].write_id == name.replace("/live", "/replay:1")
        assert lane.receipts[-1].version == str(Version(1, 10, 1))


def settled(event: ConsumerRecord) -> intents.Incoming:
    found = intents.incoming_of(event)
    assert found is not None
    return found


async def test_a_record_that_is_written_to_too_often_waits_and_the_newest_is_written_in_the_end(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """I3, I8: other records go on, and nothing is refused."""
    lane = Lane(scene)
    for version in (10, 20, 30, 40):
        await lane.work(record(1, version), record(2, version + 1) if version == 10 else record(3, version + 1))
    assert lane.fates(1) == [
        (10, Fate.APPLIED),
        (20, Fate.APPLIED),
        (30, Fate.PARKED),
        (30, Fate.SUPERSEDED),
        (40, Fate.PARKED),
    ]
    assert caplog.text.count("record.too_busy writeback=erp") == 2, "once for each record in its hour"
    await lane.later(HOUR - 10)
    assert lane.fates(1)[-1] == (40, Fate.PARKED)
    await lane.later(20)
    assert lane.fates(1)[-1] == (40, Fate.APPLIED)
    assert lane.compacted[TOPICS.parked.name] == {}


async def test_only_the_receipt_of_a_change_at_the_target_tells_of_its_echo(scene: Scene) -> None:
    lane = Lane(scene)
    await lane.work(record(1, 10), record(2, 20), record(2, 21))
    told = {(each.key["id"], each.fate): names for each, names in zip(lane.receipts, lane.told, strict=True)}
    assert told == {(1, Fate.APPLIED): ["cd_echo"], (2, Fate.APPLIED): ["cd_echo"], (2, Fate.SUPERSEDED): []}


async def test_the_same_event_twice_in_a_batch_is_one_write_with_one_end(scene: Scene) -> None:
    """I1: a source that is read again gives the same version again."""
    lane = Lane(scene)
    await lane.work(record(1, 10), record(2, 11), record(1, 10))
    assert lane.fates(1) == [(10, Fate.APPLIED)]
    assert scene.system.applied[1] == 1


async def test_writes_that_each_add_something_are_all_made_also_in_one_batch(scene: Scene) -> None:
    """I1, I3"""
    lane = Lane(scene, replaces=False)
    await lane.work(record(1, 10), record(2, 11), record(1, 12), record(1, 12))
    assert lane.fates(1) == [(10, Fate.APPLIED), (12, Fate.APPLIED)]
    assert scene.system.calls == [[1, 2], [1]]


async def test_a_version_that_a_refused_one_had_overtaken_is_written(scene: Scene) -> None:
    """I4: what stands at the target does not depend on how the versions fell into batches."""
    lane = Lane(scene)
    scene.system.bad_versions = {str(Version(1, 30))}
    await lane.work(record(1, 10), record(1, 20), record(1, 30), record(2, 31))
    assert lane.fates(1) == [(30, Fate.DEAD), (20, Fate.APPLIED), (10, Fate.SUPERSEDED)]
    assert scene.system.applied[1] == 1


@pytest.mark.parametrize("if_changed", ["reread", "overwrite"])
async def test_nothing_is_written_over_a_newer_version_that_was_read_meanwhile(
    scene: Scene, if_changed: IfChanged
) -> None:
    """I3: a crash, or an offset that somebody moved back, brings the older version again after the newer one."""
    lane = Lane(scene)
    scene.system.etags = {1: "other", 2: "other"}
    target = dataclasses.replace(lane.writeback.target, reader=scene.system)
    lane.writeback = dataclasses.replace(
        lane.writeback, if_changed=if_changed, target=target, expected=lambda scope: "as it was read"
    )
    lane.latest = {canonical_key({"id": 1}): str(Version(1, 99)), canonical_key({"id": 2}): str(Version(1, 11))}
    await lane.work(record(1, 10), record(2, 11))
    assert lane.fates(1) == [(10, Fate.SUPERSEDED)]
    assert lane.fates(2) == [(11, Fate.APPLIED)]
    assert scene.system.applied == {2: 1}
