"""What a hub asks of people, and what they answer: write-backs that are held, calls that are in doubt."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from connectors.clock import SystemClock
from connectors.errors import ConfigError
from crossdock.configuration.hub import KafkaConfig
from crossdock.configuration.load import load_from_environment
from schemas.codec import Undecodable, encode
from schemas.control import (
    Command,
    ControlRecord,
    Credentials,
    CredentialState,
    Decision,
    Mark,
    Resolution,
    Suspicion,
    Verdict,
    control_key,
)
from schemas.event import header
from schemas.values import rfc3339
from streams.admin import Admin
from streams.control import read_record
from streams.intents import STATE
from streams.topics import HubTopics, PipelineTopics
from streams.words import did_you_mean


def records(admin: Admin, prefix: str) -> dict[bytes, ControlRecord]:
    """What stands on `crossdock.control`: the newest record of each subject. What people did with dead letters is left
    out, as there may be very much of it; so is what a newer release wrote.
    """
    found: dict[bytes, ControlRecord] = {}
    for record in admin.read(HubTopics.of(prefix).control.name):
        found.pop(record.key, None)
        if record.value is None:
            continue
        with contextlib.suppress(Undecodable):
            one = read_record(record.value)
            if not isinstance(one, Command | Mark):
                found[record.key] = one
    return found


def held(folder: Path) -> list[dict[str, Any]]:
    """What waits for a person: write-backs that are held, and systems that need other credentials."""
    kafka = _kafka(folder)
    with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
        found = records(admin, kafka.prefix).values()
    rows = [
        {"name": each.writeback, "why": "suspected system change", "reason": each.reason, "since": each.time}
        for each in found
        if isinstance(each, Suspicion) and each.decision is Decision.HOLD
    ]
    rows += [
        {"name": each.system, "why": each.state.value, "reason": each.reason, "since": each.time}
        for each in found
        if isinstance(each, Credentials) and each.state is not CredentialState.ACCEPTED
    ]
    return rows


def decide(folder: Path, name: str, decision: Decision, by: str) -> None:
    """Says what becomes of a held write-back's records.

    Raises:
        ConfigError: nothing of that name is held.
    """
    kafka = _kafka(folder)
    with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
        waiting = {
            each.writeback: each
            for each in records(admin, kafka.prefix).values()
            if isinstance(each, Suspicion) and each.decision is Decision.HOLD
        }
        if name not in waiting:
            near = did_you_mean(name, waiting)
            raise ConfigError(f"no write-back {name!r} is held{near}; `crossdock held list` shows those that are")
        record = msgspec.structs.replace(waiting[name], decision=decision, by=by, time=_now())
        topic = HubTopics.of(kafka.prefix).control.name
        admin.append(topic, [(control_key(Suspicion, name), encode(record))])


@dataclass(frozen=True, slots=True)
class Doubt:
    """A call of class `none` that nobody knows the end of."""

    write_id: str
    pipeline: str
    writeback: str
    state: str
    value: str

    def row(self) -> dict[str, str]:
        return {"id": self.write_id, "writeback": f"{self.pipeline}/{self.writeback}", "state": self.state}


def doubts(folder: Path) -> list[Doubt]:
    """All calls that are in doubt, or were begun a moment ago."""
    configuration = load_from_environment(folder)
    kafka = configuration.hub.kafka
    with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
        return [each for name in sorted(configuration.pipelines) for each in _doubts_of(admin, kafka, name)]


def _doubts_of(admin: Admin, kafka: KafkaConfig, pipeline: str) -> Iterator[Doubt]:
    found: dict[bytes, Any] = {}
    for record in admin.read(PipelineTopics.of(kafka.prefix, pipeline, kafka.partitions).intents.name):
        if record.value is None:
            found.pop(record.key, None)
        else:
            found[record.key] = record
    for name, record in found.items():
        writeback, _, write_id = name.decode().partition("/")
        state = (header(record.headers, STATE) or "begun").replace("_", " ")
        yield Doubt(write_id, pipeline, writeback, state, record.value.decode("utf-8", "replace"))


def resolve(folder: Path, write_id: str, verdict: Verdict, by: str, reason: str) -> None:
    """Ends a doubt; the worker that owns the record carries it out.

    Raises:
        ConfigError: no call of that id is in doubt.
    """
    if not any(each.write_id == write_id for each in doubts(folder)):
        raise ConfigError(f"no call {write_id!r} is in doubt; `crossdock doubt list` shows those that are")
    record = Resolution(write_id=write_id, verdict=verdict, by=by, reason=reason, time=_now())
    kafka = _kafka(folder)
    with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
        admin.append(HubTopics.of(kafka.prefix).control.name, [(control_key(Resolution, write_id), encode(record))])


def _kafka(folder: Path) -> KafkaConfig:
    return load_from_environment(folder).hub.kafka


def _now() -> str:
    return rfc3339(SystemClock().now())
