"""The verbs of `dead`: dead letters listed, grouped, shown, sent again, discarded."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from connectors.errors import ConfigError
from crossdock.cli.output import DEFAULT, AsJson, Folder, show, user

if TYPE_CHECKING:
    from crossdock.dead.letters import Wanted
    from crossdock.dead.orders import Asker

dead = typer.Typer(no_args_is_help=True, help="Dead letters: events that were refused for good.")

StageName = Literal["produce", "decode", "only", "derive", "guard-in", "model", "guard-out", "put"]
Letter = Annotated[str, typer.Argument(help="its id, as `dead list` shows it")]
OfPipeline = Annotated[str | None, typer.Option("--pipeline", help="only of this one")]
OfGroup = Annotated[str | None, typer.Option("--group", help="only with this fingerprint, as `dead groups` shows it")]
OfStage = Annotated[StageName | None, typer.Option("--stage", help="only those that it refused")]
OfCode = Annotated[str | None, typer.Option("--code", help="only with this code")]
Since = Annotated[str | None, typer.Option(help="only those of the last 30m, 2h, 7d")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="only this one; several times for several")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")]
Reason = Annotated[str, typer.Option(help="why, for the audit")]
By = Annotated[str | None, typer.Option(help="who wants it, for the audit; default: the user of this machine")]
Rate = Annotated[float, typer.Option(min=0.01, max=10_000, help="letters per second")]


@dead.command("list")
def list_(  # noqa: PLR0917 - typer's options
    folder: Folder = DEFAULT,
    pipeline: OfPipeline = None,
    group: OfGroup = None,
    stage: OfStage = None,
    code: OfCode = None,
    since: Since = None,
    ids: Ids = None,
    as_json: AsJson = False,
) -> None:
    """A line for each dead letter, oldest first."""
    from crossdock.dead.letters import list_letters

    found = list_letters(folder, _wanted(pipeline, group, stage, code, since, ids))
    lines = [
        f"{row['id']}  {row['at']}  {row['state']}  {row['stage']} {row['code']}  {row['reason']}"
        + (f"  ({row['times']} times)" if row["times"] > 1 else "")
        for row in found
    ]
    show({"letters": found}, "\n".join(lines) or "no dead letters", as_json=as_json)


@dead.command()
def groups(  # noqa: PLR0917 - typer's options
    folder: Folder = DEFAULT,
    pipeline: OfPipeline = None,
    stage: OfStage = None,
    code: OfCode = None,
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """A line for each cause, the most frequent first."""
    from crossdock.dead.letters import groups as look

    found = look(folder, _wanted(pipeline, None, stage, code, since, None))
    lines = [
        f"{row['fingerprint']}  {row['count']:,} ({row['open']:,} open)  {row['first_seen']} - {row['last_seen']}  "
        f"{', '.join(row['pipelines'])}  {row['stage']} {row['code']}  {row['reason']}"
        for row in found
    ]
    show({"groups": found}, "\n".join(lines) or "no dead letters", as_json=as_json)


@dead.command("show")
def show_(letter: Letter, folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """One dead letter: its original bytes, why it was refused, and what people did with it."""
    from crossdock.dead.letters import show_letter

    found = show_letter(folder, letter)
    lines = [f"{name:<12} {value}" for name, value in found.items() if name != "audit"]
    lines += [
        f"{'audit':<12} {each['asked']} {each['verb']} by {each['by']}: {each['became']}"
        + (f" at {each['done']}" if each["done"] else "")
        + (f" ({each['reason']})" if each["reason"] else "")
        for each in found["audit"]
    ]
    show(found, "\n".join(lines), as_json=as_json)


@dead.command()
def replay(  # noqa: PLR0917 - typer's options
    folder: Folder = DEFAULT,
    pipeline: OfPipeline = None,
    group: OfGroup = None,
    stage: OfStage = None,
    code: OfCode = None,
    since: Since = None,
    ids: Ids = None,
    rate: Rate = 50.0,
    reason: Reason = "",
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Sends open letters again, as they were. Asking twice sends them once."""
    from crossdock.dead import orders

    wanted = _wanted(pipeline, group, stage, code, since, ids)
    found = orders.replay(folder, wanted, _asker(by, reason), rate=rate, dry_run=dry_run)
    show(found, _told(found), as_json=as_json)


@dead.command()
def edit(  # noqa: PLR0917 - typer's options
    letter: Letter,
    folder: Folder = DEFAULT,
    value: Annotated[Path | None, typer.Option(help="a JSON file: the whole record as it should be")] = None,
    fields: Annotated[list[str] | None, typer.Option("--set", help="after.FIELD=JSON; several times")] = None,
    reason: Reason = "",
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Sends one letter again with another record; the letter itself stays as it is."""
    from crossdock.dead import orders

    change = orders.Change(value, fields or [])
    found = orders.edit(folder, letter, change, _asker(by, reason), dry_run=dry_run)
    show(found, f"{_told(found)}\nafter: {found['after']}", as_json=as_json)


@dead.command()
def discard(  # noqa: PLR0917 - typer's options
    folder: Folder = DEFAULT,
    pipeline: OfPipeline = None,
    group: OfGroup = None,
    stage: OfStage = None,
    code: OfCode = None,
    since: Since = None,
    ids: Ids = None,
    reason: Reason = "",
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Settles open letters: nobody needs their events any more."""
    from crossdock.dead import orders

    wanted = _wanted(pipeline, group, stage, code, since, ids)
    found = orders.discard(folder, wanted, _asker(by, reason), dry_run=dry_run)
    show(found, _told(found), as_json=as_json)


def _wanted(  # noqa: PLR0917 - the options, in their order
    pipeline: str | None,
    group: str | None,
    stage: str | None,
    code: str | None,
    since: str | None,
    ids: list[str] | None,
) -> "Wanted":
    from connectors.clock import SystemClock
    from crossdock.dead.letters import Wanted

    moment = None if since is None else SystemClock().now() - _duration(since)
    return Wanted(pipeline, group, stage, code, moment, tuple(ids or ()))


def _duration(text: str) -> timedelta:
    from pydantic import TypeAdapter, ValidationError

    from connectors.config import Duration

    try:
        found: timedelta = TypeAdapter(Duration).validate_python(text)
    except ValidationError:
        raise ConfigError(f"--since {text!r}: a number and a unit are needed: 500ms, 10s, 5m, 2h, 7d") from None
    return found


def _asker(by: str | None, reason: str) -> "Asker":
    from connectors.clock import SystemClock
    from crossdock.dead.orders import Asker

    return Asker(by or user(), reason, SystemClock())


def _told(found: dict[str, Any]) -> str:
    """What was asked for, a line for each thing that a person must know."""
    verb, count = found["verb"], len(found["letters"])
    lines = [f"would {verb} {number}" for number in found["letters"]] if found["dry_run"] else []
    lines += [f"not {each['id']}: {each['why']}" for each in found["skipped"]]
    if found["dry_run"]:
        lines.append(f"{count:,} letters; nothing was done")
    elif count:
        then = "`crossdock dead list` shows when it is done" if found["workers"] else "no worker runs: it waits for one"
        lines.append(f"{verb} of {count:,} letters is asked for; {then}")
    else:
        lines.append(f"nothing to {verb}")
    return "\n".join(lines)
