"""Secrets are references in files, resolved when they are used, and never printed.

`${env:NAME}` reads an environment variable, `${file:/run/secrets/x}` a file (its last line break removed).
"""

import os
import re
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from connectors.errors import ConfigError

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")


class Secret:
    """A reference to a secret. `reveal()` gives the value; every other view of it is masked."""

    __slots__ = ("_reference",)

    def __init__(self, reference: str) -> None:
        if not _REFERENCE.fullmatch(reference):
            raise ValueError("a secret stands in the file itself; write ${env:NAME} or ${file:/path} instead")
        self._reference = reference

    def reveal(self) -> str:
        """The value, read anew each time, so that a rotated secret is seen.

        Raises:
            ConfigError: the variable or file does not exist. The message names it, not its content.
        """
        found = _REFERENCE.fullmatch(self._reference)
        assert found is not None
        kind, name = found.groups()
        if kind == "env":
            value = os.environ.get(name)
            if value is None:
                raise ConfigError(f"the environment variable {name} is not set")
            return value
        try:
            return Path(name).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"the secret file {name} cannot be read: {error.strerror}") from error

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._reference == other._reference

    def __hash__(self) -> int:
        return hash(self._reference)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        from_text = core_schema.no_info_after_validator_function(cls, core_schema.str_schema())
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda secret: secret._reference),  # noqa: SLF001
        )
