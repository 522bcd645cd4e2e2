"""The look at systems before a worker starts: read-only, and with the login tried only where it may be tried."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from connectors.clock import Clock
from connectors.contract import Checkable, Report, System
from connectors.errors import AuthExpired, ConfigError, CredentialsRefused, Retriable, SystemFault
from crossdock.configuration.load import Configuration
from crossdock.operator import records
from crossdock.sources import source_of
from schemas.codec import encode
from schemas.control import Credentials, CredentialState, control_key
from schemas.values import rfc3339
from streams.admin import Admin
from streams.credentials import refused
from streams.topics import HubTopics

log = logging.getLogger("crossdock.look")


def look_at_systems(configuration: Configuration, systems: Mapping[str, System], admin: Admin, clock: Clock) -> None:
    """Does each source and write-back fit its system? A system that is away is looked at when it is back.

    Workers of one folder that have a secret which nobody tried look one after the other, and tell each other what the
    system said to it: ten that start at once with a wrong password make one attempt.

    Raises:
        ConfigError: a table, column, operation or right that the files name is not there; all of them, a line each.
    """
    logins = _Logins(admin, configuration.hub.kafka.prefix, systems, clock)
    wrong: list[str] = []
    logins.read()
    with contextlib.nullcontext() if logins.all_known else _one_at_a_time(configuration.folder / ".crossdock"):
        logins.read()
        for name, place, system, component in _components(configuration, systems):
            report = _look(name, system, component, logins)
            problems = () if report is None else report.problems
            wrong += [str(configuration.error(name, (*place, *each.path), each.message)) for each in problems]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _look(pipeline: str, system: str, component: Checkable, logins: "_Logins") -> Report | None:
    if not logins.may(system):
        log.warning("check.postponed pipeline=%s system=%s reason=its login was refused", pipeline, system)
        return None
    try:
        report = component.check()
    except CredentialsRefused as error:
        logins.refused(system, error)
    except (Retriable, AuthExpired, SystemFault) as error:
        log.warning("check.postponed pipeline=%s system=%s reason=%s", pipeline, system, error)
    else:
        logins.accepted(system)
        return report
    return None


def _components(
    configuration: Configuration, systems: Mapping[str, System]
) -> Iterator[tuple[str, tuple[str | int, ...], str, Checkable]]:
    """What can be looked at: pipeline, place in its file, system, and the source or sink itself."""
    for name, pipeline in configuration.pipelines.items():
        source = source_of(configuration, systems, pipeline.source)
        if isinstance(source, Checkable):
            yield name, ("source",), pipeline.source.system, source
        for number, block in enumerate(pipeline.writeback):
            sink = systems[block.system].sink(block, prefix=configuration.hub.kafka.prefix)
            if isinstance(sink, Checkable):
                yield name, ("writeback", number), block.system, sink


class _Logins:
    """What the systems said to our secrets, from `crossdock.control`, and to it."""

    def __init__(self, admin: Admin, prefix: str, systems: Mapping[str, System], clock: Clock) -> None:
        self._admin, self._prefix, self._clock = admin, prefix, clock
        self._digests = {name: system.credentials_digest() for name, system in systems.items()}
        self._known: dict[str, Credentials] = {}

    def read(self) -> None:
        self._known = {
            each.system: each
            for each in records(self._admin, self._prefix).values()
            if isinstance(each, Credentials) and each.digest == self._digests.get(each.system)
        }

    @property
    def all_known(self) -> bool:
        """Whether every secret was tried before."""
        return all(name in self._known for name, digest in self._digests.items() if digest)

    def may(self, system: str) -> bool:
        """Whether this secret was not refused yet."""
        found = self._known.get(system)
        return found is None or found.state is CredentialState.ACCEPTED

    def accepted(self, system: str) -> None:
        if self._digests[system] and system not in self._known:
            self._tell(
                Credentials(
                    system=system,
                    state=CredentialState.ACCEPTED,
                    digest=self._digests[system],
                    attempts=0,
                    reason="",
                    time=rfc3339(self._clock.now()),
                )
            )

    def refused(self, system: str, error: CredentialsRefused) -> None:
        self._tell(refused(system, self._digests[system], self._known.get(system), error, self._clock))

    def _tell(self, record: Credentials) -> None:
        self._known[record.system] = record
        topic = HubTopics.of(self._prefix).control.name
        self._admin.append(topic, [(control_key(Credentials, record.system), encode(record))])


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "look.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
