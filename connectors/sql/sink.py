"""Writing rows: one transaction for a batch, the outcome of each row out of the database's own answer.

| what happened                                      | outcome                                               |
|----------------------------------------------------|-------------------------------------------------------|
| the row was changed or added                       | applied                                               |
| the write's id stood in the ledger                 | applied: an earlier attempt did it, nothing is done   |
| the row holds the values already                   | unchanged, whatever its version                       |
| rule `newer`, the row's version is not older       | stale                                                 |
| rule `equals`, the row's version is another        | conflict                                              |
| no such row (update), data or a constraint refuses | rejected: found by halves, the rest of the batch goes |
| refused for one reason, 20 in a row                | the rest is not tried: retry, with the code suspected |
| deadlock, lock, shutdown, connection lost          | Retriable: nothing happened                           |
| connection lost while committing                   | Unknown                                               |

With `idempotency: ledger` the write's id is put into `crossdock_applied` in the same transaction. Only an effect leaves
a row there: a repeated write that had none is compared again, and its receipt stays true.
"""

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from connectors.contract import Bucket, Capabilities, Held, Idempotency, KeyRange, Report
from connectors.errors import CrossdockError, Rejected, Unknown
from connectors.failpoints import failpoint
from connectors.refusals import Refusals
from connectors.replaced import Replaced
from connectors.sql.compare import ComparedTable, OfColumn
from connectors.sql.config import SqlWritebackConfig
from connectors.sql.database import Database
from connectors.sql.errors import code_of, failure_of, message_of
from connectors.sql.ledger import LEDGER, Ledger
from connectors.sql.postgresql import PostgresTarget
from connectors.sql.sqlite import SqliteTarget
from connectors.sql.tables import reflected
from connectors.sql.target import Columns, Target
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Key, Record
from schemas.write import Write

_BY_ANOTHER_ATTEMPT = "the database has this write: an earlier attempt applied it"
_NAMELESS = Receipt(Outcome.REJECTED, code="key", reason="a null in the key names no row: each write would add one")
_COMMITS_WITHIN = 2.0
"""Seconds: a commit whose connection was lost is done, or will never be."""


class SqlSink:
    """Writes into one table. Life cycle: see `connectors/contract.py`."""

    _target: Target

    def __init__(self, config: SqlWritebackConfig, database: Database, ledger: Ledger) -> None:
        holds_versions = config.version is not None and config.version.rule == "newer" and not config.version.value
        self._config, self._database, self._ledger, self._replaced = config, database, ledger, Replaced()
        self.capabilities = Capabilities(
            config.idempotency, transactional=False, readable=True, comparable=holds_versions
        )
        if config.idempotency is Idempotency.READBACK:
            self.capabilities = replace(self.capabilities, settle=_COMMITS_WITHIN)
            self.happened = self._happened
        verb = "update" if config.update else "upsert" if config.upsert else "insert"
        self._place = f"{verb} {config.table}"

    def open(self) -> None:
        """Looks the table up, and makes the ledger where there is none.

        Raises:
            ConfigError: the table or a column is not there.
            Retriable, SystemFault: see `connectors.sql.errors`.
        """
        database, deadline = self._database, self._database.clock.monotonic() + self._database.total
        with database.reading(deadline, self._place) as connection:
            self._target = target_of(
                self._config, Columns.of(self._config, reflected(connection, self._config.table)), database
            )
            missing = not sa.inspect(connection).has_table(LEDGER)
        if self._config.idempotency is Idempotency.LEDGER and missing:
            self._ledger.create(deadline)

    def close(self) -> None:
        """The connections are the system's."""

    def check(self) -> Report:
        from connectors.sql.check import check_sink

        return check_sink(self._config, self._database)

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        try:
            receipts = self._transaction(writes, deadline, by_halves=False)
        except Rejected:
            receipts = self._transaction(writes, deadline, by_halves=True)
        if self._config.idempotency is Idempotency.LEDGER:
            self._ledger.prune(deadline)
        return receipts

    def read(self, keys: Sequence[Key], deadline: float) -> list[Record | None]:
        """See `connectors.contract.Readable`. Raises Retriable, SystemFault."""
        with self._database.reading(deadline, self._place) as connection:
            return self._target.read(connection, keys)

    def _happened(self, writes: Sequence[Write], deadline: float) -> list[Receipt | None]:
        """See `connectors.contract.Readback`. Raises Retriable, SystemFault."""
        with self._database.reading(deadline, self._place) as connection:
            there = self._target.there(connection, [write.write_id for write in writes])
        return [Receipt(Outcome.APPLIED, reason=_BY_ANOTHER_ATTEMPT) if each else None for each in there]

    def holds(self, writes: Sequence[Write], deadline: float) -> list[bool | None]:
        """`Verifiable`: the database compares, as it does before each write."""
        with self._database.reading(deadline, self._place) as connection:
            return [None if each is None else each.same for each in self._target.look(connection, writes)]

    def digest(self, key_range: KeyRange, deadline: float) -> list[Bucket]:
        """`Comparable`, where the version column holds the hub's versions."""
        return self._compared(deadline).digest(key_range, deadline)

    def held(self, key_range: KeyRange, deadline: float) -> list[Held]:
        """`Comparable`."""
        return self._compared(deadline).held(key_range, deadline)

    def _compared(self, deadline: float) -> ComparedTable:
        assert self._config.version is not None
        place = f"compare {self._config.table}"
        with self._database.reading(deadline, place) as connection:
            table = reflected(connection, self._config.table)
        return ComparedTable(self._database, table, OfColumn(table.columns[self._config.version.column]), place)

    def _transaction(self, writes: Sequence[Write], deadline: float, *, by_halves: bool) -> list[Receipt]:
        refusals = Refusals()
        with self._database.writing(deadline, self._place) as connection:
            if by_halves:
                receipts = self._by_halves(connection, writes, refusals)
            else:
                receipts = [refusals.judged(receipt) for receipt in self._write(connection, writes)]
            failpoint("sql_before_commit")
            try:
                connection.commit()
            except sa.exc.DBAPIError as error:
                failure = self._of_commit(error)
                if isinstance(failure, Unknown):
                    self._remember(writes, receipts)
                raise failure from error
            failpoint("sql_after_commit")
        return [self._replaced.completed(write.write_id, each) for write, each in zip(writes, receipts, strict=True)]

    def _remember(self, writes: Sequence[Write], receipts: Sequence[Receipt]) -> None:
        """A later attempt may find that these writes happened, and no more what they replaced."""
        for write, receipt in zip(writes, receipts, strict=True):
            if receipt.replaced is not None:
                self._replaced.seen(write.write_id, receipt.replaced)

    def _of_commit(self, error: sa.exc.DBAPIError) -> CrossdockError:
        """A connection that is lost while it commits leaves open whether it did."""
        state = code_of(error)
        lost = error.connection_invalidated or state is None or state.startswith(("08", "57P"))
        if lost and self._database.dialect != "sqlite":
            return Unknown(f"{self._place}: the connection was lost while committing ({message_of(error)})")
        return failure_of(error, self._place)

    def _by_halves(self, connection: sa.Connection, writes: Sequence[Write], refusals: Refusals) -> list[Receipt]:
        """Halves, each in a savepoint, until the refused records stand alone or there are too many in a row."""
        if refusals.are_suspicious:
            return [refusals.not_sent()] * len(writes)
        try:
            with connection.begin_nested():
                receipts = self._write(connection, writes)
                if self._database.dialect == "postgresql":
                    connection.exec_driver_sql(
                        "SET CONSTRAINTS ALL IMMEDIATE"
                    )  # a deferred one would speak at the commit
            return [refusals.judged(receipt) for receipt in receipts]
        except (sa.exc.DBAPIError, Rejected) as error:
            refusal = error if isinstance(error, Rejected) else failure_of(error, self._place)
            if not isinstance(refusal, Rejected):
                raise refusal from error
        if len(writes) == 1:
            return [refusals.judged(Receipt(Outcome.REJECTED, code=refusal.code, reason=refusal.message))]
        middle = len(writes) // 2
        first = self._by_halves(connection, writes[:middle], refusals)
        return [*first, *self._by_halves(connection, writes[middle:], refusals)]

    def _write(self, connection: sa.Connection, writes: Sequence[Write]) -> list[Receipt]:
        """Raises Rejected, and what the driver raises."""
        named = [write for write in writes if None not in write.key.values() or self._config.upsert is None]
        receipts = self._claim_and_apply(connection, named)
        by_id = {write.write_id: receipt for write, receipt in zip(named, receipts, strict=True)}
        return [by_id.get(write.write_id, _NAMELESS) for write in writes]

    def _claim_and_apply(self, connection: sa.Connection, writes: Sequence[Write]) -> list[Receipt]:
        if self._config.idempotency is not Idempotency.LEDGER:
            return self._target.apply(connection, writes) if writes else []
        claimed = self._target.claim(connection, [write.write_id for write in writes])
        todo = [write for write in writes if write.write_id in claimed]
        receipts = self._target.apply(connection, todo) if todo else []
        by_id = {write.write_id: receipt for write, receipt in zip(todo, receipts, strict=True)}
        without_effect = [name for name, receipt in by_id.items() if receipt.outcome is not Outcome.APPLIED]
        if without_effect:
            self._target.release(connection, without_effect)
        done = Receipt(Outcome.APPLIED, reason=_BY_ANOTHER_ATTEMPT)
        return [by_id.get(write.write_id, done) for write in writes]


def target_of(config: SqlWritebackConfig, columns: Columns, database: Database) -> Target:
    """The dialect's own way to write. Raises ConfigError if a column's type cannot be written."""
    kind = PostgresTarget if database.dialect == "postgresql" else SqliteTarget
    return kind(config, columns, database.engine.dialect, database.zone)
