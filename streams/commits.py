"""A group's commits: where each partition is read from, and their mirror on `crossdock.offsets`.

What a reader may start from is judged in `standing.py`; here it is looked up, told and written down. A partition that
only a person can decide about is not read; all others are.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from connectors.clock import Clock
from connectors.failpoints import failpoint
from schemas.codec import Undecodable, decode
from schemas.control import OffsetMove, Stopped, Trouble
from schemas.values import rfc3339
from streams.control import Control
from streams.offsets import OffsetHistory, history_key, outgoing_history
from streams.runtime.compacted import TopicMissing, newest_values
from streams.runtime.kafka import Consumer, Kafka, TopicPartition
from streams.runtime.publisher import Outgoing, Publisher
from streams.runtime.topic_ids import topic_ids
from streams.standing import (
    GroupOffset,
    Place,
    Stop,
    judge,
    mirror_key,
    mirror_partition,
    outgoing,
    stands_at,
    subject_of,
)
from streams.topics import HubTopics, Topic

log = logging.getLogger("crossdock.streams.commits")

MIRROR_EVERY = 60.0
_PATIENCE = 10.0
_LOOKS = 3
"""What looks wrong is looked at so often: a new leader may not know its end for a moment."""


class Commits:
    """What one reader asks and tells about its group's offsets."""

    def __init__(
        self,
        prefix: str,
        group: str,
        topics: Sequence[Topic],
        *,
        kafka: Kafka,
        publisher: Publisher,
        control: Control,
        clock: Clock,
    ) -> None:
        self._prefix, self._group, self._topics = prefix, group, {topic.name: topic for topic in topics}
        self._kafka, self._publisher, self._control, self._clock = kafka, publisher, control, clock
        self._offsets, self._partition = HubTopics.of(prefix).offsets, mirror_partition(prefix, group)
        self._ids: dict[str, str] = {}
        self._mirrored: dict[TopicPartition, GroupOffset] = {}
        self._histories: dict[str, OffsetHistory] = {}
        self._refused: set[str] = set()
        """Ids of moves that came too late."""
        self._mirror_due = clock.monotonic() + MIRROR_EVERY

    async def begin(
        self, consumer: Consumer, committed: Mapping[TopicPartition, int | None]
    ) -> dict[TopicPartition, int]:
        """Where each of these partitions is read from. One that only a person can decide about is not in it.

        Raises:
            KafkaError, TimeoutError: Kafka does not answer; nothing is decided.
        """
        await self._control.known()
        await self._look_up()
        starts: dict[TopicPartition, int] = {}
        for look in range(_LOOKS):
            if look:
                await asyncio.sleep(1.0)
            open_ones = {tp: at for tp, at in committed.items() if tp not in starts}
            for tp, place in (await self._places(consumer, open_ones)).items():
                start = await self._start(consumer, tp, place, last=look == _LOOKS - 1)
                if start is not None:
                    starts[tp] = start
            if len(starts) == len(committed):
                break
        await self._introduce(consumer, starts)
        return starts

    def asked(self, partitions: Collection[TopicPartition]) -> set[TopicPartition]:
        """Those of them that a person wants elsewhere."""
        return {tp for tp in partitions if self._move(tp) is not None}

    async def tell(self, committed: Mapping[TopicPartition, int], *, last: bool = False) -> set[TopicPartition]:
        """Mirrors commits, at most once a minute and at the end. Returns partitions whose topic is not what it was.

        Raises:
            KafkaError, TimeoutError: Kafka does not answer.
        """
        if not last and self._clock.monotonic() < self._mirror_due:
            return set()
        self._mirror_due = self._clock.monotonic() + MIRROR_EVERY
        before, self._ids = self._ids, await self._look_at_topics()
        for name in self._topics.keys() - self._ids.keys():
            log.error("topic.missing group=%s topic=%s (what stood on it is gone; all others go on)", self._group, name)
        changed = {tp for tp in committed if self._ids.get(tp.topic) != before.get(tp.topic)}
        await self._mirror({tp: offset for tp, offset in committed.items() if tp not in changed})
        return changed

    # What is known

    async def _look_up(self) -> None:
        """Mirrored commits and histories of the group."""
        subjects = f"{self._group.removeprefix(f'{self._prefix}.crossdock.')}/"
        mirror, history = mirror_key(subjects), history_key(subjects)
        try:
            found = await newest_values(
                self._kafka, self._offsets, self._partition, lambda key: key.startswith((mirror, history))
            )
        except TopicMissing:
            return  # a worker makes it when it starts, and Kafka's own commits hold
        for key, value in found.items():
            try:
                if key.startswith(mirror):
                    record = decode(value, GroupOffset)
                    self._mirrored[TopicPartition(record.topic, record.partition)] = record
                else:
                    past = decode(value, OffsetHistory)
                    self._histories[past.subject] = past
            except Undecodable as error:
                log.warning("offset.unreadable key=%s reason=%s", key.decode("utf-8", "replace"), error)

    async def _look_at_topics(self) -> dict[str, str]:
        return await asyncio.wait_for(topic_ids(self._kafka, self._topics), _PATIENCE)

    async def _places(
        self, consumer: Consumer, committed: Mapping[TopicPartition, int | None]
    ) -> dict[TopicPartition, Place | None]:
        """None: the topic is gone."""
        self._ids = await self._look_at_topics()
        there = [tp for tp in committed if tp.topic in self._ids]
        lows = await asyncio.wait_for(consumer.beginning_offsets(there), _PATIENCE) if there else {}
        highs = await asyncio.wait_for(consumer.end_offsets(there), _PATIENCE) if there else {}
        known = {tp.topic for tp in self._mirrored}
        found: dict[TopicPartition, Place | None] = dict.fromkeys(committed)
        for tp in there:
            mirrored, topic_id = self._mirrored.get(tp), self._ids[tp.topic]
            found[tp] = Place(committed[tp], mirrored, tp.topic in known, lows[tp], highs[tp], topic_id)
        return found

    # What is decided

    async def _start(self, consumer: Consumer, tp: TopicPartition, place: Place | None, *, last: bool) -> int | None:
        move = self._move(tp)
        if place is not None and move is not None:
            return await self._make(move, consumer, tp, place)
        judged = Stop(Trouble.MISSING, "the topic is gone") if place is None else judge(place)
        if isinstance(judged, Stop):
            if last:
                await self._tell_stop(tp, judged)
            return None
        if judged.restored:
            log.warning(
                "offset.restored group=%s topic=%s partition=%d offset=%d (Kafka had forgotten it)",
                self._group,
                *tp,
                judged.offset,
            )
        await self._tell_start(tp)
        return judged.offset

    async def _make(self, move: OffsetMove, consumer: Consumer, tp: TopicPartition, place: Place) -> int:
        """Carries a person's command out. Between the commit and the note of it, it may be carried out twice."""
        subject, before = move.subject, stands_at(place)
        offset = place.low if move.offset is None else min(max(int(move.offset), place.low), place.high)
        await asyncio.wait_for(consumer.commit({tp: offset}), _PATIENCE)
        failpoint("offset_before_mirror")
        now = rfc3339(self._clock.now())
        history = self._history(subject).with_move(move, before)
        record = GroupOffset(
            group=self._group,
            topic=tp.topic,
            partition=tp.partition,
            topic_id=place.topic_id,
            offset=offset,
            move=move.id,
            time=now,
        )
        await self._write([outgoing(self._prefix, record), outgoing_history(history, self._partition)])
        self._mirrored[tp], self._histories[subject] = record, history
        log.warning(
            "offset.moved task=%s action=%s before=%s after=%s by=%s reason=%s",
            subject,
            move.action,
            before,
            offset,
            move.by,
            move.reason,
        )
        await self._tell_start(tp)
        return offset

    def _move(self, tp: TopicPartition) -> OffsetMove | None:
        subject, mirrored = self._subject(tp), self._mirrored.get(tp)
        move = self._control.move(subject, None if mirrored is None else mirrored.move)
        if move is None or move.id in self._refused:
            return None
        if self._history(subject).allows(move):
            return move
        self._refused.add(move.id)
        log.warning("offset.refused task=%s action=%s by=%s (it was undone already)", subject, move.action, move.by)
        return None

    async def _tell_stop(self, tp: TopicPartition, stop: Stop) -> None:
        subject = self._subject(tp)
        command = f"crossdock offsets reset FOLDER {subject}"
        log.error(
            "partition.stopped group=%s topic=%s partition=%d trouble=%s reason=%s decide=`%s`",
            self._group,
            *tp,
            stop.trouble.value,
            stop.reason,
            command,
        )
        known = self._control.find(Stopped, subject)
        if known is None or (known.trouble, known.reason) != (stop.trouble, stop.reason):
            now = rfc3339(self._clock.now())
            stopped = Stopped(subject=subject, trouble=stop.trouble, reason=stop.reason, command=command, time=now)
            await asyncio.wait_for(self._control.put(stopped), _PATIENCE)

    async def _tell_start(self, tp: TopicPartition) -> None:
        if self._control.find(Stopped, self._subject(tp)) is not None:
            await asyncio.wait_for(self._control.take_back(Stopped, self._subject(tp)), _PATIENCE)

    # What is written

    async def _introduce(self, consumer: Consumer, starts: Mapping[TopicPartition, int]) -> None:
        """The first mirror of a group on a topic holds all of its partitions, also those of other members.

        From then on a partition without one has lost it, and does not belong to a group that has just begun.
        """
        new = {tp.topic for tp in starts} - {tp.topic for tp in self._mirrored}
        all_of_them = [TopicPartition(name, number) for name in new for number in range(self._topics[name].partitions)]
        if not all_of_them:
            return
        others = [tp for tp in all_of_them if tp not in starts]
        lows = await asyncio.wait_for(consumer.beginning_offsets(others), _PATIENCE) if others else {}
        found = dict(starts)
        for tp in others:
            at = await asyncio.wait_for(consumer.committed(tp), _PATIENCE)
            found[tp] = lows[tp] if at is None else at
        await self._mirror({tp: found[tp] for tp in all_of_them})

    async def _mirror(self, offsets: Mapping[TopicPartition, int]) -> None:
        now, records = rfc3339(self._clock.now()), []
        for tp, offset in offsets.items():
            before, topic_id = self._mirrored.get(tp), self._ids.get(tp.topic)
            if before is None or (before.offset, before.topic_id) != (offset, topic_id):
                records.append(
                    GroupOffset(
                        group=self._group,
                        topic=tp.topic,
                        partition=tp.partition,
                        topic_id=topic_id,
                        offset=offset,
                        move=None if before is None else before.move,
                        time=now,
                    )
                )
        await self._write([outgoing(self._prefix, record) for record in records])
        self._mirrored |= {TopicPartition(record.topic, record.partition): record for record in records}

    async def _write(self, records: list[Outgoing]) -> None:
        if records:
            await asyncio.wait_for(self._publisher.publish({self._offsets: records}), _PATIENCE)

    def _subject(self, tp: TopicPartition) -> str:
        return subject_of(self._prefix, self._group, *tp)

    def _history(self, subject: str) -> OffsetHistory:
        return self._histories.get(subject) or OffsetHistory(subject=subject)
