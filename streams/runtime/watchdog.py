"""The watchdog: notices what stands still though nothing says why, and ends the process, so that it starts anew.

Three kinds of standing still, which no exception tells of:

- the event loop is blocked: somebody computes or waits in it. Its lag is measured; a thread beside it tells where it is
  blocked, and ends the process after a minute.
- a lane or a source task does nothing: no call returns, nothing is published, and it does not rest (see `pulse.py`).
  A broker that is away is a reason, so it is asked before the process ends.
- a connector's call does not return, long after its deadline.
"""

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka.errors import KafkaError
from mode import Service

from connectors.clock import Clock
from streams.metrics import METRICS
from streams.runtime.kafka import Kafka
from streams.runtime.lasting import Lasting
from streams.runtime.ownership import Ownership
from streams.runtime.reader import Reader
from streams.runtime.threads import Threads

log = logging.getLogger("crossdock.streams.watchdog")

EVERY = 1.0
LOOK_EVERY = 5.0
LAG = 1.0
"""Seconds of lag that are worth a line."""
QUIET = 60.0
"""Seconds without a sign of life that are worth a line, and a question to the broker."""
STUCK = 300.0
"""Seconds without a sign of life after which the process ends; beyond its deadline, for a call."""
BLOCKED = 60
"""Seconds of a blocked loop after which the process ends."""
TOLD_EVERY = 60.0
WORST_OF = 15
"""Looks whose worst lag the metric shows: the usual time between two scrapes."""


class Stuck(Exception):
    """Something stands still, and nothing says why."""


class Watchdog(Lasting):
    """Of one worker."""

    def __init__(
        self,
        kafka: Kafka,
        clock: Clock,
        readers: Sequence[Reader],
        ownership: Ownership,
        threads: Sequence[Threads],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._kafka, self._clock = kafka, clock
        self._readers, self._ownership, self._threads = readers, ownership, threads
        self._lags: list[float] = []
        self._told: dict[str, float] = {}
        self._answers_since: float | None = None
        """When the broker began to answer; None = it was not asked, or did not answer the last time."""
        self._outside = Outside()

    @property
    def label(self) -> str:
        return "watchdog"

    async def on_start(self) -> None:
        self._outside.start()

    @Service.task  # type: ignore[untyped-decorator]
    async def _measure_regularly(self) -> None:
        try:
            while not self.should_stop:
                due = self._clock.monotonic() + EVERY
                await self.sleep(EVERY)
                self._outside.ticks += 1
                self._measure(max(0.0, self._clock.monotonic() - due))
        finally:
            self._outside.over.set()  # of a crash we are not stopped at once, and nobody counts ticks any more

    @Service.task  # type: ignore[untyped-decorator]
    async def _look_regularly(self) -> None:
        while not self.should_stop:
            await self.sleep(LOOK_EVERY)
            await self.look()

    def _measure(self, lag: float) -> None:
        self._lags = [*self._lags[-WORST_OF + 1 :], lag]
        METRICS.measure("crossdock_loop_lag_seconds", max(self._lags))
        METRICS.measure("crossdock_silence_seconds", max((silent for _, _, silent in self._silent()), default=0.0))
        for reader in self._readers:
            METRICS.measure("crossdock_oldest_open_seconds", reader.oldest_open, reader.group.name)
            METRICS.measure("crossdock_open_records", reader.open_records, reader.group.name)
        if lag > LAG and self._may_tell("lag"):
            log.warning("loop.lagged seconds=%.1f (something computed or waited in the event loop)", lag)

    def _silent(self) -> list[tuple[str, Reader | None, float]]:
        lanes = [(pulse.name, reader, pulse.silent) for reader in self._readers for pulse in reader.pulses]
        return [*lanes, *((pulse.name, None, pulse.silent) for pulse in self._ownership.pulses)]

    async def look(self) -> None:
        """Raises Stuck, which ends the process."""
        for what, overdue in (each for threads in self._threads for each in threads.overdue()):
            self._tell(f"call {what}", overdue)
            if overdue > STUCK:
                raise Stuck(f"the connector's call {what} is {overdue:.0f} s beyond its deadline")
        quiet = [each for each in self._silent() if each[2] > QUIET]
        if not quiet:
            self._answers_since = None
            return
        await self._ask_the_broker()
        for name, reader, silent in quiet:
            self._tell(name, silent)
            if silent > STUCK and self._answered_for() >= STUCK - QUIET:
                if reader is not None:
                    reader.work_raised = True  # it counts as a crash on its first open record
                raise Stuck(f"{name} has done nothing for {silent:.0f} s, and the broker answers")

    def _tell(self, what: str, seconds: float) -> None:
        if seconds > QUIET and self._may_tell(what):
            answers = "unknown" if self._answers_since is None else f"for {self._answered_for():.0f} s"
            log.error("progress.stuck what=%s seconds=%.0f broker_answers=%s", what, seconds, answers)

    def _may_tell(self, what: str) -> bool:
        now = self._clock.monotonic()
        if now - self._told.get(what, -TOLD_EVERY) < TOLD_EVERY:
            return False
        self._told[what] = now
        return True

    def _answered_for(self) -> float:
        return 0.0 if self._answers_since is None else self._clock.monotonic() - self._answers_since

    async def _ask_the_broker(self) -> None:
        client = self._kafka.client()
        try:
            await asyncio.wait_for(client.bootstrap(), 5.0)
        except (KafkaError, TimeoutError):
            self._answers_since = None
        else:
            if self._answers_since is None:
                self._answers_since = self._clock.monotonic()
        finally:
            await client.close()


class Outside(threading.Thread):
    """Looks at the loop from outside, as a blocked loop cannot look at itself.

    It counts its own looks and not the time, so that a process that was stopped for an hour is not taken for blocked.
    """

    def __init__(self, leave: Callable[[int], Any] = os._exit, every: float = 1.0) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._leave, self._every, self._loop_thread = leave, every, threading.get_ident()
        self.over = threading.Event()
        self.ticks = 0

    def run(self) -> None:
        seen, looks = -1, 0
        while not self.over.wait(self._every):
            seen, looks = self.ticks, (0 if self.ticks != seen else looks + 1)
            if looks in (5, 20, BLOCKED):
                log.error("loop.blocked looks=%d at=%s", looks, self._where())
            if looks >= BLOCKED:
                self._leave(1)
                return

    def _where(self) -> str:
        """The innermost frames of the loop's thread, the last one first."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the only way, and documented
        frames = traceback.extract_stack(frame)[-6:] if frame is not None else []
        return " < ".join(f"{each.filename.rpartition('/')[2]}:{each.lineno} {each.name}" for each in reversed(frames))
