"""Intents: a call of class `none` is written down before it is made, so that it is never made twice.

```
intent acknowledged by the broker -> call -> receipt and tombstone
                                      │
        a crash here, or no answer: in doubt. Listed by `crossdock doubt list`, resolved by a person, never repeated
```
`<p>.intents` is compacted and partitioned like `<p>.enriched`; its key is `<write-back>/<write id>`. Like what is
parked, it is read by the lane that owns the partition, before its first delivery. Later events of the key flow.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.event import header
from streams.runtime.kafka import ConsumerRecord
from streams.runtime.publisher import Outgoing
from streams.settled import Incoming, incoming_of
from streams.topics import Topic

log = logging.getLogger("crossdock.streams.intents")

STATE = "cd_intent"
"""Header of an intent: `begun`, or `in_doubt` once nobody works on it any more."""


@dataclass(slots=True)
class Intents:
    """The calls of one write-back on one partition that were begun and have no known end."""

    writeback: str
    topic: Topic
    partition: int
    open: dict[str, Incoming] = field(default_factory=dict)
    """By write id."""
    in_doubt: set[str] = field(default_factory=set)

    def begin(self, write_id: str, event: Incoming) -> Outgoing:
        """What the broker must have before the call is made."""
        self.open[write_id] = event
        return self._record(write_id, event, b"begun")

    def doubt(self, write_id: str) -> Outgoing:
        """The call has no answer, or its caller died: a person must look."""
        self.in_doubt.add(write_id)
        log.warning("write.in_doubt writeback=%s write_id=%s (see `crossdock doubt list`)", self.writeback, write_id)
        return self._record(write_id, self.open[write_id], b"in_doubt")

    def done(self, write_id: str) -> Outgoing:
        """It has an end: the tombstone."""
        del self.open[write_id]
        self.in_doubt.discard(write_id)
        return Outgoing(self._name(write_id), None, [], self.partition)

    def _record(self, write_id: str, event: Incoming, state: bytes) -> Outgoing:
        headers = [each for each in event.record.headers if each[0] != STATE]
        return Outgoing(self._name(write_id), event.record.value, [*headers, (STATE, state)], self.partition)

    def _name(self, write_id: str) -> bytes:
        return f"{self.writeback}/{write_id}".encode()


def found(
    writebacks: Sequence[str], topic: Topic, partition: int, records: Mapping[bytes, ConsumerRecord]
) -> dict[str, Intents]:
    """What earlier owners of this partition began and did not end, by write-back."""
    by_name = {name: Intents(name, topic, partition) for name in writebacks}
    for name, record in records.items():
        writeback, _, write_id = name.decode().partition("/")
        intents, event = by_name.get(writeback), incoming_of(record)
        if intents is None or event is None:
            log.error("intent.unreadable topic=%s key=%r (left as it is)", topic.name, name)
            continue
        intents.open[write_id] = event
        if header(record.headers, STATE) == "in_doubt":
            intents.in_doubt.add(write_id)
    return by_name
