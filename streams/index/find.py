"""Questions to the index. Each answer says as of when it is true."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from schemas.change import canonical_key
from schemas.values import Key
from streams.index.database import IndexDatabase
from streams.index.tables import DEAD, OFFSETS, RECEIPTS

MOST = 1000
"""Rows of one answer at most; the newest where there are more."""


class Answer(NamedTuple):
    """Rows as plain values, oldest first."""

    rows: list[dict[str, Any]]
    as_of: str | None
    """All that was on Kafka by then was asked; None = the index was never complete yet."""


def receipts_of_event(database: IndexDatabase, event_id: str) -> Answer:
    """What became of one event, for each write-back."""
    return _newest(database, RECEIPTS, RECEIPTS.c.event_id == event_id)


def receipts_of_key(database: IndexDatabase, topics: Sequence[str], key: Key) -> Answer:
    """What became of each version of one record.

    Args:
        topics: receipts of the pipelines that are asked about.
        key: by the source's own names.
    """
    same = RECEIPTS.c.key == canonical_key(key).decode()
    return _newest(database, RECEIPTS, same & RECEIPTS.c.topic.in_(list(topics)))


def groups_of_dead_letters(database: IndexDatabase, topics: Sequence[str]) -> Answer:
    """Dead letters by cause: how many, since when, and one of them as an example. The largest group is the last."""
    counted = (
        sa.select(
            DEAD.c.topic,
            DEAD.c.fingerprint,
            sa.func.count().label("count"),
            sa.func.min(DEAD.c.first_seen).label("first_seen"),
            sa.func.max(DEAD.c.last_seen).label("last_seen"),
            sa.func.min(DEAD.c.offset).label("offset"),
        )
        .where(DEAD.c.topic.in_(list(topics)))
        .group_by(DEAD.c.topic, DEAD.c.fingerprint)
        .subquery()
    )
    example = (DEAD.c.topic == counted.c.topic) & (DEAD.c.offset == counted.c.offset)
    shown = (DEAD.c.stage, DEAD.c.code, DEAD.c.reason, DEAD.c.writeback)
    found = sa.select(counted, *shown).join(DEAD, example).order_by(counted.c.count, counted.c.fingerprint)
    with database.reading() as connection:
        rows = [dict(row) for row in connection.execute(found).mappings()]
        return Answer(rows, database.as_of(connection))


def dead_letters_of_group(database: IndexDatabase, topics: Sequence[str], fingerprint: str) -> Answer:
    """The letters of one cause, with the places of their original bytes."""
    return _newest(database, DEAD, (DEAD.c.fingerprint == fingerprint) & DEAD.c.topic.in_(list(topics)))


def source_offset(database: IndexDatabase, topic: str, task: str) -> str | None:
    """How far a source task was read, in JSON; None = nothing was, or a person sent it back to the beginning."""
    wanted = sa.select(OFFSETS.c.position).where(OFFSETS.c.topic == topic, OFFSETS.c.task == task)
    with database.reading() as connection:
        return connection.execute(wanted).scalar_one_or_none()


def _newest(database: IndexDatabase, table: sa.Table, where: sa.ColumnElement[bool]) -> Answer:
    time = table.c.time if "time" in table.c else table.c.last_seen
    order = (time, table.c.topic, table.c.partition, table.c.offset)
    found = sa.select(table).where(where).order_by(*(each.desc() for each in order)).limit(MOST)
    with database.reading() as connection:
        rows = [dict(row) for row in connection.execute(found).mappings()]
        return Answer(rows[::-1], database.as_of(connection))
