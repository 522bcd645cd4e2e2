"""What `crossdock.control` tells about dead letters: commands that wait, letters that are done, causes that were used.

Letters and events are held as digests: a hub may have settled very many.
"""

import hashlib
from collections.abc import Collection

from schemas.control import Command, ControlRecord, Mark
from schemas.dead_letter import LetterHead


class Marks:
    """Takes control's records in their order; a mark may come twice."""

    def __init__(self) -> None:
        self._waiting: dict[str, Command] = {}
        self._done: dict[bytes, tuple[str, int]] = {}
        self._causes: dict[bytes, int] = {}

    def take(self, record: ControlRecord) -> None:
        match record:
            case Command():
                self._waiting[record.name] = record
            case Mark():
                self._waiting.pop(record.command, None)
                if record.refused is None and record.identity is not None:
                    self._done[_digest(record.identity)] = (record.cause or record.verb, record.through)
                if record.cause is not None and record.subject is not None:
                    subject = _digest(record.subject)
                    self._causes[subject] = max(self._causes.get(subject, 0), number_of(record.cause))
            case _:
                pass

    @property
    def waiting(self) -> Collection[Command]:
        """Commands without a mark, oldest first: a view that changes with what is taken."""
        return self._waiting.values()

    def waits(self, command: str) -> bool:
        return command in self._waiting

    def done(self, letter: LetterHead, at: int) -> str | None:
        """What was done with a letter, or with an earlier one of its identity: the cause, or the verb; None = open.

        Args:
            letter: any.
            at: its own offset. What was refused anew since, though it is the same, is open.
        """
        cause, through = self._done.get(_digest(letter.identity), ("", 0))
        return cause if at < through else None

    def last_cause(self, subject: str) -> int:
        """The highest number that a cause of this event has; 0 = none but `live`."""
        return self._causes.get(_digest(subject), 0)


def number_of(cause: str) -> int:
    """The number in `replay:<n>`; 0 where there is none."""
    number = cause.rpartition(":")[2]
    return int(number) if number.isdecimal() else 0


def subject_of(letter: LetterHead) -> str:
    """What the causes of a letter are counted by: key and source version, whatever the content; else the letter."""
    return letter.identity if letter.event_id is None else letter.event_id.rpartition("~")[0] or letter.event_id


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
