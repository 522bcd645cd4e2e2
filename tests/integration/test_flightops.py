"""The airline's database: its quirks are real, and its logs tell what happened."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from crossdock.demo import dataset, flightops
from tests.conftest import Database

WRITE = "hub/delay-risk/flightops/flightops/flights/{}@0001.00000000000000000001.0000~0badcafe/live"
LEDGER = sa.text("INSERT INTO crossdock_applied (write_id) VALUES (:id)")
ONE = sa.text("UPDATE flights SET delay_risk = :risk, delay_band = 'high', delay_model = '1' WHERE id = :id")


@pytest.fixture(params=["postgresql", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    if request.param == "sqlite":
        engine = sa.create_engine(f"sqlite:///{tmp_path / 'flights.db'}")
    else:
        database: Database = request.getfixturevalue("database")
        engine = database.engine()
    flightops.create(engine)
    yield engine
    engine.dispose()


def january(count: int) -> list[dict[str, Any]]:
    rows = []
    for number, row in zip(range(1, count + 1), dataset.flights(), strict=False):
        rows.append({**row, "id": number})
    return rows


def test_every_update_moves_the_cursor_and_is_a_version(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        flightops.insert_flights(connection, january(3))
    first = sorted(flightops.versions(engine))
    with engine.begin() as connection:
        flightops.departed(connection, january(2))
    later = sorted(flightops.versions(engine))
    assert [number for number, _ in first] == [1, 2, 3]
    assert [number for number, _ in later] == [1, 1, 2, 2, 3]
    assert {moment for _, moment in later} - {moment for _, moment in first}


def test_a_write_of_the_hub_is_an_effect_with_its_id_and_the_version_it_replaced(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        flightops.insert_flights(connection, january(2))
    (_, before), _ = sorted(flightops.versions(engine))
    with engine.begin() as connection:
        connection.execute(LEDGER, {"id": WRITE.format(1)})
        connection.execute(ONE, {"id": 1, "risk": 0.5})
    assert list(flightops.effects(engine)) == [(1, before, WRITE.format(1))]


def test_a_change_by_a_person_is_an_effect_without_an_id_even_after_a_write_of_the_hub(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        flightops.insert_flights(connection, january(1))
    with engine.begin() as connection:
        connection.execute(LEDGER, {"id": WRITE.format(1)})
        connection.execute(ONE, {"id": 1, "risk": 0.5})
    with engine.begin() as connection:
        connection.execute(ONE, {"id": 1, "risk": 0.6})
    assert [write_id for _, _, write_id in flightops.effects(engine)] == [WRITE.format(1), None]


def test_a_write_to_another_table_in_the_same_transaction_is_not_taken_for_a_flights(engine: sa.Engine) -> None:
    """Its key need not even be a number; and flight 1 is not flight 11."""
    others = [WRITE.format(1).replace("/flights/1@", key) for key in ("/aircraft/N123@", "/crews/1@", "/flights/11@")]
    with engine.begin() as connection:
        flightops.insert_flights(connection, january(1))
    with engine.begin() as connection:
        connection.execute(LEDGER, [{"id": other} for other in others])
        connection.execute(ONE, {"id": 1, "risk": 0.5})
    assert [write_id for _, _, write_id in flightops.effects(engine)] == [None]


def test_an_update_that_is_rolled_back_is_neither_a_version_nor_an_effect(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        flightops.insert_flights(connection, january(1))
    before = list(flightops.versions(engine))
    with engine.connect() as connection:
        connection.execute(LEDGER, {"id": WRITE.format(1)})
        connection.execute(ONE, {"id": 1, "risk": 0.5})
        connection.rollback()
    assert (list(flightops.versions(engine)), list(flightops.effects(engine))) == (before, [])


def test_a_change_of_the_result_is_no_effect(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        flightops.insert_flights(connection, january(2))
        flightops.departed(connection, january(2))
    assert list(flightops.effects(engine)) == []


def test_a_risk_beyond_one_is_refused_by_the_database(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        flightops.insert_flights(connection, january(1))
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(ONE, {"id": 1, "risk": 1.5})


def test_all_of_january_goes_in_with_its_gaps_as_nulls(engine: sa.Engine) -> None:
    rows = january(100_000)
    with engine.begin() as connection:
        flightops.insert_flights(connection, rows)
        flightops.departed(connection, rows)
    with engine.connect() as connection:
        told = connection.exec_driver_sql("SELECT count(*), count(dep_time), count(tailnum) FROM flights").one()
    assert tuple(told) == (27_004, 27_004 - 521, sum(row["tailnum"] is not None for row in rows))
