"""A connection to PostgreSQL with one login at most.

Left to themselves the libraries log in more often: libpq, whose default is `sslmode=prefer`, repeats a refused login
without TLS, and psycopg tries every host of a list and every address of a name. Here each of these is one step of ours,
and a login that the server refused is the last.
"""

import os
import socket
from collections.abc import Iterator
from typing import Any, Final

import psycopg

from connectors.clock import Clock
from connectors.login import Login, digest_of
from connectors.secrets import Secret
from connectors.sql.errors import is_refused_login

_MODES: Final = {"prefer": ("require", "disable"), "allow": ("disable", "require")}
"""What libpq would try one after the other inside one call."""


class Logins:
    """Opens the connections of one database."""

    def __init__(self, name: str, user: str | None, password: Secret | None, clock: Clock, patience: float) -> None:
        """
        Args:
            patience: seconds that a connection waits while another one tries the same password.
        """
        self._name, self._user, self._password = name, user, password
        self._clock, self._patience, self._login = clock, patience, Login(clock)

    def digest(self) -> str:
        """See `connectors.contract.System`. Raises ConfigError if the password is missing."""
        return digest_of(self._secret(), self._name)

    def connect(self, parameters: dict[str, Any]) -> psycopg.Connection[Any]:
        """A connection. The password is read now, so that a rotated one is seen; no engine and no log holds it.

        Raises:
            psycopg.Error: as the driver raises it.
            CredentialsRefused, Retriable: see `Login.turn`.
            ConfigError: the password is missing.
        """
        if self._password is not None:
            parameters = {**parameters, "password": self._password.reveal()}
        with self._login.turn(self._secret(), self._clock.monotonic() + self._patience) as attempt:
            try:
                connection = _first_that_answers(parameters)
            except psycopg.Error as error:
                if is_refused_login(error):
                    attempt.refused()
                raise
            attempt.taken()
            return connection

    def _secret(self) -> str:
        return "" if self._password is None else f"{self._user}:{self._password.reveal()}"


def _first_that_answers(parameters: dict[str, Any]) -> psycopg.Connection[Any]:
    failure: psycopg.Error | None = None
    silent: dict[str, str] | None = None
    for place in _places(parameters):
        for mode in _modes(parameters):
            if place == silent:
                continue  # it would not answer in plain text either
            try:
                wanted: dict[str, Any] = {"gssencmode": "disable", **parameters, **place, "sslmode": mode}
                return psycopg.connect(**wanted)
            except psycopg.Error as error:
                failure = error
                if is_refused_login(error) and error.pgconn is not None and error.pgconn.used_password:
                    raise
                if isinstance(error, psycopg.errors.ConnectionTimeout):
                    silent = place
    assert failure is not None
    raise failure


def _modes(parameters: dict[str, Any]) -> tuple[str, ...]:
    asked = str(parameters.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer")
    return _MODES.get(asked, (asked,))


def _places(parameters: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Each host of the address with each address of its name; one empty place where libpq's own defaults hold."""
    hosts = str(parameters.get("host") or "")
    if not hosts or parameters.get("hostaddr"):
        yield {}
        return
    names = hosts.split(",")
    ports = str(parameters.get("port") or "5432").split(",")
    failure: OSError | None = None
    found = False
    for name, port in zip(names, ports if len(ports) == len(names) else ports[:1] * len(names), strict=True):
        if name.startswith("/"):
            found = True
            yield {"host": name, "port": port}
            continue
        try:
            addresses = socket.getaddrinfo(name, port, proto=socket.IPPROTO_TCP, type=socket.SOCK_STREAM)
        except OSError as error:
            failure = error
            continue
        for *_, address in addresses:
            found = True
            yield {"host": name, "hostaddr": str(address[0]), "port": port}
    if not found:
        raise psycopg.OperationalError(f"no host of {hosts} has an address: {failure}")
