"""What people do meanwhile: those at the target, and those who look after the hub, with its own commands."""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from kafka import KafkaAdminClient

from streams.topics import HubTopics
from tests.chaos.campaign.evidence import FLOWS, PREFIX, Flow
from tests.chaos.campaign.faults import NotPossible, at_work, until
from tests.chaos.campaign.load import KEYS

if TYPE_CHECKING:
    from tests.chaos.campaign.run import Run

BACK = 400
"""Records of a partition that are written again when somebody moves its offset."""


def crossdock(run: "Run", *words: str) -> dict[str, Any]:
    """A command of the hub, and the JSON object that it answers with; `error` alone if it failed."""
    command = [sys.executable, "-m", "crossdock", *words, "--json"]
    done = subprocess.run(command, env=run.stage.environ, capture_output=True, text=True, timeout=180, check=False)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"error": done.stderr[-500:]}
    return found


def deadlocks(run: "Run", seconds: float, people: int) -> None:
    """People lock copies in any order and hold them for a moment; the hub locks the same ones in its own order."""
    at_work(run, 0)
    end, aborted = time.monotonic() + seconds, [0] * people
    threads = [threading.Thread(target=_person, args=(run, number, people, end, aborted)) for number in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.measure("people_aborted", sum(aborted))
    run.measure("hub_gave_way", run.stage.postgres.log_file.read_text().count("due to lock timeout"))


def _person(run: "Run", number: int, people: int, end: float, aborted: list[int]) -> None:
    chance, engine = random.Random(f"{run.seed}/{number}"), run.stage.connect()
    mine = [key for key in range(1, KEYS["notices"] + 1) if key % people == number]
    while time.monotonic() < end:
        try:
            with engine.begin() as connection:
                for key in chance.sample(mine[:200], 20):
                    connection.execute(sa.text("SELECT 1 FROM copies WHERE id = :id FOR UPDATE"), {"id": key})
                    time.sleep(0.01)
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != "40P01":
                raise
            aborted[number] += 1
    engine.dispose()


class Operator:
    """Sends dead letters again and moves offsets back, whenever that is wanted."""

    def __init__(self, run: "Run", wanted: Callable[[], bool]) -> None:
        self._run, self._wanted, self._chance = run, wanted, random.Random(run.seed)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="operator", daemon=True)
        self.done = 0
        """Commands that the hub carried out."""

    def __enter__(self) -> "Operator":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        hub = str(self._run.stage.hub)
        while not self._ending.wait(0.5):
            if not self._wanted():
                continue
            self.done += "error" not in crossdock(self._run, "dead", "replay", hub, "--reason", "campaign")
            flow = FLOWS[self._chance.choice(self._run.scenario.pipelines)]
            stands = self._stands(flow)
            if stands is not None and not self._ending.is_set():
                subject, offset = stands
                to = str(max(0, offset - BACK))
                self.done += "error" not in crossdock(
                    self._run, "offsets", "set", hub, subject, to, "--reason", "campaign", "--yes"
                )

    def _stands(self, flow: Flow) -> tuple[str, int] | None:
        """One partition of a write group that has committed something, and where it stands."""
        shown = crossdock(self._run, "offsets", "show", str(self._run.stage.hub))
        start = f"write.{flow.target}/{flow.pipeline}.enriched/"
        found = {each["subject"]: each["committed"] for each in shown.get("groups", ()) if each["committed"]}
        mine = sorted((subject, offset) for subject, offset in found.items() if subject.startswith(start))
        return self._chance.choice(mine) if mine else None


def lose_offsets(run: "Run") -> None:
    """The topic of the sources' offsets is gone. A person has everything read again: nothing may change by that."""
    run.load.stop()
    run.come_to_rest()
    before, read = run.effects(), run.read()
    run.workers.stop()
    topic = HubTopics.of(PREFIX).offsets.name
    client = KafkaAdminClient(bootstrap_servers=run.stage.broker.bootstrap)
    client.delete_topics([topic])
    until(lambda: topic not in client.list_topics(), "the topic to be gone")
    client.close()
    run.workers.start(run.scenario.workers)
    at_work(run, 0)
    until(lambda: run.workers.logged("trouble=lost") >= len(run.scenario.pipelines), "every source to stop", 120)
    for name in run.scenario.pipelines:
        words = ("offsets", "reset", str(run.stage.hub), FLOWS[name].task, "--reason", "campaign")
        moved = crossdock(run, *words, "--yes", "--wait", "60")
        if not moved.get("done"):
            raise NotPossible(f"the offset of {FLOWS[name].task} was not reset: {moved}")
    run.come_to_rest()
    run.measure("read_again", run.read() - read)
    run.measure("new_effects", run.effects() - before)


OF_PEOPLE: Mapping[str, Callable[..., None]] = {each.__name__: each for each in (deadlocks, lose_offsets)}
