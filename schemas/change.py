"""A change: what happened to one record of a source."""

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from schemas.values import JsonScalar, Key, Offset, Record

_ENCODER = msgspec.json.Encoder(order="sorted")


class Op(StrEnum):
    """What happened. A poller cannot tell an insert from an update, so there is one word for both."""

    UPSERT = "upsert"
    DELETE = "delete"


class Change(msgspec.Struct, frozen=True, gc=False):
    """One version of one record, as a source task read it."""

    op: Op
    key: Key
    before: Record | None
    after: Record | None
    version: str
    origin: str
    """`<system>/<object>`"""
    event_id: str
    time: str
    """When the source changed it, RFC 3339; the time of reading where the source does not say."""


class Batch(NamedTuple):
    """Changes, and the offset that is safe once all of them are acknowledged."""

    changes: list[Change]
    offset: Offset


def canonical_key(key: Key) -> bytes:
    """Key of the Kafka record: JSON with sorted names, so that one record always lands in one partition."""
    return _ENCODER.encode(key)


def key_text(values: Iterable[JsonScalar]) -> str:
    """Readable part of an event id: the key's values, comma between them; `/ @ ~ , %` inside are percent-encoded."""
    return ",".join(quote(_text(value), safe=":+ ") for value in values)


def _text(value: JsonScalar) -> str:
    return "null" if value is None else str(value)


def content_digest(after: Record | None, ignored: frozenset[str]) -> str:
    """Eight hex digits of the record's content, without the `ignored` fields (those that the hub itself writes)."""
    kept = after if after is None or not ignored else {k: v for k, v in after.items() if k not in ignored}
    return hashlib.blake2b(_ENCODER.encode(kept), digest_size=4).hexdigest()


def event_id(origin: str, key: Key, version: str, digest: str) -> str:
    """Deterministic and readable: `<system>/<object>/<key>@<version>~<8 hex of content>`."""
    return f"{origin}/{key_text(key.values())}@{version}~{digest}"
