"""Buckets: two sides are compared by counts and sums of hashes, and listed only where those differ.

A record falls into a bucket by the hash of its key, and not by its key: two databases sort texts by different rules,
and would cut differently. The digest of a bucket is the sum of the hashes of its records, in which their order does not
matter: a database computes it in one pass over a table, and so does a loop.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from connectors.contract import Bucket, Held, KeyRange
from schemas.values import JsonScalar

SPACE = 1 << 32
"""Hashes of keys lie below it."""
FAN = 256
"""Buckets of a range: two hexadecimal digits name one of all."""
SEPARATOR = "\x1f"
KEY_DIGITS, RECORD_DIGITS = 8, 15
"""Hexadecimal digits of an MD5 that are used. It tells honest differences apart, and keeps no secret."""


def key_text(key: Sequence[JsonScalar]) -> str:
    """One text for one key: the same for a number and for a text that spells it."""
    return SEPARATOR.join(str(value) for value in key)


def key_hash(text: str) -> int:
    return int(_md5(text)[:KEY_DIGITS], 16)


def record_hash(text: str, version: str) -> int:
    return int(_md5(text + SEPARATOR + version)[:RECORD_DIGITS], 16)


def everything(fields: Sequence[str], below: str | None = None) -> KeyRange:
    """All records of one side."""
    return KeyRange(tuple(fields), 0, SPACE, FAN, below)


def bucketed(records: Iterable[Held], key_range: KeyRange) -> list[Bucket]:
    """The buckets of what was read, for sides that cannot compute them where the records are."""
    counts, sums = [0] * key_range.buckets, [0] * key_range.buckets
    for text, place, version in _inside(records, key_range):
        number = (place - key_range.start) * key_range.buckets // (key_range.end - key_range.start)
        counts[number] += 1
        sums[number] += record_hash(text, version)
    return cut(key_range, {number: (counts[number], sums[number]) for number in range(key_range.buckets)})


def cut(key_range: KeyRange, found: dict[int, tuple[int, int]]) -> list[Bucket]:
    """All buckets of a range, with count and digest of those that hold something."""
    width = (key_range.end - key_range.start) // key_range.buckets
    starts = [key_range.start + number * width for number in range(key_range.buckets)]
    return [Bucket(start, start + width, *found.get(number, (0, 0))) for number, start in enumerate(starts)]


def within(records: Iterable[Held], key_range: KeyRange) -> list[Held]:
    """Those that fall into the range."""
    start, end = key_range.start, key_range.end
    return [each for each in _below(records, key_range.below) if start <= key_hash(key_text(each.key)) < end]


def without_cause(version: str) -> str:
    """`<domain>.<position>` of a version: what a source knows of it."""
    return version.rpartition(".")[0]


def _inside(records: Iterable[Held], key_range: KeyRange) -> Iterator[tuple[str, int, str]]:
    for each in _below(records, key_range.below):
        text = key_text(each.key)
        place = key_hash(text)
        if key_range.start <= place < key_range.end:
            yield text, place, each.version


def _below(records: Iterable[Held], below: str | None) -> Iterator[Held]:
    return (each for each in records if below is None or each.version < below)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
