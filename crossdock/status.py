"""The state of a hub, seen from outside: what has moved, what waits, who runs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from crossdock.configuration.load import load_from_environment
from crossdock.operator import records
from schemas.control import ControlRecord, Pause, Stopped, WorkerState
from streams.admin import Admin
from streams.topics import Topic, enrich_group, tasks_group, write_group


def status(folder: Path) -> dict[str, Any]:
    """Each pipeline with what it has settled and what waits where; and the workers.

    Raises:
        Retriable: Kafka does not answer.
    """
    configuration = load_from_environment(folder)
    hub, kafka = configuration.hub, configuration.hub.kafka
    with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
        pipelines: dict[str, dict[str, Any]] = {}
        for name, pipeline in configuration.pipelines.items():
            topics = configuration.topics(name)
            enriching = _behind(admin, enrich_group(kafka.prefix, hub.worker_group), topics.to_enrich)
            writing = {
                system: _behind(admin, write_group(kafka.prefix, system), topics.to_write)
                for system in sorted({block.system for block in pipeline.writeback})
            }
            pipelines[name] = {
                "waiting_for_enrich": enriching[0],
                "waiting_for_writeback": {system: live for system, (live, _) in writing.items()},
                "waiting_in_backfill": enriching[1] + sum(backfill for _, backfill in writing.values()),
                "receipts": admin.size(topics.receipts.name),
                "dead": admin.size(topics.dead.name),
                "review": admin.size(topics.review.name),
                "paused": None,
            }
        workers = admin.members(tasks_group(kafka.prefix))
        found = list(records(admin, kafka.prefix).values())
        for each in found:
            if isinstance(each, Pause) and each.pipeline in pipelines:
                pipelines[each.pipeline]["paused"] = {"by": each.by, "reason": each.reason, "since": each.time}
        return {
            "kafka": kafka.bootstrap,
            "insecure": kafka.insecure,
            "workers": workers,
            "systems": _systems(found, workers),
            "stopped": [
                {"subject": each.subject, "trouble": each.trouble.value, "reason": each.reason, "decide": each.command}
                for each in found
                if isinstance(each, Stopped)
            ],
            "pipelines": pipelines,
        }


def _behind(admin: Admin, group: str, topics: tuple[Topic, Topic]) -> tuple[int, int]:
    """Records that a group has not finished with: live, and backfill."""
    live, backfill = (topic.name for topic in topics)
    found = admin.positions(group, [live, backfill])
    return found[live].behind, found[backfill].behind


def _systems(found: Sequence[ControlRecord], workers: Sequence[str]) -> list[dict[str, Any]]:
    """Each system that is written to, as each living worker sees it."""
    living = {name.rpartition(".")[2] for name in workers}
    told = [each for each in found if isinstance(each, WorkerState)]
    return [
        {"worker": each.instance, "system": name, **msgspec.structs.asdict(state)}
        for each in told
        if each.instance in living
        for name, state in sorted(each.systems.items())
    ]
