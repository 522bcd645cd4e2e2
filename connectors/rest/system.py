"""One REST installation: its line, and the sources and sinks that share it."""

from zoneinfo import ZoneInfo

from connectors.clock import Clock
from connectors.config import SourceConfig, WritebackConfig
from connectors.contract import SinkTask, Source
from connectors.rest.config import RestSourceConfig, RestSystemConfig, RestWritebackConfig
from connectors.rest.sink import sink_for
from connectors.rest.source import RestSource
from connectors.rest.wire import Wire


class RestSystem:
    """See `connectors.contract.System`. Opens nothing before the first call."""

    def __init__(self, config: RestSystemConfig, clock: Clock) -> None:
        self.name = config.name
        self._zone = ZoneInfo(config.timezone) if config.timezone is not None else None
        self._wire = Wire(config, clock)

    def source(self, config: SourceConfig, *, written: frozenset[str]) -> Source:
        assert isinstance(config, RestSourceConfig)
        return RestSource(config, self._wire, zone=self._zone, written=written)

    def sink(self, config: WritebackConfig, *, prefix: str) -> SinkTask:  # noqa: ARG002 - a write's id begins with it
        assert isinstance(config, RestWritebackConfig)
        return sink_for(config, self._wire)

    def credentials_digest(self) -> str:
        return self._wire.credentials_digest()

    def close(self) -> None:
        self._wire.close()
