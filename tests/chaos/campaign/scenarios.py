"""The scenarios: what goes wrong in a run, and what besides the checker's verdict must hold."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.campaign.schedule import Plan, Size, Step, moments


@dataclass(frozen=True)
class Scenario:
    """One kind of trouble."""

    name: str
    about: str
    plan: Plan
    workers: int = 2
    pipelines: tuple[str, ...] = ("orders", "copies", "aircraft", "reports")
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further arguments of the register and the stations."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """What was measured -> its largest value that is allowed."""


def _kills(chance: random.Random, size: Size) -> list[Step]:
    return [
        Step(at, "kill", {"worker": chance.randrange(2), "after": round(chance.uniform(0.0, 4.0), 2)})
        for at in moments(chance, size, 2.0, 8.0)
    ]


SCENARIOS = {
    each.name: each
    for each in [
        Scenario("kill", "random SIGKILL of workers", _kills),
    ]
}
"""By name, in the order in which `make chaos` runs them."""
