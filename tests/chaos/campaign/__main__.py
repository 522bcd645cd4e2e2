"""`python -m tests.chaos.campaign`: runs scenarios, tells what happens on stderr, and prints one JSON verdict."""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.chaos.campaign.run import Run, written
from tests.chaos.campaign.scenarios import SCENARIOS
from tests.chaos.campaign.schedule import Size, schedule_of

FOLDER = Path(".crossdock/chaos")


def main(arguments: list[str]) -> int:
    """Returns 0 if every scenario held, 1 if one did not, 2 for a wrong command line."""
    chosen = _parsed(arguments)
    size = Size(seconds=chosen.minutes * 60, events=chosen.events)
    names = (
        [name for name, each in SCENARIOS.items() if not each.by_name_only]
        if chosen.scenario == "all"
        else chosen.scenario.split(",")
    )
    if chosen.schedule:
        for name in names:
            for step in schedule_of(name, SCENARIOS[name].plan, chosen.seed, size):
                print(json.dumps({"scenario": name, **step.plain()}))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended, as after Ctrl-C
    _own_mounts()
    began, found = time.monotonic(), dict[str, Any]()
    for name in names:
        found[name] = _played(name, chosen.seed, size, chosen.folder)
    verdict = {
        "ok": all(each["ok"] for each in found.values()),
        "seed": chosen.seed,
        "seconds": round(time.monotonic() - began, 1),
        "scenarios": found,
    }
    written(chosen.folder / f"verdict-{chosen.seed}.json", verdict)
    print(json.dumps(verdict))
    return 0 if verdict["ok"] else 1


def _played(name: str, seed: int, size: Size, folder: Path) -> dict[str, Any]:
    scenario = SCENARIOS[name]
    _tell(f"== {name}: {scenario.about}")
    why = scenario.impossible()
    if why is not None:
        _tell(f"   SKIPPED: {why}")
        return {"ok": True, "skipped": why}
    began = time.monotonic()
    run = Run(scenario, seed, size, (folder / name).absolute(), _tell)
    run.play()
    found = {**run.summary(), "seconds": round(time.monotonic() - began, 1)}
    _tell(
        f"   {'held' if found['ok'] else 'BROKEN'}: {found['events']} versions, {found['violations'] or 'no violation'}"
    )
    return found


CLONE_NEWNS = 0x20000


def _own_mounts() -> None:
    """What this process mounts is seen by nobody else, and is gone with it."""
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        os.environ["CROSSDOCK_CHAOS_OWN_MOUNTS"] = "1"


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.campaign", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenario", default="all", help=f"several with commas; known: {', '.join(SCENARIOS)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="load of each scenario")
    parser.add_argument("--events", type=int, default=20_000, help="versions that are entered in each scenario")
    parser.add_argument("--schedule", action="store_true", help="print what would happen when, and end")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="everything lies under it")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.scenario.split(",") if name not in {*SCENARIOS, "all"}]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; known: {', '.join(SCENARIOS)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
