"""A help desk: a server over REST and SOAP whose calls are not idempotent, as those of most old systems.

Each call that adds a ticket adds one, however often it comes; a ticket is found by the reference that it carried. What
makes it hard to live with can be switched on while it runs. `effects` is its own log: an entry for each effect.
"""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from lxml import etree

WSDL = Path(__file__).with_name("desk.wsdl")
NAMESPACE = "urn:example:desk"
SOAP = "http://schemas.xmlsoap.org/soap/envelope/"


@dataclass
class Quirks:
    """What a test wants; counts go down by one with each call that they meet."""

    lose_answers: int = 0
    """So many writing calls are done and not answered: the connection is closed."""
    works_for: float = 0.0
    """Seconds that the server goes on working after it has closed the connection of a lost answer."""
    server_faults: int = 0
    """So many writing SOAP calls are done and answered with a fault Server."""
    ignores_search: bool = False
    """The search by reference answers with all tickets, as a server does that does not know a parameter."""
    strict_version: bool = False
    """An update whose version is not the ticket's is a conflict."""


@dataclass
class Ticket:
    """One ticket."""

    id: str
    reference: str | None
    subject: str | None
    body: str | None = None
    state: str = "new"
    score: str | None = None
    version: int = 1

    @property
    def etag(self) -> str:
        return f'"{self.version}"'

    def plain(self) -> dict[str, Any]:
        names = ("id", "reference", "subject", "state", "score")
        return {name: getattr(self, name) for name in names}


@dataclass
class Desk:
    """The server. `with desk.running():`"""

    quirks: Quirks = field(default_factory=Quirks)
    tickets: list[Ticket] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    """The reference of each ticket that was added, and `id:state` of each update that changed something."""
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        desk = self

        class Bound(Handler):
            pass

        Bound.desk = desk
        self._lock, self._seen = threading.RLock(), dict[str, str]()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> "Desk":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def add(self, values: dict[str, Any]) -> Ticket:
        reference = values.get("reference")
        with self._lock:
            ticket = Ticket(f"T{len(self.tickets) + 1}", reference, values.get("subject"), values.get("body"))
            self.tickets.append(ticket)
            self.effects.append(str(reference))
            return ticket

    def find(self, reference: str) -> list[Ticket]:
        with self._lock:
            return [one for one in self.tickets if self.quirks.ignores_search or one.reference == reference]

    def get(self, number: str) -> Ticket | None:
        with self._lock:
            return next((one for one in self.tickets if one.id == number), None)

    def update(self, number: str, values: dict[str, Any], *, request: str | None = None) -> str:
        """UPDATED, SAME or MISSING; a request id that was seen gets its first answer."""
        with self._lock:
            if request is not None and request in self._seen:
                return self._seen[request]
            ticket = self.get(number)
            if ticket is None:
                return "MISSING"
            changed = {name: value for name, value in values.items() if getattr(ticket, name) != value}
            for name, value in changed.items():
                setattr(ticket, name, value)
            if changed:
                ticket.version += 1
                self.effects.append(f"{number}:{ticket.state}")
            answer = "UPDATED" if changed else "SAME"
            if request is not None:
                self._seen[request] = answer
            return answer

    def loses(self) -> bool:
        with self._lock:
            self.quirks.lose_answers -= 1
            return self.quirks.lose_answers >= 0

    def falters(self) -> bool:
        with self._lock:
            self.quirks.server_faults -= 1
            return self.quirks.server_faults >= 0


class Lost(Exception):
    """The connection ends without an answer."""


class Handler(BaseHTTPRequestHandler):
    """HTTP in front of the desk."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    desk: Desk

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, answer, headers = self._soap(body) if self.path == "/soap" else self._rest(body)
        except Lost:
            self.close_connection = True
            return
        self.send_response(status)
        kind = "text/xml" if self.path == "/soap" else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PATCH = do_PUT = handle_one  # noqa: N815 - the library's names

    def log_message(self, *_: Any) -> None: ...

    def _done(self, work: Any) -> Any:
        """Does something with an effect, and may lose the answer before or after it."""
        desk = self.desk
        if not desk.loses():
            return work()
        if desk.quirks.works_for:
            threading.Timer(desk.quirks.works_for, work).start()
        else:
            work()
        raise Lost

    # REST

    def _rest(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        desk, url = self.desk, urlsplit(self.path)
        desk.calls[self.command] += 1
        number = unquote(url.path.removeprefix("/api/tickets").strip("/"))
        values = json.loads(body) if body else {}
        if self.command == "POST":
            ticket = self._done(lambda: desk.add(values))
            return 201, json.dumps(ticket.plain()).encode(), {"ETag": ticket.etag}
        if not number:
            wanted = parse_qs(url.query).get("reference", [""])[0]
            return 200, json.dumps({"items": [one.plain() for one in desk.find(wanted)]}).encode(), {}
        ticket = desk.get(number)
        if ticket is None:
            return 404, b"{}", {}
        if self.command == "GET":
            return 200, json.dumps(ticket.plain()).encode(), {"ETag": ticket.etag}
        expected = self.headers.get("If-Match")
        if expected is not None and expected != ticket.etag:
            return 412, b"{}", {}
        if desk.quirks.strict_version and expected is None:
            return 409, b"{}", {}
        self._done(lambda: desk.update(number, values))
        return 200, json.dumps(ticket.plain()).encode(), {"ETag": ticket.etag}

    # SOAP

    def _soap(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        request = etree.fromstring(body).find(f"{{{SOAP}}}Body")[0]
        name = etree.QName(request).localname
        self.desk.calls[name] += 1
        try:
            content = getattr(self, f"_{name}", self._unknown)(request)
        except SoapFault as fault:
            return (
                500,
                _envelope(
                    f"<soap:Fault><faultcode>soap:{fault.code}</faultcode><faultstring>no</faultstring>"
                    f'<detail><d:{fault.detail} xmlns:d="{NAMESPACE}"/></detail></soap:Fault>'
                ),
                {},
            )
        return 200, _envelope(f'<{name}Response xmlns="{NAMESPACE}">{content}</{name}Response>'), {}

    def _unknown(self, request: Any) -> str:
        raise SoapFault("Client", "NoSuchOperation")

    def _createTicket(self, request: Any) -> str:
        one = _fields(request)
        ticket = self._done(lambda: self.desk.add(one))
        if self.desk.falters():
            raise SoapFault("Server", "Crashed")
        return f"<id>{ticket.id}</id>"

    def _createTickets(self, request: Any) -> str:
        asked = [_fields(one) for one in request]
        self._done(lambda: [self.desk.add(one) for one in asked])
        return "".join("<results><status>OK</status></results>" for _ in asked)

    def _findTickets(self, request: Any) -> str:
        return "".join(_ticket("tickets", one) for one in self.desk.find(_fields(request)["reference"]))

    def _getTicket(self, request: Any) -> str:
        ticket = self.desk.get(_fields(request)["id"])
        if ticket is None:
            raise SoapFault("Client", "NotFound")
        return _ticket("ticket", ticket)

    def _updateTicket(self, request: Any) -> str:
        one = _fields(request)
        ticket = self.desk.get(one["id"])
        values = {name: one[name] for name in ("state", "score", "subject") if name in one}
        if self.desk.quirks.strict_version and ticket is not None and one.get("requestId") is None:
            return "<status>CONFLICT</status>"
        status = self._done(lambda: self.desk.update(one["id"], values, request=one.get("requestId")))
        return f"<status>{status}</status>"


@dataclass(eq=False)
class SoapFault(Exception):
    code: str
    detail: str


def _fields(node: Any) -> dict[str, str]:
    return {etree.QName(child).localname: child.text or "" for child in node}


def _ticket(tag: str, ticket: Ticket) -> str:
    values = {name: value for name, value in ticket.plain().items() if value is not None}
    return f"<{tag}>{''.join(f'<{name}>{escape(str(value))}</{name}>' for name, value in values.items())}</{tag}>"


def _envelope(content: str) -> bytes:
    return f'<soap:Envelope xmlns:soap="{SOAP}"><soap:Body>{content}</soap:Body></soap:Envelope>'.encode()


def eventually(condition: Any, seconds: float = 20.0) -> None:
    """Returns when it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come to hold"
        time.sleep(0.02)
