"""A consumer group, as one worker joins it."""

from dataclasses import dataclass

from streams.runtime.window import BATCH_RECORDS


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group as one worker joins it."""

    name: str
    topics: tuple[str, ...]
    instance: str
    drain: float
    """Seconds that work in hand may take when partitions are taken away."""
    batch: int = BATCH_RECORDS
    """Records in hand at most: what one call takes, so that the drain is enough for all of them."""

    @property
    def rebalance_timeout(self) -> float:
        return max(30.0, self.drain + 10.0)
