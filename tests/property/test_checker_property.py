"""The checker against random histories: a sound one is good, and one planted violation is always caught."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from crossdock.checker.history import Committed, Effect, History, Letter, RowVersion, Told
from crossdock.checker.judge import Kind, judge
from schemas.outcome import Fate

OVERTAKEN = None
"""The end of a version that nobody read, as a later one was there first."""


@dataclass
class Made:
    """A sound history, and the ends that it was made from."""

    history: History
    ends: dict[RowVersion, Fate | None]

    @property
    def effects(self) -> list[Effect]:
        return list(self.history.effects)


def value_of(of: RowVersion) -> dict[str, str]:
    return {"label": f"{of.key}:{of.version}"}


@st.composite
def made(draw: st.DrawFn) -> Made:
    """Some records with some versions each, in random order, each with an end that a sound hub can give."""
    told, ends = Told(), dict[RowVersion, Fate | None]()
    names = draw(st.lists(st.sampled_from("abc"), min_size=4, max_size=14))
    places = [RowVersion(name, f"{number:03d}") for number, name in enumerate(names)]
    last = {of.key: of for of in places}
    settled = [Fate.APPLIED, Fate.APPLIED, Fate.UNCHANGED, Fate.FILTERED, Fate.DEAD]
    for of in places:
        ends[of] = draw(st.sampled_from(settled if last[of.key] == of else [*settled, Fate.SUPERSEDED, OVERTAKEN]))
    committed, rows = [], {}
    for of, end in ends.items():
        sound = end in (Fate.APPLIED, Fate.UNCHANGED)
        committed.append(Committed(*of, f"#{of}", value_of(of) if sound else None, poison=end is Fate.DEAD))
        if sound:
            rows[of.key] = value_of(of)
        if end is not OVERTAKEN:
            told.changes[of] = f"#{of}"
            told.receipt(*of, end)
        if end is Fate.DEAD:
            told.letters.append(Letter(*of, "put", "23514", intact=True))
    effects = [effect_of(of) for of, end in ends.items() if end is Fate.APPLIED]
    return Made(History(committed, effects, told, rows), ends)


def effect_of(of: RowVersion) -> Effect:
    return Effect(*of, f"hub/p/t/s/o/{of.key}@{of.version}~00000000/live", value_of(of))


def some(draw: st.DrawFn, made: Made, *ends: Fate) -> RowVersion | None:
    found = [of for of, end in made.ends.items() if end in ends]
    return draw(st.sampled_from(found)) if found else None


Planted = tuple[History, set[Kind]] | None
"""The damaged history, and the kinds of which at least one must be found; None = it does not fit this history."""


def lose(draw: st.DrawFn, made: Made) -> Planted:
    of = some(draw, made, Fate.APPLIED, Fate.UNCHANGED, Fate.FILTERED)
    if of is None:
        return None
    del made.history.told.fates[of]
    return replace(made.history, effects=[each for each in made.effects if each.of != of]), {Kind.LOST}


def claim(draw: st.DrawFn, made: Made) -> Planted:
    of = some(draw, made, Fate.APPLIED)
    effects = [each for each in made.effects if each.of != of]
    return None if of is None else (replace(made.history, effects=effects), {Kind.CLAIMED})


def forget_a_receipt(draw: st.DrawFn, made: Made) -> Planted:
    of = some(draw, made, Fate.APPLIED)
    if of is None:
        return None
    del made.history.told.fates[of]
    return made.history, {Kind.UNRECEIPTED}


def double(draw: st.DrawFn, made: Made) -> Planted:
    of = some(draw, made, Fate.APPLIED)
    if of is None:
        return None
    again = effect_of(of)._replace(write_id=draw(st.sampled_from([None, effect_of(of).write_id, "other/live"])))
    where = draw(st.integers(made.effects.index(effect_of(of)) + 1, len(made.effects)))
    effects = [*made.effects[:where], again, *made.effects[where:]]
    return replace(made.history, effects=effects), {Kind.DOUBLED}


def swap(draw: st.DrawFn, made: Made) -> Planted:
    effects = made.effects
    pairs = [(i, j) for i in range(len(effects)) for j in range(i) if effects[i].key == effects[j].key]
    if not pairs:
        return None
    i, j = draw(st.sampled_from(pairs))
    effects[i], effects[j] = effects[j], effects[i]
    return replace(made.history, effects=effects), {Kind.DISORDERED}


def write_late(draw: st.DrawFn, made: Made) -> Planted:
    """A version that was superseded is written after all, behind a later one: a zombie's work."""
    of = some(draw, made, Fate.SUPERSEDED)
    later = [each for each in made.effects if of is not None and each.key == of.key and each.version > of.version]
    if of is None or not later:
        return None
    return replace(made.history, effects=[*made.effects, effect_of(of)]), {Kind.DISORDERED}


def invent(draw: st.DrawFn, made: Made) -> Planted:
    of = RowVersion(draw(st.sampled_from("abz")), "999")
    return replace(made.history, effects=[*made.effects, effect_of(of)]), {Kind.PHANTOM}


def change_a_value(draw: st.DrawFn, made: Made) -> Planted:
    of = some(draw, made, Fate.APPLIED)
    if of is None:
        return None
    effects = [each._replace(values={"label": "?"}) if each.of == of else each for each in made.effects]
    return replace(made.history, effects=effects), {Kind.WRONG_VALUE}


def change_a_row(draw: st.DrawFn, made: Made) -> Planted:
    rows = dict(made.history.rows or {})
    if not rows:
        return None
    rows[draw(st.sampled_from(sorted(rows)))] = {"label": "?"}
    return replace(made.history, rows=rows), {Kind.WRONG_STATE}


def misread(draw: st.DrawFn, made: Made) -> Planted:
    read = made.history.told.changes
    read[draw(st.sampled_from(sorted(read)))] = "#?"
    return made.history, {Kind.MISREAD}


def refuse_a_sound_record(draw: st.DrawFn, made: Made) -> Planted:
    of = some(draw, made, Fate.APPLIED, Fate.UNCHANGED)
    if of is None:
        return None
    made.history.told.letters.append(Letter(*of, "put", "23514"))
    return made.history, {Kind.FALSE_DEAD}


def refuse_for_an_outage(draw: st.DrawFn, made: Made) -> Planted:
    if not made.history.told.letters:
        return None
    code = draw(st.sampled_from(["08006", "40001", "40P01", "53100", "55P03", "57P01", "42501", "28P01", "503", "429"]))
    made.history.told.letters[0] = made.history.told.letters[0]._replace(code=code)
    return made.history, {Kind.FALSE_DEAD}


def damage_a_letter(draw: st.DrawFn, made: Made) -> Planted:
    if not made.history.told.letters:
        return None
    made.history.told.letters[0] = made.history.told.letters[0]._replace(intact=False)
    return made.history, {Kind.FALSE_BYTES}


def swallow(draw: st.DrawFn, made: Made) -> Planted:
    of = some(draw, made, Fate.DEAD)
    if of is None:
        return None
    made.history.told.fates[of] = draw(st.sampled_from([Fate.UNCHANGED, Fate.FILTERED, Fate.REVIEW]))
    return made.history, {Kind.SWALLOWED}


def leave_waiting(draw: st.DrawFn, made: Made) -> Planted:
    of = some(draw, made, Fate.FILTERED, Fate.UNCHANGED)
    if of is None:
        return None
    made.history.told.fates[of] = Fate.PARKED
    return made.history, {Kind.IN_FLIGHT}


PLANTS: list[Callable[[st.DrawFn, Made], Planted]] = [
    *(lose, claim, forget_a_receipt, double, swap, write_late, invent, change_a_value, change_a_row, misread),
    *(refuse_a_sound_record, refuse_for_an_outage, damage_a_letter, swallow, leave_waiting),
]


@given(made())
def test_a_sound_history_is_good(made: Made) -> None:
    """I1, I2, I3, I4, I7."""
    verdict = judge(made.history)
    assert verdict.good, verdict.examples
    ends = [count for name, count in verdict.figures.items() if name not in ("changes", "doubled")]
    assert verdict.figures["changes"] == len(made.ends) == sum(ends)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
@settings(max_examples=25, suppress_health_check=[HealthCheck.filter_too_much])  # some kinds need a rare history
@given(made(), st.data())
def test_a_random_planted_violation_is_caught(
    plant: Callable[[st.DrawFn, Made], Planted], made: Made, data: st.DataObject
) -> None:
    """I1, I2, I3, I4, I7."""
    planted = plant(data.draw, made)
    assume(planted is not None)
    assert planted is not None
    history, kinds = planted
    verdict = judge(history)
    assert kinds <= set(verdict.counts), (plant.__name__, verdict.examples)
    assert kinds <= {each.kind for each in verdict.examples}
