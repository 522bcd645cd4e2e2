"""Writing rows: against a real PostgreSQL and SQLite, with the failures that a database really has."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from connectors.clock import SystemClock
from connectors.contract import Checkable, Readable, SinkTask
from connectors.errors import ConfigError, CrossdockError, Rejected, Retriable, SystemFault, Unknown
from connectors.refusals import is_suspected
from connectors.retry import Retrying
from connectors.sql.config import SqlSystemConfig, SqlWritebackConfig
from connectors.sql.system import SqlSystem
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.write import Write
from tests.conftest import Database
from tests.proxy import Proxy

CLOCK = SystemClock()
EQUALS = {"column": "updated_at", "rule": "equals"}
ORDERS = """
    CREATE TABLE orders (id bigint PRIMARY KEY, risk double precision CHECK (risk BETWEEN 0 AND 1), note varchar(5),
                         rev text, updated_at {time} NOT NULL)
"""


@pytest.fixture(params=["postgresql", "sqlite"])
def both(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Place"]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'erp.db'}"
        place = Place(sa.create_engine(url), url)
    else:
        place = _place(request.getfixturevalue("database"), monkeypatch)
    yield place
    place.end()


@pytest.fixture
def postgresql(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator["Place"]:
    place = _place(database, monkeypatch)
    yield place
    place.end()


def _place(database: Database, monkeypatch: pytest.MonkeyPatch) -> "Place":
    monkeypatch.setenv("ERP_PASSWORD", database.password)
    return Place(database.engine(), database.url)


class Place:
    """A table of orders, the people who work with it, and the hub's system."""

    def __init__(self, engine: sa.Engine, url: str) -> None:
        self.engine, self.url = engine, url
        self._systems: list[SqlSystem] = []
        kind = "timestamp" if engine.dialect.name == "sqlite" else "timestamptz"
        self.run(ORDERS.format(time=kind))
        for number in range(1, 10):
            self.run(f"INSERT INTO orders VALUES ({number}, NULL, 'old', NULL, '2026-01-01 00:00:00')")

    def run(self, statement: str) -> Sequence[Any]:
        with self.engine.begin() as connection:
            answer = connection.exec_driver_sql(statement)
            return answer.all() if answer.returns_rows else []

    def system(self, url: str | None = None, **settings: Any) -> SqlSystem:
        password = {} if self.url.startswith("sqlite") else {"password": "${env:ERP_PASSWORD}"}
        config = SqlSystemConfig(name="erp", type="sql", url=url or self.url, timezone="UTC", **password, **settings)
        system = config.build(CLOCK)
        assert isinstance(system, SqlSystem)
        self._systems.append(system)
        return system

    def sink(self, system: SqlSystem | None = None, **settings: Any) -> SinkTask:
        sink = (system or self.system()).sink(config_of(**settings), prefix="hub")
        sink.open()
        return sink

    def ledger(self) -> list[str]:
        """Ids of writes; the mark of the last pruning is none."""
        found = [each for (each,) in self.run("SELECT write_id FROM crossdock_applied ORDER BY 1")]
        return [each for each in found if not each.endswith("//pruned")]

    def end(self) -> None:
        for system in self._systems:
            system.close()
        self.engine.dispose()


def config_of(**settings: Any) -> SqlWritebackConfig:
    base: dict[str, Any] = {
        "system": "erp",
        "match": {"id": "key.id"},
        "set": {"risk": "answer.risk", "note": "answer.note"},
        "idempotency": "ledger",
    }
    verb = {} if {"upsert", "insert"} & settings.keys() else {"update": "orders"}
    return SqlWritebackConfig(**{**base, **verb, **settings})


def write(
    number: int, risk: Any, note: Any = "new", *, expected: Any = None, version: int = 1, name: str = ""
) -> Write:
    return Write(
        write_id=name or f"hub/p/w/erp/orders/{number}@{version}~00000000/live",
        key={"id": number},
        fields={"risk": risk, "note": note},
        version=f"0001.{version:020d}.0000",
        expected=expected,
    )


READ_AT = "2026-01-01T00:00:00.000000Z"


def put(sink: SinkTask, *writes: Write, seconds: float = 20) -> list[Receipt]:
    return sink.put(writes, CLOCK.monotonic() + seconds)


def outcomes(receipts: Sequence[Receipt]) -> list[Outcome]:
    return [receipt.outcome for receipt in receipts]


def rows(place: Place, columns: str = "id, risk, note", where: str = "risk IS NOT NULL") -> list[tuple[Any, ...]]:
    return [tuple(row) for row in place.run(f"SELECT {columns} FROM orders WHERE {where} ORDER BY id")]


# Outcomes


def test_one_batch_ends_in_as_many_outcomes_as_there_are_and_the_rest_is_applied(both: Place) -> None:
    """A constraint, a value of another type, a row that is not there, a version that is not the one that was read."""
    both.run("UPDATE orders SET risk = 0.4, note = 'new' WHERE id = 4")
    sink = both.sink(version=EQUALS)
    receipts = put(
        sink,
        write(1, 0.1, expected=READ_AT),
        write(2, 1.5, expected=READ_AT),
        write(3, 0.3, expected="2025-01-01T00:00:00.000000Z"),
        write(4, 0.4, expected=READ_AT),
        write(99, 0.9, expected=READ_AT),
        write(5, 0.5, None, expected=READ_AT),
    )
    assert outcomes(receipts) == [
        Outcome.APPLIED,
        Outcome.REJECTED,
        Outcome.CONFLICT,
        Outcome.UNCHANGED,
        Outcome.REJECTED,
        Outcome.APPLIED,
    ]
    assert rows(both) == [(1, 0.1, "new"), (4, 0.4, "new"), (5, 0.5, None)]
    assert receipts[1].code in {"23514", "SQLITE_CONSTRAINT_CHECK"}
    assert receipts[4].code == "missing"
    assert receipts[2].target_version == READ_AT


def test_a_repeated_write_that_found_nothing_to_change_is_unchanged_again(both: Place) -> None:
    """The ledger holds effects alone: a receipt never claims one that the target did not see."""
    both.run("UPDATE orders SET risk = 0.4, note = 'new' WHERE id = 4")
    sink = both.sink()
    assert outcomes(put(sink, write(4, 0.4))) == outcomes(put(sink, write(4, 0.4))) == [Outcome.UNCHANGED]
    assert both.ledger() == []


def test_conflicts_and_refusals_leave_no_row_in_the_ledger(both: Place) -> None:
    sink = both.sink(version=EQUALS)
    put(
        sink,
        write(1, 0.1, expected=READ_AT),
        write(2, 1.5, expected=READ_AT),
        write(3, 0.3, expected="2025-01-01T00:00:00Z"),
    )
    assert both.ledger() == [write(1, 0.1).write_id]


def test_a_repeated_write_has_no_second_effect_even_if_the_row_was_changed_back(both: Place) -> None:
    """I2."""
    sink = both.sink()
    put(sink, write(1, 0.1))
    both.run("UPDATE orders SET risk = NULL, note = 'back' WHERE id = 1")
    (again,) = put(sink, write(1, 0.1))
    assert again.outcome is Outcome.APPLIED
    assert "earlier attempt" in (again.reason or "")
    assert rows(both, "id, risk, note", "id = 1") == [(1, None, "back")]


def test_a_conflict_can_be_tried_again_with_the_version_as_read(both: Place) -> None:
    sink = both.sink(version=EQUALS)
    both.run("UPDATE orders SET updated_at = '2026-02-02 02:02:02.5' WHERE id = 1")
    (first,) = put(sink, write(1, 0.1, expected=READ_AT))
    assert first.outcome is Outcome.CONFLICT
    assert isinstance(sink, Readable)
    (record, nobody) = sink.read([{"id": 1}, {"id": 77}], CLOCK.monotonic() + 10)
    assert record == {"id": 1, "risk": None, "note": "old", "@version": "2026-02-02T02:02:02.500000Z"}
    assert nobody is None
    assert outcomes(put(sink, write(1, 0.1, expected=record["@version"]))) == [Outcome.APPLIED]


def test_an_older_version_is_stale_and_the_newest_moves_the_version_even_without_other_values(both: Place) -> None:
    """I3."""
    newer = {"column": "rev", "rule": "newer"}
    sink = both.sink(version=newer, idempotency="natural")
    assert outcomes(put(sink, write(1, 0.1, version=1))) == [Outcome.APPLIED]
    assert outcomes(put(sink, write(1, 0.1, version=3))) == [Outcome.APPLIED]
    assert outcomes(put(sink, write(1, 0.2, version=2))) == [Outcome.STALE]
    assert outcomes(put(sink, write(1, 0.2, version=3))) == [Outcome.STALE]
    assert outcomes(put(sink, write(1, 0.1, version=3))) == [Outcome.UNCHANGED], "our own, of an earlier attempt"
    assert outcomes(put(sink, write(1, 0.1, version=2))) == [Outcome.UNCHANGED]
    assert rows(both, "risk, rev") == [(0.1, "0001.00000000000000000003.0000")]


def test_upsert_adds_what_is_missing_and_leaves_what_is_there_already(both: Place) -> None:
    both.run("ALTER TABLE orders ADD made text")
    both.run("CREATE TABLE scores (id bigint PRIMARY KEY, risk float, note text)")
    sink = both.sink(upsert="scores")
    assert outcomes(put(sink, write(1, 0.1), write(2, 0.2))) == [Outcome.APPLIED, Outcome.APPLIED]
    assert outcomes(put(sink, write(2, 0.2, version=2), write(1, 0.5, version=2))) == [
        Outcome.UNCHANGED,
        Outcome.APPLIED,
    ]
    assert [tuple(row) for row in both.run("SELECT id, risk FROM scores ORDER BY id")] == [(1, 0.5), (2, 0.2)]


def test_insert_refuses_what_is_there_and_adds_the_rest(both: Place) -> None:
    both.run("CREATE TABLE scores (id bigint PRIMARY KEY, risk float, note text)")
    sink = both.sink(insert="scores")
    put(sink, write(1, 0.1))
    receipts = put(sink, write(1, 0.1), write(1, 0.7, name="other"), write(2, 0.2))
    assert outcomes(receipts) == [Outcome.APPLIED, Outcome.REJECTED, Outcome.APPLIED]
    assert both.run("SELECT count(*) FROM scores")[0][0] == 2


def test_a_null_in_a_key_adds_a_row_once_where_rows_are_added_and_none_where_they_are_named(both: Place) -> None:
    """I2: what the answer does not show must not be taken for what did not happen."""
    both.run("CREATE TABLE scores (id bigint, risk float, note text, UNIQUE (id))")
    nobody = Write("hub/p/w/x@1/live", {"id": None}, {"risk": 0.1, "note": "new"}, "1")
    assert outcomes(put(both.sink(insert="scores", idempotency="none"), nobody)) == [Outcome.APPLIED]
    (refused,) = put(both.sink(upsert="scores"), nobody)
    assert (refused.outcome, refused.code) == (Outcome.REJECTED, "key")
    assert both.run("SELECT count(*) FROM scores")[0][0] == 1


def test_a_row_that_a_trigger_leaves_out_is_refused_alone(postgresql: Place) -> None:
    postgresql.run("CREATE TABLE scores (id bigint, risk float, note text)")
    postgresql.run(
        "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.id = 2 THEN RETURN NULL; END IF; RETURN NEW; END'"
    )
    postgresql.run("CREATE TRIGGER out BEFORE INSERT ON scores FOR EACH ROW EXECUTE FUNCTION leave_out()")
    receipts = put(postgresql.sink(insert="scores"), write(1, 0.1), write(2, 0.2), write(3, 0.3))
    assert outcomes(receipts) == [Outcome.APPLIED, Outcome.REJECTED, Outcome.APPLIED]
    assert (receipts[1].code, len(postgresql.ledger())) == ("not-added", 2)


FOUND = {"insert": "scores", "idempotency": "readback"}


@pytest.mark.parametrize(("form", "kind"), [("text", "varchar(255)"), ("uuid", "uuid")])
def test_an_insert_that_can_be_found_is_not_repeated_whatever_its_answer_was(both: Place, form: str, kind: str) -> None:
    """I2: looked for by its reference, before the first send too."""
    both.run(
        f"CREATE TABLE scores (nr integer PRIMARY KEY, id bigint, risk float, note text, ref {kind})"
        if both.engine.dialect.name == "sqlite"
        else f"CREATE TABLE scores (nr serial PRIMARY KEY, id bigint, risk float, note text, ref {kind})"
    )
    sink = Retrying(both.sink(**FOUND, reference={"field": "ref", "form": form}), CLOCK)
    assert outcomes(put(sink, write(1, 0.1), write(2, 0.2))) == [Outcome.APPLIED] * 2
    again = put(sink, write(1, 0.1), write(2, 0.2), write(1, 0.3, version=2))
    assert outcomes(again) == [Outcome.APPLIED] * 3
    assert "earlier attempt" in (again[0].reason or "")
    found = [(int(number), risk) for number, risk in both.run("SELECT id, risk FROM scores ORDER BY nr")]
    assert found == [(1, 0.1), (2, 0.2), (1, 0.3)]


def test_an_insert_whose_commit_had_no_answer_is_found_and_a_none_one_is_in_doubt(postgresql: Place) -> None:
    """I2: no key, no ledger; both ways without a second row."""
    postgresql.run("CREATE TABLE scores (nr serial, id bigint, risk float, note text, ref text)")
    with Proxy.before(postgresql.engine.url) as proxy:
        system = postgresql.system(proxy.url_of(postgresql.url))
        found = Retrying(postgresql.sink(system, **FOUND, reference={"field": "ref"}), CLOCK, base=0.01)
        proxy.cut_answer_to(b"COMMIT\0")
        (receipt,) = put(found, write(1, 0.1))
        assert (receipt.outcome, receipt.attempts) == (Outcome.APPLIED, 1)
        lost = Retrying(postgresql.sink(system, insert="scores", idempotency="none"), CLOCK, base=0.01)
        proxy.cut_answer_to(b"COMMIT\0")
        assert outcomes(put(lost, write(2, 0.2), write(3, 0.3))) == [Outcome.UNKNOWN] * 2
    assert [each for (each,) in postgresql.run("SELECT id FROM scores ORDER BY id")] == [1, 2, 3]


def test_what_holds_for_each_class_is_said_and_a_column_that_is_too_short_is_a_problem(both: Place) -> None:
    both.run("CREATE TABLE scores (id bigint, risk float, note text, ref varchar(36) UNIQUE, free varchar(255))")

    def said(**settings: Any) -> str:
        sink = both.system().sink(config_of(**settings), prefix="hub")
        assert isinstance(sink, Checkable)
        return sink.check().guarantees[0]

    newer = {"column": "rev", "rule": "newer"}
    assert said() == "I2 holds: a repeated write finds its id in crossdock_applied, in the same transaction"
    assert said(version=newer, idempotency="natural") == "I2 holds: a repeated write finds its own version in rev"
    assert said(version=EQUALS, idempotency="natural").startswith("I2 holds if updated_at moves with every change")
    assert said(**FOUND, reference={"field": "ref", "form": "uuid"}).endswith("and ref is unique")
    assert "for one sender at a time" in said(**FOUND, reference={"field": "free"})
    assert "in doubt" in said(insert="scores", idempotency="none")
    sink = both.system().sink(config_of(**FOUND, reference={"field": "ref"}), prefix="hub")
    assert isinstance(sink, Checkable)
    assert "takes 36 characters, and 255 are needed; `form: uuid`" in next(
        problem.message for problem in sink.check().problems if problem.path == ("reference", "field")
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"idempotency": "natural"}, "natural needs `version:`"),
        ({"idempotency": "none"}, "none is not for update and upsert; valid here: ledger, natural"),
        ({"idempotency": "key"}, "valid here: ledger, natural"),
        ({"insert": "t", "idempotency": "natural"}, "a repeated one is refused; valid here: ledger, readback, none"),
        ({"insert": "t", "idempotency": "readback"}, "readback needs `reference:`"),
        ({"reference": {"field": "ref"}}, "reference: is for insert"),
        ({"insert": "t", "undo": True}, "undo: an added row replaces nothing"),
        ({"insert": "t", "idempotency": "none", "reference": {"field": "risk"}}, "also in `match:` or `set:`"),
    ],
)
def test_a_class_that_cannot_hold_is_refused_offline(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        config_of(**settings)
    assert said in str(refused.value)


def test_one_bad_row_among_five_hundred_stands_alone(postgresql: Place) -> None:
    postgresql.run("INSERT INTO orders SELECT g, NULL, 'old', NULL, now() FROM generate_series(10, 600) g")
    writes = [write(number, 2.0 if number == 321 else 0.5) for number in range(10, 510)]
    receipts = put(postgresql.sink(), *writes)
    assert [
        each.key["id"] for each, receipt in zip(writes, receipts, strict=True) if receipt.outcome is not Outcome.APPLIED
    ] == [321]
    assert postgresql.run("SELECT count(*) FROM orders WHERE risk = 0.5")[0][0] == 499


def test_a_table_that_was_changed_under_us_costs_twenty_refusals_and_the_rest_is_held(both: Place) -> None:
    """I7: a new constraint of a vendor is no fault of five hundred records."""
    more = ", ".join(f"({number}, 'old', '2026-01-01 00:00:00')" for number in range(10, 300))
    both.run(f"INSERT INTO orders (id, note, updated_at) VALUES {more}")
    writes = [write(number, 2.0 if number > 5 else 0.5) for number in range(1, 300)]
    system, asked = both.system(), list[str]()
    sink = Retrying(both.sink(system), CLOCK)
    sa.event.listen(system.database.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    receipts = put(sink, *writes)
    assert outcomes(receipts) == [Outcome.APPLIED] * 5 + [Outcome.REJECTED] * 20 + [Outcome.RETRY] * 274
    assert sum(statement.startswith("SAVEPOINT") for statement in asked) < 60, "the rest was not tried"
    assert all(is_suspected(receipt) for receipt in receipts[25:])
    assert both.ledger() == [write(number, 0.5).write_id for number in range(1, 6)]
    gone = put(both.sink(), *(write(number, 0.5) for number in range(1000, 1030)))
    assert outcomes(gone) == [Outcome.REJECTED] * 20 + [Outcome.RETRY] * 10


def test_a_deferred_constraint_refuses_its_row_alone_and_not_the_commit(postgresql: Place) -> None:
    postgresql.run("CREATE TABLE notes (note text PRIMARY KEY)")
    postgresql.run("INSERT INTO notes VALUES ('old'), ('new')")
    postgresql.run("ALTER TABLE orders ADD FOREIGN KEY (note) REFERENCES notes DEFERRABLE INITIALLY DEFERRED")
    receipts = put(postgresql.sink(), write(1, 0.1), write(2, 0.2, "none"), write(3, 0.3))
    assert outcomes(receipts) == [Outcome.APPLIED, Outcome.REJECTED, Outcome.APPLIED]
    assert rows(postgresql, "id") == [(1,), (3,)]


def test_a_text_that_is_too_long_is_refused_and_never_cut(postgresql: Place) -> None:
    (receipt,) = put(postgresql.sink(), write(1, 0.1, "much too long"))
    assert (receipt.outcome, receipt.code) == (Outcome.REJECTED, "22001")
    assert "much too long" not in (receipt.reason or "")


def test_every_type_is_written_and_found_unchanged_the_second_time(postgresql: Place) -> None:
    postgresql.run(
        "CREATE TABLE all_types (id int PRIMARY KEY, amount numeric(8,2), flag boolean, day date, at timestamptz, "
        "local timestamp, raw bytea, doc jsonb, plain json, name uuid, code char(4), half real)"
    )
    postgresql.run("INSERT INTO all_types (id) VALUES (1)")
    values = {
        "amount": "12.505",
        "flag": True,
        "day": "2026-03-01",
        "at": READ_AT,
        "local": "2026-07-01T16:00:00.000000Z",
        "raw": "AP8=",
        "doc": {"a": [1, None]},
        "plain": {"b": "ü\\'"},
        "name": "0fe2ef73-fe10-41d8-bb75-fe8c5c810b6e",
        "code": "AB",
        "half": 0.1,
    }
    system = postgresql.system()
    config = SqlWritebackConfig(
        system="erp",
        update="all_types",
        match={"id": "key.id"},
        set={name: name for name in values},
        idempotency="ledger",
    )
    sink = system.sink(config, prefix="hub")
    sink.open()
    once, again = (Write(write_id=name, key={"id": 1}, fields=values, version="1") for name in ("w1", "w2"))
    assert outcomes(put(sink, once)) == [Outcome.APPLIED]
    assert outcomes(put(sink, again)) == [Outcome.UNCHANGED]
    found = postgresql.run(
        "SELECT amount::text, local::text, raw::text, doc->'a'->>0, plain->>'b', code FROM all_types"
    )
    assert tuple(found[0]) == ("12.51", "2026-07-01 16:00:00", "\\x00ff", "1", "ü\\'", "AB  ")


# What was replaced


def test_receipts_keep_what_was_replaced_and_say_where_there_was_nothing(both: Place) -> None:
    both.run("UPDATE orders SET risk = 0.9 WHERE id = 1")
    sink = both.sink(undo=True, version=EQUALS)
    applied, conflict, missing = put(
        sink,
        write(1, 0.1, expected=READ_AT),
        write(2, 0.2, expected="2025-01-01T00:00:00Z"),
        write(99, 0.9, expected=READ_AT),
    )
    assert applied.replaced == {"risk": 0.9, "note": "old"}
    assert (conflict.replaced, missing.replaced) == (None, None)
    upsert = both.sink(upsert="orders", set={"risk": "r", "updated_at": "u"}, undo=True)

    def row(number: int, risk: float) -> Write:
        return Write(f"u{number}", {"id": number}, {"risk": risk, "updated_at": READ_AT}, "1")

    receipts = put(upsert, row(3, 0.3), row(50, 0.5))
    assert [receipt.replaced for receipt in receipts] == [{"risk": None, "updated_at": READ_AT}, {}]
    assert [receipt.replaced for receipt in put(both.sink(), write(4, 0.4))] == [None]
    assert isinstance(upsert, Checkable)
    assert "a row that it added stays" in " ".join(upsert.check().guarantees)


def test_what_was_replaced_is_what_stood_there_last_also_beside_somebody_who_writes(postgresql: Place) -> None:
    """Ten values of a person and ten of ours: each of ours replaced the one that was there."""
    postgresql.run("CREATE TABLE history (nr serial, risk float)")
    postgresql.run(
        "CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO history (risk) VALUES (NEW.risk); RETURN NULL; END'"
    )
    postgresql.run("CREATE TRIGGER note AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note_it()")
    sink, receipts = postgresql.sink(undo=True), list[Receipt]()

    def person() -> None:
        for turn in range(60):
            postgresql.run(f"UPDATE orders SET risk = {0.001 * (turn + 1)} WHERE id = 1")

    other = threading.Thread(target=person)
    other.start()
    for turn in range(30):
        receipts += put(sink, write(1, 0.5 + 0.001 * turn, name=f"w{turn}"))
    other.join()
    history = [risk for (risk,) in postgresql.run("SELECT risk FROM history ORDER BY nr")]
    for turn, receipt in enumerate(receipts):
        before = history.index(0.5 + 0.001 * turn) - 1
        assert receipt.replaced is not None
        assert receipt.replaced["risk"] == (history[before] if before >= 0 else None)


def test_what_a_write_replaced_is_not_forgotten_with_the_answer_to_its_commit(postgresql: Place) -> None:
    with Proxy.before(postgresql.engine.url) as proxy:
        sink = postgresql.sink(postgresql.system(proxy.url_of(postgresql.url)), undo=True)
        proxy.cut_answer_to(b"COMMIT\0")
        (receipt,) = put(Retrying(sink, CLOCK, base=0.01), write(1, 0.1))
    assert (receipt.outcome, receipt.replaced) == (Outcome.APPLIED, {"risk": None, "note": "old"})


# Trouble


def test_a_locked_row_is_tried_again_and_nothing_happened_meanwhile(postgresql: Place) -> None:
    sink = postgresql.sink(postgresql.system(lock_timeout="100ms"))
    with postgresql.engine.begin() as other:
        other.exec_driver_sql("SELECT * FROM orders WHERE id = 2 FOR UPDATE")
        with pytest.raises(Retriable, match="lock timeout"):
            put(sink, write(1, 0.1), write(2, 0.2))
    assert rows(postgresql) == []
    assert outcomes(put(sink, write(1, 0.1), write(2, 0.2))) == [Outcome.APPLIED, Outcome.APPLIED]


def test_writers_in_opposite_order_end_without_a_lost_write(postgresql: Place) -> None:
    """Deadlocks are the database's to break, and ours to repeat."""
    sink = Retrying(postgresql.sink(), CLOCK, base=0.01)
    found: list[Receipt] = []

    def one(numbers: Sequence[int], note: str) -> None:
        for turn in range(20):
            found.extend(put(sink, *(write(n, 0.5, f"{note}{turn}", name=f"{note}{turn}/{n}") for n in numbers)))

    threads = [threading.Thread(target=one, args=args) for args in ((range(1, 10), "a"), (range(9, 0, -1), "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes(found)) == {Outcome.APPLIED}
    assert len(found) == len(postgresql.ledger()) == 2 * 20 * 9


def test_a_connection_cut_inside_the_commit_is_unknown_and_its_repetition_has_no_second_effect(
    postgresql: Place,
) -> None:
    """I2: the database committed, and nobody heard of it."""
    postgresql.run("CREATE TABLE effects (id bigint)")
    postgresql.run(
        "CREATE FUNCTION log_effect() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO effects VALUES (NEW.id); RETURN NULL; END'"
    )
    postgresql.run("CREATE TRIGGER log AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION log_effect()")
    with Proxy.before(postgresql.engine.url) as proxy:
        sink = postgresql.sink(postgresql.system(proxy.url_of(postgresql.url)))
        proxy.cut_answer_to(b"COMMIT\0")
        with pytest.raises(Unknown, match="while committing"):
            put(sink, write(1, 0.1))
        assert rows(postgresql) == [(1, 0.1, "new")]
        proxy.cut_answer_to(b"COMMIT\0")
        assert outcomes(put(Retrying(sink, CLOCK, base=0.01), write(1, 0.1), write(2, 0.2))) == [Outcome.APPLIED] * 2
    assert sorted(each for (each,) in postgresql.run("SELECT id FROM effects")) == [1, 2]


def test_a_connection_cut_before_the_commit_left_nothing_behind(postgresql: Place) -> None:
    with Proxy.before(postgresql.engine.url) as proxy:
        sink = postgresql.sink(postgresql.system(proxy.url_of(postgresql.url)))
        proxy.cut_answer_to(b"UPDATE")
        with pytest.raises(Retriable):
            put(sink, write(1, 0.1))
    assert rows(postgresql) == []
    assert postgresql.ledger() == []


def test_a_server_that_neither_answers_nor_hangs_up_is_given_up_at_the_deadline(postgresql: Place) -> None:
    with Proxy.before(postgresql.engine.url) as proxy:
        sink = postgresql.sink(postgresql.system(proxy.url_of(postgresql.url)))
        proxy.swallow_answers()
        began = time.monotonic()
        with pytest.raises(Retriable):
            put(sink, write(1, 0.1), seconds=1)
        assert time.monotonic() - began < 5


def test_a_right_that_was_taken_away_is_the_systems_fault_and_no_record_is_refused(
    database: Database, postgresql: Place
) -> None:
    user = f"writer_{database.name}"
    postgresql.run("CREATE TABLE crossdock_applied (write_id text PRIMARY KEY, applied_at timestamptz DEFAULT now())")
    postgresql.run(f"CREATE ROLE {user} LOGIN PASSWORD '{database.password}'")
    postgresql.run(f"GRANT SELECT, UPDATE ON orders TO {user}")
    postgresql.run(f"GRANT SELECT, INSERT, DELETE ON crossdock_applied TO {user}")
    sink = postgresql.sink(postgresql.system(database.url.replace("crossdock@", f"{user}@")))
    assert outcomes(put(sink, write(1, 0.1))) == [Outcome.APPLIED]
    postgresql.run(f"REVOKE UPDATE ON orders FROM {user}")
    with pytest.raises(SystemFault, match="permission denied") as caught:
        put(sink, write(2, 0.2))
    assert caught.value.code == "42501"
    assert isinstance(sink, Checkable)
    assert f"GRANT UPDATE (risk) ON orders TO {user}" in sink.check().problems[0].message


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        (Retriable, ["08006", "40001", "40P01", "53100", "55P03", "57014", "57P01"]),
        (Rejected, ["22001", "22P02", "23505", "23514", "44000", "P0001"]),
        (SystemFault, ["25006", "28000", "42501", "42703", "42P01", "XX000"]),
    ],
)
def test_each_class_of_sqlstate_has_its_meaning(
    postgresql: Place, kind: type[CrossdockError], states: list[str]
) -> None:
    database = postgresql.system().database
    for state in states:
        with pytest.raises(kind), database.writing(CLOCK.monotonic() + 10, "test") as connection:
            connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = '{state}'; END $$")


@pytest.mark.parametrize(
    ("settings", "place", "text"),
    [
        ({"update": "order"}, ("update",), "did you mean 'orders'?"),
        ({"set": {"rsk": "x"}}, ("set", "rsk"), "did you mean 'risk'?"),
        ({"match": {"nr": "key.id"}}, ("match", "nr"), "unknown column 'nr'"),
        ({"match": {"rev": "key.id"}}, ("match",), "not unique"),
        ({"version": {"column": "rev", "rule": "equals"}}, ("version", "column"), "may be null"),
        ({"version": {"column": "revision", "rule": "equals"}}, ("version", "column"), "unknown column 'revision'"),
    ],
)
def test_a_write_back_that_does_not_fit_is_a_problem_with_its_place(
    both: Place, settings: dict[str, Any], place: tuple[Any, ...], text: str
) -> None:
    sink = both.system().sink(config_of(**settings), prefix="hub")
    assert isinstance(sink, Checkable)
    (problem, *_) = sink.check().problems
    assert problem.path == place
    assert text in problem.message


def test_a_column_that_is_not_there_is_an_error_of_the_configuration_at_the_first_use(both: Place) -> None:
    with pytest.raises(ConfigError, match=r"unknown column 'rsk'; .*did you mean 'risk'"):
        both.sink(set={"rsk": "x"})


def test_two_workers_make_the_ledger_at_the_same_time(postgresql: Place) -> None:
    failures: list[CrossdockError] = []

    def one() -> None:
        try:
            postgresql.sink()
        except CrossdockError as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
