"""From the bytes of an answer to its body: a hardened parse before anything else sees them."""

from typing import Final

from lxml import etree

SOAP_11: Final = "http://schemas.xmlsoap.org/soap/envelope/"
SOAP_12: Final = "http://www.w3.org/2003/05/soap-envelope"
_CHECK: Final = "urn:crossdock:check"
_ENVELOPES: Final = {f"{{{SOAP_11}}}Envelope": SOAP_11, f"{{{SOAP_12}}}Envelope": SOAP_12}


class Unreadable(ValueError):
    """Bytes that are not the XML that they should be. `cut_off` tells an answer that ends too early."""

    def __init__(self, message: str, *, cut_off: bool = False) -> None:
        super().__init__(message)
        self.cut_off = cut_off


def parse(content: bytes) -> etree._Element:
    """The root of a document that needs nothing but its own bytes.

    Raises:
        Unreadable: not well-formed, or with a DTD (and so perhaps with entities).
    """
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        recover=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        cut_off = not content.rstrip().endswith(b">") or "Premature end" in str(error)
        raise Unreadable(f"not well-formed: {error.msg}", cut_off=cut_off) from error
    except ValueError as error:
        raise Unreadable(f"not XML: {error}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise Unreadable("it has a document type definition, which is never read")
    return root


NO_ACTION: Final = _CHECK
"""SOAPAction of a call for nothing: servers that look at it alone must not take it for one of theirs."""


def nothing(version: str) -> bytes:
    """An envelope that asks for an operation that no service has: it tells only whether the service listens to us."""
    head = f'<soap:Envelope xmlns:soap="{version}"><soap:Body>'
    return f'{head}<c:check xmlns:c="{_CHECK}"/></soap:Body></soap:Envelope>'.encode()


def headers_of(version: str, action: str) -> dict[str, str]:
    """The HTTP headers of a call, in the form of the SOAP version."""
    if version == SOAP_12:
        return {"Content-Type": f'application/soap+xml; charset=utf-8; action="{action}"'}
    return {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": f'"{action}"'}


def body_of(root: etree._Element) -> etree._Element | None:
    """The SOAP body, of either version; None = this is no SOAP envelope."""
    namespace = _ENVELOPES.get(str(root.tag))
    return None if namespace is None else root.find(f"{{{namespace}}}Body")


def local(node: etree._Element) -> str:
    """An element's name without its namespace."""
    return str(node.tag).rpartition("}")[2]
