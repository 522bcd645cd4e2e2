"""What an unwelcome answer means: SOAP faults by their codes, everything else by what came instead.

Faults are read here and not by zeep, which loses those under a default namespace and those of the other SOAP version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from lxml import etree

from connectors.errors import CredentialsRefused, CrossdockError, Rejected, Retriable, SystemFault, Throttled
from connectors.html import asks_for_password, is_page
from connectors.http import retry_after
from connectors.soap.config import Faults
from connectors.soap.envelope import SOAP_12, local

_SENDER: Final = frozenset({"Client", "Sender"})
_RECEIVER: Final = frozenset({"Server", "Receiver"})
_SECURITY: Final = frozenset(
    {"FailedAuthentication", "InvalidSecurity", "InvalidSecurityToken", "SecurityTokenUnavailable"}
)
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST: Final = 500


@dataclass(frozen=True, slots=True)
class SoapFault:
    """A fault: its codes, the most general one first, and its text."""

    codes: tuple[str, ...]
    text: str

    @property
    def code(self) -> str:
        """The most telling code: what the service itself calls it, else the class of the fault."""
        return self.codes[-1] if self.codes else ""


def fault_in(body: etree._Element) -> SoapFault | None:
    """The fault of a SOAP body, 1.1 or 1.2, whatever prefix or default namespace it has; None = there is none."""
    for node in body:
        if local(node) == "Fault":
            return _soap_12(node) if str(node.tag).startswith(f"{{{SOAP_12}}}") else _soap_11(node)
    return None


def _soap_11(node: etree._Element) -> SoapFault:
    children = {local(child): child for child in node}
    code = _code(_text(children.get("faultcode")))
    dotted = code.split(".")
    return SoapFault(
        tuple(
            filter(
                None, [dotted[0], *([code] if len(dotted) > 1 else []), *dotted[1:], *_details(children.get("detail"))]
            )
        ),
        _text(children.get("faultstring"))[:_LONGEST],
    )


def _soap_12(node: etree._Element) -> SoapFault:
    namespace = {"s": SOAP_12}
    codes = [_code(value.text or "") for value in node.iterfind("s:Code//s:Value", namespace)]
    reason = node.find("s:Reason/s:Text", namespace)
    return SoapFault((*codes, *_details(node.find("s:Detail", namespace))), _text(reason)[:_LONGEST])


def _details(detail: etree._Element | None) -> list[str]:
    return [] if detail is None else [local(child) for child in detail]


def _code(text: str) -> str:
    return text.strip().rpartition(":")[2]


def _text(node: etree._Element | None) -> str:
    return "" if node is None else "".join(str(part) for part in node.itertext()).strip()


def fault_error(
    fault: SoapFault, status: int, headers: Mapping[str, str], faults: Faults, now: datetime
) -> CrossdockError:
    """What to do about a fault. Listed codes come first; never the status alone: SOAP 1.1 faults come as HTTP 500."""
    codes, wait = frozenset(fault.codes), retry_after(headers, now)
    said = (
        f"{fault.code or 'a fault without code'}: {fault.text}" if fault.text else fault.code or "a fault without code"
    )
    if codes & faults.auth or codes & _SECURITY or status == 401:
        return CredentialsRefused(said)
    if codes & faults.retry or (codes & _RECEIVER and not codes & faults.rejected):
        if wait is not None:
            return Throttled(said, retry_after=wait)
        return Retriable(said)
    if codes & faults.rejected or codes & _SENDER:
        return Rejected(said, code=fault.code)
    return SystemFault(
        f"{said}; if one record can cause this, list the code under faults.rejected, else under faults.retry",
        code=fault.code,
    )


def http_error(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> CrossdockError:
    """What to do about an answer that is no SOAP envelope, or about a status that no fault explains."""
    said = f"HTTP {status}"
    if status == 401:
        return CredentialsRefused(f"{said}: the credentials are not accepted")
    if status in {429, 503} and (wait := retry_after(headers, now)) is not None:
        return Throttled(f"{said}: come back later", retry_after=wait)
    if status in _AGAIN:
        return Retriable(f"{said} without a fault")
    if 300 <= status < 400:
        return SystemFault(f"{said}: the address has moved; redirects are not followed", code=str(status))
    if 200 <= status < 300 and is_page(body):
        if asks_for_password(body):
            return CredentialsRefused(f"{said}: a login page in place of a SOAP answer")
        return SystemFault(f"{said}: an HTML page in place of a SOAP answer", code="html")
    return SystemFault(f"{said} and no SOAP answer", code=str(status))
