"""What safety costs: the same events through the three legs of the hub with everything on, and with everything off.

    python -m benchmarks.safety [EVENTS]

On: the source's records and offset in one Kafka transaction; an update with version check, comparison and ledger; a
receipt for each event, acknowledged by the broker. Off: plain batches, an update without a ledger, no receipts. A real
Kafka and a real PostgreSQL, one partition, batches of 500. Printed for each leg and for all: microseconds of this
process's CPU per event, the database's beside it, and on : off. The best of several rounds counts, on and off in turn.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import sqlalchemy as sa

from connectors.clock import SystemClock
from connectors.sql.config import SqlSystemConfig, SqlWritebackConfig
from crossdock.broker import Broker
from crossdock.ports import free_port
from crossdock.postgres import PostgresServer
from schemas.change import Change, Op, canonical_key
from schemas.codec import encode_change
from schemas.event import headers_of
from schemas.outcome import Fate, Outcome
from schemas.receipt import Receipt
from schemas.version import Version
from schemas.write import Write, write_id
from streams.admin import Admin
from streams.runtime.kafka import ConsumerRecord, Kafka
from streams.runtime.publisher import Outgoing, Publisher
from streams.runtime.transaction import TaskTransactions
from streams.settled import Settled
from streams.topics import HubTopics, PipelineTopics

EVENTS, BATCH, ROUNDS = 20_000, 500, 3
CLOCK = SystemClock()
TOPICS, HUB = PipelineTopics.of("bench", "safety", 1), HubTopics.of("bench")
TABLE = "CREATE TABLE orders (id bigint PRIMARY KEY, a text, risk double precision, band text, rev bigint NOT NULL)"


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU per event."""

    client: float
    database: float = 0.0

    @property
    def total(self) -> float:
        return self.client + self.database


def main() -> None:
    """Starts the servers, measures, ends them."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "kafka", free_port())
        postgres = PostgresServer(Path(folder) / "postgres", free_port(), "secret")
        try:
            broker.start()
            postgres.start()
            with Admin(broker.bootstrap) as admin:
                admin.ensure([*TOPICS.all(), *HUB.all()])
            asyncio.run(_measure(Kafka(broker.bootstrap), postgres, events))
        finally:
            postgres.remove()
            broker.stop()


async def _measure(kafka: Kafka, postgres: PostgresServer, events: int) -> None:
    changes = [_change(number) for number in range(events)]
    publisher = Publisher(kafka)
    await publisher.start()
    async with TaskTransactions(kafka, "bench.safety") as transactions:
        legs: dict[str, tuple[Callable[[], Awaitable[Cost]], Callable[[], Awaitable[Cost]]]] = {
            "source": (
                lambda: _send(changes, transactions.commit, with_offset=True),
                lambda: _send(changes, publisher.publish, with_offset=False),
            ),
            "write": (
                lambda: _write(changes, postgres, ledger=True),
                lambda: _write(changes, postgres, ledger=False),
            ),
            "receipts": (lambda: _receipts(changes, publisher), _nothing),
        }
        on, off = Cost(0), Cost(0)
        for name, (safe, bare) in legs.items():
            pairs = [(await safe(), await bare()) for _ in range(ROUNDS)]
            leg_on, leg_off = (min((pair[side] for pair in pairs), key=lambda cost: cost.total) for side in (0, 1))
            on = Cost(on.client + leg_on.client, on.database + leg_on.database)
            off = Cost(off.client + leg_off.client, off.database + leg_off.database)
            _tell(name, leg_on, leg_off)
        _tell("all", on, off)
    await publisher.stop()


def _tell(leg: str, on: Cost, off: Cost) -> None:
    line = {
        "leg": leg,
        "on_us": round(on.client, 2),
        "off_us": round(off.client, 2),
        "database_on_us": round(on.database, 2),
        "database_off_us": round(off.database, 2),
        "ratio": round(on.total / off.total, 2) if off.total else None,
    }
    sys.stdout.write(json.dumps(line) + "\n")


def _change(number: int) -> Change:
    version = str(Version(1, number))
    after = {"id": number, "a": "x" * 80, "risk": None, "band": None, "rev": 1}
    return Change(
        op=Op.UPSERT,
        key={"id": number},
        before=None,
        after=after,
        version=version,
        origin="erp/orders",
        event_id=f"erp/orders/{number}@{version}~deadbeef",
        time="2026-01-01T00:00:00.000000Z",
    )


def _batches(changes: list[Change]) -> list[list[Change]]:
    return [changes[at : at + BATCH] for at in range(0, len(changes), BATCH)]


async def _send(changes: list[Change], send: Callable[..., Awaitable[None]], *, with_offset: bool) -> Cost:
    start = time.process_time()
    for part in _batches(changes):
        records = [Outgoing(canonical_key(each.key), encode_change(each), headers_of(each, b"c")) for each in part]
        offset = {HUB.offsets: [Outgoing(b"task", b'{"offset":1}')]} if with_offset else {}
        await send({TOPICS.changes: records, **offset})
    return Cost(_each(time.process_time() - start, changes))


async def _write(changes: list[Change], postgres: PostgresServer, *, ledger: bool) -> Cost:
    postgres.create_database("bench")
    os.environ["BENCH_PASSWORD"] = postgres.password
    url = f"postgresql://crossdock@127.0.0.1:{postgres.port}/bench"
    engine = sa.create_engine(sa.make_url(url).set(password=postgres.password))
    with engine.begin() as connection:
        connection.exec_driver_sql(TABLE)
        connection.exec_driver_sql(
            f"INSERT INTO orders SELECT n, repeat('x', 80), NULL, NULL, 1 FROM generate_series(0, {len(changes)}) n"
        )
    engine.dispose()
    system = SqlSystemConfig(name="erp", type="sql", url=url, password="${env:BENCH_PASSWORD}").build(CLOCK)  # type: ignore[arg-type]
    block = {"system": "erp", "update": "orders", "match": {"id": "key.id"}, "set": {"risk": "a", "band": "a"}}
    version = {"version": {"column": "rev", "rule": "equals"}}
    config = SqlWritebackConfig.model_validate(block | version | {"idempotency": "ledger" if ledger else "natural"})
    sink = system.sink(config, prefix="bench")
    sink.open()
    writes = [_a_write(each) for each in changes]
    before, start = _database_cpu(postgres), time.process_time()
    for at in range(0, len(writes), BATCH):
        receipts = sink.put(writes[at : at + BATCH], CLOCK.monotonic() + 60)
        assert receipts[0].outcome is Outcome.APPLIED
    client, database = time.process_time() - start, _database_cpu(postgres) - before
    system.close()
    _drop(postgres)
    return Cost(_each(client, changes), _each(database, changes))


def _a_write(change: Change) -> Write:
    name = write_id("bench", "safety", "erp", change.event_id)
    return Write(name, change.key, {"risk": 0.25, "band": "low"}, change.version, 1)


async def _receipts(changes: list[Change], publisher: Publisher) -> Cost:
    records = [_record(each) for each in changes]
    writes = [_a_write(each) for each in changes]
    applied = Receipt(Outcome.APPLIED, 1, 1)
    incoming = Settled("safety", TOPICS, "c", CLOCK).decode(records)  # paid by write-back in any case
    start = time.process_time()
    for at in range(0, len(records), BATCH):
        settled = Settled("safety", TOPICS, "c", CLOCK)
        for each, write in zip(incoming[at : at + BATCH], writes[at : at + BATCH], strict=True):
            settled.written(each, Fate.APPLIED, write, "erp", applied)
        await publisher.publish(settled.outputs)
    return Cost(_each(time.process_time() - start, changes))


async def _nothing() -> Cost:
    return Cost(0.0)


def _record(change: Change) -> ConsumerRecord:
    key, value, headers = canonical_key(change.key), encode_change(change), headers_of(change, b"c")
    return ConsumerRecord(TOPICS.enriched.name, 0, 0, 0, 0, key, value, None, 0, 0, headers)


def _each(seconds: float, changes: list[Change]) -> float:
    return seconds / len(changes) * 1e6


def _database_cpu(postgres: PostgresServer) -> float:
    """CPU seconds of the server and all its children that live."""
    pid = int((postgres.home / "data" / "postmaster.pid").read_text().split()[0])
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(each.cpu_times().user + each.cpu_times().system for each in family if each.is_running())


def _drop(postgres: PostgresServer) -> None:
    url = sa.make_url(f"postgresql://crossdock@127.0.0.1:{postgres.port}/postgres").set(password=postgres.password)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE bench")
    engine.dispose()


if __name__ == "__main__":
    main()
