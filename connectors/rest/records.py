"""Turns the records of a listing into changes, each version of a record once."""

from collections import OrderedDict

import jmespath

from connectors.clock import Clock
from connectors.errors import SystemFault
from connectors.rest.config import RestSourceConfig
from connectors.rest.position import Mark
from schemas.change import Change, Op, content_digest, event_id, key_text
from schemas.values import JsonScalar, Record, rfc3339
from schemas.version import Version

REMEMBERED = 100_000
"""Records whose last seen content is kept in memory; the oldest go first."""


_DOMAIN = 1


class Records:
    """Remembers what was seen. Numbers the changes itself where the cursor gives no order for versions."""

    def __init__(self, config: RestSourceConfig, ignored: frozenset[str], clock: Clock) -> None:
        self._key, self._ignored, self._clock = config.key, ignored, clock
        self._origin = f"{config.system}/{config.object}"
        self._deleted = jmespath.compile(config.deleted) if config.deleted else None
        self.numbered = config.cursor is None or config.cursor.type == "text"
        self._seen: OrderedDict[str, str] = OrderedDict()
        self.sequence = 0
        """Number of the last change, where changes are numbered."""

    def forget(self, sequence: int) -> None:
        """The source begins at an offset: nothing was seen, and numbers go on after `sequence`."""
        self._seen.clear()
        self.sequence = sequence

    def change(self, record: Record, mark: Mark | None) -> Change | None:
        """The change, or None if this content of this record was seen.

        Raises:
            SystemFault: a field of the key is missing, null or no plain value.
        """
        key = {name: self._key_field(record, name) for name in self._key}
        gone = self._deleted is not None and bool(self._deleted.search(record))
        digest = content_digest(None if gone else record, self._ignored)
        if not self._is_news(key_text(key.values()), f"{mark.order if mark else ''}~{digest}"):
            return None
        version = str(Version(_DOMAIN, self._position(mark)))
        return Change(
            op=Op.DELETE if gone else Op.UPSERT,
            key=key,
            before=record if gone else None,
            after=None if gone else record,
            version=version,
            origin=self._origin,
            event_id=event_id(self._origin, key, version, digest),
            time=mark.time if mark is not None and mark.time is not None else rfc3339(self._clock.now()),
        )

    def _position(self, mark: Mark | None) -> int:
        if mark is not None and not self.numbered:
            return int(mark.order)
        self.sequence += 1
        return self.sequence

    def _is_news(self, name: str, identity: str) -> bool:
        known = self._seen.pop(name, None)
        self._seen[name] = identity
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return known != identity

    def _key_field(self, record: Record, name: str) -> JsonScalar:
        value = record.get(name)
        if not isinstance(value, str | int | float):
            raise SystemFault(f"a record has no usable key field {name!r}", code="key")
        return value
