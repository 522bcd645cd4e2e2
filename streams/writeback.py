"""Write-back: enriched events in; effects in a target, and a receipt for each.

decode -> writes -> the newest of each key -> put -> outcome -> fate. The outcome decides, never a caller's `except`:
a sick system is waited for, and only a sick record becomes a dead letter.
"""

import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from connectors.clock import Clock
from connectors.config import IfChanged
from connectors.contract import Readable, SinkTask
from connectors.errors import AuthExpired, CrossdockError, Retriable, SystemFault, Unknown
from connectors.failpoints import failpoint
from schemas.change import canonical_key
from schemas.outcome import Fate, Outcome
from schemas.receipt import Receipt
from schemas.write import Write, write_id
from streams.backoff import backoff
from streams.runtime.kafka import ConsumerRecord
from streams.runtime.publisher import Outputs
from streams.runtime.threads import Threads
from streams.scope import Getter, Scope
from streams.settled import Incoming, Settled
from streams.topics import PipelineTopics

log = logging.getLogger("crossdock.streams.writeback")

_T = TypeVar("_T")
Hold = Callable[[float], Awaitable[None]]

TRIES_AFTER_CONFLICT = 3

FATES: Mapping[Outcome, Fate] = {
    Outcome.APPLIED: Fate.APPLIED,
    Outcome.UNCHANGED: Fate.UNCHANGED,
    Outcome.STALE: Fate.SUPERSEDED,
    Outcome.REJECTED: Fate.DEAD,
    Outcome.UNKNOWN: Fate.IN_DOUBT,
}
"""What an outcome becomes; `conflict` is decided by `if_changed`, and `retry` is never an end."""


class OpenedAtFirstUse:
    """A sink task that is opened by its first `put`: a worker starts also while a target is away."""

    def __init__(self, sink: SinkTask) -> None:
        self._sink, self._open, self._opening = sink, False, threading.Lock()
        self.capabilities = sink.capabilities

    def open(self) -> None:
        """Once, whoever comes first. Raises what the sink's own `open` raises; then the next call tries again."""
        with self._opening:
            if not self._open:
                self._sink.open()
                self._open = True

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        self.open()
        return self._sink.put(writes, deadline)

    def close(self) -> None:
        self._sink.close()


@dataclass(frozen=True, slots=True)
class Writeback:
    """One write-back of one pipeline, as this worker runs it."""

    name: str
    pipeline: str
    prefix: str
    topics: PipelineTopics
    config: str
    sink: SinkTask
    reader: Readable | None
    """The same sink, where it can look."""
    match: Mapping[str, Getter]
    fields: Mapping[str, Getter]
    expected: Getter | None
    if_changed: IfChanged
    batch: int
    total_timeout: float
    threads: Threads
    clock: Clock

    def write(self, each: Incoming) -> Write:
        """The write that an event means."""
        event = each.event
        answer = event.ai or {}
        scope = Scope(
            key=event.key,
            before=event.before,
            after=event.after,
            derived=event.derived,
            lookups=event.lookups,
            answer=answer.get("output") or {},
            model={"name": answer.get("model"), "version": answer.get("version"), "digest": answer.get("digest")},
        )
        return Write(
            write_id=write_id(self.prefix, self.pipeline, self.name, each.event_id, each.cause),
            key={theirs: get(scope) for theirs, get in self.match.items()},
            fields={theirs: get(scope) for theirs, get in self.fields.items()},
            version=event.version,
            expected=None if self.expected is None else self.expected(scope),
        )


async def write_back(records: Sequence[ConsumerRecord], writebacks: Sequence[Writeback], hold: Hold) -> Outputs:
    """Writes what these records ask for, and gives the receipts to publish before they may be acknowledged.

    Args:
        records: of one partition of `<p>.enriched`, in order.
        writebacks: all of that pipeline into one system.
        hold: waits for a sick system; the lane has nothing in hand meanwhile.
    """
    first = writebacks[0]
    settled = Settled(first.pipeline, first.topics, first.config, first.clock)
    incoming = settled.decode(records)
    for writeback in writebacks:
        await _through(writeback, incoming, settled, hold)
    return settled.outputs


async def _through(writeback: Writeback, incoming: Sequence[Incoming], settled: Settled, hold: Hold) -> None:
    wanted = [(each, writeback.write(each)) for each in incoming if each.only in (None, writeback.name)]
    newest, overtaken = _newest_of_each_key(wanted)
    for each, write in overtaken:
        receipt = Receipt(Outcome.STALE, 0, reason="a newer version of the key was in the same batch")
        settled.written(each, Fate.SUPERSEDED, write, writeback.name, receipt)
    failpoint("writeback_before_put")
    for start in range(0, len(newest), writeback.batch):
        part = newest[start : start + writeback.batch]
        receipts = await _put(writeback, [write for _, write in part], hold)
        failpoint("writeback_after_effect")
        receipts = await _after_conflicts(writeback, [write for _, write in part], receipts, hold)
        for (each, write), receipt in zip(part, receipts, strict=True):
            _settle(writeback, each, write, receipt, settled)


def _newest_of_each_key(
    wanted: Sequence[tuple[Incoming, Write]],
) -> tuple[list[tuple[Incoming, Write]], list[tuple[Incoming, Write]]]:
    """A statement never holds one key twice: the newest is written, the others were overtaken."""
    newest: dict[bytes, tuple[Incoming, Write]] = {}
    overtaken = []
    for item in wanted:
        key = canonical_key(item[1].key)
        other = newest.get(key)
        if other is None:
            newest[key] = item
        elif item[1].version >= other[1].version:
            overtaken.append(other)
            newest[key] = item
        else:
            overtaken.append(item)
    return list(newest.values()), overtaken


async def _put(writeback: Writeback, writes: Sequence[Write], hold: Hold) -> list[Receipt]:
    """Puts until every write has an outcome that is an end. A sick system only ever costs time."""
    receipts: dict[int, Receipt] = {}
    todo = list(range(len(writes)))
    tries = 0
    while todo:
        wait = 0.0
        try:
            found = await _in_thread(writeback, writeback.sink.put, [writes[row] for row in todo])
        except (Retriable, Unknown, SystemFault, AuthExpired) as error:
            wait = getattr(error, "retry_after", None) or 0.0
            _tell(writeback, error, len(todo))
        else:
            receipts.update(zip(todo, found, strict=True))
            todo = [row for row in todo if receipts[row].outcome is Outcome.RETRY]
        if todo:
            tries += 1
            await hold(max(wait, backoff(tries)))
    return [receipts[row] for row in range(len(writes))]


def _tell(writeback: Writeback, error: CrossdockError, waiting: int) -> None:
    level = logging.ERROR if isinstance(error, SystemFault | AuthExpired) else logging.WARNING
    log.log(
        level,
        "writeback.holds pipeline=%s writeback=%s waiting=%d kind=%s reason=%s",
        writeback.pipeline,
        writeback.name,
        waiting,
        type(error).__name__,
        error,
    )


async def _after_conflicts(
    writeback: Writeback, writes: Sequence[Write], receipts: list[Receipt], hold: Hold
) -> list[Receipt]:
    """`if_changed: reread` and `overwrite`: read the target's version and write again, at most three times."""
    if writeback.if_changed not in ("reread", "overwrite") or writeback.reader is None:
        return receipts
    for _ in range(TRIES_AFTER_CONFLICT):
        rows = [row for row, receipt in enumerate(receipts) if receipt.outcome is Outcome.CONFLICT]
        if not rows:
            break
        found = await _in_thread(writeback, writeback.reader.read, [writes[row].key for row in rows])
        again = {
            row: msgspec.structs.replace(writes[row], expected=record["@version"])
            for row, record in zip(rows, found, strict=True)
            if record is not None
        }
        if not again:
            break
        for row, receipt in zip(again, await _put(writeback, list(again.values()), hold), strict=True):
            receipts[row] = receipt
    return receipts


def _settle(writeback: Writeback, each: Incoming, write: Write, receipt: Receipt, settled: Settled) -> None:
    """The one place where an outcome becomes a fate."""
    if receipt.outcome is Outcome.CONFLICT:
        fate = Fate.SUPERSEDED if writeback.if_changed == "newer_comes" else Fate.DEAD
    else:
        fate = FATES[receipt.outcome]
    if fate is Fate.DEAD:
        code, reason = receipt.code or receipt.outcome.value, receipt.reason or "the target refused it"
        settled.dead(each, "put", code, reason, write=write, writeback=writeback.name, receipt=receipt)
    else:
        settled.written(each, fate, write, writeback.name, receipt)


async def _in_thread(writeback: Writeback, call: Callable[[Any, float], _T], what: Any) -> _T:
    deadline = writeback.clock.monotonic() + writeback.total_timeout
    return await writeback.threads.call(call, what, deadline, patience=writeback.total_timeout)
