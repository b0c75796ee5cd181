"""The single steps of a cutover, put together from their rooms: flags, sessions and backups."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from connectors.acp.agent import Agent
from connectors.errors import Misused, NotSetUp, SessionsUnfit, SettingsInvalid
from connectors.flagd.file import FlagFile
from connectors.flagd.service import FlagService
from connectors.flags import FlagStore
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo import sessions as stored
from connectors.mongo.client import Database
from connectors.mongo.flags import FlagCollection
from connectors.postgres.active import Notify, SourceRoster
from connectors.postgres.client import connect
from connectors.webhook import Webhook
from consumers.mapping import spec
from sync.backup import manifest
from sync.backup.create import Creation, Made, Wanted, Watch
from sync.backup.restore import Into, Restoration, Restored
from sync.backup.store import Listed, Store
from sync.flags.rules import Cohort, keys_of
from sync.flags.run import Flags
from sync.sessions import notify, wait
from sync.sessions.contracts import Channel, Roster
from sync.sessions.migrate import Migration, Moved, Terms
from sync.sessions.notify import Notice, Sent
from sync.sessions.source import session_table
from sync.sessions.wait import Waited
from sync.settings import Flags as FlagSettings
from sync.settings import Local, Sessions, Settings
from sync.setup.make import load_plan

Given = TypeVar("Given")


# -- flags -------------------------------------------------------------------------------------------------------
@contextmanager
def flags_of(settings: Local | Settings) -> Iterator[Flags]:
    """The flags, where the settings say that they are kept. Raises SettingsInvalid, and what connecting raises."""
    wanted = settings.flags
    kind = wanted.store or ("file" if wanted.file else "http" if wanted.url else "mongo")
    with ExitStack() as stack:
        store: FlagStore
        if kind == "file":
            store = FlagFile(_given(wanted.file, "flags.file"))
        elif kind == "http":
            token = _secret(wanted.token, wanted.token_file, "flags.token_file")
            store = stack.enter_context(closing(FlagService(_given(wanted.url, "flags.url"), token)))
        else:
            if settings.target is None:
                raise SettingsInvalid(
                    "it is not said where flags are kept",
                    remedy="set TANDEM_FLAGS__FILE (flagd's flag file) or TANDEM_FLAGS__URL, or MONGODB_URI and"
                    " MONGODB_DATABASE for a collection",
                )
            db = mongo.connect(settings.target, name="tandem flags")
            stack.callback(db.client.close)
            store = FlagCollection(db, wanted.collection)
        yield Flags(store, wanted.key)


def cohort_of(wanted: FlagSettings, name: str | None, file: Path | None) -> Cohort:
    """A cohort by its name in the settings, or by a file with a key on each line. Raises Misused."""
    if file is None:
        assert name is not None
        if name not in wanted.cohorts:
            known = ", ".join(wanted.cohorts) or "none"
            raise Misused(
                f"there is no cohort '{name}'",
                remedy=f"flags.cohorts has: {known}; or give --cohort-file FILE",
            )
        file = wanted.cohorts[name]
    try:
        keys = keys_of(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Misused(
            f"the cohort's file {file} cannot be read: {why}", remedy="give a readable file"
        ) from None
    if not keys:
        raise Misused(f"the cohort's file {file} has no key in it", remedy="give one key on each line")
    name = name or file.stem
    if "," in name:
        raise Misused(f"a cohort cannot be called '{name}'", remedy="leave the comma out")
    return Cohort(name, keys, "")


def _given(value: Given | None, name: str) -> Given:
    if value is None:
        raise SettingsInvalid(
            f"{name} is missing (looked for TANDEM_{name.upper().replace('.', '__')} and tandem.yaml)",
            remedy="give it, or another flags.store",
        )
    return value


# -- sessions ----------------------------------------------------------------------------------------------------
def sessions_notify(
    settings: Settings,
    *,
    notice: Notice,
    rehearse: bool = False,
    stop: threading.Event | None = None,
    watch: Callable[[Sent], None] = lambda _: None,
) -> Sent:
    """Tell everybody who has a session. The same notice again tells only those who were not reached."""
    with _target(settings, "sessions") as db, ExitStack() as stack:
        roster = stack.enter_context(_roster(settings, db))
        channels = [stack.enter_context(closing(c)) for c in _channels(settings, db)]
        return notify.notify(
            roster, channels, _Receipts(db, notice.id), notice, rehearse=rehearse, stop=stop, watch=watch
        )


def announcement(
    wanted: Sessions,
    *,
    id_: str | None = None,
    message: str | None = None,
    downtime: str | None = None,
    at: datetime | None = None,
) -> Notice:
    """What users are told; what is not given is as the settings have it."""
    return Notice(
        id_ or uuid.uuid4().hex[:12],
        message or wanted.message,
        downtime or wanted.estimated_downtime,
        at or notify.begins(datetime.now(UTC), wanted.begins_in_min),
    )


def sessions_wait(
    settings: Settings,
    *,
    timeout_s: float | None = None,
    poll_s: float | None = None,
    goes_on: bool | None = None,
    rehearse: bool = False,
    stop: threading.Event | None = None,
    watch: Callable[[Waited], None] = lambda _: None,
) -> Waited:
    """Wait until nobody has a session. What is not given is as the settings have it."""
    wished = settings.sessions
    with _target(settings, "sessions") as db, _roster(settings, db) as roster:
        return wait.wait(
            roster,
            timeout_s=wished.wait_timeout_s if timeout_s is None else timeout_s,
            poll_s=wished.wait_poll_s if poll_s is None else poll_s,
            goes_on=wished.on_timeout == "go_on" if goes_on is None else goes_on,
            rehearse=rehearse,
            stop=stop,
            watch=watch,
        )


def sessions_migrate(
    settings: Settings,
    *,
    retry_failed: bool = False,
    rehearse: bool = False,
    stop: threading.Event | None = None,
    watch: Callable[[Moved], None] = lambda _: None,
) -> Moved:
    """Move sessions to the agent. Where no consumer writes the sessions' documents, they are told at once what became
    of them; else that is `sessions_publish`, when the consumers have ended for good."""
    wished = settings.sessions
    if wished.agent_url is None:
        raise SettingsInvalid(
            "sessions.agent_url is missing (looked for ACP_AGENT_URL or TANDEM_SESSIONS__AGENT_URL and tandem.yaml)",
            remedy="give the address of the agent that sessions are moved to",
        )
    url, stop = wished.agent_url, stop or threading.Event()
    token = _secret(wished.agent_token, wished.agent_token_file, "sessions.agent_token_file")
    terms = Terms(
        wished.restore_method, wished.parallel, wished.attempts, wished.deadline_s, wished.backoff_s
    )
    with _target(settings, "sessions") as db:
        _demand_sessions(settings, db)
        run = Migration(
            db,
            wished,
            lambda: Agent(url, token, answer_s=wished.answer_s, stopped=stop.is_set),
            terms,
            stop=stop,
            watch=watch,
        )
        if rehearse:
            return run.rehearse(retry_failed=retry_failed)
        report = run.run(retry_failed=retry_failed)
        if not _streamed(settings, db):
            report.published = stored.publish(db, wished)
        return report


def sessions_publish(settings: Settings) -> int:
    """Write into the sessions' documents what became of them. Only for when the consumers have ended for good: one
    that applied a change of such a row later would write over it. Safe to repeat; returns how many were written."""
    with _target(settings, "sessions") as db:
        return stored.publish(db, settings.sessions)


def sessions_withdraw(settings: Settings) -> int:
    """Put the documents back as they were, and forget the moves: what an abort does. Safe to repeat; returns how many
    moves are forgotten."""
    with _target(settings, "sessions") as db:
        return stored.withdraw(db, settings.sessions)


# -- backups -----------------------------------------------------------------------------------------------------
def backup_create(
    settings: Settings,
    *,
    name: str,
    parts: tuple[str, ...] = manifest.PARTS,
    rehearse: bool = False,
    stop: threading.Event | None = None,
    watch: Watch = lambda *_: None,
) -> Made:
    """Make a backup of that name, or find that it is there and whole."""
    wished = settings.backup
    old = settings.files.old
    trees = wished.trees or ((old,) if old is not None else ())
    wanted = Wanted(name, parts, trees, wished.min_free_bytes, wished.pg_bin)
    made = Creation(settings.source, settings.target, _store(settings), wanted, stop=stop, watch=watch)
    return made.rehearse() if rehearse else made.run()


def backup_list(
    settings: Settings, *, deep: bool = False, tell: Callable[[str, int, int], None] = lambda *_: None
) -> list[Listed]:
    """Every backup, and whether it is whole."""
    store = _store(settings)
    store.check()
    return store.all(deep=deep, tell=tell)


def backup_restore(
    settings: Settings,
    name: str,
    into: Into,
    *,
    execute: bool = False,
    stop: threading.Event | None = None,
    watch: Watch = lambda *_: None,
) -> Restored:
    """Bring a backup back, or, unless execute, say what that would be and what stands in its way."""
    store = _store(settings)
    store.check()
    made = Restoration(settings.source, settings.target, store, name, into, stop=stop, watch=watch)
    return made.run() if execute else made.rehearse()


def _store(settings: Settings) -> Store:
    if settings.backup.path is None:
        raise SettingsInvalid(
            "backup.path is missing (looked for BACKUP_PATH or TANDEM_BACKUP__PATH and tandem.yaml)",
            remedy="give the folder that backups are in",
        )
    return Store(settings.backup.path)


# -- what they are handed ----------------------------------------------------------------------------------------
class _Receipts:
    def __init__(self, db: Database, notice: str) -> None:
        self._db, self._notice = db, notice

    def taken(self) -> set[str]:
        return stored.told(self._db, self._notice)

    def keep(self, to: str) -> None:
        stored.receipt(self._db, self._notice, to)


def _channels(settings: Settings, db: Database) -> Iterator[Channel]:
    wished = settings.sessions
    if wished.webhook_url is not None:
        token = _secret(wished.webhook_token, wished.webhook_token_file, "sessions.webhook_token_file")
        yield Webhook(wished.webhook_url, token)
    if wished.notify_channel is not None:
        yield Notify(settings.source, wished.notify_channel)
    if wished.notice_collection is not None:
        yield stored.NoticeCollection(db, wished.notice_collection)


@contextmanager
def _roster(settings: Settings, db: Database) -> Iterator[Roster]:
    """PostgreSQL says who has sessions while it feeds their collection; else MongoDB."""
    if not _streamed(settings, db) and stored.has(db, settings.sessions.collection):
        yield stored.TargetRoster(db, settings.sessions)
        return
    with connect(settings.source, name="tandem sessions") as session:
        table = session_table(load_plan(settings, session), settings.sessions)
    if table is None:
        raise _no_sessions(settings)
    with closing(SourceRoster(settings.source, table)) as roster:
        yield roster


def _streamed(settings: Settings, db: Database) -> bool:
    """Whether a pipeline writes the documents of sessions."""
    mapped = spec.load(settings.mapping).collections.get(settings.sessions.collection)
    tables = set(mapped.tables) if mapped is not None else set()
    return any(p.table in tables for p in ledger.positions(db).values())


def _demand_sessions(settings: Settings, db: Database) -> None:
    collection = settings.sessions.collection
    if stored.has(db, collection):
        return
    mapped = spec.load(settings.mapping).collections.get(collection)
    if mapped is not None and mapped.table:
        raise NotSetUp(
            f"the target has no collection {collection} yet",
            remedy="run `tandem setup` and `tandem snapshot` first",
        )
    raise _no_sessions(settings)


def _no_sessions(settings: Settings) -> SessionsUnfit:
    return SessionsUnfit(
        f"there is no collection {settings.sessions.collection}, and {settings.mapping} maps no table to one",
        remedy="map the table of sessions, or name the collection that has them in sessions.collection",
    )


def _secret(given: SecretStr | None, file: Path | None, name: str) -> str | None:
    if given is not None:
        return given.get_secret_value()
    if file is None:
        return None
    try:
        found = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsInvalid(
            f"{name}: {file} cannot be read: {why}", remedy="give a readable file"
        ) from None
    if not found or not found.isprintable():
        raise SettingsInvalid(f"{name}: {file} holds no token", remedy="put the token into it, on one line")
    return found


@contextmanager
def _target(settings: Settings, what: str) -> Iterator[Database]:
    db = mongo.connect(settings.target, name=f"tandem {what}")
    try:
        yield db
    finally:
        db.client.close()
