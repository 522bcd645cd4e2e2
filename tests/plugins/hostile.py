"""A system that does what a test tells it: `type: hostile`. Its script is read anew at each call.

`folder/script.json` says what `poll` and `put` do instead: `{"put": "hang"}` never returns and heeds no deadline,
`"raise ZeroDivisionError"` raises, `"slow 0.5"` takes so many seconds. Every write that is made is a line of
`folder/effects.log`, also one that was made before: a repeated effect shows.
"""

import asyncio
import builtins
import concurrent.futures
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from connectors.clock import Clock, SystemClock
from connectors.config import SourceConfig, SystemConfig, WritebackConfig
from connectors.contract import Capabilities, Idempotency, SinkTask, Source, System, TaskSpec
from connectors.errors import Retriable
from schemas.change import Batch, Change, Op, content_digest, event_id
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Offset, rfc3339
from schemas.version import Version
from schemas.write import Write

_KINDS: dict[str, Callable[[], BaseException]] = {
    "CancelledError": asyncio.CancelledError,
    "FutureCancelled": concurrent.futures.CancelledError,
    "Retriable": lambda: Retriable("told to wait"),
}


class HostileSourceConfig(SourceConfig):
    count: int

    @property
    def object(self) -> str:
        return "numbers"


class HostileWritebackConfig(WritebackConfig):
    @property
    def object(self) -> str:
        return "effects"


class HostileSystemConfig(SystemConfig):
    source_class: ClassVar[type[SourceConfig]] = HostileSourceConfig
    writeback_class: ClassVar[type[WritebackConfig]] = HostileWritebackConfig

    type: Literal["hostile"]
    folder: Path

    def build(self, clock: Clock) -> System:
        return HostileSystem(self.name, self.folder)


class HostileSystem:
    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    def source(self, config: SourceConfig, *, written: frozenset[str]) -> Source:
        assert isinstance(config, HostileSourceConfig)
        return Numbers(self, config.count)

    def sink(self, config: WritebackConfig, *, prefix: str) -> SinkTask:
        return Effects(self)

    def credentials_digest(self) -> str:
        return ""

    def close(self) -> None: ...

    def acts(self, what: str) -> None:
        """Does what the script says."""
        action, _, how = json.loads((self.folder / "script.json").read_text()).get(what, "").partition(" ")
        if action == "hang":
            (self.folder / f"{what}-hangs").touch()
            threading.Event().wait()
        elif action == "raise":
            raise _KINDS[how]() if how in _KINDS else getattr(builtins, how)("told to")
        elif action == "slow":
            SystemClock().sleep(float(how))


class Numbers:
    """`{"n": 0}`, `{"n": 1}` and so on; offset: the next."""

    def __init__(self, system: HostileSystem, count: int) -> None:
        self._system, self._count, self._next = system, count, 0

    def tasks(self) -> Sequence[TaskSpec]:
        return [TaskSpec(f"{self._system.name}.numbers", "numbers")]

    def task(self, name: str) -> "Numbers":
        return self

    def open(self, offset: Offset | None) -> None:
        with (self._system.folder / "opened.log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        self._next = 0 if offset is None else int(offset["next"])

    def poll(self, limit: int, deadline: float) -> Batch | None:
        self._system.acts("poll")
        first, self._next = self._next, min(self._next + limit, self._count)
        if first == self._next:
            return None
        return Batch([self._change(number) for number in range(first, self._next)], {"next": self._next})

    def ack(self, offset: Offset) -> None: ...
    def close(self) -> None: ...

    def _change(self, number: int) -> Change:
        key, version, origin = {"n": number}, str(Version(1, number)), f"{self._system.name}/numbers"
        return Change(
            op=Op.UPSERT,
            key=key,
            before=None,
            after=key,
            version=version,
            origin=origin,
            event_id=event_id(origin, key, version, content_digest(key, frozenset())),
            time=rfc3339(SystemClock().now()),
        )


class Effects:
    capabilities = Capabilities(Idempotency.NATURAL)

    def __init__(self, system: HostileSystem) -> None:
        self._system = system

    def open(self) -> None: ...

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        self._system.acts("put")
        lines = "".join(f"{write.key['n']} {os.getpid()}\n" for write in writes)
        with (self._system.folder / "effects.log").open("ab") as log:
            log.write(lines.encode())
        return [Receipt(Outcome.APPLIED, target_version=write.version) for write in writes]

    def close(self) -> None: ...


class Hostile:
    """What a test says to the system, and sees of it."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder, self.site = folder, site
        self.tell()

    def tell(self, **script: str) -> None:
        new = self.folder / "script.new"
        new.write_text(json.dumps(script))
        new.replace(self.folder / "script.json")

    def hangs(self, what: str) -> bool:
        return (self.folder / f"{what}-hangs").exists()

    def effects(self) -> Counter[int]:
        """How often each number was written."""
        return Counter(number for number, _ in self.lines())

    def lines(self) -> list[tuple[int, int]]:
        """(number, process) of each effect, in their order."""
        log = self.folder / "effects.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(int(number), int(pid)) for number, pid in (line.split() for line in lines)]

    def opened(self) -> int:
        """How often its source was opened."""
        return len((self.folder / "opened.log").read_text().splitlines())

    def environ(self) -> dict[str, str]:
        """For a worker in a process of its own."""
        return {**os.environ, "PYTHONPATH": f"{self.site}{os.pathsep}{Path(__file__).parent}"}


@pytest.fixture(scope="session")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that makes the connector known to whoever has it on the path."""
    site = tmp_path_factory.mktemp("hostile-site")
    info = site / "hostile-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[crossdock.connectors]\nhostile = hostile:HostileSystemConfig\n")
    return site


def write_hub(folder: Path, drop: Path, bootstrap: str, *, prefix: str, count: int, port: int, **system: Any) -> None:
    """`crossdock.yaml`, a hostile system and a pipeline from it into itself; `port` is that of the metrics."""
    (folder / "systems").mkdir(parents=True)
    (folder / "pipelines").mkdir()
    (folder / "crossdock.yaml").write_text(
        f"kafka: {{bootstrap: '{bootstrap}', insecure: true, partitions: 4, prefix: {prefix}}}\n"
        f"metrics: {{port: {port}}}\n"
    )
    extra = "".join(f"{name}: {json.dumps(value)}\n" for name, value in system.items())
    (folder / "systems" / "legacy.yaml").write_text(f"name: legacy\ntype: hostile\nfolder: {drop}\n{extra}")
    (folder / "pipelines" / "numbers.yaml").write_text(
        "name: numbers\nowner: tests\n"
        f"source: {{system: legacy, count: {count}, every: 50ms, batch: 20}}\n"
        "writeback:\n  - {system: legacy, match: {n: key.n}, set: {n: n}, idempotency: natural, batch: 10}\n"
    )
