"""One walk through a listing: which request is next, and that the walk ends.

Links and tokens are followed until there is none, also over an empty page: servers that filter after paging send some.
Counted pages end with the first empty one. A request that was already made in this walk is a circle, and an error.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urljoin

import jmespath

from connectors.errors import SystemFault
from connectors.http import HttpAnswer
from connectors.rest.config import CursorToken, LinkHeader, NextUrl, NoPaging, PageNumber, Paging, RecordOffset
from schemas.values import JsonValue

_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[^\s;,="]+(?:\s*=\s*(?:"[^"]*"|[^\s;,"]*))?)*)')
_REL_NEXT = re.compile(r';\s*rel\s*=\s*(?:"[^"]*\bnext\b[^"]*"|next\b)', re.IGNORECASE)


class Step(NamedTuple):
    """The next request: a whole address that the server gave, or parameters beside the pipeline's own."""

    url: str | None = None
    params: tuple[tuple[str, str], ...] = ()


class Walk:
    """The pages of one listing, in order. `step` is the request to make now; None = the listing is complete."""

    def __init__(self, paging: Paging, max_pages: int) -> None:
        self._paging, self._max_pages = paging, max_pages
        self._selector = jmespath.compile(_selector(paging))
        self._made: set[Step] = set()
        self._number = paging.start if isinstance(paging, PageNumber) else 0
        self.counted = isinstance(paging, PageNumber | RecordOffset)
        """Pages have numbers, so records can slip over their borders while they are read."""
        self.pages = 0
        """Pages read so far."""
        self.step: Step | None = self._numbered() if self.counted else Step()

    def advance(self, answer: HttpAnswer, body: JsonValue, count: int) -> None:
        """The page of `step` was read and held `count` records.

        Raises:
            SystemFault: the pages go in a circle, do not end, or the link is no text.
        """
        assert self.step is not None
        self._made.add(self.step)
        self.pages += 1
        self.step = self._following(answer, body, count)
        if self.step in self._made:
            raise SystemFault(f"the pages go in a circle after {self.pages}", code="paging", detail=str(self.step))
        if self.step is not None and self.pages >= self._max_pages:
            raise SystemFault(f"the listing does not end after {self.pages} pages (max_pages)", code="paging")

    def end(self) -> None:
        """The server said that there is nothing more."""
        self.step = None

    def _following(self, answer: HttpAnswer, body: JsonValue, count: int) -> Step | None:
        match self._paging:
            case NoPaging():
                return None
            case NextUrl():
                return _link(answer, self._selector.search(body))
            case LinkHeader():
                return _link(answer, next_link(answer.headers))
            case CursorToken(into=parameter):
                token = _text(self._selector.search(body))
                return Step(params=((parameter, token),)) if token else None
        self._number += 1 if isinstance(self._paging, PageNumber) else count
        return self._numbered() if count else None

    def _numbered(self) -> Step:
        assert isinstance(self._paging, PageNumber | RecordOffset)
        return Step(params=((self._paging.param, str(self._number)),))


def next_link(headers: Mapping[str, str]) -> str | None:
    """The target of the link whose relation is `next`, RFC 8288."""
    for target, parameters in _LINK.findall(headers.get("Link", "")):
        if _REL_NEXT.search(parameters):
            return str(target)
    return None


def _selector(paging: Paging) -> str:
    match paging:
        case NextUrl(path=path) | CursorToken(out=path):
            return path
    return "@"


def _link(answer: HttpAnswer, found: JsonValue) -> Step | None:
    """Relative links are resolved against the page that held them; that they stay at home is the client's care."""
    link = _text(found)
    return Step(url=urljoin(answer.url, link)) if link else None


def _text(found: JsonValue) -> str | None:
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    raise SystemFault("the link to the next page is no text", code="paging", detail=type(found).__name__)
