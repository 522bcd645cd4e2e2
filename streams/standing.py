"""Where a group stands in its topics, and whether that can be trusted: never a silent jump.

Kafka forgets the commits of a group that is empty for seven days, and knows nothing of a topic that was made anew. So
each reader's commits are mirrored on `crossdock.offsets`, beside the id of the topic that they mean.

| committed | mirrored         | the topic                        | the partition                               |
|-----------|------------------|----------------------------------|---------------------------------------------|
| yes       | -                | holds the offset                 | goes on from there                          |
| no        | yes              | holds the offset                 | goes on from the mirrored one, and says so  |
| no        | no, the group is new here | -                       | begins at the beginning                     |
| no        | no, but others of the topic are | -                 | stops: forgotten                            |
| -         | another topic id | -                                | stops: the topic was made anew              |
| yes       | -                | ends before it                   | stops                                       |
| yes       | -                | begins behind it                 | stops: retention deleted unread records     |
"""

from typing import NamedTuple

import msgspec

from schemas.codec import encode
from schemas.control import Trouble
from streams.runtime.publisher import Outgoing
from streams.topics import ownership_partition


class GroupOffset(msgspec.Struct, frozen=True, kw_only=True):
    """The mirrored commit of one group in one partition."""

    cd_schema: int = 1
    group: str
    topic: str
    partition: int
    topic_id: str | None
    """None: this Kafka tells no ids."""
    offset: int
    move: str | None = None
    """Id of the last move that a person asked for."""
    time: str


class Place(NamedTuple):
    """All that is known of one group in one partition."""

    committed: int | None
    mirrored: GroupOffset | None
    known: bool
    """The group has mirrored something of this topic."""
    low: int
    high: int
    topic_id: str | None


class Start(NamedTuple):
    """Where a partition is read from."""

    offset: int
    restored: bool = False
    """Out of the mirror: Kafka had forgotten it."""


class Stop(NamedTuple):
    """Why a partition is not read."""

    trouble: Trouble
    reason: str


def judge(place: Place) -> Start | Stop:
    """What the table above says."""
    at, mirrored = stands_at(place), place.mirrored
    if mirrored is not None and None not in (mirrored.topic_id, place.topic_id) and mirrored.topic_id != place.topic_id:
        return Stop(Trouble.RECREATED, f"the topic was made anew since offset {at} was committed")
    if at is None:
        if place.known:
            return Stop(Trouble.LOST, "the group has read this topic, and neither Kafka nor the hub knows how far")
        return Start(place.low)
    if at > place.high:
        return Stop(Trouble.BEYOND_THE_END, f"the group has read up to {at}, and the topic ends at {place.high}")
    if at < place.low:
        unread = place.low - at
        return Stop(Trouble.RETENTION_PASSED, f"the {unread} records from {at} on were deleted before they were read")
    return Start(at, restored=place.committed is None and at > place.low)


def stands_at(place: Place) -> int | None:
    """The offset that the group had reached, by Kafka or by the mirror."""
    if place.committed is not None:
        return place.committed
    return None if place.mirrored is None else place.mirrored.offset


def subject_of(prefix: str, group: str, topic: str, partition: int) -> str:
    """How a person names it: `write.flightops/delay-risk.enriched/3`."""
    return f"{group.removeprefix(f'{prefix}.crossdock.')}/{topic.removeprefix(f'{prefix}.')}/{partition}"


def mirror_key(subject: str) -> bytes:
    return f"group/{subject}".encode()


def mirror_partition(prefix: str, group: str) -> int:
    """All of a group lies in one partition of `crossdock.offsets`, so that one look finds it."""
    return ownership_partition(group.removeprefix(f"{prefix}."))


def outgoing(prefix: str, record: GroupOffset) -> Outgoing:
    subject = subject_of(prefix, record.group, record.topic, record.partition)
    return Outgoing(mirror_key(subject), encode(record), partition=mirror_partition(prefix, record.group))
