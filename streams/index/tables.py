"""The index's tables, and a record of Kafka as a row of one of them."""

from enum import Enum
from typing import Any

import sqlalchemy as sa

from schemas.change import canonical_key
from schemas.codec import decode, decode_event, encode
from schemas.dead_letter import DeadLetter
from schemas.event import header
from schemas.receipt import ReceiptRecord
from streams.offsets import OffsetRecord
from streams.runtime.kafka import ConsumerRecord

SCHEMA = 1
"""Of the tables below; tables of another number are dropped and filled anew."""
LONGEST_REASON = 500
_NO_NUL = "\N{REPLACEMENT CHARACTER}"
_OF_NO_SOURCE = (b"group/", b"history/")
"""Keys of the other records on `crossdock.offsets`."""
Row = tuple[Any, ...]

metadata = sa.MetaData()


def _place() -> tuple[sa.Column[Any], ...]:
    """Where the record of a row lies in Kafka."""
    return (
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
    )


RECEIPTS = sa.Table(
    "crossdock_receipts",
    metadata,
    *_place(),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("writeback", sa.Text),
    sa.Column("cause", sa.Text, comment="the last part of the write's id"),
    sa.Column("key", sa.Text, nullable=False, comment="canonical JSON"),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("fate", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
    sa.Index("crossdock_receipts_by_key", "key", "topic", "version"),
    sa.Index("crossdock_receipts_by_event", "event_id"),
)

DEAD = sa.Table(
    "crossdock_dead",
    metadata,
    *_place(),
    sa.Column("event_id", sa.Text),
    sa.Column("writeback", sa.Text),
    sa.Column("key", sa.Text),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("origin_topic", sa.Text, nullable=False),
    sa.Column("origin_partition", sa.Integer, nullable=False),
    sa.Column("origin_offset", sa.BigInteger, nullable=False),
    sa.Column("first_seen", sa.Text, nullable=False),
    sa.Column("last_seen", sa.Text, nullable=False),
    sa.Index("crossdock_dead_by_group", "fingerprint"),
    sa.Index("crossdock_dead_by_event", "event_id"),
)

REVIEWS = sa.Table(
    "crossdock_reviews",
    metadata,
    *_place(),
    sa.Column("event_id", sa.Text),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False, comment="of the record, milliseconds"),
    sa.Index("crossdock_reviews_by_event", "event_id"),
)

OFFSETS = sa.Table(
    "crossdock_source_offsets",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("task", sa.Text, primary_key=True, comment="the newest record of each"),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Text, nullable=False, comment="JSON, its connector's own"),
    sa.Column("changes", sa.BigInteger, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
)

POSITIONS = sa.Table(
    "crossdock_positions",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next", sa.BigInteger, nullable=False),
)

STATE = sa.Table(
    "crossdock_index",
    metadata,
    sa.Column("prefix", sa.Text, primary_key=True),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("as_of", sa.Text, comment="all that was on Kafka by then is in the tables"),
)


class Kind(Enum):
    """What a topic holds, and so the table of its records."""

    RECEIPTS = RECEIPTS
    DEAD = DEAD
    REVIEWS = REVIEWS
    OFFSETS = OFFSETS


def row_of(kind: Kind, record: ConsumerRecord) -> Row | None:
    """The row of a record, in the order of its table's columns; None for one that is none, as a tombstone.

    Raises:
        Undecodable: it is not what its topic promises.
    """
    if record.value is None:
        return None
    match kind:
        case Kind.RECEIPTS:
            return _receipt(record)
        case Kind.DEAD:
            return _letter(record)
        case Kind.REVIEWS:
            return _review(record)
        case Kind.OFFSETS:
            return _offset(record)


def _receipt(record: ConsumerRecord) -> Row:
    found = decode(record.value, ReceiptRecord)
    return (
        record.topic,
        record.partition,
        record.offset,
        _clean(found.event_id),
        found.writeback,
        None if found.write_id is None else _clean(found.write_id.rpartition("/")[2]),
        canonical_key(found.key).decode(),
        _clean(found.version),
        found.fate.value,
        None if found.outcome is None else found.outcome.value,
        None if found.reason is None else _clean(found.reason[:LONGEST_REASON]),
        found.attempts,
        found.time,
    )


def _letter(record: ConsumerRecord) -> Row:
    found = decode(record.value, DeadLetter)
    return (
        record.topic,
        record.partition,
        record.offset,
        None if found.event_id is None else _clean(found.event_id),
        found.writeback,
        None if found.key is None else _clean(found.key.decode("utf-8", "replace")),
        found.stage,
        _clean(found.code),
        _clean(found.reason[:LONGEST_REASON]),
        found.fingerprint,
        found.attempts,
        found.topic,
        found.partition,
        found.offset,
        found.first_seen,
        found.last_seen,
    )


def _review(record: ConsumerRecord) -> Row:
    found = decode_event(record.value)
    event_id = header(record.headers, "ce_id")
    return (
        record.topic,
        record.partition,
        record.offset,
        None if event_id is None else _clean(event_id),
        canonical_key(found.key).decode(),
        _clean(found.version),
        record.timestamp,
    )


def _offset(record: ConsumerRecord) -> Row | None:
    if record.key is None or record.key.startswith(_OF_NO_SOURCE):
        return None
    found = decode(record.value, OffsetRecord)
    position = encode(found.offset).decode()
    return (record.topic, found.task, record.partition, record.offset, position, found.changes, found.time)


def _clean(text: str) -> str:
    """PostgreSQL takes no NUL in a text, and a record of anybody may hold one."""
    return text.replace("\0", _NO_NUL) if "\0" in text else text
