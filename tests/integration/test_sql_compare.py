"""What a table says that it holds: the same counts and sums as its events give, wherever they are computed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from connectors.buckets import bucketed, everything, key_text, within, without_cause
from connectors.clock import SystemClock
from connectors.contract import Held, KeyRange
from connectors.sql.config import SqlSourceConfig, SqlSystemConfig, SqlWritebackConfig
from connectors.sql.system import SqlSystem
from schemas.change import Change
from schemas.write import Write
from tests.conftest import Database

CLOCK = SystemClock()
KEY = ("shop", "number")
SHOPS = ("Zürich", "a:b", "x y", "東京")
ROWS = 400


@pytest.fixture(params=["postgresql", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Place"]:
    if request.param == "sqlite":
        place = Place(sa.create_engine(f"sqlite:///{tmp_path / 'erp.db'}"), f"sqlite:///{tmp_path / 'erp.db'}")
    else:
        database: Database = request.getfixturevalue("database")
        monkeypatch.setenv("ERP_PASSWORD", database.password)
        place = Place(database.engine(), database.url)
    yield place
    place.end()


class Place:
    """Orders of shops, and a copy of them that the hub writes."""

    def __init__(self, engine: sa.Engine, url: str) -> None:
        self.engine = engine
        kind = "timestamp" if engine.dialect.name == "sqlite" else "timestamptz"
        columns = (
            "shop text, number int, amount int, at {} NOT NULL, plain timestamp NOT NULL, PRIMARY KEY (shop, number)"
        )
        self.run(f"CREATE TABLE orders ({columns.format(kind)})")
        self.run("CREATE TABLE copies (branch text, no bigint, amount int, rev text, PRIMARY KEY (branch, no))")
        with engine.begin() as connection:
            for number in range(ROWS):
                at = f"2026-01-01 00:{number // 60:02d}:{number % 60:02d}.{number:06d}"
                row = f"('{SHOPS[number % 4]}', {number}, {number}, '{at}', '{at}')"
                connection.exec_driver_sql(f"INSERT INTO orders VALUES {row}")
        password = {} if url.startswith("sqlite") else {"password": "${env:ERP_PASSWORD}"}
        built = SqlSystemConfig(name="erp", type="sql", url=url, timezone="UTC", **password).build(CLOCK)
        assert isinstance(built, SqlSystem)
        self.system = built

    def run(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def source(self, cursor: str = "at") -> Any:
        read = {"mode": "timestamp", "timestamp": cursor}
        config = SqlSourceConfig(system="erp", table="orders", key=KEY, read=read)
        return self.system.source(config, written=frozenset({"amount"}))

    def sink(self, **settings: Any) -> Any:
        config = {
            "system": "erp",
            "upsert": "copies",
            "match": {"no": "key.number", "branch": "key.shop"},
            "set": {"amount": "amount"},
            "version": {"column": "rev", "rule": "newer"},
            "idempotency": "natural",
        }
        sink = self.system.sink(SqlWritebackConfig(**{**config, **settings}), prefix="hub")
        sink.open()
        return sink

    def changes(self, cursor: str = "at") -> list[Change]:
        source = self.source(cursor)
        task = source.task(source.tasks()[0].name)
        task.open(None)
        batch = task.poll(ROWS + 1, later())
        task.close()
        assert batch is not None
        return list(batch.changes)

    def end(self) -> None:
        self.system.close()
        self.engine.dispose()


def later() -> float:
    return CLOCK.monotonic() + 60


def as_held(changes: Sequence[Change]) -> list[Held]:
    return [Held((each.key["shop"], each.key["number"]), without_cause(each.version)) for each in changes]


def copied(place: Place, changes: Sequence[Change]) -> None:
    writes = [
        Write(
            write_id=each.event_id,
            key={"branch": each.key["shop"], "no": each.key["number"]},
            fields={"amount": (each.after or {})["amount"]},
            version=each.version,
        )
        for each in changes
    ]
    place.sink().put(writes, later())


@pytest.mark.parametrize("cursor", ["at", "plain"])
def test_a_source_says_the_same_as_its_changes(place: Place, cursor: str) -> None:
    changes = as_held(place.changes(cursor))
    source, whole = place.source(cursor), everything(KEY)
    assert source.digest(whole, later()) == bucketed(changes, whole)
    part = whole._replace(start=3 << 24, end=9 << 24, buckets=128)
    assert source.digest(part, later()) == bucketed(changes, part)
    assert sorted(source.held(part, later())) == sorted(within(changes, part))
    assert within(changes, part)


def test_records_from_a_version_on_are_left_out(place: Place) -> None:
    changes = as_held(place.changes())
    below = sorted(each.version for each in changes)[100]
    whole = everything(KEY, below)
    assert sum(each.records for each in place.source().digest(whole, later())) == 100
    assert place.source().digest(whole, later()) == bucketed(changes, whole)


def test_a_target_that_holds_our_versions_says_the_same_as_the_source(place: Place) -> None:
    changes = place.changes()
    copied(place, changes)
    place.run("INSERT INTO copies VALUES ('of another', 1, 1, NULL)")
    sink, theirs = place.sink(), everything(("branch", "no"))
    assert sink.capabilities.comparable
    assert sink.digest(theirs, later()) == place.source().digest(everything(KEY), later())
    assert sorted(sink.held(theirs, later())) == sorted(as_held(changes))
    below = sorted(each.version for each in as_held(changes))[100]
    bounded = KeyRange(("branch", "no"), theirs.start, theirs.end, 256, below)
    assert sink.digest(bounded, later()) == place.source().digest(everything(KEY, below), later())


def test_only_a_column_with_our_versions_can_be_compared(place: Place) -> None:
    assert not place.sink(version=None, idempotency="ledger").capabilities.comparable
    version = {"column": "rev", "rule": "newer", "value": "amount"}
    assert not place.sink(version=version).capabilities.comparable


def test_a_changed_row_is_in_one_bucket_that_differs(place: Place) -> None:
    copied(place, place.changes())
    place.run("UPDATE copies SET rev = '0001.00000000000000000001.0000' WHERE no = 7")
    place.run("DELETE FROM copies WHERE no = 8")
    pairs = zip(
        place.source().digest(everything(KEY), later()),
        place.sink().digest(everything(("branch", "no")), later()),
        strict=True,
    )
    unequal = {mine.start for mine, theirs in pairs if mine != theirs}
    assert len(unequal) == 2


def test_the_values_of_writes_are_compared_by_the_database(place: Place) -> None:
    changes = place.changes()[:3]
    copied(place, changes)
    place.run("UPDATE copies SET amount = 99 WHERE no = 1")
    place.run("DELETE FROM copies WHERE no = 2")
    writes = [
        Write(each.event_id, {"branch": each.key["shop"], "no": each.key["number"]}, {"amount": number}, each.version)
        for number, each in enumerate(changes)
    ]
    assert place.sink().holds(writes, later()) == [True, False, None]


def test_single_records_are_read_again_under_the_ids_that_they_have(place: Place) -> None:
    changes = place.changes()
    keys = [changes[5].key, {"shop": "nowhere", "number": 1}, changes[2].key]
    assert place.source().reread(keys, later()) == [changes[5], None, changes[2]]


def test_a_source_tells_how_far_it_was_read(place: Place) -> None:
    source = place.source()
    assert source.passed({"v": 1, "at": None, "bound": None}, later()) is None
    time = "2026-01-01T00:00:05.000005Z"
    stored = time if place.engine.dialect.name == "postgresql" else "2026-01-01 00:00:05.000005"
    within_a_look = source.passed({"v": 1, "at": [stored, "x y", 5], "bound": None}, later())
    finished = source.passed({"v": 1, "at": [stored], "bound": time}, later())
    version = without_cause(next(each.version for each in place.changes() if each.key["number"] == 5))
    assert (finished.below, finished.time) == (version, time)
    assert within_a_look.below > version, "the last row that was read is part of it"


def test_a_key_is_one_text_for_a_number_and_for_a_text_that_spells_it() -> None:
    assert key_text([17, "x"]) == key_text(["17", "x"]) != key_text(["1", "7x"])
