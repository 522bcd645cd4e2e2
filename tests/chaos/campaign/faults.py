"""Faults of workers and hubs. A fault is a function that returns when it has ended; it may note what it measured."""

import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kafka import KafkaAdminClient

from streams.topics import HubTopics
from tests.chaos.campaign.evidence import PREFIX
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


def lose_offsets(run: "Run") -> None:
    """The topic of the sources' offsets is gone: everything is read and written again, and nothing may change."""
    run.load.stop()
    run.come_to_rest()
    before = run.effects()
    run.workers.stop()
    topic = HubTopics.of(PREFIX).offsets.name
    client = KafkaAdminClient(bootstrap_servers=run.stage.broker.bootstrap)
    client.delete_topics([topic])
    until(lambda: topic not in client.list_topics(), "the topic to be gone")
    client.close()
    run.workers.start(run.scenario.workers)
    at_work(run, 0)
    run.come_to_rest()
    run.measure("new_effects", run.effects() - before)


def failpoints(run: "Run", armed: Sequence[str]) -> None:
    """Each life of a worker has one failpoint armed, until all of them have been come to."""
    waiting = [_Armed(each) for each in armed]
    lives = [_Lives(worker, waiting, len(run.workers.running)) for worker in run.workers.running]
    while waiting or any(each.busy for each in lives):
        for each in lives:
            each.look()
        time.sleep(0.05)
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


def step_clock(run: "Run", seconds: float) -> None:
    """The workers' wall clock jumps; their monotonic clock and the servers' clocks do not."""
    run.clock.write_text(f"{seconds:+.0f}\n")


OF_WORKERS: Mapping[str, Callable[..., None]] = {
    each.__name__: each for each in (kill, terminate, freeze, scale, second_hub, lose_offsets, failpoints, step_clock)
}
