"""One run of `crossdock reconcile`."""

from pathlib import Path
from typing import Any

from connectors.clock import Clock
from connectors.errors import ConfigError
from crossdock.reconcile.comparison import Wanted, compare
from crossdock.reconcile.hub import hub_of
from schemas.values import Key


def run(folder: Path, pipeline: str, *, bucket: str | None, reread: bool, show: int, clock: Clock) -> dict[str, Any]:
    """Compares each write-back of a pipeline with its source.

    Args:
        folder: of crossdock.yaml.
        pipeline: its name.
        bucket: two hexadecimal digits; None = all.
        reread: asks the source again for what is missing or different.
        show: differences that are listed at most.
        clock: tells deadlines, and the time between two looks.

    Raises:
        ConfigError: there is no such pipeline or bucket, or it cannot be compared.
        Retriable, AuthExpired, SystemFault: somebody who was asked does not answer.
    """
    wanted = Wanted(None if bucket is None else _number(bucket), show)
    with hub_of(folder, pipeline, clock) as hub:
        if not hub.pipeline.writeback:
            raise ConfigError(f"{pipeline} writes nothing back: there is nothing to compare")
        found = [compare(hub, block, wanted) for block in hub.pipeline.writeback]
        again: dict[str, Key] = {
            str(sorted(each.key.items())): each.key for one in found for each in one.differences if each.kind != "extra"
        }
        asked = hub.ask_again(list(again.values())) if reread and again else 0
    return {
        "ok": not any(one.differences for one in found),
        "pipeline": pipeline,
        "writebacks": [one.said for one in found],
        "asked_again": asked,
    }


def _number(bucket: str) -> int:
    try:
        number = int(bucket, 16) if len(bucket) == 2 else -1
    except ValueError:
        number = -1
    if number < 0:
        raise ConfigError(f"no bucket {bucket!r}: two hexadecimal digits name one, 00 to ff")
    return number
