"""Frozen endpoint values, one slice per room. No environment and no hidden choices here."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceEndpoint(_Frozen):
    """PostgreSQL. dsn: libpq keywords or URI, with the password in it or in libpq's own places."""

    dsn: SecretStr
    slot: str = Field(default="tandem", pattern=r"^[a-z0-9_]{1,63}$")
    publication: str = Field(default="tandem", pattern=r"^[A-Za-z0-9_]{1,63}$")


class KafkaEndpoint(_Frozen):
    """Kafka brokers, and what this pipeline's topics look like."""

    bootstrap_servers: str
    topic_prefix: str = Field(default="tandem", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    group_id: str = "tandem"
    partitions: int = Field(default=4, ge=1, le=1000)
    #: -1: the broker's default.
    replication_factor: int = -1
    #: How far behind a consumer may fall before compaction could hide a change from it, hours.
    compaction_lag_hours: int = Field(default=168, ge=1)
    session_timeout_ms: int = Field(default=10_000, ge=1_000)


class ConnectEndpoint(_Frozen):
    """Kafka Connect's REST interface."""

    url: str
    connector: str = Field(default="tandem", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    #: Where Connect itself reaches PostgreSQL, when that is not where this process does.
    database_hostname: str | None = None
    database_port: int | None = None


class TargetEndpoint(_Frozen):
    """MongoDB: a replica set."""

    uri: SecretStr
    database: str = Field(pattern=r"^[^/\\. \"$*<>:|?\x00]{1,63}$")


class ShadowTarget(TargetEndpoint):
    """A part of the target: the collections whose names begin with prefix. No setting: a rebuild's own."""

    prefix: str


class SessionShape(_Frozen):
    """Where the target keeps sessions and their conversations, and under which fields."""

    collection: str = "activesessions"
    session_field: str = "sessionId"
    user_field: str = "userId"
    workspace_field: str = "workspacePath"
    #: a session without a value there does not expire
    expires_field: str = "expiresAt"
    #: the status of a session that is in use
    active_status: str = "active"
    conversations: str = "conversationhistories"
    messages_field: str = "messages"
