"""A budget for retries, shared by everything that speaks to one system: what keeps a sick system from being buried."""

import threading


class RetryBudget:
    """A token bucket without a clock: each first call earns a share of a retry, each retry costs one.

    With a share of 0.2 the calls to a failing system stay below 1.2 times the offered load, once the reserve that
    covers a short disturbance is used up.
    """

    def __init__(self, share: float = 0.2, reserve: float = 10.0) -> None:
        self._share, self._most, self._tokens = share, reserve, reserve
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A first call is made."""
        with self._lock:
            self._tokens = min(self._most, self._tokens + self._share)

    def spend(self) -> bool:
        """A retry is wanted. False = there is nothing left: do not call."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True
