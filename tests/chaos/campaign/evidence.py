"""The evidence: what the sources, the targets and the topics tell about each flow of the campaign."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa

from crossdock.checker.history import Committed, Effect, Fields, History
from crossdock.checker.judge import Verdict, judge
from crossdock.checker.told import of_event, read_topics
from schemas.change import key_text
from schemas.codec import decode
from schemas.event import header
from schemas.outcome import Fate
from schemas.receipt import ReceiptRecord
from schemas.values import Record, rfc3339
from schemas.version import Version, position_of, position_of_text
from streams.admin import Admin
from streams.topics import PipelineTopics, enrich_group, write_group
from tests.chaos.campaign.stage import CampaignStage as Stage

PREFIX, WORKER_GROUP = "campaign", "main"
POISON = "poison"
"""The region of an order or a notice that its target refuses."""


@dataclass(frozen=True)
class Flow:
    """One pipeline into one target, and who tells about it."""

    pipeline: str
    task: str
    """As `crossdock offsets` names it."""
    target: str
    committed: Callable[[Stage], Iterator[Committed]]
    effects: Callable[[Stage], Iterator[Effect]]
    rows: Callable[[Stage], Mapping[str, Fields]]
    payload: tuple[str, ...]
    """The fields that people fill in."""

    @property
    def topics(self) -> PipelineTopics:
        return PipelineTopics.of(PREFIX, self.pipeline, 1)  # only the names matter

    def content(self, record: Record) -> str:
        return _digest(record[name] for name in self.payload)

    def behind(self, admin: Admin) -> int:
        """Records that some group has not finished with."""
        topics = self.topics
        enriching = admin.positions(enrich_group(PREFIX, WORKER_GROUP), [topics.changes.name])
        writing = admin.positions(write_group(PREFIX, self.target), [topics.enriched.name])
        return sum(position.behind for position in [*enriching.values(), *writing.values()])

    def judged(self, admin: Admin, stage: Stage, injected: Iterable[Committed] = ()) -> Verdict:
        """`injected` are records that somebody else put on the pipeline's topic."""
        told = read_topics(admin, self.topics, waiting=self.behind(admin) > 0, content=self.content)
        return judge(History([*self.committed(stage), *injected], self.effects(stage), told, self.rows(stage)))

    def redelivered(self, admin: Admin) -> int:
        """Records that a group worked on more than once. That a source was read again - the overlap after a restart -
        makes new records of the same events, and does not count.
        """
        read, enriched = (_events(admin, topic.name) for topic in (self.topics.changes, self.topics.enriched))
        receipts = (decode(record.value, ReceiptRecord) for record in admin.read(self.topics.receipts.name))
        written = Counter(each.event_id for each in receipts if each.write_id is not None and each.fate != Fate.PARKED)
        return (enriched - read).total() + (written - enriched).total()


def _events(admin: Admin, topic: str) -> Counter[str | None]:
    return Counter(header(record.headers, "ce_id") for record in admin.read(topic))


def _digest(values: Any) -> str:
    return hashlib.blake2b(json.dumps([str(value) for value in values]).encode(), digest_size=6).hexdigest()


# The database


def _query(stage: Stage, statement: str) -> Iterator[Any]:
    engine = sa.create_engine(stage.flightops_url)
    try:
        with engine.connect().execution_options(yield_per=10_000) as connection:
            yield from connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def _row_versions(versions: str) -> Callable[[Stage], Iterator[Committed]]:
    def committed(stage: Stage) -> Iterator[Committed]:
        statement = f"SELECT id, region, amount, stock, updated_at FROM {versions} ORDER BY number"
        for number, region, amount, stock, updated_at in _query(stage, statement):
            wanted = {"label": f"{region}-{amount}", "rest": stock - amount}
            content = _digest((region, amount, stock))
            version = str(Version(1, position_of(updated_at)))
            yield Committed(str(number), version, content, wanted, poison=region == POISON)

    return committed


def _order_effects(stage: Stage) -> Iterator[Effect]:
    statement = "SELECT id, replaced, write_id, label, rest, at FROM order_effects ORDER BY number"
    for number, replaced, write_id, label, rest, at in _query(stage, statement):
        version = str(Version(1, position_of(replaced)))
        yield Effect(str(number), version, write_id, {"label": label, "rest": rest}, rfc3339(at))


def _copy_effects(stage: Stage) -> Iterator[Effect]:
    statement = "SELECT id, source_version, write_id, label, rest, at FROM copy_effects ORDER BY number"
    for number, source_version, write_id, label, rest, at in _query(stage, statement):
        version = str(Version.parse(source_version)._replace(cause=0))
        yield Effect(str(number), version, write_id, {"label": label, "rest": rest}, rfc3339(at))


def _rows(table: str) -> Callable[[Stage], Mapping[str, Fields]]:
    def rows(stage: Stage) -> Mapping[str, Fields]:
        found = _query(stage, f"SELECT id, label, rest FROM {table}")
        return {str(number): {"label": label, "rest": rest} for number, label, rest in found}

    return rows


# The register and the stations


def lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)


_PRIORITIES = {"Turbo-fan": "high", "Turbo-jet": "normal"}


def _aircraft(stage: Stage) -> Iterator[Committed]:
    for line in lines(stage.folder / "registry" / "versions.jsonl"):
        row = line["aircraft"]
        wanted = {
            "priority": _PRIORITIES.get(row["engine"], "low"),
            "scoredBy": f"{row['manufacturer']}-{row['model']}",
        }
        content = _digest((row["manufacturer"], row["model"], row["engine"]))
        version = str(Version(1, position_of_text(line["lastModified"])))
        poison = line["tailNumber"] in stage.refused
        yield Committed(key_text([line["tailNumber"]]), version, content, wanted, poison=poison)


def _priorities(stage: Stage) -> Iterator[Effect]:
    for line in lines(stage.folder / "registry" / "effects.jsonl"):
        version = str(Version.parse(line["source_version"])._replace(cause=0))
        yield Effect(key_text([line["tailNumber"]]), version, line["write_id"], line["values"], line["at"])


def _reports(stage: Stage) -> Iterator[Committed]:
    for line in lines(stage.folder / "stations" / "versions.jsonl"):
        row = line["report"]
        wanted = {"note": f"{row['origin']}-{row['temp']}", "severity": row["humid"] - row["temp"]}
        content = _digest((row["origin"], row["temp"], row["humid"]))
        version = str(Version(1, position_of_text(line["modified"])))
        yield Committed(key_text([line["id"]]), version, content, wanted, poison=False)


def _notes(stage: Stage) -> Iterator[Effect]:
    for line in lines(stage.folder / "stations" / "effects.jsonl"):
        write_id = unquote(line["write_id"])
        version = of_event(write_id.rpartition("/")[0]).version
        yield Effect(key_text([line["id"]]), version, write_id, line["values"], line["at"])


def _last(effects: Callable[[Stage], Iterator[Effect]]) -> Callable[[Stage], Mapping[str, Fields]]:
    """What stands in a server whose every change is an effect: the values of the last one."""
    return lambda stage: {each.key: each.values or {} for each in effects(stage)}


FLOWS = {
    "orders": Flow(
        pipeline="orders",
        task="orders/flightops.orders",
        target="flightops",
        committed=_row_versions("order_versions"),
        effects=_order_effects,
        rows=_rows("orders"),
        payload=("region", "amount", "stock"),
    ),
    "copies": Flow(
        pipeline="copies",
        task="copies/flightops.notices",
        target="warehouse",
        committed=_row_versions("notice_versions"),
        effects=_copy_effects,
        rows=_rows("copies"),
        payload=("region", "amount", "stock"),
    ),
    "aircraft": Flow(
        pipeline="aircraft",
        task="aircraft/registry.listAircraft",
        target="registry",
        committed=_aircraft,
        effects=_priorities,
        rows=_last(_priorities),
        payload=("manufacturer", "model", "engine"),
    ),
    "reports": Flow(
        pipeline="reports",
        task="reports/stations.reports",
        target="stations",
        committed=_reports,
        effects=_notes,
        rows=_last(_notes),
        payload=("origin", "temp", "humid"),
    ),
}
"""By pipeline."""
