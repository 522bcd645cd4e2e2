"""The life of a worker's process, from its first task to its exit code. However it ends, it ends in bounded time.

```
SIGTERM, SIGINT -> work in hand may end within the drain -> commit -> leave the groups -> exit 0
the same again  -> nothing is waited for any more         -> commit -> exit 0
a crash         -> as the first, but the groups keep our place for whoever comes again -> exit 1
```
What still hangs when the time is over (a connector that ignores its deadline, a broker that is away, a blocked loop) is
left by `os._exit`. That is what SIGKILL would do: nothing is acknowledged that was not done, and it comes again.
"""

import asyncio
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType

from connectors.clock import Clock
from streams.runtime.app import WorkerApp

log = logging.getLogger("crossdock.streams.life")

GRACE = 5.0
"""Seconds beyond the drain in which everything must have ended."""
HURRY = 2.0
"""Seconds for whoever is told twice, and for what is left once the app has stopped."""


def signals() -> list[signal.Signals]:
    """Those that tell a process to end. A terminal that was closed is one of them, unless `nohup` says otherwise."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hang_up]


def end_at_once_when_told() -> None:
    """For the time before there is a life, when nothing is in hand.

    The first process of a container would else hear no signal at all.
    """
    for number in signals():
        signal.signal(number, lambda number, frame: os._exit(0))  # noqa: ARG005 - signal's own signature


class Life:
    """One process. Made and run in its main thread."""

    def __init__(self, make: Callable[[], WorkerApp], clock: Clock) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)  # Faust's app takes it when it is made
        self._app = make()
        self._end = _End(clock)
        self._told = asyncio.Event()
        self._times_told = 0

    def run(self) -> int:
        """Returns the exit code: 0 when it was told to end, 1 after a crash."""
        self._end.start()
        for number in signals():
            signal.signal(number, self._tell)
        try:
            self._crashed(self._loop.run_until_complete(self._live()))
        except BaseException as error:  # noqa: BLE001 - what even the loop did not hold, as SystemExit
            self._crashed(error)
        self._end.within(self._app.drain + GRACE)
        try:
            self._loop.run_until_complete(self._app.stop())
            self._close()
        except BaseException as error:  # noqa: BLE001 - whatever it is, this is the end
            self._crashed(error)
        self._end.within(HURRY)  # nothing is acknowledged any more: whose call goes on in a thread, goes on in vain
        return self._end.code

    async def _live(self) -> BaseException | None:
        """Returns why it crashed; None = it was told to end."""
        starting = asyncio.ensure_future(self._app.start())
        over = {asyncio.ensure_future(self._told.wait()), asyncio.ensure_future(self._app.wait_until_stopped())}
        await asyncio.wait({starting, *over}, return_when=asyncio.FIRST_COMPLETED)
        if not (starting.done() and starting.exception()):
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        for each in over:
            each.cancel()
        reason: BaseException | None = self._app.crash_reason
        return starting.exception() if reason is None and starting.done() else reason

    def _crashed(self, reason: BaseException | None) -> None:
        if reason is not None:
            self._end.code = 1
            log.error("worker.crashed reason=%r", reason, exc_info=reason)

    def _tell(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's own signature
        """A signal's handler. It runs between any two steps of the main thread, so also where the loop is blocked."""
        self._times_told += 1
        if self._loop.is_closed():
            self._end.within(HURRY)
        elif self._times_told == 1:
            self._end.within(self._app.drain + GRACE)
            self._loop.call_soon_threadsafe(self._told.set)
        else:
            self._end.within(HURRY)
            self._loop.call_soon_threadsafe(self._app.hurry)

    def _close(self) -> None:
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        self._loop.close()


class _End(threading.Thread):
    """Ends the process when its time is over, whatever the others do."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(name="end", daemon=True)
        self._clock, self._times = clock, queue.SimpleQueue[float]()  # may be used in a signal's handler
        self.code = 0

    def within(self, seconds: float) -> None:
        """The earliest of all times that were told holds."""
        self._times.put(self._clock.monotonic() + seconds)

    def run(self) -> None:
        until = self._times.get()
        while (left := until - self._clock.monotonic()) > 0:
            try:
                until = min(until, self._times.get(timeout=left))
            except queue.Empty:
                break
        saying = threading.Thread(target=self._say, daemon=True)  # a log that nobody reads may hang too
        saying.start()
        saying.join(1.0)
        os._exit(self.code)

    def _say(self) -> None:
        hanging = {
            each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()
        }
        log.warning("worker.left hanging=%s (what was in hand comes again)", ",".join(sorted(hanging)) or "-")
