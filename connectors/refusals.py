"""When a system refuses one record after the other for one reason, it is hardly the records that are wrong.

A vendor who deploys on a Friday makes every record of a batch fail. A sink then asks no further: what it did not send
is a receipt `retry` with the code `suspected`, and the hub holds those records until a person has decided.
"""

import threading

from schemas.outcome import Outcome
from schemas.receipt import Receipt

IN_A_ROW = 20
"""So many refusals with one code, none of them followed by a success, and the system is suspected."""
SUSPECTED = "suspected"
"""Code of the receipts of writes that were not tried, or whose refusal is not believed, for that reason."""

_GOOD = frozenset({Outcome.APPLIED, Outcome.UNCHANGED, Outcome.STALE, Outcome.CONFLICT})


class Refusals:
    """The refusals in a row of one `put`; safe in many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._code: str | None = None
        self._row = 0

    @property
    def are_suspicious(self) -> bool:
        """The next write is not to be sent."""
        return self._row >= IN_A_ROW

    def judged(self, receipt: Receipt) -> Receipt:
        """The receipt as it came, counted; one `retry` in place of a refusal beyond those that may be believed."""
        with self._lock:
            if receipt.outcome in _GOOD:
                self._row = 0
            if receipt.outcome is not Outcome.REJECTED:
                return receipt
            if receipt.code != self._code:
                self._code, self._row = receipt.code, 0
            self._row += 1
            return receipt if self._row <= IN_A_ROW else self._suspected(receipt.attempts)

    def not_sent(self) -> Receipt:
        """For a write that is not tried."""
        return self._suspected(attempts=0)

    def _suspected(self, attempts: int) -> Receipt:
        reason = f"{IN_A_ROW} writes in a row were refused with the code {self._code}: the system may have changed"
        return Receipt(Outcome.RETRY, attempts=attempts, code=SUSPECTED, reason=reason)


def is_suspected(receipt: Receipt) -> bool:
    """Whether a person is to decide about this write before it is tried."""
    return receipt.outcome is Outcome.RETRY and receipt.code == SUSPECTED
