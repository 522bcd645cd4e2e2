"""What goes to a target in one statement: of each key at most one write, and each write once."""

import itertools
from collections.abc import Iterator, Sequence

from schemas.change import canonical_key
from schemas.write import Write
from streams.settled import Incoming

Wanted = tuple[Incoming, Write]


def newest_of_each_key(wanted: Sequence[Wanted]) -> tuple[list[Wanted], list[Wanted]]:
    """The newest write of each key, and the older ones, which it overtook."""
    newest, older = [], []
    for items in _by_key(wanted).values():
        *before, last = sorted(items, key=lambda item: item[1].version)
        newest.append(last)
        older += before
    return newest, older


def each_in_its_turn(wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """For writes that each add something: all of them, those of one key one after the other."""
    for turn in itertools.zip_longest(*_by_key(wanted).values()):
        yield [item for item in turn if item is not None]


def _by_key(wanted: Sequence[Wanted]) -> dict[bytes, list[Wanted]]:
    """The same write twice - a source was read again - is one write, with one end."""
    found: dict[bytes, dict[str, Wanted]] = {}
    for each, write in wanted:
        found.setdefault(canonical_key(write.key), {}).setdefault(write.write_id, (each, write))
    return {key: list(writes.values()) for key, writes in found.items()}
