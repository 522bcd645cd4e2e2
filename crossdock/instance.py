"""The instance id of a worker: unique among those that run, and the same after a crash.

Kafka gives a restarted static member its partitions back at once, if it comes under its old name. So a name is a lock
file: the kernel frees it when its process ends, however it ends.
"""

import fcntl
from pathlib import Path
from typing import IO

from connectors.errors import ConfigError

LIMIT = 256


class InstanceLock:
    """Holds one name for as long as it lives."""

    def __init__(self, name: str, file: IO[str]) -> None:
        self.name, self._file = name, file

    def release(self) -> None:
        self._file.close()


def claim(folder: Path, name: str | None = None) -> InstanceLock:
    """The given name, or the lowest free number.

    Raises:
        ConfigError: another process on this machine holds that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for candidate in [name] if name is not None else (str(number) for number in range(LIMIT)):
        file = (folder / f"instance-{candidate}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        return InstanceLock(candidate, file)
    raise ConfigError(f"another worker runs as instance {name!r}; give this one an --instance of its own")
