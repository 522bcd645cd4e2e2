"""Writes into a SOAP service: one call for a whole batch, and one result for each record of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from lxml import etree

from connectors.contract import Capabilities, Idempotency, Report
from connectors.errors import ConfigError, Rejected, Retriable, SystemFault, Unknown
from connectors.failpoints import failpoint
from connectors.reference import reference_of
from connectors.refusals import Refusals
from connectors.replaced import Replaced
from connectors.soap.check import check_writeback, knock
from connectors.soap.config import Look, SoapWritebackConfig
from connectors.soap.library import Nil
from connectors.soap.listing import arguments, elements_at
from connectors.soap.look import SoapLook, SoapLookback
from connectors.soap.rows import Decoder, fields_of
from connectors.soap.shape import record_type, result_type, takes_many
from connectors.soap.transport import Calls
from connectors.soap.values import to_text
from connectors.soap.wsdl import Request, Service, walk
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import JsonValue, Key, Record, UnknownType
from schemas.write import Write

_LONGEST: Final = 500
_LOOKED_FOR_AT_ONCE: Final = 25
"""Writes of one `put` at most where each costs a look before it is sent: all of them must fit into its time."""


class SoapSink:
    """One operation that writes. `put` is safe in several threads. What it can besides is a matter of its file."""

    def __init__(self, config: SoapWritebackConfig, service: Service, decoder: Decoder, calls: Calls) -> None:
        self._config, self._service, self._decoder, self._calls = config, service, decoder, calls
        self._outcomes, self._replaced = _outcomes(config), Replaced()
        most = config.batch if takes_many(service, config) else 1
        if config.undo or config.idempotency is Idempotency.READBACK:
            most = min(most, _LOOKED_FOR_AT_ONCE)
        self.capabilities = Capabilities(config.idempotency, readable=config.read is not None, max_batch=most)
        if config.read is not None:
            self.read = self._read
        if config.idempotency is Idempotency.READBACK:
            settle = 0.0 if config.readback is None else config.readback.settle.total_seconds()
            self.capabilities = replace(self.capabilities, settle=settle)
            self.happened = self._happened

    def lint(self) -> Report:
        """What the WSDL alone says about the configuration; nothing is sent."""
        return check_writeback(self._service, self._config)

    def check(self) -> Report:
        """The same, and whether the service lets us in. Raises Retriable, CredentialsRefused."""
        report = self.lint()
        if not report.problems:
            knock(self._service, self._calls, self._config, self._calls.deadline(), report)
        return report

    def open(self) -> None:
        """Raises ConfigError if an operation or a path is not in the WSDL."""
        self._operation = self._service.operation(self._config.call)
        self._fields = {field.name: field for field in fields_of(record_type(self._operation, self._config))}
        self._result = result_type(self._operation, self._config)
        _ = self._look, self._lookback

    @cached_property
    def _look(self) -> SoapLook | None:
        return None if self._config.read is None else self._looking(self._config.read)

    @cached_property
    def _lookback(self) -> SoapLookback | None:
        wanted = self._config.readback
        return None if wanted is None else SoapLookback(self._looking(wanted), wanted, self._config.reference)

    def _looking(self, look: Look) -> SoapLook:
        return SoapLook(look, self._config, self._service, self._decoder, self._calls)

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        """One call. A record that the WSDL does not allow is refused here, and the others are sent without it.

        Raises:
            Rejected: the service refused the whole call with a Client fault, and did nothing.
            Retriable, Throttled, SystemFault, Unknown: as the contract says; Unknown also for results
                that do not fit the records one by one.
        """
        receipts: list[Receipt | None] = [None] * len(writes)
        records: dict[int, Record] = {}
        for place, write in enumerate(writes):
            try:
                records[place] = self._record(write)
            except Rejected as error:
                receipts[place] = _refused(error)
        request = self._request(records, receipts)
        if request is not None:
            self._see([writes[place] for place in records], deadline)
            once = self.capabilities.idempotency in {Idempotency.READBACK, Idempotency.NONE}
            failpoint("soap_before_call")
            answer = self._calls.write(self._operation, request, self._config.faults, deadline, once=once)
            failpoint("soap_after_call")
            for place, receipt in zip(records, self._receipts(answer, list(records.values())), strict=True):
                receipts[place] = self._compared(writes[place], receipt, deadline)
        refusals, ends = Refusals(), zip(writes, receipts, strict=True)
        return [
            self._replaced.completed(write.write_id, refusals.judged(each)) for write, each in ends if each is not None
        ]

    def _see(self, writes: Sequence[Write], deadline: float) -> None:
        """Remembers what these writes will replace; not where a record holds the values already, perhaps by them."""
        if not self._config.undo or self._look is None:
            return
        for write in writes:
            found = self._look.one(write.key, deadline)
            if found is None or not self._look.holds(found, self._wanted(write)):
                held = {} if found is None else {name: found[name] for name in write.fields if name in found}
                self._replaced.seen(write.write_id, held)

    def _compared(self, write: Write, receipt: Receipt, deadline: float) -> Receipt:
        """A conflict is none if the record holds the values: an attempt whose answer was lost may have put them."""
        if receipt.outcome not in {Outcome.STALE, Outcome.CONFLICT} or self._look is None:
            return receipt
        try:
            done = self._already(write, deadline)
        except (Retriable, SystemFault):
            return receipt  # what the target said is true in any case
        return receipt if done is None else done

    def _already(self, write: Write, deadline: float) -> Receipt | None:
        assert self._look is not None
        found = self._look.one(write.key, deadline)
        if found is None or not self._look.holds(found, self._wanted(write)):
            return None
        return Receipt(Outcome.UNCHANGED)

    def _wanted(self, write: Write) -> Record:
        """What the record holds once it is written: a null that is left out of the call changes nothing."""
        return {name: each for name, each in write.fields.items() if each is not None or self._config.nulls == "nil"}

    def _read(self, keys: Sequence[Key], deadline: float) -> list[Record | None]:
        """See `connectors.contract.Readable`. The target shows no version that a write could expect."""
        assert self._look is not None
        found = [self._look.one(key, deadline) for key in keys]
        return [None if record is None else {**record, "@version": None} for record in found]

    def _happened(self, writes: Sequence[Write], deadline: float) -> list[Receipt | None]:
        """See `connectors.contract.Readback`."""
        found = [(write, self._looked_up(write, deadline)) for write in writes]
        return [None if each is None else self._replaced.completed(write.write_id, each) for write, each in found]

    def _looked_up(self, write: Write, deadline: float) -> Receipt | None:
        try:
            if self._lookback is not None:
                return self._lookback.find(write, deadline)
            return self._already(write, deadline)
        except Rejected as refusal:
            return _refused(refusal)

    def _request(self, records: dict[int, Record], receipts: list[Receipt | None]) -> Request | None:
        """The call for all records that the WSDL allows. The others leave `records`, and get a receipt each."""
        try:
            return self._operation.request(self._arguments(records.values())) if records else None
        except Rejected as error:
            refused = {place: found for place, record in records.items() if (found := self._refusal(record))}
            if not refused:
                raise ConfigError(f"{self._config.call}: the WSDL allows each record, but not all: {error}") from error
        for place, refusal in refused.items():
            receipts[place] = _refused(refusal)
            del records[place]
        return self._request(records, receipts)

    def _refusal(self, record: Record) -> Rejected | None:
        try:
            self._operation.request(self._arguments([record]))
        except Rejected as error:
            return error
        return None

    def close(self) -> None:
        """Nothing to do: the system owns the connections."""

    def _record(self, write: Write) -> Record:
        """The fields of one element of the list, as texts. Raises Rejected."""
        values: dict[str, JsonValue] = {**write.key, **write.fields}
        if self._config.version is not None:
            values[self._config.version.param] = write.version
        if self._config.reference is not None:
            reference = self._config.reference
            values[reference.field] = reference_of(write.write_id, reference.form)
        return {name: self._text(name, value) for name, value in values.items()}

    def _text(self, name: str, value: JsonValue) -> Any:
        field = self._fields.get(name)
        if value is not None:
            return to_text(field.type if field else None, value, name)
        return Nil if self._config.nulls == "nil" and field is not None and field.nillable else None

    def _arguments(self, records: Iterable[Record]) -> Mapping[str, JsonValue]:
        """The request's arguments: the fixed ones, and the records at their place, however deep it lies."""
        params = arguments(self._operation, self._config.params)
        if self._config.records is None:
            [record] = records
            return {**params, **record}
        content: Any = list(records)
        if not list(walk(self._operation.takes, self._config.records))[-1].many:
            [content] = content
        for name in reversed(self._config.records.split(".")):
            content = {name: content}
        return {**params, **content}

    def _receipts(self, answer: etree._Element, records: list[Record]) -> list[Receipt]:
        call, key = self._config.call, self._config.results.key
        path = self._config.results.path
        nodes = [answer] if path is None else elements_at(answer, path)
        if len(nodes) != len(records):
            raise Unknown(f"{call}: {len(nodes)} results for {len(records)} records")
        try:
            results = [self._decoder.value(node, self._result) or {} for node in nodes]
        except UnknownType as error:
            raise Unknown(f"{call}: {error}") from error
        if key is not None:
            for result, record in zip(results, records, strict=True):
                if str(result.get(key)) != str(record.get(key)):
                    raise Unknown(
                        f"{call}: a result for {result.get(key)!r} stands at the place of {record.get(key)!r}"
                    )
        return [self._receipt(result) for result in results]

    def _receipt(self, result: Record) -> Receipt:
        spec = self._config.results
        if spec.status is None:
            return Receipt(Outcome.APPLIED)
        status = str(result.get(spec.status))
        message = result.get(spec.message) if spec.message else None
        reason = None if message is None else str(message)[:_LONGEST]
        outcome = self._outcomes.get(status)
        if outcome is None:
            return Receipt(Outcome.UNKNOWN, code=status, reason=f"the status {status!r} is not listed under results")
        if outcome in {Outcome.APPLIED, Outcome.UNCHANGED}:
            return Receipt(outcome)
        return Receipt(outcome, code=status, reason=reason)


def _refused(error: Rejected) -> Receipt:
    return Receipt(Outcome.REJECTED, code=error.code, reason=error.message[:_LONGEST])


def _outcomes(config: SoapWritebackConfig) -> dict[str, Outcome]:
    lists = {
        Outcome.APPLIED: config.results.applied,
        Outcome.UNCHANGED: config.results.unchanged,
        Outcome.STALE: config.results.stale,
        Outcome.CONFLICT: config.results.conflict,
        Outcome.REJECTED: config.results.rejected,
        Outcome.RETRY: config.results.retry,
    }
    return {status: outcome for outcome, statuses in lists.items() for status in statuses}
