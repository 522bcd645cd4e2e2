"""The history of one flow - one pipeline into one of its write-backs - as everybody tells it who is not the hub.

| who tells                             | what                                                              |
|---------------------------------------|-------------------------------------------------------------------|
| the source's own log                  | every version that was committed, those of one key in their order |
| the target's own log                  | every effect, in its order                                        |
| the topics                            | what the hub read, and the fate that it gave to each event        |
| the groups' committed offsets         | whether anything still waits                                      |
| the target's rows                     | what stands there at the end                                      |
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from schemas.outcome import Fate
from schemas.write import LIVE

Fields: TypeAlias = Mapping[str, Any]


class RowVersion(NamedTuple):
    """One version of one record. Its cause sequence is left out: all writes about it belong to this one version."""

    key: str
    version: str


class Committed(NamedTuple):
    """One version as the source's own log has it."""

    key: str
    version: str
    content: str | None = None
    """A digest of what was committed; None = the log does not tell."""
    wanted: Fields | None = None
    """What a write from this version must leave in the target; None = nobody can say."""
    poison: bool | None = None
    """Whether it must be refused; None = nobody can say."""

    @property
    def of(self) -> RowVersion:
        return RowVersion(self.key, self.version)


class Effect(NamedTuple):
    """One change that a write made, from a target's own log."""

    key: str
    version: str
    """The source version that the write was made from."""
    write_id: str | None = None
    """None where the target's protocol does not carry it."""
    values: Fields | None = None
    at: str = ""

    @property
    def of(self) -> RowVersion:
        return RowVersion(self.key, self.version)

    @property
    def cause(self) -> str:
        """Why it was written: the last part of a write's id."""
        return LIVE if self.write_id is None else self.write_id.rpartition("/")[2]


class Letter(NamedTuple):
    """One dead letter."""

    key: str
    version: str
    stage: str
    code: str
    reason: str = ""
    intact: bool | None = None
    """Whether it holds the very bytes that stood on its topic; None = they are not there any more, or never were."""


_RANK = {
    Fate.DISCARDED: 9,
    Fate.REFUSED: 8,
    Fate.DEAD: 7,
    Fate.FILTERED: 6,
    Fate.APPLIED: 5,
    Fate.UNCHANGED: 4,
    Fate.SUPERSEDED: 3,
    Fate.IN_DOUBT: 2,
    Fate.REVIEW: 1,
    Fate.PARKED: 0,
}
"""Of several receipts of one write - a batch that came twice - the one that says most about its end."""


@dataclass
class Told:
    """What the topics and the offsets of one flow tell."""

    changes: dict[RowVersion, str | None] = field(default_factory=dict)
    """Every version that the hub read, with the digest of what it read."""
    fates: dict[RowVersion, Fate] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)
    waiting: bool = False
    """Some group has not read everything yet."""
    sequences: dict[str, int] = field(default_factory=dict)
    """Cause sequence of each write that was not the first about its version, by write id."""
    _latest: dict[RowVersion, int] = field(default_factory=dict)

    def receipt(self, key: str, version: str, fate: Fate, *, sequence: int = 0, write_id: str | None = None) -> None:
        """Takes one receipt, in the order in which they lie on the topic.

        Of several causes the latest decides: a dead letter that was replayed is what its replay became.
        """
        of = RowVersion(key, version)
        if sequence and write_id is not None:
            self.sequences[write_id] = sequence
        before, latest = self.fates.get(of), self._latest.get(of, 0)
        if before is None or sequence > latest or (sequence == latest and _RANK[fate] > _RANK[before]):
            self.fates[of] = fate
            if sequence:
                self._latest[of] = sequence


@dataclass
class History:
    """All of it, for `judge`."""

    committed: Iterable[Committed]
    effects: Iterable[Effect]
    told: Told
    rows: Mapping[str, Fields] | None = None
    """What stands in the target at the end, by key; None = nobody looked."""
