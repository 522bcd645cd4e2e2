"""What an integration engineer writes for a SQL database: the system's file, `source:` and `writeback:` blocks."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from connectors.clock import Clock
from connectors.config import Block, Duration, Path, Reference, SourceConfig, SystemConfig, WritebackConfig
from connectors.contract import Idempotency, System
from connectors.secrets import Secret

DIALECTS = ("postgresql", "sqlite")
TableName = Annotated[str, Field(pattern=r"^[^.\s]+(\.[^.\s]+)?$", description="table or schema.table")]
LONGEST_REDELIVERY = timedelta(days=7)
"""Enriched events stay on Kafka for so long: until then a write may be tried again."""
_SHORTEST_OVERLAP = timedelta(seconds=1)


class Read(Block):
    """How new rows are recognised. The names are those of Kafka Connect's JDBC source."""

    mode: Literal["timestamp+incrementing", "timestamp"] = "timestamp+incrementing"
    timestamp: str = Field(description="column with the time of the last change, stamped by the database")
    incrementing: str | None = Field(
        default=None, description="column that orders rows of one time; default: the key, as in mode timestamp"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.mode == "timestamp" and self.incrementing is not None:
            raise ValueError("mode timestamp orders rows of one time by the key; remove `incrementing:`")
        return self


class LateCommits(Block):
    """Guard against rows that are committed late with an early time: every poller without it loses some.

    `active_transactions` never reads past the start of the oldest open transaction. `none` reads to the end at once.
    """

    type: Literal["active_transactions", "none"] | None = Field(
        default=None, description="default: active_transactions on PostgreSQL, none on SQLite (it has one writer)"
    )
    overlap: Duration = Field(
        default=_SHORTEST_OVERLAP, description="read again at each look; what was seen is dropped"
    )
    max_hold: Duration = Field(
        default=timedelta(minutes=15), description="a transaction that is open longer is reported, with its owner"
    )

    @model_validator(mode="after")
    def _safe_overlap(self) -> Self:
        if self.overlap < _SHORTEST_OVERLAP and self.type != "none":
            raise ValueError("overlap: at least 1s, as a transaction's start is stamped before others can see it")
        return self


class SqlSourceConfig(SourceConfig):
    """`source:` of a pipeline that reads a table."""

    table: TableName
    columns: tuple[str, ...] | None = Field(default=None, min_length=1, description="default: all")
    key: tuple[str, ...] = Field(min_length=1, description="columns that name a row")
    read: Read
    late_commits: LateCommits = LateCommits()

    @property
    def object(self) -> str:
        return self.table

    @property
    def order(self) -> tuple[str, ...]:
        """The columns that order rows of one time."""
        return self.key if self.read.incrementing is None else (self.read.incrementing,)


class VersionRule(Block):
    """Which version the target must hold for a write to be right.

    `equals`: still the value that was read (optimistic lock). `newer`: an older one than the event's, which is then
    set; the column holds the hub's version text, or what `value` gives.
    """

    column: str
    rule: Literal["equals", "newer"]
    value: Path | None = Field(
        default=None, description="our path; default: for equals, the column's own name; for newer, the event's version"
    )


class SqlWritebackConfig(WritebackConfig):
    """One entry of `writeback:` that changes rows of a table."""

    update: TableName | None = Field(default=None, description="changes rows that are there")
    upsert: TableName | None = Field(default=None, description="changes rows, and adds those that are missing")
    insert: TableName | None = Field(default=None, description="adds rows; one that is there already is a refusal")
    version: VersionRule | None = None
    reference: Reference | None = Field(default=None, description="(insert) a column that takes the write's id")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = [name for name in ("update", "upsert", "insert") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of update, upsert, insert is needed; given: {', '.join(given) or 'none'}")
        twice = set(self.set) & set(self.match)
        if twice:
            raise ValueError(f"set: {min(twice)!r} is also in `match:`; a row's key is not written")
        if self.insert and self.undo:
            raise ValueError("undo: an added row replaces nothing; remove it")
        if self.insert and self.version is not None:
            raise ValueError("insert: a new row has no version to compare; remove `version:`")
        self._has_its_class()
        if self.version is not None and self.version.column in self.set:
            raise ValueError(f"set: {self.version.column!r} is the version; the rule sets it where it is to be set")
        return self

    def _has_its_class(self) -> None:
        """The idempotency classes of each verb: what does not hold is refused before anything is written."""
        valid = "ledger, readback, none" if self.insert else "ledger, natural"
        if self.idempotency.value not in valid.split(", "):
            why = ": a repeated one is refused" if self.insert and self.idempotency is Idempotency.NATURAL else ""
            verb = "insert" if self.insert else "update and upsert"
            raise ValueError(f"idempotency: {self.idempotency} is not for {verb}{why}; valid here: {valid}")
        if self.idempotency is Idempotency.NATURAL and self.version is None:
            raise ValueError("idempotency: natural needs `version:`, so that the row tells what it holds; else ledger")
        if self.idempotency is Idempotency.READBACK and self.reference is None:
            raise ValueError("idempotency: readback needs `reference:`, the column that takes the write's id")
        if self.reference is not None and not self.insert:
            raise ValueError("reference: is for insert; a row that is changed is found by its key")
        if self.reference is not None and self.reference.field in {*self.match, *self.set}:
            raise ValueError(f"reference: {self.reference.field!r} is also in `match:` or `set:`")

    @property
    def table(self) -> str:
        return self.update or self.upsert or self.insert or ""

    @property
    def object(self) -> str:
        return self.table

    @property
    def guards_version(self) -> bool:
        return self.version is not None

    @property
    def replaces(self) -> bool:
        return self.insert is None

    @property
    def expected_path(self) -> str | None:
        if self.version is None:
            return None
        return self.version.column if self.version.rule == "equals" and not self.version.value else self.version.value


class LedgerConfig(Block):
    """The table `crossdock_applied`, where write-backs of the class ledger keep the ids of their writes."""

    keep: Duration = Field(
        default=timedelta(days=30), description="older ids are removed; more than 7d, as events come again that long"
    )

    @field_validator("keep")
    @classmethod
    def _outlives_the_events(cls, value: timedelta) -> timedelta:
        if value <= LONGEST_REDELIVERY:
            raise ValueError(f"more than {LONGEST_REDELIVERY.days}d: an event that comes again would be applied again")
        return value


class SqlSystemConfig(SystemConfig):
    """A file of `config/systems/` with `type: sql`."""

    source_class: ClassVar[type[SourceConfig]] = SqlSourceConfig
    writeback_class: ClassVar[type[WritebackConfig]] = SqlWritebackConfig

    type: Literal["sql"]
    url: str = Field(description="postgresql://user@host:5432/database or sqlite:////path/to/file; no password in it")
    password: Secret | None = None
    ledger: LedgerConfig = LedgerConfig()
    lock_timeout: Duration = Field(
        default=timedelta(milliseconds=500),
        description="a row that is locked longer: try again. Below PostgreSQL's deadlock_timeout (1 s), so that in a "
        "deadlock the hub gives way and not the people who work there",
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(value)
        except ArgumentError as error:
            raise ValueError("an address has the form postgresql://user@host:5432/database") from error
        if url.password is not None:
            raise ValueError("no password in an address; write `password: ${env:NAME}` or `${file:/path}`")
        if url.get_backend_name() not in DIALECTS:
            raise ValueError(f"no support for {url.get_backend_name()}; valid: {', '.join(DIALECTS)}")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError) as error:
                raise ValueError(f"{value!r} is no IANA zone; write for example Europe/Berlin or UTC") from error
        return value

    def build(self, clock: Clock) -> System:
        from connectors.sql.system import SqlSystem

        return SqlSystem(self, clock)
