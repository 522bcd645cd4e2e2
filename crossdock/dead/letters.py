"""Dead letters, as the command line shows them: chosen, folded, grouped, and one with all that it holds.

Only the heads of letters are kept; their bytes are read for one letter alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from connectors.errors import ConfigError
from crossdock.configuration.load import Configuration, load_from_environment
from schemas.codec import Undecodable, decode
from schemas.control import Command, ControlRecord, Mark
from schemas.dead_letter import DeadLetter, LetterHead
from streams.admin import Admin
from streams.control import read_record
from streams.marks import Marks, number_of
from streams.topics import HubTopics, PipelineTopics


class Wanted(NamedTuple):
    """Which letters; what is None or empty does not choose."""

    pipeline: str | None = None
    group: str | None = None
    stage: str | None = None
    code: str | None = None
    since: datetime | None = None
    ids: tuple[str, ...] = ()

    def takes(self, head: LetterHead) -> bool:
        pairs = ((self.group, head.fingerprint), (self.stage, head.stage), (self.code, head.code))
        return all(wanted is None or wanted == has for wanted, has in pairs)


EVERYTHING = Wanted()


@dataclass(slots=True)
class Row:
    """One letter. Several of one identity, from a record that came again after a crash, are one."""

    id: str
    """Of the newest of them."""
    head: LetterHead
    """Of the newest of them."""
    first_seen: str
    done: str | None
    """The cause of the event that was sent again, or `discard`; None = open."""
    times: int = 1

    @property
    def state(self) -> str:
        return _state(self.done)

    def plain(self) -> dict[str, Any]:
        head = self.head
        return {
            "id": self.id,
            "at": head.last_seen,
            "state": self.state,
            "pipeline": head.pipeline,
            "writeback": head.writeback,
            "stage": head.stage,
            "code": head.code,
            "reason": head.reason,
            "event": head.event_id,
            "cause": head.cause,
            "fingerprint": head.fingerprint,
            "attempts": head.attempts,
            "times": self.times,
            "first_seen": self.first_seen,
            "last_seen": head.last_seen,
        }


class Letters:
    """The dead letters of one hub."""

    def __init__(self, configuration: Configuration, admin: Admin) -> None:
        self._configuration, self._admin = configuration, admin
        self.control = HubTopics.of(configuration.hub.kafka.prefix).control

    def topics(self, pipeline: str) -> PipelineTopics:
        kafka = self._configuration.hub.kafka
        return PipelineTopics.of(kafka.prefix, pipeline, kafka.partitions)

    def rows(self, wanted: Wanted) -> list[Row]:
        """Those that are wanted, oldest first.

        Raises:
            ConfigError: there is no such pipeline or letter.
        """
        if wanted.pipeline is not None and wanted.pipeline not in self._configuration.pipelines:
            known = ", ".join(sorted(self._configuration.pipelines))
            raise ConfigError(f"no pipeline {wanted.pipeline!r}; known: {known}")
        marks = Marks()
        for record in self.history():
            marks.take(record)
        rows: dict[str, Row] = {}
        for pipeline, offset, head in self._chosen(wanted):
            if not wanted.takes(head) or wanted.pipeline not in (None, pipeline):
                continue
            identity, number, done = head.identity, f"{pipeline}/{offset}", marks.done(head, offset)
            row = rows.get(identity)
            if row is None:
                rows[identity] = Row(number, head, head.first_seen, done)
            else:
                row.id, row.head, row.done, row.times = number, head, done, row.times + 1
        return list(rows.values())

    def letter(self, number: str) -> tuple[DeadLetter, int]:
        """All of one letter, and its offset. Raises ConfigError: there is none of that number."""
        pipeline, offset = self._place(number)
        record = self._admin.at(self.topics(pipeline).dead.name, offset)
        if record is None:
            raise _unknown(number)
        try:
            return decode(record.value, DeadLetter), offset
        except Undecodable as error:
            raise ConfigError(f"{number} is not a dead letter that this release can read: {error}") from error

    def history(self) -> Iterator[ControlRecord]:
        """What people wanted done with letters, and what was done, in its order."""
        for record in self._admin.read(self.control.name):
            if record.value is None:
                continue
            try:
                found = read_record(record.value)
            except Undecodable:
                continue  # of a newer release; the workers say so
            if isinstance(found, Command | Mark):
                yield found

    def _chosen(self, wanted: Wanted) -> Iterator[tuple[str, int, LetterHead]]:
        if wanted.ids:
            for number in dict.fromkeys(wanted.ids):
                pipeline, offset = self._place(number)
                record = self._admin.at(self.topics(pipeline).dead.name, offset)
                if record is None:
                    raise _unknown(number)
                yield pipeline, offset, _head(pipeline, record)
            return
        for pipeline in sorted(self._configuration.pipelines) if wanted.pipeline is None else [wanted.pipeline]:
            for record in self._admin.read(self.topics(pipeline).dead.name, wanted.since):
                yield pipeline, record.offset, _head(pipeline, record)

    def _place(self, number: str) -> tuple[str, int]:
        pipeline, _, offset = number.rpartition("/")
        if pipeline not in self._configuration.pipelines or not (offset.isascii() and offset.isdecimal()):
            raise _unknown(number)
        return pipeline, int(offset)


@contextmanager
def letters_of(folder: Path) -> Iterator[tuple[Configuration, Admin, Letters]]:
    """Raises Retriable: Kafka does not answer."""
    configuration = load_from_environment(folder)
    kafka = configuration.hub.kafka
    with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
        yield configuration, admin, Letters(configuration, admin)


def list_letters(folder: Path, wanted: Wanted = EVERYTHING) -> list[dict[str, Any]]:
    """A row for each letter, oldest first, with the id that the other verbs take."""
    with letters_of(folder) as (_, _, letters):
        return [row.plain() for row in letters.rows(wanted)]


def groups(folder: Path, wanted: Wanted = EVERYTHING) -> list[dict[str, Any]]:
    """A row for each fingerprint, the one with the most letters first."""
    found: dict[str, dict[str, Any]] = {}
    with letters_of(folder) as (_, _, letters):
        for row in letters.rows(wanted):
            head = row.head
            group = found.setdefault(
                head.fingerprint,
                {
                    "fingerprint": head.fingerprint,
                    "count": 0,
                    "open": 0,
                    "stage": head.stage,
                    "code": head.code,
                    "reason": head.reason,
                    "sample": row.id,
                    "pipelines": [],
                    "first_seen": row.first_seen,
                    "last_seen": head.last_seen,
                },
            )
            group["count"] += 1
            group["open"] += row.done is None
            group["first_seen"] = min(group["first_seen"], row.first_seen)
            group["last_seen"] = max(group["last_seen"], head.last_seen)
            if head.pipeline not in group["pipelines"]:
                group["pipelines"].append(head.pipeline)
    return sorted(found.values(), key=lambda group: (-group["count"], group["first_seen"]))


def show_letter(folder: Path, number: str) -> dict[str, Any]:
    """Everything about one dead letter; its original bytes as text where they are text.

    Raises:
        ConfigError: there is none of that number.
    """
    with letters_of(folder) as (_, _, letters):
        letter, offset = letters.letter(number)
        marks, audit = Marks(), []
        waiting: dict[str, Command] = {}
        for record in letters.history():
            marks.take(record)
            if isinstance(record, Command) and record.letter == number:
                waiting[record.name] = record
            elif isinstance(record, Mark) and (record.letter == number or record.identity == letter.identity):
                waiting.pop(record.command, None)
                audit.append(_audit(record.verb, record.by, record.reason, record.asked, record))
        audit += [_audit(each.verb, each.by, each.reason, each.time, None) for each in waiting.values()]
    return {
        "id": number,
        "state": _state(marks.done(letter, offset)),
        "pipeline": letter.pipeline,
        "writeback": letter.writeback,
        "stage": letter.stage,
        "error": letter.error,
        "code": letter.code,
        "reason": letter.reason,
        "fingerprint": letter.fingerprint,
        "attempts": letter.attempts,
        "event": letter.event_id,
        "cause": letter.cause,
        "origin": f"{letter.topic}/{letter.partition}/{letter.offset}",
        "key": text_of(letter.key),
        "value": text_of(letter.value),
        "headers": {name: text_of(value) for name, value in letter.headers},
        "config": letter.config,
        "model": letter.model,
        "first_seen": letter.first_seen,
        "last_seen": letter.last_seen,
        "audit": audit,
    }


def text_of(value: bytes | None) -> str | None:
    """Text where it is text; else hexadecimal, said so."""
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return f"hex:{value.hex()}"


def _audit(verb: str, by: str, reason: str, asked: str, mark: Mark | None) -> dict[str, Any]:
    """One thing that somebody wanted done with a letter."""
    if mark is None:
        became = "waits"
    else:
        became = f"refused: {mark.refused}" if mark.refused is not None else mark.cause or "done"
    done = None if mark is None else mark.time
    return {"verb": verb, "by": by, "reason": reason, "asked": asked, "done": done, "became": became}


def _state(done: str | None) -> str:
    if done is None:
        return "open"
    verb = done.partition(":")[0]
    return {"replay": f"replayed ({number_of(done)})", "discard": "discarded"}.get(verb, "edited")


def _head(pipeline: str, record: Any) -> LetterHead:
    """What a record of `<p>.dead` is about; one that is no letter is shown as such."""
    try:
        return decode(record.value or b"", LetterHead)
    except Undecodable as error:
        return LetterHead(
            event_id=None,
            pipeline=pipeline,
            stage="decode",
            code="unreadable",
            reason=f"not a dead letter that this release can read: {error}",
            fingerprint="unreadable",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            first_seen="",
            last_seen="",
        )


def _unknown(number: str) -> ConfigError:
    return ConfigError(f"no dead letter {number!r}; `crossdock dead list` shows their ids")
