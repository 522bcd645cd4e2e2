"""The account: what became of every record version, told by the systems' own logs and not by the hub's counters.

The oracle stands outside the hub. Each system logs every version that was committed in it, and every effect that a
write had. A version with an effect is applied, whatever the hub says; a version with neither an effect nor a fate on
the topics, and no later version of its key that has one, is lost. Later is what was committed later: where transactions
stamp their start, a later version may carry an earlier time.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.outcome import Fate


class RowVersion(NamedTuple):
    """One committed version of one record, from a source's own log."""

    key: str
    version: str


class Effect(NamedTuple):
    """One change that a write made, from a target's own log."""

    key: str
    version: str
    """The source version that the write was made from."""
    write_id: str | None
    """None where the target's protocol does not carry it."""


_RANK = {
    Fate.DEAD: 7,
    Fate.FILTERED: 6,
    Fate.APPLIED: 5,
    Fate.UNCHANGED: 4,
    Fate.SUPERSEDED: 3,
    Fate.IN_DOUBT: 2,
    Fate.REVIEW: 1,
    Fate.PARKED: 0,
}
"""Of several receipts of one version - a batch that came twice - the one that says most about its end."""


@dataclass
class Told:
    """What the topics of one pipeline tell."""

    fates: dict[RowVersion, Fate] = field(default_factory=dict)
    changes: set[RowVersion] = field(default_factory=set)
    waiting: bool = False
    """Some group has not read everything yet."""

    def receipt(self, key: str, version: str, fate: Fate) -> None:
        of = RowVersion(key, version)
        before = self.fates.get(of)
        if before is None or _RANK[fate] > _RANK[before]:
            self.fates[of] = fate


COLUMNS = (
    "changes",
    "applied",
    "unchanged",
    "superseded",
    "filtered",
    "dead",
    "in_doubt",
    "review",
    "parked",
    "in_flight",
    "lost",
    "doubled",
)


@dataclass
class Account:
    """The account of one pipeline. `changes` is the sum of the fates, what is in flight and what is lost."""

    figures: dict[str, int]
    lost: list[RowVersion]
    """The first ten."""
    doubled: list[Effect]
    """The first ten."""

    @property
    def good(self) -> bool:
        return not (self.figures["lost"] or self.figures["doubled"] or self.figures["in_flight"])


def account(versions: Iterable[RowVersion], effects: Iterable[Effect], told: Told) -> Account:
    """Settles every version of one pipeline's source.

    Args:
        versions: all that were ever committed at the source, those of one key in the order of their commits.
        effects: all that the target ever saw.
        told: what the pipeline's topics say.
    """
    seen: Counter[tuple[str, str]] = Counter()
    identities: Counter[str] = Counter()
    doubled: list[Effect] = []
    extra = 0
    known = {of: number for number, of in enumerate(versions)}
    for effect in effects:
        at = (effect.key, effect.version)
        seen[at] += 1
        if effect.write_id is not None:
            identities[effect.write_id] += 1
        again = seen[at] > 1 or (effect.write_id is not None and identities[effect.write_id] > 1)
        if again or RowVersion(*at) not in known:  # a second effect, or one that no source version asked for
            extra += 1
            doubled.append(effect)
    latest = _latest_settled(known, seen, told.fates)
    figures = dict.fromkeys(COLUMNS, 0)
    lost: list[RowVersion] = []
    for of, place in known.items():
        figures["changes"] += 1
        end = _end(of, seen, told, overtaken=latest.get(of.key, -1) > place)
        figures[end] += 1
        if end == "lost":
            lost.append(of)
    figures["doubled"] = extra
    return Account(figures, sorted(lost)[:10], doubled[:10])


def _latest_settled(
    known: Mapping[RowVersion, int], seen: Mapping[tuple[str, str], int], fates: Mapping[RowVersion, Fate]
) -> dict[str, int]:
    """For each key the place in the log of the latest version that has an effect or a fate."""
    latest: dict[str, int] = {}
    for of, place in known.items():
        if (of in seen or of in fates) and place > latest.get(of.key, -1):
            latest[of.key] = place
    return latest


def _end(of: RowVersion, seen: Mapping[tuple[str, str], int], told: Told, *, overtaken: bool) -> str:
    if of in seen:
        return Fate.APPLIED.value
    fate = told.fates.get(of)
    if fate is not None and fate is not Fate.APPLIED:
        return fate.value
    if fate is None and of not in told.changes and overtaken:
        return Fate.SUPERSEDED.value  # overtaken at the source before anyone could read it
    if fate is None and told.waiting:
        return "in_flight"
    return "lost"  # also: a receipt says applied, and the target's log knows nothing of it


def total(accounts: Mapping[str, Account]) -> dict[str, Any]:
    """All pipelines as the demo's JSON has them."""
    return {name: each.figures for name, each in accounts.items()}
