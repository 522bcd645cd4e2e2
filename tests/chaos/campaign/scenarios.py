"""The scenarios: what goes wrong in a run, and what besides the checker's verdict must hold."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectors.failpoints import TRANSITIONS
from tests.chaos.campaign.faults import ZOMBIE
from tests.chaos.campaign.schedule import Plan, Size, Step, evenly, moments

ALL = ("orders", "copies", "aircraft", "reports")
PROXIED = ("flightops", "warehouse", "registry", "stations")
LONGEST_DRAIN = 20.0
"""Seconds: `timeouts: total` of the campaign's systems."""


def _anywhere() -> str | None:
    return None


@dataclass(frozen=True)
class Scenario:
    """One kind of trouble."""

    name: str
    about: str
    plan: Plan
    workers: int = 2
    brokers: int = 1
    pipelines: tuple[str, ...] = ALL
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further arguments of the register and the stations."""
    proxied: tuple[str, ...] = ()
    changes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Pipeline -> a line of its file, and what stands there instead."""
    poison: float = 0.0
    """Share of the orders and notices whose write is refused."""
    faketime: bool = False
    """The workers' wall clock is ours."""
    limits: Mapping[str, float] = field(default_factory=lambda: {"crashed_lives": 0})
    """What was measured -> its largest value that is allowed."""
    by_name_only: bool = False
    """Not one of `all`: another scenario does the same, and more."""
    impossible: Callable[[], str | None] = _anywhere
    """Why it cannot be played on this machine; None = it can."""


def _kills(chance: random.Random, size: Size) -> list[Step]:
    return [
        Step(at, "kill", {"worker": chance.randrange(2), "after": round(chance.uniform(0.0, 4.0), 2)})
        for at in moments(chance, size, 2.0, 8.0)
    ]


def _terminations(chance: random.Random, size: Size) -> list[Step]:
    return [
        Step(at, "terminate", {"worker": number % 2, "after": round(chance.uniform(0.0, 4.0), 2)})
        for number, at in enumerate(moments(chance, size, 6.0, 12.0))
    ]


def _zombies(chance: random.Random, size: Size) -> list[Step]:
    return [
        Step(
            at,
            "freeze",
            {
                "worker": chance.randrange(2),
                "after": round(chance.uniform(0.5, 4.0), 2),
                "seconds": round(chance.uniform(ZOMBIE, ZOMBIE + 4), 1),
            },
        )
        for at in moments(chance, size, 15.0, 25.0)
    ]


_EACH_IS_PASSED: dict[str, Any] = {
    "changes": {
        "aircraft": ("idempotency: natural", "idempotency: none"),  # intents and doubts
        "reports": ("if_changed: newer_comes", "if_changed: reread"),
    },
    "flags": {"registry": ["--locking", "0.02"]},  # records that are sick alone, and parked
    "poison": 0.02,  # letters to send again
}
"""What a scenario needs for every failpoint to be passed."""


def _failpoints(*actions: str, times: int = 1) -> Plan:
    """Every failpoint with every action, shuffled: each in a life of its own, at one of the first passages."""

    def plan(chance: random.Random, size: Size) -> list[Step]:
        armed = [f"{name}:{chance.randint(1, times)}:{action}" for name in TRANSITIONS for action in actions]
        chance.shuffle(armed)
        return [Step(5.0, "failpoints", {"armed": armed})]

    return plan


def _each_failpoint_once(chance: random.Random, size: Size) -> list[Step]:
    actions = chance.choices(["kill", "raise"], [3, 1], k=len(TRANSITIONS))  # an orderly end takes three times as long
    armed = [f"{name}:1:{action}" for name, action in zip(TRANSITIONS, actions, strict=True)]
    chance.shuffle(armed)
    return [Step(5.0, "failpoints", {"armed": armed})]


def _broker_restarts(chance: random.Random, size: Size) -> list[Step]:
    return [Step(at, "restart_broker", {"hard": chance.random() < 0.5}) for at in moments(chance, size, 12.0, 25.0)]


def _database_restarts(chance: random.Random, size: Size) -> list[Step]:
    return [Step(at, "restart_database", {"hard": chance.random() < 0.7}) for at in moments(chance, size, 4.0, 12.0)]


def _nodes(chance: random.Random, size: Size) -> list[Step]:
    due = moments(chance, size, 25.0, 35.0)
    return [Step(at, "kill_node", {"node": chance.randrange(3), "seconds": 20.0}) for at in due]


def _broken_lines(chance: random.Random, size: Size) -> list[Step]:
    """Cut commits the whole time; between them connections that break, hang and limp."""
    kinds: list[tuple[str, dict[str, object]]] = [
        ("cut_commits", {"seconds": 12.0, "share": 0.2}),
        ("limit", {"seconds": 6.0, "size": 20_000}),
        ("swallow", {"seconds": 8.0}),
        ("delay", {"seconds": 6.0, "by": 0.2}),
    ]
    steps = []
    for number, at in enumerate(moments(chance, size, 8.0, 14.0)):
        fault, arguments = kinds[0] if number % 2 == 0 else chance.choice(kinds[1:])
        systems = PROXIED[:2] if fault == "cut_commits" else PROXIED
        steps.append(Step(at, fault, {"system": chance.choice(systems), **arguments}))
    return steps


def once(fault: str, /, at: float = 8.0, **arguments: object) -> Plan:
    """One fault at one moment."""
    return lambda chance, size: [Step(at, fault, arguments)]


def in_turn(*steps: Step) -> Plan:
    """The same steps whatever the seed."""
    return lambda chance, size: list(steps)


def _bytes(chance: random.Random, size: Size) -> list[Step]:
    """Bytes that are no event: noise, half a JSON, an event without its headers, nothing at all."""

    def values(number: int) -> list[str]:
        noise = bytes(chance.randrange(256) for _ in range(40))
        half = b'{"op": "upsert", "key": {"id": %d' % chance.randrange(10**9)
        bare = b'{"op": "upsert", "key": {"id": 1}, "version": "%d"}' % chance.randrange(10**9)
        return [noise.hex(), half.hex(), bare.hex(), b"[".hex() * (1000 + number)]

    pipelines = [chance.choice(ALL) for _ in range(4)]
    return [
        Step(at, "inject_bytes", {"pipeline": name, "values": values(number)})
        for number, (name, at) in enumerate(zip(pipelines, evenly(4, size), strict=True))
    ]


def _clock_steps(chance: random.Random, size: Size) -> list[Step]:
    jumps = [3600.0, -3600.0, -1.0, 0.0, 86_400.0, -2.0]
    return [Step(at, "step_clock", {"seconds": chance.choice(jumps)}) for at in moments(chance, size, 5.0, 10.0)]


def _no_mounts() -> str | None:
    if os.geteuid() != 0:
        return "needs root, to mount a small file system"
    return None if os.environ.get("CROSSDOCK_CHAOS_OWN_MOUNTS") else "needs mounts of its own (unshare was refused)"


def faketime_library() -> str | None:
    """Path of libfaketime, from Debian's package of that name."""
    places = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return os.environ.get("CROSSDOCK_LIBFAKETIME") or (str(places[0]) if places else None)


def _no_faketime() -> str | None:
    return None if faketime_library() else "needs libfaketime (apt-get install libfaketime)"


_LYING = ["--lost-replies", "0.05", "--errors", "0.01", "--pages", "0.003", "--slow", "0.01"]

SCENARIOS = {
    each.name: each
    for each in [
        Scenario("kill", "random SIGKILL of workers", _kills),
        Scenario(
            "failpoints",
            "every failpoint x {kill, raise}, in the lives of a worker that is alone",
            _failpoints("kill", "raise", times=3),
            workers=1,
            limits={"unreached": 0},
            **_EACH_IS_PASSED,
        ),
        Scenario(
            "failpoints-stop",
            "every failpoint: the worker stops there for longer than a session, another takes over, it goes on",
            _failpoints("stop"),
            limits={},
            **_EACH_IS_PASSED,
        ),
        Scenario(
            "failpoints-once",
            "every failpoint once, with kill or raise",
            _each_failpoint_once,
            workers=1,
            limits={"unreached": 0},
            by_name_only=True,
            **_EACH_IS_PASSED,
        ),
        Scenario("zombie", "SIGSTOP for longer than a session, then SIGCONT", _zombies),
        Scenario(
            "terminate",
            "SIGTERM under load",
            _terminations,
            limits={"exit_s": LONGEST_DRAIN + 5, "redelivered": 0, "crashed_lives": 0},
        ),
        Scenario(
            "broker-restart",
            "the broker ends, cleanly or not, and starts again",
            _broker_restarts,
            limits={"first_commit_s": 15, "crashed_lives": 0},
        ),
        Scenario(
            "broker-away",
            "no broker for 60 s",
            once("broker_away", seconds=60.0),
            limits={"first_commit_s": 15, "memory_growth_mb": 64, "crashed_lives": 0},
        ),
        Scenario(
            "broker-lost",
            "three brokers, of which one is killed",
            _nodes,
            brokers=3,
            limits={"first_commit_s": 30, "crashed_lives": 0},
        ),
        Scenario("database-restart", "the database ends, cleanly or not, and starts again", _database_restarts),
        Scenario(
            "broken-lines",
            "answers to COMMIT that never arrive, connections that break, hang and limp",
            _broken_lines,
            proxied=PROXIED,
        ),
        Scenario(
            "target-away",
            "a target is away for 60 s while its source goes on; then the others",
            in_turn(
                Step(8.0, "system_away", {"system": "warehouse", "seconds": 60.0}),
                Step(70.0, "system_away", {"system": "registry", "seconds": 20.0}),
                Step(90.0, "system_away", {"system": "stations", "seconds": 20.0}),
            ),
            proxied=("warehouse", "registry", "stations"),
            limits={"attempts_per_5s_warehouse": 1.1, "crashed_lives": 0},
        ),
        Scenario(
            "long-outage",
            "a target is away for ten minutes; MINUTES=11 at least, so that its source goes on",
            once("system_away", at=60.0, system="warehouse", seconds=600.0),
            proxied=("warehouse",),
            limits={"attempts_per_5s_warehouse": 1.1, "memory_growth_mb": 64, "crashed_lives": 0},
            by_name_only=True,
        ),
        Scenario(
            "disk-full",
            "no room in the target's file system",
            in_turn(Step(0.0, "small_disk", {"megabytes": 16}), Step(10.0, "fill_disk", {"seconds": 20.0})),
            impossible=_no_mounts,
        ),
        Scenario(
            "deadlocks",
            "people lock the target's rows in another order",
            once("deadlocks", seconds=30.0, people=3),
            limits={"people_aborted": 0, "crashed_lives": 0},
        ),
        Scenario(
            "lying-targets",
            "replies lost after the work, bursts of 500, slow answers, login pages with 200",
            in_turn(),
            flags={"registry": [*_LYING, "--seed", "1"], "stations": [*_LYING, "--seed", "2"]},
        ),
        Scenario(
            "poison",
            "rows that their target refuses, aircraft that fail their whole call, bytes that are no event",
            _bytes,
            flags={"registry": ["--rejected", "N00007", "--faulty", "N00011"]},
            poison=0.004,
        ),
        Scenario(
            "clock-step",
            "the workers' wall clock jumps",
            _clock_steps,
            faketime=True,
            impossible=_no_faketime,
        ),
        Scenario(
            "two-hubs", "one configuration, started twice", once("second_hub", seconds=25.0), workers=1, limits={}
        ),
        Scenario(
            "scale",
            "one worker, three, and one again",
            in_turn(Step(8.0, "scale", {"workers": 3}), Step(30.0, "scale", {"workers": 1})),
            workers=1,
            limits={"exit_s": LONGEST_DRAIN + 5, "crashed_lives": 0},
        ),
        Scenario(
            "offsets-lost",
            "the topic of the sources' offsets is deleted, everything is read again",
            lambda chance, size: [Step(size.seconds, "lose_offsets", {})],
            limits={"new_effects": 0, "crashed_lives": 0},
        ),
    ]
}
"""By name, in the order in which `make chaos` runs them."""
