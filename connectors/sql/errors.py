"""Exceptions of SQLAlchemy and its drivers, translated at this one place.

| SQLSTATE                                                     | becomes                                              |
|--------------------------------------------------------------|------------------------------------------------------|
| 08 connection, 40 rollback, 53 resources, 55P03 lock,        | Retriable: the whole transaction again               |
| 57014 cancelled by a timeout, 57P shutdown, none (it is gone)|                                                      |
| 22 data, 23 integrity, 44 check option, P0001 raised         | Rejected (one record of the batch, until it is alone)|
| 28 login                                                     | CredentialsRefused                                   |
| 25006 read only, 3D, 3F, 42 rights, names                    | SystemFault                                          |
| anything else                                                | SystemFault                                          |

The table of SQLSTATE codes: PostgreSQL's documentation, appendix A. SQLite has no SQLSTATE: its class of exception
and, for OperationalError, its text tell. Neither has a connection of PostgreSQL that did not come to be: libpq gives a
text alone, in the server's language.
"""

from typing import Any

import sqlalchemy as sa

from connectors.errors import CredentialsRefused, CrossdockError, Rejected, Retriable, SystemFault

_RETRIABLE = ("08", "40", "53", "57P", "55P03", "57014", "55006")
_REJECTED = ("22", "23", "44", "P0001")
_NO_LOGIN = ("authentication failed", "no password supplied", "pg_hba.conf", "not permitted to log in")
_LOGIN_WAS_TAKEN = (
    *("does not exist", "permission denied", "not currently accepting connections"),
    *("too many", "remaining connection slots", "starting up", "shutting down", "recovery", "standby"),
)
_LINE_BROKE = (
    *("closed the connection", "timeout", "timed out", "could not receive", "could not send", "reset by peer"),
    *("ssl", "tls", "refused", "unreachable", "broken pipe", "administrator command"),
)
_RETRIABLE_SQLITE = ("locked", "busy", "disk i/o", "full", "unable to open")


def failure_of(error: BaseException, place: str) -> CrossdockError:
    """What an exception of the driver means.

    Args:
        error: of SQLAlchemy or of the driver below it.
        place: what was being done, for the message: `update flights`.
    """
    if isinstance(error, sa.exc.TimeoutError):
        return Retriable(f"{place}: all connections of the pool are in use")
    state, text = code_of(error), message_of(error)
    message = f"{place}: {text}"
    if state is None:
        return _without_state(error, message)
    if state.startswith(_RETRIABLE):
        return Retriable(message, detail=state)
    if state.startswith(_REJECTED):
        return Rejected(message, code=state)
    if state.startswith("28"):
        return CredentialsRefused(message, detail=state)
    return SystemFault(message, code=state)


def code_of(error: BaseException) -> str | None:
    """The SQLSTATE, where there is one."""
    state = getattr(_original(error), "sqlstate", None)
    return state if isinstance(state, str) else None


def message_of(error: BaseException) -> str:
    """The database's own first line: without statement, parameters and row, which may hold personal data."""
    original = _original(error)
    primary = getattr(getattr(original, "diag", None), "message_primary", None)
    constraint = getattr(getattr(original, "diag", None), "constraint_name", None)
    text = primary or next(iter(str(original).splitlines()), "") or type(original).__name__
    return f"{text} (constraint {constraint})" if constraint and constraint not in text else str(text)


def _original(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig is not None else error


def _without_state(error: BaseException, message: str) -> CrossdockError:
    original = _original(error)
    if type(original).__module__.startswith("sqlite3"):
        text = str(original).lower()
        if isinstance(error, sa.exc.IntegrityError | sa.exc.DataError):
            return Rejected(message, code=getattr(original, "sqlite_errorname", "SQLITE_CONSTRAINT"))
        if isinstance(error, sa.exc.OperationalError) and any(word in text for word in _RETRIABLE_SQLITE):
            return Retriable(message)
        return SystemFault(message, code=getattr(original, "sqlite_errorname", "sqlite"))
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | OSError):
        return _without_connection(original, message)
    if isinstance(error, sa.exc.DataError):
        return Rejected(message, code="22000")  # the driver refused the value before it sent anything
    return SystemFault(message, code=type(original).__name__)


def _without_connection(error: BaseException, message: str) -> CrossdockError:
    """The connection is gone, or never came to be."""
    text = str(error).lower()
    if is_refused_login(error):
        return CredentialsRefused(message)
    if "database" in text and "does not exist" in text:
        return SystemFault(message, code="3D000")
    if "permission denied" in text:
        return SystemFault(message, code="42501")
    return Retriable(message)


def is_refused_login(error: Any) -> bool:
    """Whether the server refused to let us in, of an exception of psycopg that has no SQLSTATE.

    A server may say so in any language. So what was said after we sent a password, and is no other failure that we
    know, counts as a refusal: to take one for an outage would mean to log in again and again.
    """
    text, line = str(error).lower(), getattr(error, "pgconn", None)
    if any(words in text for words in _NO_LOGIN) or ("role" in text and "does not exist" in text):
        return True
    if line is None or not line.used_password:
        return False
    return not any(words in text for words in (*_LOGIN_WAS_TAKEN, *_LINE_BROKE))
