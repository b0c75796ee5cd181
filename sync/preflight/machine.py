"""What the cutover will need of this machine and of the servers' clocks: looked at, and handed to `moving`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from connectors.errors import SyncError
from connectors.mongo import probe
from connectors.mongo.client import Database
from connectors.postgres import dump, facts, slots
from connectors.postgres.client import Session, translated
from connectors.rsync.program import Rsync
from connectors.trees import place
from sync.preflight import moving
from sync.preflight.findings import Finding, Level
from sync.settings import Known


def of_files(settings: Known) -> Iterator[Finding]:
    """Both roots, and rsync. Nothing where no files are moved."""
    files = settings.files
    if files.old is None and files.new is None:
        return
    for name, path in (("files.old", files.old), ("files.new", files.new)):
        if path is None:
            what = "no folder is named: the other root alone is no move"
            yield Finding(Level.ERROR, "files", "root", name, what, "give OLD_NFS_PATH and NEW_NFS_PATH")
            continue
        writes = name == "files.new" or files.old == files.new
        needed = files.min_free_bytes if name == "files.new" and files.old != files.new else 0
        yield from moving.assess_root(_root(name, path), needed, writes, files.mounts)
    if files.old != files.new:
        yield from moving.assess_program(_program("rsync", lambda: Rsync.find().version), "files")


def of_backup(settings: Known, session: Session) -> Iterator[Finding]:
    """The folder for backups, and pg_dump in a version that fits the server."""
    if not settings.cutover.backup and settings.backup.path is None:
        return
    path = settings.backup.path
    if path is None:
        what = "no folder for backups is named, and the cutover makes one"
        remedy = "give BACKUP_PATH, or set cutover.backup: false"
        yield Finding(Level.NOTE, "backup", "root", "backup.path", what, remedy)
        return
    root = _root("backup.path", path)
    yield from moving.assess_root(root, settings.backup.min_free_bytes, writes=True, mounts=())
    with translated(settings.source):
        major = slots.server_facts(session).version // 10_000
    found = _program("pg_dump", lambda: dump.programs(major, settings.backup.pg_bin).told)
    yield from moving.assess_program(found, "backup")


def of_clocks(settings: Known, session: Session, db: Database | None) -> Iterator[Finding]:
    """PostgreSQL's clock and MongoDB's beside this machine's."""
    with translated(settings.source):
        ahead: dict[str, float | None] = {"PostgreSQL": _ahead(lambda: facts.clock_s(session))}
    if db is not None:
        ahead["MongoDB"] = _ahead(lambda: probe.clock_s(db))
    yield from moving.assess_clocks(ahead, settings.cutover.max_clock_skew_s)


def of_sessions(settings: Known, users: Callable[[], Mapping[str, int] | None]) -> Iterator[Finding]:
    """Who is at work now. users: as the mapping says where sessions are; None: it has none."""
    yield from moving.assess_sessions(users(), agent=settings.sessions.agent_url is not None)


def _ahead(asked: Callable[[], float]) -> float:
    """Seconds that a server's clock is ahead: by its answer, and the middle of the time that the answer took."""
    before = time.time()
    theirs = asked()
    return theirs - (before + time.time()) / 2


def _root(setting: str, path: Path) -> moving.Root:
    try:
        room = place.look(path, setting)
        readable, writable = place.may(path)
    except SyncError as error:
        return moving.Root(setting, str(path), (error.what, error.remedy))
    return moving.Root(
        setting, str(path), None, readable, writable, room.free_bytes, str(place.mount_of(path))
    )


def _program(name: str, version: Callable[[], str]) -> moving.Program:
    try:
        return moving.Program(name, version())
    except SyncError as error:
        return moving.Program(name, trouble=(error.what, error.remedy))
