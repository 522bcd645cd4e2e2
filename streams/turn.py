"""The turn of a source task: how long it goes on, and how long it waits between two tries."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from streams import pauses
from streams.backoff import backoff
from streams.control import Control
from streams.runtime.compacted import Follower
from streams.runtime.pulse import rest


@dataclass(frozen=True, slots=True)
class Turn:
    """The time from one opening of a task to the next: it ends with the worker, with a move to make, with a pause, or
    when what it follows does not go on.
    """

    control: Control
    pipeline: str
    task: str
    done: str | None
    """The move that was carried out last."""
    stop: asyncio.Event
    follower: Follower | None = None

    @property
    def is_over(self) -> bool:
        if self.follower is not None and self.follower.crashed:
            return True
        if self.stop.is_set() or self.control.move(self.task, self.done) is not None:
            return True
        return pauses.standing(self.control, self.pipeline) is not None

    async def rest(self, seconds: float) -> None:
        """Waits, but not beyond its end."""
        try:
            with rest():
                async with asyncio.timeout(seconds):
                    while not self.is_over:
                        await first_of(self.stop.wait(), self.control.moved.wait())
        except TimeoutError:
            return


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Returns when the first of them does."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in tasks:
            each.cancel()


class Patience:
    """Pauses that grow from half a second to half a minute, with full jitter."""

    def __init__(self) -> None:
        self.tries = 0
        """In a row, without success."""

    def next(self) -> float:
        self.tries += 1
        return backoff(self.tries, 30.0)

    def reset(self) -> None:
        self.tries = 0
