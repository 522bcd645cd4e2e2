"""The comparison of one pipeline with each of its write-backs: the first look, the second, and what is said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from connectors.buckets import FAN, SPACE, everything, key_hash, key_text, without_cause
from connectors.config import WritebackConfig
from connectors.contract import KeyRange, Passed, Readable, SinkTask
from crossdock.reconcile.hub import Hub
from crossdock.reconcile.sides import fields_of_target, keys_in_flight
from crossdock.reconcile.suspects import Counts, Side, Suspect, suspects
from crossdock.reconcile.values import Effect, Values
from schemas.change import canonical_key
from schemas.control import Verified
from schemas.values import Key, rfc3339
from streams.index.newest import Newest, NewestReceipts

PASS = 600.0
"""Seconds that one pass over a table may take."""
LOOK = 60.0
SETTLE = 2.0
"""Seconds between the first look and the second: what moves meanwhile is no difference."""
MOST = 10_000
"""Suspects that are looked at a second time."""
AT_ONCE = 500


class Wanted(NamedTuple):
    """What a person asked for."""

    bucket: int | None = None
    """This one of the first cut alone."""
    show: int = 20


class Difference(NamedTuple):
    """A record that was looked at twice."""

    kind: str
    """`missing` at the target, `extra` there, or `different`."""
    key: Key
    bucket: str
    why: str


class Found(NamedTuple):
    """What became of the comparison of one write-back."""

    said: dict[str, Any]
    differences: list[Difference]


def compare(hub: Hub, block: WritebackConfig, wanted: Wanted) -> Found:
    """Compares, and keeps through when all is verified.

    Raises:
        Retriable, AuthExpired, SystemFault: one of the systems, Kafka or the index does not answer.
    """
    passed = hub.passed()
    sink = hub.sink(block)
    comparison = _Comparison(hub, block, sink, passed, wanted)
    differences = comparison.differences()
    name, through = f"{hub.pipeline.name}/{block.name or block.system}", hub.verified(block)
    if not differences and wanted.bucket is None:
        through = passed.time
        now = rfc3339(hub.clock.now())
        counts, against = comparison.counts.records, comparison.against
        hub.tell(Verified(writeback=name, through=through, records=counts, against=against, time=now))
    kinds = {kind: sum(1 for each in differences if each.kind == kind) for kind in ("missing", "extra", "different")}
    said = {
        "writeback": block.name or block.system,
        "records": comparison.counts.records,
        "against": comparison.against,
        "source": "itself" if hub.rereadable is not None else "changes",
        "unequal_buckets": comparison.counts.unequal,
        "values_compared": comparison.values.compared,
        "in_flight": comparison.in_flight,
        **kinds,
        "differences": [each._asdict() for each in differences[: wanted.show]],
        "verified_through": through,
    }
    return Found(said, differences)


@dataclass(slots=True)
class _Looked:
    """One record at the second look. Versions are without the cause."""

    key: Key
    source: str | None
    target: str | None
    newest: Newest | None


class _Comparison:
    """One write-back beside its source."""

    def __init__(self, hub: Hub, block: WritebackConfig, sink: SinkTask, passed: Passed, wanted: Wanted) -> None:
        self._hub, self._sink, self._passed = hub, sink, passed
        self._range = _narrowed(everything(hub.key, passed.below or None), wanted.bucket)
        self._fields = fields_of_target(sink, block, hub.key)
        self._newest = NewestReceipts(hub.database, hub.topics, block.name or block.system)
        self.values = Values(sink, block, hub.pipeline.lookups, hub.clock)
        self.counts, self.in_flight = Counts(), 0

    @property
    def against(self) -> str:
        return "receipts" if self._fields is None else "target"

    def differences(self) -> list[Difference]:
        hub = self._hub
        source = Side(hub.source_side, hub.key, PASS)
        target: Any = self._newest if self._fields is None else self._sink
        other = Side(target, self._fields or hub.key, PASS)
        versions = list(islice(suspects(source, other, self._range, hub.clock, self.counts), MOST))
        values = list(islice(self._wrong_values(), MOST))
        if not versions and not values:
            return []
        hub.clock.sleep(SETTLE)
        flying = keys_in_flight(hub.admin, hub.configuration.hub, hub.pipeline, hub.topics)
        self.in_flight = len(flying)
        hub.catch_up()
        found = [*self._of_versions(versions, flying), *self._of_values(values, flying)]
        return list({_text(each.key): each for each in reversed(found)}.values())[::-1]

    # Versions

    def _of_versions(self, found: Sequence[Suspect], flying: set[str]) -> Iterator[Difference]:
        for start in range(0, len(found), AT_ONCE):
            keys: list[Key] = [
                dict(zip(self._hub.key, each.key, strict=True)) for each in found[start : start + AT_ONCE]
            ]
            for looked in self._look([key for key in keys if _text(key) not in flying]):
                difference = self._difference(looked)
                if difference is not None:
                    yield self._said(looked.key, *difference)

    def _look(self, keys: Sequence[Key]) -> Iterator[_Looked]:
        """What both sides hold now, and the newest receipt."""
        if not keys:
            return
        newest, present = self._newest.of(keys), self._hub.versions(keys)
        held = self._held(keys)
        for key, source, target in zip(keys, present, held, strict=True):
            yield _Looked(key, source, target, newest.get(_text(key)))

    def _held(self, keys: Sequence[Key]) -> list[str | None]:
        if self._fields is None:
            return [None] * len(keys)
        assert isinstance(self._sink, Readable)
        theirs = [dict(zip(self._fields, key.values(), strict=True)) for key in keys]
        found = self._sink.read(theirs, self._hub.clock.monotonic() + LOOK)
        return [
            None if each is None or each["@version"] is None else without_cause(str(each["@version"])) for each in found
        ]

    def _difference(self, looked: _Looked) -> tuple[str, str] | None:
        source, newest = looked.source, looked.newest
        if source is None:
            return self._extra(looked)
        if self._passed.below and source >= self._passed.below:
            return None  # it changed meanwhile
        if newest is not None and newest.version == source and (self._fields is None or newest.effect is None):
            return None  # it has its fate
        if self._fields is None:
            if newest is None:
                return "missing", f"version {source} has no receipt, dead letter or other end"
            return "different", f"the source holds version {source}, the last receipt is of {newest.version}"
        if looked.target is None:
            return "missing", f"the target does not hold version {source}"
        if looked.target != source:
            return "different", f"the source holds version {source}, the target {looked.target}"
        return None

    def _extra(self, looked: _Looked) -> tuple[str, str] | None:
        if self._fields is not None:
            if looked.target is None:
                return None
            return "extra", f"the target holds version {looked.target} of a record that the source does not have"
        if looked.newest is None or looked.newest.effect is None:
            return None
        return "extra", f"version {looked.newest.version} was written; the source does not have the record any more"

    # Values

    def _wrong_values(self) -> Iterator[Effect]:
        if self.values.can_be_asked:
            for effect, _ in self.values.wrong(self._hub.admin, self._hub.topics, self._newest):
                if self._range.start <= key_hash(_place(effect.key, self._hub.key)) < self._range.end:
                    yield effect

    def _of_values(self, found: Sequence[Effect], flying: set[str]) -> Iterator[Difference]:
        for start in range(0, len(found), AT_ONCE):
            part = [each for each in found[start : start + AT_ONCE] if _text(each.key) not in flying]
            if not part:
                continue
            newest, present = self._newest.of([each.key for each in part]), self._hub.versions([e.key for e in part])
            still = [
                each
                for each, source in zip(part, present, strict=True)
                if source is not None and newest[_text(each.key)].effect == each.event_id
            ]
            for effect, is_there in self.values.of(still):
                kind = "different" if is_there else "missing"
                why = "the target holds other values than" if is_there else "the target does not have the record of"
                yield self._said(effect.key, kind, f"{why} {effect.event_id}")

    def _said(self, key: Key, kind: str, why: str) -> Difference:
        return Difference(kind, key, f"{key_hash(_place(key, self._hub.key)) * FAN // SPACE:02x}", why)


def _narrowed(whole: KeyRange, bucket: int | None) -> KeyRange:
    if bucket is None:
        return whole
    width = SPACE // FAN
    return whole._replace(start=bucket * width, end=(bucket + 1) * width)


def _text(key: Key) -> str:
    return canonical_key(key).decode()


def _place(key: Key, fields: Sequence[str]) -> str:
    return key_text([key[name] for name in fields])
