"""Asks a listing for its pages, and judges the answers."""

import jmespath

from connectors.errors import Retriable, SystemFault, Unknown
from connectors.http import HttpAnswer
from connectors.rest.body import Unreadable, parse
from connectors.rest.config import RestSourceConfig
from connectors.rest.paging import Walk
from connectors.rest.rules import Action, Rules, failure_of
from connectors.rest.wire import Wire
from schemas.values import Record

_GONE = frozenset({400, 404, 410})


class ListingIsGone(Retriable):
    """A page that the server had offered is no longer there: the next look begins at the offset."""


class Pages:
    """The pages of one listing. The parameters of a walk stay the same on all of its pages."""

    def __init__(self, config: RestSourceConfig, wire: Wire) -> None:
        self._config, self._wire, self._rules = config, wire, Rules(config.responses)
        self._selector = jmespath.compile(config.records)
        self._params: dict[str, str] = {}
        self._place = f"{config.method} {config.path}"

    def walk(self, cursor: str, page: int) -> Walk:
        """A new walk from `cursor`, with `page` records on a page."""
        self._params = {
            name: str(value).replace("{cursor}", cursor).replace("{page}", str(page))
            for name, value in self._config.params.items()
        }
        return Walk(self._config.paging, self._config.max_pages)

    def read(self, walk: Walk, deadline: float) -> list[Record]:
        """The records of the walk's present page; the walk moves on.

        Raises:
            Retriable, Throttled: the walk can go on later.
            ListingIsGone, SystemFault: it cannot.
        """
        answer = self._ask(walk, deadline)
        action = self._rules.action(answer)
        if action in {Action.END, Action.UNCHANGED} or (walk.counted and walk.pages and answer.status == 404):
            walk.end()
            return []
        if action is Action.REJECTED and walk.pages and answer.status in _GONE:
            raise ListingIsGone(f"{self._place}: the next page is gone (HTTP {answer.status})")
        if action is not Action.SUCCESS:
            raise failure_of(action, answer, self._place, self._wire.heard(action, answer))
        return self._accept(answer, walk)

    def _ask(self, walk: Walk, deadline: float) -> HttpAnswer:
        assert walk.step is not None
        if walk.step.url is not None:
            return self._wire.call("GET", walk.step.url, deadline=deadline)
        params = {**self._params, **dict(walk.step.params)}
        if self._config.method == "GET":
            return self._wire.call("GET", self._config.path, params=params, deadline=deadline)
        try:
            return self._wire.call("POST", self._config.path, body=params, deadline=deadline)
        except Unknown as failure:  # a search only reads
            raise Retriable(failure.message, detail=failure.detail) from failure

    def _accept(self, answer: HttpAnswer, walk: Walk) -> list[Record]:
        try:
            body = parse(answer.body)
        except Unreadable as error:
            raise SystemFault(f"{self._place}: {error.message}", code="body", detail=error.detail) from error
        records = self._selector.search(body)
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise SystemFault(f"{self._place}: {self._config.records!r} is no list of records", code="records")
        walk.advance(answer, body, len(records))
        return records
