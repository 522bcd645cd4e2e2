"""The play: a month of New York's weather as live days at speed, and the aircraft register beside it.

A report comes when its hour is over; one in ten comes an hour late. Aircraft are entered in lots over the whole time.
"""

import base64
import json
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from connectors.clock import Clock
from crossdock.demo import dataset
from crossdock.demo.stage import Stage

LATE_REPORT = 0.1

Row = dict[str, Any]


class Play:
    """Plays in a thread of its own. `progress` goes from 0 to 1."""

    def __init__(self, stage: Stage, clock: Clock, *, full: bool, seconds: float) -> None:
        self._stage, self._clock, self._full, self._seconds = stage, clock, full, seconds
        self._random = random.Random(20130101)  # noqa: S311 - the same play each time
        self._thread = threading.Thread(target=self._run, name="play", daemon=True)
        self._stopping = threading.Event()
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
        try:
            self._play_hours()
        except BaseException as error:  # noqa: BLE001 - the demo's own thread shows it
            self.error = error

    def _play_hours(self) -> None:
        reports: dict[str, list[Row]] = defaultdict(list)
        for row in dataset.weather(self._full):
            reports[str(row["time_hour"])].append(row)
        aircraft: list[Row] = list(dataset.planes())
        hours = sorted(reports)
        began = self._clock.monotonic()
        late: list[Row] = []
        entered = 0
        for number, hour in enumerate(hours, start=1):
            if self._stopping.is_set():
                return
            share = number / len(hours)
            late = self._report(reports[hour], late)
            due = round(share * len(aircraft))
            if due - entered >= 50 or number == len(hours):
                self._enter(aircraft[entered:due])
                entered = due
            self.progress = share * 0.999
            self._clock.sleep(began + share * self._seconds - self._clock.monotonic(), self._stopping)
        self._send(late)
        self.progress = 1.0

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

    def _enter(self, rows: Sequence[Row]) -> None:
        credentials = base64.b64encode(f"crossdock:{self._stage.passwords['REGISTRY_PASSWORD']}".encode()).decode()
        body = "\n".join(json.dumps(row) for row in rows).encode()
        self._stage.load("registry", "/load", body, {"Authorization": f"Basic {credentials}"})
