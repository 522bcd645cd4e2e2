"""The gate before a system: whether it may be called right now, and by whom.

| state               | means                                            | opened again by                  |
|---------------------|--------------------------------------------------|----------------------------------|
| `running`           | calls go through                                 |                                  |
| `breaker_open`      | the system is away or refuses everything         | a probe of one record, every 5 s |
| `credentials`       | a login failed, or none has been tried yet       | the health task                  |
| `needs_credentials` | logins failed for good                           | a person: another secret         |
| `suspected`         | a write-back met too many refusals of one kind   | a person: `crossdock held list`  |

What stands before a closed gate is held: its partition is read no further, and nothing becomes a dead letter.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from connectors.clock import Clock
from connectors.errors import CredentialsRefused, CrossdockError, SystemFault
from schemas.control import CredentialState, Decision, Suspicion, SystemState
from schemas.values import rfc3339
from streams.breaker import Breaker
from streams.control import Control
from streams.credentials import SystemCredentials

log = logging.getLogger("crossdock.streams.gate")

Hold = Callable[[float], Awaitable[None]]
LOOK = 1.0
"""Seconds between two looks of a lane that waits."""
DECIDED_FOR = timedelta(hours=1)
"""How long "these are dead letters" holds for refusals of that kind."""


class Gate:
    """The gate of one target system on one worker."""

    def __init__(
        self, system: str, breaker: Breaker, credentials: SystemCredentials, control: Control, clock: Clock
    ) -> None:
        self.system, self.breaker = system, breaker
        self._credentials, self._control, self._clock = credentials, control, clock

    async def enter(self, writeback: str, hold: Hold) -> None:
        """Returns when a call for this write-back (`<pipeline>/<name>`) may be made; then make it at once."""
        while True:
            wait = self._wait(writeback)
            if not wait:
                return
            await hold(min(wait, LOOK))

    def _wait(self, writeback: str) -> float:
        if not self._credentials.usable or self._held(writeback) is not None:
            return LOOK
        return self.breaker.wait()

    def _held(self, writeback: str) -> Suspicion | None:
        found = self._control.find(Suspicion, writeback)
        return found if found is not None and found.decision is Decision.HOLD else None

    def state(self, writebacks: Sequence[str]) -> SystemState:
        """For people: the first thing that is in the way."""
        record = self._credentials.record
        if not self._credentials.usable:
            word = "credentials"
            if record is not None and record.state is CredentialState.NEEDED:
                word = "needs_credentials"
            return SystemState(word, record.reason if record else "", record.time if record else None)
        for name in writebacks:
            if (suspicion := self._held(name)) is not None:
                return SystemState("suspected", f"{name}: {suspicion.reason}", suspicion.time)
        if self.breaker.since is not None:
            return SystemState("breaker_open", self.breaker.reason, rfc3339(self.breaker.since))
        return SystemState("running")

    # What calls tell

    async def failed(self, error: CrossdockError) -> None:
        """A call failed, and no record is to blame."""
        if isinstance(error, CredentialsRefused):
            await self._credentials.refused(error)
            return
        if self.breaker.failed(str(error), getattr(error, "retry_after", None) or 0.0):
            level = logging.ERROR if isinstance(error, SystemFault) else logging.WARNING
            log.log(
                level,
                "breaker.opened system=%s kind=%s reason=%s (its partitions wait; one record looks every few seconds)",
                self.system,
                type(error).__name__,
                error,
            )

    def succeeded(self) -> None:
        """A call went through."""
        if self.breaker.succeeded():
            log.info("breaker.closed system=%s", self.system)

    async def suspect(self, writeback: str, fingerprint: str, reason: str) -> None:
        """Too many refusals of one kind: this write-back stands still, on all workers, until a person decides."""
        log.error(
            "writeback.suspected writeback=%s fingerprint=%s reason=%s (suspected system change: nothing of it becomes "
            "a dead letter; decide with `crossdock held retry` or `crossdock held dead`)",
            writeback,
            fingerprint,
            reason,
        )
        time = rfc3339(self._clock.now())
        await self._control.put(
            Suspicion(
                writeback=writeback, fingerprint=fingerprint, reason=reason, decision=Decision.HOLD, by="hub", time=time
            )
        )

    def may_die(self, writeback: str, fingerprint: str) -> bool:
        """Whether a person said that refusals of this kind are dead letters."""
        found = self._control.find(Suspicion, writeback)
        if found is None or found.decision is not Decision.DEAD or found.fingerprint != fingerprint:
            return False
        return self._clock.now() - datetime.fromisoformat(found.time) < DECIDED_FOR

    def decided_at(self, writeback: str) -> str:
        """When a person last decided; empty = never."""
        found = self._control.find(Suspicion, writeback)
        return found.time if found is not None and found.decision is not Decision.HOLD else ""
