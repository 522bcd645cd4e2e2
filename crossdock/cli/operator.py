"""The verbs of `held` and `doubt`: what a hub asks of people."""

import getpass
from typing import Annotated, Literal

import typer

from crossdock.cli.output import DEFAULT, AsJson, Folder, show

held = typer.Typer(no_args_is_help=True, help="What waits for a person: write-backs that met too many refusals.")
doubt = typer.Typer(no_args_is_help=True, help="Calls that are never repeated, and whose end nobody knows.")

Name = Annotated[str, typer.Argument(help="the write-back, as `held list` shows it: pipeline/write-back")]


@held.command("list")
def held_list(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """What is held, since when and why."""
    from crossdock.operator import held as look

    found = look(folder)
    lines = [f"{row['name']}  since {row['since']}  {row['why']}: {row['reason']}" for row in found]
    show({"held": found}, "\n".join(lines) or "nothing is held", as_json=as_json)


@held.command("retry")
def held_retry(name: Name, folder: Folder = DEFAULT) -> None:
    """The system is right again: writes the held records once more."""
    _decide(name, folder, "retry")


@held.command("dead")
def held_dead(name: Name, folder: Folder = DEFAULT) -> None:
    """The records are what is wrong: refusals of this kind become dead letters, for one hour."""
    _decide(name, folder, "dead")


def _decide(name: str, folder: Folder, word: Literal["retry", "dead"]) -> None:
    from crossdock.operator import decide
    from schemas.control import Decision

    decide(folder, name, Decision(word), getpass.getuser())
    typer.echo(f"{name}: {word}; watch it with: crossdock status {folder}")


@doubt.command("list")
def doubt_list(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Each call that may have happened: look at the target, then resolve it."""
    from crossdock.operator import doubts

    found = [each.row() for each in doubts(folder)]
    lines = [f"{row['id']}  {row['writeback']}  {row['state']}" for row in found]
    show({"doubts": found}, "\n".join(lines) or "no call is in doubt", as_json=as_json)


@doubt.command("resolve")
def doubt_resolve(
    write_id: Annotated[str, typer.Argument(help="as `doubt list` shows it")],
    verdict: Annotated[
        Literal["applied", "retry", "discard"],
        typer.Option("--as", help="applied: it happened; retry: it did not, make it again; discard: leave it"),
    ],
    reason: Annotated[str, typer.Option(help="what you saw; kept with the receipt")],
    folder: Folder = DEFAULT,
) -> None:
    """Says what you found at the target; the worker that owns the record carries it out."""
    from crossdock.operator import resolve
    from schemas.control import Verdict

    resolve(folder, write_id, Verdict(verdict), getpass.getuser(), reason)
    typer.echo(f"{write_id}: {verdict}; it is carried out within seconds while a worker runs")
