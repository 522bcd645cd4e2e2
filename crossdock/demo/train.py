"""Trains the demo's three models from the whole year and writes them as model versions. Needs the extra `train`.

    python -m crossdock.demo.train --data FOLDER --out config/models

FOLDER holds the year's CSV files (`python -m crossdock.demo.dataset fetch` prints it). The same data give the same
bytes on one machine. Nothing of this is imported by a worker.
"""

import argparse
import hashlib
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import brier_score_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from connectors.clock import SystemClock
from crossdock.demo.card import card_text
from crossdock.demo.dataset import read_csv
from crossdock.demo.questions import (
    GROUPS,
    Category,
    Example,
    Number,
    Question,
    delay_risk,
    inspection_priority,
    weather_severity,
)
from schemas.values import JsonValue
from streams.model.contract import FeatureBatch, Prediction, RowError
from streams.model.encoding import Encoding
from streams.model.manifest import Calibration, Card, GoldenRow, Input, Manifest, ModelVersion, Output
from streams.model.onnx import OnnxBackend
from streams.model.operators import operators

VERSION = "1.0.0"
ALPHAS = (0.05, 0.1, 0.2)
GOLDEN_ROWS = 16
LARGEST = 100 * 1024
EXPIRES = "2031-12-31"
APPROVER = "the maintainers of Crossdock, for the demo"
TENSOR = "features"
OPSETS = {"": 18, "ai.onnx.ml": 3}

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


def main(arguments: list[str]) -> int:
    """Trains all three. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m crossdock.demo.train", description="Trains the demo's models.")
    parser.add_argument("--data", type=Path, required=True, help="folder with flights.csv, weather.csv, planes.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the models")
    options = parser.parse_args(arguments)
    flights, reports, planes = (list(read_csv(options.data / f"{t}.csv")) for t in ("flights", "weather", "planes"))
    with threadpool_limits(limits=1):  # several threads add up in another order, and the bytes differ
        for question in (
            delay_risk(flights, reports),
            weather_severity(flights, reports),
            inspection_priority(flights, planes),
        ):
            manifest = train(question, options.out)
            last = list(manifest.card.metrics.items())[-1]
            sys.stdout.write(f"{manifest.name} {manifest.version}: {last[0]}: {last[1]}\n")
    return 0


def train(question: Question, out: Path) -> Manifest:
    """One model version, written below `out`."""
    seen = [example for example in question.examples if example.group is not None]
    unseen = [example for example in question.examples if example.group is None]
    inputs = [_described(spec, [example.inputs[spec.name] for example in seen]) for spec in question.inputs]
    encoding = Encoding(inputs)
    matrix, truths = encoding.matrix(columns(question, inputs, seen)), _truths(seen)
    left_out = _left_out(question, matrix, truths, np.array([example.group for example in seen]))
    model = _onnx(question, _fitted(question, matrix, truths))
    manifest = Manifest(
        cd_schema=1,
        name=question.name,
        version=VERSION,
        sha256=hashlib.sha256(model).hexdigest(),
        operators=sorted(operators(model)),
        tensor=TENSOR,
        inputs=inputs,
        outputs=[
            Output(question.number, "probability", tensor="probabilities", column=1),
            Output(question.band, "band", of=question.number, edges=question.edges, labels=question.labels),
        ],
        card=Card(
            intended_use=question.intended_use,
            out_of_scope=question.out_of_scope,
            data=question.data,
            metrics={},
            owner=question.owner,
            approver=APPROVER,
            expires=EXPIRES,
            notes=question.notes,
        ),
        golden=[],
        trained_rows=len(seen),
    )
    served = _served(manifest, model, question, unseen)
    manifest = msgspec.structs.replace(
        manifest,
        calibration=_calibration(question, left_out, truths, served, unseen),
        card=msgspec.structs.replace(manifest.card, metrics=_metrics(question, left_out, truths, served, unseen)),
        golden=_golden(manifest, model, question, unseen, served),
    )
    _write(manifest, model, out)
    return manifest


def columns(question: Question, inputs: Sequence[Input], examples: Sequence[Example]) -> FeatureBatch:
    """The columns as the guards would give them: absent and implausible values are imputed."""
    found: dict[str, list[JsonValue]] = {}
    for spec, described in zip(question.inputs, inputs, strict=True):
        values = [_plausible(spec, example.inputs[spec.name]) for example in examples]
        found[spec.name] = [described.impute if value is None else value for value in values]
    return found


def _plausible(spec: Number | Category, value: JsonValue) -> JsonValue:
    if isinstance(spec, Number) and value is not None and not spec.plausible[0] <= value <= spec.plausible[1]:
        return None
    return value


def _described(spec: Number | Category, values: Sequence[JsonValue]) -> Input:
    """What the manifest says of an input, from the training rows."""
    kept = [value for raw in values if (value := _plausible(spec, raw)) is not None]
    missing = round(1 - len(kept) / len(values), 6)
    if isinstance(spec, Category):
        counts = Counter(kept)
        categories = sorted(name for name, count in counts.items() if count >= spec.at_least)
        shares = {name: round(counts[name] / len(kept), 6) for name in categories}
        return Input(
            spec.name, "category", categories=categories, others=spec.others, shares=shares, missing_share=missing
        )
    column = np.array(kept, dtype=np.float64)
    median = round(float(np.median(column)), 6)
    return Input(
        spec.name,
        "number",
        impute=spec.impute if spec.impute is not None else median if spec.impute_is else None,
        impute_is=spec.impute_is,
        seen=(round(float(column.min()), 6), round(float(column.max()), 6)),
        median=median,
        deciles=[round(float(value), 6) for value in np.quantile(column, np.arange(1, 10) / 10)],
        missing_share=missing,
    )


def _fitted(question: Question, matrix: NDArray[np.float32], truths: Truths) -> Any:
    model = HistGradientBoostingClassifier(
        max_iter=question.trees,
        learning_rate=0.1,
        max_leaf_nodes=15,
        min_samples_leaf=question.leaf,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=2013,
    )
    return model.fit(matrix, truths)


def _left_out(question: Question, matrix: NDArray[np.float32], truths: Truths, groups: NDArray[np.int64]) -> Floats:
    """For each training row the probability from a model that was trained without the row's group."""
    left_out = np.zeros(len(truths))
    for group in range(GROUPS):
        out = groups == group
        left_out[out] = _fitted(question, matrix[~out], truths[~out]).predict_proba(matrix[out])[:, 1]
    return np.round(left_out, 6)


def _onnx(question: Question, fitted: Any) -> bytes:
    width = fitted.n_features_in_
    found = to_onnx(
        fitted,
        initial_types=[(TENSOR, _float_tensor(width))],
        options={id(fitted): {"zipmap": False}},
        target_opset=OPSETS,
        name=question.name,
    )
    for key, value in (("name", question.name), ("version", VERSION)):
        found.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    onnx.checker.check_model(found)
    model: bytes = found.SerializeToString(deterministic=True)
    if len(model) > LARGEST:
        raise SystemExit(f"{question.name}: {len(model)} bytes, more than {LARGEST}")
    return model


def _float_tensor(width: int) -> Any:
    from skl2onnx.common.data_types import FloatTensorType

    return FloatTensorType([None, width])


def _served(manifest: Manifest, model: bytes, question: Question, examples: Sequence[Example]) -> Floats:
    """The answers as a worker gives them: through our own encoding and the runtime."""
    backend = OnnxBackend(ModelVersion(manifest, model), SystemClock())
    rows = columns(question, manifest.inputs, examples)
    return np.array([answer.outputs[question.number] for answer in _answered(backend, rows)])


def _answered(backend: OnnxBackend, rows: FeatureBatch) -> list[Prediction]:
    """Every row has an answer here; a row error would be a fault of the training."""
    answers = backend.answers(rows)
    return [answer for answer in answers if isinstance(answer, Prediction) or _refuse(answer)]


def _refuse(error: RowError) -> NoReturn:
    raise SystemExit(f"the model refuses one of its own rows: {error.reason}")


def _truths(examples: Sequence[Example]) -> Truths:
    return np.array([example.true for example in examples], dtype=np.bool_)


def _by_data(examples: Sequence[Example]) -> dict[str, Truths]:
    """Name of each unseen data set -> which rows are in it, and all of them together."""
    names = list(dict.fromkeys(example.data for example in examples))
    masks = {name: np.array([example.data == name for example in examples]) for name in names}
    return masks if len(names) == 1 else {**masks, "October to December": np.ones(len(examples), dtype=np.bool_)}


def _calibration(
    question: Question, left_out: Floats, truths: Truths, served: Floats, unseen: Sequence[Example]
) -> Calibration:
    nonconformity = _nonconformity(left_out, truths)
    quantiles = {f"{alpha:g}": _quantile(nonconformity, alpha) for alpha in ALPHAS}
    half = np.random.default_rng(2013).random(len(truths)) < 0.5
    coverage = {
        "a random half, calibrated on the other": {
            f"{alpha:g}": _coverage(nonconformity[~half], _quantile(nonconformity[half], alpha)) for alpha in ALPHAS
        }
    }
    later = _nonconformity(served, _truths(unseen))
    for name, mask in _by_data(unseen).items():
        coverage[name] = {alpha: _coverage(later[mask], quantile) for alpha, quantile in quantiles.items()}
    unsure = 1.0 - np.maximum(left_out, 1.0 - left_out)
    shares = [0.001, 0.002, 0.005, *(percent / 100 for percent in range(1, 100))]
    return Calibration(
        rows=len(truths),
        data=question.calibrated_on,
        quantiles=quantiles,
        unsureness={f"{share:g}": round(float(np.quantile(unsure, 1 - share, method="higher")), 6) for share in shares},
        coverage=coverage,
    )


def _nonconformity(probabilities: Floats, truths: Truths) -> Floats:
    return np.where(truths, 1.0 - probabilities, probabilities)


def _quantile(nonconformity: Floats, alpha: float) -> float:
    """Split conformal: the ceil((n + 1)(1 - alpha))-th smallest. One rank less and the promise would not hold."""
    rank = math.ceil((len(nonconformity) + 1) * (1 - alpha))
    return round(float(np.sort(nonconformity)[rank - 1]), 6) if rank <= len(nonconformity) else 1.0


def _coverage(nonconformity: Floats, quantile: float) -> float:
    return round(float((nonconformity <= quantile).mean()), 4)


def _metrics(
    question: Question, left_out: Floats, truths: Truths, served: Floats, unseen: Sequence[Example]
) -> dict[str, dict[str, float]]:
    base, later = float(truths.mean()), _truths(unseen)
    metrics = {"left out in training": _figures(question, left_out, truths, base)}
    for name, mask in _by_data(unseen).items():
        metrics[name] = _figures(question, served[mask], later[mask], base)
    return metrics


def _figures(question: Question, probabilities: Floats, truths: Truths, trained_share: float) -> dict[str, float]:
    figures = {
        "rows": float(len(truths)),
        "base_rate": float(truths.mean()),
        "auc": float(roc_auc_score(truths, probabilities)),
        "brier": float(brier_score_loss(truths, probabilities)),
        "brier_of_base_rate": float(((trained_share - truths) ** 2).mean()),
        "accuracy": float(((probabilities >= 0.5) == truths).mean()),
        "accuracy_of_always_no": float((~truths).mean()),
    }
    bands = np.searchsorted(question.edges, probabilities, side="right")
    for band, label in enumerate(question.labels):
        inside = bands == band
        figures[f"share of rows called {label}"] = float(inside.mean())
        if inside.any():
            figures[f"share of {label} that came true"] = float(truths[inside].mean())
    return {name: round(value, 4) for name, value in figures.items()}


def _golden(
    manifest: Manifest, model: bytes, question: Question, unseen: Sequence[Example], served: Floats
) -> list[GoldenRow]:
    """Rows over the whole range of answers, none of them so near an edge that rounding could change its band."""
    far = np.min(np.abs(served[:, None] - np.array(question.edges)[None, :]), axis=1) > 0.001
    order = np.flatnonzero(far)[np.argsort(served[far], kind="stable")]
    picked = [unseen[row] for row in order[np.linspace(0, len(order) - 1, GOLDEN_ROWS).astype(int)]]
    backend = OnnxBackend(ModelVersion(manifest, model), SystemClock())
    rows = columns(question, manifest.inputs, picked)
    answers = _answered(backend, rows)
    return [GoldenRow({name: rows[name][row] for name in rows}, answer.outputs) for row, answer in enumerate(answers)]


def _write(manifest: Manifest, model: bytes, out: Path) -> None:
    folder = out / manifest.name / manifest.version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "manifest.json").write_bytes(_json(manifest))
    (folder / "card.md").write_text(card_text(manifest))
    (out / manifest.name / "aliases.json").write_bytes(_json({"champion": manifest.version}))


def _json(value: Manifest | Mapping[str, str]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
