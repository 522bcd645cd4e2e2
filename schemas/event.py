"""An event: a change on Kafka, its CloudEvents 1.0 attributes in the headers (Kafka binding, binary mode)."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from schemas.change import Change, Op
from schemas.values import Key, Record
from schemas.write import LIVE

Headers: TypeAlias = list[tuple[str, bytes]]

CAUSE = "cd_cause"
"""Why an event is written again: `replay:<n>` and the like; absent = live."""
WRITEBACK = "cd_writeback"
"""The one write-back that an event is for; absent = all of its pipeline."""
VERSION = "cd_version"
CONFIG = "cd_config"

_FIXED: Headers = [
    ("ce_specversion", b"1.0"),
    ("content-type", b"application/json"),
]


class EventValue(msgspec.Struct, frozen=True):
    """The typed view of an event's value. What we do not know stays in the bytes, which are passed on as they are."""

    op: Op
    key: Key
    version: str
    cd_schema: int = 1
    before: Record | None = None
    after: Record | None = None
    lookups: dict[str, Record | None] = {}
    derived: Record = {}
    ai: dict[str, Any] | None = None


class ChangeValue(msgspec.Struct, frozen=True):
    """What ingest writes."""

    cd_schema: int
    op: Op
    key: Key
    before: Record | None
    after: Record | None
    version: str


def headers_of(change: Change, config: bytes) -> Headers:
    """CloudEvents attributes of a change, with our own `cd_version` and `cd_config`."""
    event_id = change.event_id
    return [
        *_FIXED,
        ("ce_id", event_id.encode()),
        ("ce_source", f"/{change.origin}".encode()),
        ("ce_type", b"crossdock.change." + change.op.value.encode()),
        ("ce_time", change.time.encode()),
        ("ce_subject", event_id[len(change.origin) + 1 :].partition("@")[0].encode()),
        (VERSION, change.version.encode()),
        (CONFIG, config),
    ]


def cause_of(headers: Sequence[tuple[str, bytes]]) -> tuple[str, str | None]:
    """Cause of the writes that an event means, and the one write-back that it is for (None = all)."""
    if not headers or headers[-1][0] == CONFIG:  # as ingest writes it: nothing was added
        return LIVE, None
    return header(headers, CAUSE) or LIVE, header(headers, WRITEBACK)


def header(headers: Sequence[tuple[str, bytes]], name: str) -> str | None:
    """The first header of that name, as text."""
    for key, value in headers:
        if key == name:
            return value.decode("utf-8", "replace")
    return None
