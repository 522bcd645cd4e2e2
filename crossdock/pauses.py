"""Pausing a pipeline's sources, and letting them go on: what a person says, for all workers."""

from pathlib import Path

from connectors.clock import Clock
from connectors.errors import ConfigError
from crossdock.configuration.load import Configuration, load_from_environment
from crossdock.operator import records
from schemas.control import Pause, PauseCause, control_key
from schemas.values import rfc3339
from streams.admin import Admin
from streams.control import outgoing
from streams.topics import HubTopics


def pause(folder: Path, pipeline: str, reason: str, by: str, clock: Clock) -> None:
    """Nothing more is read from its sources, until `resume`; what was read is enriched and written.

    Raises:
        ConfigError: there is no such pipeline.
        Retriable: Kafka does not answer.
    """
    configuration = _with(folder, pipeline)
    record = outgoing(
        Pause(pipeline=pipeline, cause=PauseCause.OPERATOR, reason=reason, by=by, time=rfc3339(clock.now()))
    )
    assert record.key is not None
    with _admin(configuration) as admin:
        admin.append(_topic(configuration), [(record.key, record.value)])


def resume(folder: Path, pipeline: str) -> Pause | None:
    """Takes a person's pause back.

    Returns:
        A pause of the hub's own that still holds.

    Raises:
        ConfigError: there is no such pipeline, or nobody paused it.
        Retriable: Kafka does not answer.
    """
    configuration = _with(folder, pipeline)
    with _admin(configuration) as admin:
        mine, others = standing(admin, configuration, pipeline)
        if mine is None and others is None:
            raise ConfigError(f"{pipeline} is not paused; `crossdock status` shows what is")
        if mine is not None:
            admin.append(_topic(configuration), [(control_key(Pause, mine.name), None)])
    return others


def standing(admin: Admin, configuration: Configuration, pipeline: str) -> tuple[Pause | None, Pause | None]:
    """The pause of a person, and the hub's own."""
    known = records(admin, configuration.hub.kafka.prefix)
    found = [known.get(control_key(Pause, f"{pipeline}/{cause.value}")) for cause in PauseCause]
    mine, others = (each if isinstance(each, Pause) else None for each in found)
    return mine, others


def _with(folder: Path, pipeline: str) -> Configuration:
    configuration = load_from_environment(folder)
    configuration.pipeline(pipeline)
    return configuration


def _admin(configuration: Configuration) -> Admin:
    return Admin(configuration.hub.kafka.bootstrap, configuration.hub.kafka.admin_security())


def _topic(configuration: Configuration) -> str:
    return HubTopics.of(configuration.hub.kafka.prefix).control.name
