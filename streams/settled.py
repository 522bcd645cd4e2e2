"""What became of one batch: the records on `<p>.enriched`, `.review`, `.dead` and `.receipts` that say so.

Dead letters and receipts are made here and nowhere else.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from connectors.clock import Clock
from schemas.change import canonical_key
from schemas.codec import Undecodable, decode_event, encode
from schemas.dead_letter import DeadLetter, connect_headers, fingerprint
from schemas.event import EventValue, Headers, cause_of, header
from schemas.outcome import Fate, Outcome
from schemas.receipt import Receipt, ReceiptRecord
from schemas.values import rfc3339
from schemas.write import LIVE, Write
from streams.runtime.kafka import ConsumerRecord
from streams.runtime.publisher import NO_HEADERS, Outgoing
from streams.topics import PipelineTopics, Topic


class Incoming(NamedTuple):
    """A record that could be decoded."""

    record: ConsumerRecord
    event: EventValue
    event_id: str
    cause: str = LIVE
    only: str | None = None
    """The one write-back that it is for; None = all."""


def incoming_of(record: ConsumerRecord) -> Incoming | None:
    """An event that stood aside on a topic of ours under another key; None = it cannot be read."""
    event_id = header(record.headers, "ce_id")
    try:
        event = decode_event(record.value)
    except Undecodable:
        return None
    if event_id is None:
        return None
    return Incoming(replace(record, key=canonical_key(event.key)), event, event_id, *cause_of(record.headers))


class Settled:
    """Collects the outputs of one batch of one pipeline."""

    def __init__(
        self, pipeline: str, topics: PipelineTopics, config: str, clock: Clock, model: str | None = None
    ) -> None:
        """`model`: name and version of the one that is asked; an event that holds an answer says it by itself."""
        self._pipeline, self._topics, self._config, self._model = pipeline, topics, config, model
        self._now = rfc3339(clock.now())
        self.outputs: dict[Topic, list[Outgoing]] = {}
        self.outcomes: Counter[str] = Counter()
        """How many events became what."""

    def decode(self, records: Sequence[ConsumerRecord]) -> list[Incoming]:
        """The records that can be read; the others are dead letters with their bytes."""
        incoming = []
        for record in records:
            event_id = header(record.headers, "ce_id")
            try:
                if event_id is None:
                    raise Undecodable("no ce_id header: not an event")
                incoming.append(Incoming(record, decode_event(record.value), event_id, *cause_of(record.headers)))
            except Undecodable as error:
                self._letter(record, event_id, "decode", "undecodable", str(error), error="Undecodable")
        return incoming

    def add(self, topic: Topic, record: Outgoing) -> None:
        """A record of somebody else's making that must be out with the rest."""
        self.outputs.setdefault(topic, []).append(record)

    def enriched(self, incoming: Incoming, value: bytes) -> None:
        self.outcomes["enriched"] += 1
        self._add(self._topics.enriched, incoming.record.key, value, list(incoming.record.headers))

    def review(self, incoming: Incoming, value: bytes) -> None:
        """Waits for a person."""
        self._add(self._topics.review, incoming.record.key, value, list(incoming.record.headers))
        self._receipt(incoming, Fate.REVIEW, reason="the model was not sure enough")

    def filtered(self, incoming: Incoming, rule: str) -> None:
        self._receipt(incoming, Fate.FILTERED, reason=rule)

    def dead(
        self,
        incoming: Incoming,
        stage: str,
        code: str,
        reason: str,
        *,
        write: Write | None = None,
        writeback: str | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        """Refused for good: the letter with the original bytes, and the receipt that says so."""
        attempts = 1 if receipt is None else receipt.attempts
        self._letter(
            incoming.record,
            incoming.event_id,
            stage,
            code,
            reason,
            event=incoming.event,
            writeback=writeback,
            attempts=attempts,
            error="RowError" if receipt is None else _ERRORS.get(receipt.outcome, "Rejected"),
        )
        self._receipt(
            incoming, Fate.DEAD, write=write, writeback=writeback, receipt=receipt, reason=f"{code}: {reason}"
        )

    def written(
        self,
        incoming: Incoming,
        fate: Fate,
        write: Write,
        writeback: str,
        receipt: Receipt,
        *,
        headers: Headers = NO_HEADERS,
    ) -> None:
        """A write-back came to its end."""
        self._receipt(
            incoming, fate, write=write, writeback=writeback, receipt=receipt, reason=receipt.reason, headers=headers
        )

    def _receipt(
        self,
        incoming: Incoming,
        fate: Fate,
        *,
        write: Write | None = None,
        writeback: str | None = None,
        receipt: Receipt | None = None,
        reason: str | None = None,
        headers: Headers = NO_HEADERS,
    ) -> None:
        self.outcomes[fate.value] += 1
        record = ReceiptRecord(
            event_id=incoming.event_id,
            write_id=None if write is None else write.write_id,
            pipeline=self._pipeline,
            writeback=writeback,
            key=incoming.event.key,
            version=incoming.event.version,
            fate=fate,
            outcome=None if receipt is None else receipt.outcome,
            reason=reason,
            attempts=0 if receipt is None else receipt.attempts,
            target_version=None if receipt is None else receipt.target_version,
            replaced=None if receipt is None else receipt.replaced,
            time=self._now,
        )
        self._add(self._topics.receipts, incoming.record.key, encode(record), headers)

    def _letter(
        self,
        record: ConsumerRecord,
        event_id: str | None,
        stage: str,
        code: str,
        reason: str,
        *,
        event: EventValue | None = None,
        writeback: str | None = None,
        attempts: int = 1,
        error: str,
    ) -> None:
        answer = None if event is None else event.ai
        letter = DeadLetter(
            event_id=event_id,
            pipeline=self._pipeline,
            writeback=writeback,
            stage=stage,
            error=error,
            code=code,
            reason=reason,
            fingerprint=fingerprint(stage, code, reason),
            attempts=attempts,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            headers=[(name, value) for name, value in record.headers if _may_be_kept(name)],
            config=self._config,
            model=self._model if answer is None else f"{answer.get('model')}@{answer.get('version')}",
            answer=answer,
            first_seen=self._now,
            last_seen=self._now,
        )
        self._add(self._topics.dead, record.key, encode(letter), connect_headers(letter))

    def _add(self, topic: Topic, key: bytes | None, value: bytes, headers: Headers) -> None:
        self.add(topic, Outgoing(key, value, headers))


_ERRORS = {Outcome.CONFLICT: "Conflict", Outcome.UNKNOWN: "Unknown"}


def _may_be_kept(name: str) -> bool:
    """Headers that a dead letter keeps: CloudEvents', ours and the trace; others may hold anything."""
    return name.startswith(("ce_", "cd_")) or name in ("content-type", "traceparent", "tracestate")
