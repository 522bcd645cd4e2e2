"""Fast, typed decoding: a table of elements compiled from the WSDL's types, walked over lxml's tree.

It gives the values that zeep would give, made plain, at a tenth of the price, and where zeep would lose something it
does not: an `xsd:any` swallows no declared element, a value that its type does not allow stays as its text, and what
the WSDL does not know is counted as drift. Repeated groups are flattened: their elements become lists.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from lxml import etree

from connectors.soap.envelope import local
from connectors.soap.library import AnySimpleType, ComplexType, Element, Indicator
from connectors.soap.values import FromText, from_text
from schemas.values import JsonValue, Record, UnknownType

_LOG = logging.getLogger(__name__)
_XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
_NIL: Final = f"{{{_XSI}}}nil"
_TYPE: Final = f"{{{_XSI}}}type"


class Field(NamedTuple):
    """An element that a type declares."""

    name: str
    tag: str
    many: bool
    optional: bool
    most: int | None
    """How often it may occur; None = without bound."""
    nillable: bool
    type: Any
    """zeep's."""


def fields_of(xsd_type: Any) -> list[Field]:
    """The elements of a complex type, in order; none of any other type. A wildcard (`xsd:any`) is not among them."""
    if not isinstance(xsd_type, ComplexType):
        return []
    return list(_fields((one for _, one in xsd_type.elements_nested), repeated=False))


def _fields(content: Iterable[Any], *, repeated: bool) -> Iterator[Field]:
    for one in content:
        if isinstance(one, Indicator):
            yield from _fields(one, repeated=repeated or one.accepts_multiple)
        elif isinstance(one, Element) and not _is_simple_content(one):
            most = None if repeated or one.max_occurs == "unbounded" else int(one.max_occurs)
            many = most is None or most > 1
            yield Field(one.attr_name, one.qname.text, many, one.is_optional, most, one.nillable, one.type)


def _is_simple_content(element: Any) -> bool:
    return bool(element.name == "_value_1")


class Decoder:
    """Turns elements into records. One for each service; safe in many threads."""

    def __init__(self, types: Any, zone: ZoneInfo | None) -> None:
        self._types, self._zone = types, zone
        self._compiled: dict[int, _Complex] = {}
        self.drift: Counter[str] = Counter()
        """Names of what the WSDL does not know, and how often it came."""

    def drifted(self, name: str) -> None:
        """Counts what the WSDL does not know; the log tells each name once."""
        if name not in self.drift:
            _LOG.warning("answer.drifted: %s is not as the WSDL says", name)
        self.drift[name] += 1

    def value(self, node: etree._Element, xsd_type: Any) -> JsonValue:
        """The value of an element; of a complex type every declared field, None where it is absent.

        Raises:
            UnknownType: a time without zone, and the system names none.
        """
        if isinstance(xsd_type, ComplexType):
            return None if node.get(_NIL) in {"true", "1"} else self._complex(self._actual(node, xsd_type)).decode(node)
        if isinstance(xsd_type, AnySimpleType):
            return self.converted(local(node), node.text, from_text(xsd_type, self._zone))
        return _untyped(node)

    def _actual(self, node: etree._Element, declared: Any) -> Any:
        """The type that the answer names for itself (xsi:type), where the WSDL has it."""
        named = node.get(_TYPE)
        if named is None:
            return declared
        prefix, _, name = named.rpartition(":")
        found = self._types.get_type(f"{{{node.nsmap.get(prefix or None)}}}{name}", fail_silently=True)
        return found if isinstance(found, ComplexType) else declared

    def _complex(self, xsd_type: Any) -> "_Complex":
        compiled = self._compiled.get(id(xsd_type))
        if compiled is None:
            compiled = self._compiled[id(xsd_type)] = _Complex(xsd_type, self, self._zone)
        return compiled

    def converted(self, name: str, text: str | None, convert: FromText) -> JsonValue:
        """The value of a text; the text itself, counted as drift, where it is not what its type allows."""
        if text is None:
            return None
        try:
            return convert(text)
        except UnknownType:
            raise
        except (ValueError, TypeError, ArithmeticError):
            self.drifted(f"{name} (not of its type)")
            return text


class _Complex:
    """One complex type, compiled."""

    def __init__(self, xsd_type: Any, decoder: Decoder, zone: ZoneInfo | None) -> None:
        self._decoder, self._name, self._kept = decoder, xsd_type.name or "", xsd_type  # kept: its id is a cache key
        self._empty: Record = {}
        self._lists: list[str] = []
        self._by_tag: dict[Any, tuple[str, bool, FromText | None, Any]] = {}
        for field in fields_of(xsd_type):
            self._empty[field.name] = None
            if field.many:
                self._lists.append(field.name)
            simple = from_text(field.type, zone) if isinstance(field.type, AnySimpleType) else None
            self._by_tag[field.tag] = (field.name, field.many, simple, field.type)
        self._by_name = {tag.rpartition("}")[2]: entry for tag, entry in self._by_tag.items()}
        self._attributes = [
            (name, one.qname.text, from_text(one.type, zone)) for name, one in xsd_type.attributes if one.name
        ]
        content = next((one for _, one in xsd_type.elements if _is_simple_content(one)), None)
        self._content = from_text(content.type, zone) if content is not None else None

    def decode(self, node: etree._Element) -> JsonValue:
        if self._content is not None:
            return self._simple_content(node, self._content)
        record = self._empty.copy()
        for name in self._lists:
            record[name] = []
        for child in node:
            entry = self._by_tag.get(child.tag) or self._unexpected(child)
            if entry is None:
                continue
            name, many, convert, xsd_type = entry
            if convert is None:
                value = self._decoder.value(child, xsd_type)
            else:
                text = child.text
                try:
                    value = None if text is None else convert(text)
                except (ValueError, TypeError, ArithmeticError):
                    value = self._decoder.converted(name, text, convert)
            if many:
                record[name].append(value)
            elif record[name] is None:
                record[name] = value
            else:
                self._decoder.drifted(f"{self._name}.{name} (more than one)")
        for name, tag, convert in self._attributes:
            record[name] = self._decoder.converted(name, node.get(tag), convert)
        return record

    def _simple_content(self, node: etree._Element, convert: FromText) -> JsonValue:
        value = self._decoder.converted(local(node), node.text, convert)
        if not self._attributes:
            return value
        attributes = {name: self._decoder.converted(name, node.get(tag), of) for name, tag, of in self._attributes}
        return {"_value_1": value, **attributes}

    def _unexpected(self, child: etree._Element) -> tuple[str, bool, FromText | None, Any] | None:
        """Counted, and ignored but for a known name in another namespace: servers are often careless there."""
        name = local(child)
        self._decoder.drifted(f"{self._name}.{name}")
        return self._by_name.get(name)


def _untyped(node: etree._Element) -> JsonValue:
    """An element of any type: its text, or its children by name."""
    if not len(node):
        return node.text
    return {local(child): _untyped(child) for child in node}
