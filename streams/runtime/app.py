"""The Faust app: it owns the agents, and has no Kafka of its own.

Faust's own reading acknowledges an event whose agent raised, and costs 80-95 us an event; so its consumer is switched
off by its boot strategy, and our readers feed the channels of its agents.
"""

from collections.abc import Callable
from typing import Any

import mode

from connectors.later import put_off

with put_off({"aiohttp": (), "aiohttp.client": ("ClientSession",)}):
    import faust
    from faust.app import BootStrategy

__all__ = ["WorkerApp"]


class _NoKafka(BootStrategy):  # type: ignore[misc]
    enable_kafka = False


class WorkerApp(faust.App):  # type: ignore[misc]
    """A Faust app without Faust's consumer, web server and tables."""

    BootStrategy = _NoKafka

    drain = 0.0
    """Seconds that work in hand may take at the end."""
    hurry: Callable[[], None] = staticmethod(lambda: None)
    """Called when nothing is to be waited for any more."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        settings: dict[str, Any] = {
            "broker": "kafka://127.0.0.1:1",  # never used; Faust wants one
            "store": "memory://",
            "topic_disable_leader": True,
            "web_enabled": False,
            "HttpClient": object,  # never used either; the default would load aiohttp
            "worker_redirect_stdouts": False,
            "stream_buffer_maxsize": 100_000,
            "agent_supervisor": mode.CrashingSupervisor,  # one that restarts an agent loses what it had in hand
        }
        super().__init__(name, **settings | kwargs)

    async def on_first_start(self) -> None:
        """Faust would make folders for tables in the working directory; there are no tables."""

    async def on_started(self) -> None:
        await super().on_started()
        self.flow_control.resume()  # closed until a Kafka assignment that never comes: channel puts would hang
