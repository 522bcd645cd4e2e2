"""Five thousand malformed inputs of each kind: none crashes, none takes long, and what is refused keeps its bytes.

Each is made from a real one by a few random damages; the seed is fixed, so that a failure can be looked at again.
"""

import itertools
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors.clock import SystemClock
from connectors.contract import SourceTask
from connectors.errors import ConfigError, CrossdockError
from connectors.rest.body import Unreadable as UnreadableBody
from connectors.rest.body import parse as parse_json
from connectors.rest.config import RestSourceConfig, RestSystemConfig
from connectors.soap.config import SoapSourceConfig, SoapSystemConfig
from connectors.soap.envelope import Unreadable, body_of, parse
from connectors.soap.faults import fault_in
from crossdock.configuration.load import load
from crossdock.configuration.yaml import read
from crossdock.demo.dataset import planes
from crossdock.demo.registry import RegistryServer
from schemas.change import Change, Op, canonical_key
from schemas.codec import decode, encode_change
from schemas.dead_letter import DeadLetter
from schemas.event import headers_of
from streams.runtime.kafka import ConsumerRecord
from streams.settled import Settled
from streams.topics import PipelineTopics

CONFIG = Path(__file__).parents[2] / "config"
COUNT = 5000
LONGEST = 1.0
"""Seconds of this process's CPU for one input."""
NASTY = [b"\x00", b"\xff\xfe", b"&lol;", b"1e999999", b"NaN", b"-", b"\r\n\r\n", b"<!DOCTYPE a []>", b"*a", b"&a"]
CLOCK = SystemClock()


def damaged(samples: list[bytes], count: int = COUNT) -> Iterator[bytes]:
    """Bytes changed, left out, doubled and put elsewhere; ends cut off; nests; all kinds of noise."""
    chance = random.Random(20130101)
    for _ in range(count):
        data = bytearray(chance.choice(samples))
        for _ in range(chance.randint(1, 4)):
            _damage(data, chance)
        yield bytes(data)


def _damage(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    piece = bytes(data[at : at + chance.randint(1, 60)])
    match chance.randrange(8):
        case 0:
            del data[at:]
        case 1:
            del data[at : at + len(piece)]
        case 2:
            data[at:at] = piece * chance.randint(1, 20)
        case 3:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 12)))
        case 4 if data:
            data[at % len(data)] = chance.randrange(256)
        case 5:
            data[at:at] = chance.choice([b"[", b"{", b"<a>", b"(", b"- ", b"\t"]) * chance.randint(1, 3000)
        case 6:
            other = chance.randrange(len(data) + 1)
            data[other:other] = piece
        case _:
            data[at:at] = chance.choice(NASTY)


def survives(inputs: Iterator[bytes], take: Callable[[bytes], Any], *refusals: type[Exception]) -> Counter[str]:
    """What became of them: `taken`, or the refusal's name. Anything else is raised, with the input beside it."""
    found: Counter[str] = Counter()
    for each in inputs:
        began = time.process_time()
        try:
            take(each)
            found["taken"] += 1
        except refusals as error:
            found[type(error).__name__ if str(error) else "without a word"] += 1
        except BaseException as error:
            error.add_note(f"input: {each[:2000]!r}")
            raise
        assert time.process_time() - began < LONGEST, each
    assert found.total() == COUNT
    assert found["taken"] < COUNT
    assert not found["without a word"]
    return found


class Answering:
    """A server whose next answer is told to it, byte for byte; then it hangs up."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.answer = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                _read_request(connection)
                connection.sendall(self.answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def _read_request(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(lengths[0]) - len(body) if lengths else 0
    while left > 0:
        left -= len(connection.recv(65536))


@pytest.fixture
def answering() -> Iterator[Answering]:
    server = Answering()
    yield server
    server.close()


def soap_task(address: str) -> tuple[Any, SourceTask]:
    block = yaml.safe_load((CONFIG / "systems" / "registry.yaml").read_text()) | {"address": address}
    system = SoapSystemConfig.model_validate(block, context={"folder": CONFIG / "systems"}).build(CLOCK)
    source = yaml.safe_load((CONFIG / "pipelines" / "inspection-priority.yaml").read_text())["source"]
    task = system.source(SoapSourceConfig.model_validate(source), written=frozenset()).task("registry.listAircraft")
    return system, task


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real answer of the register: five aircraft."""
    folder = tmp_path_factory.mktemp("registry")
    with (
        pytest.MonkeyPatch.context() as patch,
        RegistryServer(folder, CONFIG / "wsdl" / "registry.wsdl", "open sesame").running() as server,
    ):
        patch.setenv("REGISTRY_PASSWORD", "open sesame")
        server.register.load(itertools.islice(planes(), 5))
        seen: list[bytes] = []
        system, task = soap_task(server.address)
        patch.setattr("connectors.soap.transport.parse", lambda content: (seen.append(content), parse(content))[1])
        task.open(None)
        task.poll(100, CLOCK.monotonic() + 20)
        system.close()
    return seen[0]


def test_malformed_xml(listing: bytes) -> None:
    def take(data: bytes) -> None:
        body = body_of(parse(data))
        if body is not None:
            fault_in(body)

    assert survives(damaged([listing, listing.replace(b"listAircraftResponse", b"Fault")]), take, Unreadable)


def test_malformed_soap_answers(listing: bytes, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is well-formed and wrong is refused by its place, and no row of it is half read."""
    monkeypatch.setenv("REGISTRY_PASSWORD", "open sesame")
    system, task = soap_task(answering.address)

    def take(data: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        answering.answer = head.encode() + data
        task.open(None)
        batch = task.poll(100, CLOCK.monotonic() + 20)
        for change in batch.changes if batch else ():
            encode_change(change)

    survives(damaged([listing]), take, CrossdockError)
    system.close()


def test_malformed_http_answers(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    block = yaml.safe_load((CONFIG / "systems" / "stations.yaml").read_text())
    block |= {"base_url": f"{answering.address}/api"}
    monkeypatch.setenv("STATIONS_TOKEN", "open sesame")
    system = RestSystemConfig.model_validate(block, context={"folder": CONFIG / "systems"}).build(CLOCK)
    config = yaml.safe_load((CONFIG / "pipelines" / "station-weather.yaml").read_text())["source"]
    source = system.source(RestSourceConfig.model_validate(config), written=frozenset())
    task = source.task(source.tasks()[0].name)
    report = {"id": "EWR-2013-01-01T06", "etag": '"1"', "modified": "2013-01-01T06:00:00Z", "temp": 39.0}
    body = json.dumps({"items": [report], "next": None}).encode()
    head = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: "1"\r\n'
    plain = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)

    def take(data: bytes) -> None:
        answering.answer = data
        task.open(None)
        task.poll(100, CLOCK.monotonic() + 20)

    survives(damaged([plain, chunked]), take, CrossdockError)
    system.close()


def test_malformed_json() -> None:
    samples = [json.dumps(row).encode() for row in itertools.islice(planes(), 20)]
    survives(damaged(samples), parse_json, UnreadableBody)


def test_malformed_events_are_dead_letters_with_their_very_bytes() -> None:
    """I7"""
    topics = PipelineTopics.of("hub", "orders", 6)
    change = Change(
        op=Op.UPSERT,
        key={"id": 1},
        before=None,
        after={"id": 1, "text": "Zürich", "n": 1.5, "list": [1, {"a": None}]},
        version="0001.00000000000000000001.0000",
        origin="erp/orders",
        event_id="erp/orders/1@0001.00000000000000000001.0000~00000000",
        time="2013-01-01T00:00:00.000000Z",
    )
    key, headers = canonical_key(change.key), headers_of(change, b"c")
    refused = []

    def take(data: bytes) -> None:
        settled = Settled("orders", topics, "c", CLOCK)
        settled.decode([ConsumerRecord(topics.changes.name, 0, 7, 0, 0, key, data, None, 0, 0, headers)])
        for letter in settled.outputs.get(topics.dead, ()):
            refused.append(data)
            assert decode(letter.value or b"", DeadLetter).value == data

    inputs = list(damaged([encode_change(change)]))
    for each in inputs:
        take(each)
    assert COUNT // 2 < len(refused) < COUNT


def test_malformed_yaml(tmp_path: Path) -> None:
    """A configuration that is wrong is told by file, line and column."""
    samples = [path.read_bytes()[:600] for path in sorted((CONFIG / "pipelines").glob("*.yaml"))]
    (tmp_path / "systems").mkdir()
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "crossdock.yaml").write_text("kafka: {bootstrap: 127.0.0.1:9092, insecure: true}\n")
    for path in (CONFIG / "systems").glob("*.yaml"):
        (tmp_path / "systems" / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "pipelines" / "broken.yaml"

    number = itertools.count()

    def take(data: bytes) -> None:
        file.write_bytes(data)
        read(file)
        if next(number) % 20 == 0:
            load(tmp_path, {})

    survives(damaged(samples), take, ConfigError)
