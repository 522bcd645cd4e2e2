"""Retries around a sink: the only module that knows tenacity.

What is tried again, within the deadline of one `put`:

| what came back                         | then                                                              |
|----------------------------------------|-------------------------------------------------------------------|
| Retriable, Throttled                   | everything that is still open, after `retry_after` or a backoff   |
| receipts `retry`                       | these records alone                                               |
| Unknown, receipts `unknown`            | by class: natural, key, ledger: the same writes once more;        |
|                                        | readback: looked for, and sent if they are not there; none: kept  |
| Rejected of a whole batch              | halves, at once, until the bad record stands alone                |
| refusals in a row with one code        | nothing more: see `connectors.refusals`                           |
| AuthExpired, SystemFault, Fatal, other | passed on: waiting does not help, and a login is never repeated   |

A sink of the class readback is asked before the first send too: the write may have been sent by a worker that is gone.
"""

import random
import threading
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import tenacity

from connectors.budget import RetryBudget
from connectors.clock import Clock
from connectors.contract import Checkable, Idempotency, Readable, Readback, SinkTask
from connectors.errors import CrossdockError, Rejected, Retriable, Unknown
from connectors.refusals import Refusals, is_suspected
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.write import Write

_REPEATABLE = frozenset({Idempotency.NATURAL, Idempotency.KEY, Idempotency.LEDGER})
_LONGEST_EXPONENT = 16


class Retrying:
    """A sink task that tries again. It can `read`, `check` and say what `happened` exactly if the sink inside can."""

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

        Raises:
            TypeError: the sink promises the class readback and is no `Readback`.
        """
        self.inner, self.capabilities = inner, inner.capabilities
        self._clock, self._stop, self._budget = clock, stop if stop is not None else threading.Event(), budget
        self._base, self._cap = base, cap
        self._settling: dict[str, float] = {}
        if isinstance(inner, Readback):
            self.happened = inner.happened
        elif inner.capabilities.idempotency is Idempotency.READBACK:
            raise TypeError(f"{type(inner).__name__} has the class readback, and no method `happened`")
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
        rounds = self._rounds(writes, deadline)
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
        rounds = self._rounds(writes, deadline)
        rounds.once()
        return rounds.settled()

    def _rounds(self, writes: Sequence[Write], deadline: float) -> "_Rounds":
        return _Rounds(self.inner, writes, deadline, self._clock, self._settling)

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

    def __init__(
        self, inner: SinkTask, writes: Sequence[Write], deadline: float, clock: Clock, settling: dict[str, float]
    ) -> None:
        """`settling`: from when on a write without an answer can be found, by its id; outlives this `put`."""
        self._inner, self._writes, self._deadline = inner, writes, deadline
        self._clock, self._settling = clock, settling
        self._repeatable = inner.capabilities.idempotency in _REPEATABLE
        self._readback = inner if isinstance(inner, Readback) and _is_read_back(inner) else None
        self._doubtful = set(range(len(writes)) if self._readback is not None else ())
        """Writes that may have happened already: never sent before they were looked for."""
        self._refusals, self._suspended = Refusals(), False
        self._receipts: list[Receipt | None] = [None] * len(writes)
        self._attempts = [0] * len(writes)
        self._open = list(range(len(writes)))
        self._failure: CrossdockError | None = None
        self.calls = 0
        """Rounds so far."""
        self.retry_after = 0.0
        """Seconds that are to be waited after the last round: the system asked for them, or a write settles."""
        self._is_throttled = False

    def once(self) -> bool:
        """One round over everything that is open. True = something still is, and waiting may help."""
        self._failure, self.retry_after, self._is_throttled = None, 0.0, False
        try:
            self._look_back()
            self._send()
        except CrossdockError as failure:
            self._failure = failure
        self.calls += 1
        if isinstance(self._failure, Retriable):
            self.retry_after = max(self.retry_after, self._failure.retry_after or 0.0)
        self._still_open()
        may_help = self._failure is None or isinstance(self._failure, Retriable)
        return bool(self._open) and may_help and not self._suspended

    def settled(self) -> list[Receipt]:
        """A receipt for every write, or the failure that stands in the way.

        Effects of the class none are never forgotten: once one of its writes is settled, the rest is returned as
        `retry` instead of an exception, which would make the caller pass all of them again.
        """
        forgettable = self._may_pass_again or len(self._open) == len(self._writes)
        if self._open and self._failure is not None and forgettable and not self._suspended:
            raise self._failure
        return [self._receipt(i) for i in range(len(self._writes))]

    @property
    def _may_pass_again(self) -> bool:
        """A write that had its effect may be passed to `put` once more."""
        return self._repeatable or self._readback is not None

    def _look_back(self) -> None:
        """What has happened already is settled; what has not may be sent."""
        if self._readback is None:
            return
        asked = [i for i in self._open if i in self._doubtful and self._has_settled(i)]
        if not asked:
            return
        try:
            found = self._readback.happened([self._writes[i] for i in asked], self._deadline)
        except Unknown as failure:  # it only looked
            raise Retriable(failure.message, detail=failure.detail) from failure
        self._doubtful.difference_update(asked)
        for i, receipt in zip(asked, found, strict=True):
            if receipt is not None:
                self._receipts[i] = receipt
        self._still_open()

    def _has_settled(self, i: int) -> bool:
        """Looked for too early, a write that is still under way would be taken for one that never happened."""
        write_id, now = self._writes[i].write_id, self._clock.monotonic()
        left = self._settling.get(write_id, now) - now
        if left > 0:
            self.retry_after = max(self.retry_after, left)
            return False
        self._settling.pop(write_id, None)
        return True

    def _send(self) -> None:
        known = [i for i in self._open if i not in self._doubtful]
        if self._open and not known:
            raise Retriable("a write without an answer is looked for later", retry_after=self.retry_after)
        groups = [known] if known else []
        while groups and not self._is_throttled and not self._suspended:
            group = groups.pop()
            try:
                self._put(group)
            except Rejected as refusal:
                if len(group) == 1:
                    self._take(group[0], Receipt(Outcome.REJECTED, code=refusal.code, reason=refusal.message))
                else:
                    middle = len(group) // 2
                    groups += [group[middle:], group[:middle]]
            self._suspended = self._suspended or self._refusals.are_suspicious

    def _put(self, group: list[int]) -> None:
        for i in group:
            self._attempts[i] += 1
        try:
            receipts = self._inner.put([self._writes[i] for i in group], self._deadline)
        except Unknown as failure:
            if self._may_pass_again:
                raise self._in_doubt(group, failure) from failure
            receipts = [Receipt(Outcome.UNKNOWN, reason=failure.message)] * len(group)
        for i, receipt in zip(group, receipts, strict=True):
            self._take(i, receipt)

    def _in_doubt(self, group: list[int], failure: Unknown) -> Retriable:
        if self._readback is None:
            return Retriable(failure.message, detail=failure.detail)
        for i in group:
            self._doubt(i)
        return Retriable(failure.message, retry_after=self._inner.capabilities.settle, detail=failure.detail)

    def _doubt(self, i: int) -> None:
        self._doubtful.add(i)
        now, settle = self._clock.monotonic(), self._inner.capabilities.settle
        for name in [name for name, at in list(self._settling.items()) if at <= now]:
            self._settling.pop(name, None)  # whoever asks for it may look at once
        self._settling[self._writes[i].write_id] = now + settle
        self.retry_after = max(self.retry_after, settle)

    def _take(self, i: int, receipt: Receipt) -> None:
        self._receipts[i] = receipt = self._refusals.judged(receipt)
        self._suspended = self._suspended or is_suspected(receipt)
        if receipt.outcome is Outcome.RETRY and receipt.retry_after:
            self._is_throttled = True
            self.retry_after = max(self.retry_after, receipt.retry_after)
        if receipt.outcome is Outcome.UNKNOWN and self._readback is not None:
            self._doubt(i)

    def _still_open(self) -> None:
        self._open = [i for i in self._open if not self._is_settled(i)]

    def _is_settled(self, i: int) -> bool:
        receipt = self._receipts[i]
        if receipt is None or receipt.outcome is Outcome.RETRY:
            return False
        return receipt.outcome is not Outcome.UNKNOWN or not self._may_pass_again

    def _receipt(self, i: int) -> Receipt:
        receipt = self._receipts[i]
        if receipt is None and self._suspended:
            return msgspec.structs.replace(self._refusals.not_sent(), attempts=self._attempts[i])
        if receipt is None:
            reason = self._failure.message if self._failure is not None else "the system asked for a pause"
            return Receipt(Outcome.RETRY, attempts=self._attempts[i], reason=reason)
        outcome, attempts = receipt.outcome if self._is_settled(i) else Outcome.RETRY, self._attempts[i]
        if outcome is receipt.outcome and attempts in (0, receipt.attempts):
            return receipt
        return msgspec.structs.replace(receipt, outcome=outcome, attempts=attempts)


def _is_read_back(sink: SinkTask) -> bool:
    return sink.capabilities.idempotency is Idempotency.READBACK
