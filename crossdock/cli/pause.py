"""`crossdock pause` and `crossdock resume`: whether a pipeline's sources are read."""

import getpass
from typing import Annotated

import typer

from crossdock.cli.output import DEFAULT, Folder

Pipeline = Annotated[str, typer.Argument(help="its name")]


def pause(
    pipeline: Pipeline,
    reason: Annotated[str, typer.Option(help="shown to everybody who asks why nothing comes in")],
    folder: Folder = DEFAULT,
) -> None:
    """Reads nothing more from a pipeline's sources, until it is resumed; what was read goes on."""
    from connectors.clock import SystemClock
    from crossdock.pauses import pause as put

    put(folder, pipeline, reason, getpass.getuser(), SystemClock())
    typer.echo(f"{pipeline} is paused: its sources are read no more, on every worker within seconds")


def resume(pipeline: Pipeline, folder: Folder = DEFAULT) -> None:
    """Lets a pipeline's sources be read again."""
    from crossdock.pauses import resume as take_back

    other = take_back(folder, pipeline)
    if other is None:
        typer.echo(f"{pipeline} goes on where it was")
    else:
        typer.echo(f"{pipeline} is still paused by the hub itself, and goes on by itself: {other.reason}")
