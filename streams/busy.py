"""Busy records: the brake on writes of one record. Two systems that answer each other would else write for ever."""

from collections import OrderedDict

from connectors.clock import Clock

HOUR = 3600.0
MOST = 20_000
"""Records that are counted at a time: those that were written to last, 7 MB. Who goes round in a circle stays among
them.
"""


class Busy:
    """The writes of each record within the hour that began with the first of them."""

    def __init__(self, most: int | None, clock: Clock) -> None:
        """None: no brake."""
        self._most, self._clock = most, clock
        self._writes: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def wrote(self, key: bytes) -> None:
        """The record was changed at the target."""
        if self._most is None:
            return
        now = self._clock.monotonic()
        began, count = self._writes.pop(key, (now, 0))
        self._writes[key] = (now, 1) if now - began >= HOUR else (began, count + 1)
        if len(self._writes) > MOST:
            self._writes.popitem(last=False)

    def until(self, key: bytes) -> float | None:
        """When it may be written again, in seconds of the clock's `monotonic()`; None = now."""
        began, count = self._writes.get(key, (0.0, 0))
        if self._most is None or count < self._most or self._clock.monotonic() - began >= HOUR:
            return None
        return began + HOUR
