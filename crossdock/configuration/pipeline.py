"""A pipeline's file. Its source and write-backs are read by the classes of the systems that they name."""

import hashlib
from datetime import timedelta

from pydantic import Field

from connectors.config import Block, Duration, Name, Rate, SourceConfig, WritebackConfig
from streams.derive import DeriveConfig
from streams.lookups import LookupConfig
from streams.model.config import ModelConfig


class BackfillConfig(Block):
    """What is read before a source has caught up: first runs, what is read again. It yields to live changes."""

    rate: Rate | None = Field(default=None, description="for each worker; default: as fast as live changes let it")


class PipelineConfig(Block):
    """source -> only -> derive -> lookups -> model -> write-back."""

    name: Name
    owner: str = Field(min_length=1, description="shown in the console, named in alerts")
    freshness: Duration = Field(default=timedelta(minutes=5), description="source commit -> receipt")
    source: SourceConfig
    backfill: BackfillConfig = BackfillConfig()
    only: str | None = Field(default=None, description="JMESPath; the rest ends as filtered(only)")
    derive: dict[str, DeriveConfig] = Field(default={})
    lookups: dict[str, LookupConfig] = Field(default={})
    model: ModelConfig | None = None
    writeback: tuple[WritebackConfig, ...] = ()

    @property
    def digest(self) -> str:
        """Twelve hex digits of the file, stamped on its events. Secrets stand in it as references."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
