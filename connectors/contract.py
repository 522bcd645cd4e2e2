"""The contracts of a connector: all that the hub knows of any system.

A connector is a `SystemConfig` (see `connectors/config.py`) whose `build()` gives a `System`; the system makes sources
and sinks. Connectors are synchronous and run in bounded threads. Deadlines are absolute seconds of `Clock.monotonic()`.

Life of a source task, always in this order and never in two threads at once:

1. `open(offset)` once; None = there is no stored offset, begin at the beginning.
2. `poll(limit, deadline)` until stopped. None = nothing new now.
3. `ack(offset)` after Kafka has acknowledged the batch of that offset.
4. `close()`, always, also after an exception.

Life of a sink task: `open()`, then `put()` from several threads at once, but never one key in two of them; `close()`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from schemas.change import Batch, Change
from schemas.receipt import Receipt
from schemas.values import JsonScalar, JsonValue, Key, Offset, Record
from schemas.write import Write

if TYPE_CHECKING:
    from connectors.config import SourceConfig, WritebackConfig


class Idempotency(StrEnum):
    """What a target promises about a repeated write; decides what follows a crash or an unknown outcome."""

    NATURAL = "natural"  # upsert by key, and the target shows whether it is done: repeat
    KEY = "key"  # the target honours an idempotency key: repeat with the same key
    LEDGER = "ledger"  # write ids in the same transaction: a repeat is a no-op
    READBACK = "readback"  # a write can be found (`Readback`): looked for first, sent if it is not there
    NONE = "none"  # not idempotent: never repeated by itself


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a sink task promises."""

    idempotency: Idempotency
    transactional: bool = False
    """All of a `put`, or nothing of it."""
    per_record_results: bool = True
    """False: a refusal of the whole batch raises `Rejected`, and the hub bisects."""
    readable: bool = False
    comparable: bool = False
    """Its records hold the hub's own versions, so that it is `Comparable`."""
    max_batch: int = 1000
    settle: float = 0.0
    """Seconds after which a write whose answer was lost can be found, if it happened (class readback)."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task of a source: a name that is stable over restarts, and what its offset depends on."""

    name: str
    """`<system>.<object>`, as in `flightops.flights`."""
    depends_on: str
    """Digest of system id, object, mode, cursor, key and filter: an offset with another digest is refused."""
    parts: Mapping[str, JsonValue] = field(default_factory=dict)
    """What that is a digest of, under the names of the file: told when it differs."""


class Source(Protocol):
    """What a pipeline reads from; each of its tasks is owned by one worker."""

    def tasks(self) -> Sequence[TaskSpec]: ...
    def task(self, name: str) -> "SourceTask": ...


class SourceTask(Protocol):
    """Reads the changes of one object. Life cycle: see the module's text."""

    def open(self, offset: Offset | None) -> None:
        """Raises ConfigError if the offset does not fit, Retriable if the system is away."""
        ...

    def poll(self, limit: int, deadline: float) -> Batch | None:
        """At most `limit` changes in the source's order, and the offset after them; None = nothing new.

        A batch may be empty: then only the offset moved. Raises Retriable, Throttled, AuthExpired, SystemFault,
        ConfigError; after Retriable the next `poll` continues where the last batch ended.
        """
        ...

    def ack(self, offset: Offset) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class Rewindable(Protocol):
    """A source task whose position is a time. Called after `open`."""

    def offset_at(self, moment: datetime) -> Offset:
        """Where reading goes on with everything that changed at this time or after it.

        Raises ConfigError if this position is no time after all.
        """
        ...


@runtime_checkable
class Countable(Protocol):
    """A source task that can count. Called after `open`."""

    def count_between(self, start: Offset | None, end: Offset | None, deadline: float) -> int:
        """Records after `start` and up to `end`. None = from the beginning, or up to the newest.

        Raises what `poll` raises.
        """
        ...


@runtime_checkable
class Numbering(Protocol):
    """A source task that numbers versions itself, where the source tells no order. Called before `open`."""

    def numbered(self, offset: Offset | None, highest: str | None) -> Offset | None:
        """The same place, with numbers that go on after this version: lower ones would count as old.

        `highest` is the highest version that the task ever emitted; None = there is none.
        """
        ...


@runtime_checkable
class Comparing(Protocol):
    """A source task that notices when its source is older than what was read of it: put back from a backup."""

    def went_back(self, newest: str, deadline: float) -> str | None:
        """A sentence that says so, if no record is as new as this version less the overlap; None = nothing is wrong.

        Called after `open`; cheap, as it is asked at each. A source without any record has not gone back.
        Raises what `poll` raises.
        """
        ...


class SinkTask(Protocol):
    """Writes into one object of a target. Life cycle: see the module's text."""

    capabilities: Capabilities

    def open(self) -> None: ...

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        """One receipt for each write, in the same order. The caller never passes one key twice.

        After `connectors.refusals.IN_A_ROW` refusals in a row with one code the rest is not sent: receipts `retry` with
        the code `suspected`.

        Raises:
            Retriable: the system is away or busy; nothing of this call happened (or all of it is repeatable). Of the
                classes readback and none it is taken at its word: what may have been sent is Unknown.
            Throttled: the same, and the system named a time.
            AuthExpired, SystemFault: the system refuses everything.
            CredentialsRefused: it was asked once and refused the login; a sink never tries again by itself.
            Rejected: without `per_record_results`, some record of the batch was refused and nothing happened.
            Unknown: sent, and no answer.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Readable(Protocol):
    """A sink that can also look: needed by reread, readback, undo and explain."""

    def read(self, keys: Sequence[Key], deadline: float) -> list[Record | None]:
        """The target's present record for each key, in the same order; None = there is none.

        The reserved field `@version` holds the target's own version or ETag, in the form of `Write.expected`.
        """
        ...


@runtime_checkable
class Readback(Protocol):
    """A sink of the class readback: it can find out whether a write happened."""

    def happened(self, writes: Sequence[Write], deadline: float) -> list[Receipt | None]:
        """For each write its receipt if the target has it, in the same order; None = it has not, and it may be sent.

        Never None where the target does not say so clearly: a write would be done twice. Raises as `put` does.
        """
        ...


class KeyRange(NamedTuple):
    """Records by the hash of their keys: `connectors/buckets.py` says how, and cuts a range into buckets."""

    fields: tuple[str, ...]
    """Of the key, by the names of the side that is asked, in an order that both sides agree on."""
    start: int
    end: int
    buckets: int
    below: str | None
    """Records of earlier versions alone; None = of all."""


class Bucket(NamedTuple):
    """Records of a range of keys: how many, and the sum of their hashes."""

    start: int
    end: int
    records: int
    digest: int


class Held(NamedTuple):
    """One record: the values of its key in the order that was asked for, and its version without the cause."""

    key: tuple[JsonScalar, ...]
    version: str


@runtime_checkable
class Comparable(Protocol):
    """A source, or a sink with that capability, that says what it holds: needed by reconcile. Raises as `poll` does."""

    def digest(self, key_range: KeyRange, deadline: float) -> list[Bucket]:
        """All buckets of the range, empty ones too."""
        ...

    def held(self, key_range: KeyRange, deadline: float) -> list[Held]:
        """The records of the range."""
        ...


class Passed(NamedTuple):
    """How far a source was read: everything of an earlier version."""

    below: str
    time: str


@runtime_checkable
class Rereadable(Protocol):
    """A source that can read some of its records again: needed by reconcile. Raises as `poll` does."""

    def passed(self, offset: Offset, deadline: float) -> Passed | None:
        """What an offset says; None = nothing was read yet."""
        ...

    def reread(self, keys: Sequence[Key], deadline: float) -> list[Change | None]:
        """The present version of each record, with the ids that `poll` gives; None = there is none."""
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A sink that can tell by its own rules whether a write's values are what a record holds. Called after `open`."""

    def holds(self, writes: Sequence[Write], deadline: float) -> list[bool | None]:
        """In the same order; None = there is no such record. Raises as `poll` does."""
        ...


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the configuration that the system contradicts."""

    path: tuple[str | int, ...]
    """Where, inside the block that was checked: `("set", "delay_riskk")`."""
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. `guarantees` are sentences for people: what holds with the rights and objects at hand."""

    problems: list[Problem] = field(default_factory=list)
    guarantees: list[str] = field(default_factory=list)


@runtime_checkable
class Lintable(Protocol):
    """A source or sink that can look, offline, whether its configuration fits a description that it has at hand."""

    def lint(self) -> Report: ...


@runtime_checkable
class Checkable(Protocol):
    """A source or sink that can look, read-only, whether its configuration fits the system."""

    def check(self) -> Report:
        """Logs in once. Raises CredentialsRefused if that is refused, Retriable while the system cannot be asked."""
        ...


class System(Protocol):
    """One legacy installation, shared by its sources and sinks: credentials, connections, limits."""

    name: str

    def source(self, config: "SourceConfig", *, written: frozenset[str]) -> Source:
        """A source. `written` are the fields of this object that the hub itself writes: they are not content."""
        ...

    def sink(self, config: "WritebackConfig", *, prefix: str) -> SinkTask:
        """A sink. `prefix` separates two hubs on one target (ledger rows, idempotency keys)."""
        ...

    def credentials_digest(self) -> str:
        """A short digest of the present login, to tell that a secret was rotated; empty = there is none.

        Raises ConfigError if the secret is not where its reference points.
        """
        ...

    def close(self) -> None: ...
