"""Worker processes of a run: started again whenever they end, with another failpoint armed in each life."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from connectors.failpoints import VARIABLE

PAUSE = 0.3
"""Seconds between two lives."""
LAST_AT_START = b"tasks.assigned"
"""A worker joins all its groups one after the other; the source tasks are last."""


@dataclass
class Life:
    """One process of a worker, from its start to its end. Times are seconds since 1970."""

    instance: str
    pid: int
    armed: str | None
    logged: int
    """Bytes of the log before it."""
    began: float
    ended: float | None = None
    code: int | None = None

    @property
    def alive(self) -> bool:
        return self.ended is None


@dataclass
class Worker:
    """One instance. Its process is kept alive by a thread until `stop()`."""

    hub: Path
    instance: str
    environ: Mapping[str, str]
    log: Path
    armed: list[str] = field(default_factory=list)
    """Failpoints of the lives to come, one each; a life beyond them has none."""
    lives: list[Life] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._ending, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=f"worker {self.instance}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the present life; None between two."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    @property
    def stopped(self) -> bool:
        """Whether the present life was stopped, by a failpoint or by us."""
        return self.pid is not None and _state(self.pid) in ("T", "t")

    @property
    def works(self) -> bool:
        """Whether the present life has come so far that it owns its share of everything."""
        if self.pid is None or not self.lives or not self.lives[-1].alive:
            return False
        with self.log.open("rb") as log:
            log.seek(self.lives[-1].logged)
            return LAST_AT_START in log.read()

    def signal(self, number: signal.Signals) -> bool:
        """False if there is no process right now."""
        with self._lock:
            child = self._child
            if child is None or child.poll() is not None:
                return False
            child.send_signal(number)
            return True

    def kill(self) -> bool:
        return self.signal(signal.SIGKILL)

    def stop(self, patience: float = 60.0) -> float:
        """SIGTERM, for good. Returns the seconds that it took; SIGKILL when patience was over."""
        self._ending.set()
        began = time.monotonic()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        self._thread.join(patience)
        if self._thread.is_alive():
            self.kill()
            self._thread.join()
        return time.monotonic() - began

    def terminate(self) -> float | None:
        """SIGTERM to the present life, which is followed by another. Returns the seconds until it had ended."""
        life = self.lives[-1] if self.lives else None
        if life is None or not self.signal(signal.SIGTERM):
            return None
        began = time.monotonic()
        while life.alive:
            time.sleep(0.02)
        return time.monotonic() - began

    def _keep(self) -> None:
        with self.log.open("ab") as output:
            while not self._ending.is_set():
                self._live(output)
                self._ending.wait(PAUSE)

    def _live(self, output: IO[bytes]) -> None:
        command = [sys.executable, "-m", "crossdock", "run", str(self.hub), "--no-supervise"]
        logged = self.log.stat().st_size
        armed = self.armed.pop(0) if self.armed else None
        environ = {**self.environ} if armed is None else {**self.environ, VARIABLE: armed}
        with self._lock:
            child = subprocess.Popen(
                [*command, "--instance", self.instance],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=environ,
            )
            self._child = child
        life = Life(self.instance, child.pid, armed, logged, time.time())
        self.lives.append(life)
        if self._ending.is_set():  # stop() came while the child was being made
            self.signal(signal.SIGTERM)
        life.code = child.wait()
        life.ended = time.time()


@dataclass
class Workers:
    """All workers of a run, by their number."""

    hub: Path
    environ: Mapping[str, str]
    folder: Path
    running: list[Worker] = field(default_factory=list)
    gone: list[Worker] = field(default_factory=list)

    def start(self, count: int = 1, armed: Iterable[list[str]] = ()) -> None:
        """Starts further workers."""
        lives = [*armed, *([] for _ in range(count))]
        for arms in lives[:count]:
            number = str(len(self.running))
            worker = Worker(self.hub, number, self.environ, self.folder / f"worker-{number}.log", arms)
            worker.start()
            self.running.append(worker)

    def stop(self, count: int | None = None) -> list[float]:
        """Ends the last so many workers, or all, beside each other. Returns the seconds that each took."""
        count = len(self.running) if count is None else count
        ending, self.running = self.running[len(self.running) - count :], self.running[: len(self.running) - count]
        self.gone += ending
        took: list[float] = []
        threads = [threading.Thread(target=lambda each=each: took.append(each.stop())) for each in ending]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return took

    @property
    def lives(self) -> list[Life]:
        return sorted(
            (life for each in (*self.gone, *self.running) for life in each.lives), key=lambda life: life.began
        )

    def resident_mb(self) -> float:
        """Resident memory of the largest worker."""
        return max((_resident_mb(each.pid) for each in self.running if each.pid is not None), default=0.0)

    def logged(self, event: str) -> int:
        """How often the workers' logs tell of an event."""
        return self.text(f"{event} ")

    def text(self, text: str) -> int:
        """How often a text stands in the workers' logs."""
        return sum(path.read_bytes().count(text.encode()) for path in sorted(self.folder.glob("worker-*.log")))


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
