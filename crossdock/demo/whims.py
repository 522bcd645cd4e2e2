"""Whims: how a server lies and limps on writes, by chance and from a seed. None of it is said in any answer."""

import argparse
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

BURST = 5
"""Errors come in a row: a server that is ill stays so for a moment."""
SLOW_SECONDS = 2.0


class Whim(StrEnum):
    """What happens to one write."""

    NONE = "none"
    LOST = "lost"  # it is done, and the connection ends without an answer
    ERROR = "error"  # nothing is done, and the answer is 500
    PAGE = "page"  # nothing is done, and the answer is 200 with a login page
    SLOW = "slow"  # it is done, and the answer takes its time


LOGIN_PAGE = b"<!DOCTYPE html><html><body><form>Please log in</form></body></html>"


@dataclass
class Whims:
    """Shares between 0 and 1. The same seed brings the same whims in the same order."""

    lost: float = 0.0
    errors: float = 0.0
    pages: float = 0.0
    slow: float = 0.0
    seed: int = 0
    _burst: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311 - no secret

    def next(self) -> Whim:
        """For one write."""
        with self._lock:
            if self._burst:
                self._burst -= 1
                return Whim.ERROR
            rest = self._chance.random()
            shares: Mapping[Whim, float] = {
                Whim.LOST: self.lost,
                Whim.ERROR: self.errors,
                Whim.PAGE: self.pages,
                Whim.SLOW: self.slow,
            }
            for whim, share in shares.items():
                if rest < share:
                    self._burst = BURST - 1 if whim is Whim.ERROR else 0
                    return whim
                rest -= share
            return Whim.NONE

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        for name, what in (
            ("lost-replies", "writes that are done and never answered"),
            ("errors", "writes that begin a burst of answers 500"),
            ("pages", "writes that are answered by a login page with 200"),
            ("slow", f"writes whose answer takes {SLOW_SECONDS:.0f} s"),
        ):
            parser.add_argument(f"--{name}", type=float, default=0.0, metavar="SHARE", help=what)
        parser.add_argument("--seed", type=int, default=0, help="of what happens by chance")

    @classmethod
    def chosen(cls, options: argparse.Namespace) -> "Whims":
        return cls(options.lost_replies, options.errors, options.pages, options.slow, options.seed)
