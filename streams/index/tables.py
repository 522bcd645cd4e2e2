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
"""PostgreSQL takes no NUL in a text, and a record of anybody may hold one."""
Row = dict[str, Any]

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
    """The row of a record; None for a tombstone, which takes nothing back here.

    Raises:
        Undecodable: it is not what its topic promises.
    """
    if record.value is None:
        return None
    row = {"topic": record.topic, "partition": record.partition, "offset": record.offset, **_CONTENT[kind](record)}
    return {name: value.replace("\0", _NO_NUL) if isinstance(value, str) else value for name, value in row.items()}


def _receipt(record: ConsumerRecord) -> Row:
    found = decode(record.value, ReceiptRecord)
    return {
        "event_id": found.event_id,
        "writeback": found.writeback,
        "cause": None if found.write_id is None else found.write_id.rpartition("/")[2],
        "key": canonical_key(found.key).decode(),
        "version": found.version,
        "fate": found.fate.value,
        "outcome": None if found.outcome is None else found.outcome.value,
        "reason": _short(found.reason),
        "attempts": found.attempts,
        "time": found.time,
    }


def _letter(record: ConsumerRecord) -> Row:
    found = decode(record.value, DeadLetter)
    return {
        "event_id": found.event_id,
        "writeback": found.writeback,
        "key": _text(found.key),
        "stage": found.stage,
        "code": found.code,
        "reason": _short(found.reason),
        "fingerprint": found.fingerprint,
        "attempts": found.attempts,
        "origin_topic": found.topic,
        "origin_partition": found.partition,
        "origin_offset": found.offset,
        "first_seen": found.first_seen,
        "last_seen": found.last_seen,
    }


def _review(record: ConsumerRecord) -> Row:
    found = decode_event(record.value)
    return {
        "event_id": header(record.headers, "ce_id"),
        "key": canonical_key(found.key).decode(),
        "version": found.version,
        "timestamp": record.timestamp,
    }


def _offset(record: ConsumerRecord) -> Row:
    found = decode(record.value, OffsetRecord)
    return {
        "task": found.task,
        "position": encode(found.offset).decode(),
        "changes": found.changes,
        "time": found.time,
    }


_CONTENT = {Kind.RECEIPTS: _receipt, Kind.DEAD: _letter, Kind.REVIEWS: _review, Kind.OFFSETS: _offset}


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _short(reason: str | None) -> str | None:
    return None if reason is None else reason[:LONGEST_REASON]
