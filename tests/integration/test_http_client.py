"""The one gate to httpx, against servers that drip, lie, swell and vanish. Real sockets throughout."""

import gzip
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connectors.auth import ApiKey, Auth, Basic, Bearer
from connectors.clock import SystemClock
from connectors.config import Timeouts
from connectors.errors import ConfigError, Rejected, Retriable, SystemFault, Unknown
from connectors.http import HttpClient, retry_after
from connectors.limits import RateLimit
from connectors.secrets import Secret

CLOCK = SystemClock()
Talk = Callable[[socket.socket, bytes], None]
"""What the server does with a connection on which it read this head of a request."""


class RawServer:
    """Accepts connections and hands each request to `talk`; keeps what it read."""

    def __init__(self, talk: Talk) -> None:
        self._talk, self.heads, self.over = talk, list[bytes](), threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self.over.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while not self.over.is_set():
                head = b""
                while b"\r\n\r\n" not in head:
                    part = connection.recv(65536)
                    if not part:
                        return
                    head += part
                self.heads.append(head)
                self._talk(connection, head)


@contextmanager
def serving(talk: Talk) -> Iterator[RawServer]:
    server = RawServer(talk)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def client_of(
    url: str, *, auth: Auth | None = None, seconds: float = 5.0, max_response: int = 1 << 20, concurrency: int = 4
) -> Iterator[HttpClient]:
    timeouts = Timeouts(total=timedelta(seconds=seconds), read=timedelta(seconds=3))
    limit = RateLimit(None, CLOCK)
    client = HttpClient(
        url, timeouts=timeouts, clock=CLOCK, limit=limit, auth=auth, max_response=max_response, concurrency=concurrency
    )
    try:
        yield client
    finally:
        client.close()


def soon(seconds: float = 30.0) -> float:
    return CLOCK.monotonic() + seconds


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def replying(reply: bytes) -> Talk:
    return lambda connection, head: connection.sendall(reply)


def dripping(start: bytes, drop: bytes) -> Talk:
    def talk(connection: socket.socket, head: bytes) -> None:
        over = threading.Event()
        connection.sendall(start)
        for _ in range(600):
            connection.sendall(drop)
            over.wait(0.05)

    return talk


def test_an_answer_is_whole_and_its_headers_have_no_case() -> None:
    with serving(replying(answer(b'{"a":1}', "ETag: x"))) as server, client_of(server.url) as client:
        got = client.request("GET", "/a", params={"q": "ü &"}, deadline=soon())
    assert (got.status, got.body, got.headers["etag"]) == (200, b'{"a":1}', "x")
    assert server.heads[0].startswith(b"GET /a?q=%C3%BC+%26 HTTP/1.1") or b"q=%C3%BC%20%26" in server.heads[0]


@pytest.mark.parametrize(
    "talk",
    [
        dripping(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["headers", "body", "chunks"],
)
def test_a_slow_drip_ends_at_the_total_time(talk: Talk) -> None:
    with serving(talk) as server, client_of(server.url, seconds=0.5) as client:
        began = CLOCK.monotonic()
        with pytest.raises(Retriable, match="no complete answer"):
            client.request("GET", "/slow", deadline=soon())
        assert CLOCK.monotonic() - began < 1.5


def test_the_callers_deadline_cuts_the_total_time_short() -> None:
    with serving(dripping(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n")) as server, client_of(server.url) as client:
        began = CLOCK.monotonic()
        with pytest.raises(Retriable):
            client.request("GET", "/slow", deadline=soon(0.3))
        assert CLOCK.monotonic() - began < 1.5


@pytest.mark.parametrize("layers", [b"\0" * (64 << 20), gzip.compress(b"\0" * (64 << 20))], ids=["plain", "nested"])
def test_a_gzip_bomb_is_refused_at_the_cap(layers: bytes) -> None:
    bomb = answer(gzip.compress(layers), "Content-Encoding: gzip")
    with (
        serving(replying(bomb)) as server,
        client_of(server.url, max_response=32 << 10) as client,
        pytest.raises(SystemFault, match="larger than 32,768 bytes"),
    ):
        client.request("GET", "/bomb", deadline=soon())


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_an_encoding_that_nobody_asked_for_is_refused(encoding: str) -> None:
    with (
        serving(replying(answer(b"x", f"Content-Encoding: {encoding}"))) as server,
        client_of(server.url) as client,
        pytest.raises(SystemFault, match="encoding"),
    ):
        client.request("GET", "/", deadline=soon())
    assert b"accept-encoding: gzip\r\n" in server.heads[0].lower()


def test_a_gzip_answer_of_several_members_is_read_to_its_end() -> None:
    body = gzip.compress(b"one ") + gzip.compress(b"two")
    with serving(replying(answer(body, "Content-Encoding: gzip"))) as server, client_of(server.url) as client:
        assert client.request("GET", "/", deadline=soon()).body == b"one two"


@pytest.mark.parametrize("body", [gzip.compress(b"x" * 5000)[:-9], b"no gzip at all", zlib.compress(b"zlib")])
def test_a_broken_gzip_answer_is_no_answer(body: bytes) -> None:
    with serving(replying(answer(body, "Content-Encoding: gzip"))) as server, client_of(server.url) as client:
        with pytest.raises(Retriable):
            client.request("GET", "/", deadline=soon())
        with pytest.raises(Unknown):
            client.request("PATCH", "/", content=b"{}", deadline=soon())


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"gopher\r\n\r\n"])
@pytest.mark.parametrize(("method", "failure"), [("GET", Retriable), ("PATCH", Unknown), ("POST", Unknown)])
def test_what_was_sent_without_an_answer_is_unknown_unless_it_only_reads(
    start: bytes, method: str, failure: type[Exception]
) -> None:
    def hang_up(connection: socket.socket, head: bytes) -> None:
        connection.sendall(start)
        connection.shutdown(socket.SHUT_RDWR)

    with serving(hang_up) as server, client_of(server.url) as client, pytest.raises(failure):
        client.request(method, "/x", content=None if method == "GET" else b"{}", deadline=soon())


def test_a_refused_connection_is_retriable_also_for_a_post() -> None:
    with serving(replying(b"")) as server:
        url = server.url
    with client_of(url) as client, pytest.raises(Retriable, match="cannot be reached"):
        client.request("POST", "/x", content=b"{}", deadline=soon())


@pytest.mark.parametrize(
    "elsewhere",
    [
        "http://localhost:{port}/x",
        "https://127.0.0.1:{port}/x",
        "http://127.0.0.1:1/x",
        "//evil.example/x",
        "http://user:pw@127.0.0.1:{port}/x",
        "http://127.0.0.1.evil.example/x",
        "ftp://127.0.0.1:{port}/x",
    ],
)
def test_another_origin_is_never_asked_and_no_credential_leaves(
    elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_TEST_TOKEN", "s3cret")
    auth = Bearer(token=Secret("${env:HTTP_TEST_TOKEN}"))
    with serving(replying(answer(b""))) as server, client_of(server.url, auth=auth) as client:
        with pytest.raises(SystemFault) as refused:
            client.request("GET", elsewhere.format(port=server.url.rpartition(":")[2]), deadline=soon())
        assert refused.value.code == "foreign-origin"
        assert "s3cret" not in str(refused.value) + refused.value.detail
    assert server.heads == []


def test_redirects_are_handed_back_and_not_followed() -> None:
    moved = answer(b"", "Location: /elsewhere", status="302 Found")
    with serving(replying(moved)) as server, client_of(server.url) as client:
        assert client.request("GET", "/", deadline=soon()).status == 302
    assert len(server.heads) == 1


def test_a_rotated_secret_is_used_at_the_next_call(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    auth = Bearer(token=Secret(f"${{file:{file}}}"))
    with serving(replying(answer(b""))) as server, client_of(server.url, auth=auth) as client:
        client.request("GET", "/", deadline=soon())
        file.write_text("second\n")
        client.request("GET", "/", deadline=soon())
    assert [b"Bearer first" in server.heads[0], b"Bearer second" in server.heads[1]] == [True, True]


def test_each_kind_of_credential_makes_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_TEST_TOKEN", "s3cret")
    secret = Secret("${env:HTTP_TEST_TOKEN}")
    assert Basic(username="hub", password=secret).headers() == {"Authorization": "Basic aHViOnMzY3JldA=="}
    assert Bearer(token=secret).headers() == {"Authorization": "Bearer s3cret"}
    assert ApiKey(header="X-Key", value=secret).headers() == {"X-Key": "s3cret"}
    assert "s3cret" not in repr(Bearer(token=secret))


def test_a_line_break_never_becomes_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_TEST_TOKEN", "good\r\nX-Evil: 1")
    auth = Bearer(token=Secret("${env:HTTP_TEST_TOKEN}"))
    with serving(replying(answer(b""))) as server:
        with client_of(server.url) as client, pytest.raises(Rejected, match="If-Match"):
            client.request("PATCH", "/", headers={"If-Match": '"a"\r\nX-Evil: 1'}, content=b"", deadline=soon())
        with client_of(server.url, auth=auth) as client, pytest.raises(ConfigError, match="Authorization") as refused:
            client.request("GET", "/", deadline=soon())
    assert "X-Evil" not in str(refused.value)
    assert server.heads == []


def test_more_callers_than_places_wait_their_turn() -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def slow(connection: socket.socket, head: bytes) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.05)
        with lock:
            inside -= 1
        connection.sendall(answer(b""))

    with serving(slow) as server, client_of(server.url, concurrency=2) as client:
        calls = [
            threading.Thread(target=client.request, args=("GET", "/"), kwargs={"deadline": soon()}) for _ in range(8)
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
    assert most == 2
    assert len(server.heads) == 8


NOW = datetime(2013, 1, 1, 6, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("86400", 300.0),
        ("Tue, 01 Jan 2013 06:00:30 GMT", 30.0),
        ("Tue, 01 Jan 2013 05:00:00 GMT", 0.0),
        ("Wed, 01 Jan 2014 06:00:00 GMT", 300.0),
        ("-5", None),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_and_capped(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value}, NOW) == seconds
