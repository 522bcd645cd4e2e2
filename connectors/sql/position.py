"""How far a table was read.

A look reads from `low` to `bound` in pages, ordered by (time, order columns). Offset:

`{v: 1, at: [time, order values..] or null, bound: time or null}`

`at` is the last row of the last page (null: nothing yet), and `bound` the upper bound of that look: everything before
it was complete. After a finished look `at` is `[bound]`. The next look, also after a restart, begins at `at`, or at
`bound - overlap` where that is earlier: a transaction's start is stamped before others can see it. Without a bound
the overlap counts from `at`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from connectors.errors import ConfigError, SystemFault
from schemas.values import Offset, rfc3339


class CursorColumn:
    """The cursor's values: as the database gives them, in time, and as a parameter."""

    def __init__(self, column: sa.Column[Any], zone: ZoneInfo | None, dialect: str) -> None:
        """Raises ConfigError if the column cannot be a cursor."""
        kind = column.type
        if not isinstance(kind, sa.DateTime):
            raise ConfigError(f"{column.name!r} is {kind!r}, and a cursor column needs a time")
        self._naive = not kind.timezone
        self._text = dialect == "sqlite"
        """SQLite has no times: a column holds text, and compares as text."""
        self._zone = zone
        if self._naive and zone is None:
            raise ConfigError(f"{column.name!r} has no zone; say `timezone:` in the system's file")
        if self._naive and zone is not None and not _is_fixed(zone):
            raise ConfigError(
                f"{column.name!r} has no zone, and {zone.key} repeats an hour each autumn: rows would be lost; "
                "use a column with a zone (timestamptz), or one in UTC with `timezone: UTC`"
            )

    def moment(self, value: Any) -> datetime:
        """A value as an aware time. Raises SystemFault for what is none."""
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
            return moment.replace(tzinfo=self._zone) if moment.tzinfo is None else moment
        except (ValueError, AttributeError) as error:
            raise SystemFault(f"the cursor of a row is no time: {value!r}", code="cursor") from error

    def parameter(self, moment: datetime) -> Any:
        """What the column is compared with."""
        if not self._naive:
            return moment
        local = moment.astimezone(self._zone).replace(tzinfo=None)
        return local.isoformat(" ", "microseconds") if self._text else local

    def since(self, moment: datetime) -> Any:
        """A parameter that no value of that time or later is below: texts of one time may have fractions or none."""
        if not self._text:
            return self.parameter(moment)
        return moment.astimezone(self._zone).replace(tzinfo=None).isoformat(" ", "seconds")

    def stored(self, value: Any) -> str:
        """A value as it stands in an offset."""
        return value if isinstance(value, str) else rfc3339(self.moment(value))

    def restored(self, text: str) -> Any:
        """The value that was stored."""
        return text if self._text else self.parameter(datetime.fromisoformat(text))


def _is_fixed(zone: ZoneInfo) -> bool:
    """Whether the zone keeps one distance to UTC, now and over the next years."""
    offsets = {zone.utcoffset(datetime(year, month, 1)) for year in range(2000, 2036) for month in range(1, 13)}  # noqa: DTZ001
    return len(offsets) == 1


@dataclass(frozen=True, slots=True)
class Reached:
    """A position: rows up to `at` are read, and rows before `bound` were complete when they were read."""

    at: tuple[Any, ...] | None
    """Cursor and order values as parameters; the cursor alone after a finished look."""
    bound: datetime | None

    def low(self, cursor: CursorColumn, overlap: timedelta) -> tuple[Any, ...] | None:
        """Where the next look begins: (cursor, order values..) exclusive, or (cursor,) inclusive; None = everywhere."""
        if self.at is None:
            return None
        if self.bound is None and not overlap:
            return self.at
        early = (self.bound or cursor.moment(self.at[0])) - overlap
        return self.at if cursor.moment(self.at[0]) < early else (cursor.parameter(early),)

    def offset(self, cursor: CursorColumn) -> Offset:
        at = None if self.at is None else [cursor.stored(self.at[0]), *(_plain(value) for value in self.at[1:])]
        return {"v": 1, "at": at, "bound": None if self.bound is None else rfc3339(self.bound)}


def reached(offset: Offset | None, cursor: CursorColumn, width: int) -> Reached:
    """The position of a stored offset.

    Args:
        offset: None = nothing was read yet.
        cursor: of the same table.
        width: how many order columns there are.

    Raises:
        ConfigError: it is not one of ours.
    """
    if offset is None:
        return Reached(None, None)
    at, bound = offset.get("at"), offset.get("bound")
    known = (
        offset.get("v") == 1
        and {"at", "bound"} <= offset.keys()
        and (at is None or (isinstance(at, list) and len(at) in {1, 1 + width}))
    )
    if not known:
        raise ConfigError(f"the stored offset is not one of a table's: {dict(offset)!r}")
    moment = None if bound is None else datetime.fromisoformat(bound).astimezone(UTC)
    return Reached(None if at is None else (cursor.restored(at[0]), *at[1:]), moment)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int) else str(value)
