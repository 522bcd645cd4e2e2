"""The one gate to httpx: one client for each HTTP system.

What every call has, whatever the connector forgets: a total deadline (headers and a dripping body included), a cap on
the decompressed answer, the configured origin and no other, no redirects, no proxy or netrc from the environment, and
failures named by what to do about them. It does not judge status codes, that is the connector's; but it sees to it
that credentials which a system refuses are not tried by several calls at once.
"""

import re
import ssl
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import httpcore

from connectors.auth import Auth, secret_of
from connectors.clock import Clock
from connectors.config import Timeouts
from connectors.errors import ConfigError, CrossdockError, Rejected, Retriable, SystemFault, Unknown
from connectors.html import asks_for_password
from connectors.later import put_off
from connectors.limits import RateLimit
from connectors.login import Attempt, Login, digest_of
from connectors.network import DeadlineBackend, Exchange

with put_off({"httpx._main": ("main",)}):
    import httpx

MIB = 1024 * 1024
LONGEST_WAIT = 300.0
"""Seconds: a longer Retry-After is cut to this, so that a typing error there does not stop a pipeline for a week."""

_SAFE_METHODS = frozenset({"GET", "HEAD"})
_SAYS_NOTHING = frozenset({403, 407, 408, 425, 429})
"""Statuses below 500 that may come from somebody who did not look at the credentials."""
_KEEP_ALIVE = 4.0  # seconds; below the 5 s of common servers, so that we close an idle connection before they do
_NOTHING: Mapping[str, str] = MappingProxyType({})
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class HttpAnswer(NamedTuple):
    """A whole answer. `headers` takes names in any case; `body` is decompressed; `url` is the address asked."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class HttpClient:
    """Speaks to one origin (scheme, host, port), from many threads."""

    def __init__(
        self,
        origin: str,
        *,
        timeouts: Timeouts,
        clock: Clock,
        limit: RateLimit,
        auth: Auth | None = None,
        verify: bool | str = True,
        max_response: int = 64 * MIB,
        concurrency: int = 4,
    ) -> None:
        """Opens nothing.

        Args:
            origin: any URL of the system; requests elsewhere are refused.
            verify: False, True (the well-known authorities) or the path of a CA file.
            max_response: bytes of a decompressed answer at most.
            concurrency: calls at once at most; more wait for a place.

        Raises:
            ConfigError: no http or https address, or an unreadable CA file.
        """
        self._origin = _origin_of(origin)
        self._total = timeouts.total.total_seconds()
        self._clock, self._limit, self._auth, self._login = clock, limit, auth, Login(clock)
        self._max_response = max_response
        self._places = threading.BoundedSemaphore(concurrency)
        self._backend = DeadlineBackend(clock)
        context = _ssl_context(verify) if self._origin.scheme == "https" else None
        self._client = httpx.Client(
            transport=_Transport(self._backend, context, concurrency),
            timeout=httpx.Timeout(
                timeouts.read.total_seconds(), connect=timeouts.connect.total_seconds(), pool=self._total
            ),
            headers={"Accept-Encoding": "gzip", "User-Agent": "crossdock"},
            follow_redirects=False,
            trust_env=False,
        )

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = _NOTHING,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        deadline: float,
    ) -> HttpAnswer:
        """One call, from its place in the queue to the last byte of the answer. `url` may start at the path.

        Raises:
            Retriable: nothing was sent, or the method only reads.
            Unknown: the request has left, and there is no complete answer.
            SystemFault: another origin, a certificate that does not hold, an answer over the cap.
            CredentialsRefused: another call with them was refused a moment ago; nothing was sent.
            Rejected: a header value that may not be sent.
            ConfigError: a secret is missing or unfit.
        """
        target, credentials = self._resolve(url, params), self._credentials()
        request = self._client.build_request(
            method, target, headers={**credentials, **_checked(headers)}, content=content
        )
        with self._place(deadline), self._login.turn(secret_of(credentials), deadline) as attempt:
            self._limit.wait(deadline)
            answer = self._exchange(request, min(deadline, self._clock.monotonic() + self._total))
            _tell(attempt, answer)
            return answer

    def credentials_digest(self, system: str) -> str:
        """See `connectors.contract.System`. Raises ConfigError if a secret is missing."""
        return digest_of(secret_of(self._credentials()), system)

    def close(self) -> None:
        self._client.close()

    def _resolve(self, url: str, params: Mapping[str, str] | None) -> httpx.URL:
        try:
            target = self._origin.join(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise SystemFault("not an address", code="address", detail=str(error)) from error
        if target.userinfo or _place_of(target) != _place_of(self._origin):
            raise SystemFault(
                f"an address outside {self._origin} is never asked: {target.scheme}://{target.host}",
                code="foreign-origin",
            )
        return target.copy_merge_params(dict(params)) if params else target

    def _credentials(self) -> Mapping[str, str]:
        made = self._auth.headers() if self._auth is not None else _NOTHING
        for name, value in made.items():
            if not _HEADER_VALUE.fullmatch(value):
                raise ConfigError(f"the secret for the header {name} holds a line break or another control character")
        return made

    @contextmanager
    def _place(self, deadline: float) -> Iterator[None]:
        if not self._places.acquire(timeout=max(0.0, deadline - self._clock.monotonic())):
            raise Retriable("all of the system's connections are busy")
        try:
            yield
        finally:
            self._places.release()

    def _exchange(self, request: httpx.Request, until: float) -> HttpAnswer:
        with self._backend.exchange(until) as exchange:
            try:
                response = self._client.send(request, stream=True)
                try:
                    body = self._read(response)
                finally:
                    response.close()
            except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, zlib.error) as error:
                raise _failure(error, request, exchange) from error
        return HttpAnswer(response.status_code, response.headers, body, str(request.url))

    def _read(self, response: httpx.Response) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip"}:
            raise _unusable(response.request, f"the answer has an encoding that nobody asked for: {encoding[:40]!r}")
        parts = response.iter_raw()
        try:
            return b"".join(_capped(parts if "gzip" not in encoding else _gunzip(parts), self._max_response))
        except _TooLarge:
            message = f"the answer is larger than {self._max_response:,} bytes (max_response)"
            raise _unusable(response.request, message) from None


def _tell(attempt: Attempt, answer: HttpAnswer) -> None:
    """401 and a login form in place of data refuse the credentials, as far as the next calls are concerned."""
    if answer.status == 401 or asks_for_password(answer.body):
        attempt.refused()
    elif answer.status < 500 and answer.status not in _SAYS_NOTHING:
        attempt.taken()


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds of a Retry-After header (seconds or an HTTP date), at most 300. None = absent or unreadable."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", value):
        return min(float(value), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - now).total_seconds()), LONGEST_WAIT)


class _TooLarge(Exception):
    """More bytes than the cap allows."""


def _capped(parts: Iterable[bytes], cap: int) -> Iterator[bytes]:
    total = 0
    for part in parts:
        total += len(part)
        if total > cap:
            raise _TooLarge
        yield part


def _gunzip(parts: Iterable[bytes], step: int = MIB) -> Iterator[bytes]:
    """Decompressed in steps of a fixed size, so that a bomb is met at the cap and not after it."""
    inflate, begun = zlib.decompressobj(wbits=31), False
    for part in parts:
        rest = part
        while rest:
            begun = True
            yield inflate.decompress(rest, step)
            if inflate.eof:  # a gzip file may be several, one after the other
                rest, inflate, begun = inflate.unused_data, zlib.decompressobj(wbits=31), False
            else:
                rest = inflate.unconsumed_tail
    if begun:
        raise zlib.error("the compressed answer ends too early")


def _failure(error: Exception, request: httpx.Request, exchange: Exchange) -> CrossdockError:
    """The one place where the library's failures get our names."""
    detail, place = f"{type(error).__name__}: {error}", _named(request)
    if not exchange.sent:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            return SystemFault(f"{place}: the system's certificate does not hold", code="certificate", detail=detail)
        return Retriable(f"{place}: the system cannot be reached", detail=detail)
    if request.method in _SAFE_METHODS:
        return Retriable(f"{place}: no complete answer", detail=detail)
    return Unknown(f"{place}: sent, and no complete answer", detail=detail)


def _unusable(request: httpx.Request, message: str) -> CrossdockError:
    """An answer came that cannot be read. After a write nobody knows what it said."""
    message = f"{_named(request)}: {message}"
    return SystemFault(message, code="answer") if request.method in _SAFE_METHODS else Unknown(message)


def _named(request: httpx.Request) -> str:
    """Without its query, where addresses keep their secrets."""
    return f"{request.method} {request.url.path}"


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        if not _HEADER_VALUE.fullmatch(value):
            raise Rejected(f"the value for the header {name} holds a line break or is not Latin text", code="header")
    return headers


def _origin_of(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ConfigError(f"not an address: {text!r}") from error
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo:
        raise ConfigError("an address needs the form http(s)://host[:port]/path, without user or password")
    return url


def _place_of(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


@cache
def _ssl_context(verify: bool | str) -> ssl.SSLContext:
    """Shared by all clients: loading the authorities costs more than a hundred requests."""
    if isinstance(verify, bool):
        return httpx.create_ssl_context(verify=verify, trust_env=False)
    try:
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise ConfigError(f"the CA file {verify} cannot be read: {error.strerror or error}") from error


class _Transport(httpx.BaseTransport):
    """httpx over a connection pool with our own sockets. httpcore's exceptions pass through to `_exchange`."""

    def __init__(self, backend: DeadlineBackend, context: ssl.SSLContext | None, connections: int) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, max_connections=connections, keepalive_expiry=_KEEP_ALIVE, network_backend=backend
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url, stream = request.url, request.stream
        assert isinstance(stream, httpx.SyncByteStream)
        answer = self._pool.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        yield from self._inner

    def close(self) -> None:
        self._inner.close()
