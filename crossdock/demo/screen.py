"""What the demo shows: a timed checklist, a live table, the account. On a terminal it lives; elsewhere it is lines."""

import sys
from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from connectors.clock import Clock
from crossdock.checker.judge import Verdict
from crossdock.demo.verdict import COLUMNS


class Flow(NamedTuple):
    """Where one pipeline stands."""

    read: int
    scored: int
    settled: int
    behind: int


class Screen:
    """Everything goes to stderr when stdout is for a program."""

    def __init__(self, clock: Clock, *, for_program: bool) -> None:
        self.console = Console(stderr=for_program, highlight=False, soft_wrap=True)
        self._clock, self._began = clock, clock.monotonic()
        self._live: Live | None = None
        self._before: tuple[float, Mapping[str, Flow]] | None = None
        self._last_line = 0.0

    def say(self, text: str = "") -> None:
        self.console.print(text)

    def done(self, what: str, where: str = "") -> None:
        """One line of the checklist: what is ready, after how long, where."""
        self.console.print(f"  [dim]{self._clock.monotonic() - self._began:5.1f} s[/dim]  {what:<22} {where}")

    def flow(self, flows: Mapping[str, Flow], note: str) -> None:
        """The live table; without a terminal one line every five seconds."""
        now = self._clock.monotonic()
        if self.console.is_terminal:
            table = self._table(flows, note, now)
            if self._live is None:
                self._live = Live(table, console=self.console, refresh_per_second=4)
                self._live.start()
            self._live.update(table)
        elif now - self._last_line >= 5:
            self._last_line = now
            parts = [f"{name}: settled {f.settled:,}, waiting {f.behind:,}" for name, f in flows.items()]
            self.console.print(f"  [dim]{now - self._began:5.1f} s[/dim]  {note}; {'; '.join(parts)}")
        self._before = (now, dict(flows))

    def end_flow(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self, flows: Mapping[str, Flow], note: str, now: float) -> Table:
        table = Table(title=note, title_justify="left", title_style="bold")
        table.add_column("pipeline")
        for name in ("read", "scored", "settled", "waiting", "settled/s"):
            table.add_column(name, justify="right")
        for name, flow in flows.items():
            rate = 0.0
            if self._before is not None and name in self._before[1] and now > self._before[0]:
                rate = (flow.settled - self._before[1][name].settled) / (now - self._before[0])
            table.add_row(name, *(f"{figure:,}" for figure in flow), f"{rate:,.0f}")
        return table

    def account(self, accounts: Mapping[str, Verdict]) -> None:
        """The final table: what became of every version, by the systems' own logs."""
        table = Table(title="The account, from the systems' own logs", title_justify="left", title_style="bold")
        table.add_column("")
        for name in accounts:
            table.add_column(name, justify="right")
        for column in COLUMNS:
            figures = [each.figures[column] for each in accounts.values()]
            alarming = column in ("lost", "doubled", "in_flight") and any(figures)
            style = "bold red" if alarming else "bold" if column in ("changes", "lost", "doubled") else ""
            table.add_row(column, *(f"{figure:,}" for figure in figures), style=style)
        self.console.print(table)
        for name, each in accounts.items():
            for violation in each.examples:
                place = f"{name}: {violation.key}@{violation.version}"
                self.console.print(f"  [red]{violation.kind}[/red] {place} {violation.detail}")


def print_json(line: str) -> None:
    """The last line of stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
