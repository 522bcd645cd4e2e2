"""The load: people who commit versions of records into all sources, at an even pace, whatever goes wrong there.

Each record belongs to one of them, so its versions have one order. What was committed is told by the sources' own logs,
not by us: after an error nobody knows whether it was, and the same is entered again.
"""

import base64
import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from connectors.errors import Fatal
from crossdock.demo.stage import Stage
from tests.chaos.campaign.evidence import POISON
from tests.chaos.campaign.schedule import Size

REGIONS = ("north", "south", "east", "west")
ENGINES = ("Turbo-fan", "Turbo-jet", "Reciprocating")
SHARES = {"orders": 0.35, "notices": 0.35, "aircraft": 0.15, "reports": 0.15}
KEYS = {"orders": 20_000, "notices": 20_000, "aircraft": 3_000, "reports": 3_000}
HOT, HOT_SHARE = 50, 0.2
"""Some records of each clerk get a fifth of all versions: several of one record are on their way at any time."""
LONGEST_DEBT = 5.0
"""Seconds of the pace that are made up for, after a source was away."""
CLERKS = {"orders": 2, "notices": 2, "aircraft": 1, "reports": 1}
LOT = {"orders": 60, "notices": 60, "aircraft": 20, "reports": 20}
"""Versions of one transaction or call, at most."""

Row = dict[str, Any]
Enter = Callable[[list[Row]], None]


class Load:
    """Runs in threads of its own until `stop()` is called."""

    def __init__(
        self, stage: Stage, seed: int, size: Size, sources: tuple[str, ...] = tuple(SHARES), poison: float = 0.0
    ) -> None:
        """`poison` is the share of orders and notices whose write is refused."""
        self._stage, self._size, self._sources, self._poison = stage, size, sources, poison
        self._stopping = threading.Event()
        self._entered = dict.fromkeys(sources, 0)
        self._lock = threading.Lock()
        self.refused = 0
        """Attempts that a source did not take."""
        self._threads = [
            threading.Thread(target=self._clerk, args=(source, number, seed), name=f"{source} {number}", daemon=True)
            for source in sources
            for number in range(CLERKS[source])
        ]
        self._began = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    @property
    def entered(self) -> int:
        return sum(self._entered.values())

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _clerk(self, source: str, number: int, seed: int) -> None:
        chance = random.Random(f"{seed}/{source}/{number}")
        pace = self._size.events / self._size.seconds * SHARES[source] / CLERKS[source]
        pace /= sum(SHARES[each] for each in self._sources)
        mine = [key for key in range(1, KEYS[source] + 1) if key % CLERKS[source] == number]
        enter, engine = self._entering(source)
        paid = 0.0
        while not self._stopping.is_set():
            paid = max(paid, self.seconds - LONGEST_DEBT)
            due = int((self.seconds - paid) * pace)
            if due < max(1, min(LOT[source] // 2, int(pace))):
                self._stopping.wait(0.05)
                continue
            keys = _chosen(mine, chance, chance.randint(1, min(LOT[source], due)))
            self._enter(source, enter, [_row(source, key, chance, self._poison) for key in keys])
            paid += len(keys) / pace
        if engine is not None:
            engine.dispose()

    def _enter(self, source: str, enter: Enter, rows: list[Row]) -> None:
        while not self._stopping.is_set():
            try:
                enter(rows)
            except (sa.exc.DBAPIError, Fatal, OSError, http.client.HTTPException):
                with self._lock:
                    self.refused += 1
                self._stopping.wait(0.3)
                continue
            with self._lock:
                self._entered[source] += len(rows)
            return

    def _entering(self, source: str) -> tuple[Enter, sa.Engine | None]:
        if source == "aircraft":
            return self._enter_aircraft, None
        if source == "reports":
            return self._enter_reports, None
        engine = sa.create_engine(self._stage.flightops_url, pool_size=1, connect_args={"connect_timeout": 5})
        statement = sa.text(
            f"INSERT INTO {source} (id, region, amount, stock) "
            "SELECT * FROM unnest(CAST(:id AS bigint[]), CAST(:region AS text[]), CAST(:amount AS int[]), "
            "CAST(:stock AS int[])) ON CONFLICT (id) DO UPDATE SET region = excluded.region, "
            "amount = excluded.amount, stock = excluded.stock"
        )

        def enter(rows: list[Row]) -> None:
            columns = {name: [row[name] for row in rows] for name in ("id", "region", "amount", "stock")}
            with engine.begin() as connection:
                connection.execute(statement, columns)

        return enter, engine

    def _enter_aircraft(self, rows: list[Row]) -> None:
        credentials = base64.b64encode(f"crossdock:{self._stage.passwords['REGISTRY_PASSWORD']}".encode()).decode()
        body = "\n".join(json.dumps(row) for row in rows).encode()
        self._stage.load("registry", "/load", body, {"Authorization": f"Basic {credentials}"})

    def _enter_reports(self, rows: list[Row]) -> None:
        headers = {"Authorization": f"Bearer {self._stage.passwords['STATIONS_TOKEN']}"}
        headers["Content-Type"] = "application/json"
        self._stage.load("stations", "/api/reports", json.dumps(rows).encode(), headers)


def _chosen(keys: list[int], chance: random.Random, count: int) -> list[int]:
    """Different records, some of them those that many versions are about."""
    hot = min(HOT, sum(chance.random() < HOT_SHARE for _ in range(count)))
    return [*chance.sample(keys[:HOT], hot), *chance.sample(keys[HOT:], count - hot)]


def _row(source: str, key: int, chance: random.Random, poison: float) -> Row:
    """A version of a record, as its source takes it in."""
    number = chance.randint(1, 1_000_000)
    match source:
        case "aircraft":
            content = {"type": "Fixed wing", "engines": 2, "seats": number % 500, "engine": chance.choice(ENGINES)}
            return {"tailnum": f"N{key:05d}", "manufacturer": "MAKER", "model": f"m{number}", **content}
        case "reports":
            hour = f"2013-01-{1 + key // 24 % 28:02d}T{key % 24:02d}:00:00Z"
            return {"origin": f"A{key // 672:02d}", "time_hour": hour, "temp": number, "humid": number % 100}
    region = POISON if chance.random() < poison else chance.choice(REGIONS)
    return {"id": key, "region": region, "amount": number, "stock": chance.randint(1, 1_000_000)}
