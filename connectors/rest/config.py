"""What an integration engineer writes for a REST system: the system's file, `source:` and `writeback:` blocks."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from connectors.auth import AuthConfig, NoAuth
from connectors.clock import Clock
from connectors.config import Block, Duration, Path, Reference, SourceConfig, SystemConfig, WritebackConfig
from connectors.contract import Idempotency, System

_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB)")
_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_TOKEN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"  # noqa: S105
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})


def _size(value: Any) -> Any:
    if isinstance(value, int):
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a size needs a number and a unit: 512KiB, 32MiB, 1GiB")
    return int(found[1]) * _UNITS[found[2]]


def _jmespath(path: str) -> str:
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        jmespath.compile(path)
    except JMESPathError as error:
        raise ValueError(f"not a JMESPath: {path!r} ({str(error).splitlines()[0]})") from error
    return path


_AS_SIZE = WithJsonSchema({"type": "string", "pattern": f"^{_SIZE.pattern}$", "examples": ["32MiB"]})
Size = Annotated[int, BeforeValidator(_size), Field(ge=1024), _AS_SIZE]
"""Bytes; written as 512KiB, 32MiB or 1GiB."""
Selector = Annotated[Path, AfterValidator(_jmespath)]
"""JMESPath over the answer's body or over one of its records."""
HeaderName = Annotated[str, Field(pattern=_TOKEN)]
UrlPath = Annotated[str, Field(pattern=r"^/[^?#\s]*$", description="below base_url, begins with /")]


class Tls(Block):
    """`ca` is a file of authorities to trust instead of the well-known ones."""

    verify: bool = True
    ca: str | None = None


class Response(Block):
    """How one kind of answer is to be taken, where the default table is wrong. The first that matches wins."""

    status: tuple[int, ...] = ()
    when: Selector | None = Field(default=None, description="JMESPath over the body that must hold")
    action: Literal["success", "unchanged", "retry", "rate_limited", "auth", "fault", "rejected", "conflict", "end"]

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.status and self.when is None:
            raise ValueError("a response rule needs `status:`, `when:` or both")
        return self


class NoPaging(Block):
    """One answer holds everything."""

    type: Literal["none"] = "none"


class NextUrl(Block):
    """The body holds the address of the next page, whole or relative; null or absent at the end."""

    type: Literal["next_url"]
    path: Selector


class LinkHeader(Block):
    """The header `Link: <...>; rel="next"`, RFC 8288."""

    type: Literal["link_header"]


class CursorToken(Block):
    """The body holds a token (`out`) that the next request sends as a parameter (`in`)."""

    type: Literal["cursor"]
    out: Selector
    into: str = Field(alias="in")


class PageNumber(Block):
    """Pages are counted from `start`; ends with an empty page or a 404."""

    type: Literal["page"]
    param: str = "page"
    start: int = 1


class RecordOffset(Block):
    """Records are counted from 0; ends with an empty page or a 404."""

    type: Literal["offset"]
    param: str = "offset"


Paging = Annotated[
    NoPaging | NextUrl | LinkHeader | CursorToken | PageNumber | RecordOffset, Field(discriminator="type")
]


class Cursor(Block):
    """The field by which the source says what is newer: the server's own time or number, never the client's."""

    path: Selector
    type: Literal["datetime", "number", "text"] = "datetime"
    start: str | int | None = Field(default=None, description="where to begin when there is no offset")
    overlap: Duration = Field(
        default=timedelta(seconds=2), description="(datetime) read again at each look, for what came late"
    )

    @model_validator(mode="after")
    def _starts_somewhere(self) -> Self:
        match self.type, self.start:
            case _, None:
                pass
            case "datetime", str() as text:
                if datetime.fromisoformat(text).tzinfo is None:
                    raise ValueError("start: a time needs a zone: 1970-01-01T00:00:00Z")
            case "number", int():
                pass
            case "text", str():
                pass
            case kind, value:
                raise ValueError(f"start: {value!r} is not a {kind}")
        return self


class RestSourceConfig(SourceConfig):
    """`source:` of a pipeline that reads a REST listing."""

    path: UrlPath
    method: Literal["GET", "POST"] = Field(default="GET", description="POST sends `params` as a JSON object")
    params: dict[str, str | int] = Field(
        default={}, description="{cursor} and {page} are replaced by the cursor and by the size of a page"
    )
    records: Selector = Field(default="@", description="where the list of records is in the body")
    key: tuple[str, ...] = Field(min_length=1)
    paging: Paging = NoPaging()
    cursor: Cursor | None = Field(default=None, description="without one, everything is read at each look")
    sorted: bool = Field(
        default=True,
        description="the listing ascends by the cursor, so the offset may move at each page; "
        "false: it moves when the listing is complete",
    )
    deleted: Selector | None = Field(default=None, description="true for a record that says that it was deleted")
    ignore: tuple[str, ...] = Field(
        default=("etag", "_etag", "@odata.etag"),
        description="fields that stay in the record but are no content: they change with every write, also with ours",
    )
    responses: tuple[Response, ...] = ()
    page: int = Field(default=200, ge=1, le=10_000)
    max_pages: int = Field(default=100_000, ge=1)

    @field_validator("params")
    @classmethod
    def _known_placeholders(cls, params: dict[str, str | int]) -> dict[str, str | int]:
        for name, value in params.items():
            for placeholder in _PLACEHOLDER.findall(str(value)):
                if placeholder not in {"cursor", "page"}:
                    raise ValueError(f"{name}: unknown placeholder {{{placeholder}}}; known: {{cursor}}, {{page}}")
        return params

    @model_validator(mode="after")
    def _cursor_is_there(self) -> Self:
        asked = any("{cursor}" in str(value) for value in self.params.values())
        if asked and (self.cursor is None or self.cursor.start is None):
            raise ValueError("params asks for {cursor}: say `cursor:` with a `start:`")
        return self

    @property
    def object(self) -> str:
        return self.path.strip("/").replace("/", ".")


class Lookback(Block):
    """How a write is found again: by the reference that it carried."""

    get: UrlPath = Field(description="path with {reference}, {placeholders} of `match:`, or neither")
    params: dict[str, str] = Field(default={}, description="of the query, with the same placeholders")
    records: Selector = Field(default="@", description="where the record or the list of them is; empty = not there")
    shows: Selector | None = Field(
        default=None, description="where a record shows its reference; default: the field of `reference:`"
    )
    settle: Duration = Field(
        default=timedelta(seconds=5), description="a write whose answer was lost can be found after this time"
    )

    def placeholders(self) -> set[str]:
        return set(_PLACEHOLDER.findall(self.get)).union(*(_PLACEHOLDER.findall(text) for text in self.params.values()))


class RestWritebackConfig(WritebackConfig):
    """One entry of `writeback:` that changes records of a REST system, one request for each."""

    patch: UrlPath | None = Field(default=None, description="path with {placeholders} of `match:`; sends `set`")
    put: UrlPath | None = Field(default=None, description="the same with PUT: `set` must be the whole record")
    post: UrlPath | None = Field(default=None, description="sends `match` and `set` as a new record")
    content_type: str = Field(default="application/json", pattern=r"^[\x21-\x7e]+$")
    if_match: Path | None = Field(default=None, description="our path of the ETag as it was read")
    idempotency_header: HeaderName = "Idempotency-Key"
    reference: Reference | None = Field(default=None, description="a field of the body that carries the write's id")
    readback: Lookback | None = None
    responses: tuple[Response, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = [name for name in ("patch", "put", "post") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of patch, put, post is needed; given: {', '.join(given) or 'none'}")
        unknown = set(_PLACEHOLDER.findall(self.path)) - set(self.match)
        if unknown:
            raise ValueError(f"{given[0]}: {{{min(unknown)}}} is not in `match:`; there: {', '.join(self.match)}")
        if not self.post and not _PLACEHOLDER.search(self.path):
            raise ValueError(f"{given[0]}: the path names no record; write for example {self.path}/{{id}}")
        if self.idempotency is Idempotency.LEDGER:
            raise ValueError("idempotency: ledger is for SQL; valid here: natural, key, readback, none")
        if self.idempotency is Idempotency.NATURAL and (self.post or not self.if_match):
            raise ValueError("idempotency: natural needs `patch:` or `put:` with `if_match:`; else readback or none")
        if self.post and self.undo:
            raise ValueError("undo: an added record replaces nothing; remove it")
        self._can_be_found()
        return self

    def _can_be_found(self) -> None:
        """Where a write is looked for: by its reference, or without one by comparing the record at its own address."""
        if self.reference is not None and self.reference.field in {*self.match, *self.set}:
            raise ValueError(f"reference: {self.reference.field!r} is also in `match:` or `set:`")
        if self.readback is None:
            if self.post and self.idempotency is Idempotency.READBACK:
                raise ValueError("idempotency: readback needs `reference:` and `readback:` where records are added")
            return
        if self.idempotency is not Idempotency.READBACK:
            raise ValueError(f"readback: is for idempotency: readback; this one is {self.idempotency}")
        if self.reference is None:
            raise ValueError("readback: looks for what `reference:` put into the record; say `reference:`")
        placeholders = self.readback.placeholders()
        unknown = placeholders - {"reference", *self.match}
        if unknown:
            raise ValueError(f"readback: {{{min(unknown)}}} is neither {{reference}} nor in `match:`")
        if "reference" not in placeholders:
            raise ValueError("readback: nothing in it asks for {reference}")

    @property
    def method(self) -> Literal["PATCH", "PUT", "POST"]:
        return "PATCH" if self.patch else "PUT" if self.put else "POST"

    @property
    def path(self) -> str:
        return self.patch or self.put or self.post or ""

    @property
    def object(self) -> str:
        return self.path.partition("{")[0].strip("/").replace("/", ".")

    @property
    def guards_version(self) -> bool:
        return self.if_match is not None

    @property
    def replaces(self) -> bool:
        return self.post is None

    @property
    def expected_path(self) -> str | None:
        return self.if_match


class RestSystemConfig(SystemConfig):
    """A file of `config/systems/` with `type: rest`."""

    source_class: ClassVar[type[SourceConfig]] = RestSourceConfig
    writeback_class: ClassVar[type[WritebackConfig]] = RestWritebackConfig

    type: Literal["rest"]
    base_url: str = Field(description="http(s)://host[:port]/path; every path of a pipeline stands below it")
    auth: AuthConfig = NoAuth()
    headers: dict[HeaderName, Annotated[str, Field(pattern=r"^[\x20-\x7e]*$")]] = Field(
        default={}, description="sent with every call; no secrets, those are `auth:`"
    )
    tls: Tls = Tls()
    max_response: Size = 64 * 1024**2

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("an address has the form http(s)://host[:port]/path, without query")
        if parts.username is not None or parts.password is not None:
            raise ValueError("no user or password in an address; write them under `auth:`")
        return value.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _no_secrets(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if name.lower() in _SECRET_HEADERS:
                raise ValueError(f"{name}: a secret; write it under `auth:` (basic, bearer or api_key)")
        return headers

    def build(self, clock: Clock) -> System:
        from connectors.rest.system import RestSystem

        return RestSystem(self, clock)
