"""The demo's weather stations: a REST service with the habits of its kind.

Pages come with relative links, writes need an ETag, an idempotency key is honoured before anything else, and now and
then the server is busy. `python -m crossdock.demo.stations --help` tells how to run it alone.

| call                                               | answer                                                       |
|----------------------------------------------------|--------------------------------------------------------------|
| GET /api/reports?modified_since=&limit=&token=     | `{items, next}`, ascending by (modified, id); `next` or null |
| GET /api/reports/{id}                              | the report, with its ETag                                    |
| PATCH /api/reports/{id}: If-Match, Idempotency-Key | the values written, with the new ETag                        |
| POST /api/reports                                  | takes reports in: one, or a list                             |
"""

import argparse
import asyncio
import base64
import binascii
import hmac
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from connectors.clock import Clock, SystemClock
from crossdock.demo.aircraft import instant, microseconds
from crossdock.demo.reports import Position, Refusal, Reports
from crossdock.demo.whims import LOGIN_PAGE, SLOW_SECONDS, Whim, Whims

LARGEST_PAGE = 1000
RETRY_AFTER = 1.0


@dataclass
class Quirks:
    """What a real server does, as a test or the demo wants it."""

    busy_every: int = 0
    """Each n-th reading or writing call is answered 429 with `Retry-After: 1`; 0 = never."""
    etag_suffix: str = ""
    """Put into the ETag of a report's own address, as Apache does with `-gzip`."""
    unavailable: set[str] = field(default_factory=set)
    """Ids whose writes are answered 503, without effect."""
    whims: Whims = field(default_factory=Whims)


class Lost(Response):
    """Promises a body and breaks off: the write is done, and the client cannot know."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})


@dataclass
class StationsServer:
    """The stations on a port of 127.0.0.1; port 0 takes a free one."""

    folder: Path
    token: str
    port: int = 0
    clock: Clock = field(default_factory=SystemClock)
    quirks: Quirks = field(default_factory=Quirks)

    def __post_init__(self) -> None:
        self.reports = Reports(self.folder, self.clock)
        self.early = 0
        """Calls that came before the end of a pause that the server had asked for."""
        self.refused_logins = 0
        self._calls, self._closed_until = 0, 0.0
        self._socket = _listening(self.port)
        self.port = self._socket.getsockname()[1]
        routes = [
            Route("/api/reports", self._guarded(self._list), methods=["GET"]),
            Route("/api/reports", self._guarded(self._load, busy=False), methods=["POST"]),
            Route("/api/reports/{id}", self._guarded(self._get), methods=["GET"]),
            Route("/api/reports/{id}", self._guarded(self._patch), methods=["PATCH"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), log_level="critical", access_log=False, lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)

    @property
    def address(self) -> str:
        """What stands in a system's file as `base_url`."""
        return f"http://127.0.0.1:{self.port}/api"

    def serve(self) -> None:
        """Answers until SIGTERM, or until `running()` ends."""
        self._server.run(sockets=[self._socket])

    @contextmanager
    def running(self) -> Iterator["StationsServer"]:
        """Answers in a thread of its own while the block runs."""
        thread = threading.Thread(target=self.serve, name="stations", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join()
            self.close()

    def close(self) -> None:
        """Closes the port and the logs."""
        self._socket.close()
        self.reports.close()

    def _guarded(self, handler: Any, *, busy: bool = True) -> Any:
        expected = f"Bearer {self.token}"

        async def answer(request: Request) -> Response:
            if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), expected.encode()):
                self.refused_logins += 1
                return _refused(Refusal(401, "a bearer token is needed", **{"WWW-Authenticate": "Bearer"}))
            try:
                if busy:
                    self._may_be_busy()
                return await handler(request)  # type: ignore[no-any-return]
            except Refusal as refusal:
                return _refused(refusal)

        return answer

    def _may_be_busy(self) -> None:
        now = self.clock.monotonic()
        self.early += now < self._closed_until
        self._calls += 1
        if self.quirks.busy_every and self._calls % self.quirks.busy_every == 0:
            self._closed_until = now + RETRY_AFTER
            raise Refusal(429, "too many calls", **{"Retry-After": f"{RETRY_AFTER:.0f}"})

    async def _list(self, request: Request) -> Response:
        query = request.query_params
        try:
            since = microseconds(query.get("modified_since", "1970-01-01T00:00:00Z"))
            size = min(LARGEST_PAGE, max(1, int(query.get("limit", "200"))))
            after = _position(query["token"]) if "token" in query else None
        except ValueError as error:
            raise Refusal(400, "modified_since is a time, limit a number, and a token is ours") from error
        reports, last = self.reports.page(since, after, size)
        further = None
        if last is not None:
            further = "reports?" + urlencode({"modified_since": instant(since), "limit": size, "token": _token(last)})
        return _json({"items": [report.plain() for report in reports], "next": further})

    async def _get(self, request: Request) -> Response:
        report = self.reports.get(request.path_params["id"])
        return _json(report.plain(), {"ETag": f'{report.etag[:-1]}{self.quirks.etag_suffix}"'})

    async def _patch(self, request: Request) -> Response:
        name, body = request.path_params["id"], await request.body()
        if name in self.quirks.unavailable:
            raise Refusal(503, "this station is being serviced")
        whim = self.quirks.whims.next()
        if whim is Whim.ERROR:
            raise Refusal(500, "internal error")
        if whim is Whim.PAGE:
            return Response(LOGIN_PAGE, media_type="text/html")
        values = _decoded(body, dict[str, float | str | None])
        key, expected = request.headers.get("Idempotency-Key"), request.headers.get("If-Match")
        written = self.reports.write(name, values, body=body, key=key, expected=expected)
        if whim is Whim.LOST:
            return Lost()
        if whim is Whim.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        return _json({"id": name, **written.values}, {"ETag": written.etag})

    async def _load(self, request: Request) -> Response:
        rows = _decoded(await request.body(), list[dict[str, Any]] | dict[str, Any])
        loaded = [self.reports.load(row) for row in (rows if isinstance(rows, list) else [rows])]
        return _json({"loaded": len(loaded)}, status=201)


def _listening(port: int) -> socket.socket:
    """Says TCP by name: asyncio sends without delay only on such a socket, and head and body go out one by one."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.listen(256)
    return made


def _decoded(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Refusal(400, "the body is not what belongs here") from error


def _json(value: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, dict(headers or {}), "application/json")


def _refused(refusal: Refusal) -> Response:
    return _json({"title": refusal.code, "status": refusal.status}, refusal.headers, refusal.status)


def _token(position: Position) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode()


def _position(token: str) -> Position:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token), type=tuple[int, str])
    except (msgspec.DecodeError, binascii.Error) as error:
        raise ValueError("no token of ours") from error


def main() -> None:
    """Runs the stations until SIGTERM; says where on its first line."""
    parser = argparse.ArgumentParser(prog="crossdock.demo.stations", description="The demo's weather stations.")
    parser.add_argument("--port", type=int, default=18082, help="0 = a free one")
    parser.add_argument("--folder", type=Path, required=True, help="where the logs are kept, and read at the start")
    parser.add_argument("--token-env", default="STATIONS_TOKEN", help="environment variable with the bearer token")
    parser.add_argument("--busy-every", type=int, default=500, help="answer each n-th call with 429; 0 = never")
    Whims.add_options(parser)
    options = parser.parse_args()
    token = os.environ.get(options.token_env)
    if not token:
        parser.error(f"the environment variable {options.token_env} is not set")
    server = StationsServer(
        options.folder, token, options.port, quirks=Quirks(busy_every=options.busy_every, whims=Whims.chosen(options))
    )
    print(f"stations: {server.address}", flush=True)
    try:
        server.serve()
    finally:
        server.close()


if __name__ == "__main__":
    main()
