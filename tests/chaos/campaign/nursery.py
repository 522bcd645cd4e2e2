"""The nursery: a process that has imported all that a worker imports, and forks one for each life.

A life begins within a fraction of a second instead of many, so that a campaign kills workers and not imports. What is
forked runs the command line itself: `crossdock run HUB --no-supervise --instance N`.
"""

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any


class Nursery:
    """The campaign's side of it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """`environ` is that of every life; each may have more."""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.chaos.campaign.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environ),
        )
        self._lock = threading.Lock()
        self._born: list[Future[int]] = []
        self._ends: dict[int, Future[int]] = {}
        threading.Thread(target=self._listen, name="nursery", daemon=True).start()

    def begin(self, words: list[str], log: Path, more: Mapping[str, str]) -> "tuple[int, Future[int]]":
        """A new life: its pid, and its exit code once it has ended (as of `subprocess`: -9 after SIGKILL)."""
        born: Future[int] = Future()
        wanted = {"words": words, "log": str(log), "environ": dict(more)}
        with self._lock:
            self._born.append(born)
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            self._process.stdin.flush()
        pid = born.result(60)
        with self._lock:
            return pid, self._ends[pid]

    def close(self) -> None:
        """Its children must have ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            with self._lock:
                if "code" in told:
                    end = self._ends[told["pid"]]
                else:
                    self._ends[told["pid"]] = Future()
                    end = None
                    born = self._born.pop(0)
            if end is None:
                born.set_result(told["pid"])
            else:
                end.set_result(told["code"])


IMPORTED = (
    *("faust", "faust.worker", "crossdock.cli", "crossdock.bootstrap", "streams.worker", "streams.admin"),
    *("connectors.sql.system", "connectors.sql.source", "connectors.sql.sink", "connectors.sql.check"),
    *("connectors.soap.system", "connectors.soap.source", "connectors.soap.sink", "zeep"),
    *("connectors.rest.system", "connectors.rest.source", "connectors.rest.sink", "psycopg"),
)
"""What a worker imports sooner or later."""


def _live(wanted: Mapping[str, Any]) -> None:
    """In the fork: never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(wanted["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for given, place in ((null, 0), (log, 1), (log, 2)):
        os.dup2(given, place)
    os.closerange(3, 256)
    os.environ.update(wanted["environ"])
    sys.argv = ["crossdock", *wanted["words"]]
    from crossdock.cli import main

    main()
    raise SystemExit(0)


def _tell(out: IO[bytes], **told: int) -> None:
    out.write(json.dumps(told).encode() + b"\n")
    out.flush()


def nurse() -> None:
    """Begins lives for as long as somebody asks for them, and tells of each end."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    out = os.fdopen(os.dup(1), "wb")
    pending = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        if readable:
            chunk = os.read(0, 65_536)
            if not chunk:
                return
            *whole, pending = (pending + chunk).split(b"\n")
            for line in whole:
                pid = os.fork()
                if pid == 0:
                    _live(json.loads(line))
                _tell(out, pid=pid)
        _tell_ends(out)


def _tell_ends(out: IO[bytes]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _tell(out, pid=pid, code=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    nurse()
