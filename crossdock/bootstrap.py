"""The composition root: the only place that knows all parts. Configuration goes in, a worker comes out."""

import hashlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from connectors.clock import Clock, SystemClock
from connectors.config import SourceConfig, SystemConfig, WritebackConfig
from connectors.contract import Checkable, Readable, Source, System
from connectors.errors import AuthExpired, ConfigError, Fatal, Retriable, SystemFault
from connectors.failpoints import VARIABLE as FAILPOINT
from connectors.retry import Retrying
from crossdock.configuration.across import LONGEST_DRAIN, refuse
from crossdock.configuration.load import Configuration, load_from_environment
from crossdock.configuration.pipeline import PipelineConfig
from crossdock.instance import claim
from crossdock.logs import write_logs
from crossdock.memory import keep_small
from crossdock.supervisor import Supervised
from streams.derive import Derive
from streams.ingest import Ingest
from streams.lookups import Lookup, Lookups
from streams.only import Only
from streams.pipeline import Pipeline
from streams.runtime.kafka import Kafka, quiet_logs
from streams.runtime.life import Life
from streams.runtime.threads import Threads
from streams.scope import compile_path
from streams.topics import HubTopics, PipelineTopics
from streams.worker import Parts, Target, app_of
from streams.writeback import OpenedAtFirstUse, Writeback

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
    keep_small()
    configuration = load_from_environment(folder)
    if os.environ.get(FAILPOINT) and configuration.hub.environment == "production":
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
        return Life(lambda: app_of(parts), clock).run()
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

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    child.start()
    while not child.wait(0.5):
        pass
    code = child.exit_code or 0
    return 0 if code == -signal.SIGTERM else abs(code)  # told before it could listen


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
    refuse(configuration, clock)
    systems = {name: config.build(clock) for name, config in configuration.systems.items()}
    try:
        _look_at_systems(configuration, systems)
        _prepare_topics(configuration)
    finally:
        for system in systems.values():
            system.close()


def _prepare_topics(configuration: Configuration) -> None:
    """Everything that flows has its topic before anything flows."""
    from streams.admin import Admin

    hub = configuration.hub
    topics = HubTopics.of(hub.kafka.prefix).all()
    for name in configuration.pipelines:
        topics += PipelineTopics.of(hub.kafka.prefix, name, hub.kafka.partitions).all()
    with Admin(hub.kafka.bootstrap, hub.kafka.admin_security()) as admin:
        for created in admin.ensure(topics):
            log.info("topic.created name=%s", created)


def _look_at_systems(configuration: Configuration, systems: Mapping[str, System]) -> None:
    """Read-only: does each source and write-back fit its system? A system that is away is looked at when it is back.

    Raises:
        ConfigError: a table, column, operation or right that the files name is not there; all of them, a line each.
    """
    wrong: list[str] = []
    for name, pipeline in configuration.pipelines.items():
        blocks: list[tuple[tuple[str | int, ...], str, object]] = [
            (("source",), pipeline.source.system, _source(configuration, systems, pipeline.source))
        ]
        for number, block in enumerate(pipeline.writeback):
            sink = systems[block.system].sink(block, prefix=configuration.hub.kafka.prefix)
            blocks.append((("writeback", number), block.system, sink))
        for place, system, component in blocks:
            try:
                report = component.check() if isinstance(component, Checkable) else None
            except (Retriable, AuthExpired, SystemFault) as error:
                log.warning("check.postponed pipeline=%s system=%s reason=%s", name, system, error)
                continue
            problems = () if report is None else report.problems
            wrong += [str(configuration.error(name, (*place, *each.path), each.message)) for each in problems]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _source(configuration: Configuration, systems: Mapping[str, System], config: SourceConfig) -> Source:
    """A source; what the hub itself writes into its system is not content of its records."""
    written = {
        field
        for pipeline in configuration.pipelines.values()
        for block in pipeline.writeback
        if block.system == config.system
        for field in block.set
    }
    return systems[config.system].source(config, written=frozenset(written))


def build(configuration: Configuration, systems: Mapping[str, System], instance: str, clock: Clock) -> Parts:
    """All parts of one worker."""
    hub = configuration.hub
    kafka = Kafka(hub.kafka.bootstrap, client_id=f"crossdock-{instance}", security=hub.kafka.security())
    context = _Context(configuration, systems, kafka, clock)
    return Parts(
        prefix=hub.kafka.prefix,
        worker_group=hub.worker_group,
        instance=instance,
        kafka=kafka,
        clock=clock,
        pipelines=[context.pipeline(config) for config in configuration.pipelines.values()],
        targets=context.targets(),
        ingests=[ingest for config in configuration.pipelines.values() for ingest in context.ingests(config)],
    )


@dataclass(frozen=True, slots=True)
class _Context:
    """What every part is made from."""

    configuration: Configuration
    systems: Mapping[str, System]
    kafka: Kafka
    clock: Clock

    def topics(self, pipeline: str) -> PipelineTopics:
        kafka = self.configuration.hub.kafka
        return PipelineTopics.of(kafka.prefix, pipeline, kafka.partitions)

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
            config=self.digest(config),
            only=Only(config.only),
            derive=Derive(config.derive, names),
            lookups=Lookups(lookups, self.clock),
            model=model,
            clock=self.clock,
        )

    def ingests(self, config: PipelineConfig) -> list[Ingest]:
        source = _source(self.configuration, self.systems, config.source)
        system = self.configuration.systems[config.source.system]
        specs = source.tasks()
        threads = Threads(f"source-{config.name}", len(specs), self.clock)
        prefix = self.configuration.hub.kafka.prefix
        return [
            Ingest(
                pipeline=config.name,
                source=source,
                task=spec,
                kafka=self.kafka,
                topics=self.topics(config.name),
                hub=HubTopics.of(prefix),
                transactional_id=f"{prefix}.{config.name}.{spec.name}",
                config=self.digest(config),
                every=config.source.every.total_seconds(),
                limit=config.source.batch,
                total_timeout=system.timeouts.total.total_seconds(),
                threads=threads,
                clock=self.clock,
            )
            for spec in specs
        ]

    def targets(self) -> list[Target]:
        by_system: dict[str, dict[str, list[Writeback]]] = {}
        threads: dict[str, Threads] = {}
        for pipeline in self.configuration.pipelines.values():
            for block in pipeline.writeback:
                config = self.configuration.systems[block.system]
                pool = threads.get(block.system)
                if pool is None:
                    pool = threads[block.system] = Threads(
                        f"write-{block.system}", config.courtesy.concurrency, self.clock
                    )
                made = self._writeback(pipeline, block, config, pool)
                by_system.setdefault(block.system, {}).setdefault(pipeline.name, []).append(made)
        return [
            Target(system, self._drain(self.configuration.systems[system]), writebacks)
            for system, writebacks in by_system.items()
        ]

    def _writeback(
        self, pipeline: PipelineConfig, block: WritebackConfig, system: SystemConfig, threads: Threads
    ) -> Writeback:
        lookups = frozenset(pipeline.lookups)
        prefix = self.configuration.hub.kafka.prefix
        sink = self.systems[block.system].sink(block, prefix=prefix)
        return Writeback(
            name=block.name or block.system,
            pipeline=pipeline.name,
            prefix=prefix,
            topics=self.topics(pipeline.name),
            config=self.digest(pipeline),
            sink=Retrying(OpenedAtFirstUse(sink), self.clock),
            reader=sink if isinstance(sink, Readable) else None,
            match={theirs: compile_path(path, lookups) for theirs, path in block.match.items()},
            fields={theirs: compile_path(path, lookups) for theirs, path in block.set.items()},
            expected=None if block.expected_path is None else compile_path(block.expected_path, lookups),
            if_changed=block.if_changed,
            batch=min(block.batch, sink.capabilities.max_batch),
            total_timeout=self._drain(system),
            threads=threads,
            clock=self.clock,
        )

    def _drain(self, system: SystemConfig) -> float:
        return min(LONGEST_DRAIN, system.timeouts.total.total_seconds())

    def digest(self, config: PipelineConfig) -> str:
        """Twelve hex digits of a pipeline's own file, stamped on its events. Secrets stand in it as references."""
        return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
