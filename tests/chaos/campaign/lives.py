"""Lives with a failpoint each: dealt out to the workers until every one of them was come to."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.campaign.faults import ZOMBIE
from tests.chaos.campaign.people import Operator
from tests.chaos.campaign.workers import Worker

if TYPE_CHECKING:
    from tests.chaos.campaign.run import Run


def failpoints(run: "Run", armed: Sequence[str]) -> None:
    """Each life of a worker has one failpoint armed, until all of them have been come to."""
    waiting = [_Armed(each) for each in armed]
    lives = [_Lives(worker, waiting, len(run.workers.running)) for worker in run.workers.running]
    with Operator(run) as operator:  # some transitions follow a person's command
        while waiting or any(each.busy for each in lives):
            for each in lives:
                each.look()
            time.sleep(0.05)
    run.measure("commands", operator.done)
    run.unreached += [text for each in lives for text in each.unreached]
    run.measure("unreached", len(run.unreached))


@dataclass
class _Armed:
    """One failpoint that is to be come to, and the workers that did not: not everyone owns a source."""

    text: str
    tried: set[str] = field(default_factory=set)


@dataclass
class _Lives:
    """The lives of one worker, each with a failpoint of those that wait."""

    worker: Worker
    waiting: list[_Armed]
    workers: int
    unreached: list[str] = field(default_factory=list)
    _armed: _Armed | None = None
    _pid: int = 0
    _state: tuple[str, float] = ("", 0.0)

    UNREACHED_AFTER = 20.0
    """Seconds at work without coming to the failpoint."""
    GOES_ON = 3.0
    """Seconds for a zombie to do harm, if it can."""

    @property
    def busy(self) -> bool:
        return self._armed is not None

    def look(self) -> None:
        """One look at the present life; what is to be done follows from how long it has been in one state."""
        life = self.worker.lives[-1]
        if self._armed is None or (not life.alive and life.armed == self._armed.text):
            self._arm_next()
        if self._armed is None or not life.alive:
            return
        if life.armed != self._armed.text:
            self.worker.kill()  # the next life is the armed one
            return
        state = "stopped" if self.worker.stopped else "works" if self.worker.works else "starts"
        if self._state[0] == "woken" and state != "stopped":
            state = "woken"
        if state != self._state[0] or life.pid != self._pid:
            self._pid, self._state = life.pid, (state, time.monotonic())
        since = time.monotonic() - self._state[1]
        if state == "stopped" and since > ZOMBIE:
            self._state = ("woken", time.monotonic())
            self.worker.signal(signal.SIGCONT)
        elif state == "woken" and since > self.GOES_ON:
            self.worker.kill()
        elif state == "works" and since > self.UNREACHED_AFTER:
            self._give_back()
            self.worker.kill()

    def _give_back(self) -> None:
        """Another worker may come to it."""
        assert self._armed is not None
        self._armed.tried.add(self.worker.instance)
        if len(self._armed.tried) < self.workers:
            self.waiting.append(self._armed)
        else:
            self.unreached.append(self._armed.text)

    def _arm_next(self) -> None:
        mine = [each for each in self.waiting if self.worker.instance not in each.tried]
        self._armed = mine[0] if mine else None
        if self._armed is not None:
            self.waiting.remove(self._armed)
            self.worker.armed = [self._armed.text]


OF_LIVES: Mapping[str, Callable[..., None]] = {"failpoints": failpoints}
