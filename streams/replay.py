"""Replay: what people want done with dead letters, done once, by one owner.

```
take over -> read control to its end -> each command without a mark: letter -> last outcome -> event + mark -> control
                                                                                       (one transaction)
```
A command is a record of `crossdock.control`. As taking over comes first, no older owner can carry out a command that
this one finds without a mark; as the event and the mark are one transaction, neither a crash nor two people who want
the same make two events of one letter. What is newer at the target wins through the version, as for any event.
"""

import asyncio
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from connectors.clock import Clock
from connectors.failpoints import failpoint
from schemas.codec import Undecodable, decode
from schemas.control import Command, Discard, Edit, Mark, Replay
from schemas.dead_letter import DeadLetter
from schemas.values import rfc3339
from streams.backoff import backoff, wait_for_stop
from streams.control import outgoing, read_record
from streams.fates import Fates
from streams.letters import NotSendable, again, discarded
from streams.marks import Marks, subject_of
from streams.runtime.kafka import Kafka, KafkaError, TopicPartition
from streams.runtime.publisher import Outgoing
from streams.runtime.transaction import Interrupted, NotMine, TaskTransactions
from streams.runtime.view import View
from streams.topics import HubTopics, PipelineTopics, Topic, partition_of

log = logging.getLogger("crossdock.streams.replay")

TASK = "crossdock.replay"
"""Its name among the tasks of `crossdock.tasks`."""
AT_ONCE = 50
"""Letters in one transaction."""
BYTES_AT_ONCE = 4 << 20
CALM = 60.0
"""Seconds after which an interruption is a new one, and not the last one going on."""


class Found(NamedTuple):
    """A command and its letter, if that can be read."""

    command: Command
    at: int
    """The letter's offset."""
    letter: DeadLetter | None
    end: int
    """Of the topic that the letter is on."""


class Done:
    """What one transaction will hold."""

    def __init__(self) -> None:
        self.outputs: dict[Topic, list[Outgoing]] = {}
        self.marks: list[Mark] = []

    def add(self, topic: Topic, record: Outgoing) -> None:
        self.outputs.setdefault(topic, []).append(record)


@dataclass(frozen=True, slots=True)
class Replayer:
    """The replayer of a hub, as this worker would run it."""

    prefix: str
    kafka: Kafka
    pipelines: Mapping[str, PipelineTopics]
    clock: Clock

    async def run(self, stop: asyncio.Event) -> None:
        """Lives until `stop` is set, or the task turns out to be somebody else's."""
        tries = 0
        while not stop.is_set():
            began = self.clock.monotonic()
            try:
                await self._own(stop)
            except NotMine:
                log.info("task.fenced task=%s (another worker owns it now, or this one was too slow)", TASK)
                await wait_for_stop(stop, 2.0)
            except (Interrupted, KafkaError) as error:
                tries = 1 if self.clock.monotonic() - began > CALM else tries + 1
                wait = backoff(tries, 30.0)
                log.warning("task.waits task=%s seconds=%.1f reason=%r", TASK, wait, error)
                await wait_for_stop(stop, wait)

    async def _own(self, stop: asyncio.Event) -> None:
        transactional_id = f"{self.prefix}.{TASK}"
        async with TaskTransactions(self.kafka, transactional_id) as transactions, View(self.kafka) as control:
            marks = Marks()
            expired = await self._read(control, marks)
            for some in (expired[start : start + 1000] for start in range(0, len(expired), 1000)):
                await transactions.commit({HubTopics.of(self.prefix).control: some})
            while not stop.is_set():
                await self._carry_out(marks, transactions, stop)
                for record in await control.following():
                    _take(marks, record.value)

    async def _read(self, control: View, marks: Marks) -> list[Outgoing]:
        """Takes all that was said about letters; gives tombstones for what was done with letters that have expired."""
        dead = {name: TopicPartition(topics.dead.name, 0) for name, topics in self.pipelines.items()}
        beginnings = {name: await control.beginning(tp) for name, tp in dead.items()}
        expired = []
        async for record in control.all(TopicPartition(HubTopics.of(self.prefix).control.name, 0)):
            about = _take(marks, record.value)
            if about is not None and _offset(about) < beginnings.get(about.letter.rpartition("/")[0], 0):
                expired.append((about, Outgoing(record.key, None)))
        return [tombstone for about, tombstone in expired if not marks.waits(about.name)]

    async def _carry_out(self, marks: Marks, transactions: TaskTransactions, stop: asyncio.Event) -> None:
        """All commands that wait. The connection for letters and receipts lives as long as there are any."""
        if not marks.waiting:
            return
        async with View(self.kafka, wait=0.02) as view:
            fates = Fates(view)
            while (some := _some(marks.waiting)) and not stop.is_set():
                began = self.clock.monotonic()
                done = await self._done(some, marks, view, fates)
                failpoint("replay_before_transaction")
                await transactions.commit(done.outputs)
                failpoint("replay_after_commit")
                for mark in done.marks:
                    marks.take(mark)
                refused = [mark for mark in done.marks if mark.refused is not None]
                log.info("commands.carried_out count=%d refused=%d", len(done.marks), len(refused))
                if isinstance(some[0], Replay):
                    await wait_for_stop(stop, len(done.marks) / some[0].rate - (self.clock.monotonic() - began))

    async def _done(self, commands: Sequence[Command], marks: Marks, view: View, fates: Fates) -> Done:
        """What these commands come to, or the first of them, where their letters are large."""
        found = await self._letters(commands, view)
        await self._read_fates([each.letter for each in found if each.letter is not None], fates)
        done = Done()
        for each in found:
            mark = self._mark(each, marks, fates, done)
            marks.take(mark)  # a second command about the same letter finds it done
            done.marks.append(mark)
            done.add(HubTopics.of(self.prefix).control, outgoing(mark))
        return done

    async def _letters(self, commands: Sequence[Command], view: View) -> list[Found]:
        """Commands with their letters, in the letters' order."""
        found: list[Found] = []
        left = BYTES_AT_ONCE
        for pipeline, some in _by_letter(commands).items():
            topics = self.pipelines.get(pipeline)
            if topics is None:
                found += [Found(command, 0, None, 0) for each in some.values() for command in each]
                continue
            tp = TopicPartition(topics.dead.name, 0)
            records = await view.records(tp, sorted(some), left)
            end = await view.end(tp)
            for offset, record in records.items():
                value = None if record is None else record.value
                left -= len(value or b"")
                found += [Found(command, offset, _letter(value), end) for command in some[offset]]
            if left <= 0:
                break
        return found

    async def _read_fates(self, letters: Sequence[DeadLetter], fates: Fates) -> None:
        earliest: dict[TopicPartition, datetime] = {}
        for letter in letters:
            receipts = self.pipelines[letter.pipeline].receipts
            partition = 0 if letter.key is None else partition_of(letter.key, receipts.partitions)
            tp, seen = TopicPartition(receipts.name, partition), datetime.fromisoformat(letter.last_seen)
            earliest[tp] = min(seen, earliest.get(tp, seen))
        for tp, since in earliest.items():
            await fates.read(tp, since)

    def _mark(self, found: Found, marks: Marks, fates: Fates, done: Done) -> Mark:
        """Carries one command out, into `done`, and says what became of it."""
        command, letter = found.command, found.letter
        cause, refused = None, None
        if letter is None:
            refused = "there is no such letter any more, or none that this worker can read"
        elif before := marks.done(letter, found.at):
            refused = f"it is done with already: {before}"
        elif ended := fates.otherwise(letter):
            refused = f"its last outcome is {ended.fate.value} ({ended.write_id or ended.event_id}, {ended.time})"
        else:
            try:
                last = max(marks.last_cause(subject_of(letter)), fates.last_cause(letter))
                cause = self._carried_out(command, letter, last, done)
            except NotSendable as error:
                refused = str(error)
        return Mark(
            command=command.name,
            verb=command.verb,
            letter=command.letter,
            identity=None if letter is None else letter.identity,
            through=found.end,
            subject=None if letter is None else subject_of(letter),
            cause=cause,
            refused=refused,
            by=command.by,
            reason=command.reason,
            asked=command.time,
            time=rfc3339(self.clock.now()),
        )

    def _carried_out(self, command: Command, letter: DeadLetter, last: int, done: Done) -> str | None:
        """The cause of the event that was sent. Raises NotSendable."""
        topics = self.pipelines[letter.pipeline]
        if isinstance(command, Discard):
            receipt = discarded(letter, self.prefix, command.by, command.reason, rfc3339(self.clock.now()))
            if receipt is not None:
                done.add(topics.receipts, receipt)
            return None
        after = command.after if isinstance(command, Edit) else None
        sent = again(letter, command.verb, topics, last, after)
        done.add(sent.topic, sent.outgoing)
        return sent.cause


def _take(marks: Marks, value: bytes | None) -> Command | Mark | None:
    """The record, if it is about a letter."""
    if value is None:
        return None
    try:
        record = read_record(value)
    except Undecodable:
        return None  # `streams.control` tells of it, on every worker
    if not isinstance(record, Command | Mark):
        return None
    marks.take(record)
    return record


def _some(waiting: Collection[Command]) -> list[Command]:
    """The first commands that can go together: of one rate, and few enough to keep it even within a second."""
    first = next(iter(waiting), None)
    rate = _rate(first)
    count = AT_ONCE if rate is None else max(1, min(AT_ONCE, int(rate / 4)))
    return list(itertools.islice(itertools.takewhile(lambda each: _rate(each) == rate, waiting), count))


def _rate(command: Command | None) -> float | None:
    return command.rate if isinstance(command, Replay) else None


def _by_letter(commands: Sequence[Command]) -> dict[str, dict[int, list[Command]]]:
    """By pipeline and offset of the letter."""
    found: dict[str, dict[int, list[Command]]] = {}
    for command in commands:
        pipeline, number = command.letter.rpartition("/")[0], _offset(command)
        found.setdefault(pipeline if number >= 0 else "", {}).setdefault(number, []).append(command)
    return found


def _offset(about: Command | Mark) -> int:
    """Of its letter; -1 where its id is none."""
    offset = about.letter.rpartition("/")[2]
    return int(offset) if offset.isascii() and offset.isdecimal() else -1


def _letter(value: bytes | None) -> DeadLetter | None:
    if value is None:
        return None
    try:
        return decode(value, DeadLetter)
    except Undecodable:
        return None
