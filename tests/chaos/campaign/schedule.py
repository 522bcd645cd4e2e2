"""The schedule: which fault happens when. A pure function of the scenario, the seed and the size."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple


class Size(NamedTuple):
    """How much is asked for."""

    seconds: float
    """How long the load lasts, and with it the faults."""
    events: int
    """Versions that people commit at the sources; the hub's own echoes come on top."""


class Step(NamedTuple):
    """One fault."""

    at: float
    """Seconds after the load began."""
    fault: str
    """Its name in `faults.py`."""
    arguments: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        return {"at": self.at, "fault": self.fault, **self.arguments}


Plan = Callable[[random.Random, Size], list[Step]]


def schedule_of(name: str, plan: Plan, seed: int, size: Size) -> list[Step]:
    """The steps in the order in which they are due."""
    return sorted(plan(random.Random(f"{name}/{seed}"), size), key=lambda step: step.at)


def moments(chance: random.Random, size: Size, shortest: float, longest: float, first: float = 8.0) -> Iterator[float]:
    """Moments with random gaps, from when the workers are up to the end of the load."""
    at = first
    while at < size.seconds:
        yield round(at, 2)
        at += chance.uniform(shortest, longest)


def evenly(count: int, size: Size, first: float = 8.0) -> Iterator[float]:
    """So many moments, as far from each other as the load allows."""
    gap = max(0.0, size.seconds - first) / max(1, count)
    yield from (round(first + number * gap, 2) for number in range(count))
