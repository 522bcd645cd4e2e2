"""Records of Kafka as a Parquet file and back, byte for byte, with a few columns that people can ask for.

pyarrow is large: only who writes or reads an archive loads this module.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.errors import Retriable
from schemas.codec import Undecodable, decode
from schemas.dead_letter import DeadLetter
from schemas.event import header
from schemas.receipt import ReceiptRecord
from streams.runtime.kafka import ConsumerRecord

pa.set_cpu_count(1)  # threads of its own would cost memory and take the cores from the lanes
pa.set_memory_pool(pa.system_memory_pool())

GROUP = 4 << 20
"""Bytes of keys, values and headers that are held before they are written as one row group."""
_AT_ONCE = 2000

SCHEMA = pa.schema(
    [
        ("topic", pa.dictionary(pa.int32(), pa.string())),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("timestamp_type", pa.int8()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
        ("event_id", pa.string()),
        ("pipeline", pa.string()),
        ("fate", pa.string()),
    ]
)
"""The last three are read out of key, value and headers, as far as these are what their topic promises."""


class ChunkFile:
    """One file that is being written. Raises Retriable where the file system refuses."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._writer: pq.ParquetWriter | None = None
        self._held: list[ConsumerRecord] = []
        self._size = 0
        self.rows = self.bytes = 0

    def add(self, records: Sequence[ConsumerRecord]) -> None:
        self._held += records
        size = sum(_size(record) for record in records)
        self._size += size
        self.bytes += size
        self.rows += len(records)
        if self._size >= GROUP:
            self._flush()

    def finish(self) -> None:
        self._flush()
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            raise _refused(self._file, error) from error

    def give_up(self) -> None:
        """Nothing of it is kept."""
        with contextlib.suppress(OSError, pa.ArrowException):
            if self._writer is not None:
                self._writer.close()
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._held:
            rows = pa.Table.from_pylist([_row(record) for record in self._held], schema=SCHEMA)
            self._held, self._size = [], 0
            try:
                self._writer = self._writer or pq.ParquetWriter(
                    self._file, SCHEMA, compression="zstd", use_dictionary=["topic", "pipeline", "fate"]
                )
                self._writer.write_table(rows)
            except OSError as error:
                raise _refused(self._file, error) from error


def records_of(file: Path) -> Iterator[list[ConsumerRecord]]:
    """The records of a file, in order, as they came from Kafka."""
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(_AT_ONCE, use_threads=False):
            timestamps = batch.column("timestamp").cast(pa.int64()).to_pylist()
            rows = batch.drop_columns(["timestamp"]).to_pylist()
            yield [_record(row, at) for row, at in zip(rows, timestamps, strict=True)]


def _row(record: ConsumerRecord) -> dict[str, Any]:
    event_id, pipeline, fate = _readable(record)
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "timestamp_type": record.timestamp_type,
        "key": record.key,
        "value": record.value,
        "headers": [{"name": name, "value": value} for name, value in record.headers],
        "event_id": event_id,
        "pipeline": pipeline,
        "fate": fate,
    }


def _record(row: dict[str, Any], timestamp: int) -> ConsumerRecord:
    key, value = row["key"], row["value"]
    return ConsumerRecord(
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        timestamp=timestamp,
        timestamp_type=row["timestamp_type"],
        key=key,
        value=value,
        checksum=None,
        serialized_key_size=-1 if key is None else len(key),
        serialized_value_size=-1 if value is None else len(value),
        headers=tuple((each["name"], each["value"]) for each in row["headers"]),
    )


def _readable(record: ConsumerRecord) -> tuple[str | None, str | None, str | None]:
    """Event, pipeline and fate."""
    stem, _, kind = record.topic.rpartition(".")
    pipeline = stem.rpartition(".")[2]
    try:
        match kind:
            case "receipts":
                receipt = decode(record.value or b"", ReceiptRecord)
                return receipt.event_id, pipeline, receipt.fate.value
            case "dead":
                return decode(record.value or b"", DeadLetter).event_id, pipeline, "dead"
            case _:
                return header([each for each in record.headers if each[1] is not None], "ce_id"), pipeline, "review"
    except Undecodable:
        return None, pipeline, None


def _size(record: ConsumerRecord) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers + 100


def _refused(file: Path, error: OSError) -> Retriable:
    return Retriable(f"the archive {file.parent}: {error}")
