"""What the workers cost: CPU seconds and resident memory, over all their lives, read from the system while they run."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Usage:
    """Sampled about once a second; a process that was killed counts with its last sample."""

    def __init__(self) -> None:
        self._cpu: dict[int, float] = {}
        self.peak_mb = 0.0

    def sample(self, pid: int | None) -> None:
        """Takes a look at a process; one that is gone, or a system without /proc, changes nothing."""
        if pid is None:
            return
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        self._cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.peak_mb = max(self.peak_mb, int(line.split()[1]) / 1024)

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu.values())
