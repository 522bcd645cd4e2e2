"""Lookups: a record of another system, joined in before the model.

The other pipeline's compacted `<p>.latest` is read on every worker, completely before the first event, and followed
from then on. Records are kept as bytes and decoded when they are joined: a year of weather is 10 MB so, and 40 MB as
dictionaries. The memory is one entry for each record of the other pipeline.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias

import msgspec
from pydantic import Field

from connectors.clock import Clock
from connectors.config import Block, Duration, Name, Path
from schemas.codec import Undecodable
from schemas.values import JsonValue, Record
from streams.runtime.compacted import Follower
from streams.runtime.kafka import ConsumerRecord, Kafka
from streams.runtime.pulse import rest
from streams.scope import Getter, Scope, compile_path
from streams.topics import Topic

Then = Literal["impute", "abstain", "dead"]


class MissingConfig(Block):
    """What follows when the record is not there."""

    wait: Duration = Field(
        default=timedelta(0), description="how long an event may wait for it, from its arrival on Kafka"
    )
    then: Then


class LookupConfig(Block):
    """One entry of `lookups:`."""

    pipeline: Name = Field(description="whose records are joined")
    match: dict[str, Path] = Field(description="theirs: ours", min_length=1)
    missing: MissingConfig


Index: TypeAlias = tuple[JsonValue, ...]


class _Stored(msgspec.Struct):
    after: msgspec.Raw = msgspec.Raw(b"null")


_STORED = msgspec.json.Decoder(_Stored)
_RECORD = msgspec.json.Decoder(dict[str, Any] | None)


class Table:
    """The newest records of one pipeline, found by the values of some of their fields.

    Index and record are JSON. Which row belongs to a key is kept only where the key itself does not name it.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = tuple(fields)
        self._rows: dict[bytes, bytes] = {}
        self._index_of: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, record: ConsumerRecord) -> None:
        """A record of `<p>.latest`; a tombstone removes. Raises Undecodable; what stood there before stays then."""
        key = record.key or b""
        named = self._named_by(key)
        raw, after = (b"null", None) if record.value is None else _after(record.value)
        index = None if after is None else _packed(after.get(field) for field in self._fields)
        old = self._index_of.pop(key, named)
        if old is not None and old != index:
            self._rows.pop(old, None)
        if index is not None:
            self._rows[index] = raw
            if index != named:
                self._index_of[key] = index

    def find(self, index: Index) -> bytes | None:
        """The record's JSON."""
        return self._rows.get(_packed(index))

    def _named_by(self, key: bytes) -> bytes | None:
        """The index that a key's own values say; None if it does not hold all fields."""
        try:
            names = msgspec.json.decode(key, type=dict[str, JsonValue])
        except msgspec.MsgspecError:
            return None
        return _packed(names[field] for field in self._fields) if names.keys() >= set(self._fields) else None


def _after(value: bytes) -> tuple[bytes, Record | None]:
    try:
        raw = bytes(_STORED.decode(value).after)
        return raw, _RECORD.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from error


_EXACT = 2.0**53


def _packed(values: Iterable[JsonValue]) -> bytes:
    """The index as JSON; 1.0 finds 1."""
    return msgspec.json.encode(
        [int(v) if isinstance(v, float) and v.is_integer() and abs(v) < _EXACT else v for v in values]
    )


class Lookup:
    """One lookup of one pipeline on one worker."""

    def __init__(self, name: str, config: LookupConfig, kafka: Kafka, topic: Topic, names: frozenset[str]) -> None:
        self.name, self.config = name, config
        self._getters: list[Getter] = [compile_path(path, names) for path in config.match.values()]
        self.table = Table(list(config.match))
        self.follower = Follower(kafka, topic, self.table.take)

    def index(self, scope: Scope) -> Index:
        return tuple(get(scope) for get in self._getters)


class Lookups:
    """All lookups of one pipeline."""

    def __init__(self, lookups: Sequence[Lookup], clock: Clock) -> None:
        self._lookups, self._clock = tuple(lookups), clock

    @property
    def followers(self) -> list[Follower]:
        return [lookup.follower for lookup in self._lookups]

    async def join(
        self, scopes: Sequence[Scope], arrived: Sequence[float], hold: Callable[[float], Awaitable[None]]
    ) -> list[dict[str, msgspec.Raw]]:
        """Joins every lookup into each scope, and gives their JSON for the event.

        Args:
            scopes: the events, derived fields included; `lookups` of each is filled.
            arrived: when each event arrived on Kafka, in seconds of the clock's `now()`. What is missing is waited
                for until that plus `missing.wait`: an event out of a backlog does not wait again.
            hold: waits; the lane has nothing in hand meanwhile.
        """
        joined: list[dict[str, msgspec.Raw]] = [{} for _ in scopes]
        for lookup in self._lookups:
            with rest():
                await lookup.follower.caught_up.wait()
            wait = lookup.config.missing.wait.total_seconds()
            todo = list(range(len(scopes)))
            while todo:
                todo = [row for row in todo if not _fill(lookup, scopes[row], joined[row])]
                now = self._clock.now().timestamp()
                waiting = [row for row in todo if arrived[row] + wait > now]
                if not waiting:
                    break
                pause = min(arrived[row] for row in waiting) + wait - now
                await hold(min(pause, 0.05))
                todo = waiting
        return joined

    async def ready(self) -> None:
        """Returns when every table holds what was on Kafka when it began to read."""
        await asyncio.gather(*(lookup.follower.caught_up.wait() for lookup in self._lookups))


def _fill(lookup: Lookup, scope: Scope, joined: dict[str, msgspec.Raw]) -> bool:
    raw = lookup.table.find(lookup.index(scope))
    if raw is None:
        scope.lookups[lookup.name] = None
        joined[lookup.name] = msgspec.Raw(b"null")
        return False
    scope.lookups[lookup.name] = msgspec.json.decode(raw)
    joined[lookup.name] = msgspec.Raw(raw)
    return True
