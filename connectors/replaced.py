"""What writes replaced (`undo: true`), also of a write whose answer was lost: it was seen before the write was sent."""

import threading
from collections import OrderedDict
from typing import Final

import msgspec

from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Record

KEPT: Final = 10_000
"""Writes without an end whose replaced values are kept in memory; the oldest go first."""

_DONE: Final = frozenset({Outcome.APPLIED, Outcome.UNCHANGED})
_OPEN: Final = frozenset({Outcome.RETRY, Outcome.UNKNOWN})


class Replaced:
    """The replaced values of the writes that are under way; safe in many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[str, Record] = OrderedDict()

    def seen(self, write_id: str, values: Record) -> None:
        """The target's values right before a write is sent."""
        with self._lock:
            self._values[write_id] = values
            self._values.move_to_end(write_id)
            if len(self._values) > KEPT:
                self._values.popitem(last=False)

    def completed(self, write_id: str, receipt: Receipt) -> Receipt:
        """The receipt, with what the write replaced if it has happened: in this attempt or in an earlier one."""
        if receipt.outcome in _OPEN:
            return receipt
        with self._lock:
            values = self._values.pop(write_id, None)
        if values is None or receipt.outcome not in _DONE or receipt.replaced is not None:
            return receipt
        return msgspec.structs.replace(receipt, replaced=values)
