"""Faults of workers and hubs. A fault is a function that returns when it has ended; it may note what it measured."""

import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
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


def failpoints(run: "Run", armed: Sequence[Sequence[str]]) -> None:
    """Each worker lives through its list: one failpoint in each life. A life that never comes there is ended."""
    run.workers.stop()
    run.workers.start(len(armed), [list(each) for each in armed])
    watched = [_Lives(worker, len(each)) for worker, each in zip(run.workers.running, armed, strict=True)]
    while not all(each.done for each in watched):
        for each in watched:
            each.look()
        time.sleep(0.05)
    for each in watched:
        run.unreached += each.unreached
    run.measure("unreached", len(run.unreached))


class _Lives:
    """The lives of one worker, each with a failpoint armed."""

    UNREACHED_AFTER = 25.0
    """Seconds at work without coming to the failpoint."""
    GOES_ON = 3.0
    """Seconds for a zombie to do harm, if it can."""

    def __init__(self, worker: Worker, count: int) -> None:
        self._worker, self._count = worker, count
        self._since: tuple[int, str, float] = (0, "", 0.0)
        self.unreached: list[str] = []

    @property
    def done(self) -> bool:
        lives = self._worker.lives
        return len(lives) > self._count or (len(lives) == self._count and not lives[-1].alive)

    def look(self) -> None:
        worker = self._worker
        if self.done or not worker.lives or not worker.lives[-1].alive:
            return
        if self._stood("stopped", worker.stopped, ZOMBIE):
            worker.signal(signal.SIGCONT)
            self._since = (worker.lives[-1].pid, "woken", time.monotonic())
        elif self._since[:2] == (worker.lives[-1].pid, "woken"):
            if time.monotonic() - self._since[2] > self.GOES_ON:
                worker.kill()
        elif self._stood("works", not worker.stopped and worker.works, self.UNREACHED_AFTER):
            self.unreached.append(worker.lives[-1].armed or "")
            worker.kill()

    def _stood(self, what: str, holds: bool, seconds: float) -> bool:
        """Whether something holds for the present life, and has for so long."""
        life = (self._worker.lives[-1].pid, what)
        if not holds:
            return False
        if self._since[:2] != life and self._since[:2] != (life[0], "woken"):
            self._since = (*life, time.monotonic())
        return self._since[:2] == life and time.monotonic() - self._since[2] > seconds


def step_clock(run: "Run", seconds: float) -> None:
    """The workers' wall clock jumps; their monotonic clock and the servers' clocks do not."""
    run.clock.write_text(f"{seconds:+.0f}\n")


OF_WORKERS: Mapping[str, Callable[..., None]] = {
    each.__name__: each for each in (kill, terminate, freeze, scale, second_hub, lose_offsets, failpoints, step_clock)
}
