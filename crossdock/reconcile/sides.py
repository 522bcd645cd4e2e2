"""The two sides of a comparison, and what is on its way between them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from connectors.buckets import bucketed, within, without_cause
from connectors.config import WritebackConfig
from connectors.contract import Bucket, Comparable, Held, KeyRange, SinkTask
from connectors.errors import Retriable
from crossdock.configuration.hub import HubConfig
from crossdock.configuration.pipeline import PipelineConfig
from schemas.change import canonical_key
from schemas.codec import Undecodable, decode_event
from schemas.values import Key
from streams.admin import Admin
from streams.topics import PipelineTopics, enrich_group, write_group

MOST_IN_FLIGHT = 200_000


class LatestChanges:
    """`Comparable`: a source as the hub read it, where the source itself cannot be compared."""

    def __init__(self, admin: Admin, topics: PipelineTopics) -> None:
        self._admin, self._topic = admin, topics.latest.name
        self._records: dict[bytes, Held] | None = None

    def digest(self, key_range: KeyRange, deadline: float) -> list[Bucket]:  # noqa: ARG002 - the contract's
        return bucketed(self._read(key_range.fields), key_range)

    def held(self, key_range: KeyRange, deadline: float) -> list[Held]:  # noqa: ARG002 - the contract's
        return within(self._read(key_range.fields), key_range)

    def versions(self, keys: Sequence[Key]) -> list[str | None]:
        """Of each record, None = there is none."""
        found = {} if not keys else self._records_of(tuple(keys[0]))
        held = [found.get(canonical_key(key)) for key in keys]
        return [None if each is None else each.version for each in held]

    def again(self) -> None:
        """Reads anew at the next question."""
        self._records = None

    def _read(self, fields: Sequence[str]) -> Iterable[Held]:
        return self._records_of(fields).values()

    def _records_of(self, fields: Sequence[str]) -> dict[bytes, Held]:
        if self._records is None:
            self._records = {}
            for record in self._admin.read(self._topic):
                if record.value is None:
                    self._records.pop(record.key, None)
                else:
                    event = decode_event(record.value)
                    key = tuple(event.key[name] for name in fields)
                    self._records[record.key] = Held(key, without_cause(event.version))
        return self._records


def fields_of_target(sink: SinkTask, block: WritebackConfig, key: Sequence[str]) -> tuple[str, ...] | None:
    """The target's names of the source's key, in its order; None = it does not hold our versions under that key."""
    if not (isinstance(sink, Comparable) and sink.capabilities.comparable):
        return None
    theirs = {path.removeprefix("key."): name for name, path in block.match.items()}
    return tuple(theirs[name] for name in key) if set(theirs) == set(key) else None


def keys_in_flight(admin: Admin, hub: HubConfig, pipeline: PipelineConfig, topics: PipelineTopics) -> set[str]:
    """Canonical keys of what was read and has no end yet: not enriched, not written, parked, or begun.

    Raises:
        Retriable: it is too much to be compared beside.
    """
    prefix = hub.kafka.prefix
    groups = [(enrich_group(prefix, hub.worker_group), topics.to_enrich)]
    groups += [(write_group(prefix, block.system), topics.to_write) for block in pipeline.writeback]
    found: set[str] = set()
    for group, read in groups:
        for topic in read:
            for record in admin.unread(group, topic.name):
                found.add(_text(record.key))
                if len(found) > MOST_IN_FLIGHT:
                    raise Retriable(
                        f"more than {MOST_IN_FLIGHT:,} records of {pipeline.name} are on their way; compare when less "
                        "waits, see `crossdock status`"
                    )
    return found | set(_standing_aside(admin, topics))


def _standing_aside(admin: Admin, topics: PipelineTopics) -> Iterator[str]:
    for topic in (topics.parked, topics.intents):
        open_: dict[bytes, Any] = {}
        for record in admin.read(topic.name):
            open_[record.key] = record.value
        for value in open_.values():
            try:
                if value is not None:
                    yield canonical_key(decode_event(value).key).decode()
            except Undecodable:
                continue  # its worker tells


def _text(key: bytes | None) -> str:
    return (key or b"").decode("utf-8", "replace")
