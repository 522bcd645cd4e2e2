"""What stands in the files for a SOAP system: `type: soap`, its `source:` block and its `writeback:` entries.

Answers are addressed by element names, with a dot between levels (`result.records`): every element of that name is
meant, however often it occurs.
"""

import hashlib
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationInfo, model_validator

from connectors.auth import AuthConfig, NoAuth
from connectors.clock import Clock
from connectors.config import Block, Duration, Reference, SourceConfig, SystemConfig, WritebackConfig
from connectors.contract import Idempotency

if TYPE_CHECKING:
    from connectors.soap.system import SoapSystem

Elements = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*$")]
"""Element names from the outside in, with dots between: `aircraft`, `result.records`."""

Operation = Annotated[str, StringConstraints(min_length=1)]

MIB = 1024 * 1024
_SIZE = re.compile(r"(\d+)(KiB|MiB|GiB)")
_SIZES = {"KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def _size(value: Any) -> Any:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and found is None:
        raise ValueError("a size needs a number and a unit: 512KiB, 64MiB, 1GiB")
    return int(found[1]) * _SIZES[found[2]] if found else value


Size = Annotated[int, BeforeValidator(_size), Field(ge=1024, le=1024 * MIB)]
"""Bytes; written as 512KiB or 64MiB."""


def _file(value: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    path = value if folder is None else Path(folder) / value
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


class Wsdl(Block):
    """The pinned description of the service. Nothing else is ever opened but the files beside it that it imports."""

    file: Annotated[Path, AfterValidator(_file)] = Field(description="relative to the system's file")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="of the file's bytes")

    @model_validator(mode="after")
    def _is_the_pinned_one(self) -> "Wsdl":
        found = hashlib.sha256(self.file.read_bytes()).hexdigest() if self.sha256 else None
        if found != self.sha256:
            raise ValueError(f"{self.file} is not the pinned file: its sha256 is {found}")
        return self


class SoapSystemConfig(SystemConfig):
    """A SOAP service, 1.1 or 1.2, document/literal."""

    source_class: ClassVar[type[SourceConfig]]
    writeback_class: ClassVar[type[WritebackConfig]]

    type: Literal["soap"]
    wsdl: Wsdl
    address: str = Field(
        pattern=r"^https?://[^\s/@]+(/\S*)?$", description="always ours: the WSDL's own address is never asked"
    )
    auth: AuthConfig = NoAuth()
    service: str | None = Field(default=None, description="default: the WSDL's first service with a SOAP port")
    port: str | None = Field(default=None, description="default: the service's first SOAP port")
    verify: bool | str = Field(default=True, description="false, true, or the path of a CA file")
    max_response: Size = Field(default=64 * MIB, description="bytes of a decompressed answer at most")

    def build(self, clock: Clock) -> "SoapSystem":
        from connectors.soap.system import SoapSystem

        return SoapSystem(self, clock)


class Faults(Block):
    """Fault codes of this service, where its faults alone do not say what to do about them.

    A code is the fault code without prefix, a subcode, or the name of an element of the fault's detail. Client and
    Sender mean rejected, Server and Receiver mean retry, unless a code is listed here.
    """

    retry: frozenset[str] = frozenset()
    rejected: frozenset[str] = frozenset()
    auth: frozenset[str] = Field(default=frozenset(), description="the login is refused")


class More(Block):
    """How a listing goes on: an operation that takes the last answer's locator. A locator is never stored."""

    operation: Operation
    token_in: str = Field(description="the argument that takes the locator")
    token_out: Elements = Field(description="where an answer holds the next locator")
    done: Elements | None = Field(default=None, description="true in the last answer; default: it has no locator")


class Cursor(Block):
    """The field that orders a listing."""

    path: Elements = Field(description="inside a record")
    type: Literal["datetime", "integer"] = "datetime"
    start: str = Field(description="where the first listing begins")
    overlap: Duration = Field(default=timedelta(), description="read again each time, for late arrivals")

    @model_validator(mode="after")
    def _fits(self) -> "Cursor":
        if self.type == "integer":
            if self.overlap:
                raise ValueError("an integer cursor has no overlap in time")
            int(self.start)
        elif datetime.fromisoformat(self.start).tzinfo is None:
            raise ValueError("start needs a zone: 2020-01-01T00:00:00Z")
        return self


class SoapSourceConfig(SourceConfig):
    """`single`: one call answers everything. `locator`: a call, then more of it until it is done."""

    read: Literal["single", "locator"]
    operation: Operation
    params: dict[str, str] = Field(default={}, description="arguments; {cursor} and {page} are filled in")
    more: More | None = None
    records: Elements = Field(description="the elements that are records")
    key: list[str] = Field(min_length=1, description="fields of a record that identify it")
    cursor: Cursor | None = Field(default=None, description="without one (single only) everything is read each time")
    ordered: bool = Field(
        default=True, description="the listing is sorted by the cursor; false: its end alone is a safe place"
    )
    page: int = Field(default=500, ge=1, le=10_000)
    faults: Faults = Faults()

    @property
    def object(self) -> str:
        return self.operation

    @model_validator(mode="after")
    def _is_whole(self) -> "SoapSourceConfig":
        if self.read == "locator" and (self.more is None or self.cursor is None):
            raise ValueError("read: locator needs `more` and `cursor`")
        if self.read == "single" and self.more is not None:
            raise ValueError("`more` belongs to read: locator")
        known = {"page"} if self.cursor is None else {"page", "cursor"}
        for name, text in self.params.items():
            for placeholder in _PLACEHOLDER.findall(text):
                if placeholder not in known:
                    allowed = ", ".join(f"{{{one}}}" for one in sorted(known))
                    raise ValueError(
                        f"params.{name}: {{{placeholder}}} is nothing that is filled in; there is {allowed}"
                    )
        if self.cursor is not None and not any("{cursor}" in text for text in self.params.values()):
            raise ValueError("no parameter takes {cursor}: every look would read everything")
        return self


class SoapVersion(Block):
    """The version that the target compares before it writes."""

    param: str = Field(description="the field of a record that takes it")
    rule: Literal["newer"] = Field(description="the target writes only what is newer than what it holds")


class Results(Block):
    """One result for each record, in the request's order; a call for one record may have one without a list."""

    path: Elements | None = Field(default=None, description="default: the answer itself is the one result")
    status: str | None = Field(
        default=None, description="the field that tells the outcome; default: an answer without a fault is a success"
    )
    message: str | None = None
    key: str | None = Field(default=None, description="the field that repeats the record's key, then compared")
    applied: frozenset[str] = frozenset()
    unchanged: frozenset[str] = frozenset()
    stale: frozenset[str] = frozenset()
    conflict: frozenset[str] = frozenset()
    rejected: frozenset[str] = frozenset()
    retry: frozenset[str] = frozenset()

    @model_validator(mode="after")
    def _lists_each_once(self) -> "Results":
        lists = (self.applied, self.unchanged, self.stale, self.conflict, self.rejected, self.retry)
        listed = frozenset().union(*lists)
        twice = {status for status in listed if sum(status in one for one in lists) > 1}
        if twice:
            raise ValueError(f"one status means one outcome: {', '.join(sorted(twice))} is listed twice")
        if self.status is None and listed:
            raise ValueError(f"{min(listed)!r} is listed, and no `status:` says in which field it would stand")
        if self.status is not None and not self.applied:
            raise ValueError("applied: the status of a success is needed")
        return self


class Look(Block):
    """An operation that reads one record."""

    operation: Operation
    params: dict[str, str] = Field(description="arguments; {names} of `match:` are filled in")
    record: Elements = Field(description="the element that is the record")
    absent: frozenset[str] = Field(default=frozenset(), description="fault codes that mean: there is none")

    def placeholders(self) -> set[str]:
        return set().union(*(_PLACEHOLDER.findall(text) for text in self.params.values()))


class Lookback(Look):
    """An operation that finds a write by the reference that it carried: {reference} among its arguments."""

    shows: str | None = Field(
        default=None, description="the field that shows the reference; default: the field of `reference:`"
    )
    settle: Duration = Field(
        default=timedelta(seconds=5), description="a write whose answer was lost can be found after this time"
    )


class SoapWritebackConfig(WritebackConfig):
    """One call with a list of records and a result for each of them, or one call for each record."""

    call: Operation
    params: dict[str, str] = Field(default={}, description="fixed arguments beside the records")
    records: Elements | None = Field(
        default=None,
        description="the argument that is the record, or repeats for each write; default: the arguments are the record",
    )
    version: SoapVersion | None = None
    reference: Reference | None = Field(default=None, description="a field of the record that carries the write's id")
    read: Look | None = Field(default=None, description="how a record is read: to compare it, and to undo")
    readback: Lookback | None = None
    results: Results
    nulls: Literal["omit", "nil"] = Field(
        default="omit", description="omit: the target keeps what it has; nil: xsi:nil is sent"
    )
    faults: Faults = Faults()

    @model_validator(mode="after")
    def _fits_together(self) -> "SoapWritebackConfig":
        if "batch" in self.model_fields_set and self.batch > 1 and None in (self.records, self.results.path):
            raise ValueError(
                "batch: without `records:` and `results.path:` each call is one record; say 1 or leave it out"
            )
        match self.idempotency:
            case Idempotency.LEDGER:
                raise ValueError("idempotency: ledger is for SQL; valid here: natural, key, readback, none")
            case Idempotency.NATURAL if self.version is None and not self.results.unchanged:
                raise ValueError("idempotency: natural needs `version:` or `results.unchanged`; else readback or none")
            case Idempotency.KEY if self.reference is None:
                raise ValueError("idempotency: key needs `reference:`, the field that takes the write's id")
            case Idempotency.READBACK if self.readback is None and self.read is None:
                raise ValueError("idempotency: readback needs `reference:` and `readback:`, or `read:` to compare")
        if self.reference is not None and self.reference.field in {*self.match, *self.set}:
            raise ValueError(f"reference: {self.reference.field!r} is also in `match:` or `set:`")
        if self.undo and self.read is None:
            raise ValueError("undo: needs `read:`, to see what a write replaces")
        for name, look, known in (("read", self.read, set()), ("readback", self.readback, {"reference"})):
            unknown = set() if look is None else look.placeholders() - {*known, *self.match}
            if unknown:
                raise ValueError(f"{name}: {{{min(unknown)}}} is not in `match:`; there: {', '.join(self.match)}")
        self._asks_for_the_reference()
        return self

    def _asks_for_the_reference(self) -> None:
        if self.readback is None:
            return
        if self.idempotency is not Idempotency.READBACK:
            raise ValueError(f"readback: is for idempotency: readback; this one is {self.idempotency}")
        if self.reference is None:
            raise ValueError("readback: looks for what `reference:` put into the record; say `reference:`")
        if "reference" not in self.readback.placeholders():
            raise ValueError("readback: nothing in its params asks for {reference}")

    @property
    def guards_version(self) -> bool:
        return self.version is not None

    @property
    def object(self) -> str:
        return self.call

    @property
    def replaces(self) -> bool:
        return self.reference is None and self.idempotency is not Idempotency.NONE


SoapSystemConfig.source_class = SoapSourceConfig
SoapSystemConfig.writeback_class = SoapWritebackConfig
