"""The watch: once a second, how far every partition is, and how much memory the workers hold."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from streams.topics import enrich_group, write_group
from tests.chaos.campaign.evidence import FLOWS, PREFIX, WORKER_GROUP
from tests.chaos.campaign.workers import Workers

EVERY = 1.0
_Place = tuple[str, TopicPartition]
"""A group, and one of its partitions."""


@dataclass
class _Seen:
    """What is known of one partition of one group."""

    committed: int = 0
    behind: int = 0
    moved_at: float = 0.0
    """When it was last committed, or last had nothing to commit."""


@dataclass
class Watch:
    """Looks in a thread of its own. Moments are seconds of `time.monotonic()`."""

    bootstrap: str
    workers: Workers
    pipelines: Iterable[str]
    commits: list[float] = field(default_factory=list)
    """Moments at which some group was seen to have committed."""
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Moments, and the resident MB of the largest worker."""
    longest_stall: tuple[float, str] = (0.0, "")
    """Seconds for which a partition had work and no commit, and which one it was."""

    def __post_init__(self) -> None:
        self._client: KafkaAdminClient | None = None
        self._seen: dict[_Place, _Seen] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._topics = {
            enrich_group(PREFIX, WORKER_GROUP): [FLOWS[name].topics.changes.name for name in self.pipelines],
            **{write_group(PREFIX, FLOWS[name].target): [FLOWS[name].topics.enriched.name] for name in self.pipelines},
        }

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def first_commit_after(self, moment: float) -> float | None:
        """Seconds from a moment to the first commit after it; None = there was none yet."""
        return next((at - moment for at in self.commits if at > moment), None)

    def growth(self, begin: float, end: float) -> float:
        """MB by which the largest worker's memory exceeded what it was at the beginning."""
        before = [mb for at, mb in self.memory if at <= begin][-3:]
        during = [mb for at, mb in self.memory if begin < at <= end]
        return max(during, default=0.0) - max(before, default=0.0) if before and during else 0.0

    def _run(self) -> None:
        while not self._stopping.wait(EVERY):
            self.memory.append((time.monotonic(), self.workers.resident_mb()))
            try:
                self._look()
            except (KafkaError, OSError, KeyError):
                self._close()  # the broker is away, or another one now
        self._close()

    def _look(self) -> None:
        if self._client is None:
            self._client = KafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5_000)
        topics = sorted({name for names in self._topics.values() for name in names})
        partitions = [
            TopicPartition(found.get("name", found.get("topic")), each["partition_index"])
            for found in self._client.describe_topics(topics)
            for each in found["partitions"]
        ]
        ends = self._client.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        for group, names in self._topics.items():
            mine = [tp for tp in partitions if tp.topic in names]
            committed = self._client.list_group_offsets({group: mine})[group]
            for tp in mine:
                at = committed.get(tp)
                self._note((group, tp), max(0, at.offset) if at is not None else 0, ends[tp].offset)

    def _note(self, place: _Place, committed: int, end: int) -> None:
        now = time.monotonic()
        seen = self._seen.setdefault(place, _Seen(moved_at=now))
        if committed > seen.committed:
            self.commits.append(now)
        if committed > seen.committed or seen.behind <= 0:
            seen.moved_at = now
        seen.committed, seen.behind = committed, end - committed
        if seen.behind > 0:
            stalled = (round(now - seen.moved_at, 1), f"{place[0]} {place[1].topic}/{place[1].partition}")
            self.longest_stall = max(self.longest_stall, stalled)

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
