"""The newest version of a record that the hub has read, from `<p>.latest`."""

import asyncio
import logging
from collections.abc import Mapping, Set

import msgspec

from schemas.codec import decode
from streams.runtime.compacted import newest_values
from streams.runtime.kafka import Kafka, KafkaError
from streams.topics import Topic

log = logging.getLogger("crossdock.streams.newest")


class _Versioned(msgspec.Struct):
    version: str


class NewestVersions:
    """Asked only where a conflict is about to be written over, which is rare: it reads the whole partition."""

    def __init__(self, kafka: Kafka, latest: Topic) -> None:
        self._kafka, self._latest = kafka, latest

    async def __call__(self, partition: int, keys: Set[bytes]) -> Mapping[bytes, str]:
        """By key; a record that was deleted has none. Waits for as long as the broker is away."""
        while True:
            try:
                found = await newest_values(self._kafka, self._latest, partition, keys.__contains__)
            except KafkaError as error:
                log.warning("compacted.interrupted error=%r", error)
                await asyncio.sleep(1.0)
            else:
                return {key: decode(value, _Versioned).version for key, value in found.items()}
