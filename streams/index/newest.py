"""The newest receipt of each record for one write-back: what the hub itself says that became of it."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from connectors.buckets import bucketed, within, without_cause
from connectors.contract import Bucket, Held, KeyRange
from schemas.change import canonical_key
from schemas.outcome import Fate
from schemas.values import Key
from streams.echo import ECHO
from streams.index.database import IndexDatabase
from streams.index.tables import DEAD, RECEIPTS
from streams.topics import PipelineTopics

_AT_ONCE = 500
_EFFECTS = (Fate.APPLIED.value, Fate.UNCHANGED.value)


class Newest(NamedTuple):
    """What became of the newest version of a record that the hub knows of."""

    version: str
    """Without the cause."""
    fate: Fate
    effect: str | None
    """The event whose values the target holds; None = what came last was refused, or waits."""


class NewestReceipts:
    """`Comparable`: the index as a stand-in for a target that does not hold our versions."""

    def __init__(self, database: IndexDatabase, topics: PipelineTopics, writeback: str) -> None:
        self._database, self._topics = database, topics
        mine = (RECEIPTS.c.writeback == writeback) | RECEIPTS.c.writeback.is_(None)
        self._where = (RECEIPTS.c.topic == topics.receipts.name) & mine

    def digest(self, key_range: KeyRange, deadline: float) -> list[Bucket]:  # noqa: ARG002 - the contract's
        return bucketed(self._held(key_range), key_range)

    def held(self, key_range: KeyRange, deadline: float) -> list[Held]:  # noqa: ARG002 - the contract's
        return within(self._held(key_range), key_range)

    def of(self, keys: Sequence[Key]) -> dict[str, Newest]:
        """By canonical key, of those that have any."""
        texts = [canonical_key(key).decode() for key in keys]
        found: dict[str, Newest] = {}
        with self._database.reading() as connection:
            for start in range(0, len(texts), _AT_ONCE):
                part = texts[start : start + _AT_ONCE]
                found |= dict(self._letters(connection, part))
                found |= {
                    key: newest
                    for key, newest in self._receipts(connection, part)
                    if key not in found or found[key].version <= newest.version
                }
        return found

    def _receipts(self, connection: sa.Connection, keys: Sequence[str]) -> Iterator[tuple[str, Newest]]:
        columns = (RECEIPTS.c.key, RECEIPTS.c.event_id, RECEIPTS.c.version, RECEIPTS.c.fate, RECEIPTS.c.reason)
        asked = sa.select(*columns).where(self._where, RECEIPTS.c.key.in_(keys))
        effects: dict[str, str | None] = {}
        for row in connection.execute(asked.order_by(RECEIPTS.c.version, RECEIPTS.c.offset)):
            if not (row.fate == Fate.FILTERED.value and row.reason == ECHO):
                effects[row.key] = row.event_id if row.fate in _EFFECTS else None
            yield row.key, Newest(without_cause(row.version), Fate(row.fate), effects.get(row.key))

    def _letters(self, connection: sa.Connection, keys: Sequence[str]) -> Iterator[tuple[str, Newest]]:
        """A row that is too large for Kafka has a dead letter, and no receipt."""
        asked = sa.select(DEAD.c.key, DEAD.c.event_id).where(
            DEAD.c.topic == self._topics.dead.name, DEAD.c.key.in_(keys), DEAD.c.event_id.is_not(None)
        )
        for row in connection.execute(asked.order_by(DEAD.c.offset)):
            version = row.event_id.rpartition("@")[2].partition("~")[0]
            yield row.key, Newest(without_cause(version), Fate.DEAD, None)

    def _held(self, key_range: KeyRange) -> Iterator[Held]:
        newest = sa.select(RECEIPTS.c.key, sa.func.max(RECEIPTS.c.version)).where(self._where)
        with self._database.reading() as connection:
            for part in connection.execute(newest.group_by(RECEIPTS.c.key)).partitions(_AT_ONCE):
                for text, version in part:
                    key = json.loads(text)
                    if all(name in key for name in key_range.fields):
                        yield Held(tuple(key[name] for name in key_range.fields), without_cause(version))
