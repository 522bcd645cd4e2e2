"""A proxy between the hub and a real server, for what a network does and a server alone never shows."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa

CHUNK = 65_536
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Line:
    """One connection: the client's side and the server's."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    tail: bytes = b""
    """The last bytes of the request, as what is looked for may come in two parts."""
    answered: int = 0
    cut: bool = False
    """The answer to what was just sent must not arrive."""

    def reset(self) -> None:
        for side in (self.client, self.server):
            sock = side.get_extra_info("socket")
            if sock is not None and not side.transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
                side.transport.abort()


class Proxy:
    """Forwards bytes both ways, until it is told to misbehave. What is random about it follows from the seed."""

    def __init__(self, host: str, port: int, *, listen: int = 0, seed: int = 0) -> None:
        self._server, self._chance = (host, port), random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port: int = self._listener.getsockname()[1]
        self.attempts = 0
        """Connections that clients asked for."""
        self.cuts = 0
        """Answers that were cut off."""
        self._lines: set[_Line] = set()
        self.calm()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.port}", daemon=True)
        self._thread.start()

    @classmethod
    @contextlib.contextmanager
    def before(cls, url: sa.URL) -> Iterator[Self]:
        proxy = cls(url.host or "127.0.0.1", url.port or 5432)
        try:
            yield proxy
        finally:
            proxy.close()

    def url_of(self, url: str) -> str:
        """The same address, through this proxy."""
        return str(sa.make_url(url).set(host="127.0.0.1", port=self.port))

    # How it misbehaves

    def calm(self) -> None:
        """Back to forwarding; connections that it swallowed stay dead."""
        self._away = self._silent = False
        self._cut_at: bytes | None = None
        self._cut_share = 1.0
        self._cut_always = False
        self._limit: int | None = None
        self._delay, self._jitter = 0.0, 0.0

    def go_away(self) -> None:
        """Resets every connection, and each one that is tried."""
        self._away = True
        self.reset()

    def reset(self) -> None:
        """Resets the present connections; new ones work."""
        self._loop.call_soon_threadsafe(lambda: [line.reset() for line in list(self._lines)])

    def swallow_answers(self) -> None:
        """From now on the server seems to have stopped: nothing comes back, and nobody hangs up."""
        self._silent = True

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Each part of an answer comes so much later, and up to `jitter` more."""
        self._delay, self._jitter = seconds, jitter

    def cut_answer_to(self, request: bytes) -> None:
        """The next request with these bytes goes through; its answer does not, and the connection ends."""
        self._cut_at, self._cut_always, self._cut_share = request, False, 1.0

    def cut_answers_to(self, request: bytes, share: float) -> None:
        """The same for a share of all such requests, by chance."""
        self._cut_at, self._cut_always, self._cut_share = request, True, share

    def limit_answers(self, size: int) -> None:
        """A connection ends in the middle of an answer, after so many bytes of all its answers."""
        self._limit = size

    def close(self) -> None:
        self._on_loop(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # Inside

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._accepting = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=self._listener))
        self._loop.run_forever()

    def _on_loop(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _end(self) -> None:
        self._accepting.close()
        for line in list(self._lines):
            line.reset()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts += 1
        if self._away:
            _Line(writer, writer).reset()
            return
        try:
            from_server, to_server = await asyncio.open_connection(*self._server)
        except OSError:
            _Line(writer, writer).reset()
            return
        line = _Line(writer, to_server)
        self._lines.add(line)
        try:
            await asyncio.gather(self._up(reader, line), self._down(from_server, line))
        finally:
            line.reset()
            self._lines.discard(line)

    async def _up(self, reader: asyncio.StreamReader, line: _Line) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self._is_looked_for(line, data):
                    line.cut = True
                line.server.write(data)
                await line.server.drain()
            if line.server.can_write_eof():
                line.server.write_eof()

    def _is_looked_for(self, line: _Line, data: bytes) -> bool:
        wanted = self._cut_at
        if wanted is None:
            return False
        found = wanted in line.tail + data
        line.tail = b"" if found else (line.tail + data)[-len(wanted) + 1 :]
        if not found or (self._cut_share < 1 and self._chance.random() >= self._cut_share):
            return False
        if not self._cut_always:
            self._cut_at = None
        return True

    async def _down(self, reader: asyncio.StreamReader, line: _Line) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if line.cut:
                    self.cuts += 1
                    line.reset()
                    return
                if self._silent:
                    continue
                if self._delay or self._jitter:
                    await asyncio.sleep(self._delay + self._chance.random() * self._jitter)
                line.answered += len(data)
                if self._limit is not None and line.answered > self._limit:
                    self.cuts += 1
                    line.client.write(data[: len(data) // 2])
                    await line.client.drain()
                    line.reset()
                    return
                line.client.write(data)
                await line.client.drain()
            if line.client.can_write_eof():
                line.client.write_eof()
