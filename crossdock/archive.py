"""The archive, wired: the task of the workers, and what the command line asks of it."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.clock import Clock
from connectors.errors import ConfigError
from crossdock.configuration.across import ARCHIVE_NEEDS
from crossdock.configuration.load import Configuration, load_from_environment
from streams.runtime.kafka import Kafka
from streams.runtime.ownership import Body
from streams.topics import Topic

if TYPE_CHECKING:
    from streams.admin import Span
    from streams.archive.manifest import Shelf
    from streams.archive.past import Past

TASK = "crossdock.archive"


def archiving(configuration: Configuration, kafka: Kafka, clock: Clock) -> dict[str, Body]:
    """The life of the archive's owner, by its name; nothing where none is declared.

    Its libraries are loaded by the owner alone, as they are large.
    """
    config, folder = configuration.hub.archive, configuration.archive
    if config is None or folder is None:
        return {}

    async def run(stop: asyncio.Event) -> None:
        from streams.archive.archiving import Archiving, Chunks

        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive")
        try:
            chunks = Chunks(folder, config.rows, config.every)
            await Archiving(kafka, _audited(configuration), chunks, thread, clock).run(stop)
        finally:
            thread.shutdown(wait=False)  # a call in hand must not hold the loop

    return {TASK: run}


def past_of(configuration: Configuration) -> "Past | None":
    """The archive for those who read it; None = none is declared.

    Raises:
        ConfigError: it is declared, and pyarrow is missing.
    """
    from streams.archive.past import Past

    if configuration.archive is None:
        return None
    if find_spec("pyarrow") is None:
        raise ConfigError(f"crossdock.yaml: archive: pyarrow is not installed; {ARCHIVE_NEEDS}")
    return Past(configuration.archive)


def expired(configuration: Configuration, spans: "Mapping[tuple[str, int], Span]") -> int:
    """How many archived records Kafka no longer has."""
    found = 0
    for shelf in _shelves(configuration) if configuration.archive is not None else ():
        span = spans.get((shelf.place.topic, shelf.place.partition))
        if span is not None:
            found += sum(manifest.rows for _, manifest in shelf.manifests() if manifest.start < span.begin)
    return found


def status(folder: Path) -> dict[str, Any]:
    """What is archived of each topic, up to when, and how much of Kafka is not archived yet.

    Raises:
        ConfigError: no archive is declared.
        Retriable: the folder or Kafka does not answer.
        Damaged: a manifest cannot be read.
    """
    from streams.admin import Admin

    configuration = load_from_environment(folder)
    found: dict[str, dict[str, Any]] = {}
    ends: dict[tuple[str, int], int] = {}
    for shelf in _shelves(configuration):
        topic, empty = shelf.place.topic, {"files": 0, "rows": 0, "bytes": 0, "newest": None, "waiting": 0}
        each = found.setdefault(topic, empty)
        for _, manifest in shelf.manifests():
            each["files"] += 1
            each["rows"] += manifest.rows
            each["bytes"] += manifest.bytes
            each["newest"] = max(each["newest"] or "", manifest.newest)
            ends[topic, shelf.place.partition] = manifest.next
    kafka = configuration.hub.kafka
    with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
        for (topic, number), span in admin.spans([topic.name for topic in _audited(configuration)]).items():
            each = found.setdefault(topic, {"files": 0, "rows": 0, "bytes": 0, "newest": None, "waiting": 0})
            each["waiting"] += max(0, span.end - max(span.begin, ends.get((topic, number), 0)))
    return {"folder": str(configuration.archive), "topics": dict(sorted(found.items()))}


def verify(folder: Path) -> dict[str, Any]:
    """Whether every file is as it was written and no offset is missing between them. Asks neither Kafka nor pyarrow.

    Raises:
        ConfigError: no archive is declared, or its folder is not there.
        Retriable: the folder does not answer.
    """
    from streams.archive.manifest import problems

    configuration = load_from_environment(folder)
    shelves = _shelves(configuration)
    if configuration.archive is not None and not configuration.archive.is_dir():
        raise ConfigError(f"{configuration.archive}: there is no such folder; a worker (`crossdock run`) writes it")
    wrong = [problem for shelf in shelves for problem in problems(shelf)]
    return {"folder": str(configuration.archive), "partitions": len(shelves), "problems": wrong}


def _shelves(configuration: Configuration) -> "list[Shelf]":
    from streams.archive.manifest import shelves

    if configuration.archive is None:
        place = configuration.folder / "crossdock.yaml"
        raise ConfigError(f"{place}: no archive is declared; put `archive: {{folder: archive}}` into it")
    return shelves(configuration.archive)


def _audited(configuration: Configuration) -> list[Topic]:
    return [topic for name in configuration.pipelines for topic in configuration.topics(name).audited]
