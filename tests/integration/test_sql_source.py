"""Reading tables: against a real PostgreSQL, and SQLite where it differs."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from connectors.clock import SystemClock
from connectors.contract import Checkable, Comparing, Countable, Rewindable, SourceTask
from connectors.errors import ConfigError, Retriable, SystemFault
from connectors.sql.config import SqlSourceConfig, SqlSystemConfig
from connectors.sql.system import SqlSystem
from schemas.change import Change
from schemas.version import Version, position_of
from tests.conftest import Database

CLOCK = SystemClock()
READ = {"mode": "timestamp+incrementing", "timestamp": "updated_at", "incrementing": "id"}
NAIVE = {"type": "none", "overlap": "0s"}


@pytest.fixture
def engine(database: Database) -> Iterator[sa.Engine]:
    """The people who work with the database."""
    engine = database.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE orders (id bigint PRIMARY KEY, note text, risk float, "
            "updated_at timestamptz NOT NULL DEFAULT now())"
        )
        connection.exec_driver_sql("CREATE INDEX ON orders (updated_at, id)")
    yield engine
    engine.dispose()


@pytest.fixture
def system(database: Database, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlSystem]:
    monkeypatch.setenv("ERP_PASSWORD", database.password)
    system = system_at(database.url, timezone="America/New_York")
    yield system
    system.close()


def system_at(url: str, **settings: Any) -> SqlSystem:
    password = {} if url.startswith("sqlite") else {"password": "${env:ERP_PASSWORD}"}
    built = SqlSystemConfig(name="erp", type="sql", url=url, **password, **settings).build(CLOCK)
    assert isinstance(built, SqlSystem)
    return built


def config_of(**settings: Any) -> SqlSourceConfig:
    return SqlSourceConfig(**{"system": "erp", "table": "orders", "key": ("id",), "read": READ, **settings})


def task_of(
    system: SqlSystem, offset: Any = None, written: frozenset[str] = frozenset(), **settings: Any
) -> SourceTask:
    source = system.source(config_of(**settings), written=written)
    (spec,) = source.tasks()
    task = source.task(spec.name)
    task.open(offset)
    return task


def everything(task: SourceTask, limit: int = 1000) -> list[Change]:
    found: list[Change] = []
    while (batch := task.poll(limit, CLOCK.monotonic() + 20)) is not None:
        found += batch.changes
    return found


def ids(changes: list[Change]) -> list[Any]:
    return [change.key["id"] for change in changes]


def add(engine: sa.Engine, *numbers: int, at: str = "now()") -> None:
    with engine.begin() as connection:
        for number in numbers:
            connection.exec_driver_sql(f"INSERT INTO orders (id, note, updated_at) VALUES ({number}, 'x', {at})")


def eventually(look: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


# Late commits


def test_no_row_of_16_concurrent_writers_is_lost_and_a_naive_poller_loses_some(
    engine: sa.Engine, system: SqlSystem
) -> None:
    """I1: one transaction in twenty takes its time. Bound and overlap (one second) make the difference."""
    guarded, naive = task_of(system), task_of(system, late_commits=NAIVE)
    seen: dict[str, set[Any]] = {"guarded": set(), "naive": set()}
    twice = 0
    many = sa.create_engine(engine.url, pool_size=16)

    def write(number: int) -> None:
        own = random.Random(number)
        for step in range(150):
            with many.begin() as connection:
                connection.exec_driver_sql(f"INSERT INTO orders (id) VALUES ({number * 1000 + step})")
                if own.random() < 0.05:
                    time.sleep(own.uniform(0.05, 0.3))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for name, task in (("guarded", guarded), ("naive", naive)):
            found = ids(everything(task))
            twice += len(seen[name] & set(found))
            seen[name] |= set(found)
    many.dispose()
    for name, task in (("guarded", guarded), ("naive", naive)):
        seen[name] |= set(ids(everything(task)))
    assert len(seen["guarded"]) == 16 * 150
    assert len(seen["naive"]) < 16 * 150
    assert twice == 0


def test_rows_wait_for_a_transaction_that_began_earlier_and_has_written_nothing_yet(
    engine: sa.Engine, system: SqlSystem
) -> None:
    """It has no transaction number, and its time is stamped all the same."""
    task = task_of(system)
    with engine.connect() as early:
        early.exec_driver_sql("SELECT now()")
        add(engine, 1)
        assert everything(task) == []
        early.exec_driver_sql("INSERT INTO orders (id) VALUES (2)")
        early.commit()
    assert sorted(ids(everything(task))) == [1, 2]


def test_a_row_of_a_prepared_transaction_is_read_when_it_is_committed(engine: sa.Engine, system: SqlSystem) -> None:
    """PostgreSQL shows when it was prepared, not when it began: the bound stays where it was before."""
    task = task_of(system)
    add(engine, 1)
    assert ids(everything(task)) == [1]
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("INSERT INTO orders (id) VALUES (2)")
        connection.exec_driver_sql("PREPARE TRANSACTION 'transfer'")
        add(engine, 3)
        assert everything(task) == []
        connection.exec_driver_sql("COMMIT PREPARED 'transfer'")
    assert sorted(ids(everything(task))) == [2, 3]


def test_nothing_is_read_at_a_first_start_while_a_prepared_transaction_exists(
    engine: sa.Engine, system: SqlSystem, caplog: pytest.LogCaptureFixture
) -> None:
    add(engine, 1)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("INSERT INTO orders (id) VALUES (2)")
        connection.exec_driver_sql("PREPARE TRANSACTION 'transfer'")
        task = task_of(system)
        with caplog.at_level(logging.ERROR):
            assert everything(task) == []
        connection.exec_driver_sql("ROLLBACK PREPARED 'transfer'")
    assert "prepared=['transfer']" in caplog.text
    assert ids(everything(task)) == [1]


def test_a_transaction_that_holds_the_bound_for_too_long_is_reported_with_its_owner(
    engine: sa.Engine, system: SqlSystem, caplog: pytest.LogCaptureFixture
) -> None:
    task = task_of(system, late_commits={"max_hold": "10ms"})
    with engine.connect() as early:
        early.exec_driver_sql("SET application_name = 'month-end'")
        early.commit()
        pid = early.exec_driver_sql("SELECT pg_backend_pid()").scalar()

        def told() -> bool:
            everything(task)
            return "bound.held" in caplog.text

        with caplog.at_level(logging.ERROR):
            eventually(told)
    assert f"pid={pid} user=crossdock application='month-end'" in caplog.text


def test_a_row_that_shows_up_a_little_below_the_bound_is_still_read_and_the_others_not_again(
    engine: sa.Engine, system: SqlSystem
) -> None:
    """A transaction's start is stamped before others can see it: the overlap is for that."""
    task = task_of(system)
    add(engine, 1, 2)
    assert ids(everything(task)) == [1, 2]
    add(engine, 3, at="now() - interval '500 ms'")
    assert ids(everything(task)) == [3]


# Pages and offsets


def test_a_thousand_rows_of_one_time_are_read_once_each_over_the_edges_of_pages(
    engine: sa.Engine, system: SqlSystem
) -> None:
    add(engine, *range(1000))
    found = ids(everything(task_of(system), limit=100))
    assert found == list(range(1000))


def test_a_row_is_read_again_for_each_of_its_versions(engine: sa.Engine, system: SqlSystem) -> None:
    task = task_of(system)
    add(engine, 1)
    (first,) = everything(task)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE orders SET note = 'y', updated_at = now()")
    (second,) = everything(task)
    assert second.version > first.version
    assert [(each.after or {})["note"] for each in (first, second)] == ["x", "y"]


def test_after_a_restart_reading_goes_on_at_the_offset_and_the_overlap_has_the_same_ids(
    engine: sa.Engine, system: SqlSystem
) -> None:
    add(engine, *range(250), at="now() - interval '1 hour'")
    add(engine, *range(250, 300))
    task = task_of(system)
    first = task.poll(100, CLOCK.monotonic() + 20)
    second = task.poll(100, CLOCK.monotonic() + 20)
    assert first is not None
    assert second is not None
    again = everything(task_of(system, first.offset))
    assert ids(again)[:100] == ids(second.changes)
    whole = first.changes + second.changes + everything(task)
    last = everything(task_of(system, {**second.offset, "at": [second.offset["bound"]]}))
    assert {change.event_id for change in last} <= {change.event_id for change in whole}
    assert ids(whole) == list(range(300))


def test_a_composite_order_of_text_and_numbers_is_kept_over_pages(engine: sa.Engine, system: SqlSystem) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE parts (plant text, number int, updated_at timestamptz NOT NULL, PRIMARY KEY (plant, number))"
        )
        connection.exec_driver_sql(
            "INSERT INTO parts SELECT chr(65 + mod(g, 3)), g / 3, '2026-01-01' FROM generate_series(0, 29) g"
        )
    task = task_of(
        system, table="parts", key=("plant", "number"), read={"mode": "timestamp", "timestamp": "updated_at"}
    )
    keys = [(change.key["plant"], change.key["number"]) for change in everything(task, limit=4)]
    assert keys == [(plant, number) for plant in "ABC" for number in range(10)]


def test_a_table_in_a_schema_with_names_that_need_quotes_is_read(engine: sa.Engine, system: SqlSystem) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql('CREATE SCHEMA "Sales Dept"')
        connection.exec_driver_sql(
            'CREATE TABLE "Sales Dept"."Order:Line" '
            '("Id" int PRIMARY KEY, "a;b ""c"" :d" text, "At" timestamptz NOT NULL)'
        )
        connection.exec_driver_sql("""INSERT INTO "Sales Dept"."Order:Line" VALUES (1, 'v', now())""")
    # A table name has no blanks in a file; the schema is put on the path instead.
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE {engine.url.database} SET search_path = "Sales Dept", public')
    again = system_at(str(system.database.engine.url.set(password=None)))
    task = task_of(again, table="Order:Line", key=("Id",), read={"timestamp": "At", "incrementing": "Id"})
    (change,) = everything(task)
    again.close()
    assert change.after is not None
    assert change.after['a;b "c" :d'] == "v"


def test_an_offset_of_another_kind_is_refused(system: SqlSystem) -> None:
    with pytest.raises(ConfigError, match="not one of a table's"):
        task_of(system, {"v": 1, "cursor": "x"})


# What a row becomes


def test_every_type_has_its_plain_form(engine: sa.Engine, system: SqlSystem) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TYPE mood AS ENUM ('calm', 'rough')")
        connection.exec_driver_sql(
            "CREATE TABLE all_types (id uuid PRIMARY KEY, amount numeric(10,2), nothing numeric, big bigint, "
            "half real, nan float, flag boolean, day date, clock time, local timestamp, at timestamptz, took interval, "
            "raw bytea, doc jsonb, tags text[], mood mood, net inet, updated_at timestamptz NOT NULL DEFAULT now())"
        )
        connection.exec_driver_sql(
            "INSERT INTO all_types VALUES ('0fe2ef73-fe10-41d8-bb75-fe8c5c810b6e', 12.50, 'NaN', 9007199254740993, "
            "0.5, 'NaN', true, '2026-03-01', '05:15', '2013-07-01 12:00', '2013-07-01 12:00+02', '36 hours', "
            "'\\x00ff', '{\"a\": [1, null]}', '{x,NULL}', 'rough', '10.0.0.1/8')"
        )
    task = task_of(system, table="all_types", read={"timestamp": "updated_at"})
    (change,) = everything(task)
    assert change.after is not None
    assert change.after | {"updated_at": ""} == {
        "id": "0fe2ef73-fe10-41d8-bb75-fe8c5c810b6e",
        "amount": "12.50",
        "nothing": None,
        "big": 9007199254740993,
        "half": 0.5,
        "nan": None,
        "flag": True,
        "day": "2026-03-01",
        "clock": "05:15:00",
        "local": "2013-07-01T16:00:00.000000Z",
        "at": "2013-07-01T10:00:00.000000Z",
        "took": "P1DT43200S",
        "raw": "AP8=",
        "doc": {"a": [1, None]},
        "tags": ["x", None],
        "mood": "rough",
        "net": "10.0.0.1/8",
        "updated_at": "",
    }


def test_what_the_hub_writes_itself_is_no_content_of_a_change(engine: sa.Engine, system: SqlSystem) -> None:
    task = task_of(system, written=frozenset({"risk"}))
    add(engine, 1)
    (first,) = everything(task)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE orders SET risk = 0.5, updated_at = now()")
    (echo,) = everything(task)
    assert echo.event_id != first.event_id
    assert echo.event_id.rpartition("~")[2] == first.event_id.rpartition("~")[2]


def test_sqlite_is_read_with_the_same_words(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'erp.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE orders (id integer PRIMARY KEY, amount numeric(8,2), paid boolean, doc json, "
            "updated_at timestamp NOT NULL)"
        )
        for number in range(30):  # two forms of one time, as SQLite's functions and drivers write them
            at = "2026-01-01 00:00:00" if number % 2 else "2026-01-01 00:00:00.000000"
            connection.exec_driver_sql(f"INSERT INTO orders VALUES ({number}, 1.5, 1, '[1]', '{at}')")
    system = system_at(f"sqlite:///{tmp_path / 'erp.db'}", timezone="UTC")
    changes = everything(task_of(system), limit=7)
    system.close()
    engine.dispose()
    assert sorted(ids(changes)) == list(range(30))
    after = changes[0].after
    assert after is not None
    assert after | {"id": 0} == {
        "id": 0,
        "amount": "1.5",
        "paid": True,
        "doc": [1],
        "updated_at": "2026-01-01T00:00:00.000000Z",
    }


# Trouble


@pytest.mark.parametrize(
    ("settings", "place", "text"),
    [
        ({"table": "order"}, ("table",), "did you mean 'orders'?"),
        ({"key": ("idd",)}, ("key", 0), "did you mean 'id'?"),
        ({"columns": ("id", "notes")}, ("columns", 1), "did you mean 'note'?"),
        ({"read": {"timestamp": "changed_at"}}, ("read", "timestamp"), "unknown column 'changed_at'"),
        ({"read": {"timestamp": "note"}}, ("read", "timestamp"), "a cursor column needs a time"),
        ({"read": {"timestamp": "local"}}, ("read", "timestamp"), "repeats an hour each autumn"),
        ({"key": ("note",)}, ("key",), "not unique"),
        ({"columns": ("id", "place")}, ("columns", 1), "leave the column out"),
    ],
)
def test_a_source_that_does_not_fit_is_a_problem_with_its_place(
    engine: sa.Engine, system: SqlSystem, settings: dict[str, Any], place: tuple[Any, ...], text: str
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE orders ADD local timestamp, ADD place point")
    base = {"columns": ("id", "note", "local"), **settings}
    source = system.source(config_of(**base), written=frozenset())
    assert isinstance(source, Checkable)
    (problem, *_) = source.check().problems
    assert problem.path == place
    assert text in problem.message


def test_rows_without_a_time_are_a_problem_as_they_would_never_be_read(engine: sa.Engine, system: SqlSystem) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE orders ALTER updated_at DROP NOT NULL")
        connection.exec_driver_sql("INSERT INTO orders VALUES (1, 'x', 0, NULL)")
    source = system.source(config_of(), written=frozenset())
    assert isinstance(source, Checkable)
    assert "null in some rows" in source.check().problems[0].message


def test_a_user_who_cannot_see_all_transactions_is_refused_with_the_grant(
    database: Database, engine: sa.Engine, system: SqlSystem
) -> None:
    user = f"reader_{database.name}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {user} LOGIN PASSWORD '{database.password}'")
        connection.exec_driver_sql(f"GRANT SELECT ON orders TO {user}")
    limited = system_at(database.url.replace("crossdock@", f"{user}@"))
    source = limited.source(config_of(), written=frozenset())
    assert isinstance(source, Checkable)
    assert source.check().problems[0].message.endswith(f"GRANT pg_read_all_stats TO {user}")
    with pytest.raises(ConfigError, match="GRANT pg_read_all_stats"):
        task_of(limited)
    limited.close()


def test_a_wrong_password_and_a_missing_database_are_the_systems_fault(
    database: Database, system: SqlSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = system_at(database.url + "_not_there")
    with pytest.raises(SystemFault, match="does not exist"):
        task_of(elsewhere)
    elsewhere.close()
    monkeypatch.setenv("ERP_PASSWORD", "a wrong one")
    refused = system_at(database.url)
    with pytest.raises(SystemFault, match="authentication failed") as caught:
        task_of(refused)
    refused.close()
    assert "a wrong one" not in str(caught.value) + caught.value.detail


def test_a_database_that_is_away_is_waited_for() -> None:
    system = SqlSystemConfig(name="erp", type="sql", url="postgresql://crossdock@127.0.0.1:1/erp").build(CLOCK)
    source = system.source(config_of(), written=frozenset())
    with pytest.raises(Retriable):
        source.task("erp.orders").open(None)
    system.close()


def test_a_table_that_goes_away_is_the_systems_fault_and_reading_goes_on_when_it_is_back(
    engine: sa.Engine, system: SqlSystem
) -> None:
    task = task_of(system)
    add(engine, 1)
    assert ids(everything(task)) == [1]
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE orders RENAME TO old_orders")
    with pytest.raises(SystemFault, match='relation "orders" does not exist'):
        everything(task)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE old_orders RENAME TO orders")
    add(engine, 2)
    assert ids(everything(task)) == [2]


def test_a_time_that_no_program_can_read_stops_the_source_and_loses_nothing(
    engine: sa.Engine, system: SqlSystem
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE orders ADD due timestamptz DEFAULT 'infinity'")
    task = task_of(system)
    add(engine, 1)
    with pytest.raises(SystemFault):
        everything(task)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE orders SET due = now()")
    assert ids(everything(task)) == [1]


def test_an_hour_old_clock_is_no_part_of_it(engine: sa.Engine, system: SqlSystem) -> None:
    """The bound is the database's own time; the worker's clock is never compared with rows."""
    task = task_of(system)
    moment = datetime.now(UTC) + timedelta(hours=1)
    add(engine, 1, at=f"'{moment.isoformat()}'")
    assert everything(task) == []
    add(engine, 2)
    assert ids(everything(task)) == [2]


# Moving an offset


def test_rows_between_two_offsets_are_counted_and_a_time_is_an_offset(engine: sa.Engine, system: SqlSystem) -> None:
    """Also where several rows have one time: the order columns tell them apart."""
    add(engine, 1, 2, 3, at="'2026-01-01 10:00Z'")
    add(engine, 4, 5, at="'2026-01-01 11:00Z'")
    task = task_of(system, late_commits=NAIVE)
    assert isinstance(task, Countable)
    assert isinstance(task, Rewindable)
    first = task.poll(2, CLOCK.monotonic() + 20)
    assert first is not None
    later = task.offset_at(datetime(2026, 1, 1, 11, 0, tzinfo=UTC))
    end = CLOCK.monotonic() + 20
    assert task.count_between(None, None, end) == 5
    assert task.count_between(None, first.offset, end) == 2
    assert task.count_between(first.offset, None, end) == 3
    assert task.count_between(first.offset, later, end) == 1
    assert task.count_between(later, first.offset, end) == 0
    assert ids(everything(task_of(system, later, late_commits=NAIVE))) == [4, 5]


def test_a_time_finds_rows_of_that_second_in_sqlite_with_and_without_fractions(tmp_path: Path) -> None:
    system = system_at(f"sqlite:///{tmp_path / 'x.db'}", timezone="UTC")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id integer PRIMARY KEY, note text, updated_at timestamp)")
        for number, at in enumerate(("09:59:59.999", "10:00:00", "10:00:00.000", "10:00:00.500"), 1):
            connection.exec_driver_sql(f"INSERT INTO orders VALUES ({number}, 'x', '2026-01-01 {at}')")
    task = task_of(system)
    assert isinstance(task, Rewindable)
    offset = task.offset_at(datetime(2026, 1, 1, 10, 0, tzinfo=UTC))
    assert ids(everything(task_of(system, offset, late_commits=NAIVE))) == [2, 3, 4]
    engine.dispose()
    system.close()


def test_a_table_whose_newest_row_is_older_than_what_was_read_has_gone_back(
    engine: sa.Engine, system: SqlSystem
) -> None:
    """Less the overlap; and an empty table tells nothing."""
    task = task_of(system)
    assert isinstance(task, Comparing)
    noon = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    newest = str(Version(1, position_of(noon)))
    assert task.went_back(newest, CLOCK.monotonic() + 20) is None
    add(engine, 1, at="'2026-01-01 11:59:58.9Z'")
    said = task.went_back(newest, CLOCK.monotonic() + 20)
    assert said == (
        "the newest updated_at is 2026-01-01T11:59:58.900000Z, and 2026-01-01T12:00:00.000000Z was read before"
    )
    add(engine, 2, at="'2026-01-01 11:59:59Z'")
    assert task.went_back(newest, CLOCK.monotonic() + 20) is None
