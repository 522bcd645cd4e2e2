"""How often a login is tried: a hub that tries a wrong password from many threads locks the account of a whole company.

Until a system has taken the present secret once, one call at a time goes to it. A refusal holds for a short while for
everybody who uses the same secret, so that those who waited for the first do not all try after it. Whether and when it
is tried again after that is the hub's to decide, never a connector's.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from connectors.clock import Clock
from connectors.errors import CredentialsRefused, Retriable

REFUSAL_HOLDS = 5.0
"""Seconds in which a secret that was refused is not tried again; another secret is tried at once."""


class Login:
    """What one system said to our credentials, for all threads that speak to it."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._key = clock, os.urandom(16)
        self._turn = threading.Lock()
        self._taken = b""
        self._refusal = (b"", 0.0)

    @contextmanager
    def turn(self, secret: str, deadline: float) -> Iterator["Attempt"]:
        """The time in which this thread may use the secret; empty = the system asks for none.

        Raises:
            CredentialsRefused: it was refused a moment ago; it is not tried again now.
            Retriable: another thread's first try lasts until the deadline.
        """
        mark = hashlib.blake2b(secret.encode(), key=self._key, digest_size=16).digest()
        if not secret or mark == self._taken:
            yield Attempt(self, mark)
            return
        if not self._turn.acquire(timeout=max(0.0, deadline - self._clock.monotonic())):
            raise Retriable("another call is still trying these credentials")
        try:
            if self._is_held(mark):
                raise CredentialsRefused("the credentials were refused a moment ago, and are not tried again yet")
            yield Attempt(self, mark)
        finally:
            self._turn.release()

    def take(self, mark: bytes) -> None:
        if not self._is_held(mark):  # else this call was under way when another was refused: its news is older
            self._taken = mark

    def refuse(self, mark: bytes) -> None:
        self._taken = b""
        self._refusal = (mark, self._clock.monotonic() + REFUSAL_HOLDS)

    def _is_held(self, mark: bytes) -> bool:
        refused, until = self._refusal
        return mark == refused and self._clock.monotonic() < until


_KEY, _MANY = os.urandom(16), 256
_DIGESTS: dict[bytes, str] = {}
"""Asked before each call to a system, and a tenth of a second long: once for each secret is enough."""


class Attempt:
    """One use of a secret."""

    __slots__ = ("_login", "_mark")

    def __init__(self, login: Login, mark: bytes) -> None:
        self._login, self._mark = login, mark

    def taken(self) -> None:
        """The system accepted it."""
        self._login.take(self._mark)

    def refused(self) -> None:
        self._login.refuse(self._mark)


def digest_of(secret: str, system: str) -> str:
    """Six hex digits that tell whether a secret is still the same one; empty for none.

    It may be stored where many can read it: it is slow to compute and far too short to tell which secret it was.
    """
    if not secret:
        return ""
    mark = hashlib.blake2b(f"{system}\0{secret}".encode(), key=_KEY, digest_size=16).digest()
    found = _DIGESTS.get(mark)
    if found is None:
        if len(_DIGESTS) >= _MANY:
            _DIGESTS.clear()
        found = hashlib.pbkdf2_hmac("sha256", secret.encode(), system.encode(), 100_000, dklen=3).hex()
        _DIGESTS[mark] = found
    return found
