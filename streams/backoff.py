"""How long to wait before the next try: exponential, with full jitter; and the waiting."""

import asyncio
import contextlib
import random

from streams.runtime.pulse import rest


def backoff(tries: int, longest: float = 10.0) -> float:
    """Seconds before try number `tries + 1`: up to one after the first, doubled with each, never above `longest`."""
    return random.uniform(0.1, min(longest, 0.5 * 2 ** min(tries, 8)))  # noqa: S311 - jitter, not a secret


async def wait_for_stop(stop: asyncio.Event, seconds: float) -> None:
    """Waits so long, or until `stop` is set."""
    if seconds <= 0:
        return
    with rest(), contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
