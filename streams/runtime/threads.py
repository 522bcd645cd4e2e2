"""Threads for the blocking calls of connectors: whatever a call raises ends as a defect does, and one that does not
return is known.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from connectors.clock import Clock
from streams.runtime.pulse import Pulse, present

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Defect(Exception):
    """A connector raised what no connector may raise."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One that has not returned."""

    what: str
    until: float
    """The clock's seconds at which it was to be back."""


class Threads(ThreadPoolExecutor):
    """A bounded pool.

    A call raises `Defect` where it raised `StopIteration`, on which a future waits for ever; a `CancelledError`, which
    would end its task without a word; or what is no `Exception`: `SystemExit` would end the process as if all were
    well.
    """

    def __init__(self, name: str, size: int, patience: float, clock: Clock) -> None:
        """`patience`: seconds within which each call is to be back."""
        super().__init__(max_workers=size, thread_name_prefix=name)
        self._patience, self._clock = patience, clock
        self._out: set[_Call] = set()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        return super().submit(self._run, present(), fn, args, kwargs)

    def overdue(self) -> Iterator[tuple[str, float]]:
        """Calls that should be back, and for how many seconds."""
        now = self._clock.monotonic()
        return ((each.what, now - each.until) for each in tuple(self._out) if each.until < now)

    def _run(self, pulse: Pulse | None, call: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _T:
        what = str(getattr(call, "__qualname__", call))
        out = _Call(what, self._clock.monotonic() + self._patience)
        self._out.add(out)
        try:
            return call(*args, **kwargs)
        except (StopIteration, CancelledError) as error:
            raise Defect(f"{what} raised {error!r}") from error
        except Exception:
            raise
        except BaseException as error:
            raise Defect(f"{what} raised {error!r}") from error
        finally:
            self._out.discard(out)
            if pulse is not None:
                pulse.beat()
