"""Writing records of a REST system, one request for each, and what the answer makes of the write.

| answer                                       | outcome                                                             |
|----------------------------------------------|---------------------------------------------------------------------|
| 2xx                                          | applied; unchanged if the ETag is still the one that was sent       |
| 304                                          | unchanged                                                           |
| 409, our idempotency key is being worked on  | retry                                                               |
| 409, 412                                     | looked up: it has our write = applied; read: it holds our values =  |
|                                              | unchanged, else conflict;                                           |
|                                              | 412 though its version is ours: once more with the ETag as read     |
| 412, 428 and no ETag was sent                | the ETag is read, once more                                         |
| 400, 404, 410, 413, 415, 422                 | rejected                                                            |
| 408, 425, 429, 5xx                           | retry; 429 and 503 pause the whole system as long as they ask       |
| 408, 5xx and the class may not be repeated   | unknown: a gateway does not know either                             |
| 401, a login form; 403, another page          | CredentialsRefused; SystemFault                                     |
| none                                         | unknown if anything was sent, else retry                            |
| refused with one status, 20 in a row         | the rest is not sent: retry, with the code suspected                |
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from connectors.compare import holds
from connectors.contract import Capabilities, Idempotency, Report
from connectors.errors import CrossdockError, Rejected, Retriable, SystemFault, Unknown
from connectors.failpoints import failpoint
from connectors.http import HttpAnswer
from connectors.reference import reference_of
from connectors.refusals import Refusals
from connectors.replaced import Replaced
from connectors.rest.config import RestWritebackConfig
from connectors.rest.etag import for_if_match, same
from connectors.rest.lookback import RestLookback, already, refused
from connectors.rest.paths import path_of
from connectors.rest.rules import Action, Rules, body_of, failure_of, reason_of
from connectors.rest.wire import Wire
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Key, Record
from schemas.write import Write

_T = TypeVar("_T")
_R = TypeVar("_R")
_NOTHING_HAPPENED = frozenset({425, 429, 503})
_REPEATABLE = frozenset({Idempotency.NATURAL, Idempotency.KEY})


_LOOKED_FOR_AT_ONCE = 50
"""Writes of one `put` at most, of the class readback: each costs a look, and all of them must fit into its time."""


def sink_for(config: RestWritebackConfig, wire: Wire) -> "RestSink":
    """The sink of a write-back. One that changes records by their own address can also read them."""
    return RestSink(config, wire) if config.post is not None else ReadingRestSink(config, wire)


class RestSink:
    """Sends the writes of one `put` side by side, as many at once as the system's courtesy allows."""

    def __init__(self, config: RestWritebackConfig, wire: Wire) -> None:
        self._config, self._wire, self._rules = config, wire, Rules(config.responses)
        self.capabilities = Capabilities(config.idempotency, readable=config.post is None)
        self._lookback: RestLookback | None = None
        self._replaced = Replaced()
        if config.idempotency is Idempotency.READBACK:
            settle = 0.0 if config.readback is None else config.readback.settle.total_seconds()
            self.capabilities = replace(self.capabilities, max_batch=_LOOKED_FOR_AT_ONCE, settle=settle)
            self._lookback = None if config.readback is None else RestLookback(config, wire, self._rules)
            self.happened = self._happened
        self._threads: ThreadPoolExecutor | None = None
        self._place = f"{config.method} {config.path}"

    def open(self) -> None:
        self._threads = ThreadPoolExecutor(self._wire.concurrency, thread_name_prefix=f"rest-{self._wire.system}")

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def check(self) -> Report:
        from connectors.rest.check import check_sink

        return check_sink(self._config, self._wire)

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        broken, refusals = threading.Event(), Refusals()

        def one(write: Write) -> Receipt | CrossdockError:
            if broken.is_set():
                return Receipt(Outcome.RETRY, reason="not sent: the system refuses everything")
            if refusals.are_suspicious:
                return refusals.not_sent()
            try:
                return refusals.judged(self._write(write, deadline))
            except Retriable as failure:
                return failure
            except Rejected as refusal:
                return refusals.judged(refused(refusal))
            except Unknown as failure:
                return Receipt(Outcome.UNKNOWN, reason=failure.message)
            except CrossdockError as failure:
                broken.set()
                return failure

        return self._settled(self._side_by_side(one, writes))

    def _settled(self, results: Sequence[Receipt | CrossdockError]) -> list[Receipt]:
        """Receipts; or the failure, where it is the system's and every effect so far may be repeated."""
        failures = [result for result in results if isinstance(result, CrossdockError)]
        grave = next((failure for failure in failures if not isinstance(failure, Retriable)), None)
        happened = any(isinstance(result, Receipt) and result.outcome is not Outcome.RETRY for result in results)
        if grave is not None and (self.capabilities.idempotency in _REPEATABLE or not happened):
            raise grave
        if failures and len(failures) == len(results):
            raise max(failures, key=lambda failure: getattr(failure, "retry_after", None) or 0.0)
        return [result if isinstance(result, Receipt) else _as_receipt(result) for result in results]

    def _happened(self, writes: Sequence[Write], deadline: float) -> list[Receipt | None]:
        """See `connectors.contract.Readback`."""

        def one(write: Write) -> Receipt | None:
            try:
                found = self._looked_up(write, deadline)
            except Rejected as refusal:
                return refused(refusal)
            return None if found is None else self._replaced.completed(write.write_id, found)

        return self._side_by_side(one, writes)

    def _looked_up(self, write: Write, deadline: float) -> Receipt | None:
        if self._lookback is not None:
            return self._lookback.find(write, deadline)
        return already(self._read(write.key, deadline), write)

    def _write(self, write: Write, deadline: float) -> Receipt:
        etag = for_if_match(write.expected) if write.expected is not None else None
        if self._config.undo or (etag is None and self.capabilities.idempotency is Idempotency.NATURAL):
            found = self._read(write.key, deadline)
            if (done := already(found, write)) is not None:
                return self._replaced.completed(write.write_id, done)
            etag = self._seen(write, found, etag)
        return self._replaced.completed(write.write_id, self._sent(write, etag, deadline))

    def _seen(self, write: Write, found: Record | None, etag: str | None) -> str | None:
        """Remembers what the write will replace. Returns the ETag to send, so that it replaces just this."""
        if self._config.undo:
            held = {} if found is None else {name: found[name] for name in write.fields if name in found}
            self._replaced.seen(write.write_id, held)
        version = None if found is None else found["@version"]
        return etag if etag is not None or version is None else for_if_match(version)

    def _sent(self, write: Write, etag: str | None, deadline: float) -> Receipt:
        path = path_of(self._config.path, write.key)
        answer = self._send(write, path, etag, deadline)
        action = self._rules.action(answer)
        if action is Action.CONFLICT and _is_being_worked_on(answer):
            return Receipt(Outcome.RETRY, code="409", reason="the same idempotency key is being worked on")
        if action is Action.CONFLICT and answer.status in {412, 428}:
            fresh = self._other_form(write, etag, deadline)
            if fresh is not None:
                etag, answer = fresh, self._send(write, path, fresh, deadline)
                action = self._rules.action(answer)
        return self._receipt(write, etag, answer, action, deadline)

    def _other_form(self, write: Write, sent: str | None, deadline: float) -> str | None:
        """The record's ETag as its own address shows it, if the event named none or the version is the one it named."""
        found = self._read(write.key, deadline) if self.capabilities.readable else None
        version = None if found is None else found["@version"]
        if version is None or not (write.expected is None or same(version, sent)):
            return None
        self._seen(write, found, None)
        return next((form for form in (for_if_match(version), str(version)) if form != sent), None)

    def _receipt(self, write: Write, etag: str | None, answer: HttpAnswer, action: Action, deadline: float) -> Receipt:
        code, version = str(answer.status), answer.headers.get("ETag")
        match action:
            case Action.SUCCESS:
                return Receipt(Outcome.UNCHANGED if same(version, etag) else Outcome.APPLIED, target_version=version)
            case Action.UNCHANGED | Action.END:
                return Receipt(Outcome.UNCHANGED, target_version=version)
            case Action.REJECTED:
                return Receipt(Outcome.REJECTED, code=code, reason=f"{self._place}: HTTP {code}{reason_of(answer)}")
            case Action.CONFLICT:
                return self._conflict(write, code, deadline)
        failure = failure_of(action, answer, self._place, self._wire.heard(action, answer))
        if not isinstance(failure, Retriable):
            raise failure
        if answer.status not in _NOTHING_HAPPENED and self.capabilities.idempotency not in _REPEATABLE:
            return Receipt(Outcome.UNKNOWN, code=code, reason=failure.message)
        if answer.status == 429 or failure.retry_after is not None:
            raise failure
        return Receipt(Outcome.RETRY, code=code, reason=failure.message)

    def _conflict(self, write: Write, code: str, deadline: float) -> Receipt:
        """Another version is there: perhaps with our own values, from an attempt whose answer was lost."""
        if self._lookback is not None and (ours := self._lookback.find(write, deadline)) is not None:
            return ours
        found = self._read(write.key, deadline) if self.capabilities.readable else None
        version = None if found is None else found["@version"]
        if found is not None and holds(found, write.fields):
            return Receipt(Outcome.UNCHANGED, target_version=version)
        reason = f"{self._place}: HTTP {code}, the record's version is not the one that was read"
        return Receipt(Outcome.CONFLICT, target_version=version, code=code, reason=reason)

    def _send(self, write: Write, path: str, etag: str | None, deadline: float) -> HttpAnswer:
        headers = {"Content-Type": self._config.content_type}
        if etag is not None:
            headers["If-Match"] = etag
        if self._config.idempotency is Idempotency.KEY:
            headers[self._config.idempotency_header] = reference_of(write.write_id)
        body = write.fields if self._config.post is None else {**write.key, **write.fields}
        if self._config.reference is not None:
            reference = self._config.reference
            body = {**body, reference.field: reference_of(write.write_id, reference.form)}
        failpoint("rest_before_call")
        answer = self._wire.call(self._config.method, path, headers=headers, body=body, deadline=deadline)
        failpoint("rest_after_call")
        return answer

    def _read(self, key: Key, deadline: float) -> Record | None:
        answer = self._wire.call("GET", path_of(self._config.path, key), deadline=deadline)
        if answer.status in {404, 410}:
            return None
        action, place = self._rules.action(answer), f"GET {self._config.path}"
        if action is not Action.SUCCESS:
            raise failure_of(action, answer, place, self._wire.heard(action, answer))
        record = body_of(answer)
        if not isinstance(record, dict):
            raise SystemFault(f"{place}: the answer is no record", code="body")
        return {**record, "@version": answer.headers.get("ETag") or record.get(self._config.if_match or "")}

    def _side_by_side(self, act: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
        if len(items) == 1 or self._threads is None:
            return [act(item) for item in items]
        return list(self._threads.map(act, items))


class ReadingRestSink(RestSink):
    """A sink whose records can be read at the address at which they are changed."""

    def read(self, keys: Sequence[Key], deadline: float) -> list[Record | None]:
        """See `connectors.contract.Readable`. Raises as `put` does."""
        return self._side_by_side(lambda key: self._read(key, deadline), keys)


def _is_being_worked_on(answer: HttpAnswer) -> bool:
    """409 of an idempotency key that came before and has no answer yet, as the IETF draft has it."""
    return answer.status == 409 and ("Retry-After" in answer.headers or b"idempoten" in answer.body[:2000].lower())


def _as_receipt(failure: CrossdockError) -> Receipt:
    return Receipt(Outcome.RETRY, reason=failure.message, retry_after=_pause(failure))


def _pause(failure: CrossdockError) -> float | None:
    return failure.retry_after if isinstance(failure, Retriable) else None
