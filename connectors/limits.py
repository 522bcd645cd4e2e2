"""Courtesy: how often and how much at once the hub speaks to a system."""

import threading

from connectors.clock import Clock
from connectors.errors import Retriable


class RateLimit:
    """A token bucket over threads: at most `rate` calls a second, one second's worth at once."""

    def __init__(self, rate: float | None, clock: Clock) -> None:
        self._rate, self._clock = rate, clock
        self._lock = threading.Lock()
        self._free_at = clock.monotonic()
        self._closed_until = 0.0

    def wait(self, deadline: float) -> None:
        """Returns when the next call is allowed.

        Raises:
            Retriable: it would not be allowed before the deadline; nothing was taken.
        """
        with self._lock:
            now = self._clock.monotonic()
            start = max(now, self._closed_until)
            if self._rate is not None:
                start = max(start, self._free_at)
            if start > deadline:
                raise Retriable("the system's rate is used up", retry_after=start - now)
            if self._rate is not None:
                self._free_at = max(start - 1.0, self._free_at) + 1.0 / self._rate
        self._sleep_until(start, deadline)

    def _sleep_until(self, start: float, deadline: float) -> None:
        """Another call may hear `close_for` while this one sleeps: it holds for both."""
        while (now := self._clock.monotonic()) < start:
            self._clock.sleep(start - now)
            with self._lock:
                start = max(start, self._closed_until)
            if start > deadline:
                raise Retriable("the system asked for a pause", retry_after=start - self._clock.monotonic())

    def close_for(self, seconds: float) -> None:
        """The system said when it wants to hear from us again: no call before."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._clock.monotonic() + seconds)
