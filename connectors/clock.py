"""Time, injected. Nothing else in the product asks the machine for it."""

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Deadlines are absolute seconds of `monotonic()`; what people and systems read is `now()`."""

    def monotonic(self) -> float: ...
    def now(self) -> datetime: ...
    def sleep(self, seconds: float, interrupt: threading.Event | None = None) -> bool:
        """Waits in a worker thread. True = interrupted before the time was over."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float, interrupt: threading.Event | None = None) -> bool:
        if interrupt is not None:
            return interrupt.wait(max(0.0, seconds))
        time.sleep(max(0.0, seconds))
        return False
