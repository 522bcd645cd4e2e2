"""Dead letters: an event that was refused for good, with its original bytes and the reason."""

import hashlib
import re
from typing import Any

import msgspec

from schemas.event import Headers, cause_of

_VOLATILE = re.compile(r"0x[0-9a-fA-F]+|'[^']*'|\"[^\"]*\"|\d+")


class LetterHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a dead letter is about, without what was in it: lists and groups read no more than this."""

    cd_schema: int = 1
    event_id: str | None
    pipeline: str
    writeback: str | None = None
    stage: str
    """Where it was refused: produce, decode, only, derive, guard-in, model, guard-out, put."""
    error: str = ""
    """The class of the error, by its name in the tree of `connectors.errors`; a row's own is `RowError`."""
    code: str
    reason: str
    fingerprint: str
    attempts: int = 1
    topic: str
    partition: int
    offset: int
    headers: list[tuple[str, bytes]] = []
    first_seen: str
    last_seen: str

    @property
    def cause(self) -> str:
        """Of the writes that its event meant."""
        return cause_of(self.headers)[0]

    @property
    def identity(self) -> str:
        """Equal for letters of one event, stage, write-back and cause: what came again after a crash dies again.

        Bytes that are no event are told apart by their place, as whatever names them may be as wrong as they are.
        """
        place = f"{self.topic}/{self.partition}/{self.offset}"
        about = place if self.event_id is None or self.stage == "decode" else self.event_id
        return "|".join((self.pipeline, self.stage, self.writeback or "", self.cause, about))


class DeadLetter(LetterHead, frozen=True, kw_only=True):
    """The value of a record of `<p>.dead`. Bytes are base64 in JSON."""

    key: bytes | None
    value: bytes | None
    config: str = ""
    model: str | None = None
    answer: dict[str, Any] | None = None


def fingerprint(stage: str, code: str, reason: str) -> str:
    """Eight hex digits, equal for letters with one cause: numbers and quoted values of the reason do not count."""
    return hashlib.blake2b(f"{stage}|{code}|{_VOLATILE.sub('?', reason)}".encode(), digest_size=4).hexdigest()


_CONNECT_STAGES = {"produce": "KAFKA_PRODUCE", "decode": "VALUE_CONVERTER", "put": "TASK_PUT"}


def connect_headers(letter: DeadLetter) -> Headers:
    """Kafka Connect's names and stages, so that tools made for its dead letters read ours.

    A lane is what a task is there: its number is the partition. There is no stack trace: a refusal is a value of ours
    and not an exception, and a trace could show what a record held.
    """
    told = {
        "topic": letter.topic,
        "connector.name": letter.pipeline,
        "stage": _CONNECT_STAGES.get(letter.stage, "TRANSFORMATION"),
        "class.name": _refused_by(letter),
        "exception.class.name": letter.error,
        "exception.message": letter.reason,
    }
    if letter.offset >= 0:  # a row that is too large never came to a place of its own
        told |= {"partition": str(letter.partition), "offset": str(letter.offset), "task.id": str(letter.partition)}
    return [(f"__connect.errors.{name}", value.encode()) for name, value in told.items()]


def _refused_by(letter: DeadLetter) -> str:
    """Our module that executed the stage."""
    if letter.stage == "produce":
        return "streams.ingest"
    return "streams.writeback" if letter.stage == "put" or letter.topic.endswith("enriched") else "streams.enrich"
