"""Failpoints: named places where a test makes the process fail.

`CROSSDOCK_FAILPOINT=name:nth:kill|raise|sleep|stop`; several separated by commas. A no-op unless set, and refused where
`environment: production`.
"""

import os
import signal
import threading
import time
from typing import Final

VARIABLE: Final = "CROSSDOCK_FAILPOINT"


class FailpointError(Exception):
    """Raised by a failpoint of the kind `raise`."""


def _armed() -> dict[str, tuple[int, str]]:
    armed = {}
    for entry in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, nth, action = entry.split(":")
        armed[name] = (int(nth), action)
    return armed


_ARMED: Final = _armed()
_SEEN: Final[dict[str, int]] = {}
_LOCK: Final = threading.Lock()


def failpoint(name: str) -> None:
    """A state transition of the hub: nothing happens here unless a test armed this name.

    Raises:
        FailpointError: the armed action is `raise`.
    """
    if not _ARMED or name not in _ARMED:
        return
    nth, action = _ARMED[name]
    with _LOCK:
        _SEEN[name] = _SEEN.get(name, 0) + 1
        due = _SEEN[name] == nth
    if due:
        _fail(name, action)


def _fail(name: str, action: str) -> None:
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "sleep":
            time.sleep(30)
        case _:
            raise FailpointError(name)
