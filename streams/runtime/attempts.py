"""Attempts: how often a process crashed on the first open offset of a partition, remembered in the commit's metadata.

A record that crashes the process would crash it for ever, and with it everything else. So before the first batch of a
partition is worked on, the attempt is written into the commit of its first open offset, where the next owner finds it.
Progress, an orderly end and waiting for a sick system take it back: only crashes count. After three of them the
partition is held, and all others go on. An orderly restart of the worker tries it again.
"""

import re
from collections.abc import Iterable, Mapping

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

CRASHES = 3
_NOTE = re.compile(r"crossdock attempts=(\d+)")


def attempts_of(metadata: str | None) -> int:
    """Attempts that a commit's metadata tells of; 0 for metadata of anybody else."""
    found = _NOTE.fullmatch(metadata or "")
    return int(found[1]) if found else 0


class Attempts:
    """The attempts of one reader, from one assignment to the next."""

    def __init__(self) -> None:
        self._before: dict[TopicPartition, int] = {}
        self._at: dict[TopicPartition, int] = {}
        self._begun: set[TopicPartition] = set()
        self.held: set[TopicPartition] = set()

    def found(self, committed: Mapping[TopicPartition, OffsetAndMetadata | None]) -> set[TopicPartition]:
        """Takes over what earlier owners left; returns the partitions that are held from now on."""
        for tp, at in committed.items():
            if tp not in self._at:
                self._at[tp] = max(0, at.offset) if at is not None else 0
                self._before[tp] = attempts_of(at.metadata if at is not None else "")
        held = {tp for tp in committed if self._before[tp] >= CRASHES} - self.held
        self.held |= held
        return held

    def offset(self, tp: TopicPartition) -> int:
        """The first open offset of a partition, as it was taken over."""
        return self._at[tp]

    def begin(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """What is to be committed before the first batch of these partitions is worked on: each once."""
        fresh = [tp for tp in partitions if tp in self._at and tp not in self._begun]
        self._begun.update(fresh)
        return {tp: self._note(tp, self._before[tp] + 1) for tp in fresh}

    def passed(self, tp: TopicPartition) -> None:
        """A commit went beyond the first open offset."""
        self._at.pop(tp, None)

    def take_back(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """What is to be committed when work that has begun and not passed ends in order, or waits for a sick system."""
        back = [tp for tp in partitions if tp in self._at and (tp in self._begun or tp in self.held)]
        for tp in back:
            self._before[tp] = 0
            self._begun.discard(tp)
        return {tp: self._note(tp, 0) for tp in back}

    def _note(self, tp: TopicPartition, attempts: int) -> OffsetAndMetadata:
        return OffsetAndMetadata(self._at[tp], f"crossdock attempts={attempts}" if attempts else "")
