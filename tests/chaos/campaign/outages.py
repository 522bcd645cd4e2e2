"""Faults of the servers and of the network between them and the hub."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crossdock.checker.history import Committed
from crossdock.checker.told import of_bytes
from streams.admin import Admin
from tests.chaos.campaign.evidence import FLOWS
from tests.chaos.campaign.faults import OF_WORKERS, at_work, until
from tests.chaos.campaign.lives import OF_LIVES
from tests.chaos.campaign.people import OF_PEOPLE
from tests.proxy import Proxy

if TYPE_CHECKING:
    from tests.chaos.campaign.run import Run

COMMIT = b"COMMIT\0"
BREAKER_INTERVAL = 5.0
RECOVERY = 60.0

# Kafka


def restart_broker(run: "Run", hard: bool) -> None:
    """Ends the broker and starts it again at once."""
    at_work(run, 0)
    (run.stage.broker.kill if hard else run.stage.broker.stop)()
    run.stage.broker.start()
    _measure_first_commit(run)


def broker_away(run: "Run", seconds: float) -> None:
    """No broker for a while; people go on working."""
    at_work(run, 0, after=3.0)
    began = time.monotonic()
    run.stage.broker.stop()
    time.sleep(seconds)
    run.measure("memory_growth_mb", run.watch.growth(began, time.monotonic()))
    run.stage.broker.start()
    _measure_first_commit(run)


def _measure_first_commit(run: "Run") -> None:
    opened = time.monotonic()
    until(lambda: run.watch.first_commit_after(opened), "a commit after the broker was back", RECOVERY)
    run.measure("first_commit_s", run.watch.first_commit_after(opened) or 0.0)


def kill_node(run: "Run", node: int, seconds: float) -> None:
    """SIGKILL to one broker of three, which comes back after a while."""
    at_work(run, 0)
    victim = run.stage.cluster.nodes[node]
    killed = time.monotonic()
    victim.kill()
    until(lambda: run.watch.first_commit_after(killed + 1.0), "a commit after a broker was killed", RECOVERY)
    run.measure("first_commit_s", run.watch.first_commit_after(killed + 1.0) or 0.0)
    time.sleep(max(0.0, killed + seconds - time.monotonic()))
    victim.start()


# The database


def restart_database(run: "Run", hard: bool) -> None:
    """Ends every connection, in the middle of whatever it does."""
    at_work(run, 0)
    run.stage.postgres.restart(immediately=hard)


def small_disk(run: "Run", megabytes: int) -> None:
    """The copies move to a file system of their own that holds so much."""
    place = run.stage.small_disk
    place.mkdir(mode=0o755)
    size = f"size={megabytes}m,mode=777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)], check=True, capture_output=True)
    data = place / "data"
    data.mkdir()
    data.chmod(0o777)
    if os.geteuid() == 0:
        os.chown(data, *_owner(run.stage.postgres.home / "data"))
    engine = run.stage.connect().execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{data}'")
        connection.exec_driver_sql("ALTER TABLE copies SET TABLESPACE small")
        connection.exec_driver_sql("ALTER INDEX copies_pkey SET TABLESPACE small")
    engine.dispose()


def _owner(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


def fill_disk(run: "Run", seconds: float) -> None:
    """Nothing more can be written into the copies' file system, until it is freed again."""
    at_work(run, 0, after=3.0)
    ballast = run.stage.small_disk / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 65_536)
                file.flush()
        except OSError:
            pass
    time.sleep(seconds)
    run.measure("disk_full_errors", run.workers.text("No space left on device"))
    ballast.unlink()


def inject_bytes(run: "Run", pipeline: str, values: list[str]) -> None:
    """Somebody else writes into a pipeline's topic what is no event."""
    at_work(run, 0)
    sent = [bytes.fromhex(value) for value in values]
    with Admin(run.stage.broker.bootstrap) as admin:
        admin.append(FLOWS[pipeline].topics.changes.name, [(b"somebody", value) for value in sent])
    run.injected.setdefault(pipeline, []).extend(Committed(*of_bytes(value), poison=True) for value in sent)


# The network


@contextmanager
def _misbehaving(run: "Run", system: str) -> Iterator[Proxy]:
    proxy = run.stage.proxies[system]
    try:
        yield proxy
    finally:
        proxy.calm()


def system_away(run: "Run", system: str, seconds: float) -> None:
    """Nobody answers at a system's address. Who tries is counted, after the breaker had time to open."""
    at_work(run, 0, after=3.0)
    with _misbehaving(run, system) as proxy:
        proxy.go_away()
        time.sleep(BREAKER_INTERVAL)
        began, before = time.monotonic(), proxy.attempts
        time.sleep(seconds - BREAKER_INTERVAL)
        intervals = (time.monotonic() - began) / BREAKER_INTERVAL
        run.measure(f"attempts_per_5s_{system}", (proxy.attempts - before) / intervals)
        run.measure("memory_growth_mb", run.watch.growth(began, time.monotonic()))


def cut_commits(run: "Run", system: str, seconds: float, share: float) -> None:
    """The answer to a share of all commits does not arrive, and the connection ends."""
    at_work(run, 0)
    with _misbehaving(run, system) as proxy:
        before = proxy.cuts
        proxy.cut_answers_to(COMMIT, share)
        time.sleep(seconds)
        run.measure(f"cuts_{system}", proxy.cuts - before)


def swallow(run: "Run", system: str, seconds: float) -> None:
    """Nothing comes back, and nobody hangs up."""
    at_work(run, 0)
    with _misbehaving(run, system) as proxy:
        proxy.swallow_answers()
        time.sleep(seconds)
        proxy.reset()


def limit(run: "Run", system: str, seconds: float, size: int) -> None:
    """Each connection breaks in the middle of an answer."""
    at_work(run, 0)
    with _misbehaving(run, system) as proxy:
        proxy.limit_answers(size)
        time.sleep(seconds)


def delay(run: "Run", system: str, seconds: float, by: float) -> None:
    """Every answer comes later, some twice as late."""
    at_work(run, 0)
    with _misbehaving(run, system) as proxy:
        proxy.delay(by, by)
        time.sleep(seconds)


FAULTS: Mapping[str, Callable[..., None]] = {
    **OF_WORKERS,
    **OF_PEOPLE,
    **OF_LIVES,
    **{
        each.__name__: each
        for each in (
            *(restart_broker, broker_away, kill_node, restart_database, small_disk, fill_disk, inject_bytes),
            *(system_away, cut_commits, swallow, limit, delay),
        )
    },
}
"""Every fault by its name, as schedules have it."""
