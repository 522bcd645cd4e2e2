"""A pipeline as the agents see it: compiled, built, ready to be asked."""

from dataclasses import dataclass, replace
from datetime import timedelta

from connectors.clock import Clock
from streams.derive import Derive
from streams.lookups import Lookups
from streams.model.step import ModelStep
from streams.only import Only
from streams.topics import PipelineTopics


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The enriching half of a pipeline file; its write-backs stand beside it, by system."""

    name: str
    topics: PipelineTopics
    config: str
    """Digest of the configuration, stamped on every event."""
    only: Only
    derive: Derive
    lookups: Lookups
    model: ModelStep | None
    clock: Clock
    freshness: timedelta
    """From the source's commit to the receipt: what the pipeline promises."""
    backfill_rate: float | None = None
    """Records a second of what is not live, for this worker; None = as fast as live records let it."""
    model_timeout: timedelta = timedelta(seconds=10)

    @property
    def in_backfill(self) -> "Pipeline":
        """The same pipeline as its backfill sees it."""
        return replace(self, topics=self.topics.in_backfill)
