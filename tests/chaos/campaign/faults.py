"""The faults: what a step of a schedule does. Each returns when it has ended, and may note what it measured."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.campaign.run import Run

PATIENCE = 30.0


class NotPossible(Exception):
    """The fault could not be made; the run is void."""


def until(holds: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Waits for a condition and returns what it gave.

    Raises:
        NotPossible: it did not come true in time.
    """
    end = time.monotonic() + patience
    while not (found := holds()):
        if time.monotonic() > end:
            raise NotPossible(f"waited {patience:.0f} s for {what}")
        time.sleep(0.05)
    return found


def kill(run: "Run", worker: int, after: float) -> None:
    """SIGKILL, some time after the worker works; it is started again at once."""
    victim = run.workers.running[worker % len(run.workers.running)]
    until(lambda: victim.works, "a worker that works", 90)
    time.sleep(after)
    life = victim.lives[-1]
    until(victim.kill, "a worker to kill")
    until(lambda: not life.alive, "its end")


FAULTS: Mapping[str, Callable[..., None]] = {"kill": kill}
"""By name."""
