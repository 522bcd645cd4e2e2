"""Dead letters, as the command line shows them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connectors.errors import ConfigError
from crossdock.configuration.load import load_from_environment
from schemas.codec import decode
from schemas.dead_letter import DeadLetter
from streams.admin import Admin
from streams.topics import PipelineTopics


def list_letters(folder: Path, pipeline: str | None = None) -> list[dict[str, Any]]:
    """One row for each dead letter, oldest first, with the number that `show` takes."""
    return [
        {
            "id": number,
            "at": letter.last_seen,
            "pipeline": letter.pipeline,
            "stage": letter.stage,
            "code": letter.code,
            "reason": letter.reason,
            "event": letter.event_id,
            "fingerprint": letter.fingerprint,
        }
        for number, letter in _letters(folder, pipeline)
    ]


def show_letter(folder: Path, number: str) -> dict[str, Any]:
    """Everything about one dead letter; its original bytes as text where they are text.

    Raises:
        ConfigError: there is none of that number.
    """
    pipeline = number.rpartition("/")[0]
    for found, letter in _letters(folder, pipeline or None):
        if found == number:
            return {
                "id": number,
                "pipeline": letter.pipeline,
                "writeback": letter.writeback,
                "stage": letter.stage,
                "code": letter.code,
                "reason": letter.reason,
                "fingerprint": letter.fingerprint,
                "attempts": letter.attempts,
                "event": letter.event_id,
                "origin": f"{letter.topic}/{letter.partition}/{letter.offset}",
                "key": _text(letter.key),
                "value": _text(letter.value),
                "headers": {name: _text(value) for name, value in letter.headers},
                "config": letter.config,
                "model": letter.model,
                "first_seen": letter.first_seen,
                "last_seen": letter.last_seen,
            }
    raise ConfigError(f"no dead letter {number!r}; `crossdock dead list` shows their ids")


def _letters(folder: Path, pipeline: str | None) -> Iterator[tuple[str, DeadLetter]]:
    configuration = load_from_environment(folder)
    if pipeline is not None and pipeline not in configuration.pipelines:
        raise ConfigError(f"no pipeline {pipeline!r}; known: {', '.join(sorted(configuration.pipelines))}")
    kafka = configuration.hub.kafka
    with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
        for name in [pipeline] if pipeline is not None else sorted(configuration.pipelines):
            for record in admin.read(PipelineTopics.of(kafka.prefix, name, kafka.partitions).dead.name):
                yield f"{name}/{record.offset}", decode(record.value, DeadLetter)


def _text(value: bytes | None) -> str | None:
    """Text where it is text; else hexadecimal, said so."""
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return f"hex:{value.hex()}"
