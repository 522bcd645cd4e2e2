"""Credentials of a system, hub-wide: after a failed login nobody tries again but its health task, and that rarely.

A hub with ten workers and a wrong password would lock the account within a second. So what a system said to the
credentials stands on `crossdock.control`, beside a digest of the secret that was tried: another secret is another try.

```
(nothing known) ── health task ──> accepted ── a login fails ──> refused ── 3rd failure ──> needs_credentials
                                      ^── health task, every 5 min ──┘      another secret ──> (nothing known)
```
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime, timedelta

from connectors.clock import Clock
from connectors.errors import ConfigError, CredentialsRefused, CrossdockError
from schemas.control import Credentials, CredentialState
from schemas.values import rfc3339
from streams.backoff import wait_for_stop
from streams.control import Control

log = logging.getLogger("crossdock.streams.credentials")

ATTEMPTS = 3
"""Failed logins before only a person can help: accounts are locked after five to ten."""
PAUSE = timedelta(minutes=5)
LOOK = 1.0


class SystemCredentials:
    """What one system said to our secret. Asked before each call, by every lane and source task."""

    def __init__(self, system: str, digest: Callable[[], str], control: Control, clock: Clock) -> None:
        """`digest` tells the present secret's, without the secret; empty = the system wants none."""
        self.system, self._digest_of, self._control, self._clock = system, digest, control, clock

    def _digest(self) -> str:
        try:
            return self._digest_of()
        except ConfigError:  # a file that is just being replaced: nobody calls before it is there
            return "not there"

    @property
    def record(self) -> Credentials | None:
        """What is known of the present secret."""
        found = self._control.find(Credentials, self.system)
        return found if found is not None and found.digest == self._digest() else None

    @property
    def usable(self) -> bool:
        """Whether lanes and source tasks may call."""
        if not self._digest():
            return True
        found = self.record
        return found is not None and found.state is CredentialState.ACCEPTED

    async def refused(self, error: CredentialsRefused) -> None:
        """A login failed: everybody stops. Returns when the broker knows."""
        before = self.record
        if before is not None and before.state is CredentialState.NEEDED:
            return
        await self._control.put(refused(self.system, self._digest(), before, error, self._clock))

    async def accepted(self) -> None:
        if not self.usable:
            log.info("credentials.accepted system=%s", self.system)
            await self._control.put(
                Credentials(
                    system=self.system,
                    state=CredentialState.ACCEPTED,
                    digest=self._digest(),
                    attempts=0,
                    reason="",
                    time=rfc3339(self._clock.now()),
                )
            )


def refused(
    system: str, digest: str, before: Credentials | None, error: CredentialsRefused, clock: Clock
) -> Credentials:
    """The record of one more failed login; tells the operator."""
    attempts = 1 + (before.attempts if before is not None else 0)
    needed = attempts >= ATTEMPTS
    log.error(
        "credentials.refused system=%s attempts=%d of=%d reason=%s (%s)",
        system,
        attempts,
        ATTEMPTS,
        error,
        "replace the secret; nothing tries again before" if needed else "one more try in 5 min",
    )
    return Credentials(
        system=system,
        state=CredentialState.NEEDED if needed else CredentialState.REFUSED,
        digest=digest,
        attempts=attempts,
        reason=str(error),
        time=rfc3339(clock.now()),
    )


class CredentialHealth:
    """The task that tries a secret: owned by one worker of the hub, as source tasks are."""

    def __init__(
        self,
        credentials: SystemCredentials,
        try_login: Callable[[], object],
        control: Control,
        threads: Executor,
        clock: Clock,
    ) -> None:
        """`try_login` blocks, writes nothing, and raises CredentialsRefused or whatever else is in the way."""
        self.name = f"health.{credentials.system}"
        self._credentials, self._try_login, self._control = credentials, try_login, control
        self._threads, self._clock = threads, clock

    async def run(self, stop: asyncio.Event) -> None:
        """Lives until `stop` is set."""
        await self._control.known()
        while not stop.is_set():
            if self._due():
                await self._look()
            await wait_for_stop(stop, LOOK)

    def _due(self) -> bool:
        if self._credentials.usable:
            return False
        found = self._credentials.record
        if found is None:
            return True
        age = self._clock.now() - datetime.fromisoformat(found.time)
        return found.state is CredentialState.REFUSED and age >= PAUSE

    async def _look(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._try_login)
        except CredentialsRefused as error:
            await self._credentials.refused(error)
        except CrossdockError as error:
            log.warning("check.postponed system=%s reason=%s", self._credentials.system, error)
            await asyncio.sleep(LOOK)
            return
        else:
            await self._credentials.accepted()
