"""The checker is the oracle of everything else, so it is tested with planted violations: one of each kind it knows."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from crossdock.checker.history import Committed, Effect, History, Letter, RowVersion, Told
from crossdock.checker.judge import Kind, Verdict, judge
from schemas.outcome import Fate

WANTED = {("17", "1"): "a", ("17", "2"): "b", ("18", "1"): "c", ("18", "2"): "d"}
POISON = RowVersion("19", "1")
FILTERED = RowVersion("20", "1")


def committed() -> list[Committed]:
    sound = [Committed(key, v, f"#{value}", {"label": value}, poison=False) for (key, v), value in WANTED.items()]
    return [*sound, Committed(*POISON, "#p", {"label": "p"}, poison=True), Committed(*FILTERED, "#f", poison=False)]


def effect(key: str, version: str, cause: str = "live", value: str | None = None) -> Effect:
    write_id = f"hub/orders/db/db/orders/{key}@{version}~0a0a0a0a/{cause}"
    return Effect(key, version, write_id, {"label": value or WANTED[key, version]})


def good() -> History:
    """Two records with two versions each, all applied; one that was refused, and one that was filtered."""
    told = Told()
    for key, version in WANTED:
        told.receipt(key, version, Fate.APPLIED)
    told.receipt(*POISON, Fate.DEAD)
    told.receipt(*FILTERED, Fate.FILTERED)
    told.letters.append(Letter(*POISON, "put", "23514", "no", intact=True))
    told.changes = {each.of: each.content for each in committed()}
    rows = {"17": {"label": "b"}, "18": {"label": "d"}}
    return History(committed(), [effect(*each) for each in WANTED], told, rows)


def effects_of(history: History) -> list[Effect]:
    return list(history.effects)


def sums_up(verdict: Verdict) -> bool:
    ends = [count for name, count in verdict.figures.items() if name not in ("changes", "doubled")]
    return verdict.figures["changes"] == sum(ends)


def test_a_history_without_a_fault_is_good() -> None:
    """I1, I2, I3, I4, I7."""
    verdict = judge(good())
    assert (verdict.good, verdict.examples) == (True, [])
    assert (verdict.figures["applied"], verdict.figures["dead"], verdict.figures["filtered"]) == (4, 1, 1)
    assert sums_up(verdict)


def drop_a_version(history: History) -> History:
    del history.told.fates[RowVersion("17", "2")]
    return replace(history, effects=[each for each in effects_of(history) if each.of != ("17", "2")])


def drop_an_effect(history: History) -> History:
    return replace(history, effects=effects_of(history)[1:])


def drop_a_receipt(history: History) -> History:
    del history.told.fates[RowVersion("17", "1")]
    return history


def double_a_write(history: History) -> History:
    return replace(history, effects=[*effects_of(history), effect("18", "2")])


def double_with_another_write_id(history: History) -> History:
    again = effect("18", "2")._replace(write_id="hub/orders/other/db/orders/18@2~0a0a0a0a/live")
    return replace(history, effects=[*effects_of(history), again])


def double_without_a_write_id(history: History) -> History:
    bare = [each._replace(write_id=None) for each in effects_of(history)]
    return replace(history, effects=[*bare, bare[-1]])


def use_a_write_id_for_another_version(history: History) -> History:
    first, second, *rest = effects_of(history)
    return replace(history, effects=[first, second._replace(write_id=first.write_id), *rest])


def swap_two(history: History) -> History:
    first, second, *rest = effects_of(history)
    return replace(history, effects=[second, first, *rest])


def overwrite_with_a_stale_value(history: History) -> History:
    _, second, *rest = effects_of(history)
    return replace(
        history, effects=[second, *rest, effect("17", "1")], rows={**(history.rows or {}), "17": {"label": "a"}}
    )


def invent_an_effect(history: History) -> History:
    return replace(history, effects=[*effects_of(history), effect("17", "9", value="z")])


def write_a_record_that_was_never_there(history: History) -> History:
    return replace(history, effects=[*effects_of(history), effect("99", "1", value="z")])


def write_another_value(history: History) -> History:
    first, *rest = effects_of(history)
    return replace(history, effects=[first._replace(values={"label": "z"}), *rest])


def leave_another_value(history: History) -> History:
    return replace(history, rows={**(history.rows or {}), "18": {"label": "c"}})


def leave_a_row_out(history: History) -> History:
    return replace(history, rows={"17": {"label": "b"}})


def read_other_content(history: History) -> History:
    history.told.changes[RowVersion("17", "1")] = "#z"
    return history


def refuse_a_sound_record(history: History) -> History:
    history.told.letters.append(Letter("18", "2", "put", "23514", "no"))
    history.told.fates[RowVersion("18", "2")] = Fate.DEAD
    return replace(history, effects=effects_of(history)[:-1])


def refuse_for_an_outage(history: History) -> History:
    history.told.letters[0] = Letter(*POISON, "put", "57P01", "terminating connection")
    return history


def refuse_what_was_never_there(history: History) -> History:
    history.told.letters.append(Letter("99", "1", "put", "23514", "no"))
    return history


def damage_the_bytes_of_a_letter(history: History) -> History:
    history.told.letters[0] = history.told.letters[0]._replace(intact=False)
    return history


def apply_what_must_be_refused(history: History) -> History:
    history.told.letters.clear()
    history.told.fates[POISON] = Fate.APPLIED
    return replace(history, effects=[*effects_of(history), effect(*POISON, value="p")])


def leave_a_version_waiting(history: History) -> History:
    history.told.waiting = True
    return drop_a_version(history)


def leave_a_version_parked(history: History) -> History:
    history.told.fates[FILTERED] = Fate.PARKED
    return history


def supersede_the_newest(history: History) -> History:
    history.told.fates[RowVersion("17", "2")] = Fate.SUPERSEDED
    return replace(history, effects=[each for each in effects_of(history) if each.of != ("17", "2")])


PLANTED: dict[Callable[[History], History], Kind] = {
    drop_a_version: Kind.LOST,
    supersede_the_newest: Kind.LOST,
    drop_an_effect: Kind.CLAIMED,
    drop_a_receipt: Kind.UNRECEIPTED,
    double_a_write: Kind.DOUBLED,
    double_with_another_write_id: Kind.DOUBLED,
    double_without_a_write_id: Kind.DOUBLED,
    use_a_write_id_for_another_version: Kind.DOUBLED,
    swap_two: Kind.DISORDERED,
    overwrite_with_a_stale_value: Kind.DISORDERED,
    invent_an_effect: Kind.PHANTOM,
    write_a_record_that_was_never_there: Kind.PHANTOM,
    refuse_what_was_never_there: Kind.PHANTOM,
    write_another_value: Kind.WRONG_VALUE,
    leave_another_value: Kind.WRONG_STATE,
    leave_a_row_out: Kind.WRONG_STATE,
    read_other_content: Kind.MISREAD,
    refuse_a_sound_record: Kind.FALSE_DEAD,
    refuse_for_an_outage: Kind.FALSE_DEAD,
    damage_the_bytes_of_a_letter: Kind.FALSE_BYTES,
    apply_what_must_be_refused: Kind.SWALLOWED,
    leave_a_version_waiting: Kind.IN_FLIGHT,
    leave_a_version_parked: Kind.IN_FLIGHT,
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_violation_is_caught(plant: Callable[[History], History]) -> None:
    """I1, I2, I3, I4, I7."""
    verdict = judge(plant(good()))
    assert verdict.counts[PLANTED[plant]] == 1, verdict.counts
    assert [each.kind for each in verdict.examples if each.kind is PLANTED[plant]]
    assert sums_up(verdict)


def test_each_kind_of_violation_is_planted() -> None:
    assert set(PLANTED.values()) == set(Kind)


def test_a_claimed_effect_counts_as_lost_and_a_phantom_as_doubled() -> None:
    """The figures that the demo shows leave no violation out."""
    assert judge(drop_an_effect(good())).figures["lost"] == 1
    assert judge(invent_an_effect(good())).figures["doubled"] == 1


def test_an_event_that_was_read_and_has_no_fate_is_lost_even_if_a_newer_one_has_one() -> None:
    """I1."""
    history = good()
    del history.told.fates[RowVersion("17", "1")]
    verdict = judge(replace(history, effects=effects_of(history)[1:]))
    assert [(each.key, each.version) for each in verdict.found[Kind.LOST]] == [("17", "1")]


def test_a_version_that_was_overtaken_at_the_source_before_it_was_read_is_superseded() -> None:
    history = good()
    del history.told.fates[RowVersion("17", "1")], history.told.changes[RowVersion("17", "1")]
    verdict = judge(replace(history, effects=effects_of(history)[1:]))
    assert verdict.good
    assert verdict.figures["superseded"] == 1


def history_of(versions: list[str], fates: dict[str, Fate], effects: list[str]) -> History:
    """One record, its versions in the order of their commits."""
    told = Told(changes={RowVersion("17", version): None for version in fates})
    for version, fate in fates.items():
        told.receipt("17", version, fate)
    return History([Committed("17", each) for each in versions], [Effect("17", each) for each in effects], told)


def test_a_version_that_was_overtaken_by_one_with_an_earlier_stamp_is_superseded() -> None:
    """A transaction that began earlier and committed later stamps its start."""
    verdict = judge(history_of(["1", "3", "2"], {"1": Fate.APPLIED, "2": Fate.FILTERED}, ["1"]))
    assert verdict.good
    assert verdict.figures["superseded"] == 1


def test_the_last_version_is_lost_if_it_was_never_read_whatever_its_stamp() -> None:
    """I1."""
    verdict = judge(history_of(["1", "3", "2"], {"1": Fate.APPLIED, "3": Fate.FILTERED}, ["1"]))
    assert verdict.found[Kind.LOST][0].version == "2"


def test_effects_are_in_order_if_they_follow_the_commits_whatever_their_stamps() -> None:
    """I3."""
    assert judge(history_of(["1", "3", "2"], dict.fromkeys("123", Fate.APPLIED), ["1", "3", "2"])).good
    assert judge(history_of(["1", "3", "2"], dict.fromkeys("123", Fate.APPLIED), ["1", "2", "3"])).counts == {
        Kind.DISORDERED: 1
    }


def test_of_several_receipts_of_a_batch_that_came_twice_the_end_counts() -> None:
    told = Told()
    for fate in (Fate.REVIEW, Fate.DEAD, Fate.UNCHANGED):
        told.receipt("17", "1", fate)
    assert told.fates == {RowVersion("17", "1"): Fate.DEAD}


def test_a_dead_letter_that_was_replayed_ends_as_its_replay_did() -> None:
    history = good()
    write_id = f"hub/orders/db/db/orders/{POISON.key}@{POISON.version}~0a0a0a0a/replay:1"
    history.told.receipt(*POISON, Fate.APPLIED, sequence=1, write_id=write_id)
    history.told.receipt(*POISON, Fate.DEAD)  # the letter of before, read again
    versions = [each._replace(poison=None) for each in committed()]
    rows = {**(history.rows or {}), POISON.key: {"label": "p"}}
    effects = [*effects_of(history), effect(*POISON, "replay:1", "p")]
    verdict = judge(replace(history, committed=versions, effects=effects, rows=rows))
    assert verdict.good
    assert verdict.figures["dead"] == 0


def test_a_second_opinion_on_one_version_is_no_second_effect() -> None:
    """I2, I3: a replay has an id of its own, and comes after what it follows; it must not come before."""
    history = good()
    replay = effect("17", "2", "replay:1")
    history.told.receipt("17", "2", Fate.APPLIED, sequence=1, write_id=replay.write_id)
    assert judge(replace(history, effects=[*effects_of(history), replay])).good
    first, second, *rest = effects_of(history)
    assert judge(replace(history, effects=[first, replay, second, *rest])).counts == {Kind.DISORDERED: 1}


def test_a_version_that_waits_for_a_person_wants_nothing_in_the_target_yet() -> None:
    """I4: unless its write happened after all."""
    history = good()
    history.told.fates[RowVersion("17", "2")] = Fate.IN_DOUBT
    without = [each for each in effects_of(history) if each.of != ("17", "2")]
    rows = {**(history.rows or {}), "17": {"label": "a"}}
    assert judge(replace(history, effects=without, rows=rows)).good
    assert judge(replace(history, rows=rows)).counts == {Kind.WRONG_STATE: 1}


def test_a_version_whose_record_moved_on_to_one_that_is_refused_wants_nothing_in_the_target() -> None:
    """I4: and only that; where nothing refused came after it, it must stand there."""
    refused = Committed("17", "3", poison=True)
    for after, kinds in ((refused, {}), (refused._replace(poison=False), {Kind.WRONG_STATE: 1, Kind.LOST: 1})):
        history = good()
        history.told.fates[RowVersion("17", "2")] = Fate.SUPERSEDED
        if after.poison:
            history.told.receipt("17", "3", Fate.DEAD)
        without = [each for each in effects_of(history) if each.of != ("17", "2")]
        rows = {**(history.rows or {}), "17": {"label": "a"}}
        versions = [*history.committed, after]
        assert judge(replace(history, committed=versions, effects=without, rows=rows)).counts == kinds


def test_the_examples_show_every_kind_before_they_show_one_twice() -> None:
    history = good()
    history.told.fates.clear()
    effects = effects_of(history)
    verdict = judge(replace(history, effects=[*effects, *effects]))
    kinds = [each.kind for each in verdict.examples]
    assert verdict.counts[Kind.DOUBLED] == 4
    assert set(kinds[:3]) == {Kind.DOUBLED, Kind.LOST, Kind.UNRECEIPTED}
    assert len(kinds) == 10
