"""The trace of a counter-example: all that topics, logs and faults tell about its record, in the order of time."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from crossdock.checker.judge import Violation
from crossdock.checker.told import of_event
from schemas.codec import decode
from schemas.dead_letter import DeadLetter
from schemas.event import header
from schemas.receipt import ReceiptRecord
from schemas.values import rfc3339
from streams.admin import Admin
from tests.chaos.campaign.evidence import FLOWS, Flow

if TYPE_CHECKING:
    from tests.chaos.campaign.run import Run

LONGEST = 60
"""Lines of one trace."""


def traces(run: "Run", found: Mapping[str, Iterable[Violation]]) -> dict[tuple[str, str], list[str]]:
    """By flow and key. Reads the topics once for each flow that has a counter-example."""
    told: dict[tuple[str, str], list[str]] = {}
    with Admin(run.stage.broker.bootstrap) as admin:
        for name, violations in found.items():
            keys = {each.key for each in violations}
            lines = [*_from_topics(admin, FLOWS[name], keys), *_from_logs(run, FLOWS[name], keys)]
            for key in keys:
                mine = sorted(line for of, line in lines if of == key)
                told[name, key] = _with_faults(run, mine)[:LONGEST]
    return told


def _from_topics(admin: Admin, flow: Flow, keys: set[str]) -> Iterable[tuple[str, str]]:
    topics = flow.topics
    for topic in (topics.changes, topics.enriched, topics.receipts, topics.dead):
        for record in admin.read(topic.name):
            event_id, what = _of(topic.name, record)
            if event_id is not None and (of := of_event(event_id)).key in keys:
                at = rfc3339(datetime.fromtimestamp(record.timestamp / 1000, UTC))
                place = f"{topic.name.rpartition('.')[2]}/{record.partition}@{record.offset}"
                yield of.key, f"{at} {place} version {of.version}{what}"


def _of(topic: str, record: Any) -> tuple[str | None, str]:
    """The event that a record is about, and what it says."""
    if topic.endswith(".receipts"):
        receipt = decode(record.value, ReceiptRecord)
        why = f" ({receipt.reason})" if receipt.reason else ""
        return receipt.event_id, f" {receipt.fate} attempts {receipt.attempts} {receipt.write_id or ''}{why}"
    if topic.endswith(".dead"):
        letter = decode(record.value, DeadLetter)
        return letter.event_id, f" {letter.stage} {letter.code}: {letter.reason}"
    return header(record.headers, "ce_id"), ""


def _from_logs(run: "Run", flow: Flow, keys: set[str]) -> Iterable[tuple[str, str]]:
    for effect in flow.effects(run.stage):
        if effect.key in keys:
            values = f"{effect.write_id or ''} {dict(effect.values or {})}"
            yield effect.key, f"{effect.at} effect version {effect.version} {values}"
    for place, version in enumerate(flow.committed(run.stage)):
        if version.key in keys:  # the log of the source knows no time but the version's own
            yield version.key, f"{_time_of(version.version)} committed as number {place}, version {version.version}"


def _time_of(version: str) -> str:
    parts = version.split(".")
    if len(parts) < 2:
        return ""
    return rfc3339(datetime.fromtimestamp(int(parts[1]) / 1_000_000, UTC))


def _with_faults(run: "Run", lines: list[str]) -> list[str]:
    """The faults and the ends of workers between the first line and the last."""
    if not lines:
        return []
    first, last = lines[0].split(" ", 1)[0], lines[-1].split(" ", 1)[0]
    happened = [
        f"{_text(each['from'])} FAULT {each['fault']} until {_text(each.get('until', each['from']))[11:]}"
        for each in run.faults
    ]
    happened += [
        f"{_text(life.ended)} END of worker {life.instance} pid {life.pid} code {life.code} armed {life.armed or '-'}"
        for life in run.workers.lives
        if life.ended is not None
    ]
    return sorted([*lines, *(each for each in happened if first[:19] <= each[:19] <= last[:19])])


def _text(seconds: float) -> str:
    return rfc3339(datetime.fromtimestamp(seconds, UTC))
