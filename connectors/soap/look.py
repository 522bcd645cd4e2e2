"""Looking at what the target has: one record by its key, or one write by the reference that it carried."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from connectors.compare import same
from connectors.errors import ConfigError, Rejected, SystemFault
from connectors.reference import reference_of
from connectors.soap.config import Look, Lookback, SoapWritebackConfig
from connectors.soap.library import xsd
from connectors.soap.listing import answer_type, arguments, elements_at
from connectors.soap.rows import Decoder, Field, fields_of
from connectors.soap.transport import Calls
from connectors.soap.values import from_text, to_text
from connectors.soap.wsdl import Service, walk
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import JsonValue, Key, Record, UnknownType
from schemas.write import Write

BY_ANOTHER_ATTEMPT = "the target has this write: an earlier attempt applied it"


class SoapLook:
    """One operation that reads."""

    def __init__(
        self, look: Look, config: SoapWritebackConfig, service: Service, decoder: Decoder, calls: Calls
    ) -> None:
        """Raises ConfigError if the operation or a path is not in the WSDL."""
        self._look, self._config, self._decoder, self._calls = look, config, decoder, calls
        self._operation = service.operation(look.operation)
        self._type = list(walk(answer_type(self._operation), look.record))[-1].type
        self._fields: dict[str, Field] = {field.name: field for field in fields_of(self._type)}

    def records(self, values: Mapping[str, JsonValue], deadline: float) -> list[Record]:
        """What the target has for these values; empty = it says that there is none.

        Raises:
            Retriable, Throttled, SystemFault: see `Calls.read`. SystemFault too if it refuses to look.
            Rejected: the WSDL does not allow these values.
        """
        texts = {name: "" if value is None else _plain_text(value) for name, value in values.items()}
        request = self._operation.request(arguments(self._operation, self._look.params, **texts))
        try:
            answer = self._calls.read(self._operation, request, self._config.faults, deadline)
        except Rejected as refusal:
            if refusal.code in self._look.absent:
                return []
            message = f"{self._look.operation} does not look: {refusal.message}; if this means that there is none, "
            raise SystemFault(f"{message}list {refusal.code!r} under `absent:`", code=refusal.code) from refusal
        try:
            found = [self._decoder.value(node, self._type) for node in elements_at(answer, self._look.record)]
        except UnknownType as error:
            raise ConfigError(f"{self._look.operation}: {error}") from error
        return [record for record in found if isinstance(record, dict)]

    def one(self, key: Key, deadline: float) -> Record | None:
        """The record with this key. Raises as `records`; SystemFault if there are several."""
        found = self.records(key, deadline)
        if len(found) > 1:
            raise SystemFault(f"{self._look.operation}: {len(found)} records for one key", code="read")
        return found[0] if found else None

    def holds(self, found: Record, wanted: Mapping[str, JsonValue]) -> bool:
        """Whether the record has all of these values, each taken as the WSDL's type of its field has it."""
        return all(self._same(name, found.get(name), value) for name, value in wanted.items())

    def _same(self, name: str, found: JsonValue, wanted: JsonValue) -> bool:
        field = self._fields.get(name)
        if field is None or found is None or wanted is None:
            return field is not None and found is wanted
        try:
            meant = from_text(field.type, None)(to_text(field.type, wanted, name))
        except (Rejected, UnknownType, ValueError, ArithmeticError):
            return same(found, wanted)
        if isinstance(field.type, xsd.Decimal):
            return Decimal(str(found)) == Decimal(str(meant))
        return same(found, meant)


class SoapLookback:
    """The operation that finds a write by its reference."""

    def __init__(self, look: SoapLook, config: Lookback, reference: Any) -> None:
        self._look, self._config, self._reference = look, config, reference

    def find(self, write: Write, deadline: float) -> Receipt | None:
        """The receipt if the target has the write; None = it says that it has not.

        Raises:
            SystemFault: there are records, and none of them shows the reference: it may not have been searched by.
            Retriable, Throttled, SystemFault, Rejected: see `SoapLook.records`.
        """
        reference = reference_of(write.write_id, self._reference.form)
        found = self._look.records({**write.key, "reference": reference}, deadline)
        if not found:
            return None
        shows = self._config.shows or self._reference.field
        if not any(str(record.get(shows)) == reference for record in found):
            raise SystemFault(
                f"{self._config.operation} answers with records that do not show the reference that was asked for in "
                f"{shows!r}: does it search by it, and does `shows:` name the right field?",
                code="readback",
            )
        return Receipt(Outcome.APPLIED, reason=BY_ANOTHER_ATTEMPT)


def _plain_text(value: JsonValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
