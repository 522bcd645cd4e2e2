"""What a look at unread records means: alert, pause and raise, and back again."""

from schemas.control import Pause, PauseCause
from streams.retention import Unread, decide

DAY, NOW = 86400.0, "2026-01-01T00:00:00.000000Z"


def unread(part: float, topic: str = "hub.orders.changes", retention: float = 7 * DAY, partition: int = 0) -> Unread:
    return Unread("orders", "hub.crossdock.enrich.main", topic, partition, part * retention, retention)


def paused(**raised: float) -> dict[str, Pause]:
    names = {f"hub.orders.{name}": seconds for name, seconds in raised.items()}
    pause = Pause(pipeline="orders", cause=PauseCause.RETENTION, reason="", by="crossdock", time=NOW, raised=names)
    return {"orders": pause}


def test_what_is_read_in_time_means_nothing() -> None:
    decided = decide([unread(0.69)], {}, NOW)
    assert (decided.alerts, decided.raised, decided.pauses, decided.ended) == ([], {}, {}, [])


def test_at_70_percent_there_is_an_alert_and_nothing_else() -> None:
    decided = decide([unread(0.70), unread(0.2, partition=1)], {}, NOW)
    assert [each.partition for each in decided.alerts] == [0]
    assert (decided.raised, decided.pauses) == ({}, {})


def test_at_85_percent_the_sources_pause_and_the_retention_is_doubled() -> None:
    decided = decide([unread(0.86)], {}, NOW)
    assert decided.raised == {"hub.orders.changes": 14 * DAY}
    assert decided.pauses["orders"].raised == {"hub.orders.changes": 7 * DAY}


def test_two_topics_of_a_pipeline_are_one_pause_that_knows_both() -> None:
    decided = decide([unread(0.9), unread(0.95, "hub.orders.enriched")], {}, NOW)
    assert set(decided.raised) == {"hub.orders.changes", "hub.orders.enriched"}
    assert set(decided.pauses["orders"].raised) == {"hub.orders.changes", "hub.orders.enriched"}


def test_what_was_raised_is_raised_again_and_what_was_before_is_not_forgotten() -> None:
    decided = decide([unread(0.9, retention=14 * DAY)], paused(changes=7 * DAY), NOW)
    assert decided.raised == {"hub.orders.changes": 28 * DAY}
    assert decided.pauses["orders"].raised == {"hub.orders.changes": 7 * DAY}


def test_a_pause_lasts_until_the_oldest_is_young_by_the_measure_of_before() -> None:
    still = decide([unread(0.30, retention=14 * DAY)], paused(changes=7 * DAY), NOW)
    assert still.ended == []
    over = decide([unread(0.24, retention=14 * DAY)], paused(changes=7 * DAY), NOW)
    assert [each.raised for each in over.ended] == [{"hub.orders.changes": 7 * DAY}]
    assert [each.pipeline for each in decide([], paused(changes=7 * DAY), NOW).ended] == ["orders"]


def test_another_pipeline_does_not_keep_a_pause() -> None:
    other = Unread("invoices", "g", "hub.invoices.changes", 0, 6.5 * DAY, 7 * DAY)
    decided = decide([other], paused(changes=7 * DAY), NOW)
    assert [each.pipeline for each in decided.ended] == ["orders"]
    assert set(decided.pauses) == {"invoices"}
