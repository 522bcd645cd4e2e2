"""The breaker of one system, as one worker sees it. Pure: the clock is injected, and nothing here waits.

```
closed ── failed ──> open ── every 5 s one record (half-open) ── succeeded ──> closed
                      ^──────────────── failed ────────────────┘
```
While it is open the partitions that need the system stand still; the worker stays a member of its group, and nothing
becomes a dead letter. The interval holds for the hub: a worker that has half of the partitions probes half as often.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from connectors.clock import Clock

INTERVAL = 5.0
"""Seconds between two probes of one system, over all workers."""
CROWD = 0.01
"""Smallest share that counts: a worker with almost nothing still looks now and then."""


class Breaker:
    """Opened by what fails for good, closed by what works."""

    def __init__(self, clock: Clock, interval: float = INTERVAL) -> None:
        self._clock, self._interval = clock, interval
        self.share: Callable[[], float] = lambda: 1.0
        """This worker's part of the system's partitions, 0 to 1: set by whoever knows."""
        self._next_probe = 0.0
        self._probing = False
        self._worked_at = float("-inf")
        self.reason = ""
        self.since: datetime | None = None
        """When it opened; None = it is closed."""

    @property
    def is_open(self) -> bool:
        return self.since is not None

    def failed(self, reason: str, retry_after: float = 0.0) -> bool:
        """A call failed for a reason that is no record's. True = this opened it."""
        opened = self.since is None
        if opened:
            self.since = self._clock.now()
        self.reason, self._probing = reason, False
        pause = self._interval / max(CROWD, min(1.0, self.share()))
        self._next_probe = self._clock.monotonic() + max(pause, retry_after)
        return opened

    def succeeded(self) -> bool:
        """A call worked. True = this closed it."""
        self._worked_at = self._clock.monotonic()
        closed = self.since is not None
        self.since, self.reason, self._probing = None, "", False
        return closed

    def worked_since(self, moment: float) -> bool:
        """Whether any call of this worker worked after that moment (seconds of the clock's `monotonic()`)."""
        return self._worked_at > moment

    def wait(self) -> float:
        """Seconds until somebody may call: 0 = now (as a probe, where it is open)."""
        if self.since is None:
            return 0.0
        if self._probing:
            return self._interval
        return max(0.0, self._next_probe - self._clock.monotonic())

    @contextmanager
    def calling(self) -> Iterator[bool]:
        """Around one call, once `wait()` is 0. Gives True where it is the probe, which nobody else makes meanwhile."""
        probe = self.is_open
        self._probing = probe
        try:
            yield probe
        finally:
            if probe:
                self._probing = False
