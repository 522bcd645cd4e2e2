"""Source offsets as they stand in `crossdock.offsets`: written in the same transaction as the records they follow."""

import msgspec

from connectors.contract import TaskSpec
from connectors.errors import ConfigError
from schemas.codec import Undecodable, decode, encode
from schemas.values import JsonValue, Offset
from streams.runtime.compacted import newest_value
from streams.runtime.kafka import Kafka
from streams.runtime.publisher import Outgoing
from streams.topics import Topic, ownership_partition


class OffsetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a record of `crossdock.offsets`; its key is the task's name."""

    cd_schema: int = 1
    task: str
    depends_on: str
    offset: dict[str, JsonValue]
    changes: int
    """Changes emitted by the task so far."""
    time: str


async def stored(kafka: Kafka, topic: Topic, task: TaskSpec) -> OffsetRecord | None:
    """The task's last committed offset. Call it only after the task was taken over.

    Raises:
        ConfigError: it was stored under another configuration (object, mode, cursor, key or filter changed).
    """
    value = await newest_value(kafka, topic, ownership_partition(task.name), task.name.encode())
    if value is None:
        return None
    try:
        record = decode(value, OffsetRecord)
    except Undecodable as error:
        raise ConfigError(f"the stored offset of {task.name} cannot be read: {error}") from error
    if record.depends_on != task.depends_on:
        raise ConfigError(
            f"the stored offset of {task.name} belongs to another configuration (its table, mode, cursor or key "
            "changed); give the pipeline's source a new name, or put the old configuration back"
        )
    return record


def outgoing(task: TaskSpec, offset: Offset, changes: int, time: str) -> Outgoing:
    """The offset as a record. Its topic is partitioned like the tasks' ownership."""
    record = OffsetRecord(task=task.name, depends_on=task.depends_on, offset=dict(offset), changes=changes, time=time)
    return Outgoing(task.name.encode(), encode(record))
