"""Dead letters: an event that was refused for good, with its original bytes and the reason."""

import hashlib
import re
from typing import Any

import msgspec

_VOLATILE = re.compile(r"0x[0-9a-fA-F]+|'[^']*'|\"[^\"]*\"|\d+")


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a record of `<p>.dead`. Bytes are base64 in JSON."""

    cd_schema: int = 1
    event_id: str | None
    pipeline: str
    writeback: str | None = None
    stage: str
    """Where it was refused: translate, decode, lookup, guard-in, model, guard-out, put (as Kafka Connect's `Stage`)."""
    code: str
    reason: str
    fingerprint: str
    attempts: int = 1
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = []
    config: str = ""
    model: str | None = None
    answer: dict[str, Any] | None = None
    first_seen: str
    last_seen: str


def fingerprint(stage: str, code: str, reason: str) -> str:
    """Eight hex digits, equal for letters with one cause: numbers and quoted values of the reason do not count."""
    return hashlib.blake2b(f"{stage}|{code}|{_VOLATILE.sub('?', reason)}".encode(), digest_size=4).hexdigest()
