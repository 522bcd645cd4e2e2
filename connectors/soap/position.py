"""How far a listing was read: the cursor in the server's own words, and what was seen of the overlap.

Offset: `{v: 1, cursor: "original text", boundary: [..]}`; `boundary` are the records at exactly that cursor, as key and
digest. A locator is never part of it.
"""

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from connectors.clock import Clock
from connectors.errors import ConfigError, SystemFault
from connectors.soap.config import Cursor
from connectors.soap.values import moment
from schemas.values import Offset, UnknownType, rfc3339
from schemas.version import position_of

_SEEN_AT_MOST: Final = 200_000
_BOUNDARY_AT_MOST: Final = 1_000
_AHEAD = timedelta(days=1)


class Reached:
    """The reading position of one source task."""

    def __init__(self, cursor: Cursor, offset: Offset | None, clock: Clock, zone: ZoneInfo | None) -> None:
        """Raises ConfigError if the offset is not one of ours."""
        self._config, self._clock, self._zone = cursor, clock, zone
        self._text, self._boundary = _restored(offset, cursor.start)
        self._position = self.position(self._text)
        self._seen: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def position(self, text: str | None) -> int:
        """The number that orders a cursor's text: microseconds since 1970, or the integer itself.

        Raises:
            SystemFault: a record without cursor, or with one that is not of the declared type.
            ConfigError: a time without zone, and the system's file names none.
        """
        try:
            if self._config.type == "integer":
                return int(text or "")
            return position_of(moment(text or "", self._zone))
        except UnknownType as error:
            raise ConfigError(f"{self._config.path}: {error}") from error
        except (ValueError, ArithmeticError) as error:
            raise SystemFault(
                f"{self._config.path} of a record is no {self._config.type}: {text!r}", code="cursor"
            ) from error

    @property
    def since(self) -> str:
        """What the next listing asks for: the cursor as the server wrote it, or that less the overlap."""
        if not self._config.overlap or self._text == self._config.start:
            return self._text
        early = moment(self._text, self._zone) - self._config.overlap
        if datetime.fromisoformat(self._text.strip()).tzinfo is None:
            return early.replace(tzinfo=None).isoformat()
        return rfc3339(early)

    def time_of(self, position: int) -> str:
        """When a record changed, RFC 3339; now for a cursor that is no time."""
        if self._config.type == "integer":
            return rfc3339(self._clock.now())
        return rfc3339(datetime.fromtimestamp(0, self._clock.now().tzinfo) + timedelta(microseconds=position))

    def is_new(self, key: str, position: int, digest: str) -> bool:
        """Whether this version of a record has not been read yet, as far as memory and boundary reach."""
        if position == self._position and f"{key}~{digest}" in self._boundary:
            return False
        return self._seen.get(key) != (position, digest)

    def see(self, key: str, position: int, digest: str) -> None:
        """Remembers a version until the overlap has passed it."""
        self._seen[key] = (position, digest)
        self._seen.move_to_end(key)

    def move(self, text: str, position: int, marks: list[str]) -> None:
        """Everything up to this cursor is read; `marks` are the records at exactly it.

        A time more than a day ahead of ours moves nothing: it would hide every change until then.
        """
        if self._config.type == "datetime" and position > position_of(self._clock.now() + _AHEAD):
            return
        if position < self._position:
            return
        if position > self._position:
            self._boundary = set()
        if len(self._boundary) + len(marks) <= _BOUNDARY_AT_MOST:
            self._boundary.update(marks)
        self._text, self._position = text, position
        self._forget()

    @property
    def offset(self) -> Offset:
        return {"v": 1, "cursor": self._text, "boundary": sorted(self._boundary)}

    def _forget(self) -> None:
        horizon = self._position - self._config.overlap // timedelta(microseconds=1)
        while self._seen:
            key, (position, _) = next(iter(self._seen.items()))
            if position >= horizon and len(self._seen) <= _SEEN_AT_MOST:
                return
            del self._seen[key]


def _restored(offset: Offset | None, start: str) -> tuple[str, set[str]]:
    if offset is None:
        return start, set()
    if offset.get("v") != 1 or not isinstance(offset.get("cursor"), str):
        raise ConfigError(f"the stored offset is not one of a SOAP listing: {dict(offset)!r}")
    return offset["cursor"], set(offset.get("boundary") or ())
