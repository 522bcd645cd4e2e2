"""A SOAP system: its pinned WSDL, its one HTTP client, and the sources and sinks that share them."""

from zoneinfo import ZoneInfo

from connectors.clock import Clock
from connectors.config import SourceConfig, WritebackConfig
from connectors.http import HttpClient
from connectors.limits import RateLimit
from connectors.soap.config import SoapSourceConfig, SoapSystemConfig, SoapWritebackConfig
from connectors.soap.rows import Decoder
from connectors.soap.sink import SoapSink
from connectors.soap.source import SoapSource
from connectors.soap.transport import Calls
from connectors.soap.wsdl import Service


class SoapSystem:
    """One installation. Making it reads the WSDL from its file; nothing is sent before the first use."""

    def __init__(self, config: SoapSystemConfig, clock: Clock) -> None:
        """Raises ConfigError if the WSDL is not usable."""
        self.name = config.name
        self.service = Service(config.wsdl.file, config.service, config.port)
        zone = ZoneInfo(config.timezone) if config.timezone else None
        self.decoder = Decoder(self.service.types, zone)
        self._clock, self._zone, self._timeouts = clock, zone, config.timeouts
        limit = RateLimit(config.courtesy.rate, clock)
        self._client = HttpClient(
            config.address,
            timeouts=config.timeouts,
            clock=clock,
            limit=limit,
            auth=config.auth,
            verify=config.verify,
            max_response=config.max_response,
            concurrency=config.courtesy.concurrency,
        )
        self.calls = Calls(config.address, self._client, limit, clock)

    def source(self, config: SourceConfig, *, written: frozenset[str]) -> SoapSource:
        """A source; nothing is looked up in the WSDL before its task opens, so that `lint()` can report it all."""
        assert isinstance(config, SoapSourceConfig)
        return SoapSource(
            self.name,
            config,
            written=written,
            service=self.service,
            decoder=self.decoder,
            calls=self.calls,
            clock=self._clock,
            zone=self._zone,
        )

    def sink(self, config: WritebackConfig, *, prefix: str) -> SoapSink:  # noqa: ARG002
        """A sink. SOAP offers no place for the prefix: no ledger, and no idempotency key."""
        assert isinstance(config, SoapWritebackConfig)
        return SoapSink(config, self.service, self.decoder, self.calls)

    def credentials_digest(self) -> str:
        """See `connectors.contract.System`."""
        return self._client.credentials_digest(self.name)

    def close(self) -> None:
        self._client.close()
