"""How the hub says who it is to an HTTP system: the `auth:` block of a system's file, and the header that it makes.

Secrets are read at each request, so that a rotated one is used without a restart.
"""

import base64
from collections.abc import Mapping
from typing import Annotated, Literal, Protocol

from pydantic import Field

from connectors.config import Block
from connectors.secrets import Secret


class Auth(Protocol):
    """Makes the headers of one request. Raises ConfigError if its secret is not there."""

    def headers(self) -> Mapping[str, str]: ...


class NoAuth(Block):
    """The system asks for nothing."""

    type: Literal["none"] = "none"

    def headers(self) -> Mapping[str, str]:
        return {}


class Basic(Block):
    """User name and password, RFC 7617."""

    type: Literal["basic"] = "basic"
    username: str
    password: Secret

    def headers(self) -> Mapping[str, str]:
        pair = f"{self.username}:{self.password.reveal()}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}


class Bearer(Block):
    """A token that somebody else issues and rotates, RFC 6750."""

    type: Literal["bearer"] = "bearer"
    token: Secret

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token.reveal()}"}


class ApiKey(Block):
    """A key in a header of the system's choice."""

    type: Literal["api_key"] = "api_key"
    header: str = Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
    value: Secret

    def headers(self) -> Mapping[str, str]:
        return {self.header: self.value.reveal()}


def secret_of(headers: Mapping[str, str]) -> str:
    """What these headers prove, as one text; empty where they prove nothing. Never printed."""
    return "\n".join(f"{name}: {value}" for name, value in sorted(headers.items()))


AuthConfig = Annotated[NoAuth | Basic | Bearer | ApiKey, Field(discriminator="type")]
