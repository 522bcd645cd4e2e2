"""Sockets that obey a deadline.

A read timeout counts for each read, so a peer that drips a byte a second is never late, neither in its headers nor in
its body. Here every connect, handshake, read and write gets what is left of the whole exchange. An exchange runs in
one thread from its first byte to its last, so its deadline travels in a thread-local.
"""

import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

from connectors.clock import Clock

_WRITE_CHUNK = 64 * 1024


class Exchange:
    """One request and its answer: when it must be over, and whether a byte of the request has left."""

    __slots__ = ("deadline", "sent")

    def __init__(self, deadline: float) -> None:
        self.deadline, self.sent = deadline, False


class DeadlineBackend(httpcore.NetworkBackend):
    """A network backend for httpcore's connection pool. Use the pool only inside `exchange()`."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._inner, self._local = clock, httpcore.SyncBackend(), threading.local()

    @contextmanager
    def exchange(self, deadline: float) -> Iterator[Exchange]:
        """Everything that this thread does with the pool until the end of the block must be over by the deadline."""
        self._local.current = current = Exchange(deadline)
        try:
            yield current
        finally:
            del self._local.current

    @property
    def current(self) -> Exchange | None:
        """This thread's exchange; None while the pool tidies its idle connections."""
        return getattr(self._local, "current", None)

    def left(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float | None:
        """The shorter of `timeout` and what is left of the exchange, in seconds. Raises `late` when nothing is left."""
        current = self.current
        if current is None:
            return timeout
        left = current.deadline - self._clock.monotonic()
        if left <= 0:
            raise late("the total time is over")
        return left if timeout is None else min(timeout, left)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        allowed = self.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self, self._inner.connect_tcp(host, port, allowed, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    def __init__(self, backend: DeadlineBackend, inner: httpcore.NetworkStream) -> None:
        self._backend, self._inner = backend, inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._backend.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        current = self._backend.current
        for start in range(0, len(buffer), _WRITE_CHUNK):
            allowed = self._backend.left(timeout, httpcore.WriteTimeout)
            if current is not None:
                current.sent = True
            self._inner.write(buffer[start : start + _WRITE_CHUNK], allowed)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        allowed = self._backend.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._backend, self._inner.start_tls(ssl_context, server_hostname, allowed))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
