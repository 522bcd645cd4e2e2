"""Delivery: the writes of one lane into one target, until each has an end. A sick system only ever costs time.

| what a call brings              | then                                                                              |
|---------------------------------|-----------------------------------------------------------------------------------|
| receipts that are an end        | taken, unless the brake says that they are too many refusals of one kind          |
| Retriable, Unknown              | another call worked meanwhile: halves, to find the sick record; else the breaker  |
| SystemFault, AuthExpired        | the breaker opens                                                                 |
| CredentialsRefused              | nobody calls before the health task or a person                                   |
| the same record, twice alone    | others are tried; it is sick if they work and it fails again: it is parked        |
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from connectors.clock import Clock
from connectors.contract import Checkable, Readable, Readback, SinkTask
from connectors.errors import AuthExpired, ConfigError, CrossdockError, Retriable, SystemFault, Unknown
from connectors.refusals import is_suspected
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Key, Record
from schemas.write import Write
from streams.brake import Brake, refusal_of
from streams.gate import Gate, Hold

_T = TypeVar("_T")
_W = TypeVar("_W")

ALONE = 2
"""Failures of a record alone before another one is tried."""


class Sink(SinkTask, Protocol):
    """A sink that tries again by itself (`put`), and one that does not (`once`)."""

    def once(self, writes: Sequence[Write], deadline: float) -> list[Receipt]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """One write-back's way into its system."""

    writeback: str
    """`<pipeline>/<name>`"""
    sink: Sink
    reader: Readable | None
    """The same sink, where it can look."""
    checker: Checkable | None
    batch: int
    total_timeout: float
    threads: Executor
    clock: Clock
    gate: Gate
    brake: Brake

    async def call(self, method: Callable[[_W, float], _T], what: _W) -> _T:
        """Runs a method of the sink in a thread, within the system's total time."""
        deadline = self.clock.monotonic() + self.total_timeout
        return await asyncio.get_running_loop().run_in_executor(self.threads, method, what, deadline)


class OpenedAtFirstUse:
    """A sink task that is opened by its first `put`: a worker starts also while a target is away."""

    def __init__(self, sink: SinkTask) -> None:
        self._sink, self._open, self._opening = sink, False, threading.Lock()
        self.capabilities = sink.capabilities
        if isinstance(sink, Readback):
            self._readback, self.happened = sink, self._happened

    def open(self) -> None:
        """Once, whoever comes first. Raises what the sink's own `open` raises; then the next call tries again.

        A file that fitted the system when the worker started is not what is wrong when it no longer does.
        """
        with self._opening:
            if not self._open:
                try:
                    self._sink.open()
                except ConfigError as error:
                    raise SystemFault(str(error), code="changed") from error
                self._open = True

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        self.open()
        return self._sink.put(writes, deadline)

    def _happened(self, writes: Sequence[Write], deadline: float) -> list[Receipt | None]:
        self.open()
        return self._readback.happened(writes, deadline)

    def close(self) -> None:
        self._sink.close()


async def deliver(target: Target, writes: Sequence[Write], hold: Hold) -> list[Receipt]:
    """A receipt for each write, in order; `retry` = this record is sick while others are not: park it.

    Args:
        target: where to.
        writes: no key twice.
        hold: waits; the lane has nothing in hand meanwhile.
    """
    delivery = _Delivery(target, writes)
    while delivery.todo:
        await target.gate.enter(target.writeback, hold)
        await delivery.call()
    return [delivery.receipts[row] for row in range(len(writes))]


async def look(target: Target, reader: Readable, keys: Sequence[Key], hold: Hold) -> list[Record | None]:
    """The target's present records, for as long as it takes."""
    while True:
        await target.gate.enter(target.writeback, hold)
        try:
            with target.gate.breaker.calling():
                found = await target.call(reader.read, keys)
        except (Retriable, Unknown, SystemFault, AuthExpired) as error:
            await target.gate.failed(error)
        else:
            target.gate.succeeded()
            return found


@dataclass(slots=True)
class _Delivery:
    target: Target
    writes: Sequence[Write]
    receipts: dict[int, Receipt] = field(default_factory=dict)
    todo: list[int] = field(default_factory=list)
    size: int = 1
    alone: Counter[int] = field(default_factory=Counter)
    """How often a record failed alone."""
    first_failed: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.todo, self.size = list(range(len(self.writes))), self.target.batch

    async def call(self) -> None:
        """One call: as much as may go together, or one record as a probe."""
        gate, began = self.target.gate, self.target.clock.monotonic()
        with gate.breaker.calling() as probe:
            rows = self._next(probe=probe)
            try:
                if probe and self.alone[rows[0]] >= ALONE and self.target.checker is not None:
                    await self._check(self.target.checker)
                else:
                    method = self.target.sink.once if probe else self.target.sink.put
                    found = await self.target.call(method, [self.writes[row] for row in rows])
                    self._worked()
                    await self._take(rows, found, began)
            except (Retriable, Unknown) as error:
                await self._failed(rows, error, began)
            except (SystemFault, AuthExpired) as error:
                await gate.failed(error)

    def _next(self, *, probe: bool) -> list[int]:
        """Records that failed alone too often go last, and alone: others are to show whether the system works."""
        rows = [row for row in self.todo if self.alone[row] < ALONE]
        if not rows:
            return [min(self.todo, key=lambda row: self.alone[row])]
        return rows[:1] if probe else rows[: self.size]

    async def _check(self, checker: Checkable) -> None:
        """There is no other record to try: whether the system as such works is asked of its check."""
        await asyncio.get_running_loop().run_in_executor(self.target.threads, checker.check)
        self._worked()

    def _worked(self) -> None:
        """The system works: what failed alone while it may have been away gets one more chance."""
        self.target.gate.succeeded()
        self.size = min(self.target.batch, self.size * 2)
        for row, count in self.alone.items():
            self.alone[row] = min(count, ALONE - 1)

    async def _failed(self, rows: list[int], error: CrossdockError, began: float) -> None:
        works = self.target.gate.breaker.worked_since(began)
        if len(rows) == 1:
            self._failed_alone(rows[0], error)
        if works:
            self.size = max(1, len(rows) // 2)  # the system works for others: it is one of these records
        elif self.todo:
            await self.target.gate.failed(error)
            self.size = 1

    def _failed_alone(self, row: int, error: object) -> None:
        """It is sick if the system worked between two failures of it."""
        self.alone[row] += 1
        first = self.first_failed.setdefault(row, self.target.clock.monotonic())
        if self.alone[row] >= ALONE and self.target.gate.breaker.worked_since(first):
            self.receipts[row] = Receipt(Outcome.RETRY, attempts=self.alone[row], reason=str(error))
            self.todo.remove(row)

    async def _take(self, rows: list[int], found: list[Receipt], began: float) -> None:
        ends = {row: receipt for row, receipt in zip(rows, found, strict=True) if receipt.outcome is not Outcome.RETRY}
        for row, receipt in zip(rows, found, strict=True):
            if receipt.outcome is Outcome.RETRY and not is_suspected(receipt):
                self.first_failed.setdefault(row, began)  # the call as such worked, and this record did not
                self._failed_alone(row, receipt.reason)
        suspected = self._suspected(ends)
        if suspected is not None:
            fingerprint, reason = suspected
            ends = {row: receipt for row, receipt in ends.items() if refusal_of(receipt) != fingerprint}
            await self.target.gate.suspect(self.target.writeback, fingerprint, reason)
        self.receipts.update(ends)
        self.todo = [row for row in self.todo if row not in ends]

    def _suspected(self, ends: dict[int, Receipt]) -> tuple[str, str] | None:
        """The kind of refusal that is met too often for being the records' fault."""
        target = self.target
        target.brake.decided(target.gate.decided_at(target.writeback))
        for row, receipt in ends.items():
            fingerprint = target.brake.note(self.writes[row], receipt)
            if fingerprint is not None and not target.gate.may_die(target.writeback, fingerprint):
                return fingerprint, receipt.reason or ""
        return None
