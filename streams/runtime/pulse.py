"""Pulses: when a lane or a source task last did something, so that one that hangs is told from one that waits.

Work says nothing itself. What it calls does: each return from a connector, each publication is a beat; each wait for a
sick system, for a slot or for the next poll is a rest. A pulse without either for long is stuck.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from connectors.clock import Clock


class Pulse:
    """One lane or source task."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name, self._clock = name, clock
        self._resting = 0
        self._last = clock.monotonic()

    def beat(self) -> None:
        self._last = self._clock.monotonic()

    @property
    def silent(self) -> float:
        """Seconds since it last did something; 0 while it may rest."""
        return 0.0 if self._resting else self._clock.monotonic() - self._last

    @contextmanager
    def rest(self) -> Iterator[None]:
        self._resting += 1
        try:
            yield
        finally:
            self._resting -= 1
            self.beat()


_PRESENT: ContextVar[Pulse | None] = ContextVar("pulse", default=None)


@contextmanager
def living(pulse: Pulse) -> Iterator[None]:
    """What runs inside, and the tasks that it starts, beat and rest for this pulse."""
    token = _PRESENT.set(pulse)
    try:
        yield
    finally:
        _PRESENT.reset(token)


def present() -> Pulse | None:
    """That of the lane or source task that runs; None outside of them."""
    return _PRESENT.get()


def beat() -> None:
    """Something was done. Without effect outside of a lane or a source task."""
    pulse = _PRESENT.get()
    if pulse is not None:
        pulse.beat()


@contextmanager
def rest() -> Iterator[None]:
    """What is waited for inside may take as long as it likes."""
    pulse = _PRESENT.get()
    if pulse is None:
        yield
        return
    with pulse.rest():
        yield
