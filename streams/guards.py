"""Guards: checks before and after the model, for a whole column at once. A clean column costs no Python loop.

Order on an input: missing, type, finite, range or category. What a guard says of a row:

| verdict  | row                                                                             |
|----------|---------------------------------------------------------------------------------|
| imputed  | goes on with the manifest's stand-in, and is stamped                            |
| other    | goes on as a category that the model has no column for, and is stamped          |
| abstain  | a person decides; the model is not asked                                        |
| refused  | a dead letter; it wins over abstain                                             |
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.values import JsonScalar, JsonValue, Record
from streams.model.contract import FeatureBatch, Prediction, RowError
from streams.model.manifest import Input, Output

_DECIMAL = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,3})?")
_PLAIN_NUMBERS = frozenset({int, float, type(None)})
_TEXTS = frozenset({str, type(None)})
_FLOATS = frozenset({float, int})

Numbers: TypeAlias = NDArray[np.float64]


class Missing(StrEnum):
    """What becomes of a row whose input has no value."""

    REFUSE = "refuse"
    IMPUTE = "impute"
    ABSTAIN = "abstain"


@dataclass(slots=True)
class Verdicts:
    """What the guards said of a batch; rows that are in none of the three are clean."""

    refused: dict[int, RowError] = field(default_factory=dict)
    abstained: dict[int, str] = field(default_factory=dict)
    notes: dict[int, list[Record]] = field(default_factory=dict)

    def note(self, row: int, note: Record) -> None:
        self.notes.setdefault(row, []).append(note)

    def refuse(self, row: int, code: str, reason: str) -> None:
        self.refused.setdefault(row, RowError(code, reason))


@dataclass(frozen=True, slots=True)
class InputGuard:
    """Checks one input. `range` is for numbers, `allow` for categories."""

    spec: Input
    missing: Missing = Missing.REFUSE
    lookup: str | None = None
    lookup_missing: Missing | None = None
    """Wins over `missing` where that lookup found nothing."""
    range: tuple[float, float] | None = None
    allow: frozenset[JsonScalar] | None = None

    def check(
        self, values: list[JsonValue], not_found: Mapping[str, Sequence[bool]], verdicts: Verdicts
    ) -> Sequence[JsonValue] | Numbers:
        """The column as the model gets it. Rows that do not reach the model hold any value."""
        kinds = set(map(type, values))
        if type(None) in kinds:
            values = self._filled(values, not_found, verdicts)
        if self.spec.kind == "category":
            return self._categories(values, kinds, verdicts)
        return self._numbers(values, kinds, verdicts)

    def _filled(
        self, values: list[JsonValue], not_found: Mapping[str, Sequence[bool]], verdicts: Verdicts
    ) -> list[JsonValue]:
        """Every None is replaced. Where the policy does not impute, the row is out and something fills its place."""
        name, stand_in = self.spec.name, self.spec.impute
        lookup_missed = not_found.get(self.lookup) if self.lookup is not None and self.lookup_missing else None
        imputed = {"guard": "missing", "input": name, "verdict": "imputed"}
        filler = self._filler()
        filled = list(values)
        for row in [row for row, value in enumerate(values) if value is None]:
            by_lookup = lookup_missed is not None and lookup_missed[row]
            policy = self.lookup_missing if by_lookup else self.missing
            filled[row] = filler if stand_in is None else stand_in
            if policy is Missing.IMPUTE and stand_in is not None:
                verdicts.note(row, imputed)
                continue
            why = f"{self.lookup}: nothing found for {name}" if by_lookup else f"{name}: there is no value"
            if policy is Missing.ABSTAIN:
                verdicts.abstained.setdefault(row, why)
                verdicts.note(row, {"guard": "missing", "input": name, "verdict": "abstain"})
            else:
                verdicts.refuse(row, "lookup-missing" if by_lookup else "missing", why)
        return filled

    def _filler(self) -> JsonScalar:
        """Any value that passes the guard, so that a row that is out is not reported twice."""
        if self.spec.kind == "category":
            return next(iter(self.allow)) if self.allow else self.spec.categories[0]
        return self.range[0] if self.range else 0.0

    def _numbers(self, values: list[JsonValue], kinds: set[type], verdicts: Verdicts) -> Numbers:
        name = self.spec.name
        column = self._converted(values, verdicts) if kinds - _PLAIN_NUMBERS else _array(values)
        # The model reads 32 bits: what is infinite there is infinite for it.
        finite = np.abs(column) <= np.finfo(np.float32).max
        if not finite.all():
            for row in np.flatnonzero(~finite).tolist():
                verdicts.refuse(row, "finite", f"{name}: {_shown(values[row])} is not a finite number")
        if self.range is not None:
            low, high = self.range
            inside = (column >= low) & (column <= high)
            if not inside.all():
                for row in np.flatnonzero(~inside & finite).tolist():
                    verdicts.refuse(row, "range", f"{name}: {_shown(values[row])} is not in {low:g}..{high:g}")
        return column

    def _converted(self, values: list[JsonValue], verdicts: Verdicts) -> Numbers:
        """Decimals stand as text on the wire; everything else that is no number is refused."""
        column = np.zeros(len(values))
        for row, value in enumerate(values):
            if isinstance(value, str) and _DECIMAL.fullmatch(value):
                column[row] = float(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                column[row] = _float(value)
            else:
                column[row] = self._filler()
                verdicts.refuse(row, "type", f"{self.spec.name}: a number is needed, not {_kind(value)}")
        return column

    def _categories(self, values: list[JsonValue], kinds: set[type], verdicts: Verdicts) -> list[JsonValue]:
        spec, name = self.spec, self.spec.name
        if kinds - _TEXTS:
            values = self._texts(values, verdicts)
        distinct = set(values)
        if self.allow is not None:
            for row in _rows_of(values, distinct - self.allow):
                verdicts.refuse(row, "category", f"{name}: {_shown(values[row])} is not allowed")
        unknown = distinct.difference(spec.categories)
        if unknown and spec.others:
            note = {"guard": "category", "input": name, "verdict": "other"}
            for row in _rows_of(values, unknown):
                verdicts.note(row, note)
        elif unknown:
            for row in _rows_of(values, unknown):
                verdicts.refuse(row, "category", f"{name}: the model does not know {_shown(values[row])}")
        return values

    def _texts(self, values: list[JsonValue], verdicts: Verdicts) -> list[JsonValue]:
        texts: list[JsonValue] = []
        for row, value in enumerate(values):
            if isinstance(value, str | int) and not isinstance(value, bool):
                texts.append(str(value))
            else:
                texts.append(self._filler())
                verdicts.refuse(row, "type", f"{self.spec.name}: a text is needed, not {_kind(value)}")
        return texts


@dataclass(frozen=True, slots=True)
class InputGuards:
    """All inputs of a model."""

    guards: Sequence[InputGuard]

    def check(
        self, columns: Mapping[str, list[JsonValue]], not_found: Mapping[str, Sequence[bool]]
    ) -> tuple[FeatureBatch, Verdicts]:
        """The columns as the model gets them, and what was said of the rows. Every row is still in the columns."""
        verdicts = Verdicts()
        checked = {guard.spec.name: guard.check(columns[guard.spec.name], not_found, verdicts) for guard in self.guards}
        return checked, verdicts


@dataclass(frozen=True, slots=True)
class OutputGuard:
    """Checks one output: a finite number in its range, or a label of the list. Default: the manifest's own limits."""

    spec: Output
    range: tuple[float, float] | None = None
    allow: frozenset[JsonScalar] | None = None

    def check(self, values: list[JsonValue]) -> dict[int, RowError]:
        """Row -> why it is refused."""
        if self.spec.kind == "band":
            return self._labels(values)
        return self._numbers(values)

    def _labels(self, values: list[JsonValue]) -> dict[int, RowError]:
        allowed = self.allow if self.allow is not None else frozenset(self.spec.labels)
        if set(map(type, values)) == {str} and allowed.issuperset(values):
            return {}
        return {
            row: RowError("label", f"{self.spec.name}: {_shown(value)} is not on the list")
            for row, value in enumerate(values)
            if not isinstance(value, str) or value not in allowed
        }

    def _numbers(self, values: list[JsonValue]) -> dict[int, RowError]:
        name = self.spec.name
        low, high = self.range or ((0.0, 1.0) if self.spec.kind == "probability" else (-np.inf, np.inf))
        if _FLOATS.issuperset(map(type, values)):
            column = _array(values)
            if (np.isfinite(column) & (column >= low) & (column <= high)).all():
                return {}
        refused = {}
        for row, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float):
                refused[row] = RowError("type", f"{name}: a number is needed, not {_kind(value)}")
            elif not np.isfinite(_float(value)):
                refused[row] = RowError("finite", f"{name}: {_shown(value)} is not a finite number")
            elif not low <= value <= high:
                refused[row] = RowError("range", f"{name}: {_shown(value)} is not in {low:g}..{high:g}")
        return refused


@dataclass(frozen=True, slots=True)
class OutputGuards:
    """All outputs of a model."""

    guards: Sequence[OutputGuard]

    def check(self, predictions: Sequence[Prediction]) -> dict[int, RowError]:
        """Index in `predictions` -> why that answer is not used."""
        refused: dict[int, RowError] = {}
        for guard in self.guards:
            name = guard.spec.name
            found = guard.check([prediction.outputs.get(name) for prediction in predictions])
            refused = found | refused
        return refused


def _array(values: list[JsonValue]) -> Numbers:
    """Numbers as an array; an integer beyond 64 bits of float becomes infinite."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return np.array([_float(value) for value in values])


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _rows_of(values: Sequence[JsonValue], wanted: set[Any]) -> list[int]:
    return [row for row, value in enumerate(values) if value in wanted] if wanted else []


def _kind(value: JsonValue) -> str:
    names = {"str": "text", "bool": "true or false", "dict": "an object", "list": "a list", "NoneType": "null"}
    return names.get(type(value).__name__, type(value).__name__)


def _shown(value: JsonValue) -> str:
    """Short enough for a message."""
    text = repr(value) if isinstance(value, str | float | bool | None) else f"{_float(value):g}"
    return text if len(text) <= 40 else f"{text[:37]}..."
