"""The verbs of `offsets`: where everything stands, and how a person moves it."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connectors.errors import ConfigError
from crossdock.cli.output import DEFAULT, AsJson, Folder, show, user

if TYPE_CHECKING:
    from crossdock.moves import Action, Wish

offsets = typer.Typer(no_args_is_help=True, help="Offsets: how far each source and each group has read.")

Subject = Annotated[str, typer.Argument(help="a source task, a group, or one of its partitions, as `show` names them")]
Yes = Annotated[bool, typer.Option("--yes", help="carry it out; without it, what it would mean is shown")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="show what it would mean, and nothing else: the default")]
Reason = Annotated[str, typer.Option(help="why; kept in the history")]
By = Annotated[str | None, typer.Option(help="who wants it; default: the user of this machine")]
Wait = Annotated[float, typer.Option(min=0, help="seconds to wait for a worker to carry it out")]


@offsets.command("show")
def show_(
    folder: Folder = DEFAULT,
    subject: Annotated[str | None, typer.Argument(help="only this task, group or partition")] = None,
    as_json: AsJson = False,
) -> None:
    """Where each source task and each group stands, whether that holds, and what was moved."""
    from connectors.clock import SystemClock
    from crossdock.offsets import show as look

    found = look(folder, SystemClock(), subject)
    lines = [line for row in found["tasks"] for line in _task_lines(row)]
    lines += _groups_lines(found["groups"], each=subject is not None)
    show(found, "\n".join(lines) or "nothing has an offset yet", as_json=as_json)


@offsets.command("set")
def set_(  # noqa: PLR0917 - typer's options
    folder: Folder,
    subject: Subject,
    offset: Annotated[
        str | None, typer.Argument(help="JSON: a position as `show` shows it, or a record's number")
    ] = None,
    time: Annotated[str | None, typer.Option(help="RFC 3339: everything that changed from then on is read")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    reason: Reason = "",
    by: By = None,
    wait: Wait = 10.0,
    as_json: AsJson = False,
) -> None:
    """Goes on from another place: one that was stored, or a time."""
    if (offset is None) == (time is None):
        raise ConfigError("one of the two is needed: an offset as JSON, or --time RFC3339")
    wish = _wish(subject, "set", by, reason)
    wish = wish._replace(moment=_moment(time)) if time else wish._replace(offset=_position(offset or ""))
    _move(folder, wish, yes=yes, dry_run=dry_run, wait=wait, as_json=as_json)


@offsets.command()
def reset(  # noqa: PLR0917 - typer's options
    folder: Folder,
    subject: Subject,
    yes: Yes = False,
    dry_run: DryRun = False,
    reason: Reason = "",
    by: By = None,
    wait: Wait = 10.0,
    as_json: AsJson = False,
) -> None:
    """Begins at the beginning. What was written already finds itself done."""
    _move(folder, _wish(subject, "reset", by, reason), yes=yes, dry_run=dry_run, wait=wait, as_json=as_json)


@offsets.command()
def undo(  # noqa: PLR0917 - typer's options
    folder: Folder,
    subject: Subject,
    yes: Yes = False,
    dry_run: DryRun = False,
    reason: Reason = "",
    by: By = None,
    wait: Wait = 10.0,
    as_json: AsJson = False,
) -> None:
    """Goes back to what stood before the last set or reset."""
    _move(folder, _wish(subject, "undo", by, reason), yes=yes, dry_run=dry_run, wait=wait, as_json=as_json)


def _move(folder: Path, wish: "Wish", *, yes: bool, dry_run: bool, wait: float, as_json: bool) -> None:
    from connectors.clock import SystemClock
    from crossdock.moves import move

    if yes and dry_run:
        raise ConfigError("--yes carries it out, and --dry-run does not; give one of the two")
    if yes and not wish.reason:
        raise ConfigError("say why, for whoever looks at this later: --reason TEXT")
    found = move(folder, wish, SystemClock(), yes=yes, wait=wait)
    show(found, "\n".join(_moved_lines(found, folder, wish)), as_json=as_json)


def _wish(subject: str, action: "Action", by: str | None, reason: str) -> "Wish":
    from crossdock.moves import Wish

    return Wish(subject, action, by or user(), reason)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigError(f"--time {text!r}: a time with a zone is needed, as in 2026-05-01T06:00:00Z")
    return moment


def _position(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the offset is no JSON ({error}); `crossdock offsets show` shows offsets") from error
    if found is None:
        raise ConfigError("null is the beginning: `crossdock offsets reset`")
    return found


def _task_lines(row: dict[str, Any]) -> list[str]:
    lines = [f"{row['task']}  {row['state']}  {row['changes']:,} changes up to {row['at'] or 'never'}"]
    lines.append(f"  offset {'the beginning' if row['offset'] is None else json.dumps(row['offset'])}")
    return [*lines, *_trouble_lines(row), *_move_lines(row)]


def _groups_lines(rows: list[dict[str, Any]], *, each: bool) -> list[str]:
    """A line for each topic of a group, and one for each partition that has something to tell."""
    lines: list[str] = []
    for name in dict.fromkeys(row["subject"].rpartition("/")[0] for row in rows):
        ours = [row for row in rows if row["subject"].rpartition("/")[0] == name]
        lines.append(f"{name}  {len(ours)} partitions, {sum(row['lag'] for row in ours):,} behind")
        for row in ours:
            if each or row["decide"] or row["waits"] or row["history"]:
                at = row["mirrored"] if row["committed"] is None else row["committed"]
                place = f"at {'the beginning' if at is None else at} of {row['begins']}..{row['ends']}"
                lines += [f"{row['subject']}  {row['state']}  {place}", *_trouble_lines(row), *_move_lines(row)]
    return lines


def _trouble_lines(row: dict[str, Any]) -> list[str]:
    return [f"  {row['reason']}", f"  decide with: {row['decide']}"] if row["decide"] else []


def _move_lines(row: dict[str, Any]) -> list[str]:
    lines = []
    if row["waits"] is not None:
        lines.append("  a {action} by {by} waits for a worker since {time}".format(**row["waits"]))
    for each in row["history"]:
        before, after, undone = json.dumps(each["before"]), json.dumps(each["after"]), each["undone"]
        lines.append(
            f"  {each['time']} {each['action']} by {each['by']}: {before} -> {after} ({each['reason']})"
            f"{', undone' if undone else ''}"
        )
    return lines


def _moved_lines(found: dict[str, Any], folder: Path, wish: "Wish") -> list[str]:
    lines = []
    for each in found["moves"]:
        before, after = (json.dumps(each[name]) for name in ("before", "after"))
        lines.append(f"{each['subject']}: {wish.action} from {before} to {after}")
        again, skipped = ("unknown" if each[name] is None else f"{each[name]:,}" for name in ("again", "skipped"))
        lines.append(f"  read again {again}, skipped {skipped}{': ' + each['note'] if each['note'] else ''}")
    if not found["asked"]:
        return [*lines, "nothing was done; the same command with --reason TEXT --yes carries it out"]
    if found["done"]:
        return [*lines, "done"]
    then = f"watch it with: crossdock offsets show {folder}" if found["workers"] else "no worker runs: it waits for one"
    return [*lines, f"asked for; {then}"]
