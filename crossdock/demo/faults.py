"""What goes wrong on the way: kills, an outage of the broker, a worker that freezes, workers that come and go."""

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from connectors.clock import Clock
from crossdock.demo.screen import Screen
from crossdock.demo.stage import Stage
from crossdock.supervisor import Supervised

if TYPE_CHECKING:
    from crossdock.demo.main import Options


class Scene(NamedTuple):
    """What faults work on."""

    stage: Stage
    workers: list[Supervised]
    start_worker: Callable[[], None]
    screen: Screen
    clock: Clock


class Fault(NamedTuple):
    """Something that happens once the play has come so far (0 to 1)."""

    at: float
    happen: Callable[[Scene], bool]
    """False: it cannot happen right now; again at the next look."""


def faults_of(options: "Options") -> list[Fault]:
    """The faults that the command line asked for, in the order in which they are due."""
    found = [Fault((number + 1) / (options.kill + 1), _kill(number)) for number in range(options.kill)]
    found += [Fault((number + 1) / (options.freeze + 1), _freeze(number)) for number in range(options.freeze)]
    if options.broker_down:
        found.append(Fault(0.5, _broker_down(options.broker_down)))
    if options.scale:
        more = options.scale - options.workers
        found += [Fault(0.25, _more(more)), Fault(0.6, _fewer(more))]
    return sorted(found, key=lambda fault: fault.at)


def _kill(number: int) -> Callable[[Scene], bool]:
    def happen(scene: Scene) -> bool:
        if not scene.workers[number % len(scene.workers)].kill():
            return False  # it is between two lives
        scene.screen.done("killed", "a worker, with SIGKILL")
        return True

    return happen


FROZEN = 15.0
"""Seconds: longer than a session, so that another worker takes over and the frozen one wakes up as a zombie."""


def _freeze(number: int) -> Callable[[Scene], bool]:
    def happen(scene: Scene) -> bool:
        pid = scene.workers[number % len(scene.workers)].pid
        if pid is None:
            return False
        os.kill(pid, signal.SIGSTOP)
        scene.screen.done("frozen", f"a worker, with SIGSTOP, for {FROZEN:.0f} s; the days go on")
        scene.clock.sleep(FROZEN)
        os.kill(pid, signal.SIGCONT)
        scene.screen.done("woken", "it still believes that it owns its partitions")
        return True

    return happen


def _broker_down(seconds: float) -> Callable[[Scene], bool]:
    def happen(scene: Scene) -> bool:
        scene.screen.done("broker stopped", f"for {seconds:.0f} s; the days go on")
        scene.stage.broker.stop()
        scene.clock.sleep(seconds)
        scene.stage.broker.start()
        scene.screen.done("broker started", scene.stage.broker.bootstrap)
        return True

    return happen


def _more(count: int) -> Callable[[Scene], bool]:
    def happen(scene: Scene) -> bool:
        for _ in range(count):
            scene.start_worker()
        scene.screen.done("scaled", f"to {len(scene.workers)} workers")
        return True

    return happen


def _fewer(count: int) -> Callable[[Scene], bool]:
    def happen(scene: Scene) -> bool:
        for _ in range(count):
            scene.workers.pop().stop()
        scene.screen.done("scaled", f"to {len(scene.workers)} workers")
        return True

    return happen
