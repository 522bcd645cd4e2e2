"""Offsets as they stand in `crossdock.offsets`, and how a person moves one.

| key                 | written                                          | holds                                     |
|---------------------|--------------------------------------------------|-------------------------------------------|
| `<task>`            | by its owner, in the transaction of each batch   | how far a source was read                 |
| `group/<subject>`   | by its reader, once a minute and at its end      | a group's commit: Kafka forgets its own   |
| `history/<subject>` | by the owner, in the same transaction as a move  | the last moves, and where it stood before |

A move (`set`, `reset`, `undo`) is a command on `crossdock.control`: the owner stops, writes the new offset with the
command's id, and goes on from there. With the id there it is carried out once, whoever owns the task by then.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from connectors.contract import TaskSpec
from connectors.errors import ConfigError
from schemas.change import Batch
from schemas.codec import Undecodable, decode, decode_event, encode
from schemas.control import OffsetMove, Trouble
from schemas.event import header
from schemas.values import JsonValue, Offset
from streams.runtime.compacted import TopicMissing, committed, newest_values
from streams.runtime.kafka import Kafka, TopicPartition
from streams.runtime.publisher import Outgoing
from streams.topics import Topic, ownership_partition

KEPT = 20
"""Moves that a history holds."""
_LOOKED_AT = 10_000
"""Records of other tasks that are looked at, per partition, before a task counts as new."""


class OffsetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How far one source task was read. Its key is the task's name."""

    cd_schema: int = 1
    task: str
    depends_on: str
    offset: dict[str, JsonValue] | None
    """None: a person decided that it begins at the beginning."""
    changes: int
    """Changes read by the task so far."""
    time: str
    newest: str | None = None
    """The newest version that was read since the last move: a source that is older than this was put back."""
    highest: str | None = None
    """The highest version ever."""
    parts: dict[str, JsonValue] = {}
    """What `depends_on` is a digest of, for the message when it differs."""
    move: str | None = None
    """Id of the last move."""
    live: bool = True
    """It has caught up: its changes are live. Before that, and again after a move, they are backfill."""


class PastMove(msgspec.Struct, frozen=True, kw_only=True):
    """One move, and the offset that stood before it."""

    id: str
    action: str
    before: JsonValue
    after: JsonValue
    by: str
    reason: str
    time: str
    depends_on: str | None = None
    """Of the source's offset before."""
    undone: bool = False


class OffsetHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The last moves of one subject, oldest first."""

    cd_schema: int = 1
    subject: str
    moves: list[PastMove] = []

    def undoable(self) -> PastMove | None:
        """The last `set` or `reset` that stands."""
        return next((each for each in reversed(self.moves) if each.action != "undo" and not each.undone), None)

    def allows(self, move: OffsetMove) -> bool:
        """Whether the move means the offset as it stands: an undo of what was undone meanwhile does not."""
        if move.action != "undo":
            return move.offset is None or isinstance(move.offset, dict | int)
        found = self.undoable()
        return found is not None and found.id == move.undoes

    def with_move(self, move: OffsetMove, before: JsonValue, depends_on: str | None = None) -> "OffsetHistory":
        """The history once the move is carried out."""
        undone = [msgspec.structs.replace(each, undone=True) if each.id == move.undoes else each for each in self.moves]
        added = PastMove(
            id=move.id,
            action=move.action,
            before=before,
            after=move.offset,
            by=move.by,
            reason=move.reason,
            time=move.time,
            depends_on=depends_on,
        )
        return OffsetHistory(subject=self.subject, moves=[*undone, added][-KEPT:])


class Halted(Exception):
    """A source task stands still until a person decides."""

    def __init__(self, trouble: Trouble, reason: str, command: str) -> None:
        super().__init__(reason)
        self.trouble, self.reason, self.command = trouble, reason, command


@dataclass(frozen=True, slots=True)
class Stored:
    """What stands there of one source task."""

    record: OffsetRecord | None
    history: OffsetHistory

    @property
    def move(self) -> str | None:
        """Id of the last move that was carried out."""
        return None if self.record is None else self.record.move

    @property
    def offset(self) -> dict[str, JsonValue] | None:
        return None if self.record is None else self.record.offset


def in_hub(pipeline: str, spec: TaskSpec) -> TaskSpec:
    """A task under its name in the hub, `<pipeline>/<system>.<object>`: several pipelines may read one table."""
    return replace(spec, name=f"{pipeline}/{spec.name}")


def at_source(task: str) -> str:
    """The name that its source gave to it."""
    return task.partition("/")[2]


def origin_of(task: str) -> str:
    """What `ce_source` of its changes holds: `/<system>/<object>`."""
    return f"/{at_source(task).replace('.', '/', 1)}"


async def was_read_before(kafka: Kafka, topics: Iterable[Topic], task: str) -> bool:
    """Whether changes of this task stand on Kafka. A task without an offset was never run, or lost it.

    Raises:
        KafkaError: Kafka does not answer.
        Halted: a topic is gone.
    """
    origin = origin_of(task)
    try:
        for partition in [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]:
            looked_at = 0
            async with contextlib.aclosing(committed(kafka, [partition])) as records:
                async for record in records:
                    if header(record.headers, "ce_source") == origin:
                        return True
                    looked_at += 1
                    if looked_at >= _LOOKED_AT:
                        break
    except TopicMissing as error:
        raise missing(task, str(error)) from error
    return False


async def highest_version(kafka: Kafka, latest: Topic) -> str | None:
    """The highest version that a pipeline ever emitted, out of the newest change of each key. Reads all of them.

    Raises:
        KafkaError: Kafka does not answer.
    """
    highest = ""
    for partition in range(latest.partitions):
        async with contextlib.aclosing(committed(kafka, [TopicPartition(latest.name, partition)])) as records:
            async for record in records:
                if record.value is not None:
                    highest = max(highest, decode_event(record.value).version)
    return highest or None


async def stored(kafka: Kafka, topic: Topic, task: TaskSpec) -> Stored:
    """The task's last committed offset. Call it only after the task was taken over.

    Raises:
        ConfigError: it cannot be read.
        Halted: the topic of the offsets is gone.
        KafkaError: Kafka does not answer.
    """
    keys = (task.name.encode(), history_key(task.name))
    try:
        found = await newest_values(kafka, topic, ownership_partition(task.name), keys.__contains__)
    except TopicMissing as error:
        raise missing(task.name, str(error)) from error
    record, history = (found.get(key) for key in keys)
    try:
        return Stored(
            None if record is None else decode(record, OffsetRecord),
            OffsetHistory(subject=task.name) if history is None else decode(history, OffsetHistory),
        )
    except Undecodable as error:
        raise ConfigError(f"the stored offset of {task.name} cannot be read: {error}") from error


def refuse_other_configuration(task: TaskSpec, record: OffsetRecord | None) -> None:
    """Raises Halted if the offset belongs to another table, mode, cursor, key or filter."""
    if record is None or record.depends_on == task.depends_on:
        return
    raise Halted(
        Trouble.OTHER_CONFIGURATION,
        f"the stored offset of {task.name} belongs to another configuration: {_differences(record.parts, task.parts)}. "
        "Put that back and start the worker anew, or decide where to read on: `crossdock offsets set` takes a time "
        "or a position, `crossdock offsets reset` begins at the beginning",
        f"crossdock offsets reset FOLDER {task.name}",
    )


def missing(task: str, said: str) -> Halted:
    return Halted(
        Trouble.MISSING,
        f"{task}: {said}. A worker makes it anew when it starts; then decide where each source goes on",
        "crossdock offsets show FOLDER",
    )


def lost(task: str, changes: str) -> Halted:
    return Halted(
        Trouble.LOST,
        f"{task} has no stored offset, and its changes stand on {changes}: the offsets topic was lost or made anew. "
        "Nothing is read again before you say so: `crossdock offsets reset` begins at the beginning (what was written "
        "finds itself done), `crossdock offsets set` takes a time or a position",
        f"crossdock offsets reset FOLDER {task}",
    )


def went_back(task: str, said: str) -> Halted:
    return Halted(
        Trouble.WENT_BACK,
        f"the source of {task} is older than what was read of it: {said}. Was it put back from a backup? What is "
        "changed in it from now on may have versions that were used already. If the source is right as it is, "
        "`crossdock offsets set` with a time or a position goes on from there",
        f"crossdock offsets set FOLDER {task} --time TIME",
    )


def _differences(before: Mapping[str, JsonValue], now: Mapping[str, JsonValue]) -> str:
    names = sorted({*before, *now}) if before and now else []
    changed = [name for name in names if before.get(name) != now.get(name)]
    told = [f"{name} was {_shown(before.get(name))} and is {_shown(now.get(name))}" for name in changed]
    return ", ".join(told) or "its table, mode, cursor, key or filter changed"


def _shown(value: JsonValue) -> str:
    return "not set" if value is None else encode(value).decode()


def first_record(task: TaskSpec) -> OffsetRecord:
    """The record of a task that has none."""
    return OffsetRecord(
        task=task.name,
        depends_on=task.depends_on,
        offset=None,
        changes=0,
        time="",
        parts=dict(task.parts),
        live=False,
    )


def moved(task: TaskSpec, at: Stored, move: OffsetMove, to: Offset | None, time: str) -> Stored:
    """What is to be stored for a move. An undo that came too late changes nothing but the note that it was seen.

    Args:
        task: its present configuration holds from now on.
        at: where it stands.
        move: the command.
        to: the offset that the command means, with the numbers of the source's own going on.
        time: now.
    """
    before = at.record or first_record(task)
    if not at.history.allows(move):
        return Stored(msgspec.structs.replace(before, move=move.id), at.history)
    record = OffsetRecord(
        task=task.name,
        depends_on=task.depends_on,
        offset=None if to is None else dict(to),
        changes=before.changes,
        time=time,
        parts=dict(task.parts),
        highest=before.highest,
        move=move.id,
        live=False,
    )
    return Stored(record, at.history.with_move(move, before.offset, before.depends_on))


def caught_up(record: OffsetRecord) -> OffsetRecord:
    """The same, with changes that are live from now on."""
    return record if record.live else msgspec.structs.replace(record, live=True)


def followed(record: OffsetRecord, batch: Batch, time: str) -> OffsetRecord:
    """The record after a batch."""
    top = max((change.version for change in batch.changes), default="")
    return msgspec.structs.replace(
        record,
        offset=dict(batch.offset),
        changes=record.changes + len(batch.changes),
        newest=max(record.newest or "", top) or None,
        highest=max(record.highest or "", top) or None,
        time=time,
    )


def outgoing(record: OffsetRecord) -> Outgoing:
    """The offset as a record. Its topic is partitioned like the tasks' ownership."""
    return Outgoing(record.task.encode(), encode(record))


def outgoing_history(history: OffsetHistory, partition: int) -> Outgoing:
    """It lies where its subject's offset lies."""
    return Outgoing(history_key(history.subject), encode(history), partition=partition)


def history_key(subject: str) -> bytes:
    return f"history/{subject}".encode()
