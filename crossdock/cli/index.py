"""The verbs of the index: `crossdock index status` and `crossdock index rebuild`."""

import sys
from typing import Any

import typer

from crossdock.cli.output import DEFAULT, AsJson, Folder, show

index = typer.Typer(no_args_is_help=True, help="The index: answers about receipts, dead letters and offsets.")


@index.command("rebuild")
def index_rebuild(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Deletes the index and makes it again out of Kafka and the archive; workers may run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from crossdock.index import rebuild

    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=Console(file=sys.stderr), disable=as_json) as progress:
        bar = progress.add_task("records", total=None)
        found = rebuild(folder, lambda done, total: progress.update(bar, completed=done, total=total))
    show(found, _text(found), as_json=as_json)


@index.command("status")
def index_status(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """What the index holds, as of when, and how far it is behind Kafka."""
    from crossdock.index import status

    found = status(folder)
    show(found, _text(found), as_json=as_json)


def _text(found: dict[str, Any]) -> str:
    rows = ", ".join(f"{name} {count:,}" for name, count in found["rows"].items())
    as_of = found["as_of"] or "never complete"
    return f"index {found['url']}\n  {rows}\n  as of {as_of}, {found['behind']:,} records behind"
