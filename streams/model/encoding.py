"""From columns to the one matrix that a model takes; training and serving use the same code."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streams.model.contract import FeatureBatch
from streams.model.manifest import Input

Matrix: TypeAlias = NDArray[np.float32]


class Encoding:
    """The inputs of one model, in the manifest's order."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self.width = sum(spec.width for spec in inputs)
        self._codes = {spec.name: {category: code for code, category in enumerate(spec.categories)} for spec in inputs}

    def matrix(self, rows: FeatureBatch) -> Matrix:
        """float32 [rows, width]: a number as it is; a category as one column for each of its values, others all 0."""
        size = len(next(iter(rows.values())))
        matrix: Matrix = np.zeros((size, self.width), dtype=np.float32)
        at = 0
        for spec in self._inputs:
            values = rows[spec.name]
            if spec.kind == "number":
                matrix[:, at] = values
            else:
                codes = self._codes[spec.name]
                column = np.array([codes.get(value, -1) for value in values], dtype=np.intp)
                known = np.flatnonzero(column >= 0)
                matrix[known, at + column[known]] = 1.0
            at += spec.width
        return matrix
