"""The default backend: ONNX Runtime in this process, on one core, in a thread when the batch is worth one."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from connectors.clock import Clock
from connectors.errors import ConfigError, Rejected, Retriable
from schemas.values import JsonValue
from streams.model.contract import FeatureBatch, Prediction, RowError
from streams.model.encoding import Encoding
from streams.model.manifest import Manifest, ModelVersion

THREAD_ABOVE = 64
"""Rows from which a thread pays: below, the call is shorter than the hand-over."""
DECIMALS = 6
"""Answers are rounded: ONNX Runtime is not equal to the last bit over batch sizes and machines."""
GOLDEN_TOLERANCE = 1e-5


class OnnxBackend:
    """One loaded model version."""

    def __init__(self, version: ModelVersion, clock: Clock) -> None:
        """Raises ConfigError if the runtime refuses the file, or its tensors are not what the manifest says."""
        self.manifest = version.manifest
        self._clock = clock
        self._session = _session(version)
        self._encoding = Encoding(self.manifest.inputs)
        self._numbers = [output for output in self.manifest.outputs if output.kind != "band"]
        self._bands = [
            (output.of, np.array(output.edges), output.labels)
            for output in self.manifest.outputs
            if output.kind == "band"
        ]
        self._names = [
            *(output.name for output in self._numbers),
            *(o.name for o in self.manifest.outputs if o.kind == "band"),
        ]
        self._tensors = sorted({output.tensor for output in self._numbers})

    async def predict(self, rows: FeatureBatch, deadline: float) -> list[Prediction | RowError]:
        """One entry per row, in order.

        Raises:
            Retriable: the deadline has passed.
            Rejected: the runtime refuses the batch; some row of it is the cause.
        """
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise Retriable(f"model {self.manifest.name}: no time left")
        size = len(next(iter(rows.values())))
        if size <= THREAD_ABOVE:
            return self.answers(rows)
        options = onnxruntime.RunOptions()
        try:
            async with asyncio.timeout(left):
                return await asyncio.to_thread(self.answers, rows, options)
        except TimeoutError:
            options.terminate = True
            raise Retriable(f"model {self.manifest.name}: no answer in time") from None

    def answers(self, rows: FeatureBatch, options: Any = None) -> list[Prediction | RowError]:
        """The same, blocking and without a deadline. Raises Rejected."""
        size = len(next(iter(rows.values())))
        try:
            found = self._session.run(self._tensors, {self.manifest.tensor: self._encoding.matrix(rows)}, options)
            numbers = self._columns(dict(zip(self._tensors, found, strict=True)), size)
        except Exception as error:  # the runtime's own exceptions have no common class; all of them mean this
            raise Rejected(
                f"model {self.manifest.name}: the runtime refuses the rows", code="runtime", detail=str(error)
            ) from error
        labels = [
            [names[place] for place in np.searchsorted(edges, numbers[of], side="right").tolist()]
            for of, edges, names in self._bands
        ]
        columns: list[Sequence[JsonValue]] = [*(column.tolist() for column in numbers.values()), *labels]
        answers: list[Prediction | RowError] = [
            Prediction(dict(zip(self._names, values, strict=True)), confidence)
            for values, confidence in zip(zip(*columns, strict=True), self._confidence(numbers, size), strict=True)
        ]
        for name, column in numbers.items():
            for row in np.flatnonzero(~np.isfinite(column)).tolist():
                answers[row] = RowError("finite", f"{name}: the model's answer is not a finite number")
        return answers

    def _columns(self, found: dict[str, Any], size: int) -> dict[str, NDArray[np.float64]]:
        columns = {}
        for output in self._numbers:
            tensor = np.asarray(found[output.tensor], dtype=np.float64).reshape(size, -1)
            columns[output.name] = np.round(tensor[:, output.column], DECIMALS)
        return columns

    def _confidence(self, numbers: dict[str, NDArray[np.float64]], size: int) -> Sequence[float | None]:
        output = self.manifest.probability
        if output is None:
            return [None] * size
        column = numbers[output.name]
        confidence: list[float | None] = np.round(np.maximum(column, 1.0 - column), DECIMALS).tolist()
        return confidence


def check_golden(backend: OnnxBackend, file: Path) -> None:
    """Raises ConfigError if this machine answers the golden rows differently from the one that trained the model."""
    golden = backend.manifest.golden
    if not golden:
        return
    rows = {field.name: [row.inputs[field.name] for row in golden] for field in backend.manifest.inputs}
    answers = backend.answers(rows)
    for number, (row, answer) in enumerate(zip(golden, answers, strict=True)):
        given = answer.outputs if isinstance(answer, Prediction) else {}
        if not all(_same(given.get(name), expected) for name, expected in row.outputs.items()):
            raise ConfigError(
                f"golden row {number}: this machine answers {given}, not {row.outputs}; the runtime differs too much",
                file=str(file),
            )


def _same(given: JsonValue, expected: JsonValue) -> bool:
    if isinstance(given, float) and isinstance(expected, int | float):
        return abs(given - expected) <= GOLDEN_TOLERANCE
    return bool(given == expected)


def _session(version: ModelVersion) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # an arena only grows; the rows are small
    manifest: Manifest = version.manifest
    place = f"model {manifest.name} {manifest.version}"
    try:
        # From bytes, not from a path: a file beside it can then never be opened.
        session = onnxruntime.InferenceSession(version.model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ConfigError(f"{place}: the runtime refuses the file", detail=str(error)) from error
    width = sum(field.width for field in manifest.inputs)
    inputs = session.get_inputs()
    if (
        len(inputs) != 1
        or inputs[0].name != manifest.tensor
        or inputs[0].type != "tensor(float)"
        or inputs[0].shape[-1] != width
    ):
        raise ConfigError(f"{place}: the file does not take one tensor {manifest.tensor!r} of float32 [rows, {width}]")
    tensors = {output.name for output in session.get_outputs()}
    wanted = {output.tensor for output in manifest.outputs if output.kind != "band"}
    if not wanted <= tensors:
        raise ConfigError(
            f"{place}: the file has no output {min(wanted - tensors)!r}; it has: {', '.join(sorted(tensors))}"
        )
    return session
