"""Why one flight got its value: the row, the event, the weather that was joined, the answer, the receipt."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from crossdock.demo import flightops
from crossdock.demo.stage import Stage
from crossdock.demo.verdict import topics_of
from schemas.codec import decode, decode_event
from schemas.event import EventValue, header
from schemas.receipt import ReceiptRecord
from streams.admin import Admin
from streams.topics import PipelineTopics

_MOST_DELAYED = sa.text(
    "SELECT f.carrier, f.flight, f.origin, f.dest, f.sched_dep, f.arr_delay, e.write_id FROM flights f "
    "JOIN effects e USING (id) WHERE f.arr_delay IS NOT NULL AND e.write_id IS NOT NULL "
    "ORDER BY f.arr_delay DESC, f.id LIMIT 1"
)
_SHOWN = ("wind_speed", "visib", "precip", "pressure", "temp")


def explained(stage: Stage) -> Iterator[str]:
    """Lines about the flight that was delayed most, of those that got a risk; none if there is no such flight."""
    engine = flightops.connect(stage.flightops_url)
    with engine.connect() as connection:
        row = connection.execute(_MOST_DELAYED).one_or_none()
    engine.dispose()
    if row is None:
        return
    event_id = row.write_id.split("/", 3)[3].rpartition("/")[0]
    topics = topics_of("delay-risk", stage.addresses.prefix)
    with Admin(stage.addresses.kafka) as admin:
        event, receipt = _event(admin, topics, event_id), _receipt(admin, topics, row.write_id)
    yield f"{row.carrier} {row.flight} {row.origin} -> {row.dest}, planned {row.sched_dep}: {row.arr_delay} min late"
    yield f"  change   {event_id}"
    if event is not None:
        yield from _answer(event)
    if receipt is not None:
        yield f"  receipt  {receipt.fate}, attempt {receipt.attempts}, row version {receipt.target_version}"


def _answer(event: EventValue) -> Iterator[str]:
    weather: dict[str, Any] | None = event.lookups.get("weather")
    known = ", ".join(f"{name} {weather[name]}" for name in _SHOWN if weather.get(name) is not None) if weather else ""
    yield f"  weather  {known or 'none came in time: the model stood in its own values'}"
    answer = event.ai or {}
    output = ", ".join(f"{name} {value}" for name, value in (answer.get("output") or {}).items())
    yield f"  answer   {answer.get('model')} {answer.get('version')} ({str(answer.get('digest'))[:12]}): {output}"


def _event(admin: Admin, topics: PipelineTopics, event_id: str) -> EventValue | None:
    """The first of its kind: a redelivery carries the same answer."""
    for record in admin.read(topics.enriched.name):
        if header(record.headers, "ce_id") == event_id:
            return decode_event(record.value)
    return None


def _receipt(admin: Admin, topics: PipelineTopics, write_id: str) -> ReceiptRecord | None:
    looked_for = write_id.encode()
    for record in admin.read(topics.receipts.name):
        if looked_for in record.value:
            return decode(record.value, ReceiptRecord)
    return None
