"""Where a listing stands: the cursor as the server wrote it, and what it means."""

from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import jmespath

from connectors.errors import ConfigError, SystemFault
from connectors.rest.config import Cursor
from schemas.values import JsonValue, Record, rfc3339
from schemas.version import position_of


class Mark(NamedTuple):
    """One record's cursor."""

    order: Any
    """Sorts as the server does: microseconds, an integer or a text, one kind for all records."""
    text: JsonValue
    """As the server wrote it: what an offset keeps."""
    time: str | None
    """RFC 3339, where the cursor is a time."""


class CursorReader:
    """Reads the cursor field of records, and writes the cursor of requests."""

    def __init__(self, config: Cursor, zone: ZoneInfo | None) -> None:
        self._config, self._zone = config, zone
        self._selector = jmespath.compile(config.path)
        self._plain = config.path if config.path.isidentifier() else None

    def mark(self, record: Record) -> Mark:
        """Raises SystemFault if the record has no usable cursor, ConfigError for a time without zone."""
        return self.read(record.get(self._plain) if self._plain is not None else self._selector.search(record))

    def read(self, value: JsonValue) -> Mark:
        """The mark of a cursor's value, from a record or from an offset. Raises as `mark` does."""
        match self._config.type, value:
            case "datetime", str():
                moment = self._moment(value)
                return Mark(position_of(moment), value, rfc3339(moment))
            case "number", int() if not isinstance(value, bool) and value >= 0:
                return Mark(value, value, None)
            case "text", str():
                return Mark(value, value, None)
        wanted = {"number": "an integer, 0 or more", "datetime": "a time as text", "text": "a text"}[self._config.type]
        raise SystemFault(f"a record's {self._config.path!r} is not {wanted}", code="cursor")

    def asked(self, stored: JsonValue) -> str:
        """`{cursor}` of a request: the stored one less the overlap; the configured start when there is none."""
        if stored is None:
            return str(self._config.start)
        if self._config.type != "datetime":
            return str(stored)
        return rfc3339(self._moment(str(stored)) - self._config.overlap)

    def _moment(self, text: str) -> datetime:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise SystemFault(f"{self._config.path!r} holds no time", code="cursor", detail=str(error)) from error
        if moment.tzinfo is not None:
            return moment
        if self._zone is None:
            raise ConfigError(f"{self._config.path!r} has times without a zone; say `timezone:` in the system's file")
        return moment.replace(tzinfo=self._zone)
