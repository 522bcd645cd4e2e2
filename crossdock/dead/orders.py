"""Asking for letters to be sent again or discarded: commands on `crossdock.control`, for the one that carries them out.

Nothing is sent from here: `streams.replay` does that, so that it is done once, whoever asks and however often.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from connectors.clock import Clock
from connectors.errors import ConfigError
from crossdock.dead.letters import Letters, Row, Wanted, letters_of
from schemas.codec import Undecodable, decode, encode
from schemas.control import Discard, Edit, Replay
from schemas.dead_letter import DeadLetter
from schemas.values import rfc3339
from streams.admin import Admin
from streams.control import outgoing
from streams.letters import NotSendable, again, edited, refusal
from streams.topics import tasks_group

AT_ONCE = 1000


class Asker(NamedTuple):
    """Who wants it, why and when: every command carries it."""

    by: str
    reason: str
    clock: Clock

    def said(self, letter: str) -> dict[str, Any]:
        return {
            "name": f"{letter}#{secrets.token_hex(4)}",
            "letter": letter,
            "by": self.by,
            "reason": self.reason,
            "time": rfc3339(self.clock.now()),
        }


def replay(folder: Path, wanted: Wanted, asker: Asker, *, rate: float, dry_run: bool) -> dict[str, Any]:
    """Asks for all open letters that are wanted to be sent again.

    Raises:
        ConfigError: nothing chooses, there is no such letter, or one that was named can never be sent again.
    """
    return _ask(folder, wanted, "replay", dry_run, lambda row: Replay(**asker.said(row.id), rate=rate))


def discard(folder: Path, wanted: Wanted, asker: Asker, *, dry_run: bool) -> dict[str, Any]:
    """Asks for all open letters that are wanted to be settled as `discarded`. Raises as `replay`."""
    return _ask(folder, wanted, "discard", dry_run, lambda row: Discard(**asker.said(row.id)))


def edit(folder: Path, number: str, change: "Change", asker: Asker, *, dry_run: bool) -> dict[str, Any]:
    """Asks for one letter to be sent again with another `after`.

    Raises:
        ConfigError: there is no such letter, it cannot be edited, or the change does not fit.
    """
    with letters_of(folder) as (configuration, admin, letters):
        letter, _ = letters.letter(number)
        (row,) = letters.rows(Wanted(ids=(number,)))
        try:
            after = change.of(letter)
            again(letter, "edit", letters.topics(letter.pipeline), 0, after)  # what would be refused is told now
        except NotSendable as error:
            raise ConfigError(f"{number} cannot be edited: {error}") from error
        found = _told("edit", [row], dry_run, admin, configuration.hub.kafka.prefix)
        if not dry_run and row.done is None:
            _append(admin, letters, [Edit(**asker.said(number), after=after)])
        return {**found, "after": decode(bytes(after), dict[str, Any])}


class Change:
    """What an edit changes: the whole of `after`, or some of its fields."""

    def __init__(self, file: Path | None, fields: Sequence[str]) -> None:
        """Raises ConfigError: both or none, a file that holds no JSON object, or a field that cannot be read."""
        if (file is None) == (not fields):
            raise ConfigError("say what to change: --value FILE for the whole record, or --set after.FIELD=JSON")
        self._whole = None if file is None else _object_in(file)
        self._fields = dict(_field(each) for each in fields)

    def of(self, letter: DeadLetter) -> msgspec.Raw:
        """The letter's new `after`. Raises NotSendable."""
        return edited(letter, self._fields) if self._whole is None else self._whole


def _object_in(file: Path) -> msgspec.Raw:
    try:
        return msgspec.Raw(encode(decode(file.read_bytes(), dict[str, msgspec.Raw])))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except Undecodable as error:
        raise ConfigError(f"{file}: a JSON object is needed, the whole of `after`: {error}") from error


def _field(text: str) -> tuple[str, msgspec.Raw]:
    path, equals, value = text.partition("=")
    head, _, name = path.partition(".")
    if not equals or head != "after" or not name:
        raise ConfigError(
            f"--set {text!r}: after.FIELD=JSON is needed, as in after.distance=500 or after.origin='\"JFK\"'"
        )
    try:
        decode(value.encode(), object)
    except Undecodable as error:
        raise ConfigError(f"--set {text!r}: {value!r} is no JSON ({error}); a text needs its quotes") from error
    return name, msgspec.Raw(value.encode())


def _ask(
    folder: Path, wanted: Wanted, verb: str, dry_run: bool, command: Callable[[Row], Replay | Discard]
) -> dict[str, Any]:
    if wanted == Wanted():
        raise ConfigError(f"say which letters to {verb}: --id, --pipeline, --group, --stage, --code or --since")
    with letters_of(folder) as (configuration, admin, letters):
        rows = letters.rows(wanted)
        found = _told(verb, rows, dry_run, admin, configuration.hub.kafka.prefix)
        if wanted.ids:
            _refuse_named(verb, rows)
        if not dry_run:
            chosen = set(found["letters"])
            _append(admin, letters, (command(row) for row in rows if row.id in chosen))
        return found


def _refuse_named(verb: str, rows: Sequence[Row]) -> None:
    """A letter that was named and can never be sent is an error; one that is done already is nothing to do."""
    lines = [f"{row.id} cannot be replayed: {why}" for row in rows if (why := _never(row, verb)) is not None]
    if lines:
        raise ConfigError("\n".join(lines))


def _never(row: Row, verb: str) -> str | None:
    return None if verb == "discard" or row.done is not None else refusal(row.head, verb)


def _told(verb: str, rows: Sequence[Row], dry_run: bool, admin: Admin, prefix: str) -> dict[str, Any]:
    """What is asked for, what is not and why."""
    why = {row.id: f"already {row.state}" if row.done is not None else _never(row, verb) for row in rows}
    return {
        "verb": verb,
        "dry_run": dry_run,
        "letters": [number for number, reason in why.items() if reason is None],
        "skipped": [{"id": number, "why": reason} for number, reason in why.items() if reason is not None],
        "workers": len(admin.members(tasks_group(prefix))),
    }


def _append(admin: Admin, letters: Letters, commands: Iterable[Replay | Edit | Discard]) -> None:
    part: list[tuple[bytes, bytes | None]] = []
    for command in commands:
        record = outgoing(command)
        part.append((record.key or b"", record.value))
        if len(part) == AT_ONCE:
            admin.append(letters.control.name, part)
            part = []
    if part:
        admin.append(letters.control.name, part)
