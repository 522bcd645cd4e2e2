"""What stands on `crossdock.control`: the newest record of each subject holds for the whole hub.

The topic is compacted and has one partition, so every worker sees the same records in the same order. The key is
`<kind>/<name>`; a tombstone takes a record back.
"""

from enum import StrEnum

import msgspec


class CredentialState(StrEnum):
    """What a system said to our credentials."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # a login failed; its health task tries again, some few times
    NEEDED = "needs_credentials"  # it failed for good: only a person can help


class Credentials(msgspec.Struct, frozen=True, kw_only=True, tag="credentials"):
    """The credentials of one system. A hub that goes on logging in with a wrong password locks the account."""

    cd_schema: int = 1
    system: str
    state: CredentialState
    digest: str
    """Of the secret that was tried: another secret is another beginning."""
    attempts: int
    reason: str
    time: str

    @property
    def name(self) -> str:
        return self.system


class Decision(StrEnum):
    """What a person wants done with records that a write-back holds."""

    HOLD = "hold"  # nobody has decided yet
    RETRY = "retry"  # the cause is gone: write them again
    DEAD = "dead"  # they are what is wrong: dead letters


class Suspicion(msgspec.Struct, frozen=True, kw_only=True, tag="suspicion"):
    """Many refusals of one kind: the system may have changed, and a person decides before any is a dead letter."""

    cd_schema: int = 1
    writeback: str
    """`<pipeline>/<write-back>`"""
    fingerprint: str
    reason: str
    decision: Decision
    by: str
    time: str

    @property
    def name(self) -> str:
        return self.writeback


class Verdict(StrEnum):
    """What a person found out about a call that is in doubt."""

    APPLIED = "applied"  # it happened
    RETRY = "retry"  # it did not: make it again
    DISCARD = "discard"  # it did not, and it is not wanted any more


class Resolution(msgspec.Struct, frozen=True, kw_only=True, tag="resolution"):
    """The end of a doubt. Carried out by the worker that owns the record's partition, which then takes it back."""

    cd_schema: int = 1
    write_id: str
    verdict: Verdict
    by: str
    reason: str
    time: str

    @property
    def name(self) -> str:
        return self.write_id


class SystemState(msgspec.Struct, frozen=True):
    """One system, as one worker sees it."""

    state: str
    """`running`, `breaker_open`, `credentials`, `needs_credentials`, `suspected`."""
    reason: str = ""
    since: str | None = None
    parked: int = 0


class WorkerState(msgspec.Struct, frozen=True, kw_only=True, tag="worker"):
    """What a worker says of itself, when it changes. Taken back when the worker ends."""

    cd_schema: int = 1
    instance: str
    systems: dict[str, SystemState]
    time: str

    @property
    def name(self) -> str:
        return self.instance


ControlRecord = Credentials | Suspicion | Resolution | WorkerState


def control_key(kind: type[msgspec.Struct], name: str) -> bytes:
    """Key of a record: `credentials/flightops`."""
    return f"{kind.__struct_config__.tag}/{name}".encode()
