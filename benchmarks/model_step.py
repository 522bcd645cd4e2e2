"""What the model step costs for each event: features, guards, ONNX, guards, abstention and stamp, by batch size.

    python benchmarks/model_step.py

Prints microseconds of CPU per row, and the ratio to a calibration loop (encode and decode of a fixed record, in this
process), as absolute times differ between machines. The best of several rounds counts.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import yaml

from connectors.clock import SystemClock
from crossdock.demo.dataset import Row, flights, weather
from streams.model.config import ModelConfig
from streams.scope import Scope

CONFIG = Path(__file__).parents[1] / "config"
SIZES = (1, 64, 500, 1000)
ROUNDS = 7
ROWS = 4000


def main() -> None:
    """Runs all sizes and prints one line for each."""
    asyncio.run(_main())


async def _main() -> None:
    pipeline = yaml.safe_load((CONFIG / "pipelines" / "delay-risk.yaml").read_text())
    clock = SystemClock()
    step = ModelConfig.model_validate(pipeline["model"]).build(CONFIG / "models", {"weather": "impute"}, clock)
    scopes = _scopes()
    ids = [f"flightops/flights/{row}@0001.{row:020d}.0000~deadbeef" for row in range(ROWS)]
    unit = min(_calibration() for _ in range(ROUNDS))
    for size in SIZES:
        best = float("inf")
        for _ in range(ROUNDS):
            start = time.process_time()
            for at in range(0, ROWS, size):
                await step.answer(scopes[at : at + size], ids[at : at + size], clock.monotonic() + 10)
            best = min(best, (time.process_time() - start) / ROWS * 1e6)
        sys.stdout.write(f"batch {size:>5}: {best:6.2f} us per row, {best / unit:5.2f} x calibration ({unit:.2f} us)\n")


def _scopes() -> list[Scope]:
    report_of = {(report["origin"], report["time_hour"]): report for report in weather()}
    return [
        _scope(flight, report_of.get((flight["origin"], flight["time_hour"]))) for flight in islice(flights(), ROWS)
    ]


def _scope(flight: Row, report: Row | None) -> Scope:
    derived = {"hour_utc": flight["time_hour"], "sched_hour": flight["hour"], "weekday": 2}
    return Scope(key={"id": flight["flight"]}, before=None, after=flight, derived=derived, lookups={"weather": report})


def _calibration() -> float:
    """Microseconds to encode and decode one flight."""
    encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
    decode = msgspec.json.Decoder().decode
    record = next(flights())
    start = time.process_time()
    for _ in range(20_000):
        decode(encode(record))
    return (time.process_time() - start) / 20_000 * 1e6


if __name__ == "__main__":
    main()
