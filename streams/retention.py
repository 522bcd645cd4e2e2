"""The watch over retention: what nobody has read yet must not expire.

| age of the oldest unread record     | then                                                          |
|-------------------------------------|---------------------------------------------------------------|
| 70 % of the topic's retention       | an alert                                                      |
| 85 %                                | the pipeline's sources pause, and the retention is doubled    |
| below 50 % of what it was before    | the retention is put back, and the sources go on              |

An outage that is longer than a retention must not become silent loss: the data stays where it is safe, at the source,
and what is on Kafka already stays on Kafka. The pause is written down first, with the retention that there was before:
after a crash between the two, the next owner raises it, and still knows what to put back.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from connectors.clock import Clock
from connectors.errors import CrossdockError
from connectors.failpoints import failpoint
from schemas.control import Pause, PauseCause
from schemas.values import rfc3339
from streams.backoff import wait_for_stop
from streams.control import Control
from streams.topics import PipelineTopics

log = logging.getLogger("crossdock.streams.retention")

ALERT, PAUSE, RESUME = 0.70, 0.85, 0.50
BY = "crossdock"
_T = TypeVar("_T")
LOOKS = 100
"""In the shortest retention; but at most one in a second, and at least one in a minute."""


class Unread(NamedTuple):
    """The oldest record of one partition that one group has not read."""

    pipeline: str
    group: str
    topic: str
    partition: int
    age: float
    retention: float
    """Seconds, as the topic has it now."""

    @property
    def part(self) -> float:
        return self.age / self.retention


class Look(Protocol):
    """What the watch asks of Kafka and tells it; blocking."""

    def unread(self) -> list[Unread]:
        """The oldest unread record of each partition that has any. Raises Retriable."""
        ...

    def set_retention(self, topic: str, seconds: float) -> None:
        """Raises Retriable."""
        ...


@dataclass(frozen=True, slots=True)
class Decided:
    """What is to be done after a look."""

    alerts: list[Unread] = field(default_factory=list)
    raised: dict[str, float] = field(default_factory=dict)
    """Seconds that topics are to keep their records from now on."""
    pauses: dict[str, Pause] = field(default_factory=dict)
    """By pipeline: to be put."""
    ended: list[Pause] = field(default_factory=list)
    """To be taken back, once the retention of their topics is put back."""


def decide(unread: Sequence[Unread], pauses: Mapping[str, Pause], time: str) -> Decided:
    """What a look means.

    Args:
        unread: what the look found.
        pauses: of ours that stand, by pipeline.
        time: now.
    """
    decided = Decided(alerts=[each for each in _worst(unread) if each.part >= ALERT])
    for each in decided.alerts:
        if each.part < PAUSE:
            continue
        before = pauses.get(each.pipeline) or decided.pauses.get(each.pipeline)
        raised = {} if before is None else before.raised
        decided.raised[each.topic] = 2 * each.retention
        decided.pauses[each.pipeline] = Pause(
            pipeline=each.pipeline,
            cause=PauseCause.RETENTION,
            reason=f"{each.group} has not read {each.topic} for {each.part:.0%} of its retention",
            by=BY,
            time=time,
            raised={**raised, each.topic: raised.get(each.topic, each.retention)},
        )
    for pipeline, pause in pauses.items():
        if pipeline not in decided.pauses and not _presses(unread, pause):
            decided.ended.append(pause)
    return decided


def _worst(unread: Iterable[Unread]) -> list[Unread]:
    """The oldest of each topic, the oldest of all last."""
    found: dict[str, Unread] = {}
    for each in unread:
        if each.topic not in found or each.part > found[each.topic].part:
            found[each.topic] = each
    return sorted(found.values(), key=lambda each: each.part)


def _presses(unread: Sequence[Unread], pause: Pause) -> bool:
    """Whether something is still old, measured by the retention that there was before."""
    return any(
        each.pipeline == pause.pipeline and each.age > RESUME * pause.raised.get(each.topic, each.retention)
        for each in unread
    )


class RetentionWatch:
    """Looks, decides and does it, over and over; one worker of the hub at a time."""

    def __init__(
        self, look: Look, topics: Sequence[PipelineTopics], control: Control, threads: Executor, clock: Clock
    ) -> None:
        self._look, self._control, self._threads, self._clock = look, control, threads, clock
        shortest = min((t.retention.total_seconds() for each in topics for t in each.expiring), default=0.0)
        self._every = min(60.0, max(1.0, shortest / LOOKS))

    async def run(self, stop: asyncio.Event) -> None:
        """Lives until `stop` is set."""
        await self._control.known()
        while not stop.is_set():
            try:
                await self._once()
            except CrossdockError as error:
                log.warning("retention.unwatched reason=%s (tries again)", error)
            await wait_for_stop(stop, self._every)

    async def _once(self) -> None:
        unread = await self._in_thread(self._look.unread)
        pauses = {each.pipeline: each for each in self._control.all(Pause) if each.cause is PauseCause.RETENTION}
        decided = decide(unread, pauses, rfc3339(self._clock.now()))
        for each in decided.alerts:
            log.error(
                "retention.near topic=%s partition=%d group=%s part=%.0f%% (at 100 %% unread records expire)",
                each.topic,
                each.partition,
                each.group,
                100 * each.part,
            )
        for pause in decided.pauses.values():
            await self._control.put(pause)
        failpoint("retention_after_pause")
        for topic, seconds in decided.raised.items():
            await self._in_thread(self._look.set_retention, topic, seconds)
            log.error("retention.raised topic=%s days=%.1f (its sources pause)", topic, seconds / 86400)
        for pause in decided.ended:
            await self._end(pause)

    async def _end(self, pause: Pause) -> None:
        for topic, seconds in pause.raised.items():
            await self._in_thread(self._look.set_retention, topic, seconds)
            log.warning("retention.restored topic=%s days=%.1f", topic, seconds / 86400)
        await self._control.take_back(Pause, pause.name)

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
