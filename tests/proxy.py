"""A proxy between the hub and a real server, for what a network does and a server alone never shows."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Self

import sqlalchemy as sa


class Proxy:
    """Forwards bytes both ways, until it is told to misbehave."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut_at: bytes | None = None
        self._silent = threading.Event()
        self._lines: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @classmethod
    @contextlib.contextmanager
    def before(cls, url: sa.URL) -> Iterator[Self]:
        proxy = cls(url.host or "127.0.0.1", url.port or 5432)
        try:
            yield proxy
        finally:
            proxy._listener.close()
            for line in proxy._lines:
                line.close()

    def url_of(self, url: str) -> str:
        """The same address, through this proxy."""
        return str(sa.make_url(url).set(host="127.0.0.1", port=self.port))

    def cut_answer_to(self, request: bytes) -> None:
        """The next request with these bytes goes through; its answer does not, and the connection ends."""
        self._cut_at = request

    def swallow_answers(self) -> None:
        """From now on the server seems to have stopped: nothing comes back, and nobody hangs up."""
        self._silent.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._lines += [client, server]
                cut = threading.Event()
                threading.Thread(target=self._up, args=(client, server, cut), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server, cut), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._cut_at is not None and self._cut_at in data:
                    self._cut_at = None
                    cut.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():
                    break
                if not self._silent.is_set():
                    client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
