"""Threads for the blocking calls of connectors: whatever a call raises ends as a defect does, and one that does not
return is known.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from connectors.clock import Clock
from streams.runtime.pulse import beat

_T = TypeVar("_T")


class Defect(Exception):
    """A connector raised what no connector may raise."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call that has not returned."""

    what: str
    until: float
    """The clock's seconds at which it was to be back."""


class Threads:
    """A bounded pool."""

    def __init__(self, name: str, size: int, clock: Clock) -> None:
        self._pool, self._clock = ThreadPoolExecutor(max_workers=size, thread_name_prefix=name), clock
        self._out: set[Call] = set()

    async def call(self, call: Callable[..., _T], *arguments: Any, patience: float) -> _T:
        """Runs a blocking call that is to be back within `patience` seconds.

        Raises:
            Defect: it raised `StopIteration`, on which a future waits for ever; a `CancelledError`, which would end
                its task without a word; or what is no `Exception`: `SystemExit` would end the process as if all
                were well.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, call, arguments, patience)
        finally:
            beat()

    def overdue(self) -> Iterator[tuple[str, float]]:
        """Calls that should be back, and for how many seconds."""
        now = self._clock.monotonic()
        return ((each.what, now - each.until) for each in tuple(self._out) if each.until < now)

    def _run(self, call: Callable[..., _T], arguments: tuple[Any, ...], patience: float) -> _T:
        what = str(getattr(call, "__qualname__", call))
        out = Call(what, self._clock.monotonic() + patience)
        self._out.add(out)
        try:
            return call(*arguments)
        except (StopIteration, CancelledError) as error:
            raise Defect(f"{what} raised {error!r}") from error
        except Exception:
            raise
        except BaseException as error:
            raise Defect(f"{what} raised {error!r}") from error
        finally:
            self._out.discard(out)
