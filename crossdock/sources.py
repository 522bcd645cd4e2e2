"""The source of a pipeline, told which of its fields the hub itself writes."""

from collections.abc import Mapping

from connectors.config import SourceConfig
from connectors.contract import Source, System
from crossdock.configuration.load import Configuration


def source_of(configuration: Configuration, systems: Mapping[str, System], config: SourceConfig) -> Source:
    """A source; what the hub itself writes into its system is not content of its records."""
    written = {
        field
        for pipeline in configuration.pipelines.values()
        for block in pipeline.writeback
        if block.system == config.system
        for field in block.set
    }
    return systems[config.system].source(config, written=frozenset(written))
