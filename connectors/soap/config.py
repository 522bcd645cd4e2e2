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
from connectors.config import Block, Duration, SourceConfig, SystemConfig, WritebackConfig

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
    """One result for each record, in the request's order."""

    path: Elements
    status: str = Field(description="the field that tells the outcome")
    message: str | None = None
    key: str | None = Field(default=None, description="the field that repeats the record's key, then compared")
    applied: frozenset[str] = Field(min_length=1)
    unchanged: frozenset[str] = frozenset()
    stale: frozenset[str] = frozenset()
    conflict: frozenset[str] = frozenset()
    rejected: frozenset[str] = frozenset()
    retry: frozenset[str] = frozenset()

    @model_validator(mode="after")
    def _lists_each_once(self) -> "Results":
        lists = (self.applied, self.unchanged, self.stale, self.conflict, self.rejected, self.retry)
        twice = {status for status in frozenset().union(*lists) if sum(status in one for one in lists) > 1}
        if twice:
            raise ValueError(f"one status means one outcome: {', '.join(sorted(twice))} is listed twice")
        return self


class SoapWritebackConfig(WritebackConfig):
    """One call with a list of records, and one result for each of them."""

    call: Operation
    params: dict[str, str] = Field(default={}, description="fixed arguments beside the records")
    records: Elements = Field(description="the argument that repeats, one element for each write")
    version: SoapVersion | None = None
    results: Results
    nulls: Literal["omit", "nil"] = Field(
        default="omit", description="omit: the target keeps what it has; nil: xsi:nil is sent"
    )
    faults: Faults = Faults()

    @property
    def guards_version(self) -> bool:
        return self.version is not None

    @property
    def object(self) -> str:
        return self.call


SoapSystemConfig.source_class = SoapSourceConfig
SoapSystemConfig.writeback_class = SoapWritebackConfig
