"""One SQL installation: its database, and the sources and sinks that share it."""

from connectors.clock import Clock
from connectors.config import SourceConfig, WritebackConfig
from connectors.contract import SinkTask, Source
from connectors.sql.config import SqlSourceConfig, SqlSystemConfig, SqlWritebackConfig
from connectors.sql.database import Database
from connectors.sql.ledger import Ledger
from connectors.sql.sink import SqlSink
from connectors.sql.source import SqlSource


class SqlSystem:
    """See `connectors.contract.System`."""

    def __init__(self, config: SqlSystemConfig, clock: Clock) -> None:
        self.name = config.name
        self.database = Database(config, clock)
        self._keep, self._ledgers = config.ledger.keep, dict[str, Ledger]()

    def source(self, config: SourceConfig, *, written: frozenset[str]) -> Source:
        assert isinstance(config, SqlSourceConfig)
        return SqlSource(config, self.database, written=written)

    def sink(self, config: WritebackConfig, *, prefix: str) -> SinkTask:
        assert isinstance(config, SqlWritebackConfig)
        ledger = self._ledgers.setdefault(prefix, Ledger(self.database, prefix, self._keep))
        return SqlSink(config, self.database, ledger)

    def credentials_digest(self) -> str:
        return self.database.credentials_digest()

    def close(self) -> None:
        self.database.close()
