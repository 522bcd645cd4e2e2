"""Enrich: changes in; events with an answer out.

decode -> only -> derive -> lookups -> model -> one of: enriched, review, dead, filtered.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from connectors.failpoints import failpoint
from schemas.change import Op
from schemas.codec import extend
from schemas.values import Record
from streams.metrics import METRICS
from streams.model.contract import Answer, RowError, Status
from streams.pipeline import Pipeline
from streams.runtime.kafka import ConsumerRecord
from streams.runtime.publisher import Outputs
from streams.scope import Scope
from streams.settled import Incoming, Settled

_T = TypeVar("_T")

Hold = Callable[[float], Awaitable[None]]


async def enrich(records: Sequence[ConsumerRecord], pipeline: Pipeline, hold: Hold) -> Outputs:
    """What is to be published for these records, before they may be acknowledged.

    Args:
        records: of one partition of `<p>.changes`, in order.
        hold: waits for a lookup that has not come yet.

    Raises:
        Retriable: the model's system is away; nothing was decided.
    """
    settled = Settled(pipeline.name, pipeline.topics, pipeline.config, pipeline.clock, _model(pipeline))
    incoming = _upserts(settled.decode(records), settled)
    scopes = [Scope(key=each.event.key, before=each.event.before, after=each.event.after) for each in incoming]

    split = pipeline.only.split(scopes)
    for row in split.filtered:
        settled.filtered(incoming[row], "only")
    _refuse(settled, incoming, split.refused, "only")
    incoming, scopes = [incoming[row] for row in split.wanted], [scopes[row] for row in split.wanted]

    refused = pipeline.derive.apply(scopes)
    _refuse(settled, incoming, refused, "derive")
    incoming, scopes = _without(incoming, refused), _without(scopes, refused)

    arrived = [each.record.timestamp / 1000 for each in incoming]
    looked_up = await pipeline.lookups.join(scopes, arrived, hold)
    answers = await _answers(pipeline, scopes, incoming)
    failpoint("enrich_before_publish")
    for each, scope, found, answer in zip(incoming, scopes, looked_up, answers, strict=True):
        _route(settled, each, _value(each, scope.derived, found, answer), answer)
    METRICS.settled(pipeline.name, "enrich", settled.outcomes)
    return settled.outputs


def _model(pipeline: Pipeline) -> str | None:
    return None if pipeline.model is None else f"{pipeline.model.model['name']}@{pipeline.model.model['version']}"


def _upserts(incoming: list[Incoming], settled: Settled) -> list[Incoming]:
    """A deleted record has nothing to enrich, and nothing to be written to."""
    for each in incoming:
        if each.event.op is Op.DELETE:
            settled.filtered(each, "delete")
    return [each for each in incoming if each.event.op is not Op.DELETE]


async def _answers(pipeline: Pipeline, scopes: list[Scope], incoming: list[Incoming]) -> Sequence[Answer | None]:
    if pipeline.model is None or not scopes:
        return [None] * len(scopes)
    deadline = pipeline.clock.monotonic() + pipeline.model_timeout.total_seconds()
    return await pipeline.model.answer(scopes, [each.event_id for each in incoming], deadline)


def _value(each: Incoming, derived: Record, found: dict[str, msgspec.Raw], answer: Answer | None) -> bytes:
    assert each.record.value is not None
    fields: Record = {"derived": derived, "lookups": found}
    if answer is not None:
        fields["ai"] = answer.ai
    return extend(each.record.value, **fields)


def _route(settled: Settled, each: Incoming, value: bytes, answer: Answer | None) -> None:
    match None if answer is None else answer.status:
        case None | Status.CERTAIN | Status.UNSURE:
            settled.enriched(each, value)
        case Status.ABSTAINED:
            settled.review(each, value)
        case Status.REFUSED:
            assert answer is not None
            settled.dead(each, answer.stage, answer.code, answer.reason)


def _refuse(settled: Settled, incoming: list[Incoming], refused: dict[int, RowError], stage: str) -> None:
    for row, error in refused.items():
        settled.dead(incoming[row], stage, error.code, error.reason)


def _without(items: list[_T], rows: dict[int, RowError]) -> list[_T]:
    return [item for row, item in enumerate(items) if row not in rows]
