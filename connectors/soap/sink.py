"""Writes into a SOAP service: one call for a whole batch, and one result for each record of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from lxml import etree

from connectors.contract import Capabilities, Report
from connectors.errors import ConfigError, Rejected, Unknown
from connectors.failpoints import failpoint
from connectors.refusals import Refusals
from connectors.soap.check import check_writeback, knock
from connectors.soap.config import SoapWritebackConfig
from connectors.soap.library import Nil
from connectors.soap.listing import arguments, elements_at
from connectors.soap.rows import Decoder, Field, fields_of
from connectors.soap.transport import Calls
from connectors.soap.values import to_text
from connectors.soap.wsdl import Request, Service, walk
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import JsonValue, Record, UnknownType
from schemas.write import Write

_LONGEST: Final = 500


class SoapSink:
    """One operation that writes. `put` is safe in several threads."""

    def __init__(self, config: SoapWritebackConfig, service: Service, decoder: Decoder, calls: Calls) -> None:
        self._config, self._service, self._decoder, self._calls = config, service, decoder, calls
        self._outcomes = _outcomes(config)
        self.capabilities = Capabilities(idempotency=config.idempotency, max_batch=config.batch)

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
        """Raises ConfigError if the operation or a path is not in the WSDL."""
        self._operation = self._service.operation(self._config.call)
        self._fields = {field.name: field for field in fields_of(self._list_field().type)}
        self._result = list(walk(self._operation.answer.type, self._config.results.path))[-1].type

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
            failpoint("soap_before_call")
            answer = self._calls.write(self._operation, request, self._config.faults, deadline)
            failpoint("soap_after_call")
            for place, receipt in zip(records, self._receipts(answer, list(records.values())), strict=True):
                receipts[place] = receipt
        refusals = Refusals()
        return [refusals.judged(receipt) for receipt in receipts if receipt is not None]

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

    def _list_field(self) -> Field:
        return list(walk(self._operation.takes, self._config.records))[-1]

    def _record(self, write: Write) -> Record:
        """The fields of one element of the list, as texts. Raises Rejected."""
        values: dict[str, JsonValue] = {**write.key, **write.fields}
        if self._config.version is not None:
            values[self._config.version.param] = write.version
        return {name: self._text(name, value) for name, value in values.items()}

    def _text(self, name: str, value: JsonValue) -> Any:
        field = self._fields.get(name)
        if value is not None:
            return to_text(field.type if field else None, value, name)
        return Nil if self._config.nulls == "nil" and field is not None and field.nillable else None

    def _arguments(self, records: Iterable[Record]) -> Mapping[str, JsonValue]:
        """The request's arguments: the fixed ones, and the records at their place, however deep it lies."""
        content: Any = list(records)
        for name in reversed(self._config.records.split(".")):
            content = {name: content}
        return {**arguments(self._operation, self._config.params), **content}

    def _receipts(self, answer: etree._Element, records: list[Record]) -> list[Receipt]:
        call, key = self._config.call, self._config.results.key
        nodes = elements_at(answer, self._config.results.path)
        if len(nodes) != len(records):
            raise Unknown(f"{call}: {len(nodes)} results for {len(records)} records")
        try:
            results = [self._decoder.value(node, self._result) for node in nodes]
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
