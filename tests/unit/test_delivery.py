"""Delivery in hand-moved time: sick systems, sick records, and what a person must decide."""

from collections.abc import Iterator

import pytest
from hand_target import Scene
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.errors import CredentialsRefused, Retriable, SystemFault
from schemas.control import Credentials, CredentialState, Decision, Suspicion
from schemas.outcome import Outcome
from schemas.values import rfc3339


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
