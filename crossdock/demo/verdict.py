"""The verdict: the systems' logs and the topics, judged by the ledger checker, a pipeline each."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from crossdock.checker.history import Committed, Effect, History
from crossdock.checker.judge import Verdict, judge
from crossdock.checker.told import of_event, read_topics
from crossdock.demo import flightops
from crossdock.demo.stage import PREFIX, Stage
from schemas.change import key_text
from schemas.version import Version, position_of, position_of_text
from streams.admin import Admin
from streams.topics import PipelineTopics, enrich_group, write_group

WORKER_GROUP = "main"
TARGETS = {"delay-risk": "flightops", "inspection-priority": "registry", "station-weather": "stations"}
"""The demo's pipelines, and the system that each reads from and writes back to."""


def topics_of(pipeline: str, prefix: str = PREFIX) -> PipelineTopics:
    return PipelineTopics.of(prefix, pipeline, 1)  # only the names matter here


def accounts(stage: Stage) -> dict[str, Verdict]:
    """Reads all logs and topics; some seconds for a year."""
    prefix = stage.addresses.prefix
    with Admin(stage.addresses.kafka) as admin:
        found = {}
        for pipeline, system in TARGETS.items():
            told = read_topics(admin, topics_of(pipeline, prefix), waiting=behind(admin, pipeline, prefix) > 0)
            found[pipeline] = judge(History(_versions(stage, system), _effects(stage, system), told))
        return found


COLUMNS = (
    *("changes", "applied", "unchanged", "superseded", "filtered", "dead", "in_doubt", "review", "parked"),
    *("in_flight", "lost", "doubled"),
)
"""The figures that the demo shows: nobody discards or refuses anything in it."""


def total(found: Mapping[str, Verdict]) -> dict[str, dict[str, int]]:
    """All pipelines as the demo's JSON has them."""
    return {name: {column: each.figures[column] for column in COLUMNS} for name, each in found.items()}


def behind(admin: Admin, pipeline: str, prefix: str) -> int:
    """Records of a pipeline that some group has not finished with."""
    topics, system = topics_of(pipeline, prefix), TARGETS[pipeline]
    enriching = admin.positions(enrich_group(prefix, WORKER_GROUP), [each.name for each in topics.to_enrich])
    writing = admin.positions(write_group(prefix, system), [each.name for each in topics.to_write])
    return sum(position.behind for position in [*enriching.values(), *writing.values()])


def _versions(stage: Stage, system: str) -> Iterator[Committed]:
    if system == "flightops":
        engine = flightops.connect(stage.flightops_url)
        for number, updated_at in flightops.versions(engine):
            yield Committed(str(number), str(Version(1, position_of(updated_at))))
        engine.dispose()
        return
    key, moved = ("tailNumber", "lastModified") if system == "registry" else ("id", "modified")
    for line in _lines(stage.folder / system / "versions.jsonl"):
        yield Committed(key_text([line[key]]), str(Version(1, position_of_text(line[moved]))))


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
            yield Effect(key_text([line["id"]]), of_event(write.rpartition("/")[0]).version, write)


def _lines(path: Path) -> Iterator[dict[str, str]]:
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)
