"""What stands in the files: one frozen pydantic class for each kind of block, and each builds its own component.

A connector brings three classes: its `SystemConfig` (with `build()`), its `SourceConfig` and its `WritebackConfig`.
The system's class names the other two, so that `type: sql` in one file decides how the others are read.
"""

import re
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from connectors.clock import Clock
from connectors.contract import Idempotency, System
from connectors.reference import Form

NAME = r"^[a-z][a-z0-9-]{0,48}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Path = Annotated[str, StringConstraints(min_length=1)]
"""JMESPath. A bare name is a field of `after`; reserved: key, before, after, answer, model, the lookups' names."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _duration(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a duration needs a number and a unit: 500ms, 10s, 5m, 2h, 7d")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


_AS_DURATION = WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$", "examples": ["10s", "5m"]})
Duration = Annotated[timedelta, BeforeValidator(_duration), _AS_DURATION]


def _rate(value: Any) -> Any:
    if value is None or isinstance(value, float):
        return value
    found = re.fullmatch(r"(\d+)/(s|m|h)", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a rate needs a number and a unit: 200/s, 60/m, 1000/h")
    return float(found[1]) / _UNITS[found[2]]


_AS_RATE = WithJsonSchema({"type": "string", "pattern": r"^\d+/(s|m|h)$", "examples": ["200/s"]})
Rate = Annotated[float, BeforeValidator(_rate), _AS_RATE]
"""Calls per second; written as 200/s, 60/m or 1000/h."""


class Block(BaseModel):
    """Any block of a file: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Timeouts(Block):
    """All three always hold: to connect, between two reads, and in total."""

    connect: Duration = timedelta(seconds=5)
    read: Duration = timedelta(seconds=15)
    total: Duration = timedelta(seconds=20)


class Courtesy(Block):
    """How much of a system the hub may use: reading and writing together, over all workers."""

    concurrency: int = Field(default=4, ge=1, le=64)
    rate: Rate | None = None
    statement_timeout: Duration = timedelta(seconds=15)


class SystemConfig(Block):
    """One legacy installation: a file of `config/systems/`. Its file name without suffix is its name."""

    source_class: ClassVar[type["SourceConfig"]]
    writeback_class: ClassVar[type["WritebackConfig"]]

    name: Name
    timezone: str | None = Field(
        default=None, description="IANA zone of times without a zone; without it they are refused"
    )
    timeouts: Timeouts = Timeouts()
    courtesy: Courtesy = Courtesy()

    def build(self, clock: Clock) -> System:  # noqa: ARG002 - the contract of the connectors' own classes
        """The component. Opens nothing: the first use connects."""
        raise TypeError(f"{type(self).__name__} builds no system")


class SourceConfig(Block):
    """The `source:` block of a pipeline. Connectors add what their systems need."""

    system: Name
    every: Duration = Field(default=timedelta(seconds=5), description="pause between two looks when nothing was new")
    batch: int = Field(default=1000, ge=1, le=10_000, description="changes per Kafka transaction at most")

    @property
    def object(self) -> str:
        """What is read: a table, an operation, a resource. Part of the origin `<system>/<object>`."""
        raise TypeError(f"{type(self).__name__} names no object")


class Reference(Block):
    """The field of the target that carries a write's id, so that the write can be found."""

    field: str = Field(min_length=1, description="the target's own name for it")
    form: Form = Field(default="text", description="text: at most 255 characters; uuid: 36")


IfChanged = Literal["newer_comes", "reread", "dead", "overwrite"]


class WritebackConfig(Block):
    """One entry of `writeback:`. Connectors add the operation (`update:`, `call:`, `patch:`) and what it needs."""

    system: Name
    name: Name | None = Field(default=None, description="default: the system's name")
    match: dict[str, Path] = Field(description="the target's key: its field -> our path", min_length=1)
    set: dict[str, Path] = Field(description="what is written: the target's field -> our path", min_length=1)
    idempotency: Idempotency = Field(description="what the target promises about a repeated write")
    if_changed: IfChanged = "newer_comes"
    undo: bool = Field(default=False, description="receipts keep the replaced values, so that a run can be taken back")
    mode: Literal["write"] = "write"
    batch: int = Field(default=500, ge=1, le=1000, description="writes per call at most")
    coalesce: Duration | None = Field(
        default=None, description="how long an event waits for newer ones of its record, which then replace it"
    )

    max_writes_per_record: int | None = Field(
        default=None,
        ge=1,
        description="changes of one record within an hour; more wait, the newest in the place of the others. "
        "Default: 60 where the hub also reads that system, as two that answer each other never end; else no limit",
    )

    @property
    def guards_version(self) -> bool:
        """Whether the target is told the version, so that an older write never replaces a newer one."""
        return False

    @property
    def object(self) -> str:
        """What is written: a table, an operation, a resource."""
        raise TypeError(f"{type(self).__name__} names no object")

    @property
    def replaces(self) -> bool:
        """Whether a newer version of a key makes an older write superfluous; false where each write adds something."""
        return True

    @property
    def expected_path(self) -> str | None:
        """Our path of the target's own version as it was read (`updated_at`, `etag`); None = it is not asked for."""
        return None
