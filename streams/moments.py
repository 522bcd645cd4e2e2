"""Times as they stand on the wire: RFC 3339 texts, taken apart. Cached, as the events of one hour share theirs."""

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo


class NotATime(ValueError):
    """A text that is no time, or one without a zone."""


@lru_cache(maxsize=1024)
def moment_of(text: str) -> datetime:
    """The time that an RFC 3339 text means. Raises NotATime, also for one without a zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise NotATime(f"not a time: {text[:40]!r}") from None
    if moment.tzinfo is None:
        raise NotATime(f"a time without zone: {text[:40]!r}")
    return moment


@lru_cache(maxsize=1024)
def local_time(text: str, zone: str) -> datetime:
    """The same moment on the clocks of a zone. Raises NotATime."""
    try:
        return moment_of(text).astimezone(ZoneInfo(zone))
    except OverflowError:
        raise NotATime(f"a time beyond the calendar: {text[:40]!r}") from None


@lru_cache(maxsize=1024)
def floored(text: str, to: str, zone: str) -> str:
    """Start of the `hour` or `day` that the moment lies in, as `2013-01-01T10:00:00Z`. Raises NotATime."""
    local = local_time(text, zone)
    # An hour keeps its fold: of the two 01:xx hours in autumn each has its own start. A day has its first midnight.
    start = (
        local.replace(minute=0, second=0, microsecond=0)
        if to == "hour"
        else local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    )
    return f"{start.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


@lru_cache(maxsize=1024)
def part_of(text: str, part: str, zone: str) -> int:
    """hour, weekday (0 = Monday), day, month or minute on the clocks of a zone. Raises NotATime."""
    local = local_time(text, zone)
    return local.weekday() if part == "weekday" else int(getattr(local, part))
