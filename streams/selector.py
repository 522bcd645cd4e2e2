"""A path in a pipeline file, checked when the file is read."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from streams.scope import compile_path

_ROOT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\.")


def _compiles(value: str) -> str:
    compile_path(value)
    return value


Selector = Annotated[str, Field(min_length=1), AfterValidator(_compiles)]
"""JMESPath; see `connectors.config.Path` for what it can see."""


def root_of(path: str) -> str | None:
    """The first name of a path with several: `weather` of `weather.temp`, None of `distance`."""
    found = _ROOT.match(path)
    return found[1] if found else None
