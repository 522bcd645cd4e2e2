"""A naive poller beside the hub: reads what is newer than the last row it saw, as most pollers do, and loses some.

It remembers the largest (updated_at, id) and asks for more. A transaction that began earlier and commits later brings
rows below that mark, and they are never asked for again.
"""

import threading
from datetime import UTC, datetime

import sqlalchemy as sa

from connectors.clock import Clock
from crossdock.demo import flightops

_NEWER = sa.text(
    "SELECT id, updated_at FROM flights WHERE updated_at >= :at AND (updated_at > :at OR id > :id) "
    "ORDER BY updated_at, id"
)


class NaivePoller:
    """Polls in a thread of its own, as often as the hub does."""

    def __init__(self, url: str, clock: Clock, every: float = 0.5) -> None:
        self._engine, self._clock, self._every = flightops.connect(url), clock, every
        self._seen: dict[int, datetime] = {}
        self._last = (datetime(1970, 1, 1, tzinfo=UTC), 0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="naive poller", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def lost(self) -> int:
        """Ends it, and counts the flights whose last version it never saw."""
        self._stopping.set()
        self._thread.join(30)
        self._look()
        with self._engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT id, updated_at FROM flights"))
            missing = sum(1 for number, at in rows if self._seen.get(number) != at)
        self._engine.dispose()
        return missing

    def _run(self) -> None:
        while not self._clock.sleep(self._every, self._stopping):
            self._look()

    def _look(self) -> None:
        with self._engine.connect() as connection:
            for number, at in connection.execute(_NEWER, {"at": self._last[0], "id": self._last[1]}):
                self._seen[number] = at
                self._last = (at, number)
