"""`crossdock.yaml`: what holds for the whole hub."""

import re
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from connectors.config import Block, Duration, Name
from connectors.secrets import Secret

if TYPE_CHECKING:
    from streams.runtime.kafka import Security
    from streams.topics import Retention


class KafkaConfig(Block):
    """The cluster, and what of it is ours."""

    bootstrap: str = Field(pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$", description="host:port, several with commas")
    prefix: Name = Field(default="hub", description="before every topic, group, transactional id and ledger row")
    partitions: int = Field(default=6, ge=1, le=256, description="of each pipeline's topics; never changed in place")
    insecure: bool = Field(default=False, description="true allows plaintext; it shows in the status")
    ca: str | None = Field(default=None, description="file of the certificate authority; default: the system's")
    username: str | None = None
    password: Secret | None = None
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"

    @model_validator(mode="after")
    def _complete(self) -> "KafkaConfig":
        if (self.username is None) != (self.password is None):
            raise ValueError("a username needs a password, and a password a username")
        if self.insecure and self.username is not None:
            raise ValueError("a password would be sent in plaintext; take `insecure` out")
        return self

    def security(self) -> "Security | None":
        """For the data plane; None = plaintext."""
        from streams.runtime.kafka import Security

        if self.insecure:
            return None
        password = None if self.password is None else self.password.reveal()
        return Security(ssl.create_default_context(cafile=self.ca), self.mechanism, self.username, password)

    def admin_security(self) -> dict[str, Any]:
        """For the control plane; empty = plaintext."""
        security = self.security()
        if security is None:
            return {}
        names = {"sasl_plain_username", "sasl_plain_password", "sasl_mechanism", "ssl_context", "security_protocol"}
        return {name: value for name, value in security.arguments().items() if name in names}


class IndexConfig(Block):
    """Where answers about receipts and dead letters come from. It can be deleted, and is made again."""

    url: str | None = Field(
        default=None,
        description="postgresql://user@host:5432/database for workers on several machines; no password in it; "
        "default: a SQLite file below .crossdock/",
    )
    password: Secret | None = None

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(postgresql|sqlite)://[^\s]+", value):
            raise ValueError("an address has the form postgresql://user@host:5432/database or sqlite:////path/to/file")
        if value is not None and re.search(r"://[^/@]*:[^/@]*@", value):
            raise ValueError("no password in an address; write `password: ${env:NAME}` or `${file:/path}`")
        return value


class MetricsConfig(Block):
    """What a worker tells Prometheus about itself."""

    port: int = Field(
        ge=1024,
        le=65535,
        description="on 127.0.0.1; further workers of this machine take the next ports, up to 16 of them",
    )


class RetentionConfig(Block):
    """How long each kind of topic keeps its records. What is about to expire unread is kept longer, by the watch."""

    changes: Duration = Field(default=timedelta(days=7), description="what was read, live and backfill")
    enriched: Duration = Field(default=timedelta(days=7), description="the same with answers and lookups")
    receipts: Duration = Field(default=timedelta(days=400), description="in production at least 184d")
    dead: Duration = Field(default=timedelta(days=400), description="in production at least 184d")
    review: Duration = Field(default=timedelta(days=400), description="in production at least 184d")

    def build(self) -> "Retention":
        from streams.topics import Retention

        return Retention(self.changes, self.enriched, self.receipts, self.dead, self.review)


class ArchiveConfig(Block):
    """Where receipts, dead letters and reviews go before they expire. Needs the extra `archive`."""

    folder: str = Field(
        min_length=1, description="relative to this file; workers on several machines share it, and it is backed up"
    )
    every: Duration = Field(default=timedelta(days=1), description="the longest that a record waits for its file")
    rows: int = Field(default=100_000, ge=1, description="of one file at most")


class HubConfig(Block):
    """The file itself."""

    environment: Literal["development", "test", "production"] = "development"
    kafka: KafkaConfig
    worker_group: Name = "main"
    index: IndexConfig = IndexConfig()
    retention: RetentionConfig = RetentionConfig()
    archive: ArchiveConfig | None = Field(default=None, description="left out: what expires is gone")
    metrics: MetricsConfig | None = Field(default=None, description="left out: nothing is served")
    models: str = Field(default="models", description="folder of the model versions, beside this file")
