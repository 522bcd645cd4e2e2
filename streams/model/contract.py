"""The contracts of the model step."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

import msgspec

from schemas.values import JsonValue, Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FeatureBatch: TypeAlias = Mapping[str, Union[Sequence[JsonValue], "NDArray[np.float64]"]]
"""Column-wise: input name -> one value per row; all columns have one length. Numbers are an array, texts a list."""


class Prediction(msgspec.Struct, frozen=True):
    """A model's answer for one row."""

    outputs: Record
    confidence: float | None = None
    """Probability of the likeliest class; None where the model has none."""


class RowError(msgspec.Struct, frozen=True):
    """The model could not answer this row."""

    code: str
    reason: str


class Backend(Protocol):
    """A model that answers."""

    async def predict(self, rows: FeatureBatch, deadline: float) -> list[Prediction | RowError]:
        """One entry per row, in order; never one error for a batch.

        Raises:
            Retriable: the model's system is away or slow; nothing is known about any row.
        """
        ...


class Status(StrEnum):
    """What the model step says of one event."""

    CERTAIN = "certain"  # goes on
    UNSURE = "unsure"  # goes on, stamped: the share of reviews was used up
    ABSTAINED = "abstained"  # a person decides
    REFUSED = "refused"  # a guard or the model refused the row: a dead letter


class Answer(msgspec.Struct, frozen=True):
    """The model step's result for one event."""

    status: Status
    ai: Record
    """The stamp: id, model, version, digest, role, rung, status, output, guards, confidence."""
    stage: str = "model"
    """For refused ones: guard-in, model or guard-out."""
    code: str = ""
    reason: str = ""
