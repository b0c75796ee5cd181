"""The one reader of configuration: `tandem.yaml`, then the environment over it. Nobody else looks there.

Each setting is also `TANDEM_<SECTION>__<NAME>`; the five addresses have short names of their own, and some others are
taken from names that the customer's scripts have, where nothing else is said.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from connectors.errors import SettingsInvalid
from connectors.settings import (
    ConnectEndpoint,
    KafkaEndpoint,
    SessionShape,
    SourceEndpoint,
    TargetEndpoint,
)

#: environment name -> setting
SHORT_NAMES = {
    "POSTGRES_DSN": ("source", "dsn"),
    "KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "CONNECT_URL": ("connect", "url"),
    "MONGODB_URI": ("target", "uri"),
    "MONGODB_DATABASE": ("target", "database"),
}
#: names that others use too: taken where neither the file nor tandem's own name says anything
DEFAULT_NAMES = {
    "ACP_AGENT_URL": ("sessions", "agent_url"),
    "OLD_NFS_PATH": ("files", "old"),
    "NEW_NFS_PATH": ("files", "new"),
    "BACKUP_PATH": ("backup", "path"),
}
#: for both roots of the files, where nothing else says one
BASE_PATH = "NFS_BASE_PATH"
#: the same of PostgreSQL, where nothing else gives its address -> libpq's keyword
POSTGRES_NAMES = {
    "POSTGRES_HOST": "host",
    "POSTGRES_PORT": "port",
    "POSTGRES_USER": "user",
    "POSTGRES_PASSWORD": "password",
    "POSTGRES_DB": "dbname",
}
#: the database that a URI names, where no other is given
_DATABASE_OF_URI = re.compile(r"mongodb(?:\+srv)?://[^/]+/([^?]+)")
#: what two pipelines may not share is named after the slot, unless it is given
NAMED_AFTER_SLOT = (
    ("source", "publication"),
    ("kafka", "topic_prefix"),
    ("kafka", "group_id"),
    ("connect", "connector"),
)
SECTIONS = (
    "source",
    "kafka",
    "connect",
    "target",
    "limits",
    "observe",
    "dashboard",
    "sessions",
    "files",
    "backup",
    "cutover",
    "reverse",
    "rollback",
    "flags",
    "archive",
)


class Limits(BaseModel):
    """How much at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Events of one consumer transaction.
    batch_events: int = Field(default=500, ge=1, le=100_000)
    #: Bytes of one transaction, of a consumer or a loader.
    batch_bytes: int = Field(default=8_000_000, ge=10_000, le=15_000_000)
    #: Rows of one chunk of the snapshot.
    chunk_rows: int = Field(default=5_000, ge=1, le=1_000_000)
    #: Rows of one transaction of the snapshot.
    load_rows: int = Field(default=1_000, ge=1, le=100_000)
    load_workers: int = Field(default=2, ge=1, le=64)
    #: The snapshot gives way while the smallest commit in PostgreSQL takes longer, milliseconds; 0: never.
    slow_source_ms: float = Field(default=500, ge=0)
    #: The same for the smallest acknowledged write in MongoDB.
    slow_target_ms: float = Field(default=1_000, ge=0)


class Observe(BaseModel):
    """What processes say of themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: human, json, or auto: for people on a terminal, JSON lines elsewhere.
    log: Literal["auto", "human", "json"] = "auto"


class Dashboard(BaseModel):
    """The web page. Without a token it is read-only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    #: 0: any that is free.
    port: int = Field(default=8787, ge=0, le=65_535)
    token: SecretStr | None = None
    token_file: Path | None = None
    #: So many seconds behind and the readiness gate is closed.
    ready_below_s: float = Field(default=10.0, gt=0)
    #: The same when the whole was last verified longer ago, hours.
    verified_within_h: float = Field(default=24.0, gt=0)


class Sessions(SessionShape):
    """How users are told and waited for, and the agent that sessions are moved to."""

    agent_url: str | None = None
    agent_token: SecretStr | None = None
    agent_token_file: Path | None = None
    #: The agent's own method that restores a conversation.
    restore_method: str = Field(default="_tandem/restore_conversation", pattern=r"^_\S+$")
    #: Sessions moved at a time.
    parallel: int = Field(default=8, ge=1, le=256)
    #: Seconds for one session, with all its attempts.
    deadline_s: float = Field(default=30, gt=0)
    #: Seconds that one answer of the agent is waited for.
    answer_s: float = Field(default=15, gt=0)
    attempts: int = Field(default=3, ge=1, le=100)
    #: Seconds before the second attempt; twice that before the third.
    backoff_s: float = Field(default=0.5, ge=0)
    #: Channels: each is used that is given.
    webhook_url: str | None = None
    webhook_token: SecretStr | None = None
    webhook_token_file: Path | None = None
    notify_channel: str | None = Field(default=None, min_length=1, max_length=63)
    notice_collection: str | None = Field(default=None, min_length=1)
    message: str = Field(
        default="System maintenance scheduled. Please save your work.", min_length=1, max_length=2_000
    )
    #: As users are told it.
    estimated_downtime: str = Field(default="30 minutes", min_length=1, max_length=200)
    #: The maintenance begins so many minutes after the notice.
    begins_in_min: float = Field(default=60, ge=0)
    wait_timeout_s: float = Field(default=3_600, ge=0)
    wait_poll_s: float = Field(default=30, gt=0)
    #: What is done when sessions have not ended in time.
    on_timeout: Literal["abort", "go_on"] = "abort"


def _listed(value: object) -> object:
    """A list; in the environment with commas between."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Files(BaseModel):
    """Workspaces, and where they move. With the same folder for both, they are moved within it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    old: Path | None = None
    new: Path | None = None
    #: Old workspaces become saved/migration_ID.
    migration_id: str = Field(default="tandem", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    #: What stays where it is: patterns of names at the top of the old root, and of AREA/NAME.
    leave: Listed = ("lost+found", ".snapshot", ".zfs")
    #: Threads that look at files and read them.
    workers: int = Field(default=4, ge=1, le=64)
    #: Mounts that both roots have to lie on, where they are named.
    mounts: Listed = ()
    #: So much has to be free for the new layout.
    min_free_bytes: int = Field(default=10 * 2**30, ge=0)
    #: Fields of documents that hold paths.
    path_fields: Listed = ("nfsWorkspacePath", "workspacePath", "filePath")


class Cutover(BaseModel):
    """How the application is moved over (docs/runbook.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Seconds for which writes may be refused; when they are over, writes are let in again.
    max_blocked_s: float = Field(default=30, gt=0)
    #: Seconds after which the fence falls by itself when the controller has died.
    lease_s: float = Field(default=10, ge=1, le=600)
    #: Seconds that applications wait at most while the fence waits for a long transaction; then it is tried again.
    lock_timeout_s: float = Field(default=2, gt=0)
    #: Times that a step is tried again which a server that is away has stopped.
    tries: int = Field(default=5, ge=1)
    #: Seconds that everything is watched after the flags are turned.
    observe_s: float = Field(default=60, ge=0)
    #: PostgreSQL roles that write all the same.
    passing_roles: Listed = ()
    #: Whether a backup is made.
    backup: bool = True
    #: Whether there has to be a way back that loses nothing, or it is gone without.
    way_back: Literal["required", "none"] = "required"
    #: What is compared inside the fence, percent of the rows; the whole was compared before.
    verify_sample: float = Field(default=100, gt=0, le=100)
    #: Addresses that have to answer: NAME=URL.
    services: Listed = ()
    #: Seconds that the servers' clocks may differ from this machine's.
    max_clock_skew_s: float = Field(default=1, gt=0)
    memory_factor: float = Field(default=1.5, gt=1)
    disk_factor: float = Field(default=1.2, gt=1)


class ReverseWay(BaseModel):
    """What becomes of rows when the application writes to MongoDB (docs/reverse.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: A document that is deleted: hide makes its row not pass its filter, where the filter has a column for that, and
    #: deletes it else; delete always deletes it.
    on_delete: Literal["hide", "delete"] = "hide"
    #: Seconds that a drain is waited for.
    drain_timeout_s: float = Field(default=60, gt=0)


class Rollback(BaseModel):
    """How the application is moved back (docs/rollback.md); for how long writes may be refused is the cutover's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Seconds behind the turning of the flags in which writes may still come to MongoDB: from whoever reads flags late.
    settle_s: float = Field(default=2, ge=0)


class Backup(BaseModel):
    """Where backups are, and what is in them besides both databases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path | None = None
    #: Roots of file trees; none: files.old, where there is one.
    trees: Annotated[tuple[Path, ...], BeforeValidator(_listed)] = ()
    #: So much has to be free, and as much as the backup will need.
    min_free_bytes: int = Field(default=5 * 2**30, ge=0)
    #: The folder with pg_dump and pg_restore, where it is not to be looked for.
    pg_bin: Path | None = None


class Flags(BaseModel):
    """Where feature flags are kept, and which of them the cutover turns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Where it is not said: file where `file` is given, http where `url` is, else mongo.
    store: Literal["file", "mongo", "http"] | None = None
    #: flagd's flag file.
    file: Path | None = None
    url: str | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    #: In the target database.
    collection: str = Field(default="featureFlags", min_length=1)
    #: Flags that the cutover turns, all together: they say where users write, and read.
    names: Listed = ()
    #: Flags that say where users read, and no more: turned for a cohort first, and for all with the others.
    reads: Listed = ()
    #: Their variants that say MongoDB, and PostgreSQL.
    on: str = Field(default="on", min_length=1)
    off: str = Field(default="off", min_length=1)
    #: What an application gives of whom it asks for: its name in the evaluation context.
    key: str = Field(default="targetingKey", min_length=1)
    #: Cohorts: a name, and a file with a key on each line.
    cohorts: dict[str, Path] = {}


class Archive(BaseModel):
    """Where the topics are kept as Avro files (docs/archive.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: A folder, or a URL that fsspec knows, such as s3://bucket/path; credentials from the store's own environment.
    url: str | None = Field(default=None, min_length=1)
    codec: Literal["zstd", "deflate"] = "zstd"
    #: A segment ends when it has so many bytes, or is so many seconds old.
    segment_bytes: int = Field(default=64 << 20, ge=1_000)
    segment_s: float = Field(default=300, gt=0)
    #: Any state of so many days back can be rebuilt; what is older may go.
    retention_days: float | None = Field(default=None, gt=0)
    #: Older bases go when there is more than this.
    retention_bytes: int | None = Field(default=None, gt=0)
    #: Under which Kafka's tools are told how far it is.
    group_id: str | None = Field(default=None, min_length=1)


class _Rooms(BaseModel):
    """What is set beside the servers' addresses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: Limits = Limits()
    observe: Observe = Observe()
    dashboard: Dashboard = Dashboard()
    sessions: Sessions = Sessions()
    files: Files = Files()
    cutover: Cutover = Cutover()
    reverse: ReverseWay = ReverseWay()
    rollback: Rollback = Rollback()
    backup: Backup = Backup()
    flags: Flags = Flags()
    archive: Archive = Archive()
    mapping: Path = Path("mapping.yaml")


class Settings(_Rooms):
    """Everything the commands need, frozen. A room receives its slice, never the whole."""

    source: SourceEndpoint
    kafka: KafkaEndpoint
    connect: ConnectEndpoint
    target: TargetEndpoint

    @property
    def archive_group(self) -> str:
        """Under which Kafka's tools are told how far the archive is."""
        return self.archive.group_id or f"{self.kafka.group_id}-archive"


class Known(_Rooms):
    """The settings of a command that can do without some of the servers. None: that part has no address."""

    source: SourceEndpoint
    kafka: KafkaEndpoint | None = None
    connect: ConnectEndpoint | None = None
    target: TargetEndpoint | None = None


class Local(BaseModel):
    """The settings of a command that needs no server, except MongoDB where its address is given."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    target: TargetEndpoint | None = None
    observe: Observe = Observe()
    files: Files = Files()
    flags: Flags = Flags()
    mapping: Path = Path("mapping.yaml")


#: what a section is not there without
_ADDRESSES = {"kafka": ("bootstrap_servers",), "connect": ("url",), "target": ("uri", "database")}
Read = TypeVar("Read", Settings, Known, Local)


def read(
    config: Path | None = None, mapping: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings from the file (default `tandem.yaml`, when it exists) and the environment over it.

    Raises SettingsInvalid, naming every setting that is missing or wrong and each name that was looked for.
    """
    return _read(Settings, config, mapping, environ, frozenset())


def read_known(
    config: Path | None = None, mapping: Path | None = None, environ: Mapping[str, str] | None = None
) -> Known:
    """As `read`, for a command that needs PostgreSQL only: a server without any address is left out.

    An address that is given in half (a URI without its database) is missing the rest all the same.
    """
    return _read(Known, config, mapping, environ, frozenset(_ADDRESSES))


def read_local(
    config: Path | None = None, mapping: Path | None = None, environ: Mapping[str, str] | None = None
) -> Local:
    """As `read`, for a command that needs no server."""
    return _read(Local, config, mapping, environ, frozenset(_ADDRESSES))


def _read(
    kind: type[Read],
    config: Path | None,
    mapping: Path | None,
    environ: Mapping[str, str] | None,
    optional: AbstractSet[str],
) -> Read:
    environ = os.environ if environ is None else environ
    content = _from_file(config)
    problems = _over(content, environ)
    if mapping is not None:
        content["mapping"] = mapping
    for section in SECTIONS:
        content.setdefault(section, {})
    slot = content["source"].get("slot", "tandem")
    for section in optional:
        if not any(name in content[section] for name in _ADDRESSES[section]):
            del content[section]
    derived = [p for p in NAMED_AFTER_SLOT if p[0] in content and p[1] not in content[p[0]]]
    for section, key in derived:
        content[section][key] = slot
    missing = False
    try:
        settings = kind.model_validate(content)
    except ValidationError as error:
        found = [e for e in error.errors(include_input=False) if e["loc"] not in derived]
        problems += [_plain(e["loc"], e["type"], e["msg"], environ) for e in found]
        missing = any(e["type"] == "missing" for e in found)
    if problems:
        raise SettingsInvalid(
            "settings are missing or wrong:\n  " + "\n  ".join(dict.fromkeys(problems)),
            remedy='set them; for the embedded stack: eval "$(tandem dev env)"'
            if missing
            else "correct them; docs/settings.md lists every setting",
        )
    return settings


def _from_file(config: Path | None) -> dict[str, Any]:
    path = config or Path("tandem.yaml")
    if not path.exists():
        if config is None:
            return {}
        raise SettingsInvalid(
            f"there is no configuration file {path}", remedy="give its path with --config FILE"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:  # its own text quotes the file, which may hold a password
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise SettingsInvalid(f"{where}: this is not YAML", remedy="give a readable YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsInvalid(f"{path} cannot be read: {what}", remedy="give a readable YAML file") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(content.get(s, {}), dict) for s in SECTIONS):
        raise SettingsInvalid(
            f"{path} is not a mapping of sections ({', '.join(SECTIONS)})", remedy="see docs/settings.md"
        )
    if "mapping" in content:
        content["mapping"] = path.parent / str(content["mapping"])
    return content


def _over(content: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Lay the environment over the file's content. Returns what is wrong with its names."""
    problems = []
    for name, (section, key) in SHORT_NAMES.items():
        if environ.get(name):
            content.setdefault(section, {})[key] = environ[name]
    for name, value in environ.items():
        if not name.startswith("TANDEM_"):
            continue
        if "__" not in name:
            section, _, key = name.removeprefix("TANDEM_").partition("_")
            if key and section.lower() in SECTIONS:
                problems.append(f"{name}: write it TANDEM_{section}__{key}, with two underscores")
            continue
        section, _, key = name.removeprefix("TANDEM_").lower().partition("__")
        if section in SECTIONS:
            content.setdefault(section, {})[key] = value
        else:
            problems.append(f"{name}: there is no section '{section}' ({', '.join(SECTIONS)})")
    for name, (section, key) in DEFAULT_NAMES.items():
        if environ.get(name):
            content.setdefault(section, {}).setdefault(key, environ[name])
    if base := environ.get(BASE_PATH):
        for key in ("old", "new"):
            content.setdefault("files", {}).setdefault(key, base)
    given = {name: environ[env] for env, name in POSTGRES_NAMES.items() if environ.get(env)}
    if "host" in given:
        content.setdefault("source", {}).setdefault("dsn", _dsn(given))
    target = content.setdefault("target", {})
    if found := _DATABASE_OF_URI.match(str(target.get("uri", ""))):
        target.setdefault("database", unquote(found[1]))
    return problems


def _dsn(given: Mapping[str, str]) -> str:
    """libpq's form of it (PostgreSQL documentation, 32.1.1.1)."""
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in given.items()}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())


def _plain(loc: tuple[int | str, ...], kind: str, message: str, environ: Mapping[str, str]) -> str:
    place = ".".join(str(step) for step in loc)
    short = next((n for n, path in {**SHORT_NAMES, **DEFAULT_NAMES}.items() if path == loc), None)
    names = "TANDEM_" + "__".join(str(step).upper() for step in loc)
    looked = f"{short} or {names}" if short else names
    if kind == "missing":
        return f"{place} is missing (looked for {looked} and tandem.yaml)"
    if kind == "extra_forbidden":
        known = Settings.model_fields[str(loc[0])].annotation if len(loc) == 2 else Settings
        names_known = (
            list(known.model_fields) if isinstance(known, type) and issubclass(known, BaseModel) else []
        )
        near = difflib.get_close_matches(str(loc[-1]), names_known, 1)
        more = ([names] if names in environ else []) + [f"did you mean {name}?" for name in near]
        return f"{place}: there is no such setting" + (f" ({'; '.join(more)})" if more else "")
    return f"{place}: {message} ({looked})"
