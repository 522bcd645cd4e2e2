"""Looking into topics without a group: one record by its offset, everything since a time, what comes next."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from streams.runtime.kafka import Kafka, stop_quietly

NEAR = 200
"""Records between two that are wanted, which are rather read over than jumped over."""


class View:
    """`async with View(kafka) as view:`; it looks into one partition at a time.

    Raises:
        KafkaError: from every method: the broker is away.
    """

    def __init__(self, kafka: Kafka, wait: float = 0.5) -> None:
        """A short `wait` is for looking around, which costs many small requests; a long one for following."""
        self._consumer: AIOKafkaConsumer = kafka.viewer(wait=wait)
        self._at: TopicPartition | None = None

    async def __aenter__(self) -> "View":
        try:
            await self._consumer.start()
        except BaseException:
            await stop_quietly(self._consumer)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await stop_quietly(self._consumer)

    async def beginning(self, tp: TopicPartition) -> int:
        """The offset of the first record that has not expired."""
        return int((await self._consumer.beginning_offsets([tp]))[tp])

    async def end(self, tp: TopicPartition) -> int:
        """The offset after the last committed record."""
        return int((await self._consumer.end_offsets([tp]))[tp])

    async def records(self, tp: TopicPartition, offsets: Sequence[int], most: int) -> dict[int, ConsumerRecord | None]:
        """The records at these ascending offsets; None for one that expired or never was.

        Near ones are read in one go. Ends early when they hold more than `most` bytes; the first is always there.
        """
        found: dict[int, ConsumerRecord | None] = {}
        size = 0
        for run in _runs(offsets):
            wanted = set(run)
            async with aclosing(self.between(tp, run[0], run[-1] + 1)) as read:
                async for record in read:
                    if record.offset in wanted:
                        found |= {offset: None for offset in run if offset < record.offset and offset not in found}
                        found[record.offset] = record
                        size += len(record.value or b"")
                        if size > most:
                            return found
            found |= {offset: None for offset in run if offset not in found}
        return found

    async def offset_at(self, tp: TopicPartition, moment: datetime) -> int:
        """The offset of the first record that is not older; the end if there is none."""
        found = (await self._consumer.offsets_for_times({tp: int(moment.timestamp() * 1000)})).get(tp)
        return await self.end(tp) if found is None or found.offset < 0 else int(found.offset)

    async def between(self, tp: TopicPartition, start: int, end: int) -> AsyncGenerator[ConsumerRecord, None]:
        """Committed records from `start` on and before `end`, or the topic's end where that is nearer."""
        self._turn_to(tp, start)
        end = min(end, await self.end(tp))
        while await self._consumer.position(tp) < end:
            for record in await self.following():
                if record.offset >= end:
                    return
                yield record

    async def all(self, tp: TopicPartition) -> AsyncGenerator[ConsumerRecord, None]:
        """Committed records from the first on, up to the present end at least; `following` goes on after the last."""
        self._turn_to(tp, 0)
        end = await self.end(tp)
        while await self._consumer.position(tp) < end:
            for record in await self.following():
                yield record

    async def following(self) -> list[ConsumerRecord]:
        """What comes next in the present partition; empty when nothing came for half a second."""
        found = await self._consumer.getmany(timeout_ms=500)
        return [record for records in found.values() for record in records]

    def _turn_to(self, tp: TopicPartition, offset: int) -> None:
        if self._at != tp:
            self._consumer.assign([tp])
            self._at = tp
        self._consumer.seek(tp, offset)


def _runs(offsets: Sequence[int]) -> Iterator[list[int]]:
    run: list[int] = []
    for offset in offsets:
        if run and offset > run[-1] + NEAR:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run
