"""Processes that outlive the one that started them: known by number and by when they began."""

import contextlib
import os
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether it runs; one that ended and was not yet collected by its parent does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a child of ours that ended must be collected, or it looks alive
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return _stat(pid)[:1] != ["Z"]


def began(pid: int) -> str:
    """When it began, in the system's own ticks; empty where the system does not tell."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
