"""An end to waiting: drivers wait for ever on a server that neither answers nor hangs up.

`statement_timeout` is the server's promise, and a stopped server keeps none. One thread looks at the deadlines of all
connections in use and shuts the socket of one that is over; the driver then reports a lost connection.
"""

import contextlib
import heapq
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from connectors.clock import Clock

_GRACE = 1.0
"""Seconds after the deadline: the server's own timeout comes first, and tells more."""


class Patience:
    """The deadlines of one system's connections."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[tuple[float, int, threading.Event, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextlib.contextmanager
    def until(self, deadline: float, connection: Any) -> Iterator[None]:
        """While this block runs after `deadline` (seconds of the clock's `monotonic()`), the connection is cut.

        Args:
            connection: the driver's own. Without a socket (SQLite) nothing needs to be cut.
        """
        number = _socket_of(connection)
        if number is None:
            yield
            return
        done = threading.Event()
        self._add(deadline + _GRACE, done, lambda: _cut(number))
        try:
            yield
        finally:
            with self._changed:
                done.set()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(5)

    def _add(self, at: float, done: threading.Event, cut: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._waiting, (at, next(self._numbers), done, cut))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="sql-patience", daemon=True)
                self._thread.start()
            elif self._waiting[0][0] == at:
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                while self._waiting and self._waiting[0][2].is_set():
                    heapq.heappop(self._waiting)
                if not self._waiting:
                    self._changed.wait(60.0)
                    continue
                left = self._waiting[0][0] - self._clock.monotonic()
                if left > 0:
                    self._changed.wait(min(left, 60.0))
                    continue
                heapq.heappop(self._waiting)[3]()


def _socket_of(connection: Any) -> int | None:
    fileno = getattr(connection, "fileno", None)
    return fileno() if callable(fileno) else None


def _cut(number: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as line:
        line.shutdown(socket.SHUT_RDWR)
