"""One XML schema out of all that a WSDL and its imports declare, so that a request is judged before it is sent.

libxml2 takes one document and follows its imports. A WSDL has several schemas inside it and beside it, so each becomes
a document with a name of its own in memory, one more for each namespace includes them, and one imports all namespaces.
"""

from collections.abc import Mapping
from os.path import normpath
from pathlib import PurePath
from typing import Final

from lxml import etree

_XSD: Final = "http://www.w3.org/2001/XMLSchema"
_SCHEMA: Final = f"{{{_XSD}}}schema"
_IMPORT: Final = f"{{{_XSD}}}import"
_INCLUDE: Final = f"{{{_XSD}}}include"
_SCHEME: Final = "crossdock-schema:"


def compile_schema(documents: Mapping[str, bytes]) -> tuple[etree.XMLSchema | None, str]:
    """The schema of all documents (path -> content), or None and the reason why requests cannot be checked."""
    schemas = {
        f"{_SCHEME}{path}#{number}": schema
        for path, content in documents.items()
        for number, schema in enumerate(etree.fromstring(content).iter(_SCHEMA))
    }
    included = {location for name, schema in schemas.items() for location in _includes(name, schema)}
    namespaces: dict[str, list[str]] = {}
    for name, schema in schemas.items():
        namespace = schema.get("targetNamespace", "")
        if namespace or name not in included:  # else it takes on the namespace of the one that includes it
            namespaces.setdefault(namespace, []).append(name)
    memory = _Memory()
    for name, schema in schemas.items():
        memory.texts[name] = _rewritten(schema, name, list(namespaces))
    for number, (namespace, names) in enumerate(namespaces.items()):
        memory.texts[f"{_SCHEME}namespace-{number}"] = _gathered(namespace, names)
    try:
        return etree.XMLSchema(etree.fromstring(_root(list(namespaces)), memory.parser())), ""
    except (etree.XMLSchemaParseError, etree.XMLSyntaxError) as error:
        return None, str(error)


class _Memory(etree.Resolver):
    """Answers libxml2's questions for documents; for anything but ours with an empty one, so that nothing is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, bytes] = {}

    def parser(self) -> etree.XMLParser:
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        parser.resolvers.add(self)
        return parser

    def resolve(self, system_url: str, public_id: str, context: object) -> object:  # type: ignore[override]  # noqa: ARG002
        empty = f'<xs:schema xmlns:xs="{_XSD}"/>'.encode()
        return self.resolve_string(self.texts.get(system_url, empty), context, base_url=system_url)


def _includes(name: str, schema: etree._Element) -> list[str]:
    """What a schema includes, by the names that those documents have in memory."""
    folder = PurePath(name.removeprefix(_SCHEME).rpartition("#")[0]).parent
    return [f"{_SCHEME}{normpath(folder / one.get('schemaLocation', ''))}#0" for one in schema.findall(_INCLUDE)]


def _rewritten(schema: etree._Element, name: str, namespaces: list[str]) -> bytes:
    """The schema with its imports and includes pointing into memory."""
    copy = etree.fromstring(etree.tostring(schema))  # as text it carries the prefixes that it inherits
    for one in copy.findall(_IMPORT):
        namespace = one.get("namespace", "")
        one.attrib.pop("schemaLocation", "")
        if namespace in namespaces:
            one.set("schemaLocation", f"{_SCHEME}namespace-{namespaces.index(namespace)}")
    for one, location in zip(copy.findall(_INCLUDE), _includes(name, schema), strict=True):
        one.set("schemaLocation", location)
    return etree.tostring(copy)


def _gathered(namespace: str, names: list[str]) -> bytes:
    """All schemas of one namespace."""
    gathered = etree.Element(_SCHEMA, nsmap={"xs": _XSD})
    if namespace:
        gathered.set("targetNamespace", namespace)
    for name in names:
        etree.SubElement(gathered, _INCLUDE, schemaLocation=name)
    return etree.tostring(gathered)


def _root(namespaces: list[str]) -> bytes:
    root = etree.Element(_SCHEMA, nsmap={"xs": _XSD})
    for number, namespace in enumerate(namespaces):
        location = f"{_SCHEME}namespace-{number}"
        if namespace:
            etree.SubElement(root, _IMPORT, namespace=namespace, schemaLocation=location)
        else:
            etree.SubElement(root, _INCLUDE, schemaLocation=location)
    return etree.tostring(root)
