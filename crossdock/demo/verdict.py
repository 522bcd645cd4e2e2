"""The verdict: the systems' logs and the topics, brought together into one account per pipeline."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from crossdock.demo import flightops
from crossdock.demo.account import Account, Effect, RowVersion, Told, account
from crossdock.demo.stage import Stage
from schemas.change import key_text
from schemas.codec import decode
from schemas.dead_letter import DeadLetter
from schemas.event import header
from schemas.outcome import Fate
from schemas.receipt import ReceiptRecord
from schemas.version import Version, position_of, position_of_text
from streams.admin import Admin
from streams.topics import PipelineTopics, enrich_group, write_group

PREFIX, WORKER_GROUP = "hub", "main"
TARGETS = {"delay-risk": "flightops", "inspection-priority": "registry", "station-weather": "stations"}
"""The demo's pipelines, and the system that each reads from and writes back to."""


def topics_of(pipeline: str) -> PipelineTopics:
    return PipelineTopics.of(PREFIX, pipeline, 1)  # only the names matter here


def accounts(stage: Stage) -> dict[str, Account]:
    """Reads all logs and topics; some seconds for a year."""
    with Admin(stage.broker.bootstrap) as admin:
        found = {}
        for pipeline, system in TARGETS.items():
            told = _told(admin, pipeline)
            found[pipeline] = account(_versions(stage, system), _effects(stage, system), told)
        return found


def behind(admin: Admin, pipeline: str) -> int:
    """Records of a pipeline that some group has not finished with."""
    topics, system = topics_of(pipeline), TARGETS[pipeline]
    enriching = admin.positions(enrich_group(PREFIX, WORKER_GROUP), [topics.changes.name])
    writing = admin.positions(write_group(PREFIX, system), [topics.enriched.name])
    return sum(position.behind for position in [*enriching.values(), *writing.values()])


def _told(admin: Admin, pipeline: str) -> Told:
    topics, told = topics_of(pipeline), Told()
    for record in admin.read(topics.changes.name):
        event_id = header(record.headers, "ce_id")
        if event_id is not None:
            told.changes.add(_of(event_id))
    for record in admin.read(topics.receipts.name):
        receipt = decode(record.value, ReceiptRecord)
        told.receipt(key_text(receipt.key.values()), receipt.version, receipt.fate)
    for record in admin.read(topics.dead.name):
        letter = decode(record.value, DeadLetter)
        if letter.event_id is not None:
            told.receipt(*_of(letter.event_id), Fate.DEAD)
    told.waiting = behind(admin, pipeline) > 0
    return told


def _of(event_id: str) -> RowVersion:
    """Key and version out of `<system>/<object>/<key>@<version>~<hash>`; a key's own `/` and `@` are encoded."""
    place, _, rest = event_id.rpartition("@")
    return RowVersion(place.rpartition("/")[2], rest.partition("~")[0])


def _versions(stage: Stage, system: str) -> Iterator[RowVersion]:
    if system == "flightops":
        engine = flightops.connect(stage.flightops_url)
        for number, updated_at in flightops.versions(engine):
            yield RowVersion(str(number), str(Version(1, position_of(updated_at))))
        engine.dispose()
        return
    key, moved = ("tailNumber", "lastModified") if system == "registry" else ("id", "modified")
    for line in _lines(stage.folder / system / "versions.jsonl"):
        yield RowVersion(key_text([line[key]]), str(Version(1, position_of_text(line[moved]))))


def _effects(stage: Stage, system: str) -> Iterator[Effect]:
    if system == "flightops":
        engine = flightops.connect(stage.flightops_url)
        for number, replaced, write in flightops.effects(engine):
            yield Effect(str(number), str(Version(1, position_of(replaced))), write)
        engine.dispose()
        return
    for line in _lines(stage.folder / system / "effects.jsonl"):
        if system == "registry":
            yield Effect(key_text([line["tailNumber"]]), line["source_version"], line["write_id"])
        else:
            write = unquote(line["write_id"])
            yield Effect(key_text([line["id"]]), _of(write.rpartition("/")[0]).version, write)


def _lines(path: Path) -> Iterator[dict[str, str]]:
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)
