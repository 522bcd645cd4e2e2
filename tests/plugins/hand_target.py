"""One write-back into one system, all of it in hand-moved time."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hand_clock import HandClock

from connectors.contract import Capabilities, Idempotency, Report
from connectors.errors import Rejected, Retriable
from connectors.retry import Retrying
from schemas.control import Credentials, Suspicion
from schemas.outcome import Outcome
from schemas.receipt import Receipt
from schemas.values import Key, Record
from schemas.write import Write
from streams.brake import Brake
from streams.breaker import Breaker
from streams.credentials import SystemCredentials
from streams.delivery import Target, deliver
from streams.gate import Gate


class HandControl:
    """Control without a broker: what is put is found."""

    def __init__(self) -> None:
        self.records: dict[tuple[type, str], object] = {}

    def find(self, kind: type, name: str) -> object:
        return self.records.get((kind, name))

    async def put(self, record: Credentials | Suspicion) -> None:
        self.records[type(record), record.name] = record


class Systemlike:
    """A target whose whole state a test sets: away, wrong, and which records are sick or bad."""

    capabilities = Capabilities(Idempotency.NATURAL)

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.sick: set[int] = set()
        self.bad: set[int] = set()
        self.bad_versions: set[str] = set()
        self.etags: dict[int, str] = {}
        """Of the records whose version is asked for."""
        self.calls: list[list[int]] = []
        self.applied: Counter[int] = Counter()

    def open(self) -> None: ...
    def close(self) -> None: ...

    def check(self) -> Report:
        if self.failure is not None:
            raise self.failure
        return Report()

    def put(self, writes: Sequence[Write], deadline: float) -> list[Receipt]:
        numbers = [int(str(write.key["id"])) for write in writes]
        self.calls.append(numbers)
        if self.failure is not None:
            raise self.failure
        if self.sick & set(numbers):
            raise Retriable("the row is locked")
        if self.bad & set(numbers) or self.bad_versions & {write.version for write in writes}:
            raise Rejected("bad value", code="22003")
        changed = {number for number, write in zip(numbers, writes, strict=True) if self._is_changed(number, write)}
        self.applied.update(number for number in numbers if number not in changed)
        return [Receipt(Outcome.CONFLICT if number in changed else Outcome.APPLIED) for number in numbers]

    def _is_changed(self, number: int, write: Write) -> bool:
        return write.expected is not None and self.etags.get(number) not in (None, write.expected)

    def read(self, keys: Sequence[Key], deadline: float) -> list[Record | None]:
        """`Readable`."""
        return [{"@version": self.etags[int(str(key["id"]))]} for key in keys]


class Scene:
    """One write-back into one system, all of it in hand-moved time."""

    def __init__(self) -> None:
        self.clock, self.system, self.control = HandClock(), Systemlike(), HandControl()
        self.digest = ""
        credentials = SystemCredentials("erp", lambda: self.digest, self.control, self.clock)  # type: ignore[arg-type]
        self.gate = Gate("erp", Breaker(self.clock), credentials, self.control, self.clock)  # type: ignore[arg-type]
        self.threads = ThreadPoolExecutor(1)
        self.target = Target(
            writeback="orders/erp",
            sink=Retrying(self.system, self.clock),
            reader=None,
            checker=self.system,
            batch=8,
            total_timeout=20.0,
            threads=self.threads,
            clock=self.clock,
            gate=self.gate,
            brake=Brake(),
        )

    async def deliver(self, count: int) -> list[Outcome]:
        writes = [Write(f"hub/orders/erp/erp/t/{n}@1~ab/live", {"id": n}, {}, "1") for n in range(count)]
        return [receipt.outcome for receipt in await deliver(self.target, writes, self.clock.hold)]

    def after(self, seconds: float, change: Callable[[], object]) -> None:
        """Something happens while somebody waits."""

        def look() -> None:
            if self.clock.seconds >= seconds:
                self.clock.on_sleep = lambda: None
                change()

        self.clock.on_sleep = look

    def recover(self) -> None:
        self.system.failure = None
