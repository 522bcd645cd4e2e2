"""Whether a write happened: looked for by its reference, before it is sent and when its answer is lost."""

import json

import jmespath

from connectors.compare import holds
from connectors.errors import Rejected, SystemFault
from connectors.http import HttpAnswer
from connectors.reference import reference_of
from connectors.rest.body import Unreadable, parse
from connectors.rest.config import RestWritebackConfig
from connectors.rest.paths import filled, path_of
from connectors.rest.rules import Action, Rules, failure_of
from connectors.rest.wire import Wire
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Record
from schemas.write import Write

BY_ANOTHER_ATTEMPT = "the target has this write: an earlier attempt applied it"


class RestLookback:
    """Asks a REST system for a write."""

    def __init__(self, config: RestWritebackConfig, wire: Wire, rules: Rules) -> None:
        assert config.reference is not None
        assert config.readback is not None
        self._wire, self._rules = wire, rules
        self._reference, self._look = config.reference, config.readback
        self._records = jmespath.compile(config.readback.records)
        self._shows = jmespath.compile(config.readback.shows or json.dumps(config.reference.field))
        self._place = f"GET {config.readback.get}"

    def find(self, write: Write, deadline: float) -> Receipt | None:
        """The receipt if the target has the write; None = it says clearly that it has not.

        Raises:
            SystemFault: the answer has records, but none of them shows the reference: it may not have been searched by.
            Retriable, Throttled, SystemFault: as `put`.
            Rejected: the write's key names no record.
        """
        reference = reference_of(write.write_id, self._reference.form)
        values = {**write.key, "reference": reference}
        params = {name: filled(text, values) for name, text in self._look.params.items()}
        answer = self._wire.call("GET", path_of(self._look.get, values), params=params, deadline=deadline)
        if answer.status in {404, 410}:
            return None
        found = self._found(answer)
        if not found:
            return None
        if not any(str(self._shows.search(record)) == reference for record in found):
            raise SystemFault(
                f"{self._place} answers with records that do not show the reference that was asked for: "
                "does the server know that parameter, and does `shows:` name the right field?",
                code="readback",
            )
        return Receipt(Outcome.APPLIED, reason=BY_ANOTHER_ATTEMPT)

    def _found(self, answer: HttpAnswer) -> list[Record]:
        action = self._rules.action(answer)
        if action is Action.END:
            return []
        if action is not Action.SUCCESS:
            raise failure_of(action, answer, self._place, self._wire.heard(action, answer))
        if answer.status == 204:
            return []
        try:
            body = parse(answer.body)
        except Unreadable as error:
            raise SystemFault(f"{self._place}: {error.message}", code="body", detail=error.detail) from error
        records = self._records.search(body)
        if body is None:
            return []
        if isinstance(records, dict):
            records = [records]
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise SystemFault(f"{self._place}: {self._look.records!r} is no record and no list of them", code="records")
        return records


def already(found: Record | None, write: Write) -> Receipt | None:
    """Without a reference: a record that holds the values has the write, or needs none."""
    if found is None or not holds(found, write.fields):
        return None
    return Receipt(Outcome.UNCHANGED, target_version=found["@version"])


def refused(error: Rejected) -> Receipt:
    return Receipt(Outcome.REJECTED, code=error.code, reason=error.message)
