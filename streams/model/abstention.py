"""Abstention: which answers a person should see, by split conformal prediction.

A row's label set holds every label whose nonconformity `1 - probability` is at most the calibrated quantile. One label:
certain. None or both: unsure. Of the unsure ones those above a fixed threshold abstain: the value of `1 - confidence`
that `max_share` of the calibration rows lie above. So a row's verdict is its own, whatever batch it comes in.
When the stream has drifted, more rows than that are unsure: of the last 1,000 rows at most `max_share` abstain, the
rest pass, stamped `unsure`. Rows that were counted lately keep their verdict when they are delivered again.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from streams.model.contract import Status

WINDOW = 1000


class Abstention:
    """The policy of one pipeline, and the memory of its window. For models with two labels."""

    def __init__(self, quantile: float, threshold: float, max_share: float) -> None:
        """`quantile`: of the nonconformity, for the wanted alpha. `threshold`: of `1 - confidence`, for `max_share`."""
        self._quantile, self._threshold = quantile, threshold
        self._most = int(max_share * WINDOW + 1e-9)
        self._seen = 0
        self._abstained_at: deque[int] = deque()
        self._verdicts: dict[str, Status] = {}

    def verdicts(self, event_ids: Sequence[str], confidences: Sequence[float | None]) -> list[Status]:
        """CERTAIN, UNSURE or ABSTAINED for each row. Without a confidence there are no doubts to tell: certain."""
        verdicts = [Status.CERTAIN] * len(confidences)
        confidence = np.array(confidences, dtype=np.float64)
        nonconformity = 1.0 - confidence
        # Two labels: the likelier one's nonconformity is 1 - confidence, the other one's is confidence.
        unsure = ~((nonconformity <= self._quantile) & (confidence > self._quantile)) & ~np.isnan(confidence)
        for row in np.flatnonzero(unsure).tolist():
            asks = bool(nonconformity[row] > self._threshold)
            verdicts[row] = self._capped(event_ids[row], self._seen + row) if asks else Status.UNSURE
        self._seen += len(confidences)
        return verdicts

    def _capped(self, event_id: str, place: int) -> Status:
        known = self._verdicts.get(event_id)
        if known is not None:
            return known
        while self._abstained_at and self._abstained_at[0] <= place - WINDOW:
            self._abstained_at.popleft()
        free = len(self._abstained_at) < self._most
        if free:
            self._abstained_at.append(place)
        verdict = Status.ABSTAINED if free else Status.UNSURE
        self._verdicts[event_id] = verdict
        if len(self._verdicts) > WINDOW:
            del self._verdicts[next(iter(self._verdicts))]
        return verdict
