"""The play: a month of New York's flights as live days at speed, written into the systems as their own people would.

Flights are published three hours before they depart; a weather report comes when its hour is over, some of them late;
what really happened to a flight is entered a day later. Several clerks write at once, and a few of their transactions
take their time: those are the late commits that pollers lose.
"""

import base64
import json
import queue
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any

from connectors.clock import Clock
from crossdock.demo import dataset, flightops
from crossdock.demo.stage import Stage

CLERKS = 4
SLOW_SHARE = 0.03
SLOW_SECONDS = (0.2, 0.8)
PUBLISHED_AHEAD = timedelta(hours=3)
ENTERED_AFTER = timedelta(hours=24)
LATE_REPORT = 0.1
WINDOW = 20_000
"""Flights published and not yet scored, at most, when there is no pace to keep."""

Row = dict[str, Any]


class Play:
    """Plays in a thread of its own. `progress` goes from 0 to 1."""

    def __init__(
        self, stage: Stage, clock: Clock, *, full: bool, seconds: float | None, days: int | None = None
    ) -> None:
        self._stage, self._clock = stage, clock
        self._full, self._seconds, self._days = full, seconds, days
        self._random = random.Random(20130101)  # noqa: S311 - the same play each time
        self._work: queue.Queue[tuple[Callable[..., None], Sequence[Row], Future[None] | None, Future[None]] | None] = (
            queue.Queue(maxsize=64)
        )
        self._thread = threading.Thread(target=self._run, name="play", daemon=True)
        self._stopping = threading.Event()
        self.progress = 0.0
        self.error: BaseException | None = None
        self.flights = self.reports = self.aircraft = 0

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
        try:
            self._load_aircraft()
            for clerk in clerks:
                clerk.start()
            self._play_hours()
        except BaseException as error:  # noqa: BLE001 - the demo's own thread shows it
            self.error = error
        finally:
            for _ in clerks:
                self._work.put(None)
            for clerk in clerks:
                if clerk.is_alive():
                    clerk.join()

    def _load_aircraft(self) -> None:
        rows = list(dataset.planes())
        credentials = base64.b64encode(f"crossdock:{self._stage.passwords['REGISTRY_PASSWORD']}".encode()).decode()
        for start in range(0, len(rows), 500):
            body = "\n".join(json.dumps(row) for row in rows[start : start + 500]).encode()
            self._stage.load("registry", "/load", body, {"Authorization": f"Basic {credentials}"})
        self.aircraft = len(rows)

    def _play_hours(self) -> None:
        flights, weather = self._by_hour(dataset.flights(self._full)), self._by_hour(dataset.weather(self._full))
        hours = sorted(set(flights) | set(weather))
        if self._days is not None:
            hours = [hour for hour in hours if hour < hours[0] + timedelta(days=self._days)]
        first = hours[0] - PUBLISHED_AHEAD
        steps = int((hours[-1] + ENTERED_AFTER - first) / timedelta(hours=1)) + 1
        step = timedelta(hours=1)
        published: dict[datetime, tuple[Sequence[Row], Future[None]]] = {}
        began = self._clock.monotonic()
        late: list[Row] = []
        wanted = set(hours)
        for number in range(steps):
            if self._stopping.is_set():
                return
            now = first + number * step
            ahead, before = now + PUBLISHED_AHEAD, now - ENTERED_AFTER
            if ahead in wanted and (rows := flights.pop(ahead, [])):
                published[ahead] = (rows, self._do(flightops.insert_flights, rows, None))
                self.flights += len(rows)
            late = self._report(weather.pop(now, []) if now in wanted else [], late)
            if before in published:
                self._do(flightops.departed, *published.pop(before))
            self._keep_pace(began, (number + 1) / steps, number)
        self._report([], late, all_now=True)
        self.progress = 1.0

    def _keep_pace(self, began: float, share: float, number: int) -> None:
        self.progress = share * 0.999
        if self._seconds is not None:
            self._clock.sleep(began + share * self._seconds - self._clock.monotonic(), self._stopping)
        elif number % 24 == 0:
            self._wait_for_scores()

    def _wait_for_scores(self) -> None:
        """At full speed the flights must not depart before anybody could score them."""
        engine = flightops.connect(self._stage.flightops_url)
        try:
            while not self._stopping.is_set() and flightops.unscored(engine) > WINDOW:
                self._clock.sleep(0.2, self._stopping)
        finally:
            engine.dispose()

    @staticmethod
    def _by_hour(rows: Iterable[Row]) -> dict[datetime, list[Row]]:
        found: dict[datetime, list[Row]] = defaultdict(list)
        for number, row in enumerate(rows, start=1):
            row["id"] = number
            found[datetime.fromisoformat(row["time_hour"])].append(row)
        return dict(found)

    def _report(self, rows: list[Row], late: list[Row], *, all_now: bool = False) -> list[Row]:
        """Sends the hour's reports and yesterday's late ones; returns those that will be late now."""
        due: list[Row] = list(late)
        later: list[Row] = []
        for row in rows:
            (later if not all_now and self._random.random() < LATE_REPORT else due).append(row)
        if due:
            token = self._stage.passwords["STATIONS_TOKEN"]
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            body = json.dumps([{name: value for name, value in row.items() if name != "id"} for row in due]).encode()
            self._stage.load("stations", "/api/reports", body, headers)
            self.reports += len(due)
        return later

    def _do(self, what: Callable[..., None], rows: Sequence[Row], after: "Future[None] | None") -> "Future[None]":
        done: Future[None] = Future()
        self._work.put((what, rows, after, done))
        return done

    def _clerk(self, number: int) -> None:
        own = random.Random(number)  # noqa: S311
        engine = flightops.connect(self._stage.flightops_url)
        try:
            while (item := self._work.get()) is not None:
                what, rows, after, done = item
                try:
                    if after is not None:
                        after.result()
                    with engine.begin() as connection:
                        what(connection, rows)
                        if own.random() < SLOW_SHARE and self._seconds is not None:
                            self._clock.sleep(own.uniform(*SLOW_SECONDS), self._stopping)
                    done.set_result(None)
                except BaseException as error:  # noqa: BLE001 - told through the future and to the demo
                    self.error = self.error or error
                    done.set_exception(error)
        finally:
            engine.dispose()
