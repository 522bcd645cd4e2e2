"""Retries around a sink: the only module that knows tenacity.

What is tried again, within the deadline of one `put`:

| what came back                         | then                                                              |
|----------------------------------------|-------------------------------------------------------------------|
| Retriable, Throttled                   | everything that is still open, after `retry_after` or a backoff   |
| receipts `retry`                       | these records alone                                               |
| Unknown, receipts `unknown`            | the same writes, if the idempotency class allows it; else kept    |
| Rejected of a whole batch              | halves, at once, until the bad record stands alone                |
| AuthExpired, SystemFault, Fatal, other | passed on: waiting does not help                                  |
"""

import random
import threading
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import tenacity

from connectors.budget import RetryBudget
from connectors.clock import Clock
from connectors.contract import Checkable, Idempotency, Readable, SinkTask
from connectors.errors import CrossdockError, Rejected, Retriable, Unknown
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.write import Write

_REPEATABLE = frozenset({Idempotency.NATURAL, Idempotency.KEY, Idempotency.LEDGER})
_LONGEST_EXPONENT = 16


class Retrying:
    """A sink task that tries again. It can `read` and `check` exactly if the sink inside can."""

    def __init__(
        self,
        inner: SinkTask,
        clock: Clock,
        *,
        stop: threading.Event | None = None,
        budget: RetryBudget | None = None,
        base: float = 0.2,
        cap: float = 10.0,
    ) -> None:
        """
        Args:
            inner: the sink.
            stop: set when the worker ends; interrupts a wait.
            budget: shared by all sinks of one system; used up = no more retries, as at the deadline.
            base: seconds; the n-th wait is drawn from 0 to `base * 2**n` (full jitter).
            cap: seconds; no backoff is longer. A wait that the system asked for may be.
        """
        self.inner, self.capabilities = inner, inner.capabilities
        self._clock, self._stop, self._budget = clock, stop if stop is not None else threading.Event(), budget
        self._base, self._cap = base, cap
        if isinstance(inner, Readable):
            self.read = inner.read
        if isinstance(inner, Checkable):
            self.check = inner.check

    def open(self) -> None:
        self.inner.open()

    def close(self) -> None:
        self.inner.close()

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        """One receipt for each write, in the same order; `attempts` counts the calls that a write was part of.

        A receipt `retry` means that the record was still refused at the deadline while the call as such worked.

        Raises:
            Retriable: at the deadline the whole call still failed; nothing of this is the records' fault.
            AuthExpired, SystemFault, Fatal, ConfigError: as the sink raised them.
        """
        if self._budget is not None:
            self._budget.earn()
        rounds = _Rounds(self.inner, writes, deadline)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_result(bool),
            wait=lambda _: self._pause(rounds),
            stop=lambda state: self._is_over(state.upcoming_sleep, deadline),
            sleep=self._sleep,
            retry_error_callback=lambda _: True,
        )
        with suppress(_Interrupted):
            attempts(rounds.once)
        return rounds.settled()

    def once(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        """As `put`, without trying again: how a breaker looks whether the system is back. Raises what `put` does."""
        rounds = _Rounds(self.inner, writes, deadline)
        rounds.once()
        return rounds.settled()

    def _pause(self, rounds: "_Rounds") -> float:
        backoff = min(self._cap, self._base * 2 ** min(rounds.calls, _LONGEST_EXPONENT))
        return max(rounds.retry_after, random.uniform(0.0, backoff))  # noqa: S311

    def _is_over(self, pause: float, deadline: float) -> bool:
        if self._stop.is_set() or self._clock.monotonic() + pause >= deadline:
            return True
        return self._budget is not None and not self._budget.spend()

    def _sleep(self, seconds: float) -> None:
        if self._clock.sleep(seconds, self._stop):
            raise _Interrupted


class _Interrupted(Exception):
    """The worker ends: what is still open stays so, and nothing is sent before its time."""


class _Rounds:
    """The writes of one `put`: which are settled, which are open, and why."""

    def __init__(self, inner: SinkTask, writes: Sequence[Write], deadline: float) -> None:
        self._inner, self._writes, self._deadline = inner, writes, deadline
        self._repeatable = inner.capabilities.idempotency in _REPEATABLE
        self._receipts: list[Receipt | None] = [None] * len(writes)
        self._attempts = [0] * len(writes)
        self._open = list(range(len(writes)))
        self._failure: CrossdockError | None = None
        self.calls = 0
        """Rounds so far."""
        self.retry_after = 0.0
        """Seconds that the system asked for in the last round."""

    def once(self) -> bool:
        """One round over everything that is open. True = something still is, and waiting may help."""
        self._failure, self.retry_after = None, 0.0
        groups = [self._open] if self._open else []
        while groups and not self.retry_after:
            group = groups.pop()
            try:
                self._put(group)
            except Rejected as refusal:
                if len(group) == 1:
                    self._refuse(group[0], refusal)
                else:
                    middle = len(group) // 2
                    groups += [group[middle:], group[:middle]]
            except CrossdockError as failure:
                self._failure = failure
                break
        self.calls += 1
        if isinstance(self._failure, Retriable):
            self.retry_after = max(self.retry_after, self._failure.retry_after or 0.0)
        self._open = [i for i in self._open if not self._is_settled(i)]
        return bool(self._open) and (self._failure is None or isinstance(self._failure, Retriable))

    def settled(self) -> list[Receipt]:
        """A receipt for every write, or the failure that stands in the way.

        Effects of a class that may not be repeated are never forgotten: once one of its writes is settled, the rest is
        returned as `retry` instead of an exception, which would make the caller pass all of them again.
        """
        forgettable = self._repeatable or len(self._open) == len(self._writes)
        if self._open and self._failure is not None and forgettable:
            raise self._failure
        return [self._receipt(i) for i in range(len(self._writes))]

    def _put(self, group: list[int]) -> None:
        for i in group:
            self._attempts[i] += 1
        try:
            receipts = self._inner.put([self._writes[i] for i in group], self._deadline)
        except Unknown as failure:
            if self._repeatable:
                raise Retriable(failure.message, detail=failure.detail) from failure
            receipts = [Receipt(Outcome.UNKNOWN, reason=failure.message)] * len(group)
        for i, receipt in zip(group, receipts, strict=True):
            self._receipts[i] = receipt
            if receipt.outcome is Outcome.RETRY:
                self.retry_after = max(self.retry_after, receipt.retry_after or 0.0)

    def _refuse(self, i: int, refusal: Rejected) -> None:
        self._receipts[i] = Receipt(Outcome.REJECTED, code=refusal.code, reason=refusal.message)

    def _is_settled(self, i: int) -> bool:
        receipt = self._receipts[i]
        if receipt is None or receipt.outcome is Outcome.RETRY:
            return False
        return receipt.outcome is not Outcome.UNKNOWN or not self._repeatable

    def _receipt(self, i: int) -> Receipt:
        receipt = self._receipts[i]
        if receipt is None:
            reason = self._failure.message if self._failure is not None else "the system asked for a pause"
            return Receipt(Outcome.RETRY, attempts=self._attempts[i], reason=reason)
        outcome = receipt.outcome if self._is_settled(i) else Outcome.RETRY
        if outcome is receipt.outcome and receipt.attempts == self._attempts[i]:
            return receipt
        return msgspec.structs.replace(receipt, outcome=outcome, attempts=self._attempts[i])
