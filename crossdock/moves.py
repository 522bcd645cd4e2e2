"""Moving an offset: what it would mean, and the command that asks for it.

Nothing is moved from here. A move is a command on `crossdock.control`, and the owner of the task or of the partition
carries it out between two batches; without a worker it waits for one.
"""

import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from connectors.clock import Clock
from connectors.contract import Countable, Rewindable, SourceTask
from connectors.errors import ConfigError, CrossdockError
from crossdock.offsets import Offsets, StoredPartition, StoredTask, chosen, offsets_of
from schemas.control import OffsetMove
from schemas.values import JsonValue, Offset, rfc3339
from streams.control import outgoing
from streams.topics import HubTopics, tasks_group

Action = Literal["set", "reset", "undo"]
WAIT = 0.3
"""Seconds between two looks whether it was made."""


class Wish(NamedTuple):
    """What a person wants, and why: the command carries all of it."""

    subject: str
    action: Action
    by: str
    reason: str
    offset: JsonValue = None
    """Of a `set`; else it follows from the action."""
    moment: datetime | None = None
    """Of a `set`, in place of an offset."""


def move(folder: Path, wish: Wish, clock: Clock, *, yes: bool, wait: float) -> dict[str, Any]:
    """What a move would mean; with `yes` it is asked for, and `done` says whether it was made within the wait.

    Raises:
        ConfigError: there is no such subject, nothing to undo, an offset that does not fit, a move that waits.
        Retriable: Kafka does not answer.
    """
    with offsets_of(folder, clock) as offsets:
        tasks, partitions = offsets.tasks(), offsets.partitions()
        names = chosen(wish.subject, tasks, partitions)
        if wish.action == "set" and len(names) > 1:
            raise ConfigError(f"{wish.subject} is {len(names)} partitions; name one: {names[0]}")
        plans = [
            _of_task(offsets, tasks[name], wish)
            if name in tasks
            else _of_partition(offsets, name, partitions[name], wish)
            for name in names
        ]
        told = {"action": wish.action, "by": wish.by, "reason": wish.reason, "moves": [plan.row() for plan in plans]}
        if not yes:
            return {**told, "asked": False, "done": False}
        moves = [plan.command(wish, rfc3339(clock.now())) for plan in plans]
        topic = HubTopics.of(offsets.prefix).control.name
        offsets.admin.append(topic, [(record.key or b"", record.value) for record in map(outgoing, moves)])
        done = _wait(offsets, {each.subject: each.id for each in moves}, wait)
        return {**told, "asked": True, "done": done, "workers": len(offsets.admin.members(tasks_group(offsets.prefix)))}


class _Plan(NamedTuple):
    """One move, and what it would mean."""

    subject: str
    before: JsonValue
    after: JsonValue
    again: int | None
    """Records that would be read again; None = nobody can tell."""
    skipped: int | None
    note: str = ""
    undoes: str | None = None

    def row(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name != "undoes"}

    def command(self, wish: Wish, now: str) -> OffsetMove:
        return OffsetMove(
            subject=self.subject,
            id=f"{now}-{secrets.token_hex(4)}",
            action=wish.action,
            offset=self.after,
            undoes=self.undoes,
            by=wish.by,
            reason=wish.reason,
            time=now,
        )


def _of_task(offsets: Offsets, each: StoredTask, wish: Wish) -> _Plan:
    name = each.spec.name
    target, undoes = _target(offsets, name, each.move, wish, each.spec.depends_on)
    if target is not None and not isinstance(target, dict):
        raise ConfigError(
            f"the offset of {name} is a JSON object, as `crossdock offsets show` shows it; not {target!r}"
        )
    total = offsets.configuration.systems[each.system.name].timeouts.total.total_seconds()
    deadline = offsets.clock.monotonic() + total
    try:
        each.task.open(None if wish.moment is not None else target)
    except ConfigError:
        raise
    except CrossdockError as error:
        if wish.moment is not None:
            raise
        return _Plan(name, each.offset, target, None, None, f"the source does not answer: {error}", undoes)
    try:
        if wish.moment is not None:
            target = _at(name, each.task, wish.moment)
        again, skipped, note = _counted(each, target, deadline)
    finally:
        each.task.close()
    return _Plan(name, each.offset, target, again, skipped, note, undoes)


def _at(name: str, task: SourceTask, moment: datetime) -> dict[str, JsonValue]:
    if not isinstance(task, Rewindable):
        raise ConfigError(f"the source of {name} has no times; give a position, as `crossdock offsets show` shows it")
    return dict(task.offset_at(moment))


def _counted(each: StoredTask, target: Offset | None, deadline: float) -> tuple[int | None, int | None, str]:
    """Records to be read again, and records to be skipped."""
    if not isinstance(each.task, Countable):
        return None, None, "this source cannot count"
    present = each.offset
    try:
        again = each.task.count_between(target, present, deadline)
        skipped = 0 if target is None else each.task.count_between(present, target, deadline)
    except CrossdockError as error:
        return None, None, f"the source does not tell: {error}"
    return again, skipped, "" if present is not None else "the present offset is not known"


def _of_partition(offsets: Offsets, name: str, each: StoredPartition, wish: Wish) -> _Plan:
    if wish.moment is not None:
        raise ConfigError(f"{name} is a partition, and goes by the number of a record: give a number")
    target, undoes = _target(offsets, name, each.move, wish)
    low, high = each.place.low, each.place.high
    if target is not None and (not isinstance(target, int) or not low <= target <= high):
        raise ConfigError(f"the offset of {name} is a number from {low} to {high}; not {target!r}")
    start = low if target is None else target
    at = low if each.at is None else min(max(each.at, low), high)
    return _Plan(name, each.at, target, max(0, at - start), max(0, start - at), undoes=undoes)


def _target(
    offsets: Offsets, subject: str, done: str | None, wish: Wish, depends_on: str | None = None
) -> tuple[JsonValue, str | None]:
    """The offset that the action means, and the move that it undoes."""
    if wish.action != "undo":
        return wish.offset, None
    waiting = offsets.waiting(subject, done)
    if waiting is not None:
        raise ConfigError(
            f"a {waiting.action} of {subject} by {waiting.by} waits for a worker since {waiting.time}; ask for another "
            "`crossdock offsets set` in its place, or start a worker first"
        )
    last = offsets.history(subject).undoable()
    if last is None:
        raise ConfigError(f"nothing of {subject} is there to be undone; `crossdock offsets show` shows what was moved")
    if depends_on != last.depends_on:
        raise ConfigError(f"what stood before the last {last.action} of {subject} belongs to another configuration")
    return last.before, last.id


def _wait(offsets: Offsets, asked: Mapping[str, str], seconds: float) -> bool:
    """Whether all moves were made within that time."""
    end = offsets.clock.monotonic() + seconds
    while True:
        offsets.read()
        if all(offsets.done(subject) == each for subject, each in asked.items()):
            return True
        if offsets.clock.monotonic() >= end:
            return False
        offsets.clock.sleep(WAIT)
