"""A clock that a test moves by hand."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class HandClock:
    """See `connectors.clock.Clock`. `on_sleep` may change the world while somebody waits."""

    def __init__(self) -> None:
        self.seconds, self.naps = 0.0, list[float]()
        self.on_sleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2013, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def sleep(self, seconds: float, interrupt: threading.Event | None = None) -> bool:
        self.on_sleep()
        if interrupt is not None and interrupt.is_set():
            return True
        self.naps.append(seconds)
        self.seconds += seconds
        return False

    async def hold(self, seconds: float) -> None:
        """As a lane waits."""
        self.sleep(seconds)
