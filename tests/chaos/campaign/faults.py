"""Faults of workers and hubs. A fault is a function that returns when it has ended; it may note what it measured."""

import shutil
import signal
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tests.chaos.campaign.workers import Worker, Workers

if TYPE_CHECKING:
    from tests.chaos.campaign.run import Run

PATIENCE = 30.0
START_PATIENCE = 120.0
"""Seconds for a worker to own its share; on a busy machine its start alone takes half a minute."""
ZOMBIE = 13.0
"""Seconds: longer than a session of 10 s, so that somebody else has taken over when it goes on."""


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


def at_work(run: "Run", worker: int, after: float = 0.0) -> Worker:
    """A worker, some time after it owns its share."""
    victim = run.workers.running[worker % len(run.workers.running)]
    until(lambda: victim.works, f"worker {victim.instance} to work", START_PATIENCE)
    time.sleep(after)
    return victim


def kill(run: "Run", worker: int, after: float) -> None:
    """SIGKILL, as a crash of the machine would; it is started again at once."""
    victim = at_work(run, worker, after)
    life = victim.lives[-1]
    victim.kill()
    until(lambda: not life.alive, "its end")


def terminate(run: "Run", worker: int, after: float) -> None:
    """SIGTERM, as a deploy would; it is started again at once."""
    took = at_work(run, worker, after).terminate()
    if took is not None:
        run.measure("exit_s", took)


def freeze(run: "Run", worker: int, after: float, seconds: float) -> None:
    """SIGSTOP for longer than a session, then SIGCONT: it still believes that it owns its partitions."""
    victim = at_work(run, worker, after)
    victim.signal(signal.SIGSTOP)
    time.sleep(seconds)
    victim.signal(signal.SIGCONT)


def scale(run: "Run", workers: int) -> None:
    """To so many workers; those that go get SIGTERM."""
    more = workers - len(run.workers.running)
    if more > 0:
        run.workers.start(more)
        until(lambda: all(each.works for each in run.workers.running), "new workers to work", START_PATIENCE)
    for took in run.workers.stop(-more) if more < 0 else ():
        run.measure("exit_s", took)


def second_hub(run: "Run", seconds: float) -> None:
    """The same configuration a second time, as if started on another machine: same prefix, same instance."""
    at_work(run, 0)
    other = run.stage.folder / "hub-2"
    shutil.copytree(run.stage.hub, other, ignore=shutil.ignore_patterns(".crossdock"))
    (run.folder / "second").mkdir()
    second = Workers(other, run.stage.environ, run.folder / "second")
    before = len(run.workers.lives)
    second.start(1)
    until(lambda: second.running[0].works, "the second hub to work", START_PATIENCE)
    time.sleep(seconds)
    second.stop()
    run.measure("crashes", len(run.workers.lives) - before + len(second.lives) - 1)


def step_clock(run: "Run", seconds: float) -> None:
    """The workers' wall clock jumps; their monotonic clock and the servers' clocks do not."""
    run.clock.write_text(f"{seconds:+.0f}\n")


OF_WORKERS: Mapping[str, Callable[..., None]] = {
    each.__name__: each for each in (kill, terminate, freeze, scale, second_hub, step_clock)
}
