"""Which types of system there are: the entry points of the group `crossdock.connectors`, loaded when asked for."""

from functools import cache
from importlib.metadata import entry_points

from connectors.config import SystemConfig
from connectors.errors import ConfigError

GROUP = "crossdock.connectors"


def known() -> list[str]:
    """Names of the installed types, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


@cache
def system_class(type_name: str) -> type[SystemConfig]:
    """The configuration class for `type: NAME`.

    Raises:
        ConfigError: there is no such type, or its package does not load.
    """
    for point in entry_points(group=GROUP, name=type_name):
        loaded = point.load()
        if not (isinstance(loaded, type) and issubclass(loaded, SystemConfig)):
            raise ConfigError(f"the connector {type_name!r} ({point.value}) is not a SystemConfig")
        return loaded
    raise ConfigError(f"unknown type {type_name!r}; known: {', '.join(known())}")
