"""How a worker's process ends, and how fast others take over: real processes, a real broker, a hostile system."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hostile import Hostile, write_hub

from crossdock.broker import Broker
from crossdock.ports import free_port
from schemas.change import canonical_key
from streams.runtime.life import GRACE, HURRY
from streams.topics import partition_of

DRAIN = 5.0
"""Of the enrich group and the source tasks; the system's own total timeout is shorter here."""
SLACK = 1.5
"""Of a busy machine."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), free_port())
    one.start()
    yield one
    one.stop()


@dataclass
class Hub:
    """A folder of configuration, and workers of it."""

    folder: Path
    system: Hostile
    port: int
    """Of the metrics."""
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, instance: str = "a") -> list[str]:
        return [sys.executable, "-m", "crossdock", "run", str(self.folder), "--no-supervise", "--instance", instance]

    @property
    def log(self) -> Path:
        return self.folder.parent / "worker.log"

    def start(self, instance: str = "a") -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            worker = subprocess.Popen(self.command(instance), stderr=log, stdout=log, env=self.system.environ())
        self.workers.append(worker)
        return worker

    def until(self, condition: Callable[[], bool], seconds: float = 90) -> float:
        """How long it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, self.log.read_text()[-4000:]
            time.sleep(0.02)
        return time.monotonic() - began

    def written(self, count: int) -> None:
        """Returns when so many numbers were written."""
        self.until(lambda: len(self.system.effects()) >= count)

    def metrics(self) -> dict[str, float]:
        """As the first worker tells them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, _, value in lines}

    def partitions(self, pid: int, since: int = 0) -> set[int]:
        """Those whose records this process wrote."""
        lines = self.system.lines()[since:]
        return {partition_of(canonical_key({"n": number}), 4) for number, by in lines if by == pid}


@pytest.fixture
def make_hub(tmp_path: Path, hostile_site: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Hub]]:
    made: list[Hub] = []

    def make(broker: Broker, count: int, total: str = "3s") -> Hub:
        drop = tmp_path / "drop"
        drop.mkdir()
        prefix = f"p{abs(hash(request.node.name)) % 10**9}"
        port = free_port()
        timeouts = {"total": total}
        write_hub(tmp_path / "hub", drop, broker.bootstrap, prefix=prefix, count=count, port=port, timeouts=timeouts)
        made.append(Hub(tmp_path / "hub", Hostile(drop, hostile_site), port))
        return made[-1]

    yield make
    for hub in made:
        for worker in hub.workers:
            worker.kill()
            worker.wait()


def ends(worker: subprocess.Popen[bytes], within: float) -> int:
    """Its exit code."""
    try:
        return worker.wait(within + SLACK)
    except subprocess.TimeoutExpired:
        pytest.fail(f"it still runs {within} s after it was told to end")


def test_a_worker_that_is_told_to_end_under_load_ends_within_its_drain_and_nothing_is_written_twice(
    broker: Broker, make_hub: Callable[..., Hub]
) -> None:
    """I1, I2, I6: the next worker goes on behind the last effect."""
    hub = make_hub(broker, count=2000)
    hub.system.tell(put="slow 0.05")
    for number in (signal.SIGTERM, signal.SIGINT):
        done = len(hub.system.effects())
        worker = hub.start()
        hub.written(done + 300)
        told = hub.metrics()
        assert told['crossdock_events_total{outcome="enriched",pipeline="numbers",stage="enrich"}'] >= 250
        assert told['crossdock_events_total{outcome="applied",pipeline="numbers",stage="write"}'] >= 200
        assert 0 <= told["crossdock_loop_lag_seconds"] < 60
        worker.send_signal(number)
        assert ends(worker, DRAIN + GRACE) == 0
    assert len(hub.system.effects()) < 2000, "it was not under load"
    hub.start()
    hub.written(2000)
    assert max(hub.system.effects().values()) == 1


def test_a_worker_that_is_told_twice_gives_up_what_is_in_hand_and_acknowledges_nothing_of_it(
    broker: Broker, make_hub: Callable[..., Hub]
) -> None:
    """I1, I6"""
    hub = make_hub(broker, count=200, total="20s")
    hub.system.tell(put="hang")
    first = hub.start()
    hub.until(lambda: hub.system.hangs("put"))
    first.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(2)
    first.send_signal(signal.SIGTERM)
    assert ends(first, HURRY) == 0
    assert not hub.system.effects()
    hub.system.tell()
    hub.start()
    hub.written(200)
    assert max(hub.system.effects().values()) == 1


def test_a_source_that_is_busy_for_a_moment_is_waited_for_and_not_opened_anew(
    broker: Broker, make_hub: Callable[..., Hub]
) -> None:
    """I1: opened anew it would have forgotten what it gave."""
    hub = make_hub(broker, count=200)
    hub.system.tell(poll="raise Retriable")
    hub.start()
    hub.until(lambda: hub.log.read_text().count("task.waits") >= 3)
    hub.system.tell()
    hub.written(200)
    assert hub.system.opened() == 1
    assert max(hub.system.effects().values()) == 1


def test_a_connector_that_never_returns_does_not_keep_a_worker_from_ending(
    broker: Broker, make_hub: Callable[..., Hub]
) -> None:
    """I1, I6: its threads are left behind, and what it had in hand comes again."""
    hub = make_hub(broker, count=2000)
    hub.system.tell(put="hang")
    first = hub.start()
    hub.until(lambda: hub.system.hangs("put"))
    hub.system.tell(put="hang", poll="hang")
    hub.until(lambda: hub.system.hangs("poll"))
    first.send_signal(signal.SIGTERM)
    assert ends(first, DRAIN + HURRY) == 0
    assert "worker.left" in hub.log.read_text()
    hub.system.tell()
    hub.start()
    hub.written(2000)
    assert max(hub.system.effects().values()) == 1


def test_a_worker_ends_in_time_while_the_broker_is_away(tmp_path: Path, make_hub: Callable[..., Hub]) -> None:
    """I6"""
    own = Broker(tmp_path / "broker", free_port())
    own.start()
    try:
        hub = make_hub(own, count=100_000)
        worker = hub.start()
        hub.written(100)
    finally:
        own.kill()
    worker.send_signal(signal.SIGTERM)
    assert ends(worker, DRAIN + GRACE) == 0


def test_the_partitions_of_a_worker_move_at_once_when_it_was_told_to_end_and_within_15_seconds_when_it_was_killed(
    broker: Broker, make_hub: Callable[..., Hub]
) -> None:
    """I6, I10: a session lasts 10 s, so whoever leaves says so."""
    hub = make_hub(broker, count=100_000)
    hub.system.tell(put="slow 0.05")
    one, other = hub.start("a"), hub.start("b")
    took = {}
    for how in (signal.SIGTERM, signal.SIGKILL):
        hub.until(lambda: all(hub.partitions(each.pid) for each in (one, other)))  # noqa: B023 - waited for here
        since = len(hub.system.lines())
        hub.until(lambda: len(hub.partitions(one.pid, since)) == len(hub.partitions(other.pid, since)) == 2)  # noqa: B023
        partitions = hub.partitions(one.pid, since)
        one.send_signal(how)
        ends(one, DRAIN + GRACE)
        since = len(hub.system.lines())
        took[how.name] = hub.until(lambda: partitions <= hub.partitions(other.pid, since), 60)  # noqa: B023
        one = hub.start("a")
    print(f"taken over {took['SIGTERM']:.1f} s after the end, {took['SIGKILL']:.1f} s after SIGKILL")
    assert took["SIGTERM"] < 5
    assert took["SIGKILL"] < 15 + SLACK


def test_a_supervised_worker_comes_again_after_a_crash_and_hears_ctrl_c_once(
    broker: Broker, make_hub: Callable[..., Hub]
) -> None:
    """I2, I6, I10: `sys.exit(0)` in a connector is no orderly end. A terminal's SIGINT goes to a whole group of
    processes; told twice, a worker would give up what is in hand.
    """
    hub = make_hub(broker, count=1000)
    hub.system.tell(poll="raise SystemExit")
    command = [part for part in hub.command() if part != "--no-supervise"]
    with hub.log.open("ab") as log:
        supervisor = subprocess.Popen(command, stderr=log, stdout=log, env=hub.system.environ(), start_new_session=True)
    hub.workers.append(supervisor)
    hub.until(lambda: hub.log.read_text().count("worker.restarts exit=1") >= 2)
    assert "raised SystemExit" in hub.log.read_text()
    hub.system.tell(put="slow 0.5")
    hub.written(50)
    os.killpg(supervisor.pid, signal.SIGINT)
    assert ends(supervisor, DRAIN + GRACE) == 0
    hub.system.tell()
    hub.start()
    hub.written(1000)
    assert max(hub.system.effects().values()) == 1
