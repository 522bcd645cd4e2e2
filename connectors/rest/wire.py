"""What a REST source and a REST sink share: the system's client, its address, and its wish to be left alone."""

import json
import threading
from collections.abc import Mapping
from types import MappingProxyType

from connectors.clock import Clock
from connectors.http import HttpAnswer, HttpClient
from connectors.limits import RateLimit
from connectors.rest.config import RestSystemConfig
from connectors.rest.rules import Action, pause_of
from schemas.values import JsonValue

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Wire:
    """One system's line. Opens at the first call."""

    def __init__(self, config: RestSystemConfig, clock: Clock) -> None:
        self.system, self.clock = config.name, clock
        self.concurrency = config.courtesy.concurrency
        self.patience = config.timeouts.total.total_seconds()
        """Seconds that one call may take."""
        self._config, self._limit = config, RateLimit(config.courtesy.rate, clock)
        self._lock = threading.Lock()
        self._client: HttpClient | None = None
        self._headers = {"Accept": "application/json", **config.headers}

    def call(
        self,
        method: str,
        address: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] = _NOTHING,
        body: JsonValue = None,
        deadline: float,
    ) -> HttpAnswer:
        """One request. `address` is a path below `base_url`, or a whole address of the same origin.

        Raises as `HttpClient.request` does.
        """
        url = self._config.base_url + address if address.startswith("/") else address
        content = None if body is None else json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        sent = {**self._headers, **headers}
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        return self._http().request(method, url, headers=sent, content=content, params=params, deadline=deadline)

    def heard(self, action: Action, answer: HttpAnswer) -> float | None:
        """Seconds that the answer asks to wait; where it limits our rate, the whole system pauses for so long."""
        if action not in {Action.RATE_LIMITED, Action.RETRY}:
            return None
        pause = pause_of(answer.headers, self.clock.now())
        if action is Action.RATE_LIMITED and pause is not None:
            self._limit.close_for(pause)
        return pause

    def credentials_digest(self) -> str:
        """See `connectors.contract.System`."""
        return self._http().credentials_digest(self.system)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _http(self) -> HttpClient:
        with self._lock:
            if self._client is None:
                self._client = self._opened()
            return self._client

    def _opened(self) -> HttpClient:
        config = self._config
        return HttpClient(
            config.base_url,
            timeouts=config.timeouts,
            clock=self.clock,
            limit=self._limit,
            auth=config.auth,
            verify=config.tls.ca if config.tls.verify and config.tls.ca else config.tls.verify,
            max_response=config.max_response,
            concurrency=config.courtesy.concurrency,
        )
