"""Delivery in hand-moved time: sick systems, sick records, and what a person must decide."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hand_clock import HandClock
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.contract import Capabilities, Idempotency, Report
from connectors.errors import CredentialsRefused, Rejected, Retriable, SystemFault
from connectors.retry import Retrying
from schemas.control import Credentials, CredentialState, Decision, Suspicion
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import rfc3339
from schemas.write import Write
from streams.brake import Brake
from streams.breaker import Breaker
from streams.credentials import SystemCredentials
from streams.delivery import Target, deliver
from streams.gate import Gate


class HandControl:
    """Control without a broker: what is put is found."""

    def __init__(self) -> None:
        self.records: dict[tuple[type, str], object] = {}

    def find(self, kind: type, name: str) -> object:
        return self.records.get((kind, name))

    async def put(self, record: Credentials | Suspicion) -> None:
        self.records[type(record), record.name] = record


class Systemlike:
    """A target whose whole state a test sets: away, wrong, and which records are sick or bad."""

    capabilities = Capabilities(Idempotency.NATURAL)

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.sick: set[int] = set()
        self.bad: set[int] = set()
        self.calls: list[list[int]] = []
        self.applied: Counter[int] = Counter()

    def open(self) -> None: ...
    def close(self) -> None: ...

    def check(self) -> Report:
        if self.failure is not None:
            raise self.failure
        return Report()

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        numbers = [int(str(write.key["id"])) for write in writes]
        self.calls.append(numbers)
        if self.failure is not None:
            raise self.failure
        if self.sick & set(numbers):
            raise Retriable("the row is locked")
        if self.bad & set(numbers):
            raise Rejected("bad value", code="22003")
        self.applied.update(numbers)
        return [Receipt(Outcome.APPLIED)] * len(writes)


class Scene:
    """One write-back into one system, all of it in hand-moved time."""

    def __init__(self) -> None:
        self.clock, self.system, self.control = HandClock(), Systemlike(), HandControl()
        self.digest = ""
        credentials = SystemCredentials("erp", lambda: self.digest, self.control, self.clock)  # type: ignore[arg-type]
        self.gate = Gate("erp", Breaker(self.clock), credentials, self.control, self.clock)  # type: ignore[arg-type]
        self.threads = ThreadPoolExecutor(1)
        self.target = Target(
            writeback="orders/erp",
            sink=Retrying(self.system, self.clock),
            reader=None,
            checker=self.system,
            batch=8,
            total_timeout=20.0,
            threads=self.threads,
            clock=self.clock,
            gate=self.gate,
            brake=Brake(),
        )

    async def deliver(self, count: int) -> list[Outcome]:
        writes = [Write(f"hub/orders/erp/erp/t/{n}@1~ab/live", {"id": n}, {}, "1") for n in range(count)]
        return [receipt.outcome for receipt in await deliver(self.target, writes, self.clock.hold)]

    def after(self, seconds: float, change: object) -> None:
        """Something happens while somebody waits."""

        def look() -> None:
            if self.clock.seconds >= seconds:
                self.clock.on_sleep = lambda: None
                change()  # type: ignore[operator]

        self.clock.on_sleep = look

    def recover(self) -> None:
        self.system.failure = None


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.threads.shutdown()


async def test_a_system_that_is_away_for_an_hour_costs_time_and_no_record(scene: Scene) -> None:
    """I8: one probe in five seconds, of one record."""
    scene.system.failure = Retriable("connection refused")
    scene.after(3600, scene.recover)
    assert await scene.deliver(100) == [Outcome.APPLIED] * 100
    probes = [call for call in scene.system.calls if len(call) == 1]
    assert len(probes) <= 3600 / 5 + 1
    assert set(scene.system.applied.values()) == {1}


@pytest.mark.parametrize("failure", [SystemFault("relation is gone", code="42P01"), Retriable("shutting down")])
async def test_the_breaker_says_what_is_wrong_while_it_is_open(scene: Scene, failure: Exception) -> None:
    seen = []

    def look() -> None:
        seen.append(scene.gate.state(["orders/erp"]))
        scene.recover()

    scene.system.failure = failure
    scene.after(25, look)
    assert await scene.deliver(3) == [Outcome.APPLIED] * 3
    assert (seen[0].state, seen[0].reason) == ("breaker_open", str(failure))
    assert scene.gate.state(["orders/erp"]).state == "running"


@pytest.mark.parametrize("sick", [0, 5, 99])
async def test_a_record_that_fails_alone_while_others_work_is_set_aside(scene: Scene, sick: int) -> None:
    """The others are applied; the sick one comes back as `retry`, to be parked."""
    scene.system.sick = {sick}
    found = await scene.deliver(100)
    assert found == [Outcome.RETRY if number == sick else Outcome.APPLIED for number in range(100)]
    assert set(scene.system.applied.values()) == {1}
    assert scene.clock.seconds < 400


async def test_a_record_that_is_alone_is_sick_only_if_the_systems_check_says_that_it_works(scene: Scene) -> None:
    scene.system.sick = {0}
    assert await scene.deliver(1) == [Outcome.RETRY]
    scene.system.failure = Retriable("away")
    scene.system.sick.clear()
    scene.after(scene.clock.seconds + 600, scene.recover)
    assert await scene.deliver(1) == [Outcome.APPLIED]


async def test_a_few_bad_records_are_refused_and_the_others_applied(scene: Scene) -> None:
    scene.system.bad = {3, 50}
    found = await scene.deliver(100)
    assert [number for number, outcome in enumerate(found) if outcome is Outcome.REJECTED] == [3, 50]


def decision(scene: Scene, what: Decision) -> None:
    found = scene.control.find(Suspicion, "orders/erp")
    assert isinstance(found, Suspicion)
    assert found.decision is Decision.HOLD
    assert "bad value" in found.reason
    time = rfc3339(scene.clock.now())
    scene.control.records[Suspicion, "orders/erp"] = Suspicion(
        writeback="orders/erp", fingerprint=found.fingerprint, reason="", decision=what, by="a person", time=time
    )


async def test_a_system_that_refuses_everything_is_held_until_a_person_says_try_again(scene: Scene) -> None:
    """I7: no dead letter of what the system's change did."""
    scene.system.bad = set(range(100))

    def repaired() -> None:
        scene.system.bad.clear()
        decision(scene, Decision.RETRY)

    scene.after(600, repaired)
    assert Outcome.REJECTED not in (await scene.deliver(100))[20:]
    assert sum(scene.system.applied.values()) >= 80


async def test_a_person_may_say_that_the_records_are_what_is_wrong(scene: Scene) -> None:
    scene.system.bad = set(range(100))
    scene.after(60, lambda: decision(scene, Decision.DEAD))
    assert await scene.deliver(100) == [Outcome.REJECTED] * 100


async def test_a_refused_login_is_not_tried_again_before_the_secret_is_another(scene: Scene) -> None:
    scene.digest = "old"
    scene.control.records[Credentials, "erp"] = Credentials(
        system="erp", state=CredentialState.ACCEPTED, digest="old", attempts=0, reason="", time=""
    )
    scene.system.failure = CredentialsRefused("password authentication failed")

    def replaced() -> None:
        assert len(scene.system.calls) == 1
        assert scene.gate.state(["orders/erp"]).state == "credentials"
        scene.digest = "new"
        scene.recover()
        scene.control.records[Credentials, "erp"] = Credentials(
            system="erp", state=CredentialState.ACCEPTED, digest="new", attempts=0, reason="", time=""
        )

    scene.after(3600, replaced)
    assert await scene.deliver(10) == [Outcome.APPLIED] * 10


@settings(max_examples=60, deadline=None)
@given(
    sick=st.sets(st.integers(0, 29), max_size=4),
    bad=st.sets(st.integers(0, 29), max_size=4),
    away=st.floats(0, 300),
)
async def test_every_write_has_an_end_and_none_of_them_two_effects(sick: set[int], bad: set[int], away: float) -> None:
    """I1, I2: whatever is sick, bad or away, and in whatever combination."""
    scene = Scene()
    scene.system.sick, scene.system.bad = sick, bad - sick
    if away > 1:
        scene.system.failure = Retriable("away")
        scene.after(away, scene.recover)
    found = await scene.deliver(30)
    scene.threads.shutdown()
    expected = {n: Outcome.RETRY if n in sick else Outcome.REJECTED if n in bad else Outcome.APPLIED for n in range(30)}
    assert dict(enumerate(found)) == expected
    assert set(scene.system.applied.values()) <= {1}
