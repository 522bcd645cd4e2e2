"""A listing: one call, or a call and then more of it. Its locator lives here, in memory, and dies with it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from lxml import etree

from connectors.errors import ConfigError, Rejected, SystemFault
from connectors.soap.config import SoapSourceConfig
from connectors.soap.rows import Decoder, fields_of
from connectors.soap.transport import Calls
from connectors.soap.values import to_text
from connectors.soap.wsdl import Operation, Service, walk
from schemas.values import JsonValue, Key, Record, UnknownType

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")


class Row(NamedTuple):
    """A record, and its cursor as the server wrote it."""

    record: Record
    cursor: str | None


class Page(NamedTuple):
    """A part of a listing."""

    rows: list[Row]
    done: bool


class LocatorExpired(Exception):
    """The server does not know the locator any more."""


class Listing:
    """Reads one listing after the other. `page()` goes on with the one under way, or begins a new one."""

    def __init__(self, config: SoapSourceConfig, service: Service, decoder: Decoder, calls: Calls) -> None:
        """Raises ConfigError if an operation or a path is not in the WSDL."""
        self._config, self._decoder, self._calls = config, decoder, calls
        self._first = service.operation(config.operation)
        self._more = service.operation(config.more.operation) if config.more else None
        self._types = {
            operation.name: list(walk(answer_type(operation), config.records))[-1].type
            for operation in (self._first, self._more)
            if operation is not None
        }
        self._locator: str | None = None

    @property
    def is_under_way(self) -> bool:
        return self._locator is not None

    def page(self, since: str, deadline: float) -> Page:
        """The next page; `since` is where a new listing begins.

        Raises:
            LocatorExpired: the listing cannot go on; the next `page()` begins a new one.
            Retriable, Throttled, SystemFault, ConfigError: see `Calls.read`.
        """
        if self._locator is not None and self._more is not None:
            return self._read(self._more, self._go_on(self._locator), deadline)
        return self._read(self._first, self._begin(since), deadline)

    def begin_anew(self) -> None:
        """Gives up the listing that is under way."""
        self._locator = None

    def _begin(self, since: str) -> Mapping[str, JsonValue]:
        return arguments(self._first, self._config.params, cursor=since, page=str(self._config.page))

    def _go_on(self, locator: str) -> Mapping[str, JsonValue]:
        assert self._config.more is not None
        return {self._config.more.token_in: locator}

    def _read(self, operation: Operation, asked: Mapping[str, JsonValue], deadline: float) -> Page:
        try:
            answer = self._calls.read(operation, operation.request(asked), self._config.faults, deadline)
        except Rejected as error:
            if operation is self._more:
                self.begin_anew()
                raise LocatorExpired(error.message) from error
            raise SystemFault(f"{operation.name} is refused: {error.message}", code=error.code) from error
        locator, done = self._next(answer)
        record_type, cursor = self._types[operation.name], self._config.cursor
        path = _tags(cursor.path) if cursor else []
        try:
            rows = [
                Row(self._decoder.value(node, record_type), _text_at(node, path) if path else None)
                for node in elements_at(answer, self._config.records)
            ]
        except UnknownType as error:
            raise ConfigError(f"{operation.name}: {error}") from error
        self._locator = locator
        return Page(rows, done)

    def _next(self, answer: etree._Element) -> tuple[str | None, bool]:
        more = self._config.more
        if more is None:
            return None, True
        locator = _text_at(answer, _tags(more.token_out))
        done = locator is None if more.done is None else _text_at(answer, _tags(more.done)) in {"true", "1"}
        if not done and not locator:
            raise SystemFault(f"the listing is not done, and its answer has no {more.token_out}", code="locator")
        return None if done else locator, done


def answer_type(operation: Operation) -> Any:
    """zeep's type of an operation's answer. Raises ConfigError for one that has none."""
    if operation.answer is None:
        raise ConfigError(f"the operation {operation.name!r} has no answer")
    return operation.answer.type


def arguments(operation: Operation, params: Mapping[str, str], **filled: str) -> dict[str, JsonValue]:
    """The configured arguments, placeholders filled in, as texts of the types that the operation takes."""
    types = {field.name: field.type for field in fields_of(operation.takes)}
    given = {}
    for name, text in params.items():
        full = _PLACEHOLDER.sub(lambda found: filled.get(found[1], found[0]), text)
        given[name] = to_text(types.get(name), full, name)
    return given


def elements_at(node: etree._Element, path: str) -> list[etree._Element]:
    """All elements along a path of names, whatever their namespace: servers are often careless there."""
    found = [node]
    for tag in _tags(path):
        found = [child for parent in found for child in parent.iterchildren(tag)]
    return found


def _tags(path: str) -> list[str]:
    return [f"{{*}}{name}" for name in path.split(".")]


def _text_at(node: etree._Element, tags: list[str]) -> str | None:
    found: etree._Element | None = node
    for tag in tags:
        found = next(found.iterchildren(tag), None) if found is not None else None
    return None if found is None or found.text is None else found.text.strip()


def key_of(record: Record, names: Sequence[str]) -> Key:
    """The record's key. Raises SystemFault if a part of it is missing."""
    key = {name: record.get(name) for name in names}
    missing = [name for name, value in key.items() if value is None]
    if missing:
        raise SystemFault(f"a record has no {', '.join(missing)}", code="key")
    return key
