"""Where a partition may start, and what a move leaves behind: the pure parts."""

import pytest

from connectors.contract import TaskSpec
from schemas.change import Batch, Change, Op
from schemas.codec import decode, encode
from schemas.control import OffsetMove, Trouble
from streams.control import outgoing as control_record
from streams.control import read_record
from streams.offsets import (
    KEPT,
    Halted,
    OffsetHistory,
    OffsetRecord,
    Stored,
    first_record,
    followed,
    moved,
    origin_of,
    refuse_other_configuration,
)
from streams.standing import GroupOffset, Place, Start, Stop, judge, subject_of

ID, OTHER = "id-1", "id-2"
TASK = TaskSpec("erp.orders", "d1", {"table": "orders", "read.timestamp": "updated_at"})


def mirrored(offset: int, topic_id: str | None = ID) -> GroupOffset:
    return GroupOffset(group="g", topic="t", partition=0, topic_id=topic_id, offset=offset, time="")


def place(committed: int | None, mirror: GroupOffset | None = None, *, known: bool = False, low: int = 0) -> Place:
    return Place(committed, mirror, known or mirror is not None, low, 100, ID)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (place(None), Start(0)),
        (place(None, low=40), Start(40)),
        (place(50), Start(50)),
        (place(0), Start(0)),
        (place(100), Start(100)),
        (place(50, mirrored(10)), Start(50)),
        (place(None, mirrored(50)), Start(50, restored=True)),
        (place(None, mirrored(0)), Start(0)),
        (place(50, mirrored(10, None)), Start(50)),
        (place(40, low=40), Start(40)),
    ],
)
def test_a_partition_goes_on_where_its_group_stood(where: Place, expected: Start) -> None:
    """I1: by Kafka's commit, else by the mirror; a group that is new begins at the beginning."""
    assert judge(where) == expected


@pytest.mark.parametrize(
    ("where", "trouble"),
    [
        (place(None, known=True), Trouble.LOST),
        (place(101), Trouble.BEYOND_THE_END),
        (place(None, mirrored(101)), Trouble.BEYOND_THE_END),
        (place(39, low=40), Trouble.RETENTION_PASSED),
        (place(0, low=1), Trouble.RETENTION_PASSED),
        (place(None, mirrored(39), low=40), Trouble.RETENTION_PASSED),
        (place(50, mirrored(50, OTHER)), Trouble.RECREATED),
        (place(None, mirrored(50, OTHER)), Trouble.RECREATED),
    ],
)
def test_a_partition_that_cannot_be_trusted_does_not_start(where: Place, trouble: Trouble) -> None:
    """I1: never a silent jump."""
    found = judge(where)
    assert isinstance(found, Stop)
    assert found.trouble is trouble


def test_a_partition_is_named_as_people_read_it() -> None:
    named = subject_of("hub", "hub.crossdock.write.erp", "hub.delay-risk.backfill-enriched", 3)
    assert named == "write.erp/delay-risk.backfill-enriched/3"
    assert origin_of("orders/erp.public.orders") == "/erp/public.orders"


def move(number: int, action: str = "set", offset: object = None, undoes: str | None = None) -> OffsetMove:
    return OffsetMove(
        subject="erp.orders",
        id=f"m{number}",
        action=action,  # type: ignore[arg-type]
        offset=offset,
        undoes=undoes,
        by="Ada",
        reason="why",
        time="t",
    )


def at(offset: dict[str, int] | None, *done: OffsetMove) -> Stored:
    """The task after some moves, each carried out."""
    found = Stored(OffsetRecord(task="erp.orders", depends_on="d1", offset=offset, changes=7, time=""), empty())
    for each in done:
        found = moved(TASK, found, each, each.offset, "now")
    return found


def empty() -> OffsetHistory:
    return OffsetHistory(subject="erp.orders")


def test_a_move_stands_with_its_id_and_the_offset_before_it() -> None:
    found = at({"v": 1}, move(1, "reset"))
    assert found.record is not None
    assert (found.record.offset, found.record.move, found.record.changes) == (None, "m1", 7)
    assert [(each.before, each.after, each.by) for each in found.history.moves] == [({"v": 1}, None, "Ada")]


def test_an_undo_takes_back_the_last_move_that_stands_and_the_next_one_the_move_before_it() -> None:
    twice = at({"v": 1}, move(1, offset={"v": 2}), move(2, offset={"v": 3}))
    last = twice.history.undoable()
    assert last is not None
    back = moved(TASK, twice, move(3, "undo", last.before, last.id), last.before, "now")
    assert back.offset == {"v": 2}
    before = back.history.undoable()
    assert before is not None
    further = moved(TASK, back, move(4, "undo", before.before, before.id), before.before, "now")
    assert further.offset == {"v": 1}
    assert further.history.undoable() is None


def test_an_undo_that_comes_too_late_moves_nothing_and_is_not_tried_again() -> None:
    stands = at({"v": 1}, move(1, offset={"v": 2}), move(2, offset={"v": 3}))
    late = moved(TASK, stands, move(3, "undo", {"v": 1}, "m1"), {"v": 1}, "now")
    assert (late.offset, late.move) == ({"v": 3}, "m3")
    assert late.history == stands.history


def test_a_history_is_bounded() -> None:
    found = at({"v": 0}, *(move(number, offset={"v": number}) for number in range(1, KEPT + 6)))
    assert len(found.history.moves) == KEPT
    assert found.history.moves[0].id == "m6"


def test_a_record_keeps_its_move_and_the_highest_version_over_batches() -> None:
    batch = Batch([change("0001.2"), change("0001.1")], {"v": 9})
    found = followed(at({"v": 1}, move(1, "reset")).record or first_record(TASK), batch, "later")
    assert (found.offset, found.changes, found.newest, found.move) == ({"v": 9}, 9, "0001.2", "m1")
    again = moved(TASK, Stored(found, empty()), move(2, "reset"), None, "now").record
    assert again is not None
    assert (again.newest, again.highest) == (None, "0001.2")
    assert decode(encode(again), OffsetRecord) == again


def change(version: str) -> Change:
    return Change(Op.UPSERT, {"id": 1}, None, {"id": 1}, version, "erp/orders", "e", "t")


def test_an_offset_of_the_first_release_is_read() -> None:
    old = b'{"cd_schema":1,"task":"erp.orders","depends_on":"d1","offset":{"v":1},"changes":4,"time":"t"}'
    record = decode(old, OffsetRecord)
    assert (record.offset, record.move, record.newest) == ({"v": 1}, None, None)


def test_another_configuration_is_told_by_what_changed_and_by_the_command_that_decides() -> None:
    record = OffsetRecord(
        task="erp.orders",
        depends_on="d0",
        offset={"v": 1},
        changes=0,
        time="",
        parts={"table": "orders", "read.timestamp": "changed_at", "columns": ["id"]},
    )
    with pytest.raises(Halted) as halted:
        refuse_other_configuration(TASK, record)
    assert halted.value.trouble is Trouble.OTHER_CONFIGURATION
    assert 'columns was ["id"] and is not set, read.timestamp was "changed_at" and is "updated_at". ' in str(
        halted.value
    )
    assert halted.value.command == "crossdock offsets reset FOLDER erp.orders"
    refuse_other_configuration(TASK, OffsetRecord(task="x", depends_on="d1", offset=None, changes=0, time=""))


def test_a_command_has_the_bytes_of_the_first_release() -> None:
    golden = (
        b'{"type":"offset","cd_schema":1,"subject":"erp.orders","id":"m1","action":"set","offset":{"v":1},'
        b'"undoes":null,"by":"Ada","reason":"why","time":"t"}'
    )
    found = control_record(move(1, offset={"v": 1}))
    assert (found.key, found.value) == (b"offset/erp.orders", golden)
    assert read_record(golden) == move(1, offset={"v": 1})
