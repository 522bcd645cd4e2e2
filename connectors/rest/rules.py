"""What an answer means: a table from status and body to an action. A pipeline's own rules come first, first match wins.

| answer                                  | action       |
|-----------------------------------------|--------------|
| 2xx with an HTML page                   | fault        |
| 2xx                                     | success      |
| 304                                     | unchanged    |
| 429, 503                                | rate_limited |
| 408, 425, other 5xx                     | retry        |
| 401                                     | auth         |
| 403, 407, 501, 505, 1xx, 3xx            | fault        |
| 409, 412, 428                           | conflict     |
| other 4xx                               | rejected     |

Of a fault, a login form in place of data means what `auth` means: the credentials are refused.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import jmespath

from connectors.errors import CredentialsRefused, CrossdockError, Retriable, SystemFault, Throttled
from connectors.html import asks_for_password, is_page
from connectors.http import LONGEST_WAIT, HttpAnswer, retry_after
from connectors.rest.body import Unreadable, parse
from connectors.rest.config import Response
from schemas.values import JsonValue

_EPOCH_FROM = 1e8  # a reset time below this is a number of seconds, above it a date


class Action(StrEnum):
    """What to do about an answer."""

    SUCCESS = "success"
    UNCHANGED = "unchanged"
    RETRY = "retry"
    RATE_LIMITED = "rate_limited"
    AUTH = "auth"
    FAULT = "fault"
    REJECTED = "rejected"
    CONFLICT = "conflict"
    END = "end"


class Rules:
    """A pipeline's own rules, then the default table."""

    def __init__(self, own: Sequence[Response]) -> None:
        self._own = [
            (frozenset(rule.status), jmespath.compile(rule.when) if rule.when else None, Action(rule.action))
            for rule in own
        ]

    def action(self, answer: HttpAnswer) -> Action:
        for statuses, when, action in self._own:
            if (not statuses or answer.status in statuses) and (when is None or when.search(body_of(answer))):
                return action
        return _default(answer)


def _default(answer: HttpAnswer) -> Action:
    match answer.status:
        case 429 | 503:
            return Action.RATE_LIMITED
        case 408 | 425:
            return Action.RETRY
        case 401:
            return Action.AUTH
        case 403 | 407 | 501 | 505:
            return Action.FAULT
        case 409 | 412 | 428:
            return Action.CONFLICT
        case 304:
            return Action.UNCHANGED
        case status if 200 <= status < 300:
            return Action.FAULT if is_html(answer) else Action.SUCCESS
        case status if 400 <= status < 500:
            return Action.REJECTED
        case status if status >= 500:
            return Action.RETRY
    return Action.FAULT


def is_html(answer: HttpAnswer) -> bool:
    """A page for people where data was asked for: mostly a login form behind a proxy."""
    kind = answer.headers.get("Content-Type", "").lower()
    return "html" in kind or ("json" not in kind and is_page(answer.body))


def body_of(answer: HttpAnswer) -> JsonValue:
    """The body as plain values; None where it is no JSON."""
    try:
        return parse(answer.body)
    except Unreadable:
        return None


def pause_of(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that the server wants to be left alone: Retry-After, else the reset time of its rate limit."""
    asked = retry_after(headers, now)
    if asked is not None:
        return asked
    for name in ("RateLimit-Reset", "X-RateLimit-Reset", "X-Rate-Limit-Reset"):
        try:
            reset = float(headers.get(name, ""))
        except ValueError:
            continue
        seconds = reset if reset < _EPOCH_FROM else reset - now.timestamp()
        if math.isfinite(seconds):
            return min(max(0.0, seconds), LONGEST_WAIT)
    return None


def failure_of(action: Action, answer: HttpAnswer, place: str, pause: float | None) -> CrossdockError:
    """The failure for an action that concerns the system and not a record."""
    message = f"{place}: HTTP {answer.status}"
    match action:
        case Action.RATE_LIMITED:
            return Throttled(message, retry_after=pause)
        case Action.RETRY:
            return Retriable(message, retry_after=pause)
        case Action.AUTH:
            return CredentialsRefused(f"{message}: the credentials are not accepted")
    if asks_for_password(answer.body):
        return CredentialsRefused(f"{message} with a login form in place of data")
    if is_html(answer):
        return SystemFault(f"{message} with a page for people in place of data", code="html")
    hint = "; if it says so of single records, list it under responses as rejected" if answer.status == 403 else ""
    return SystemFault(f"{message}{reason_of(answer)}{hint}", code=str(answer.status))


def reason_of(answer: HttpAnswer) -> str:
    """What the server says about its refusal, in at most 200 characters, with a leading colon; may be empty."""
    body = body_of(answer)
    if not isinstance(body, dict):
        return ""
    found = next((body[name] for name in ("detail", "message", "title", "error") if body.get(name)), None)
    return f": {found[:200]}" if isinstance(found, str) else ""
