"""What stands on `crossdock.control`: the newest record of each subject holds for the whole hub.

The topic is compacted and has one partition, so every worker sees the same records in the same order. The key is
`<kind>/<name>`; a tombstone takes a record back.

A command about a dead letter, and the mark that says what became of it, have names of their own each: nothing replaces
them, so that together they are the audit.
"""

from enum import StrEnum
from typing import Literal

import msgspec

from schemas.values import JsonValue


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


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants done with one dead letter. It is carried out once, by the one owner of the replayer."""

    cd_schema: int = 1
    name: str
    """`<pipeline>/<offset>#<eight hex digits>`: two people may want the same, and both are told what became of it."""
    letter: str
    """`<pipeline>/<offset on <p>.dead>`, as `crossdock dead list` shows it."""
    by: str
    reason: str
    time: str

    @property
    def verb(self) -> str:
        """replay, edit or discard."""
        return str(self.__struct_config__.tag)


class Replay(Command, frozen=True, kw_only=True, tag="replay"):
    """Send its event again, as it was."""

    rate: float
    """Letters per second, for all of those that are wanted one after the other."""


class Edit(Command, frozen=True, kw_only=True, tag="edit"):
    """Send its event again, with another `after`."""

    after: msgspec.Raw


class Discard(Command, frozen=True, kw_only=True, tag="discard"):
    """It is settled: nobody needs its event any more."""


class Mark(msgspec.Struct, frozen=True, kw_only=True, tag="mark"):
    """What became of a command; written in one transaction with what it did."""

    cd_schema: int = 1
    command: str
    verb: str
    letter: str
    identity: str | None
    """Of the letter; None where it could not be read any more."""
    through: int = 0
    """The end of `<p>.dead` then: letters of this identity before it are done, one after it is a new refusal."""
    subject: str | None = None
    """Key and source version of the event: its causes are counted together."""
    cause: str | None = None
    """Of the event that was sent: `replay:<n>`, `edit:<n>`."""
    refused: str | None = None
    """Why nothing was done."""
    by: str
    reason: str
    asked: str
    """The command's own time."""
    time: str

    @property
    def name(self) -> str:
        return self.command


class OffsetMove(msgspec.Struct, frozen=True, kw_only=True, tag="offset"):
    """A command: go on from another offset. The owner carries it out, once, and notes its id beside the offset."""

    cd_schema: int = 1
    subject: str
    """A source task, or `<group>/<topic>/<partition>` without the hub's prefix."""
    id: str
    action: Literal["set", "reset", "undo"]
    offset: JsonValue
    """A source's own position; the number of a record for a partition; null = from the beginning."""
    undoes: str | None = None
    """Id of the move that an undo takes back; carried out only while that one stands."""
    by: str
    reason: str
    time: str

    @property
    def name(self) -> str:
        return self.subject


class Trouble(StrEnum):
    """Why something stands still until a person decides where it goes on."""

    OTHER_CONFIGURATION = "other_configuration"  # the offset was stored for another table, mode, cursor, key or filter
    LOST = "lost"  # there is no offset, although there was one
    WENT_BACK = "went_back"  # the source is older than what was read of it
    BEYOND_THE_END = "beyond_the_end"  # the topic ends before the offset
    RETENTION_PASSED = "retention_passed"  # unread records were deleted
    RECREATED = "recreated"  # the topic is another one of the same name
    MISSING = "missing"  # the topic is gone


class Stopped(msgspec.Struct, frozen=True, kw_only=True, tag="stopped"):
    """A source task, or a partition of a group, that stands still; all others go on."""

    cd_schema: int = 1
    subject: str
    trouble: Trouble
    reason: str
    command: str
    """What a person may run to decide."""
    time: str

    @property
    def name(self) -> str:
        return self.subject


class PauseCause(StrEnum):
    """Who wants that a pipeline's sources are not read."""

    OPERATOR = "operator"  # a person; until a person resumes it
    RETENTION = "retention"  # the hub: unread events would expire; it goes on by itself


class Pause(msgspec.Struct, frozen=True, kw_only=True, tag="pause"):
    """The sources of a pipeline are not read; what was read is enriched and written. Taken back when they go on."""

    cd_schema: int = 1
    pipeline: str
    cause: PauseCause
    reason: str
    by: str
    time: str
    raised: dict[str, float] = {}
    """Seconds that topics kept their records before their retention was raised."""

    @property
    def name(self) -> str:
        return f"{self.pipeline}/{self.cause.value}"


class Verified(msgspec.Struct, frozen=True, kw_only=True, tag="verified"):
    """A write-back was compared with its source, and nothing differed."""

    cd_schema: int = 1
    writeback: str
    """`<pipeline>/<write-back>`"""
    through: str
    """All that the source committed before this time."""
    records: int
    against: str
    """What the source was compared with: `target` or `receipts`."""
    time: str

    @property
    def name(self) -> str:
        return self.writeback


ControlRecord = (
    Credentials
    | Suspicion
    | Resolution
    | WorkerState
    | Replay
    | Edit
    | Discard
    | Mark
    | OffsetMove
    | Stopped
    | Verified
    | Pause
)


def control_key(kind: type[msgspec.Struct], name: str) -> bytes:
    """Key of a record: `credentials/flightops`."""
    return f"{kind.__struct_config__.tag}/{name}".encode()
