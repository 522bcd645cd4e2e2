"""A program that a test stops and wakes: it reads a topic and owns a transactional id, and tells what becomes of both.

`python -m zombie BOOTSTRAP TOPIC ID`; its lines are `works`, and once it was told `go` on its standard input
`transaction <how it ended>` and `joined again`.
"""

import asyncio
import sys

from aiokafka import TopicPartition
from flow import Flow, Member

from streams.runtime.kafka import Kafka
from streams.runtime.lanes import Hold
from streams.runtime.publisher import Outgoing
from streams.runtime.transaction import Interrupted, NotMine, TaskTransactions
from streams.topics import Topic


async def main(bootstrap: str, name: str, transactional_id: str) -> None:
    topic, woken = Topic(name, 2), asyncio.Event()

    async def works(member: Member, tp: TopicPartition, records: object, hold: Hold) -> None:
        if not woken.is_set():
            print("works", flush=True)
        await woken.wait()

    async with TaskTransactions(Kafka(bootstrap), transactional_id) as transactions:
        flow = Flow(bootstrap, name)
        member = await flow.join(works, instance="zombie", drain=5.0)
        await asyncio.to_thread(sys.stdin.readline)
        try:
            await transactions.commit({topic: [Outgoing(b"k", b"from the dead", partition=1)]})
            print("transaction committed", flush=True)
        except (NotMine, Interrupted) as error:
            print(f"transaction {type(error).__name__}", flush=True)
        epoch = member.reader.epoch
        woken.set()
        while member.reader.epoch < epoch + 2:  # noqa: ASYNC110 - it loses everything and is given something
            await asyncio.sleep(0.05)
        print(f"joined again, failures {len(member.failures)}", flush=True)
        await member.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
