"""One worker on a copy of the shipped configuration, and what it left on the topics."""

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from connectors.clock import SystemClock
from connectors.errors import Retriable
from crossdock.demo.stage import Stage, configuration_folder
from crossdock.demo.verdict import topics_of
from crossdock.supervisor import Supervised
from schemas.codec import decode, decode_event
from schemas.dead_letter import DeadLetter
from schemas.event import EventValue
from schemas.receipt import ReceiptRecord
from streams.admin import Admin


class Hub:
    """One worker on a copy of the shipped configuration."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.folder = stage, Path(shutil.copytree(configuration_folder(), folder))
        self.log = folder.parent / "worker.log"
        self._worker: Supervised | None = None

    def change(self, pipeline: str, old: str, new: str) -> None:
        path = self.folder / "pipelines" / f"{pipeline}.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def only(self, pipeline: str) -> None:
        for path in (self.folder / "pipelines").iterdir():
            if path.stem != pipeline:
                path.unlink()

    def flights_alone(self) -> None:
        """The flights' pipeline without the weather, and without a share of the model's answers for people."""
        self.only("delay-risk")
        path = self.folder / "pipelines" / "delay-risk.yaml"
        text = path.read_text()
        start, end = text.index("lookups:"), text.index("model:\n")
        text = (text[:start] + text[end:]).replace("path: weather.", "path: ")
        path.write_text(text.replace("unsure: {", "# unsure: {"))

    def start(self) -> None:
        command = [sys.executable, "-m", "crossdock", "run", str(self.folder), "--no-supervise"]
        self._worker = Supervised(command, SystemClock(), log_file=self.log, environ=self.stage.environ)
        self._worker.start()

    def receipts(self, pipeline: str, keys: int, each: int = 1, seconds: float = 60) -> dict[Any, list[ReceiptRecord]]:
        """Receipts by key, once so many keys have so many each. Echoes have receipts too: their number says little."""
        end = time.monotonic() + seconds
        with Admin(self.stage.broker.bootstrap) as admin:
            while True:
                by_key: dict[Any, list[ReceiptRecord]] = {}
                for record in admin.read(topics_of(pipeline).receipts.name):
                    receipt = decode(record.value, ReceiptRecord)
                    by_key.setdefault(next(iter(receipt.key.values())), []).append(receipt)
                if sum(len(receipts) >= each for receipts in by_key.values()) >= keys:
                    return by_key
                assert time.monotonic() < end, f"receipts of {len(by_key)} keys; {self.log.read_text()[-2000:]}"
                time.sleep(0.2)

    def changes(self, pipeline: str, count: int, seconds: float = 60) -> None:
        """Returns once there are so many changes on Kafka."""
        end = time.monotonic() + seconds
        with Admin(self.stage.broker.bootstrap) as admin:
            while sum(1 for _ in admin.read(topics_of(pipeline).changes.name)) < count:
                assert time.monotonic() < end, self.log.read_text()[-2000:]
                time.sleep(0.1)

    def enriched(self, pipeline: str) -> list[EventValue]:
        """The events, oldest last: the first of a redelivery counts."""
        with Admin(self.stage.broker.bootstrap) as admin:
            return [decode_event(each.value) for each in admin.read(topics_of(pipeline).enriched.name)][::-1]

    def letters(self, pipeline: str) -> list[DeadLetter]:
        with Admin(self.stage.broker.bootstrap) as admin:
            return [decode(each.value, DeadLetter) for each in admin.read(topics_of(pipeline).dead.name)]

    def until(self, what: Callable[[], Any], seconds: float = 120) -> Any:
        """The first answer that is true. Kafka may have none while it moves a coordinator."""
        end = time.monotonic() + seconds
        while True:
            with suppress(Retriable):
                if found := what():
                    return found
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.2)

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
