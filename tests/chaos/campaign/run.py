"""One run: a scenario, a seed and a size; servers, workers, load and faults; then rest, and the verdict."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectors.errors import Retriable
from crossdock.checker.history import Committed
from crossdock.checker.judge import SHOWN, Verdict
from streams.admin import Admin
from tests.chaos.campaign.evidence import FLOWS
from tests.chaos.campaign.faults import NotPossible
from tests.chaos.campaign.load import Load
from tests.chaos.campaign.outages import FAULTS
from tests.chaos.campaign.scenarios import Scenario, faketime_library
from tests.chaos.campaign.schedule import Size, Step, schedule_of
from tests.chaos.campaign.stage import CampaignStage
from tests.chaos.campaign.trace import traces
from tests.chaos.campaign.watch import Watch
from tests.chaos.campaign.workers import Workers

Tell = Callable[[str], None]

QUIET = 3.0
"""Seconds without anything new or waiting: the run is at rest."""
STUCK = 20.0
"""Seconds without any progress, after which a person would look for held partitions."""
PATIENCE = 90.0
"""Seconds without any progress, after which what waits is in flight for ever."""


@dataclass
class Run:
    """Everything of one run that faults work on."""

    scenario: Scenario
    seed: int
    size: Size
    folder: Path
    tell: Tell
    faults: list[dict[str, Any]] = field(default_factory=list)
    """What happened when, in seconds since 1970."""
    measures: dict[str, float] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    injected: dict[str, list[Committed]] = field(default_factory=dict)
    """Records that somebody else put on the topic of a pipeline."""
    unreached: list[str] = field(default_factory=list)
    """Armed failpoints that a life never came to."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    void: str = ""
    """Why the faults could not be made."""

    def __post_init__(self) -> None:
        self.schedule = schedule_of(self.scenario.name, self.scenario.plan, self.seed, self.size)
        self.stage = CampaignStage(
            self.folder,
            self.scenario.flags,
            brokers=self.scenario.brokers,
            proxied=self.scenario.proxied,
            seed=self.seed,
        )
        self.clock = self.folder / "clock"
        """What the workers' wall clock is ahead, where it is ours."""

    def play(self) -> None:
        """From empty systems to the verdict. Everything that was started is ended, however it goes."""
        self.stage.begin()
        self._choose_pipelines()
        self.workers = Workers(self.stage.hub, self._environ(), self.folder)
        self.watch = Watch(self.stage.broker.bootstrap, self.workers, self.scenario.pipelines)
        sources = {"copies": "notices"}
        chosen = tuple(sources.get(name, name) for name in self.scenario.pipelines)
        self.load = Load(self.stage, self.seed, self.size, chosen, self.scenario.poison)
        try:
            self.workers.start(self.scenario.workers)
            self.watch.start()
            self._go_wrong()
            self.come_to_rest()
            self._judge()
            self._measure_always()
            self.examples = self._examples()
        finally:
            self.load.stop()
            self.workers.stop()
            self.watch.stop()
            self.stage.end()

    def _choose_pipelines(self) -> None:
        for path in (self.stage.hub / "pipelines").iterdir():
            if path.stem not in self.scenario.pipelines:
                path.unlink()
            elif path.stem in self.scenario.changes:
                old, new = self.scenario.changes[path.stem]
                text = path.read_text()
                assert old in text
                path.write_text(text.replace(old, new))

    def _environ(self) -> dict[str, str]:
        if not self.scenario.faketime:
            return self.stage.environ
        self.clock.write_text("+0\n")
        ours = {
            "LD_PRELOAD": faketime_library() or "",
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        return {**self.stage.environ, **ours}

    def read(self) -> int:
        """Changes on the topics of all pipelines, so far."""
        with Admin(self.stage.broker.bootstrap) as admin:
            return sum(sum(1 for _ in admin.read(FLOWS[name].topics.changes.name)) for name in self.scenario.pipelines)

    def effects(self) -> int:
        """Effects in all targets, so far."""
        return sum(1 for name in self.scenario.pipelines for _ in FLOWS[name].effects(self.stage))

    def measure(self, name: str, value: float) -> None:
        """Notes a figure; of several the largest."""
        self.measures[name] = round(max(value, self.measures.get(name, value)), 2)

    def _measure_always(self) -> None:
        """What every run tells beside the verdict."""
        self.measure("longest_stall_s", self.watch.longest_stall[0])
        self.measure("partitions_held", self.workers.logged("partition.held"))
        self.measure("largest_worker_mb", max((mb for _, mb in self.watch.memory), default=0.0))
        self.measure("refused_entries", self.load.refused)
        ended = [life.code for life in self.workers.lives if life.code not in (None, 0, -signal.SIGKILL)]
        self.measure("crashed_lives", len(ended))
        if "redelivered" in self.scenario.limits:
            with Admin(self.stage.broker.bootstrap) as admin:
                self.measure("redelivered", sum(FLOWS[name].redelivered(admin) for name in self.scenario.pipelines))

    def _go_wrong(self) -> None:
        """The load, and the faults in it. The load lasts at least until the last fault has ended."""
        self.load.start()
        for step in self.schedule:
            self._wait_until(step.at)
            self._happen(step)
        self._wait_until(self.size.seconds)
        self.load.stop()

    def _wait_until(self, at: float) -> None:
        while (left := at - self.load.seconds) > 0:
            time.sleep(min(0.1, left))

    def _happen(self, step: Step) -> None:
        happened = {"fault": step.fault, **step.arguments, "from": time.time()}
        self.faults.append(happened)
        self.tell(f"{self.load.seconds:6.1f} s  {step.fault} {dict(step.arguments)}")
        try:
            FAULTS[step.fault](self, **step.arguments)
        except NotPossible as error:
            self.void = f"{step.fault}: {error}"
            self.tell(f"        {self.void}")
        happened["until"] = time.time()

    def come_to_rest(self) -> None:
        """Waits until nothing is new and nothing waits any more, or nothing moves."""
        before: list[int] = []
        quiet_since = moved_at = time.monotonic()
        restarted = False
        while True:
            time.sleep(0.5)
            now = time.monotonic()
            try:
                with Admin(self.stage.broker.bootstrap) as admin:
                    waiting = sum(FLOWS[name].behind(admin) for name in self.scenario.pipelines)
                    topics = [FLOWS[name].topics for name in self.scenario.pipelines]
                    sizes = [admin.size(topic.name) for each in topics for topic in (each.changes, each.receipts)]
            except Retriable:
                continue
            if sizes != before:
                before, quiet_since, moved_at = sizes, now, now
            if waiting:
                quiet_since = now
            if not restarted and now - moved_at >= STUCK and self.workers.logged("partition.held"):
                self._restart_in_order()
                restarted, moved_at = True, now
            if now - quiet_since >= QUIET or now - moved_at >= PATIENCE:
                return

    def _restart_in_order(self) -> None:
        """What the runbook tells a person to do about a partition that is held: here no record is to blame."""
        self.tell("        a partition is held after three kills in a row; the workers are restarted in order")
        for worker in self.workers.running:
            worker.terminate()

    def _judge(self) -> None:
        """Looks again for a while where something is missing: a source may just be about to be read."""
        for attempt in range(6):
            with Admin(self.stage.broker.bootstrap) as admin:
                for name in self.scenario.pipelines:
                    injected = self.injected.get(name, ())
                    self.verdicts[name] = FLOWS[name].judged(admin, self.stage, injected)
            if all(each.good for each in self.verdicts.values()):
                return
            if attempt < 5:
                time.sleep(3.0)

    def _examples(self) -> list[dict[str, Any]]:
        """The first ten counter-examples, all flows in turn, each with its trace."""
        bad = {name: each.examples for name, each in self.verdicts.items() if each.counts}
        turns = [(name, found[turn]) for turn in range(SHOWN) for name, found in bad.items() if turn < len(found)]
        told = traces(self, bad) if bad else {}
        return [
            {"flow": name, **each._asdict(), "trace": told.get((name, each.key), [])} for name, each in turns[:SHOWN]
        ]

    # The verdict

    @property
    def exceeded(self) -> dict[str, float]:
        """Measures that are larger than they may be."""
        limits = self.scenario.limits
        return {name: value for name, value in self.measures.items() if value > limits.get(name, float("inf"))}

    @property
    def good(self) -> bool:
        sound = all(each.good for each in self.verdicts.values())
        return bool(self.verdicts) and sound and not self.exceeded and not self.void

    def summary(self) -> dict[str, Any]:
        """The verdict as JSON has it."""
        lives = self.workers.lives
        found = {name: each.figures for name, each in self.verdicts.items()}
        return {
            "ok": self.good,
            "scenario": self.scenario.name,
            "seed": self.seed,
            "events": sum(figures["changes"] for figures in found.values()),
            "faults": len(self.faults),
            "lives": len(lives),
            "violations": {name: dict(each.counts) for name, each in self.verdicts.items() if each.counts},
            "examples": self.examples,
            "measures": self.measures,
            "stalled": self.watch.longest_stall[1],
            "exceeded": self.exceeded,
            **({"void": self.void} if self.void else {}),
            **({"unreached": self.unreached} if self.unreached else {}),
            "flows": found,
        }


def forget(folder: Path) -> None:
    """Removes what a run left."""
    shutil.rmtree(folder, ignore_errors=True)


def written(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
