"""Write-back: enriched events in; effects in a target, and a receipt for each.

decode -> writes -> the newest of each key -> deliver -> outcome -> fate. The outcome decides, never a caller's
`except`: a sick system is waited for, a sick record is parked, and only what is refused becomes a dead letter.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import msgspec

from connectors.clock import Clock
from connectors.config import IfChanged
from connectors.contract import Idempotency
from connectors.errors import CrossdockError
from connectors.failpoints import failpoint
from schemas.change import canonical_key
from schemas.control import Resolution, Verdict, control_key
from schemas.event import Headers
from schemas.outcome import Fate, Outcome
from schemas.receipt import Receipt
from schemas.version import Version
from schemas.write import Write, write_id
from streams.aside import StandingAside
from streams.busy import Busy
from streams.control import Control
from streams.delivery import Target, deliver, look
from streams.echo import told_of
from streams.gate import Hold
from streams.intents import Intents
from streams.metrics import METRICS
from streams.parking import Parked
from streams.runtime.kafka import ConsumerRecord
from streams.runtime.publisher import Outgoing, Outputs
from streams.scope import Getter, scope_of
from streams.settled import Incoming, Settled
from streams.statements import Wanted, each_in_its_turn, newest_of_each_key
from streams.topics import PipelineTopics, Topic

log = logging.getLogger("crossdock.streams.writeback")

Publish = Callable[[Outputs], Awaitable[None]]
Newest = Callable[[int, Set[bytes]], Awaitable[Mapping[bytes, str]]]
"""Partition and keys -> the newest version of each that the hub has read."""

TRIES_AFTER_CONFLICT = 3
PARKED_AT_ONCE = 10
"""Parked keys that are tried between two batches."""

FATES: Mapping[Outcome, Fate] = {
    Outcome.APPLIED: Fate.APPLIED,
    Outcome.UNCHANGED: Fate.UNCHANGED,
    Outcome.STALE: Fate.SUPERSEDED,
    Outcome.REJECTED: Fate.DEAD,
    Outcome.UNKNOWN: Fate.IN_DOUBT,
}
"""What an outcome becomes; `conflict` is decided by `if_changed`, and `retry` is never an end."""


@dataclass(frozen=True, slots=True)
class Writeback:
    """One write-back of one pipeline, as this worker runs it."""

    name: str
    pipeline: str
    prefix: str
    topics: PipelineTopics
    config: str
    target: Target
    match: Mapping[str, Getter]
    fields: Mapping[str, Getter]
    expected: Getter | None
    if_changed: IfChanged
    coalesce: float
    """Seconds that an event waits for newer ones of its key."""
    replaces: bool
    """A newer version of a key makes an older one that waits superfluous; false where each write adds something."""
    echoes: bool
    """It writes into the records that its pipeline reads, alone: its receipts tell what it wrote."""
    busy: Busy
    newest: Newest
    control: Control
    control_topic: Topic
    clock: Clock

    @property
    def once_only(self) -> bool:
        """Calls are never repeated: idempotency class `none`."""
        return self.target.sink.capabilities.idempotency is Idempotency.NONE

    def write(self, each: Incoming) -> Write:
        """The write that an event means."""
        scope = scope_of(each.event)
        return Write(
            write_id=write_id(self.prefix, self.pipeline, self.name, each.event_id, each.cause),
            key={theirs: get(scope) for theirs, get in self.match.items()},
            fields={theirs: get(scope) for theirs, get in self.fields.items()},
            version=each.event.version,
            expected=None if self.expected is None else self.expected(scope),
        )


async def write_back(
    records: Sequence[ConsumerRecord],
    writebacks: Sequence[Writeback],
    aside: StandingAside,
    hold: Hold,
    publish: Publish,
) -> Outputs:
    """Writes what these records ask for, and gives the receipts to publish before they may be acknowledged.

    Args:
        records: of one partition of `<p>.enriched`, in order; none = only what stands aside is looked at.
        writebacks: all of that pipeline into one system.
        aside: what stands aside of that partition.
        hold: waits for a sick system; the lane has nothing in hand meanwhile.
        publish: for what the broker must have before a call.
    """
    first = writebacks[0]
    settled = Settled(first.pipeline, first.topics, first.config, first.clock)
    incoming = settled.decode(records)
    for writeback in writebacks:
        passage = _Passage(
            writeback, settled, aside.parked[writeback.name], aside.intents[writeback.name], hold, publish
        )
        await passage.resolve_doubts()
        await passage.try_parked()
        await passage.take([each for each in incoming if each.only in (None, writeback.name)])
    METRICS.settled(first.pipeline, "write", settled.outcomes)
    failpoint("writeback_before_publish")
    return settled.outputs


@dataclass(frozen=True, slots=True)
class _Passage:
    """One batch through one write-back."""

    writeback: Writeback
    settled: Settled
    parked: Parked
    intents: Intents
    hold: Hold
    publish: Publish

    async def take(self, incoming: Sequence[Incoming]) -> None:
        wanted = [(each, self.writeback.write(each)) for each in incoming]
        for turn in [wanted] if self.writeback.replaces else each_in_its_turn(wanted):
            await self._in_one_statement(self._behind_parked(turn))

    async def _in_one_statement(self, wanted: Sequence[Wanted]) -> None:
        """The newest write of each key. One that is refused for good has overtaken nothing: then older ones count."""
        while wanted:
            newest, older = newest_of_each_key(wanted)
            failpoint("writeback_before_put")
            refused = await self._write(await self._not_too_busy(newest))
            wanted = []
            for each, write in older:
                if canonical_key(write.key) in refused:
                    wanted.append((each, write))
                else:
                    self._superseded(each, write, "a newer version of the key was in the same batch")

    async def _write(self, wanted: Sequence[Wanted]) -> set[bytes]:
        """Delivers, and settles each of them; what is sick alone is parked.

        Returns the keys whose write was refused for good.
        """
        wanted = await self._with_intents(wanted)
        writes = [write for _, write in wanted]
        receipts = await deliver(self.writeback.target, writes, self.hold) if writes else []
        failpoint("writeback_after_effect")
        receipts = await self._after_conflicts(wanted, receipts)
        for (each, write), receipt in zip(wanted, receipts, strict=True):
            if receipt.outcome is Outcome.RETRY:
                await self._room()
                self._nothing_open(write)
                self._park(each, write, receipt.reason or "")
            else:
                self._settle(each, write, receipt)
        ends = zip(writes, receipts, strict=True)
        return {canonical_key(write.key) for write, receipt in ends if receipt.outcome is Outcome.REJECTED}

    # Parked

    def _behind_parked(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """What may go on: events whose key waits are put behind it, or in its place."""
        if not self.parked.waiting:
            return list(wanted)
        free = []
        for each, write in wanted:
            key = canonical_key(write.key)
            waiting = self.parked.waiting.get(key)
            if waiting is None:
                free.append((each, write))
                continue
            reason = waiting.reason
            if self.writeback.replaces and not self.parked.holds(key, each):
                for old in list(waiting.events):
                    self._superseded(old, self.writeback.write(old), "a newer version of the key came while it waited")
                    self._aside(self.parked.topic, self.parked.replaced(key, old))
            self._park(each, write, reason)
        return free

    async def _not_too_busy(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """What may be written now: a record that was written to too often waits for its hour to end."""
        free = []
        for each, write in wanted:
            until = self.writeback.busy.until(canonical_key(write.key))
            if until is None:
                free.append((each, write))
                continue
            log.warning(
                "record.too_busy writeback=%s key=%s seconds=%d (newer events of it take its place; others go on)",
                self.writeback.name,
                canonical_key(write.key).decode(),
                until - self.writeback.clock.monotonic(),
            )
            await self._room()
            self._park(each, write, "too many writes within the hour", until)
        return free

    async def try_parked(self) -> None:
        """The first event of each key that is due: one call each, and none where the system itself is sick."""
        target = self.writeback.target
        for _, key in zip(range(PARKED_AT_ONCE), self.parked.due(), strict=False):
            if target.gate.state([target.writeback]).state != "running":
                return
            each = self.parked.waiting[key].events[0]
            write = self.writeback.write(each)
            if await self._with_intents([(each, write)]):
                try:
                    (receipt,) = await target.call(target.sink.once, [write])
                except CrossdockError as error:
                    receipt = Receipt(Outcome.RETRY, reason=str(error))
                failpoint("writeback_after_parked")
                if receipt.outcome is Outcome.RETRY:
                    self._nothing_open(write)
                    self.parked.again(key, receipt.reason or "")
                    continue
                (receipt,) = await self._after_conflicts([(each, write)], [receipt])
                self._settle(each, write, receipt)
            self._aside(self.parked.topic, self.parked.done(key, each))

    async def _room(self) -> None:
        """While too much is parked, the partition stands still."""
        while self.parked.full:
            await self.hold(1.0)
            await self.try_parked()

    def _park(self, each: Incoming, write: Write, reason: str, until: float | None = None) -> None:
        key = canonical_key(write.key)
        failpoint("writeback_before_park")
        if not self.parked.holds(key, each):
            self._aside(self.parked.topic, self.parked.park(key, each, reason, until))
        receipt = Receipt(Outcome.RETRY, reason=reason)
        self.settled.written(each, Fate.PARKED, write, self.writeback.name, receipt)

    # Calls that are never repeated

    async def _with_intents(self, wanted: Sequence[Wanted]) -> Sequence[Wanted]:
        """Writes them down before they are made. One that stands there already was begun by somebody who died."""
        if not self.writeback.once_only or not wanted:
            return wanted
        fresh = []
        for each, write in wanted:
            if write.write_id in self.intents.open:
                self._doubt(each, write, Receipt(Outcome.UNKNOWN, 0, reason="whoever began this call did not end it"))
            else:
                fresh.append((each, write))
        await self.publish({self.intents.topic: [self.intents.begin(write.write_id, each) for each, write in fresh]})
        failpoint("writeback_after_intent")
        return fresh

    def _nothing_open(self, write: Write) -> None:
        """The call has an end, if only that nothing happened: what is tried later is another call."""
        if write.write_id in self.intents.open:
            self._aside(self.intents.topic, self.intents.done(write.write_id))

    def _doubt(self, each: Incoming, write: Write, receipt: Receipt) -> None:
        failpoint("writeback_before_doubt")
        self._aside(self.intents.topic, self.intents.doubt(write.write_id))
        self.settled.written(each, Fate.IN_DOUBT, write, self.writeback.name, receipt)

    async def resolve_doubts(self) -> None:
        """Carries out what people found out."""
        control = self.writeback.control
        for name in sorted(self.intents.in_doubt):
            found = control.find(Resolution, name)
            if found is None:
                continue
            each = self.intents.open[name]
            self._aside(self.intents.topic, self.intents.done(name))
            self._aside(self.writeback.control_topic, Outgoing(control_key(Resolution, name), None))
            if found.verdict is Verdict.RETRY:
                again = _again(each)
                await self._write([(again, self.writeback.write(again))])
                continue
            happened = found.verdict is Verdict.APPLIED
            fate, outcome = (Fate.APPLIED, Outcome.APPLIED) if happened else (Fate.DISCARDED, Outcome.UNKNOWN)
            receipt = Receipt(outcome, 0, reason=f"said {found.by}: {found.reason}")
            self.settled.written(each, fate, self.writeback.write(each), self.writeback.name, receipt)

    # Ends

    async def _after_conflicts(self, wanted: Sequence[Wanted], receipts: list[Receipt]) -> list[Receipt]:
        """`if_changed: reread` and `overwrite`: read the target's version and write again, at most three times."""
        target = self.writeback.target
        if self.writeback.if_changed not in ("reread", "overwrite") or target.reader is None:
            return receipts
        for _ in range(TRIES_AFTER_CONFLICT):
            failed = [row for row, receipt in enumerate(receipts) if receipt.outcome is Outcome.CONFLICT]
            rows = await self._still_newest(failed, wanted, receipts)
            if not rows:
                break
            failpoint("writeback_before_reread")
            found = await look(target, target.reader, [wanted[row][1].key for row in rows], self.hold)
            again = {
                row: msgspec.structs.replace(wanted[row][1], expected=record["@version"])
                for row, record in zip(rows, found, strict=True)
                if record is not None
            }
            if not again:
                break
            for row, receipt in zip(again, await deliver(target, list(again.values()), self.hold), strict=True):
                receipts[row] = receipt
        return receipts

    async def _still_newest(
        self, rows: Sequence[int], wanted: Sequence[Wanted], receipts: list[Receipt]
    ) -> Sequence[int]:
        """Those that may be written over what stands there; the others are settled here as overtaken.

        What stands there may be our own write of a newer version: it was made before a crash, or before somebody moved
        the offset back, and the older one comes again first.
        """
        if not rows:
            return rows
        records = [wanted[row][0].record for row in rows]
        newest = await self.writeback.newest(records[0].partition, {record.key or b"" for record in records})
        left = []
        for row, record in zip(rows, records, strict=True):
            if newest.get(record.key or b"", "") <= wanted[row][1].version:
                left.append(row)
            else:
                reason = "a newer version of the record was read meanwhile"
                receipts[row] = Receipt(Outcome.STALE, receipts[row].attempts, reason=reason)
        return left

    def _settle(self, each: Incoming, write: Write, receipt: Receipt) -> None:
        """The one place where an outcome becomes a fate."""
        if receipt.outcome is Outcome.UNKNOWN and self.writeback.once_only:
            self._doubt(each, write, receipt)
            return
        self._nothing_open(write)
        if receipt.outcome is Outcome.CONFLICT:
            fate = Fate.SUPERSEDED if self.writeback.if_changed == "newer_comes" else Fate.DEAD
        else:
            fate = FATES[receipt.outcome]
        if fate is Fate.DEAD:
            code, reason = receipt.code or receipt.outcome.value, receipt.reason or "the target refused it"
            name = self.writeback.name
            self.settled.dead(each, "put", code, reason, write=write, writeback=name, receipt=receipt)
        else:
            headers: Headers = []
            if receipt.outcome is Outcome.APPLIED:
                self.writeback.busy.wrote(canonical_key(write.key))
                told = told_of(write, each) if self.writeback.echoes else None
                headers = [] if told is None else [told]
            self.settled.written(each, fate, write, self.writeback.name, receipt, headers=headers)

    def _superseded(self, each: Incoming, write: Write, reason: str) -> None:
        receipt = Receipt(Outcome.STALE, 0, reason=reason)
        self.settled.written(each, Fate.SUPERSEDED, write, self.writeback.name, receipt)

    def _aside(self, topic: Topic, record: Outgoing) -> None:
        self.settled.add(topic, record)


def _again(each: Incoming) -> Incoming:
    """The same event as another write: with a cause of its own, and a version above all that it had."""
    domain, position, number = Version.parse(each.event.version)
    version = str(Version(domain, position, number + 1))
    return each._replace(cause=f"replay:{number + 1}", event=msgspec.structs.replace(each.event, version=version))
