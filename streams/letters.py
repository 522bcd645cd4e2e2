"""A dead letter as an event again, or as discarded. Nothing here decides whether that may be done: see `replay.py`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from schemas.change import Op
from schemas.codec import Undecodable, decode, decode_event, encode
from schemas.dead_letter import DeadLetter, LetterHead
from schemas.event import CAUSE, CONFIG, VERSION, WRITEBACK, EventValue, Headers, header
from schemas.outcome import Fate
from schemas.receipt import ReceiptRecord
from schemas.version import Version
from schemas.write import write_id
from streams.runtime.publisher import Outgoing
from streams.topics import PipelineTopics, Topic
from streams.words import did_you_mean

HIGHEST_CAUSE = 9999
"""Four digits of a version."""


class NotSendable(ValueError):
    """This letter cannot be sent again; `str()` says why, and what to do."""


class Again(NamedTuple):
    """An event on its way once more."""

    topic: Topic
    outgoing: Outgoing
    cause: str


def refusal(letter: LetterHead, verb: str) -> str | None:
    """Why a letter can never be sent again, as far as its head tells; None = it may be."""
    if letter.stage == "produce":
        return "its row was too large for Kafka, so its bytes are at the source only: make it smaller there, or discard"
    if verb == "edit" and letter.stage == "decode":
        return "its bytes are no event, so it has no `after`: correct who wrote them, then replay or discard"
    return None


def again(letter: DeadLetter, verb: str, topics: PipelineTopics, last: int, after: msgspec.Raw | None = None) -> Again:
    """The letter's event with a cause of its own and a version above all that it had.

    Args:
        letter: of this pipeline.
        verb: replay or edit.
        topics: of its pipeline.
        last: the highest number that a cause of this event has.
        after: the record as it should be; None = as it is.

    Raises:
        NotSendable: there are no bytes, they are no event, or no version is free.
    """
    why = refusal(letter, verb)
    if why is not None:
        raise NotSendable(why)
    if letter.value is None:
        raise NotSendable("it holds no bytes: discard it")
    topic = (
        topics.enriched
        if letter.stage == "put" or letter.topic in {each.name for each in topics.to_write}
        else topics.changes
    )
    if letter.stage == "decode":
        number, value, version = last + 1, letter.value, None
    else:
        number, value, version = _above(letter, last, after)
    if number > HIGHEST_CAUSE:
        raise NotSendable(f"it was sent again {HIGHEST_CAUSE:,} times: discard it")
    if len(value) > topic.max_message:
        raise NotSendable(f"{len(value):,} bytes are more than {topic.name} takes ({topic.max_message:,})")
    cause = f"{verb}:{number}"
    partition = letter.partition if letter.key is None else None
    return Again(topic, Outgoing(letter.key, value, _headers(letter, cause, version), partition), cause)


def _above(letter: DeadLetter, last: int, after: msgspec.Raw | None) -> tuple[int, bytes, str]:
    assert letter.value is not None
    event = event_of(letter)
    if after is not None and event.op is Op.DELETE:
        raise NotSendable("it is about a deleted record, which has no `after`: replay or discard")
    try:
        version = Version.parse(event.version)
    except ValueError as error:
        raise NotSendable(
            f"its version {event.version!r} is none of ours, so it cannot be raised: discard it"
        ) from error
    raised = version._replace(cause=max(last, version.cause) + 1)
    return raised.cause, with_fields(letter.value, str(raised), after), str(raised)


def with_fields(value: bytes, version: str, after: msgspec.Raw | None = None) -> bytes:
    """An event's value with another version, and `after` where one is given; all other fields keep their bytes."""
    fields = decode(value, dict[str, msgspec.Raw])
    fields["version"] = msgspec.Raw(encode(version))
    if after is not None:
        fields["after"] = after
    return encode(fields)


def event_of(letter: DeadLetter) -> EventValue:
    """Raises NotSendable."""
    try:
        return decode_event(letter.value)
    except Undecodable as error:
        raise NotSendable(f"its bytes are no event ({error}): discard it") from error


def edited(letter: DeadLetter, values: Mapping[str, msgspec.Raw]) -> msgspec.Raw:
    """The letter's `after` with other values for some of its fields; the others keep their bytes.

    Raises:
        NotSendable: it has no `after`, or not these fields.
    """
    if event_of(letter).after is None:
        raise NotSendable("it is about a deleted record, which has no `after`: replay or discard")
    assert letter.value is not None
    after = decode(decode(letter.value, dict[str, msgspec.Raw])["after"], dict[str, msgspec.Raw])
    unknown = sorted(values.keys() - after.keys())
    if unknown:
        known = ", ".join(sorted(after))
        raise NotSendable(f"`after` has no field {unknown[0]!r}; it has {known}{did_you_mean(unknown[0], after)}")
    return msgspec.Raw(encode({**after, **values}))


def discarded(letter: DeadLetter, prefix: str, by: str, reason: str, now: str) -> Outgoing | None:
    """The receipt that says so; None for bytes that name no event, of which a receipt could say nothing."""
    event_id = letter.event_id
    if event_id is None:
        return None
    key, version = _key_and_version(letter)
    write = (
        None
        if letter.writeback is None
        else write_id(prefix, letter.pipeline, letter.writeback, event_id, letter.cause)
    )
    receipt = ReceiptRecord(
        event_id=event_id,
        write_id=write,
        pipeline=letter.pipeline,
        writeback=letter.writeback,
        key=key,
        version=version,
        fate=Fate.DISCARDED,
        reason=f"by {by}: {reason}" if reason else f"by {by}",
        time=now,
    )
    return Outgoing(letter.key, encode(receipt))


def _key_and_version(letter: DeadLetter) -> tuple[dict[str, Any], str]:
    """Of the event; where its bytes are none, what the record's own key and headers tell."""
    try:
        event = decode_event(letter.value)
    except Undecodable:
        version = header(letter.headers, VERSION) or ""
    else:
        return dict(event.key), event.version
    try:
        return decode(letter.key or b"{}", dict[str, Any]), version
    except Undecodable:
        return {}, version


def _headers(letter: DeadLetter, cause: str, version: str | None) -> Headers:
    """Those that the event had when it came, its cause as the last; notes of ours about its way are left out."""
    kept: Headers = []
    for name, value in letter.headers:
        if name == VERSION and version is not None:
            kept.append((name, version.encode()))
        elif name in {VERSION, CONFIG} or not name.startswith("cd_"):
            kept.append((name, value))
    only = letter.writeback or header(letter.headers, WRITEBACK)
    if only is not None:
        kept.append((WRITEBACK, only.encode()))
    return [*kept, (CAUSE, cause.encode())]
