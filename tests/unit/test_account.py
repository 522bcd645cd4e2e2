"""The account is the oracle of everything else, so it is tested with planted violations."""

import pytest

from crossdock.demo.account import COLUMNS, Account, Effect, RowVersion, Told, account
from schemas.outcome import Fate


def told_of(*receipts: tuple[str, str, Fate], waiting: bool = False) -> Told:
    told = Told(waiting=waiting)
    for key, version, fate in receipts:
        told.receipt(key, version, fate)
        told.changes.add(RowVersion(key, version))
    return told


def sums_up(found: Account) -> bool:
    ends = [name for name in COLUMNS if name not in ("changes", "doubled")]
    return found.figures["changes"] == sum(found.figures[name] for name in ends)


VERSIONS = [RowVersion("17", "1"), RowVersion("17", "2"), RowVersion("18", "1")]
EFFECTS = [Effect("17", "1", "w/17@1"), Effect("18", "1", "w/18@1")]
RECEIPTS = [("17", "1", Fate.APPLIED), ("17", "2", Fate.FILTERED), ("18", "1", Fate.APPLIED)]


def test_every_version_ends_in_exactly_one_fate() -> None:
    """I1."""
    found = account(VERSIONS, EFFECTS, told_of(*RECEIPTS))
    assert found.good
    assert (found.figures["applied"], found.figures["filtered"]) == (2, 1)
    assert sums_up(found)


def test_a_version_without_effect_or_fate_is_lost() -> None:
    """I1: the newest version of 17 is on no topic."""
    found = account(VERSIONS, EFFECTS, told_of(RECEIPTS[0], RECEIPTS[2]))
    assert found.lost == [RowVersion("17", "2")]
    assert not found.good
    assert sums_up(found)


def test_an_event_that_was_read_and_has_no_fate_is_lost_even_if_a_newer_one_has_one() -> None:
    told = told_of(RECEIPTS[1], RECEIPTS[2])
    told.changes.add(RowVersion("17", "1"))
    found = account(VERSIONS, EFFECTS[1:], told)
    assert found.lost == [RowVersion("17", "1")]


def test_a_version_that_was_overtaken_at_the_source_before_it_was_read_is_superseded() -> None:
    found = account(VERSIONS, EFFECTS[1:], told_of(RECEIPTS[1], RECEIPTS[2]))
    assert found.figures["superseded"] == 1
    assert found.good


def test_a_version_that_was_overtaken_by_one_with_an_earlier_stamp_is_superseded() -> None:
    """A transaction that began earlier and committed later stamps its start."""
    versions = [RowVersion("17", "1"), RowVersion("17", "3"), RowVersion("17", "2")]
    told = told_of(("17", "1", Fate.APPLIED), ("17", "2", Fate.FILTERED))
    found = account(versions, EFFECTS[:1], told)
    assert found.good
    assert found.figures["superseded"] == 1


def test_the_last_version_is_lost_if_it_was_never_read_whatever_its_stamp() -> None:
    """I1."""
    versions = [RowVersion("17", "1"), RowVersion("17", "3"), RowVersion("17", "2")]
    told = told_of(("17", "1", Fate.APPLIED), ("17", "3", Fate.FILTERED))
    assert account(versions, EFFECTS[:1], told).lost == [RowVersion("17", "2")]


def test_a_receipt_that_claims_an_effect_which_the_target_never_saw_is_a_loss() -> None:
    found = account(VERSIONS, EFFECTS[:1], told_of(*RECEIPTS))
    assert found.lost == [RowVersion("18", "1")]


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(Effect("17", "1", "w/17@1"), id="the same write twice"),
        pytest.param(Effect("17", "1", "w/17@1/other"), id="another write of the same version"),
        pytest.param(Effect("17", "1", None), id="a target that carries no write id"),
        pytest.param(Effect("17", "9", "w/17@9"), id="an effect that no source version asked for"),
        pytest.param(Effect("99", "1", "w/99@1"), id="an effect on a record that the source never had"),
    ],
)
def test_a_second_or_unasked_effect_is_doubled(extra: Effect) -> None:
    """I2."""
    found = account(VERSIONS, [*EFFECTS, extra], told_of(*RECEIPTS))
    assert found.figures["doubled"] == 1
    assert found.doubled == [extra]
    assert not found.good


def test_what_waits_is_in_flight_and_not_lost() -> None:
    found = account(VERSIONS, EFFECTS, told_of(RECEIPTS[0], RECEIPTS[2], waiting=True))
    assert found.figures["in_flight"] == 1
    assert found.figures["lost"] == 0
    assert not found.good


def test_of_several_receipts_of_a_batch_that_came_twice_the_end_counts() -> None:
    told = told_of(("17", "1", Fate.REVIEW), ("17", "1", Fate.DEAD), ("17", "1", Fate.UNCHANGED))
    found = account(VERSIONS[:1], [], told)
    assert found.figures["dead"] == 1
    assert sums_up(found)
