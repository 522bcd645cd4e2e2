"""Failures, named by what to do about them and not by the library that raised them.

```
CrossdockError            message: for the user; detail: for the operator. Neither holds a secret.
├── ConfigError           a person must change a file: file, line, column
├── Retriable             nothing happened, or it is safe to repeat: try again, after `retry_after` if given
│   └── Throttled         the system asked to slow down: the whole system pauses
├── AuthExpired           a session has ended: log in once, then again
├── SystemFault           looks like a refusal, but the system is what is wrong: never a dead letter
│   └── CredentialsRefused  it does not take our login: every further try brings the account nearer to its lock
├── Rejected              this record (or one of this batch) will never be accepted: `code`
├── Conflict              the target's version is not the one that was read
├── Unknown               sent, outcome not known: the idempotency class decides
└── Fatal                 a defect, or a state that the hub must not go on from: the worker stops
```
Each connector translates its libraries' exceptions at one place.
"""


class CrossdockError(Exception):
    """All of ours. `str()` is for the user; `detail` is for the operator."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class ConfigError(CrossdockError):
    """A person must change a file."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message, detail=detail)
        self.file, self.line, self.column = file, line, column

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return f"{place}: {self.message}" if place else self.message


class Retriable(CrossdockError):
    """Nothing happened, or it is safe to repeat."""

    def __init__(self, message: str, *, retry_after: float | None = None, detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.retry_after = retry_after


class Throttled(Retriable):
    """The system asked to slow down."""


class AuthExpired(CrossdockError):
    """A session is no longer valid, and a new login would make one."""


class SystemFault(CrossdockError):
    """The system is what is wrong: a revoked right, a missing table, a login page."""

    def __init__(self, message: str, *, code: str = "", detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.code = code


class CredentialsRefused(SystemFault):
    """The login itself was refused: a person must give another secret, or the right back. No sink tries again."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message, code="credentials", detail=detail)


class Rejected(CrossdockError):
    """A record that will never be accepted. Raised for a whole batch, the batch is bisected until it stands alone."""

    def __init__(self, message: str, *, code: str, detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.code = code


class Conflict(CrossdockError):
    """The target's version is not the one that was read."""


class Unknown(CrossdockError):
    """Sent, and no answer that tells whether it happened."""


class Fatal(CrossdockError):
    """The hub must not go on from here."""
