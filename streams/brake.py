"""The brake on refusals: many of one kind tell of a system that changed, and not of so many bad records.

A vendor's deploy that refuses every write would turn the stream into dead letters within minutes. So twenty live writes
refused in a row with one fingerprint, or fifty of the last thousand, stop the write-back until a person decides.
"""

from collections import Counter, deque

from schemas.dead_letter import fingerprint
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.write import LIVE, Write

IN_A_ROW = 20
WINDOW, SHARE = 1000, 0.05


class Brake:
    """The last outcomes of one write-back on one worker. Replays and the like do not count: a person asked for them."""

    def __init__(self) -> None:
        self._last: deque[str | None] = deque()
        self._refused: Counter[str] = Counter()
        self._row, self._in_a_row = "", 0
        self._decided_at = ""

    def note(self, write: Write, receipt: Receipt) -> str | None:
        """Takes one end into account. Returns the fingerprint if it is one too many."""
        if not write.write_id.endswith(f"/{LIVE}"):
            return None
        refusal = refusal_of(receipt)
        self._last.append(refusal)
        if refusal is not None:
            self._refused[refusal] += 1
        if len(self._last) > WINDOW and (oldest := self._last.popleft()) is not None:
            self._refused[oldest] -= 1
        if refusal is None:
            self._row, self._in_a_row = "", 0
            return None
        self._in_a_row = self._in_a_row + 1 if refusal == self._row else 1
        self._row = refusal
        return refusal if self._in_a_row >= IN_A_ROW or self._refused[refusal] >= WINDOW * SHARE else None

    def decided(self, at: str) -> None:
        """When a person last decided about this write-back: since then counting began anew."""
        if at != self._decided_at:
            self._decided_at = at
            self._last.clear()
            self._refused.clear()
            self._row, self._in_a_row = "", 0


def refusal_of(receipt: Receipt) -> str | None:
    """The fingerprint of a refusal, as its dead letter would carry it; None = it is none."""
    if receipt.outcome is not Outcome.REJECTED:
        return None
    return fingerprint("put", receipt.code or receipt.outcome.value, receipt.reason or "")
