"""The composition root: the only place that knows all parts. Configuration goes in, a worker comes out."""

import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from connectors.budget import RetryBudget
from connectors.clock import Clock, SystemClock
from connectors.config import SystemConfig, WritebackConfig
from connectors.contract import Checkable, Readable, System
from connectors.errors import ConfigError, Fatal, Retriable
from connectors.failpoints import VARIABLE as FAILPOINT
from connectors.failpoints import armed
from connectors.retry import Retrying
from crossdock.archive import archiving
from crossdock.configuration.across import LONGEST_DRAIN, refuse
from crossdock.configuration.load import Configuration, load_from_environment
from crossdock.configuration.pipeline import PipelineConfig
from crossdock.index import TASK as INDEX
from crossdock.index import projecting
from crossdock.instance import claim
from crossdock.logs import write_logs
from crossdock.memory import keep_for_good, keep_small
from crossdock.retention import TASK as RETENTION
from crossdock.retention import correct_retention, watching
from crossdock.sources import source_of
from crossdock.supervisor import Supervised
from streams.brake import Brake
from streams.breaker import Breaker
from streams.busy import Busy
from streams.control import Control
from streams.credentials import CredentialHealth, SystemCredentials
from streams.delivery import OpenedAtFirstUse, Target
from streams.derive import Derive
from streams.echo import Echoes
from streams.gate import Gate
from streams.ingest import Ingest
from streams.lookups import Lookup, Lookups
from streams.metrics import METRICS
from streams.newest import NewestVersions
from streams.offsets import in_hub
from streams.only import Only
from streams.pipeline import Pipeline
from streams.runtime.kafka import Kafka, quiet_logs
from streams.runtime.life import Life, end_at_once_when_told, signals
from streams.runtime.publisher import Publisher
from streams.runtime.threads import Threads
from streams.scope import compile_path
from streams.topics import HubTopics, PipelineTopics
from streams.worker import Parts, TargetSystem, app_of
from streams.writeback import Writeback

log = logging.getLogger("crossdock.bootstrap")


def run_worker(folder: Path, *, supervise: bool, instance: str | None) -> int:
    """`crossdock run`: a worker until it is told to end.

    Returns:
        0 after SIGTERM; 1 after a crash without supervision; 2 if a person must change the configuration.

    Raises:
        ConfigError: the configuration, or what it says about a system, is wrong.
    """
    if supervise:
        return _supervise(folder, instance)
    end_at_once_when_told()
    keep_small()
    configuration = load_from_environment(folder)
    if armed() and configuration.hub.environment == "production":
        raise ConfigError(f"{FAILPOINT} is set, and the environment is production; unset it")
    clock = SystemClock()
    write_logs()
    quiet_logs()
    _in_a_process_of_its_own(lambda: _prepare(configuration, clock))
    lock = claim(configuration.folder / ".crossdock", instance)  # after the fork, which would hold it beyond our end
    systems: dict[str, System] = {}
    try:
        systems |= {name: config.build(clock) for name, config in configuration.systems.items()}
        parts = build(configuration, systems, lock.name, clock)
        if configuration.hub.metrics is not None:
            _serve(configuration.hub.metrics.port)
        life = Life(lambda: app_of(parts), clock)
        keep_for_good()
        return life.run()
    finally:
        for system in systems.values():
            system.close()
        lock.release()


def _supervise(folder: Path, instance: str | None) -> int:
    """The same command as a child, started again when it crashes; SIGTERM goes on to it."""
    command = [sys.executable, "-m", "crossdock", "run", str(folder), "--no-supervise"]
    if instance is not None:
        command += ["--instance", instance]
    write_logs()
    child = Supervised(command, SystemClock())

    def end(number: int, frame: object) -> None:  # noqa: ARG001 - signal's own signature
        threading.Thread(target=child.stop, name="stop", daemon=True).start()

    for number in signals():
        signal.signal(number, end)
    child.start()
    while not child.wait(0.5):
        pass
    code = child.exit_code or 0
    return 0 if code == -signal.SIGTERM else abs(code)  # told before it could listen


def _serve(port: int) -> None:
    try:
        METRICS.serve(port)
    except OSError as error:
        raise ConfigError(f"crossdock.yaml: metrics.port: {error}; choose another one") from error


def _in_a_process_of_its_own(prepare: Callable[[], None]) -> None:
    """Runs it in a fork: what only the start needs (reflection, kafka-python) takes 40 MB, which go with that process.

    Raises:
        ConfigError, Retriable: as `prepare` did.
    """
    context = multiprocessing.get_context("fork")  # nothing of ours has a thread yet
    here, there = context.Pipe(duplex=False)

    def child() -> None:
        try:
            prepare()
        except (ConfigError, Retriable) as error:
            there.send((isinstance(error, ConfigError), str(error), error.detail))
        else:
            there.send(None)

    process = context.Process(target=child, name="prepare")
    process.start()
    there.close()
    try:
        failed = here.recv()
    except EOFError:
        raise Fatal("the look at the systems and topics ended without an answer; its traceback is above") from None
    finally:
        process.join()
    if failed is not None:
        is_config, message, detail = failed
        raise (ConfigError if is_config else Retriable)(message, detail=detail)


def _prepare(configuration: Configuration, clock: Clock) -> None:
    """Everything that flows has its topic, and every system was looked at, before anything flows."""
    from crossdock.look import look_at_systems
    from streams.admin import Admin

    refuse(configuration, clock)
    kafka = configuration.hub.kafka
    topics = [topic for name in configuration.pipelines for topic in configuration.topics(name).all()]
    systems = {name: config.build(clock) for name, config in configuration.systems.items()}
    try:
        with Admin(kafka.bootstrap, kafka.admin_security()) as admin:
            created = admin.ensure(HubTopics.of(kafka.prefix).all())
            look_at_systems(configuration, systems, admin, clock)
            for name in created + admin.ensure(topics):
                log.info("topic.created name=%s", name)
            correct_retention(admin, topics)
    finally:
        for system in systems.values():
            system.close()


def build(configuration: Configuration, systems: Mapping[str, System], instance: str, clock: Clock) -> Parts:
    """All parts of one worker."""
    hub = configuration.hub
    kafka = Kafka(hub.kafka.bootstrap, client_id=f"crossdock-{instance}", security=hub.kafka.security())
    publisher = Publisher(kafka)
    control = Control(kafka, HubTopics.of(hub.kafka.prefix).control, publisher)
    credentials = {
        name: SystemCredentials(name, system.credentials_digest, control, clock) for name, system in systems.items()
    }
    context = _Context(configuration, systems, kafka, clock, control, credentials)
    return Parts(
        prefix=hub.kafka.prefix,
        worker_group=hub.worker_group,
        instance=instance,
        kafka=kafka,
        clock=clock,
        publisher=publisher,
        control=control,
        pipelines=[context.pipeline(config) for config in configuration.pipelines.values()],
        targets=context.targets(),
        ingests=[ingest for config in configuration.pipelines.values() for ingest in context.ingests(config)],
        health=context.health(),
        tasks={
            INDEX: projecting(configuration, kafka, clock),
            RETENTION: watching(configuration, control, clock),
            **archiving(configuration, kafka, clock),
        },
        threads=context.pools,
    )


MOST_WRITES = 60
"""Changes of one record within an hour, into a system that the hub also reads."""


def echoes(pipeline: PipelineConfig, block: WritebackConfig) -> bool:
    """Whether a write-back changes what its pipeline reads, and no other one of the pipeline does."""
    beside = [each for each in pipeline.writeback if each.system == block.system]
    return block.system == pipeline.source.system and len(beside) == 1


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all write-backs into one system have together."""

    gate: Gate
    threads: Threads
    budget: RetryBudget
    total_timeout: float


@dataclass(frozen=True, slots=True)
class _Context:
    """What every part is made from."""

    configuration: Configuration
    systems: Mapping[str, System]
    kafka: Kafka
    clock: Clock
    control: Control
    credentials: Mapping[str, SystemCredentials]
    pools: list[Threads] = field(default_factory=list)

    def threads(self, name: str, size: int, patience: float) -> Threads:
        self.pools.append(Threads(name, size, patience, self.clock))
        return self.pools[-1]

    def topics(self, pipeline: str) -> PipelineTopics:
        return self.configuration.topics(pipeline)

    def pipeline(self, config: PipelineConfig) -> Pipeline:
        names = frozenset(config.lookups)
        lookups = [
            Lookup(name, block, self.kafka, self.topics(block.pipeline).latest, names)
            for name, block in config.lookups.items()
        ]
        then = {name: block.missing.then for name, block in config.lookups.items()}
        model = None if config.model is None else config.model.build(self.configuration.models, then, self.clock)
        return Pipeline(
            name=config.name,
            topics=self.topics(config.name),
            config=config.digest,
            only=Only(config.only),
            derive=Derive(config.derive, names),
            lookups=Lookups(lookups, self.clock),
            model=model,
            clock=self.clock,
            freshness=config.freshness,
            backfill_rate=config.backfill.rate,
        )

    def ingests(self, config: PipelineConfig) -> list[Ingest]:
        source = source_of(self.configuration, self.systems, config.source)
        system = self.configuration.systems[config.source.system]
        specs = source.tasks()
        patience = system.timeouts.total.total_seconds()
        threads = self.threads(f"source-{config.name}", len(specs), patience)
        prefix = self.configuration.hub.kafka.prefix
        return [
            Ingest(
                pipeline=config.name,
                source=source,
                task=in_hub(config.name, spec),
                kafka=self.kafka,
                control=self.control,
                topics=self.topics(config.name),
                hub=HubTopics.of(prefix),
                transactional_id=f"{prefix}.{config.name}.{spec.name}",
                config=config.digest,
                credentials=self.credentials[config.source.system],
                backfills=all(block.guards_version for block in config.writeback),
                fresh=config.freshness.total_seconds() / 2,
                echoes=Echoes(self.clock) if any(echoes(config, block) for block in config.writeback) else None,
                every=config.source.every.total_seconds(),
                limit=config.source.batch,
                total_timeout=patience,
                threads=threads,
                clock=self.clock,
            )
            for spec in specs
        ]

    def targets(self) -> list[TargetSystem]:
        blocks: dict[str, list[tuple[PipelineConfig, WritebackConfig]]] = {}
        for pipeline in self.configuration.pipelines.values():
            for block in pipeline.writeback:
                blocks.setdefault(block.system, []).append((pipeline, block))
        return [self._target_system(name, found) for name, found in blocks.items()]

    def _target_system(self, name: str, blocks: list[tuple[PipelineConfig, WritebackConfig]]) -> TargetSystem:
        config = self.configuration.systems[name]
        gate = Gate(name, Breaker(self.clock), self.credentials[name], self.control, self.clock)
        threads = self.threads(f"write-{name}", config.courtesy.concurrency, self._drain(config))
        shared = _Shared(gate, threads, RetryBudget(), self._drain(config))
        writebacks: dict[str, list[Writeback]] = {}
        for pipeline, block in blocks:
            writebacks.setdefault(pipeline.name, []).append(self._writeback(pipeline, block, shared))
        return TargetSystem(name, shared.total_timeout, gate, writebacks)

    def _writeback(self, pipeline: PipelineConfig, block: WritebackConfig, shared: "_Shared") -> Writeback:
        lookups = frozenset(pipeline.lookups)
        prefix = self.configuration.hub.kafka.prefix
        sink = self.systems[block.system].sink(block, prefix=prefix)
        name = block.name or block.system
        return Writeback(
            name=name,
            pipeline=pipeline.name,
            prefix=prefix,
            topics=self.topics(pipeline.name),
            config=pipeline.digest,
            target=Target(
                writeback=f"{pipeline.name}/{name}",
                sink=Retrying(OpenedAtFirstUse(sink), self.clock, budget=shared.budget),
                reader=sink if isinstance(sink, Readable) else None,
                checker=sink if isinstance(sink, Checkable) else None,
                batch=min(block.batch, sink.capabilities.max_batch),
                total_timeout=shared.total_timeout,
                threads=shared.threads,
                clock=self.clock,
                gate=shared.gate,
                brake=Brake(),
            ),
            match={theirs: compile_path(path, lookups) for theirs, path in block.match.items()},
            fields={theirs: compile_path(path, lookups) for theirs, path in block.set.items()},
            expected=None if block.expected_path is None else compile_path(block.expected_path, lookups),
            if_changed=block.if_changed,
            coalesce=0.0 if block.coalesce is None else block.coalesce.total_seconds(),
            replaces=block.replaces,
            echoes=echoes(pipeline, block),
            busy=Busy(self._most_writes(block), self.clock),
            newest=NewestVersions(self.kafka, self.topics(pipeline.name).latest),
            control=self.control,
            control_topic=HubTopics.of(prefix).control,
            clock=self.clock,
        )

    def health(self) -> list[CredentialHealth]:
        """A task for each system that wants credentials: it alone tries a secret that nobody has tried."""
        longest = max((each.timeouts.total.total_seconds() for each in self.configuration.systems.values()), default=0)
        threads = self.threads("health", 2, longest)
        found: dict[str, Checkable] = {}
        for config in self.configuration.pipelines.values():
            source = source_of(self.configuration, self.systems, config.source)
            prefix = self.configuration.hub.kafka.prefix
            parts: dict[str, object] = {config.source.system: source}
            parts |= {block.system: self.systems[block.system].sink(block, prefix=prefix) for block in config.writeback}
            found |= {system: part for system, part in parts.items() if isinstance(part, Checkable)}
        return [
            CredentialHealth(self.credentials[name], part.check, self.control, threads, self.clock)
            for name, part in found.items()
        ]

    def _most_writes(self, block: WritebackConfig) -> int | None:
        """Changes of one record within an hour: a limit is needed where the hub reads what it writes."""
        read = {pipeline.source.system for pipeline in self.configuration.pipelines.values()}
        return block.max_writes_per_record or (MOST_WRITES if block.system in read else None)

    def _drain(self, system: SystemConfig) -> float:
        return min(LONGEST_DRAIN, system.timeouts.total.total_seconds())
