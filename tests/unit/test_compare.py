"""When two values mean the same, so that a write which is done is not called a conflict."""

import pytest

from connectors.compare import holds, same
from connectors.reference import LONGEST, reference_of

MOMENT = "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.3, "0.30"), (12.5, "12.500"), (5, 5.0), (1000, "1e3"), (-0.5, "-0.5"), (None, None), (True, True),
        ("calm", "calm"), (MOMENT, "2026-01-01T01:00:00+01:00"), (MOMENT, "2026-01-01T00:00:00Z"),
        ({"a": [1, "2"]}, {"a": ["1.0", 2]}), ([], []),
    ],
)  # fmt: skip
def test_one_value_in_two_forms_is_the_same(one: object, other: object) -> None:
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("007", 7), ("007", "7"), ("1.10", "1.1"), (True, 1), (False, 0), (False, None), (0, None), ("", None),
        ("1", True), ([1], [1, 2]), ({"a": 1}, {"b": 1}), ({"a": 1}, [1]), ("Calm", "calm"), (" 5", 5), ("NaN", 1),
        ("2026-01-01", "20260101"), ("2026-01-01T00:00:00", "2026-01-01 00:00:00"), (0.3, "0.31"),
    ],
)  # fmt: skip
def test_values_that_only_look_alike_are_not(one: object, other: object) -> None:
    assert not same(one, other)
    assert not same(other, one)


def test_a_record_holds_what_is_wanted_whatever_else_it_has() -> None:
    assert holds({"id": 1, "note": "x", "score": "0.50", "more": 1}, {"note": "x", "score": 0.5, "gone": None})
    assert not holds({"note": "x"}, {"note": "x", "score": 0.5})


def test_a_reference_is_the_same_for_ever_and_fits_where_it_goes() -> None:
    write_id = "hub/p/w/erp/orders/7@1~ab/live"
    assert reference_of(write_id) == write_id
    assert reference_of(write_id, "uuid") == "f28bb7ba-c724-58ef-8445-f1349a512618"
    assert len(reference_of(write_id * 20)) <= LONGEST
    assert reference_of(write_id * 20) != reference_of(write_id * 20 + "x")
    assert reference_of("hub/ü\r\n") == "hub/%C3%BC%0D%0A"
