"""The play: a month of New York as live days at speed, written into the systems as their own people would.

Flights are published three hours before they depart; a weather report comes when its hour begins, one in ten an hour
late; what really happened to a flight is entered four days later; aircraft are entered in lots over the whole time.
Several clerks write flights at once, and a few of their transactions take their time: those are the late commits that
pollers lose.
"""

import base64
import json
import queue
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from connectors.clock import Clock
from crossdock.demo import dataset, flightops
from crossdock.demo.stage import Stage

CLERKS = 4
SLOW_SHARE = 0.03
SLOW_SECONDS = (0.2, 0.8)
PUBLISHED_AHEAD = timedelta(hours=3)
ENTERED_AFTER, ENTERED_AFTER_AT_FULL_SPEED = timedelta(days=4), timedelta(days=30)
LATE_REPORT = 0.1
DEADLOCK = "40P01"
LOT = 50
WINDOW, WINDOW_AT_FULL_SPEED = 3_000, 20_000
"""Flights published and not yet scored, at most: the days wait for a hub that is being killed and started again."""

Row = dict[str, Any]


class _Task(NamedTuple):
    """What a clerk does next: in one transaction, after another one is committed."""

    what: Callable[[sa.Connection, Sequence[Row]], None]
    rows: Sequence[Row]
    after: "Future[None] | None"
    done: "Future[None]"


class Play:
    """Plays in a thread of its own. `progress` goes from 0 to 1."""

    def __init__(self, stage: Stage, clock: Clock, *, full: bool, seconds: float | None) -> None:
        """
        Args:
            stage: the systems.
            clock: for the pace.
            full: the whole year, not January.
            seconds: how long it takes; None = as fast as flights are scored.
        """
        self._stage, self._clock, self._full, self._seconds = stage, clock, full, seconds
        self._random = random.Random(20130101)  # noqa: S311 - the same play each time
        self._work: queue.Queue[_Task | None] = queue.Queue(maxsize=64)
        self._thread = threading.Thread(target=self._run, name="play", daemon=True)
        self._stopping = threading.Event()
        self._aircraft: list[Row] = []
        self.progress = 0.0
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(30)

    def _run(self) -> None:
        clerks = [
            threading.Thread(target=self._clerk, args=(n,), name=f"clerk {n}", daemon=True) for n in range(CLERKS)
        ]
        for clerk in clerks:
            clerk.start()
        try:
            self._play_hours()
        except BaseException as error:  # noqa: BLE001 - the demo's own thread shows it
            self.error = error
        finally:
            for _ in clerks:
                self._work.put(None)
            for clerk in clerks:
                clerk.join()

    def _play_hours(self) -> None:
        flights, weather = _by_hour(_numbered(dataset.flights(self._full))), _by_hour(dataset.weather(self._full))
        self._aircraft = list(dataset.planes())
        hours, step = sorted({*flights, *weather}), timedelta(hours=1)
        entered_after = ENTERED_AFTER_AT_FULL_SPEED if self._seconds is None else ENTERED_AFTER
        first = hours[0] - PUBLISHED_AHEAD
        steps = int((hours[-1] + entered_after - first) / step) + 1
        published: dict[datetime, tuple[Sequence[Row], Future[None]]] = {}
        began, late, lots = self._clock.monotonic(), list[Row](), len(self._aircraft)
        for number in range(1, steps + 1):
            if self._stopping.is_set():
                return
            now = first + (number - 1) * step
            ahead, before = now + PUBLISHED_AHEAD, now - entered_after
            if rows := flights.pop(ahead, []):
                published[ahead] = (rows, self._do(flightops.insert_flights, rows, None))
            late = self._report(weather.pop(now, []), late)
            if before in published:
                self._do(flightops.departed, *published.pop(before))
            self._enter(round(lots * (1 - number / steps)))
            self._keep_pace(began, number / steps, number)
        self._send(late)
        self.progress = 1.0

    def _keep_pace(self, began: float, share: float, number: int) -> None:
        self.progress = share * 0.999
        if self._seconds is not None:
            self._clock.sleep(began + share * self._seconds - self._clock.monotonic(), self._stopping)
        if number % 24 == 0:
            self._wait_for_scores(WINDOW if self._seconds is not None else WINDOW_AT_FULL_SPEED)

    def _wait_for_scores(self, window: int) -> None:
        """The flights must not depart before anybody could score them."""
        engine = flightops.connect(self._stage.flightops_url)
        try:
            while not self._stopping.is_set() and flightops.unscored(engine) > window:
                self._clock.sleep(0.2, self._stopping)
        finally:
            engine.dispose()

    # The stations' and the register's people

    def _report(self, rows: Sequence[Row], late: Sequence[Row]) -> list[Row]:
        """Sends the hour's reports and the last hour's late ones; returns those that are late now."""
        due: list[Row] = list(late)
        later: list[Row] = []
        for row in rows:
            (later if self._random.random() < LATE_REPORT else due).append(row)
        self._send(due)
        return later

    def _send(self, rows: Sequence[Row]) -> None:
        if rows:
            token = self._stage.passwords["STATIONS_TOKEN"]
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            self._stage.load("stations", "/api/reports", json.dumps(rows).encode(), headers)

    def _enter(self, left: int) -> None:
        """Enters aircraft in lots, until so many are left."""
        if len(self._aircraft) - left < LOT and left:
            return
        rows, self._aircraft = (
            self._aircraft[: len(self._aircraft) - left],
            self._aircraft[len(self._aircraft) - left :],
        )
        if rows:
            credentials = base64.b64encode(f"crossdock:{self._stage.passwords['REGISTRY_PASSWORD']}".encode()).decode()
            body = "\n".join(json.dumps(row) for row in rows).encode()
            self._stage.load("registry", "/load", body, {"Authorization": f"Basic {credentials}"})

    # The airline's clerks

    def _do(
        self, what: Callable[[sa.Connection, Sequence[Row]], None], rows: Sequence[Row], after: "Future[None] | None"
    ) -> "Future[None]":
        task = _Task(what, rows, after, Future())
        self._work.put(task)
        return task.done

    def _clerk(self, number: int) -> None:
        own = random.Random(number)  # noqa: S311
        engine = flightops.connect(self._stage.flightops_url)
        try:
            while (task := self._work.get()) is not None:
                try:
                    if task.after is not None:
                        task.after.result()
                    pause = own.uniform(*SLOW_SECONDS) if own.random() < SLOW_SHARE else 0.0
                    while not self._entered(engine, task, pause):
                        pass
                    task.done.set_result(None)
                except BaseException as error:  # noqa: BLE001 - told through the future and to the demo
                    self.error = self.error or error
                    task.done.set_exception(error)
        finally:
            engine.dispose()

    def _entered(self, engine: sa.Engine, task: _Task, pause: float) -> bool:
        """One transaction; False if the database chose it to end a deadlock, and it is to be typed in again."""
        try:
            with engine.begin() as connection:
                task.what(connection, task.rows)
                if pause:
                    self._clock.sleep(pause, self._stopping)
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != DEADLOCK:
                raise
            return False
        return True


def _by_hour(rows: Iterable[Row]) -> dict[datetime, list[Row]]:
    """Rows by the hour (UTC) that they are about."""
    found: dict[datetime, list[Row]] = defaultdict(list)
    for row in rows:
        found[datetime.fromisoformat(row["time_hour"])].append(row)
    return dict(found)


def _numbered(rows: Iterable[Row]) -> Iterator[Row]:
    """The data set has no key of its own: its flights are numbered in the file's order."""
    return ({**row, "id": number} for number, row in enumerate(rows, start=1))
