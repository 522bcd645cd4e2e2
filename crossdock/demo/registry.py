"""The demo's aircraft register: a SOAP 1.1 service with the habits of its kind.

Locators expire, faults come as HTTP 500, now and then it is busy. `python -m crossdock.demo.registry --help` tells how
to run it alone; the password of its user `crossdock` comes from the environment variable REGISTRY_PASSWORD.
"""

import argparse
import base64
import hmac
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from connectors.clock import Clock, SystemClock
from crossdock.demo.aircraft import AircraftRegister
from crossdock.demo.registry_operations import Fault, LostReply, Operations, Quirks
from crossdock.demo.whims import Whims

USER = "crossdock"
LARGEST_REQUEST = 32 * 1024 * 1024


@dataclass
class RegistryServer:
    """The register on a port of 127.0.0.1; port 0 takes a free one."""

    folder: Path
    wsdl: Path
    password: str
    port: int = 0
    clock: Clock = field(default_factory=SystemClock)
    quirks: Quirks = field(default_factory=Quirks)

    def __post_init__(self) -> None:
        self.register = AircraftRegister(self.folder, self.clock)
        self.refused_logins = 0
        self.operations = Operations(self.register, self.wsdl, self.quirks, self.clock)
        credentials = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        bound = type("BoundHandler", (Handler,), {"registry": self, "expected": f"Basic {credentials}"})
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), bound)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]

    @property
    def address(self) -> str:
        """Where its operations are called."""
        return f"http://127.0.0.1:{self.port}/registry"

    def serve(self) -> None:
        """Answers until `stop()` is called by another thread."""
        self._http.serve_forever(poll_interval=0.05)

    @contextmanager
    def running(self) -> Iterator["RegistryServer"]:
        """Answers in a thread of its own while the block runs."""
        thread = threading.Thread(target=self.serve, name="registry", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self.close()

    def close(self) -> None:
        """Closes the port and the logs."""
        self._http.server_close()
        self.register.close()


class Handler(BaseHTTPRequestHandler):
    """HTTP in front of the operations: POST /registry, POST /load, GET /registry?wsdl."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment: two would wait for each other's acknowledgement
    registry: ClassVar[RegistryServer]
    expected: ClassVar[str]

    def do_GET(self) -> None:
        if self.path.lower() == "/registry?wsdl":
            self._answer(200, self.registry.operations.wsdl_text, "text/xml; charset=utf-8")
        else:
            self._answer(404, b"not found")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_REQUEST:
            self.close_connection = True
            self._answer(413, b"too large")
            return
        body = self.rfile.read(length)
        if not hmac.compare_digest(self.headers.get("Authorization", ""), self.expected):
            self.registry.refused_logins += 1
            self._answer(401, b"", headers={"WWW-Authenticate": 'Basic realm="registry"'})
        elif self.path == "/load":
            self._load(body)
        elif self.path == "/registry":
            self._call(body)
        else:
            self._answer(404, b"not found")

    def _load(self, body: bytes) -> None:
        try:
            count = self.registry.register.load(json.loads(line) for line in body.splitlines() if line.strip())
        except (ValueError, KeyError) as error:
            self._answer(400, f"not a line of aircraft: {error}".encode())
        else:
            self._answer(200, json.dumps({"loaded": count}).encode(), "application/json")

    def _call(self, body: bytes) -> None:
        try:
            answer = self.registry.operations.call(body)
        except Fault as fault:
            self._answer(fault.status, fault.envelope(), "text/xml; charset=utf-8", fault.headers)
        except LostReply:
            self.close_connection = True
        else:
            self._answer(200, answer, "text/xml; charset=utf-8")

    def _answer(
        self, status: int, body: bytes, content_type: str = "text/plain", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """A line for each call would drown what matters."""


def main() -> None:
    """Runs the register until it is killed."""
    parser = argparse.ArgumentParser(
        prog="python -m crossdock.demo.registry", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where its logs are kept")
    parser.add_argument("--wsdl", type=Path, required=True)
    parser.add_argument(
        "--busy-every", type=int, default=25, metavar="N", help="each Nth call is refused as busy; 0 = never"
    )
    parser.add_argument("--rejected", metavar="TAIL", help="a tail number whose priority is never accepted")
    parser.add_argument("--faulty", metavar="TAIL", help="a tail number whose update fails its whole call with a fault")
    parser.add_argument(
        "--locking", type=float, default=0.0, metavar="SHARE", help="updates that find their aircraft open elsewhere"
    )
    Whims.add_options(parser)
    chosen = parser.parse_args()
    password = os.environ.get("REGISTRY_PASSWORD")
    if not password:
        parser.error("the environment variable REGISTRY_PASSWORD is not set")
    rejected, faulty = ({each} if each else set() for each in (chosen.rejected, chosen.faulty))
    quirks = Quirks(
        busy_every=chosen.busy_every,
        rejected=rejected,
        faulty=faulty,
        locking=chosen.locking,
        whims=Whims.chosen(chosen),
    )
    server = RegistryServer(chosen.folder, chosen.wsdl, password, chosen.port, quirks=quirks)
    print(f"registry answers on {server.address}", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        server.close()


if __name__ == "__main__":
    main()
