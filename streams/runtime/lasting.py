"""Services that never end silently: what a task of theirs does that nobody asked for ends the process.

mode crashes a service whose task raises. It says nothing where a task returns, or is cancelled by its own code: then a
reader would stand still for ever, and look alive.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from mode import Service

_S = TypeVar("_S", bound=Service)


class EndedByItself(Exception):
    """A task that lives as long as its service returned, or was cancelled from inside."""


class Lasting(Service):  # type: ignore[misc]
    """A service whose tasks and timers live as long as it does."""

    def add_future(self, coro: Awaitable[Any]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = super().add_future(self._to_the_end(coro))
        return future

    async def _to_the_end(self, coro: Awaitable[Any]) -> None:
        cause: BaseException | None = None
        try:
            await coro
        except asyncio.CancelledError as error:
            if self.should_stop or was_cancelled():
                raise
            cause = error
        if not self.should_stop:
            raise EndedByItself(f"a task of {self.label} ended") from cause


def was_cancelled() -> bool:
    """Whether the present task was told to end. A `CancelledError` without that was raised by the code it runs."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def crashing(
    method: Callable[[_S, Any], Coroutine[Any, Any, None]],
) -> Callable[[_S, Any], Coroutine[Any, Any, None]]:
    """For a rebalance listener: aiokafka logs what it raises and goes on as if it had done its work."""

    @wraps(method)
    async def guarded(self: _S, partitions: Any) -> None:
        try:
            await method(self, partitions)
        except BaseException as error:
            if not (isinstance(error, asyncio.CancelledError) and was_cancelled()):
                await self.crash(error)
            raise

    return guarded


async def unless(hurry: asyncio.Event, awaited: Awaitable[None]) -> None:
    """Returns when it has happened, or nothing is waited for any more."""
    waits = {asyncio.ensure_future(awaited), asyncio.ensure_future(hurry.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
