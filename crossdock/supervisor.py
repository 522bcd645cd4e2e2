"""Supervision: a worker that ends by itself is started again, after a pause that grows while it keeps ending."""

import logging
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from connectors.clock import Clock

log = logging.getLogger("crossdock.supervisor")

CONFIGURATION = 2
"""Exit code of a worker that a person must help: starting it again would not."""
CALM = 60.0
LONGEST_PAUSE = 30.0


class Supervised:
    """One child process, kept alive in a thread until `stop()`."""

    def __init__(
        self,
        command: Sequence[str],
        clock: Clock,
        *,
        log_file: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._command, self._clock, self._log_file, self._environ = list(command), clock, log_file, environ
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)
        self.starts = 0
        self.exit_code: int | None = None
        """Of the last child, once supervision has ended."""

    @property
    def pid(self) -> int | None:
        """Of the present child; None between two."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until supervision has ended; False when the time was over first."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> bool:
        """SIGKILL to the present child, as a crash would; it is started again. False if there is none right now."""
        child = self._child
        if child is None or child.poll() is not None:
            return False
        child.kill()
        return True

    def stop(self, patience: float = 40.0) -> None:
        """SIGTERM, and SIGKILL when the child does not end in time."""
        self._stopping.set()
        child = self._child
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                log.error("worker.killed pid=%d (it did not end within %.0f s)", child.pid, patience)
                child.kill()
        self.wait(patience)

    def _keep(self) -> None:
        pause = 0.2
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            code = self._run_once()
            if self._stopping.is_set() or code in (0, CONFIGURATION):
                self.exit_code = code
                return
            if self._clock.monotonic() - began > CALM:
                pause = 0.2
            log.warning("worker.restarts exit=%d pause=%.1f", code, pause)
            self._stopping.wait(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    def _run_once(self) -> int:
        output = self._log_file.open("ab") if self._log_file is not None else None
        try:
            self.starts += 1
            self._child = subprocess.Popen(  # noqa: S603 - our own command line
                self._command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=self._environ,
                process_group=0,  # Ctrl-C is for us; the child would else be told twice
            )
            if self._stopping.is_set():  # stop() came while the child was being made
                self._child.terminate()
            return self._child.wait()
        finally:
            if output is not None:
                output.close()
