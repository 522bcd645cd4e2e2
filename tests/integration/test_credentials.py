"""A wrong password: how often the systems really see it. A hub that goes on trying locks the account of a company."""

import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.clock import SystemClock
from connectors.contract import Checkable, SinkTask
from connectors.errors import CredentialsRefused, Retriable, SystemFault
from connectors.login import REFUSAL_HOLDS
from connectors.rest.config import RestSystemConfig, RestWritebackConfig
from connectors.retry import Retrying
from connectors.soap.config import SoapSystemConfig, SoapWritebackConfig
from connectors.sql.config import SqlSystemConfig, SqlWritebackConfig
from connectors.sql.system import SqlSystem
from crossdock.demo.registry import RegistryServer
from crossdock.demo.stations import StationsServer
from crossdock.ports import free_port
from crossdock.postgres import USER, PostgresServer
from schemas.write import Write

CLOCK = SystemClock()
WSDL = Path(__file__).parents[2] / "config" / "wsdl" / "registry.wsdl"


class HastyClock(SystemClock):
    """Time that a test moves on, so that a refusal holds no longer."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def soon(clock: SystemClock = CLOCK) -> float:
    return clock.monotonic() + 20.0


def writes(count: int, **key: Any) -> list[Write]:
    return [Write(f"hub/p/w/{i}/live", {"id": i, **key}, {"note": "x"}, "1") for i in range(count)]


def refused(call: Callable[[], Any]) -> CredentialsRefused:
    with pytest.raises(CredentialsRefused) as caught:
        call()
    assert caught.value.code == "credentials"
    assert "wrong" not in str(caught.value) + caught.value.detail
    return caught.value


# PostgreSQL, by its own log


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    one = PostgresServer(tmp_path_factory.mktemp("credentials") / "server", free_port(), "right")
    one.start()
    yield one
    one.remove()


@pytest.fixture
def systems() -> Iterator[Callable[..., SqlSystem]]:
    made: list[SqlSystem] = []

    def build(url: str, clock: SystemClock = CLOCK, password: str | None = "${env:ERP_PASSWORD}") -> SqlSystem:
        config = SqlSystemConfig(name="erp", type="sql", url=url, password=password)  # type: ignore[arg-type]
        made.append(SqlSystem(config, clock))
        return made[-1]

    yield build
    for system in made:
        system.close()


def sink_of(system: SqlSystem) -> SinkTask:
    block = {"update": "orders", "match": {"id": "key.id"}, "set": {"note": "n"}, "idempotency": "ledger"}
    return system.sink(SqlWritebackConfig.model_validate({"system": "erp", **block}), prefix="hub")


@contextlib.contextmanager
def logins(server: PostgresServer, number: int) -> Iterator[None]:
    before = server.log_file.stat().st_size
    yield
    told = server.log_file.read_bytes()[before:]
    assert told.count(b"password authentication failed") == number, told.decode()


def address(server: PostgresServer, host: str = "127.0.0.1") -> str:
    return f"postgresql://{USER}@{host}:{server.port}/postgres"


def test_each_call_of_a_database_logs_in_once_and_a_retrying_sink_too(
    server: PostgresServer, systems: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_PASSWORD", "wrong")
    clock = HastyClock()
    sink = sink_of(systems(address(server), clock))
    assert isinstance(sink, Checkable)
    for call in (sink.open, sink.check, lambda: Retrying(sink, clock, base=0.01).open()):
        with logins(server, 1):
            refused(call)
        clock.ahead += REFUSAL_HOLDS + 1.0


def test_eight_threads_that_wait_for_the_first_login_do_not_try_after_its_refusal(
    server: PostgresServer, systems: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_PASSWORD", "wrong")
    sink = sink_of(systems(address(server)))
    told: list[str] = []

    def call() -> None:
        try:
            sink.open()
        except CredentialsRefused as error:
            told.append(str(error))

    with logins(server, 1):
        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(told) == 8


def test_a_name_with_several_addresses_gets_one_login_and_not_one_for_each(
    server: PostgresServer, systems: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_PASSWORD", "wrong")
    place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [place, place])
    with logins(server, 1):
        refused(sink_of(systems(address(server, "erp.example"))).open)
    hosts = f"postgresql://{USER}@/postgres?host=127.0.0.1:{server.port}&host=127.0.0.1:{server.port}"
    with logins(server, 1):
        refused(sink_of(systems(hosts)).open)


def test_an_address_that_does_not_answer_is_followed_by_the_next(
    server: PostgresServer, systems: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_PASSWORD", "right")
    hosts = f"postgresql://{USER}@/postgres?host=127.0.0.1:{free_port()}&host=127.0.0.1:{server.port}"
    with systems(hosts).database.reading(soon(), "look") as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


def test_another_secret_is_another_beginning_and_its_digest_says_so(
    server: PostgresServer, systems: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_PASSWORD", "wrong")
    system = systems(address(server))
    database, digest = system.database, system.credentials_digest()
    refused(lambda: database.reading(soon(), "look").__enter__())
    monkeypatch.setenv("ERP_PASSWORD", "right")
    with database.reading(soon(), "look") as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    assert len({digest, system.credentials_digest()}) == 2
    assert len(digest) == 6
    monkeypatch.setenv("ERP_PASSWORD", "wrong")
    assert system.credentials_digest() == digest
    assert systems("sqlite://", password=None).credentials_digest() == ""


def test_what_is_no_question_of_the_password_is_named_for_what_it_is(
    server: PostgresServer, systems: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_PASSWORD", "right")
    missing = systems(address(server).replace("/postgres", "/erp")).database
    with pytest.raises(SystemFault, match="does not exist") as caught, missing.reading(soon(), "look"):
        pass
    assert caught.value.code == "3D000"
    away = systems(f"postgresql://{USER}@127.0.0.1:{free_port()}/postgres").database
    with pytest.raises(Retriable), away.reading(soon(), "look"):
        pass
    nobody = systems(address(server).replace(f"{USER}@", "nobody@")).database
    refused(lambda: nobody.reading(soon(), "look").__enter__())
    monkeypatch.delenv("ERP_PASSWORD")
    anonymous = systems(address(server), password=None).database
    refused(lambda: anonymous.reading(soon(), "look").__enter__())


class TlsServer:
    """As much of a PostgreSQL with TLS as sees a password and refuses it, in German: the embedded one has no TLS."""

    def __init__(self, folder: Path) -> None:
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.seen: list[bool] = []
        """For each password: whether it came through TLS."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self.listener.accept()
                threading.Thread(target=self._refuse, args=(line,), daemon=True).start()

    def _refuse(self, line: socket.socket) -> None:
        secure = False
        with contextlib.suppress(OSError, EOFError):
            while (code := struct.unpack("!i", self._message(line)[:4])[0]) == 80877103:  # SSLRequest
                line.sendall(b"S")
                line, secure = self._context.wrap_socket(line, server_side=True), True
            assert code == 196608
            line.sendall(b"R" + struct.pack("!ii", 8, 3))  # the password, in clear text
            line.recv(1)
            self._message(line)
            self.seen.append(secure)
            text = "Passwort-Authentifizierung für Benutzer »crossdock« fehlgeschlagen".encode()
            told = b"SFATAL\0VFATAL\0C28P01\0M" + text + b"\0\0"
            line.sendall(b"E" + struct.pack("!i", 4 + len(told)) + told)
        line.close()

    def _message(self, line: socket.socket) -> bytes:
        (length,) = struct.unpack("!i", self._exactly(line, 4))
        return self._exactly(line, length - 4)

    def _exactly(self, line: socket.socket, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = line.recv(count - len(found))
            if not more:
                raise EOFError
            found += more
        return found


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_a_password_refused_through_tls_in_another_language_is_not_tried_again_without(
    tmp_path: Path, systems: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_PASSWORD", "wrong")
    server = TlsServer(tmp_path)
    url = f"postgresql://{USER}@127.0.0.1:{server.listener.getsockname()[1]}/erp"
    refused(lambda: systems(url).database.reading(soon(), "look").__enter__())
    assert server.seen == [True]
    server.listener.close()


# REST and SOAP: each request is a login


@pytest.fixture
def stations(tmp_path: Path) -> Iterator[StationsServer]:
    with StationsServer(tmp_path / "stations", "right").running() as one:
        yield one


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry", WSDL, "right").running() as one:
        yield one


def test_a_batch_for_a_rest_system_shows_a_wrong_token_once(
    stations: StationsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "wrong")
    clock = HastyClock()
    auth = {"type": "bearer", "token": "${env:TOKEN}"}
    block = {"name": "stations", "type": "rest", "base_url": stations.address, "auth": auth}
    system = RestSystemConfig.model_validate(block).build(clock)
    blocks = {"patch": "/reports/{id}", "match": {"id": "i"}, "set": {"note": "n"}, "idempotency": "key"}
    sink = system.sink(RestWritebackConfig.model_validate({"system": "stations", **blocks}), prefix="hub")
    sink.open()
    refused(lambda: sink.put(writes(50), soon(clock)))
    assert stations.refused_logins == 1
    refused(lambda: Retrying(sink, clock, base=0.01).put(writes(50), soon(clock)))
    assert stations.refused_logins == 1, "a refusal holds for a moment, whoever asks"
    clock.ahead += REFUSAL_HOLDS + 1.0
    refused(lambda: Retrying(sink, clock, base=0.01).put(writes(50), soon(clock)))
    assert stations.refused_logins == 2
    digest = system.credentials_digest()
    monkeypatch.setenv("TOKEN", "right")
    assert {receipt.code for receipt in sink.put(writes(5), soon(clock))} == {"404"}, "taken, at once"
    assert system.credentials_digest() != digest
    sink.close()
    system.close()


def test_a_secret_that_is_rotated_to_a_wrong_one_is_shown_once_too(
    stations: StationsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "right")
    auth = {"type": "bearer", "token": "${env:TOKEN}"}
    block = {"name": "stations", "type": "rest", "base_url": stations.address, "auth": auth}
    system = RestSystemConfig.model_validate({**block, "courtesy": {"concurrency": 3}}).build(CLOCK)
    blocks = {"patch": "/reports/{id}", "match": {"id": "i"}, "set": {"note": "n"}, "idempotency": "key"}
    sink = system.sink(RestWritebackConfig.model_validate({"system": "stations", **blocks}), prefix="hub")
    sink.open()
    sink.put(writes(5), soon())
    monkeypatch.setenv("TOKEN", "wrong")
    with pytest.raises(CredentialsRefused):
        sink.put(writes(50), soon())
    assert stations.refused_logins == 1, "another secret goes one by one again"
    sink.close()
    system.close()


def test_a_batch_for_a_soap_system_shows_a_wrong_password_once(
    registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "wrong")
    auth = {"type": "basic", "username": "crossdock", "password": "${env:REGISTRY_PASSWORD}"}
    block = {"name": "registry", "type": "soap", "wsdl": {"file": str(WSDL)}, "address": registry.address, "auth": auth}
    system = SoapSystemConfig.model_validate(block).build(CLOCK)
    blocks = {
        "call": "setInspectionPriority",
        "records": "updates",
        "match": {"tailNumber": "t"},
        "set": {"priority": "p"},
        "version": {"param": "sourceVersion", "rule": "newer"},
        "results": {"path": "results", "status": "status", "applied": ["UPDATED"]},
        "idempotency": "natural",
    }
    sink = system.sink(SoapWritebackConfig.model_validate({"system": "registry", **blocks}), prefix="hub")
    sink.open()
    batch = [Write(f"w{i}", {"tailNumber": f"N{i}"}, {"priority": "low"}, "1") for i in range(50)]
    refused(lambda: Retrying(sink, CLOCK, base=0.01).put(batch, soon()))
    assert registry.refused_logins == 1
    digest = system.credentials_digest()
    monkeypatch.setenv("REGISTRY_PASSWORD", "right")
    assert len(sink.put(batch, soon())) == 50
    assert "right" not in system.credentials_digest() != digest
    system.close()
