"""Lives with a failpoint each: dealt out to the workers until every one of them was come to."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from signal import SIGCONT, SIGTERM
from typing import TYPE_CHECKING

from tests.chaos.campaign.faults import ZOMBIE
from tests.chaos.campaign.people import Operator
from tests.chaos.campaign.workers import Life, Worker

if TYPE_CHECKING:
    from tests.chaos.campaign.run import Run

AT_THE_END = ("reader_before_give_up", "reader_after_give_up")
"""Passed when a worker gives its partitions up: it is told to end."""
AFTER_A_COMMAND = ("replay_", "offset_")
"""Passed when a person sends letters again or moves an offset."""
UNREACHED_AFTER = 40.0
"""Seconds at work without coming to the failpoint."""
GOES_ON = 3.0
"""Seconds for a zombie to do harm, if it can."""
CRASHES, RESTS = 2, 1.5
"""After so many crashes in a row a worker lives for so many seconds, and ends in order: a third one would hold whatever
was in hand, as if a record of it were to blame.
"""


def failpoints(run: "Run", armed: Sequence[str]) -> None:
    """Each life of a worker has one failpoint armed, until all of them have been come to."""
    waiting = [_Armed(each) for each in armed]
    lives = [_Lives(worker, waiting, len(run.workers.running), run.tell) for worker in run.workers.running]
    with Operator(run, lambda: any(each.needs_a_command for each in lives)) as operator:
        while waiting or any(each.armed is not None for each in lives):
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

    @property
    def name(self) -> str:
        return self.text.partition(":")[0]


_AT_REST = _Armed("")


@dataclass
class _Lives:
    """The lives of one worker, each with a failpoint of those that wait."""

    worker: Worker
    waiting: list[_Armed]
    workers: int
    tell: Callable[[str], None]
    unreached: list[str] = field(default_factory=list)
    armed: _Armed | None = None
    _crashes: int = 0
    _pid: int = 0
    _state: tuple[str, float] = ("", 0.0)

    @property
    def needs_a_command(self) -> bool:
        return self.armed is not None and self.armed.name.startswith(AFTER_A_COMMAND)

    def look(self) -> None:
        """One look at the present life; what is to be done follows from how long it has been in one state."""
        life = self.worker.lives[-1] if self.worker.lives else None
        if life is None:
            return
        armed = life.armed or ""
        if self.armed is None or (not life.alive and armed == self.armed.text):
            self._see_end(life)
            self._arm_next()
        elif life.alive and armed != self.armed.text:
            self.worker.kill()  # the next life is the armed one
        elif life.alive:
            self._act(self._in_state(life), self.armed)

    def _in_state(self, life: Life) -> tuple[str, float]:
        """What the life does, and for how many seconds it has."""
        now = time.monotonic()
        state = "stopped" if self.worker.stopped else "works" if self.worker.works else "starts"
        if life.pid == self._pid and self._state[0] in ("woken", "ending") and state != "stopped":
            state = self._state[0]
        if (life.pid, state) != (self._pid, self._state[0]):
            self._pid, self._state = life.pid, (state, now)
        return state, now - self._state[1]

    def _act(self, state: tuple[str, float], armed: _Armed) -> None:
        match state:
            case "stopped", since if since > ZOMBIE:
                self._state = ("woken", time.monotonic())
                self.worker.signal(SIGCONT)
            case "works", since if (armed.name in AT_THE_END and since > 1.0) or (armed is _AT_REST and since > RESTS):
                self._state = ("ending", time.monotonic())
                self.worker.signal(SIGTERM)
            case "woken", since if since > GOES_ON:
                self.worker.kill()
            case (("works" | "ending"), since) if since > UNREACHED_AFTER:
                self._state = ("unreached", time.monotonic())
                self.worker.kill()
            case _:
                pass

    def _see_end(self, life: Life) -> None:
        """Whether the life that has ended came to its failpoint; else another worker may."""
        armed = self.armed
        if armed is None or life.armed != armed.text:
            return
        self._crashes += 1
        missed = self._state[0] == "unreached" or (life.code == 0 and not self.worker.raised(armed.name))
        lasted = (life.ended or life.began) - life.began
        self.tell(
            f"        {lasted:5.1f} s  worker {life.instance} {'did not come to' if missed else 'at'} {armed.text}"
        )
        if missed:
            armed.tried.add(self.worker.instance)
            if len(armed.tried) < self.workers:
                self.waiting.append(armed)
            else:
                self.unreached.append(armed.text)

    def _arm_next(self) -> None:
        self._state = ("", 0.0)
        mine = [each for each in self.waiting if self.worker.instance not in each.tried]
        if mine and self._crashes >= CRASHES:
            self.armed, self._crashes = _AT_REST, 0
            return
        self.armed = mine[0] if mine else None
        if self.armed is not None:
            self.waiting.remove(self.armed)
            self.worker.armed = [self.armed.text]


OF_LIVES: Mapping[str, Callable[..., None]] = {"failpoints": failpoints}
