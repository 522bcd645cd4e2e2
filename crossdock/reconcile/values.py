"""Does a target still hold the values of each record's newest effect? Asked as far back as Kafka keeps the events."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from connectors.clock import Clock
from connectors.config import WritebackConfig
from connectors.contract import Readable, SinkTask, Verifiable
from schemas.change import canonical_key
from schemas.codec import Undecodable, decode_event
from schemas.event import EventValue, cause_of, header
from schemas.values import JsonValue, Key, Record
from schemas.write import Write
from streams.admin import Admin
from streams.index.newest import NewestReceipts
from streams.scope import compile_path, scope_of
from streams.topics import PipelineTopics

_AT_ONCE = 500
_PATIENCE = 60.0
"""Seconds that one look at a part of the records may take."""


class Effect(NamedTuple):
    """The newest effect on one record, and the write that made it."""

    key: Key
    event_id: str
    write: Write


class Values:
    """The values of one write-back; its sink is open."""

    def __init__(self, sink: SinkTask, block: WritebackConfig, lookups: Iterable[str], clock: Clock) -> None:
        names = frozenset(lookups)
        self._match = {theirs: compile_path(path, names) for theirs, path in block.match.items()}
        self._fields = {theirs: compile_path(path, names) for theirs, path in block.set.items()}
        self._sink, self._name, self._clock = sink, block.name or block.system, clock
        self.compared = 0

    @property
    def can_be_asked(self) -> bool:
        return isinstance(self._sink, Verifiable) or (
            isinstance(self._sink, Readable) and self._sink.capabilities.readable
        )

    def wrong(self, admin: Admin, topics: PipelineTopics, newest: NewestReceipts) -> Iterator[tuple[Effect, bool]]:
        """Effects whose record holds other values, or (False) is not there any more."""
        for topic in topics.to_write:
            for part in _parts(admin.read(topic.name)):
                yield from self.of(list(self._effects(part, newest)))

    def of(self, effects: Sequence[Effect]) -> Iterator[tuple[Effect, bool]]:
        """Those of them that do not hold: the record is there with other values, or (False) it is not there."""
        if not effects:
            return
        self.compared += len(effects)
        writes = [effect.write for effect in effects]
        deadline = self._clock.monotonic() + _PATIENCE
        answers = (
            self._sink.holds(writes, deadline)
            if isinstance(self._sink, Verifiable)
            else self._read(self._sink, writes, deadline)
        )
        for effect, answer in zip(effects, answers, strict=True):
            if answer is not True:
                yield effect, answer is not None

    def _read(self, sink: Any, writes: Sequence[Write], deadline: float) -> list[bool | None]:
        found = sink.read([write.key for write in writes], deadline)
        return [
            None if record is None else _agree(write.fields, record)
            for write, record in zip(writes, found, strict=True)
        ]

    def _effects(self, records: Sequence[Any], newest: NewestReceipts) -> Iterator[Effect]:
        """Of these events, those that are the newest effect on their record."""
        events: dict[str, tuple[str, EventValue]] = {}
        for record in records:
            _, only = cause_of(record.headers)
            event_id = header(record.headers, "ce_id")
            if event_id is None or only not in (None, self._name):
                continue
            try:
                event = decode_event(record.value)
            except Undecodable:
                continue  # a dead letter tells
            events[canonical_key(event.key).decode()] = (event_id, event)
        became = newest.of([event.key for _, event in events.values()])
        for text, (event_id, event) in events.items():
            last = became.get(text)
            if last is not None and last.effect == event_id:
                yield Effect(event.key, event_id, self._write(event, event_id))

    def _write(self, event: EventValue, event_id: str) -> Write:
        scope = scope_of(event)
        return Write(
            write_id=event_id,
            key={theirs: get(scope) for theirs, get in self._match.items()},
            fields={theirs: get(scope) for theirs, get in self._fields.items()},
            version=event.version,
        )


def _parts(records: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(records)
    while part := list(islice(iterator, _AT_ONCE)):
        yield part


def _agree(wanted: Record, found: Record) -> bool:
    return all(_same(value, found.get(name)) for name, value in wanted.items())


def _same(wanted: JsonValue, found: JsonValue) -> bool:
    """Systems without types of ours give numbers as texts, and with fewer digits."""
    if wanted == found:
        return True
    try:
        mine, theirs = float(wanted), float(found)
    except (TypeError, ValueError):
        return False
    return abs(mine - theirs) <= 1e-6 * max(abs(mine), abs(theirs))
