"""The index, wired: the task of the workers, and what the command line asks of it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.clock import Clock, SystemClock
from crossdock.archive import expired, past_of
from crossdock.configuration.load import Configuration, load_from_environment
from streams.runtime.kafka import Kafka
from streams.runtime.ownership import Body
from streams.topics import HubTopics, PipelineTopics, Topic

if TYPE_CHECKING:
    from streams.admin import Admin
    from streams.index.database import IndexDatabase
    from streams.index.projection import Projection

TASK = "crossdock.index"
FILE = "index.db"


def projecting(configuration: Configuration, kafka: Kafka, clock: Clock) -> Body:
    """The life of the index's owner. Its libraries are loaded by the owner alone, as they are large."""

    async def run(stop: asyncio.Event) -> None:
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="index")
        in_thread = asyncio.get_running_loop().run_in_executor
        database = await in_thread(thread, database_of, configuration)
        try:
            projection = await in_thread(thread, lambda: projection_of(configuration, database, kafka, thread, clock))
            await projection.run(stop)
        finally:
            thread.submit(database.close)
            thread.shutdown(wait=False)  # a call in hand must not hold the loop

    return run


def database_of(configuration: Configuration) -> "IndexDatabase":
    """Where the hub's index is; it is not opened yet."""
    from streams.index.database import IndexDatabase

    config = configuration.hub.index
    url = config.url
    if url is None:
        url = f"sqlite:///{(configuration.folder / '.crossdock' / FILE).absolute()}"
    password = None if config.password is None else config.password.reveal
    return IndexDatabase(url, configuration.hub.kafka.prefix, password)


def projection_of(
    configuration: Configuration, database: "IndexDatabase", kafka: Kafka, thread: ThreadPoolExecutor, clock: Clock
) -> "Projection":
    """What projects all topics of the configuration."""
    from streams.index.projection import Projection, projected_topics

    past = past_of(configuration)
    return Projection(kafka, projected_topics(*_all_topics(configuration)), database, thread, clock, past=past)


@contextlib.contextmanager
def opened(configuration: Configuration) -> Iterator["IndexDatabase"]:
    """The index for a command's own use; its tables are made where they are missing."""
    database = database_of(configuration)
    try:
        database.open()
        yield database
    finally:
        database.close()


def catch_up(
    configuration: Configuration, database: "IndexDatabase", told: Callable[[int], None] | None = None
) -> None:
    """Projects up to what is on Kafka now, whether or not a worker runs.

    Raises:
        Retriable: Kafka or the index's database does not answer.
    """
    config = configuration.hub.kafka
    kafka = Kafka(config.bootstrap, client_id="crossdock-index", security=config.security())
    with ThreadPoolExecutor(max_workers=1) as thread:
        asyncio.run(projection_of(configuration, database, kafka, thread, SystemClock()).catch_up(told))


def rebuild(folder: Path, told: Callable[[int, int], None]) -> dict[str, Any]:
    """Deletes all that the index holds of this hub, and makes it again out of Kafka; what expired, out of the archive.

    Args:
        folder: of crossdock.yaml.
        told: hears how many records are done, and of how many.

    Returns:
        The status after it.

    Raises:
        ConfigError: there is an archive, and no pyarrow to read it.
        Retriable: Kafka, the index's database or the archive does not answer.
    """
    configuration = load_from_environment(folder)
    past_of(configuration)
    topics = [topic.name for topic in topics_of(configuration)]
    with opened(configuration) as database:
        with _admin(configuration) as admin:
            spans = admin.spans(topics)
        total = sum(span.end - span.begin for span in spans.values()) + expired(configuration, spans)
        database.clear(topics)
        done = 0

        def step(count: int) -> None:
            nonlocal done
            done = min(total, done + count)
            told(done, total)

        catch_up(configuration, database, step)
        return _status(configuration, database)


def status(folder: Path) -> dict[str, Any]:
    """What the index holds, as of when, and how far it is behind Kafka.

    Raises:
        Retriable: Kafka or the index's database does not answer.
    """
    configuration = load_from_environment(folder)
    with opened(configuration) as database:
        return _status(configuration, database)


def _status(configuration: Configuration, database: "IndexDatabase") -> dict[str, Any]:
    topics = [topic.name for topic in topics_of(configuration)]
    with _admin(configuration) as admin:
        spans = admin.spans(topics)
    positions = database.positions(topics)
    behind = {tp: max(0, span.end - max(span.begin, positions.get(tp, 0))) for tp, span in spans.items()}
    rows, as_of = database.counts(topics)
    return {"url": database.url, "as_of": as_of, "behind": sum(behind.values()), "rows": rows}


def topics_of(configuration: Configuration) -> list[Topic]:
    """All that is projected."""
    from streams.index.projection import projected_topics

    return list(projected_topics(*_all_topics(configuration)))


def _all_topics(configuration: Configuration) -> tuple[list[PipelineTopics], HubTopics]:
    config = configuration.hub.kafka
    pipelines = [configuration.topics(name) for name in configuration.pipelines]
    return pipelines, HubTopics.of(config.prefix)


def _admin(configuration: Configuration) -> "Admin":
    from streams.admin import Admin

    return Admin(configuration.hub.kafka.bootstrap, configuration.hub.kafka.admin_security())
