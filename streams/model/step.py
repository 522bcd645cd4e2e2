"""The model step: features, guards, model, guards, abstention, stamp. Every row gets an answer of its own."""

import hashlib
from collections.abc import Sequence

from schemas.values import Record
from schemas.write import LIVE
from streams.features import Features
from streams.guards import InputGuards, OutputGuards, Verdicts
from streams.model.abstention import Abstention
from streams.model.contract import Answer, Backend, FeatureBatch, Prediction, RowError, Status
from streams.model.isolate import Isolating
from streams.model.manifest import Manifest
from streams.scope import Scope

_NO_NOTES: list[Record] = []


class ModelStep:
    """One model version in one pipeline."""

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        *,
        features: Features,
        inputs: InputGuards,
        outputs: OutputGuards,
        abstention: Abstention | None = None,
    ) -> None:
        self.manifest = manifest
        self.model: Record = {"name": manifest.name, "version": manifest.version, "digest": manifest.digest}
        """What paths see as `model.name`, `model.version`, `model.digest`."""
        self._backend = Isolating(backend)
        self._features, self._inputs, self._outputs, self._abstention = features, inputs, outputs, abstention
        self._salt = f"|{manifest.sha256}|{LIVE}".encode()

    async def answer(self, scopes: Sequence[Scope], event_ids: Sequence[str], deadline: float) -> list[Answer]:
        """One answer per row, in order. `deadline`: absolute seconds of the clock's `monotonic()`.

        Raises:
            Retriable: the model is away or too slow; nothing of this batch was decided.
        """
        if not scopes:
            return []
        columns, verdicts = self._inputs.check(self._features.columns(scopes), self._features.not_found(scopes))
        out = verdicts.refused.keys() | verdicts.abstained.keys()
        asked = [row for row in range(len(scopes)) if row not in out] if out else range(len(scopes))
        answers: list[Answer | None] = [None] * len(scopes)
        for row in sorted(out):
            answers[row] = self._unasked(row, event_ids[row], verdicts)
        if asked:
            taken = _rows(columns, asked) if out else columns
            predictions = await self._backend.predict(taken, deadline)
            self._answered(answers, asked, predictions, event_ids, verdicts)
        return [answer for answer in answers if answer is not None]

    def _unasked(self, row: int, event_id: str, verdicts: Verdicts) -> Answer:
        notes = verdicts.notes.get(row, _NO_NOTES)
        error = verdicts.refused.get(row)
        if error is not None:
            return self._refused(event_id, error, "guard-in", notes)
        ai = self._stamp(event_id, Status.ABSTAINED, {}, notes, None)
        return Answer(Status.ABSTAINED, ai, stage="guard-in", code="missing", reason=verdicts.abstained[row])

    def _answered(
        self,
        answers: list[Answer | None],
        asked: Sequence[int],
        predictions: Sequence[Prediction | RowError],
        event_ids: Sequence[str],
        verdicts: Verdicts,
    ) -> None:
        """Fills in the rows that the model was asked about."""
        given: list[Prediction] = []
        rows: list[int] = []
        for row, prediction in zip(asked, predictions, strict=True):
            if isinstance(prediction, RowError):
                notes = verdicts.notes.get(row, _NO_NOTES)
                answers[row] = self._refused(event_ids[row], prediction, "model", notes)
            else:
                given.append(prediction)
                rows.append(row)
        refused = self._outputs.check(given)
        statuses = self._statuses(given, [event_ids[row] for row in rows], refused)
        notes_of = verdicts.notes.get
        for index, (row, prediction, status) in enumerate(zip(rows, given, statuses, strict=True)):
            notes = notes_of(row, _NO_NOTES)
            if refused and index in refused:
                answers[row] = self._refused(event_ids[row], refused[index], "guard-out", notes)
                continue
            ai = self._stamp(event_ids[row], status, prediction.outputs, notes, prediction.confidence)
            answers[row] = Answer(status, ai) if status is not Status.ABSTAINED else self._asks(ai)

    def _statuses(
        self, given: Sequence[Prediction], event_ids: Sequence[str], refused: dict[int, RowError]
    ) -> Sequence[Status]:
        if self._abstention is None:
            return [Status.CERTAIN] * len(given)
        confidences = [None if index in refused else one.confidence for index, one in enumerate(given)]
        return self._abstention.verdicts(event_ids, confidences)

    def _asks(self, ai: Record) -> Answer:
        return Answer(Status.ABSTAINED, ai, code="unsure", reason="the model is not sure enough")

    def _refused(self, event_id: str, error: RowError, stage: str, notes: list[Record]) -> Answer:
        ai = self._stamp(event_id, Status.REFUSED, {}, notes, None)
        return Answer(Status.REFUSED, ai, stage=stage, code=error.code, reason=error.reason)

    def _stamp(
        self, event_id: str, status: Status, output: Record, notes: list[Record], confidence: float | None
    ) -> Record:
        """What every enriched event carries. The id is the same for the same event, model and cause."""
        manifest = self.model
        return {
            "id": hashlib.blake2b(event_id.encode() + self._salt, digest_size=16).hexdigest(),
            "model": manifest["name"],
            "version": manifest["version"],
            "digest": manifest["digest"],
            "role": "champion",
            "rung": 0,
            "status": status.value,
            "output": output,
            "guards": notes,
            "confidence": confidence,
        }


def _rows(columns: FeatureBatch, rows: Sequence[int]) -> FeatureBatch:
    return {
        name: [column[row] for row in rows] if isinstance(column, list) else column[list(rows)]  # type: ignore[call-overload]
        for name, column in columns.items()
    }
