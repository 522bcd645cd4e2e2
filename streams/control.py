"""Control: what holds for the whole hub right now, as every worker sees it.

```
CLI, worker ── put ──> crossdock.control (compacted, one partition) ── follower ──> find() on every worker
```
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from schemas.codec import Undecodable, decode, encode
from schemas.control import Command, ControlRecord, Mark, OffsetMove, control_key
from streams.runtime.compacted import Follower
from streams.runtime.kafka import ConsumerRecord, Kafka
from streams.runtime.publisher import Outgoing, Publisher
from streams.topics import Topic

log = logging.getLogger("crossdock.streams.control")

_T = TypeVar("_T", bound=msgspec.Struct)


class Control:
    """The newest record of each subject. `follower` is run by the worker; nothing is known before it has caught up."""

    def __init__(self, kafka: Kafka, topic: Topic, publisher: Publisher) -> None:
        self._topic, self._publisher = topic, publisher
        self._records: dict[bytes, ControlRecord] = {}
        self._listeners: list[Callable[[ControlRecord], None]] = []
        self.follower = Follower(kafka, topic, self._take)

    async def known(self) -> None:
        """Returns when everything that stood on the topic at the start was read."""
        await self.follower.caught_up.wait()

    def find(self, kind: type[_T], name: str) -> _T | None:
        """The newest record about this subject; None = there is none, or it was taken back."""
        found = self._records.get(control_key(kind, name))
        return found if isinstance(found, kind) else None

    def all(self, kind: type[_T]) -> Iterator[_T]:
        """Every subject's newest record of this kind."""
        return iter([each for each in self._records.values() if isinstance(each, kind)])

    def move(self, subject: str, done: str | None) -> OffsetMove | None:
        """The move that this subject is to make; None if the last one was `done`."""
        found = self.find(OffsetMove, subject)
        return None if found is None or found.id == done else found

    def listen(self, listener: Callable[[ControlRecord], None]) -> None:
        """Calls for each record that comes, in their order, also for those that stood there before."""
        self._listeners.append(listener)

    @property
    def moved(self) -> asyncio.Event:
        """Set, and replaced by a new one, when something was taken."""
        return self.follower.moved

    async def put(self, record: ControlRecord) -> None:
        """Returns when the broker has it. Here it is found at once, elsewhere a moment later."""
        self._records[control_key(type(record), record.name)] = record
        await self._publisher.publish({self._topic: [outgoing(record)]})

    async def take_back(self, kind: type[msgspec.Struct], name: str) -> None:
        await self._publisher.publish({self._topic: [Outgoing(control_key(kind, name), None)]})

    def _take(self, record: ConsumerRecord) -> None:
        key = record.key or b""
        if record.value is None:
            self._records.pop(key, None)
            return
        try:
            found = read_record(record.value)
        except Undecodable as error:
            log.warning("control.unreadable key=%s reason=%s (a newer version of the hub wrote it?)", key, error)
            return
        if isinstance(found, Command | Mark):
            return  # the replayer's own; there may be many, and they never go
        self._records[key] = found
        for listener in self._listeners:
            listener(found)


def read_record(value: bytes) -> ControlRecord:
    """Raises Undecodable."""
    return decode(value, ControlRecord)  # type: ignore[arg-type]


def outgoing(record: ControlRecord) -> Outgoing:
    """The record as it goes to the topic."""
    return Outgoing(control_key(type(record), record.name), encode(record))
