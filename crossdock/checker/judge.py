"""The judgement: each version's end, and everything that must not have happened. Pure: a history in, a verdict out.

A version with an effect is applied, whatever the hub says. One with neither an effect nor a fate on the topics, and no
later version of its key that has one, is lost. Later is what was committed later: where transactions stamp their start,
a later version may carry an earlier time.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from crossdock.checker.history import Committed, Effect, Fields, History, Letter, RowVersion, Told
from schemas.outcome import Fate
from schemas.write import LIVE

SHOWN = 10
"""Counter-examples of a verdict."""


class Kind(StrEnum):
    """What must not have happened."""

    LOST = "lost"  # a version without an effect and without any other fate
    CLAIMED = "claimed"  # a receipt says applied, and the target knows nothing of it
    DOUBLED = "doubled"  # a second effect of one write, or of one cause on one version
    PHANTOM = "phantom"  # an effect, or a dead letter, that no committed version asked for
    DISORDERED = "disordered"  # an effect on a record after one of a later version
    WRONG_VALUE = "wrong_value"  # an effect with other values than its version wants
    WRONG_STATE = "wrong_state"  # at the end the target holds other values than the newest version wants
    MISREAD = "misread"  # what the hub read is not what was committed
    UNRECEIPTED = "unreceipted"  # an effect of which no receipt tells
    FALSE_DEAD = "false_dead"  # a dead letter for a sound record, or for what ails the system
    FALSE_BYTES = "false_bytes"  # a dead letter that does not hold the original bytes
    SWALLOWED = "swallowed"  # a record that must be refused, and was not
    IN_FLIGHT = "in_flight"  # something still waits, though everything is at rest


class Violation(NamedTuple):
    """One thing that must not have happened."""

    kind: Kind
    key: str
    version: str
    detail: str = ""


FATES = (
    *(Fate.APPLIED, Fate.UNCHANGED, Fate.SUPERSEDED, Fate.FILTERED, Fate.DEAD, Fate.DISCARDED, Fate.REFUSED),
    *(Fate.IN_DOUBT, Fate.REVIEW, Fate.PARKED),
)


@dataclass
class Verdict:
    """What became of the versions of one flow. `changes` is the sum of the fates, of what is in flight and lost."""

    figures: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("changes", *FATES, "in_flight", "lost", "doubled"), 0)
    )
    counts: Counter[Kind] = field(default_factory=Counter)
    found: dict[Kind, list[Violation]] = field(default_factory=dict)
    """The first ten of each kind."""

    @property
    def good(self) -> bool:
        return not self.counts

    @property
    def examples(self) -> list[Violation]:
        """The first ten, all kinds in turn."""
        turns = [each for turn in range(SHOWN) for found in self.found.values() for each in found[turn : turn + 1]]
        return turns[:SHOWN]

    def note(self, kind: Kind, of: RowVersion, detail: str = "") -> None:
        self.counts[kind] += 1
        found = self.found.setdefault(kind, [])
        if len(found) < SHOWN:
            found.append(Violation(kind, *of, detail))


def judge(history: History) -> Verdict:
    """Settles every version, and names every violation."""
    committed = list(history.committed)
    known = {each.of: (place, each) for place, each in enumerate(committed)}
    verdict = Verdict()
    seen = _judge_effects(history, known, verdict)
    _judge_versions(history.told, known, seen, verdict)
    _judge_letters(history.told.letters, known, verdict)
    if history.rows is not None:
        _judge_rows(committed, history.rows, seen, history.told, verdict)
    verdict.figures["lost"] = verdict.counts[Kind.LOST] + verdict.counts[Kind.CLAIMED]
    verdict.figures["doubled"] = verdict.counts[Kind.DOUBLED] + verdict.counts[Kind.PHANTOM]
    verdict.counts = +verdict.counts
    return verdict


_Known = Mapping[RowVersion, tuple[int, Committed]]


def _judge_effects(history: History, known: _Known, verdict: Verdict) -> set[RowVersion]:
    """Walks through the target's log. Returns the versions that had an effect."""
    seen: set[RowVersion] = set()
    causes: set[tuple[RowVersion, str]] = set()
    identities: set[str] = set()
    newest: dict[str, tuple[int, int]] = {}
    for effect in history.effects:
        of, identity = effect.of, effect.write_id or ""
        again = (of, effect.cause) in causes or identity in identities
        seen.add(of)
        causes.add((of, effect.cause))
        if identity:
            identities.add(identity)
        if of not in known:
            verdict.note(Kind.PHANTOM, of, f"an effect of a version that was never committed {_named(effect)}")
            continue
        place, version = known[of]
        if again:
            verdict.note(Kind.DOUBLED, of, f"a second effect {_named(effect)}")
        else:
            order = (place, _sequence(effect, history.told))
            if order <= newest.get(of.key, (-1, 0)):
                verdict.note(Kind.DISORDERED, of, f"after an effect of a later version {_named(effect)}")
            newest[of.key] = max(order, newest.get(of.key, order))
        if effect.cause.startswith(_AS_COMPUTED) and (why := _other(effect.values, version.wanted)):
            verdict.note(Kind.WRONG_VALUE, of, f"{why} {_named(effect)}")
    return seen


_AS_COMPUTED = (LIVE, "replay:")
"""Causes whose writes carry what the pipeline computes; people and other models may want anything."""


def _sequence(effect: Effect, told: Told) -> int:
    if effect.cause == LIVE or effect.write_id is None:
        return 0
    return told.sequences.get(effect.write_id, 1)


def _judge_versions(told: Told, known: _Known, seen: set[RowVersion], verdict: Verdict) -> None:
    """Gives every version its end."""
    settled = _last_places(known, lambda of: of in seen or of in told.fates)
    last = _last_places(known, lambda _: True)
    for of, (place, version) in known.items():
        verdict.figures["changes"] += 1
        end = _end(of, seen, told, overtaken=settled.get(of.key, -1) > place)
        if end is Fate.SUPERSEDED and last[of.key] == place:
            verdict.note(Kind.LOST, of, "it ended as superseded, and nothing came after it")
            continue
        if isinstance(end, Kind):
            verdict.note(end, of, _why(end))
            if end is not Kind.IN_FLIGHT:
                continue
        verdict.figures[end.value] += 1
        if end is Fate.PARKED:
            verdict.note(Kind.IN_FLIGHT, of, "it is parked")
        if version.poison and end not in (Fate.DEAD, Fate.DISCARDED, Fate.SUPERSEDED, Kind.IN_FLIGHT):
            verdict.note(Kind.SWALLOWED, of, f"it must be refused, and ended as {end.value}")
        if of in seen and of not in told.fates and not told.waiting:
            verdict.note(Kind.UNRECEIPTED, of, "the target has its effect, and no receipt tells of it")
        read = told.changes.get(of)
        if read is not None and version.content is not None and read != version.content:
            verdict.note(Kind.MISREAD, of, f"committed {version.content}, read {read}")


def _last_places(known: _Known, counts: Callable[[RowVersion], bool]) -> dict[str, int]:
    """For each key the place in the log of the last version that counts."""
    last: dict[str, int] = {}
    for of, (place, _) in known.items():
        if counts(of):
            last[of.key] = max(place, last.get(of.key, place))
    return last


def _end(of: RowVersion, seen: set[RowVersion], told: Told, *, overtaken: bool) -> Fate | Kind:
    if of in seen:
        return Fate.APPLIED
    fate = told.fates.get(of)
    if fate is Fate.APPLIED:
        return Kind.CLAIMED
    if fate is not None:
        return fate
    if of not in told.changes and overtaken:
        return Fate.SUPERSEDED  # overtaken at the source before anyone could read it
    return Kind.IN_FLIGHT if told.waiting else Kind.LOST


def _why(end: Kind) -> str:
    match end:
        case Kind.CLAIMED:
            return "a receipt says applied, and the target's log knows no effect"
        case Kind.IN_FLIGHT:
            return "no fate yet, and a group has not read everything"
    return "no effect, no fate, and everything was read"


_NO_FAULT_OF_A_RECORD = re.compile(
    r"08...|40...|53...|57P..|58...|55P03|57014|55006"  # SQLSTATE: gone, rolled back, no room, going down, locked
    r"|25006|28...|3D...|3F...|42..."  # SQLSTATE: read-only, credentials, rights and names
    r"|401|403|408|425|429|5\d\d"  # HTTP
)


def _judge_letters(letters: list[Letter], known: _Known, verdict: Verdict) -> None:
    for letter in letters:
        of = RowVersion(letter.key, letter.version)
        told = f"{letter.stage} {letter.code}: {letter.reason}"
        found = known.get(of)
        if found is None:
            verdict.note(Kind.PHANTOM, of, f"a dead letter of a version that was never committed ({told})")
        elif found[1].poison is False:
            verdict.note(Kind.FALSE_DEAD, of, f"the record is sound ({told})")
        elif letter.stage == "put" and _NO_FAULT_OF_A_RECORD.fullmatch(letter.code):
            verdict.note(Kind.FALSE_DEAD, of, f"the system was at fault ({told})")
        if letter.intact is False:
            verdict.note(Kind.FALSE_BYTES, of, f"not the bytes that stood on its topic ({told})")


_WAITS_FOR_A_PERSON = (Fate.IN_DOUBT, Fate.REVIEW, Fate.DISCARDED, Fate.REFUSED)


def _judge_rows(
    committed: list[Committed], rows: Mapping[str, Fields], seen: set[RowVersion], told: Told, verdict: Verdict
) -> None:
    """The target holds what the newest sound version of each key wants, of those that no person holds back.

    One that could not be written any more because its record had moved on is left out where what it moved on to is
    refused: nothing stands in its place.
    """
    poisoned = {each.key: place for place, each in enumerate(committed) if each.poison}
    newest = {
        each.key: each
        for place, each in enumerate(committed)
        if each.wanted is not None and not each.poison
        if each.of in seen or told.fates.get(each.of) not in _WAITS_FOR_A_PERSON
        if each.of in seen or told.fates.get(each.of) is not Fate.SUPERSEDED or poisoned.get(each.key, -1) < place
    }
    for each in newest.values():
        if why := _other(rows.get(each.key, {}), each.wanted):
            verdict.note(Kind.WRONG_STATE, each.of, f"at the end: {why}")


def _other(values: Fields | None, wanted: Fields | None) -> str:
    """What differs; empty = nothing, or nobody can say."""
    if values is None or wanted is None:
        return ""
    different = {name: (values.get(name), value) for name, value in wanted.items() if values.get(name) != value}
    return ", ".join(f"{name} is {is_!r}, wanted {value!r}" for name, (is_, value) in different.items())


def _named(effect: Effect) -> str:
    named: dict[str, Any] = {"write_id": effect.write_id, "at": effect.at}
    return " ".join(f"{name}={value}" for name, value in named.items() if value)
