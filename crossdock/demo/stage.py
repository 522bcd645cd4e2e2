"""The stage: a real broker and the three legacy systems, started under one folder."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.clock import Clock
from connectors.errors import CrossdockError, Fatal
from crossdock.broker import Broker
from crossdock.demo import flightops
from crossdock.demo.given import GivenKafka, GivenPostgres, cleared
from crossdock.ports import free_port
from crossdock.postgres import PostgresServer

Tell = Callable[[str, str], None]
"""What was begun or done, and where."""

STATE = "stage.json"
PREFIX = "hub"
"""Of the shipped configuration. On a Kafka that was given, each run has a prefix of its own."""


def configuration_folder() -> Path:
    """The shipped example configuration: beside the packages in a clone, inside the package when installed."""
    shipped = Path(__file__).parent / "config"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "config"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens."""

    kafka: str
    flightops: str
    registry: str
    stations: str

    prefix: str = PREFIX

    def overrides(self) -> dict[str, str]:
        """The environment variables that point the shipped configuration at this stage."""
        prefix = {} if self.prefix == PREFIX else {"CROSSDOCK_KAFKA__PREFIX": self.prefix}
        return prefix | {
            "CROSSDOCK_KAFKA__BOOTSTRAP": self.kafka,
            "CROSSDOCK_SYSTEMS__FLIGHTOPS__URL": self.flightops,
            "CROSSDOCK_SYSTEMS__REGISTRY__ADDRESS": f"{self.registry}/registry",
            "CROSSDOCK_SYSTEMS__STATIONS__BASE_URL": f"{self.stations}/api",
        }


class Stage:
    """The demo's servers. Each `start()` begins with empty systems."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        registry: Sequence[str] = (),
        stations: Sequence[str] = (),
        kafka: GivenKafka | None = None,
        postgres: GivenPostgres | None = None,
    ) -> None:
        """
        Args:
            folder: everything of ours lies under it.
            clock: for waiting.
            registry, stations: further arguments for these systems' own command lines: their quirks.
            kafka, postgres: used instead of our own.
        """
        self.folder, self._clock = folder.absolute(), clock
        self._kafka, self._postgres = kafka, postgres
        self._registry, self._stations = list(registry), list(stations)
        self.passwords = {
            "FLIGHTOPS_PASSWORD": secrets.token_urlsafe(12),
            "REGISTRY_PASSWORD": secrets.token_urlsafe(12),
            "STATIONS_TOKEN": secrets.token_urlsafe(12),
        }
        self.broker = Broker(self.folder / "kafka", port=free_port())
        self.postgres = PostgresServer(
            self.folder / "postgres", port=free_port(), password=self.passwords["FLIGHTOPS_PASSWORD"]
        )
        self._ports = {"registry": free_port(), "stations": free_port()}
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def addresses(self) -> Addresses:
        kafka, postgres = self._kafka, self._postgres
        return Addresses(
            kafka=self.broker.bootstrap if kafka is None else kafka.bootstrap,
            flightops=f"postgresql://crossdock@127.0.0.1:{self.postgres.port}/flightops"
            if postgres is None
            else postgres.address,
            registry=f"http://127.0.0.1:{self._ports['registry']}",
            stations=f"http://127.0.0.1:{self._ports['stations']}",
            prefix=PREFIX if kafka is None else kafka.prefix,
        )

    @property
    def environ(self) -> dict[str, str]:
        """What a worker of this stage needs."""
        given = {} if self._postgres is None else self._postgres.secrets()
        return {**os.environ, **self.addresses.overrides(), **self.passwords, **given}

    @property
    def flightops_url(self) -> str:
        """With the password: for the demo's own use, never shown."""
        if self._postgres is not None:
            return self._postgres.url
        password = self.passwords["FLIGHTOPS_PASSWORD"]
        return self.addresses.flightops.replace("crossdock@", f"crossdock:{password}@")

    def start(self, tell: Tell) -> None:
        """Starts all side by side; `tell` hears of each when it is ready. What was given is looked at first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in ("kafka", "registry", "stations"):
            shutil.rmtree(self.folder / old, ignore_errors=True)
        self.postgres.remove()
        if self._postgres is not None:
            self._postgres.start()
        if self._kafka is not None:
            self._kafka.start()
            tell("kafka", self._kafka.bootstrap)
        begin = {"kafka": self.broker.start} if self._kafka is None else {}
        begin |= {
            "flightops": self._start_flightops,
            "registry": lambda: self._serve("registry", "?wsdl", ["--wsdl", str(_wsdl()), *self._registry]),
            "stations": lambda: self._serve("stations", "", self._stations),
        }
        with ThreadPoolExecutor(len(begin)) as pool:
            started = {name: pool.submit(start) for name, start in begin.items()}
            for name, future in started.items():
                future.result()
                tell(name, getattr(self.addresses, name))
        self._remember()

    def stop(self) -> list[str]:
        """Ends all of it, whatever state it is in. Returns what is still there of ours on servers that were given."""
        for server in self._servers.values():
            server.terminate()
        for server in self._servers.values():
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
        _end(self.postgres)
        self.broker.stop()
        (self.folder / STATE).unlink(missing_ok=True)
        return cleared(self._kafka, self._postgres)

    def load(self, system: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """A POST to a system's own loader, as its own people would add records."""
        base = getattr(self.addresses, system)
        request = urllib.request.Request(base + path, data=body, headers=dict(headers), method="POST")  # noqa: S310 - our own loopback address
        try:
            with urllib.request.urlopen(request, timeout=60):  # noqa: S310
                return
        except urllib.error.HTTPError as error:
            raise Fatal(f"{system} refused to load: HTTP {error.code} {error.read()[:200]!r}") from error

    def _start_flightops(self) -> None:
        if self._postgres is None:
            self.postgres.start()
            self.postgres.create_database("flightops")
        engine = flightops.connect(self.flightops_url)
        flightops.create(engine)
        engine.dispose()

    def _serve(self, name: str, probe: str, arguments: list[str]) -> None:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        port = self._ports[name]
        command = [
            sys.executable,
            "-m",
            f"crossdock.demo.{name}",
            "--port",
            str(port),
            "--folder",
            str(folder),
            *arguments,
        ]
        with (folder / "server.log").open("ab") as output:
            self._servers[name] = subprocess.Popen(  # noqa: S603 - our own modules
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=self.environ,
                start_new_session=True,
            )
        deadline = self._clock.monotonic() + 30
        while not _answers(f"http://127.0.0.1:{port}/{probe}"):
            if self._servers[name].poll() is not None or self._clock.monotonic() > deadline:
                raise Fatal(f"{name} did not start; its log is {folder / 'server.log'}")
            self._clock.sleep(0.05)

    def _remember(self) -> None:
        """What `--stop` needs to end a stage that `--keep` left. No password is kept."""
        pids = {name: server.pid for name, server in self._servers.items()}
        state: dict[str, Any] = {"pids": pids, "postgres": self.postgres.port, "kafka": self.broker.port}
        if self._kafka is not None:
            state["given_kafka"] = {"bootstrap": self._kafka.bootstrap, "prefix": self._kafka.prefix}
        if self._postgres is not None:
            state["given_postgres"] = {"address": self._postgres.address, "database": self._postgres.database}
        (self.folder / STATE).write_text(json.dumps(state))


def stop_kept(folder: Path, postgres_url: str | None = None, also: str = "workers.json") -> list[str] | None:
    """Ends what `--keep` left under this folder.

    Args:
        folder: as it was given then.
        postgres_url: of the server that was given then; without it, its database stays.
        also: the file of the workers' process ids.

    Returns:
        What is still there of ours on servers that were given; None if nothing was left running.
    """
    folder = folder.absolute()
    path = folder / STATE
    if not path.is_file():
        return None
    state = json.loads(path.read_text())
    workers = folder / also
    pids = json.loads(workers.read_text()) if workers.is_file() else {}
    for pid in {**pids, **state["pids"]}.values():
        if _is_ours(pid):
            os.kill(pid, signal.SIGTERM)
    try:
        _end(PostgresServer(folder / "postgres", port=state["postgres"], password=""))
        Broker(folder / "kafka", port=state["kafka"]).stop()
    except CrossdockError as error:
        raise Fatal(f"the stage under {folder} could not be ended: {error}") from error
    path.unlink()
    workers.unlink(missing_ok=True)
    return _clear_given(state.get("given_kafka"), state.get("given_postgres"), postgres_url)


def _clear_given(kafka: Mapping[str, str] | None, postgres: Mapping[str, str] | None, url: str | None) -> list[str]:
    given_kafka = None if kafka is None else GivenKafka(**kafka)
    if postgres is None or url is not None:
        return cleared(given_kafka, None if postgres is None else GivenPostgres(str(url), postgres["database"]))
    left = f"the database {postgres['address']} is still there; drop it there (next time: --stop --postgres URL)"
    return [*cleared(given_kafka), left]


def _end(postgres: PostgresServer) -> None:
    """Ends it; nothing stays outside the demo's folder."""
    if postgres.home == postgres.folder:
        postgres.stop()
    else:
        postgres.remove()


def _is_ours(pid: int) -> bool:
    """Whether that process is still the one that we started, and not a later one with its number."""
    try:
        return b"crossdock" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _wsdl() -> Path:
    return configuration_folder() / "wsdl" / "registry.wsdl"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - loopback
            return True
    except urllib.error.HTTPError:
        return True  # any answer is one
    except OSError:
        return False
