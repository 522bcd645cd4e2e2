"""The proxy that the fault tests trust: what it does to a connection, and that its chance follows from the seed."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy import Proxy

ANSWER = b"x" * 1000


class Echo:
    """Answers each request with as many bytes as it says, and remembers what arrived."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()
        except OSError:
            return

    def _answer(self, client: socket.socket) -> None:
        with client:
            try:
                while request := client.recv(1000):
                    self.heard.append(request)
                    client.sendall(ANSWER)
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    proxy = Proxy("127.0.0.1", echo.port, seed=1)
    yield proxy
    proxy.close()


def asked(proxy: Proxy, request: bytes = b"hello", seconds: float = 5) -> bytes:
    """The answer on a connection of its own; shorter than the whole where the connection ended first."""
    found = b""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=seconds) as line:
        line.sendall(request)
        while len(found) < len(ANSWER) and (data := line.recv(1000)):
            found += data
    return found


def read_on(line: socket.socket) -> None:
    """Until the connection ends."""
    while line.recv(1000):
        pass


def test_it_forwards_both_ways(proxy: Proxy, echo: Echo) -> None:
    assert asked(proxy) == ANSWER
    assert echo.heard == [b"hello"]


def test_the_answer_to_a_request_is_cut_though_the_request_arrives(proxy: Proxy, echo: Echo) -> None:
    proxy.cut_answer_to(b"COMMIT")
    with pytest.raises(ConnectionResetError):
        asked(proxy, b"COMMIT")
    assert asked(proxy, b"COMMIT") == ANSWER
    assert echo.heard == [b"COMMIT", b"COMMIT"]


def test_a_request_is_found_though_it_comes_in_two_parts(proxy: Proxy, echo: Echo) -> None:
    proxy.cut_answer_to(b"COMMIT")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as line:
        line.sendall(b"COM")
        assert line.recv(1000)
        line.sendall(b"MIT")
        with pytest.raises(ConnectionResetError):
            read_on(line)
    assert proxy.cuts == 1


def test_a_share_of_all_answers_is_cut_by_the_seed(echo: Echo) -> None:
    def cuts(seed: int) -> list[bool]:
        proxy = Proxy("127.0.0.1", echo.port, seed=seed)
        proxy.cut_answers_to(b"COMMIT", 0.5)
        found = []
        for _ in range(20):
            try:
                asked(proxy, b"COMMIT")
                found.append(False)
            except ConnectionResetError:
                found.append(True)
        proxy.close()
        return found

    first = cuts(1)
    assert 4 <= sum(first) <= 16
    assert cuts(1) == first
    assert cuts(2) != first


def test_a_server_that_went_away_resets_whoever_tries_and_they_are_counted(proxy: Proxy, echo: Echo) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as line:
        line.sendall(b"hello")
        assert line.recv(1000)
        proxy.go_away()
        with pytest.raises(ConnectionResetError):
            read_on(line)
    before = proxy.attempts
    for _ in range(3):
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            assert asked(proxy) == b"never"
    assert proxy.attempts - before == 3
    proxy.calm()
    assert asked(proxy) == ANSWER


def test_swallowed_answers_never_come_and_nobody_hangs_up(proxy: Proxy, echo: Echo) -> None:
    proxy.swallow_answers()
    with pytest.raises(TimeoutError):
        asked(proxy, seconds=0.3)
    assert echo.heard == [b"hello"]


def test_a_connection_breaks_after_so_many_bytes_of_its_answers(proxy: Proxy) -> None:
    proxy.limit_answers(1500)
    assert asked(proxy) == ANSWER
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as line:
        line.sendall(b"one")
        assert line.recv(1000)
        line.sendall(b"two")
        with pytest.raises(ConnectionResetError):
            read_on(line)


def test_answers_come_later(proxy: Proxy) -> None:
    proxy.delay(0.2)
    began = time.monotonic()
    assert asked(proxy) == ANSWER
    assert time.monotonic() - began >= 0.2
