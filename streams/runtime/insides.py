"""What we read and set inside of aiokafka: the only place where a private name of another library is touched.

Each function says what it is needed for; `tests/contract/test_aiokafka.py` fails when aiokafka changes it.
"""

from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata


class Dead(Exception):
    """A consumer's background work ended for good; only a new consumer helps."""


def check_errors(consumer: AIOKafkaConsumer) -> None:
    """Raises what a consumer would else keep to itself. Never call it for one that was told to stop.

    `getmany()` tells of an error of the coordinator, but not where nothing is fetched; of a fetcher that ended it
    never tells, and finds nothing from then on.

    Raises:
        Dead: nothing will come any more.
        KafkaError: what the coordinator has to say; it goes on.
    """
    coordinator = consumer._coordinator  # noqa: SLF001
    group = getattr(coordinator, "_coordination_task", None) or coordinator._reset_committed_task  # noqa: SLF001
    for what, task in (("reads", consumer._fetcher.error_future), ("coordinates", group)):  # noqa: SLF001
        if task.done():
            raise Dead(f"aiokafka {what} no more") from (None if task.cancelled() else task.exception())
    coordinator.check_errors()


def identity(consumer: AIOKafkaConsumer) -> tuple[int, str] | None:
    """Generation of the group and id of this member in it; None between two generations."""
    coordinator = consumer._coordinator  # noqa: SLF001
    if coordinator.generation < 0 or not coordinator.member_id:
        return None
    return coordinator.generation, coordinator.member_id


async def committed_with_metadata(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Committed offsets with their metadata, which aiokafka reads and does not hand out."""
    found: dict[TopicPartition, OffsetAndMetadata] = await consumer._coordinator.fetch_committed_offsets(partitions)  # noqa: SLF001
    return found


def leave_at_stop(consumer: AIOKafkaConsumer) -> None:
    """Lets `stop()` leave the group at once. A static member would else be missed for a whole session."""
    consumer._coordinator._group_instance_id = None  # noqa: SLF001


async def hang_up(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Closes the connections of a client whose `stop()` ended early: it closes them last, so they would stay open."""
    await (client.client if isinstance(client, AIOKafkaProducer) else client._client).close()  # noqa: SLF001
