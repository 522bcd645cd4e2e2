"""Finds the bad row: a refused batch is split until what is refused stands alone."""

from connectors.errors import Rejected
from streams.model.contract import Backend, FeatureBatch, Prediction, RowError


class Isolating:
    """A backend around a backend. k bad rows give exactly k row errors, at 2 log2(n) calls for each at most."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def predict(self, rows: FeatureBatch, deadline: float) -> list[Prediction | RowError]:
        """One entry per row. Raises Retriable as the backend does: then nothing is known about any row."""
        size = len(next(iter(rows.values()), ()))
        return await self._part(rows, 0, size, deadline)

    async def _part(self, rows: FeatureBatch, start: int, end: int, deadline: float) -> list[Prediction | RowError]:
        if start == end:
            return []
        try:
            return await self._backend.predict(_rows(rows, start, end), deadline)
        except Rejected as error:
            if end - start == 1:
                return [RowError(error.code, error.message)]
        middle = (start + end) // 2
        first = await self._part(rows, start, middle, deadline)
        return first + await self._part(rows, middle, end, deadline)


def _rows(rows: FeatureBatch, start: int, end: int) -> FeatureBatch:
    return {name: column[start:end] for name, column in rows.items()}
