"""The three operations of the aircraft register, from request envelope to answer envelope."""

import itertools
import random
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from lxml import etree

from connectors.clock import Clock
from crossdock.demo.aircraft import COLUMNS, SCORED, Aircraft, AircraftRegister, Position, instant, microseconds
from crossdock.demo.whims import LOGIN_PAGE, SLOW_SECONDS, Whim, Whims

LOCK_SECONDS = 8.0
NAMESPACE = "urn:crossdock:registry:1"
SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
_HEAD = f'<?xml version="1.0" encoding="UTF-8"?><soap:Envelope xmlns:soap="{SOAP}"><soap:Body>'
_TAIL = "</soap:Body></soap:Envelope>"


@dataclass
class Quirks:
    """What makes it hard to live with; tests change these while it runs."""

    locator_seconds: float = 60.0
    locator_pages: int = 1000
    """So many pages of one listing, then its locator is refused."""
    busy_every: int = 0
    """Each so many calls one is refused: as a fault and as a bare 503 in turn. 0 = never."""
    retry_after: int = 1
    rejected: set[str] = field(default_factory=set)
    """Tail numbers whose update is answered REJECTED."""
    locked: set[str] = field(default_factory=set)
    """Tail numbers whose update is answered LOCKED."""
    locking: float = 0.0
    """Share of the updates that find an aircraft open in another session, which holds it for a while."""
    faulty: set[str] = field(default_factory=set)
    """Tail numbers that fail the whole call with a Client fault, before anything is written."""
    largest_page: int = 1000
    whims: Whims = field(default_factory=Whims)


@dataclass(eq=False)
class Fault(Exception):
    """A SOAP fault, or with an empty code a bare HTTP refusal."""

    code: str
    detail: str
    text: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)

    def envelope(self) -> bytes:
        """SOAP 1.1, with the typed detail of the WSDL."""
        if not self.code:
            return LOGIN_PAGE if self.status == 200 else b"<html><body>Service temporarily unavailable</body></html>"
        detail = f'<r:{self.detail} xmlns:r="{NAMESPACE}"><r:message>{escape(self.text)}</r:message></r:{self.detail}>'
        return (
            f"{_HEAD}<soap:Fault><faultcode>soap:{self.code}</faultcode><faultstring>{escape(self.text)}</faultstring>"
            f"<detail>{detail}</detail></soap:Fault>{_TAIL}"
        ).encode()


class LostReply(Exception):
    """It is done, and nobody will hear of it."""


@dataclass(frozen=True, slots=True)
class _Listing:
    after: Position
    size: int
    pages: int
    expires: float


class Operations:
    """Checks a request against the WSDL's types and answers it."""

    def __init__(self, register: AircraftRegister, wsdl: Path, quirks: Quirks, clock: Clock) -> None:
        self._register, self._quirks, self._clock = register, quirks, clock
        self._listings: dict[str, _Listing] = {}
        self._calls, self._lock = itertools.count(1), threading.Lock()
        self._open_until: dict[str, float] = {}
        self._chance = random.Random(quirks.whims.seed)  # noqa: S311 - no secret
        self.wsdl_text = wsdl.read_bytes()
        self._schema = _types_of(self.wsdl_text)
        self._by_name = {
            "listAircraft": self._list,
            "listAircraftMore": self._more,
            "setInspectionPriority": self._set_priority,
        }

    def call(self, envelope: bytes) -> bytes:
        """The answer's envelope. Raises Fault."""
        self._be_busy_now_and_then()
        request = self._request(envelope)
        name = etree.QName(request).localname
        content = self._by_name[name](request)
        return f'{_HEAD}<{name}Response xmlns="{NAMESPACE}">{content}</{name}Response>{_TAIL}'.encode()

    def _request(self, envelope: bytes) -> etree._Element:
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        try:
            body = etree.fromstring(envelope, parser).find(f"{{{SOAP}}}Body")
        except etree.XMLSyntaxError as error:
            raise Fault("Client", "InvalidRequest", str(error)) from error
        if body is None or len(body) != 1 or etree.QName(body[0]).localname not in self._by_name:
            raise Fault("Client", "InvalidRequest", "no such operation")
        try:
            with self._lock:  # a schema keeps one error log for all its callers
                self._schema.assertValid(body[0])
        except etree.DocumentInvalid as error:
            raise Fault("Client", "InvalidRequest", str(error)) from error
        return body[0]

    def _be_busy_now_and_then(self) -> None:
        call, every = next(self._calls), self._quirks.busy_every
        if every and call % every == 0:
            code = "Server" if call // every % 2 else ""
            raise Fault(code, "Busy", "busy, come back later", 503, {"Retry-After": str(self._quirks.retry_after)})

    def _list(self, request: etree._Element) -> str:
        try:
            since = microseconds(_text(request, "modifiedSince"))
        except ValueError as error:
            raise Fault("Client", "InvalidRequest", str(error)) from error
        size = max(1, min(int(_text(request, "pageSize")), self._quirks.largest_page))
        return self._page((since - 1, "\U0010ffff"), size, pages=1)

    def _more(self, request: etree._Element) -> str:
        with self._lock:
            listing = self._listings.pop(_text(request, "locator"), None)
        if listing is None or listing.expires < self._clock.monotonic() or listing.pages >= self._quirks.locator_pages:
            raise Fault("Client", "InvalidLocator", "the locator is unknown or has expired")
        return self._page(listing.after, listing.size, listing.pages + 1)

    def _page(self, after: Position, size: int, pages: int) -> str:
        aircraft, rest = self._register.page(after, size)
        body = "".join(_aircraft(one) for one in aircraft)
        if rest is None:
            return f"{body}<done>true</done>"
        locator = secrets.token_urlsafe(12)
        now = self._clock.monotonic()
        with self._lock:
            self._listings = {name: one for name, one in self._listings.items() if one.expires >= now}
            self._listings[locator] = _Listing(rest, size, pages, now + self._quirks.locator_seconds)
        return f"{body}<locator>{locator}</locator><done>false</done>"

    def _set_priority(self, request: etree._Element) -> str:
        whim = self._quirks.whims.next()
        if whim is Whim.ERROR:
            raise Fault("", "", "internal error")
        if whim is Whim.PAGE:
            raise Fault("", "", "login", 200, {"Content-Type": "text/html"})
        updates = [{etree.QName(field).localname: field.text or "" for field in update} for update in request]
        bad = [update["tailNumber"] for update in updates if update["tailNumber"] in self._quirks.faulty]
        if bad:
            raise Fault("Client", "InvalidRequest", f"{bad[0]} cannot be inspected")
        results = "".join(self._set_one(update) for update in updates)
        if whim is Whim.LOST:
            raise LostReply
        if whim is Whim.SLOW:
            self._clock.sleep(SLOW_SECONDS)
        return results

    def _set_one(self, update: dict[str, str]) -> str:
        tail_number = update["tailNumber"]
        if tail_number in self._quirks.rejected:
            return _result(tail_number, "REJECTED", "this aircraft is exempt from inspection")
        if tail_number in self._quirks.locked or self._is_open_elsewhere(tail_number):
            return _result(tail_number, "LOCKED", "open in another session")
        values = {name: update.get(name) for name in SCORED}
        status = self._register.score(tail_number, update["sourceVersion"], values)
        return _result(tail_number, status, "no such aircraft" if status == "REJECTED" else None)

    def _is_open_elsewhere(self, tail_number: str) -> bool:
        now = self._clock.monotonic()
        with self._lock:
            until = self._open_until.get(tail_number)
            if until is None and self._chance.random() < self._quirks.locking:
                until = self._open_until[tail_number] = now + LOCK_SECONDS
            if until is not None and until <= now:
                del self._open_until[tail_number]
            return until is not None and until > now


def _types_of(wsdl: bytes) -> etree.XMLSchema:
    [types] = etree.fromstring(wsdl).iter("{http://www.w3.org/2001/XMLSchema}schema")
    return etree.XMLSchema(etree.fromstring(etree.tostring(types)))  # as text it carries the prefixes it inherits


def _text(request: etree._Element, name: str) -> str:
    return request.findtext(f"{{{NAMESPACE}}}{name}") or ""


def _aircraft(one: Aircraft) -> str:
    fields = [
        ("tailNumber", one.tail_number),
        *((name, one.row.get(name)) for name in COLUMNS),
        ("lastModified", instant(one.modified)),
        *((name, one.scored.get(name)) for name in SCORED),
    ]
    return f"<aircraft>{_elements(fields)}</aircraft>"


def _result(tail_number: str, status: str, message: str | None) -> str:
    return f"<results>{_elements([('tailNumber', tail_number), ('status', status), ('message', message)])}</results>"


def _elements(fields: Iterable[tuple[str, object]]) -> str:
    return "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in fields if value is not None)
