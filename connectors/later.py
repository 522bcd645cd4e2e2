"""Imports put off until their first use: what libraries load for features that are off here.

zeep loads requests for a transport that ours replaces, Faust aiohttp for its web server, httpx its command line. A
worker would hold 15 MB of them and never call one.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def put_off(modules: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Import a library in the block; it finds stand-ins of these modules, which load the real ones when they are used.

    After the block everybody imports the real ones, as ever. A module that is loaded already is left alone.

    Args:
        modules: each with the classes and functions that the library takes from it by name.
    """
    stand_ins = {name: _StandIn(name, names) for name, names in modules.items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


class _StandIn(ModuleType):
    """Empty, but for the given names; everything else is looked up in the real module."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(name)
        for each in names:
            setattr(self, each, _class(name, each))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


def _class(module: str, name: str) -> type:
    def real(cls: type, *arguments: Any, **named: Any) -> Any:  # noqa: ARG001 - the class itself, which has no instances
        return getattr(import_module(module), name)(*arguments, **named)

    return type(name, (), {"__new__": real})
