"""What Kafka no longer has, read back out of the archive. Its library is loaded when there is something to read."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from streams.archive.manifest import Place, Shelf, changed
from streams.runtime.kafka import ConsumerRecord

log = logging.getLogger("crossdock.streams.archive")


class Part(NamedTuple):
    """Some records of a partition, and the position behind them."""

    records: Sequence[ConsumerRecord]
    next: int


class Past:
    """An archive that is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def between(self, place: Place, start: int, end: int) -> Iterator[Part]:
        """The records of a partition from one offset to another at least; whole files, in order.

        A file that is not what was written is left out, and the log says so.

        Raises:
            Retriable: the file system refuses.
            Damaged: a manifest cannot be read.
        """
        for file, manifest in Shelf(self._folder, place).manifests(start):
            if start >= end:
                return
            if (problem := changed(file, manifest)) is not None:
                log.error("archive.damaged problem=%r (its records are not in the index)", problem)
                continue
            from streams.archive.parquet import records_of

            for records in records_of(file):
                wanted = [record for record in records if record.offset >= start]
                if wanted:
                    start = wanted[-1].offset + 1
                    yield Part(wanted, start)
            if start < manifest.next:  # markers of transactions
                start = manifest.next
                yield Part((), start)
