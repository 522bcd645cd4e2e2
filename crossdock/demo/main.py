"""`crossdock demo`: a real broker, three legacy systems, real data, and an account at the end."""

import itertools
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectors.clock import Clock, SystemClock
from connectors.errors import ConfigError, Fatal, Retriable
from crossdock.checker.judge import Verdict
from crossdock.demo import dataset
from crossdock.demo.explain import explained
from crossdock.demo.faults import Scene, faults_of
from crossdock.demo.given import GivenKafka, GivenPostgres
from crossdock.demo.naive import NaivePoller
from crossdock.demo.play import Play
from crossdock.demo.screen import Flow, Screen, print_json
from crossdock.demo.stage import Stage, configuration_folder, stop_kept
from crossdock.demo.usage import Usage
from crossdock.demo.verdict import TARGETS, accounts, behind, topics_of, total
from crossdock.supervisor import Supervised
from streams.admin import Admin

DEFAULT_FOLDER = Path(".crossdock/demo")
SECONDS = 45.0
RESTARTS = 5
"""Starts of one worker that are not for a kill: more is a defect, and no demo."""
PATIENCE = 300.0
"""Seconds without any progress before what is left counts as in flight."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    as_json: bool = False
    full: bool = False
    kill: int = 0
    workers: int = 1
    broker_down: float = 0.0
    freeze: int = 0
    scale: int = 0
    keep: bool = False
    stop: bool = False
    folder: Path = DEFAULT_FOLDER
    seconds: float = SECONDS
    kafka: str | None = None
    postgres: str | None = field(default=None, repr=False)
    """Its password is shown nowhere."""

    def refuse(self) -> None:
        """Raises ConfigError for options that exclude each other."""
        if self.broker_down and self.kafka is not None:
            raise ConfigError("--broker-down stops the demo's own broker, and with --kafka there is none: omit one")


def run(options: Options) -> int:
    """Plays the demo. Returns 0 if every change is accounted for, else 1."""
    clock = SystemClock()
    options.refuse()
    if options.stop:
        left = stop_kept(options.folder, options.postgres)
        print(f"nothing runs under {options.folder}" if left is None else f"ended what ran under {options.folder}")
        print(*left or (), sep="\n", end="\n" if left else "")
        return 0
    if (options.folder / "stage.json").is_file():
        raise Fatal(f"a demo was left running under {options.folder}; end it with `crossdock demo --stop`")
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen(clock, for_program=options.as_json)
    demo = Demo(options, clock, screen)
    try:
        found_accounts = demo.play()
    finally:
        demo.end()
    good = all(each.good for each in found_accounts.values())
    demo.tell(found_accounts)
    if options.as_json:
        print_json(json.dumps(demo.summary(found_accounts, good)))
    return 0 if good else 1


def _interrupt(number: int, frame: object) -> None:  # noqa: ARG001 - signal's own signature
    """SIGTERM ends what was started, as Ctrl-C does."""
    raise KeyboardInterrupt


class Demo:
    """One run of the demo."""

    def __init__(self, options: Options, clock: Clock, screen: Screen) -> None:
        self._options, self._clock, self._screen = options, clock, screen
        self._began = clock.monotonic()
        self._played = 0.0
        self.stage = Stage(
            options.folder,
            clock,
            kafka=None if options.kafka is None else GivenKafka(options.kafka),
            postgres=None if options.postgres is None else GivenPostgres(options.postgres),
        )
        self.workers: list[Supervised] = []
        self._usage = Usage()
        self._events = 0
        self._naive_lost = 0
        self._explained: list[str] = []

    def play(self) -> dict[str, Verdict]:
        """From empty systems to the account."""
        self._prepare()
        play = Play(
            self.stage,
            self._clock,
            full=self._options.full,
            seconds=None if self._options.full else self._options.seconds,
        )
        naive = NaivePoller(self.stage.flightops_url, self._clock)
        began = self._clock.monotonic()
        play.start()
        naive.start()
        try:
            self._watch(play)
        finally:
            play.stop()
            self._naive_lost = naive.lost()
            self._screen.end_flow()
        self._played = self._clock.monotonic() - began
        self._screen.done("settled", "reading the logs of the systems")
        found = self._until_accounted()
        self._explained = list(explained(self.stage))
        self._events = sum(each.figures["changes"] for each in found.values())
        return found

    def end(self) -> None:
        """Ends what runs, unless it is to be kept."""
        if self._options.keep and sys.exc_info()[0] is None:
            pids = {f"worker {number}": worker.pid for number, worker in enumerate(self.workers)}
            (self.stage.folder / "workers.json").write_text(json.dumps(pids))
            return
        for worker in self.workers:
            worker.stop()
        for left in self.stage.stop():
            self._screen.say(left)

    def tell(self, found: dict[str, Verdict]) -> None:
        """The account, and what comes next, for people."""
        say = self._screen.say
        self._screen.account(found)
        seconds = max(self._played, 0.001)
        say(
            f"  {self._events:,} events in {seconds:.0f} s: {self._events / seconds:,.0f} events/s, "
            f"{self._cpu_per_million():.0f} CPU seconds per million events, "
            f"largest worker {self._usage.peak_mb:.0f} MB; worker starts {sum(w.starts for w in self.workers)}"
        )
        say(f"  a naive poller beside the hub never saw the last version of {self._naive_lost:,} flights")
        if self._explained:
            say("")
            say("Why one flight got its value:")
            for line in self._explained:
                say(f"  {line}")
        say("")
        if self._options.keep:
            addresses = self.stage.addresses
            say(f"left running: kafka {addresses.kafka}, flightops {addresses.flightops},")
            say(f"              registry {addresses.registry}/registry?wsdl, stations {addresses.stations}/api;")
            again = " --postgres URL" if self._options.postgres is not None else ""
            say(f"              end it with: crossdock demo --stop{again}")
        say(f"everything lies under {self.stage.folder}; remove it with: rm -r {self.stage.folder}")
        say("next: crossdock lint config    crossdock --help    make test")

    def summary(self, found: dict[str, Verdict], good: bool) -> dict[str, Any]:
        """The JSON object of `--json`."""
        addresses = self.stage.addresses
        return {
            "ok": good,
            "seconds": round(self._clock.monotonic() - self._began, 1),
            "pipelines": total(found),
            "systems": {
                "flightops": {"url": addresses.flightops},
                "registry": {"wsdl": f"{addresses.registry}/registry?wsdl"},
                "stations": {"url": f"{addresses.stations}/api"},
            },
            "kafka": addresses.kafka,
            "prefix": addresses.prefix,
            "events": self._events,
            "events_per_second": round(self._events / max(self._played, 0.001), 1),
            "cpu_seconds_per_million": round(self._cpu_per_million(), 1),
            "worker_peak_mb": round(self._usage.peak_mb, 1),
            "naive_poller_lost": self._naive_lost,
            "worker_starts": sum(worker.starts for worker in self.workers),
        }

    # On the way

    def _prepare(self) -> None:
        screen, options = self._screen, self._options
        what = "a year" if options.full else "January 2013"
        screen.say(
            "[bold]crossdock demo[/bold]: New York's flights, aircraft and weather, " + what + ", as live days at speed"
        )
        own = ["Apache Kafka"] * (options.kafka is None) + ["PostgreSQL"] * (options.postgres is None)
        screen.say(
            f"  starts {''.join(f'{each}, ' for each in own)}a SOAP and a REST service under {self.stage.folder}"
        )
        if options.full:
            screen.done("data", str(dataset.full_folder(dataset.default_cache())))
        for old in self.stage.folder.glob("index.db*"):
            old.unlink()
        self.stage.start(screen.done)
        for _ in range(options.workers):
            self._start_worker()

    def _start_worker(self) -> None:
        """A worker process, started again when it ends; its instance keeps its name."""
        number = len(self.workers)
        command = [sys.executable, "-m", "crossdock", "run", str(configuration_folder())]
        command += ["--no-supervise", "--instance", str(number)]
        environ = self.stage.environ | {"CROSSDOCK_INDEX__URL": f"sqlite:///{self.stage.folder / 'index.db'}"}
        worker = Supervised(command, self._clock, log_file=self._log_of(number), environ=environ)
        worker.start()
        self.workers.append(worker)
        self._screen.done(f"worker {number}", str(self._log_of(number)))

    def _log_of(self, number: int) -> Path:
        return self.stage.folder / f"worker-{number}.log"

    def _watch(self, play: Play) -> None:
        """Until all is played and settled, or nothing moves any more; kills and outages on the way."""
        faults = faults_of(self._options)
        scene = Scene(self.stage, self.workers, self._start_worker, self._screen, self._clock)
        admin: Admin | None = None
        quiet_since = moved_at = self._clock.monotonic()
        before = -1
        while True:
            self._clock.sleep(1.0)
            self._look_at_workers()
            if play.error is not None:
                raise Fatal(f"the play stopped: {play.error}") from play.error
            if faults and play.progress >= faults[0].at and faults[0].happen(scene):
                faults.pop(0)
                if admin is not None:
                    admin.close()
                admin = None  # the broker may be another one now
                quiet_since = moved_at = self._clock.monotonic()
                continue
            try:
                admin = admin or Admin(self.stage.addresses.kafka)
                flows = self._flows(admin)
            except Retriable:
                continue  # the broker is just starting, or moving its coordinators
            settled = sum(flow.settled + flow.scored for flow in flows.values())
            now = self._clock.monotonic()
            if settled != before or not play.done:
                before, quiet_since = settled, now
                moved_at = now
            if any(flow.behind for flow in flows.values()):
                quiet_since = now
            note = f"day {play.progress * 100:3.0f} %" if not play.done else "all is played; the last is being settled"
            self._screen.flow(flows, note)
            if play.done and now - quiet_since >= 3 and settled:
                break
            if now - moved_at > PATIENCE:
                break
        if admin is not None:
            admin.close()

    def _look_at_workers(self) -> None:
        for number, worker in enumerate(self.workers):
            self._usage.sample(worker.pid)
            if worker.exit_code is not None or worker.starts > RESTARTS + self._options.kill:
                why = "keeps ending" if worker.exit_code is None else f"ended for good (exit {worker.exit_code})"
                raise Fatal(f"a worker {why}; its log is {self._log_of(number)}")

    def _flows(self, admin: Admin) -> dict[str, Flow]:
        flows, prefix = {}, self.stage.addresses.prefix
        for pipeline in TARGETS:
            topics = topics_of(pipeline, prefix)
            flows[pipeline] = Flow(
                read=sum(admin.size(each.name) for each in topics.to_enrich),
                scored=sum(admin.size(each.name) for each in topics.to_write),
                settled=admin.size(topics.receipts.name),
                behind=behind(admin, pipeline, prefix),
            )
        return flows

    def _until_accounted(self) -> dict[str, Verdict]:
        """Looks again while something is missing: the last commit of a group may be a second old."""
        for attempt in itertools.count():
            found = accounts(self.stage)
            if all(each.good for each in found.values()) or attempt == 5:
                return found
            self._clock.sleep(2.0)
        raise AssertionError

    def _cpu_per_million(self) -> float:
        return self._usage.cpu_seconds / max(1, self._events) * 1_000_000
