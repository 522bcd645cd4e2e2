"""Three brokers in one cluster, each a node of the embedded kind: every record on three disks, two of them at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from crossdock.broker import Broker
from crossdock.ports import free_port

_PROPERTIES = """\
process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
broker.session.timeout.ms=6000
log.dirs={data}
"""


@dataclass
class Node(Broker):
    """One broker of the three."""

    number: int = 0
    controller: int = 0
    voters: str = ""

    def _settings(self) -> Path:
        path = self.folder / "server.properties"
        path.write_text(
            _PROPERTIES.format(
                number=self.number,
                voters=self.voters,
                port=self.port,
                controller=self.controller,
                data=self.folder / "data",
            )
        )
        return path


@dataclass
class Cluster:
    """All three, with the verbs of a single broker."""

    folder: Path
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        ports: set[int] = set()
        while len(ports) < 6:
            ports.add(free_port())
        numbered = list(enumerate(sorted(ports)[:3], start=1))
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in numbered)
        for (number, controller), port in zip(numbered, sorted(ports)[3:], strict=True):
            node = Node(self.folder / f"node-{number}", port, number=number, controller=controller, voters=voters)
            node.cluster_id = self.nodes[0].cluster_id if self.nodes else node.cluster_id
            self.nodes.append(node)

    @property
    def port(self) -> int:
        return self.nodes[0].port

    @property
    def bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self) -> None:
        """None of them answers before two of them are up."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(Node.start, self.nodes))

    def stop(self) -> bool:
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            return any(pool.map(Node.stop, self.nodes))
