"""Offsets, as people see them: those of the source tasks, and those of the groups that read the topics."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.clock import Clock
from connectors.contract import SourceTask, System, TaskSpec
from connectors.errors import ConfigError
from crossdock.configuration.load import Configuration, load_from_environment
from crossdock.configuration.pipeline import PipelineConfig
from crossdock.operator import records
from crossdock.sources import source_of
from schemas.codec import Undecodable, decode
from schemas.control import ControlRecord, OffsetMove, Stopped, control_key
from schemas.values import Offset
from streams.admin import Admin, GroupPlace
from streams.offsets import OffsetHistory, OffsetRecord, history_key, in_hub
from streams.standing import GroupOffset, Place, Stop, judge, mirror_key, subject_of
from streams.topics import HubTopics, PipelineTopics, enrich_group, write_group
from streams.words import did_you_mean


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A source task of the configuration, and what stands there of it."""

    pipeline: PipelineConfig
    system: System
    spec: TaskSpec
    task: SourceTask
    record: OffsetRecord | None

    @property
    def offset(self) -> Offset | None:
        return None if self.record is None else self.record.offset

    @property
    def move(self) -> str | None:
        return None if self.record is None else self.record.move


@dataclass(frozen=True, slots=True)
class StoredPartition:
    """One partition that a group reads."""

    group: str
    topic: str
    number: int
    place: GroupPlace
    mirrored: GroupOffset | None
    known: bool

    @property
    def at(self) -> int | None:
        if self.place.committed is not None:
            return self.place.committed
        return None if self.mirrored is None else self.mirrored.offset

    @property
    def move(self) -> str | None:
        return None if self.mirrored is None else self.mirrored.move

    @property
    def stop(self) -> Stop | None:
        place = self.place
        judged = judge(Place(place.committed, self.mirrored, self.known, place.low, place.high, place.topic_id))
        return judged if isinstance(judged, Stop) else None


class Offsets:
    """Everything about offsets, read once."""

    def __init__(self, configuration: Configuration, admin: Admin, systems: Mapping[str, System], clock: Clock) -> None:
        self.configuration, self.admin, self.clock = configuration, admin, clock
        self.prefix = configuration.hub.kafka.prefix
        self._systems = systems
        self.read()

    def read(self) -> None:
        self._offsets = self.admin.newest(HubTopics.of(self.prefix).offsets.name)
        self.control: dict[bytes, ControlRecord] = records(self.admin, self.prefix)

    def tasks(self) -> dict[str, StoredTask]:
        found = {}
        for pipeline in self.configuration.pipelines.values():
            source = source_of(self.configuration, self._systems, pipeline.source)
            for spec in source.tasks():
                task = in_hub(pipeline.name, spec)
                record = self._stored(task.name.encode(), OffsetRecord)
                system = self._systems[pipeline.source.system]
                found[task.name] = StoredTask(pipeline, system, task, source.task(spec.name), record)
        return found

    def partitions(self) -> dict[str, StoredPartition]:
        found = {}
        for group, topic in self._groups():
            places = self.admin.places(group, topic)
            subjects = {number: subject_of(self.prefix, group, topic, number) for number in places}
            mirrored = {number: self._stored(mirror_key(each), GroupOffset) for number, each in subjects.items()}
            known = any(mirrored.values())
            for number, place in places.items():
                found[subjects[number]] = StoredPartition(group, topic, number, place, mirrored[number], known)
        return found

    def _groups(self) -> Iterator[tuple[str, str]]:
        """Each group with each topic that it reads."""
        hub = self.configuration.hub
        for name, pipeline in self.configuration.pipelines.items():
            topics = PipelineTopics.of(self.prefix, name, hub.kafka.partitions)
            for topic in topics.to_enrich:
                yield enrich_group(self.prefix, hub.worker_group), topic.name
            for system in sorted({block.system for block in pipeline.writeback}):
                for topic in topics.to_write:
                    yield write_group(self.prefix, system), topic.name

    def history(self, subject: str) -> OffsetHistory:
        return self._stored(history_key(subject), OffsetHistory) or OffsetHistory(subject=subject)

    def waiting(self, subject: str, done: str | None) -> OffsetMove | None:
        """A move that was asked for and not made yet."""
        found = self.control.get(control_key(OffsetMove, subject))
        return found if isinstance(found, OffsetMove) and found.id != done else None

    def done(self, subject: str) -> str | None:
        """Id of the last move that was made."""
        task = self._stored(subject.encode(), OffsetRecord)
        found = task if task is not None else self._stored(mirror_key(subject), GroupOffset)
        return None if found is None else found.move

    def stopped(self, subject: str) -> Stopped | None:
        found = self.control.get(control_key(Stopped, subject))
        return found if isinstance(found, Stopped) else None

    def _stored(self, key: bytes, kind: type[Any]) -> Any:
        value = self._offsets.get(key)
        try:
            return None if value is None else decode(value, kind)
        except Undecodable as error:
            raise ConfigError(f"{key.decode()} on crossdock.offsets cannot be read: {error}") from error


@contextlib.contextmanager
def offsets_of(folder: Path, clock: Clock) -> Iterator[Offsets]:
    configuration = load_from_environment(folder)
    kafka = configuration.hub.kafka
    systems = {name: config.build(clock) for name, config in configuration.systems.items()}
    try:
        with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
            yield Offsets(configuration, admin, systems, clock)
    finally:
        for system in systems.values():
            system.close()


# Showing


def show(folder: Path, clock: Clock, subject: str | None = None) -> dict[str, Any]:
    """Every source task and every partition of a group: where it stands, whether that holds, what was moved.

    Raises:
        ConfigError: there is no such subject.
        Retriable: Kafka does not answer.
    """
    with offsets_of(folder, clock) as hub:
        tasks, partitions = hub.tasks(), hub.partitions()
        wanted = {*tasks, *partitions} if subject is None else set(chosen(subject, tasks, partitions))
        return {
            "tasks": [_task_row(hub, each) for name, each in tasks.items() if name in wanted],
            "groups": [_group_row(hub, name, each) for name, each in partitions.items() if name in wanted],
        }


def _task_row(hub: Offsets, each: StoredTask) -> dict[str, Any]:
    name, record = each.spec.name, each.record
    stopped = hub.stopped(name)
    state = "new" if record is None else "running"
    return {
        "task": name,
        "pipeline": each.pipeline.name,
        "state": state if stopped is None else stopped.trouble.value,
        "reason": "" if stopped is None else stopped.reason,
        "decide": "" if stopped is None else stopped.command,
        "offset": each.offset,
        "changes": 0 if record is None else record.changes,
        "at": None if record is None else record.time,
        "newest": None if record is None else record.newest,
        **_moves(hub, name, each.move),
    }


def _group_row(hub: Offsets, name: str, each: StoredPartition) -> dict[str, Any]:
    stop = each.stop
    return {
        "subject": name,
        "group": each.group,
        "topic": each.topic,
        "partition": each.number,
        "state": "running" if stop is None else stop.trouble.value,
        "reason": "" if stop is None else stop.reason,
        "decide": "" if stop is None else f"crossdock offsets reset FOLDER {name}",
        "committed": each.place.committed,
        "mirrored": None if each.mirrored is None else each.mirrored.offset,
        "begins": each.place.low,
        "ends": each.place.high,
        "lag": max(0, each.place.high - (each.at or each.place.low)),
        **_moves(hub, name, each.move),
    }


def _moves(hub: Offsets, subject: str, done: str | None) -> dict[str, Any]:
    waiting = hub.waiting(subject, done)
    return {
        "waits": None if waiting is None else {"action": waiting.action, "by": waiting.by, "time": waiting.time},
        "history": [
            {
                "action": each.action,
                "before": each.before,
                "after": each.after,
                "by": each.by,
                "reason": each.reason,
                "time": each.time,
                "undone": each.undone,
            }
            for each in hub.history(subject).moves
        ],
    }


def chosen(subject: str, tasks: Mapping[str, StoredTask], partitions: Mapping[str, StoredPartition]) -> list[str]:
    """A task, a partition, or all partitions below a group or a topic."""
    if subject in tasks:
        return [subject]
    found = [name for name in partitions if name == subject or name.startswith(f"{subject}/")]
    if not found:
        groups = {name.rpartition("/")[0] for name in partitions}
        near = did_you_mean(subject, [*tasks, *partitions, *groups])
        raise ConfigError(f"no task or group {subject!r}; known: {', '.join([*tasks, *sorted(groups)])}{near}")
    return found
