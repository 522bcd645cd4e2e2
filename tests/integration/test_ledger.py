"""The ledger is pruned: old ids go in small steps beside the writes, once an hour, and never another hub's."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from connectors.clock import SystemClock
from connectors.contract import Checkable, SinkTask
from connectors.sql.config import LONGEST_REDELIVERY, SqlSystemConfig, SqlWritebackConfig
from connectors.sql.ledger import CHUNK, EVERY, INDEX
from connectors.sql.system import SqlSystem
from schemas.outcome import Outcome
from schemas.write import Write
from streams.topics import PipelineTopics
from tests.conftest import Database


class HastyClock(SystemClock):
    """The machine's time, and what a test adds to it."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Place:
    """A table of orders, and hubs that write into it."""

    def __init__(self, engine: sa.Engine, url: str, secret: dict[str, str]) -> None:
        self.engine, self.url, self._secret = engine, url, secret
        self.clock, self._systems = HastyClock(), list[SqlSystem]()
        self.sqlite = engine.dialect.name == "sqlite"
        self.run("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
        self.run("INSERT INTO orders VALUES (1, 'old')")

    def run(self, statement: str) -> Any:
        with self.engine.begin() as connection:
            answer = connection.exec_driver_sql(statement)
            return answer.all() if answer.returns_rows else []

    def hub(self, prefix: str = "hub", **settings: Any) -> SinkTask:
        """A worker of its own: nothing is shared with another but the database."""
        config = SqlSystemConfig.model_validate(
            {"name": "erp", "type": "sql", "url": self.url, **self._secret, **settings}
        )
        self._systems.append(SqlSystem(config, self.clock))
        block = {"system": "erp", "update": "orders", "match": {"id": "i"}, "set": {"note": "n"}}
        sink = self._systems[-1].sink(SqlWritebackConfig(**block, idempotency="ledger"), prefix=prefix)
        sink.open()
        return sink

    def old_rows(self, count: int, prefix: str = "hub", days: float = 31) -> None:
        series = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        ago = f"datetime('now', '-{days} days')" if self.sqlite else f"now() - interval '{days} days'"
        ids = f"'{prefix}/p/w/{days}/' || i || '/live'"
        self.run(f"INSERT INTO crossdock_applied {series} SELECT {ids}, {ago} FROM n")

    def rows(self, prefix: str = "hub") -> int:
        """Rows of writes; the mark of the last pruning is none."""
        found = self.run(f"SELECT count(*) FROM crossdock_applied WHERE write_id LIKE '{prefix}/p/%%'")
        return int(found[0][0])

    def put(self, sink: SinkTask, note: str) -> None:
        (receipt,) = sink.put(
            [Write(f"hub/p/w/{note}/live", {"id": 1}, {"note": note}, "1")], self.clock.monotonic() + 20
        )
        assert receipt.outcome is Outcome.APPLIED

    def an_hour_later(self) -> None:
        self.clock.ahead += EVERY.total_seconds() + 1
        ago = "datetime('now', '-61 minutes')" if self.sqlite else "now() - interval '61 minutes'"
        self.run(f"UPDATE crossdock_applied SET applied_at = {ago} WHERE write_id LIKE '%%//pruned'")

    def end(self) -> None:
        for system in self._systems:
            system.close()
        self.engine.dispose()


@pytest.fixture(params=["postgresql", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'erp.db'}"
        made = Place(sa.create_engine(url), url, {})
    else:
        database: Database = request.getfixturevalue("database")
        monkeypatch.setenv("ERP_PASSWORD", database.password)
        made = Place(database.engine(), database.url, {"password": "${env:ERP_PASSWORD}"})
    yield made
    made.end()


def test_old_ids_go_in_steps_beside_the_writes_and_young_ones_stay(place: Place) -> None:
    sink = place.hub()
    place.old_rows(2 * CHUNK + 10)
    place.old_rows(20, days=29)
    left = []
    for turn in range(5):
        place.put(sink, f"n{turn}")
        left.append(place.rows() - (turn + 1))
    assert left == [CHUNK + 10 + 20, 10 + 20, 20, 20, 20]


def test_one_worker_prunes_in_an_hour_whoever_comes_first(place: Place) -> None:
    first, second = place.hub(), place.hub()
    place.put(first, "a")
    place.old_rows(5)
    place.put(second, "b")
    place.put(first, "c")
    assert place.rows() == 3 + 5, "the hour has just begun"
    place.an_hour_later()
    place.put(second, "d")
    assert place.rows() == 4
    place.old_rows(5)
    place.put(first, "e")
    assert place.rows() == 5 + 5, "another did it a moment ago"


def test_two_hubs_on_one_target_never_prune_each_others_rows(place: Place) -> None:
    hub, other = place.hub("hub"), place.hub("hub2")
    place.old_rows(3, "hub")
    place.old_rows(4, "hub2")
    place.put(hub, "a")
    assert (place.rows("hub"), place.rows("hub2")) == (1, 4)
    place.put(other, "b")
    assert (place.rows("hub"), place.rows("hub2")) == (2, 0)


def test_a_ledger_that_cannot_be_pruned_never_fails_a_write(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    sink = place.hub()
    place.old_rows(3)
    locked = sa.create_engine(place.engine.url)
    with locked.connect() as other:
        if place.sqlite:
            other.exec_driver_sql("CREATE TRIGGER keep BEFORE DELETE ON crossdock_applied BEGIN "
                                  "SELECT RAISE(ABORT, 'kept'); END")  # fmt: skip
        else:
            other.exec_driver_sql("SELECT * FROM crossdock_applied FOR UPDATE")
        place.put(sink, "a")
        place.put(sink, "b")
        other.rollback()
    locked.dispose()
    assert place.rows() == 2 + 3
    assert caplog.text.count("ledger.unpruned system=erp") == 1, "not again at once"


def test_the_oldest_ids_are_found_by_an_index(place: Place) -> None:
    place.hub()
    fresh = sa.create_engine(place.engine.url)  # an older connection of SQLite answers out of its memory
    assert INDEX in [index["name"] for index in sa.inspect(fresh).get_indexes("crossdock_applied")]
    fresh.dispose()


def test_ids_are_kept_longer_than_events_can_come_again() -> None:
    assert PipelineTopics.of("hub", "p", 1).enriched.retention == LONGEST_REDELIVERY
    block = {"name": "erp", "type": "sql", "url": "sqlite://", "ledger": {"keep": "7d"}}
    with pytest.raises(ValidationError, match="more than 7d: an event that comes again would be applied again"):
        SqlSystemConfig.model_validate(block)
    assert SqlSystemConfig.model_validate({**block, "ledger": {"keep": "8d"}}).ledger.keep == timedelta(days=8)


def test_check_names_the_rights_to_the_ledger_that_are_missing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_PASSWORD", database.password)
    place = Place(database.engine(), database.url, {"password": "${env:ERP_PASSWORD}"})
    place.hub()
    user = f"writer_{database.name}"
    place.run(f"CREATE ROLE {user} LOGIN PASSWORD '{database.password}'")
    place.run(f"GRANT SELECT, UPDATE ON orders TO {user}")
    place.run(f"GRANT SELECT ON crossdock_applied TO {user}")
    place.url = database.url.replace("crossdock@", f"{user}@")
    sink = place.hub()
    assert isinstance(sink, Checkable)
    (problem,) = sink.check().problems
    assert problem.message == f"no right to the ledger: GRANT INSERT, DELETE ON crossdock_applied TO {user}"
    place.end()
