"""Parking: a record that is sick alone waits aside, and what follows of its key waits behind it. Other keys flow.

`<p>.parked` is compacted; its key is `<write-back>/<key>/<version>`, a tombstone = done. It is partitioned like
`<p>.enriched`, and the lane that owns partition n there reads partition n here itself, to its end, before its first
delivery: so the order of a key holds whatever happened to the worker that parked it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from connectors.clock import Clock
from schemas.event import Headers, header
from streams.backoff import backoff
from streams.runtime.kafka import ConsumerRecord
from streams.runtime.publisher import Outgoing
from streams.settled import Incoming, incoming_of
from streams.topics import Topic

log = logging.getLogger("crossdock.streams.parking")

MOST = 200
"""Parked events of one partition. Full = the partition is held."""
LONGEST_PAUSE = 300.0
REASON = "cd_parked"
"""Header of a parked event: why it waits."""


@dataclass(slots=True)
class Waiting:
    """The events of one key that wait, oldest first."""

    events: list[Incoming]
    reason: str
    due: float
    """When the first of them is tried again, in seconds of the clock's `monotonic()`."""
    tries: int = 0


@dataclass(slots=True)
class Parked:
    """What one write-back has parked of one partition."""

    writeback: str
    topic: Topic
    partition: int
    clock: Clock
    waiting: dict[bytes, Waiting] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(each.events) for each in self.waiting.values())

    @property
    def full(self) -> bool:
        return len(self) >= MOST

    def next_due(self) -> float | None:
        """When the next of them is to be tried; None = nothing is parked."""
        return min((each.due for each in self.waiting.values()), default=None)

    def due(self) -> Iterator[bytes]:
        """Keys whose first event is to be tried now."""
        now = self.clock.monotonic()
        return iter([key for key, each in self.waiting.items() if each.due <= now])

    def park(self, key: bytes, event: Incoming, reason: str, until: float | None = None) -> Outgoing:
        """Puts an event behind those of its key, `until` then at least; the record that makes it survive."""
        waiting = self.waiting.get(key)
        if waiting is None:
            waiting = self.waiting[key] = Waiting([], reason, until or self.clock.monotonic() + backoff(4))
            log.warning(
                "record.parked writeback=%s key=%s reason=%s (others of this partition go on)",
                self.writeback,
                key.decode(),
                reason,
            )
        waiting.events.append(event)
        headers: Headers = [*(each for each in event.record.headers if each[0] != REASON), (REASON, reason.encode())]
        return Outgoing(self._name(key, event), event.record.value, headers, self.partition)

    def holds(self, key: bytes, event: Incoming) -> bool:
        """Whether this very event waits already: it came again after a crash."""
        waiting = self.waiting.get(key)
        return waiting is not None and any(
            (each.event_id, each.cause) == (event.event_id, event.cause) for each in waiting.events
        )

    def again(self, key: bytes, reason: str) -> None:
        """Its first event was tried and is still sick."""
        waiting = self.waiting[key]
        waiting.reason = reason
        waiting.tries += 1
        waiting.due = self.clock.monotonic() + backoff(4 + waiting.tries, LONGEST_PAUSE)

    def replaced(self, key: bytes, event: Incoming) -> Outgoing:
        """A newer one of its key takes its place, and its time. The tombstone."""
        self.waiting[key].events.remove(event)
        return Outgoing(self._name(key, event), None, [], self.partition)

    def done(self, key: bytes, event: Incoming) -> Outgoing:
        """One of them came to an end; the next of its key is due at once. The tombstone."""
        waiting = self.waiting[key]
        waiting.events.remove(event)
        waiting.due, waiting.tries = self.clock.monotonic(), 0
        if not waiting.events:
            del self.waiting[key]
            log.info("record.unparked writeback=%s key=%s", self.writeback, key.decode())
        return Outgoing(self._name(key, event), None, [], self.partition)

    def _name(self, key: bytes, event: Incoming) -> bytes:
        return b"/".join((self.writeback.encode(), key, event.event.version.encode()))


def found(
    writebacks: Sequence[str], topic: Topic, partition: int, records: Mapping[bytes, ConsumerRecord], clock: Clock
) -> dict[str, Parked]:
    """What earlier owners of this partition parked, by write-back. What cannot be read any more is left where it is."""
    by_name = {name: Parked(name, topic, partition, clock) for name in writebacks}
    for name, record in sorted(records.items(), key=lambda item: item[1].offset):
        writeback, _, rest = name.partition(b"/")
        parked, event = by_name.get(writeback.decode()), incoming_of(record)
        if parked is None or event is None:
            log.error("parked.unreadable topic=%s key=%r (left as it is)", topic.name, name)
            continue
        key = rest.rpartition(b"/")[0]
        waiting = parked.waiting.setdefault(key, Waiting([], header(record.headers, REASON) or "", clock.monotonic()))
        waiting.events.append(event)
    return by_name
