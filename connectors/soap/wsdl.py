"""The pinned WSDL: operations with their typed arguments and answers, read without a single look at the network."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlparse

from lxml import etree

from connectors.errors import ConfigError, Rejected
from connectors.soap.envelope import NO_ACTION, SOAP_11, SOAP_12, Unreadable, headers_of, nothing, parse
from connectors.soap.library import Client, ExternalReferenceForbidden, Settings, Soap11Binding, Soap12Binding
from connectors.soap.library import Error as ZeepError
from connectors.soap.rows import Field, fields_of
from connectors.soap.schema import compile_schema
from schemas.values import JsonValue

_LARGEST: Final = 16 * 1024 * 1024
_SETTINGS: Final = {
    "strict": False,
    "forbid_dtd": True,
    "forbid_entities": True,
    "forbid_external": True,
    "xml_huge_tree": False,
    "force_https": False,
}
_BROKEN = (
    ZeepError,
    LookupError,
    AttributeError,
    ValueError,
    TypeError,
    NotImplementedError,
    AssertionError,
    RecursionError,
)


class PinnedFiles:
    """What zeep uses as its transport: it loads the WSDL and the files beside it, and can do nothing else."""

    def __init__(self, wsdl: Path) -> None:
        self._folder = wsdl.resolve().parent
        self.documents: dict[str, bytes] = {}
        """What was loaded, by path."""

    def load(self, url: str) -> bytes:
        """The content of a file in the WSDL's own folder or below.

        Raises:
            ConfigError: it lies elsewhere, is too large, or is not plain XML.
        """
        if urlparse(url).scheme:
            raise ConfigError(_imports_elsewhere(url))
        path = Path(url).resolve()
        if not path.is_relative_to(self._folder):
            raise ConfigError(f"the WSDL imports {url}, which is not in its own folder")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) > _LARGEST:
            raise ConfigError(f"{path} is larger than {_LARGEST:,} bytes")
        try:
            parse(content)
        except Unreadable as error:
            raise ConfigError(f"{path}: {error}") from error
        self.documents[str(path)] = content
        return content


class Request(NamedTuple):
    """A call that the WSDL allows: its envelope and headers."""

    content: bytes
    headers: Mapping[str, str]


class Operation:
    """One operation: what it takes and what it answers."""

    def __init__(self, name: str, bound: Any, schema: etree.XMLSchema | None, lock: threading.Lock) -> None:
        self.name, self._bound, self._schema, self._lock = name, bound, schema, lock
        if bound.style != "document" or bound.input.body is None:
            raise ConfigError(f"the operation {name!r} is {bound.style}-style; only document/literal is supported")
        action = bound.soapaction or ""
        self._headers = headers_of(_version(bound.binding), action)

    @cached_property
    def takes(self) -> Any:
        """zeep's type of the request."""
        return self._bound.input.body.type

    @cached_property
    def answer(self) -> Any:
        """zeep's element of the answer; None = it has none (one-way)."""
        return None if self._bound.output is None else self._bound.output.body

    def request(self, arguments: Mapping[str, JsonValue]) -> Request:
        """A call, checked against the WSDL's schema.

        Raises:
            Rejected: the WSDL does not allow these arguments; nothing was sent.
        """
        try:
            envelope = self._bound.create(**arguments).content
        except (ZeepError, TypeError, ValueError) as error:
            raise Rejected(f"{self.name}: {error}", code="schema") from error
        self._validate(envelope)
        return Request(etree.tostring(envelope, xml_declaration=True, encoding="utf-8"), self._headers)

    def _validate(self, envelope: etree._Element) -> None:
        if self._schema is None:
            return
        [body] = (child for child in envelope if str(child.tag).endswith("}Body"))
        try:
            with self._lock:  # a schema keeps one error log for all its callers
                for part in body:
                    self._schema.assertValid(part)
        except etree.DocumentInvalid as error:
            raise Rejected(f"{self.name}: {error}", code="schema") from error


class Service:
    """A pinned WSDL, and one SOAP port of it."""

    def __init__(self, wsdl: Path, service: str | None = None, port: str | None = None) -> None:
        """Reads the WSDL and the files that it imports.

        Raises:
            ConfigError: a file is missing, hostile or broken; it imports something from elsewhere; there is no such
                service or port.
        """
        files = PinnedFiles(wsdl)
        try:
            client = Client(str(wsdl.resolve()), transport=files, settings=Settings(**_SETTINGS))
        except ConfigError as error:
            raise ConfigError(error.message, file=str(wsdl)) from error
        except ExternalReferenceForbidden as error:
            raise ConfigError(_imports_elsewhere(str(error.url)), file=str(wsdl)) from error
        except _BROKEN as error:
            raise ConfigError(f"no usable WSDL: {error}", file=str(wsdl), detail=type(error).__name__) from error
        self.types = client.wsdl.types
        self._binding = _binding(client.wsdl, wsdl, service, port)
        self._schema, self.unchecked = compile_schema(files.documents)
        self._lock, self._operations = threading.Lock(), dict[str, Operation]()

    @property
    def knock(self) -> Request:
        """A call that no service has an operation for, and that so has no effect."""
        version = _version(self._binding)
        return Request(nothing(version), headers_of(version, NO_ACTION))

    @cached_property
    def operations(self) -> list[str]:
        """Names, sorted."""
        return sorted(self._binding.all())

    def operation(self, name: str) -> Operation:
        """Raises ConfigError with the nearest names if there is none, or one of a style that is not supported."""
        if name not in self._operations:
            if name not in self.operations:
                raise ConfigError(f"the WSDL has no operation {name!r}; {nearest(name, self.operations)}")
            self._operations[name] = Operation(name, self._binding.get(name), self._schema, threading.Lock())
        return self._operations[name]


def _version(binding: Any) -> str:
    return SOAP_12 if isinstance(binding, Soap12Binding) else SOAP_11


def walk(xsd_type: Any, path: str) -> Iterator[Field]:
    """The elements along a path of names, from the outside in.

    Raises:
        ConfigError: one is not declared; the message names the nearest ones.
    """
    for name in path.split("."):
        fields = {field.name: field for field in fields_of(xsd_type)}
        if name not in fields:
            raise ConfigError(f"the WSDL has no {name!r} here; {nearest(name, fields)}")
        yield fields[name]
        xsd_type = fields[name].type


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that does not exist."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there is {', '.join(names)}" if names else "there is none"


def _imports_elsewhere(url: str) -> str:
    return f"the WSDL imports {url}; save that document beside the WSDL, and import it from there"


def _binding(document: Any, wsdl: Path, service: str | None, port: str | None) -> Any:
    offered = {
        (service_name, port_name): one.binding
        for service_name, each in document.services.items()
        for port_name, one in each.ports.items()
        if isinstance(one.binding, Soap11Binding | Soap12Binding)
    }
    for (service_name, port_name), binding in offered.items():
        if service in {None, service_name} and port in {None, port_name}:
            return binding
    wanted = " and ".join(f"{kind} {name!r}" for kind, name in (("service", service), ("port", port)) if name)
    there = ", ".join(f"{one}/{other}" for one, other in offered) or "none"
    raise ConfigError(f"no SOAP port for {wanted or 'any service'}; there is {there}", file=str(wsdl))
