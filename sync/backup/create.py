"""Making a backup: source, target and file trees into one folder, which gets its name when it is whole."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from connectors.errors import BackupRefused, Stopped
from connectors.mongo import client as mongo
from connectors.mongo import dump as bson_files
from connectors.mongo.client import Database
from connectors.mongo.dump import Consistency
from connectors.postgres import dump as pg
from connectors.postgres.client import connect, translated
from connectors.postgres.slots import server_facts
from connectors.rsync.program import Order, Rsync
from connectors.settings import SourceEndpoint, TargetEndpoint
from sync.backup import manifest
from sync.backup.manifest import FILES, MONGODB, POSTGRES_DUMP, Kept, Manifest, Tree
from sync.backup.store import Listed, Store, named

#: part, bytes done, bytes of all as far as known
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """parts: of `manifest.PARTS`. trees: roots of file trees. min_free_bytes: so much room is wanted in any case.
    pg_bin: where pg_dump is, if it is to be that one."""

    name: str
    parts: tuple[str, ...]
    trees: tuple[Path, ...]
    min_free_bytes: int
    pg_bin: Path | None = None


@dataclass(slots=True)
class Made:
    """existing: a backup of this name was there and is whole; nothing was done. needed: bytes, as measured before.
    swept: leftovers of backups that did not come to their end."""

    name: str
    path: Path
    parts: tuple[str, ...]
    rehearsed: bool = False
    existing: bool = False
    needed_bytes: dict[str, int] = field(default_factory=dict)
    free_bytes: int = 0
    bytes: int = 0
    lsn: str = ""
    consistency: str = ""
    swept: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """There is a whole backup of this name, or, rehearsed, nothing stands in its way."""
        return True

    def as_dict(self) -> dict[str, object]:
        """The report for `--json`."""
        return {
            "ok": self.ok,
            "rehearsed": self.rehearsed,
            "existing": self.existing,
            "name": self.name,
            "path": str(self.path),
            "parts": list(self.parts),
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
            "bytes": self.bytes,
            "lsn": self.lsn or None,
            "consistency": self.consistency or None,
            "swept": self.swept,
            "warnings": self.warnings,
            "seconds": round(self.seconds, 1),
        }


class Creation:
    """One backup. Safe to repeat: with the name of one that is whole it does nothing, and says so."""

    def __init__(
        self,
        source: SourceEndpoint,
        target: TargetEndpoint,
        store: Store,
        wanted: Wanted,
        *,
        stop: threading.Event | None = None,
        watch: Watch = lambda *_: None,
    ) -> None:
        self.source, self.target, self.store, self.wanted = source, target, store, wanted
        self.stop, self.watch = stop or threading.Event(), watch
        self.report = Made(named(wanted.name), store.folder / wanted.name, wanted.parts)
        self._facts: dict[str, object] = {}
        self._tools: dict[str, str] = {}
        self._programs: pg.Programs | None = None
        self._rsync: Rsync | None = None

    def rehearse(self) -> Made:
        """Everything but the backup: programs, rights, room. Raises what `run` would raise before it begins."""
        began = time.monotonic()
        self.report.rehearsed = True
        self._check()
        if not self._existing():
            self._prepare()
            self._demand_room()
        self.report.seconds = time.monotonic() - began
        return self.report

    def run(self) -> Made:
        """Make it. Raises BackupRefused where it cannot be made, DumpFailed, and Stopped; then nothing of it stays."""
        began = time.monotonic()
        self._check()
        with self.store.locked():
            if not self._existing():
                for left in self.store.leftovers():
                    shutil.rmtree(left, ignore_errors=True)
                    self.report.swept.append(left.name)
                self._prepare()
                self._demand_room()
                with self.store.making(self.wanted.name) as folder:
                    self._make(folder)
        self.report.seconds = time.monotonic() - began
        return self.report

    # -- before ---------------------------------------------------------------------------------------------------
    def _check(self) -> None:
        self.store.check()
        if "files" not in self.wanted.parts:
            return
        here = self.store.folder.resolve()
        for root in self.wanted.trees:
            if not root.is_dir():
                raise BackupRefused(
                    f"{root} is no folder that could be backed up", remedy="mount it, or correct backup.trees"
                )
            if here.is_relative_to(root.resolve()):
                raise BackupRefused(
                    f"the folder for backups {self.store.folder} lies in {root}, which is to be backed up",
                    remedy="give another BACKUP_PATH",
                )

    def _existing(self) -> bool:
        place = self.report.path
        if not os.path.lexists(place):
            return False
        found = self.store.look(place)
        if not found.ok or found.manifest is None or found.manifest.parts != self.wanted.parts:
            raise BackupRefused(
                f"{place} is there, and is no whole backup of {', '.join(self.wanted.parts)}: {_why(found)}",
                remedy="give another name, or move it away",
            )
        self.report.existing, self.report.bytes = True, found.manifest.bytes
        self.report.lsn = str(found.manifest.source.get("lsn", ""))
        self.report.consistency = str(found.manifest.target.get("consistency", ""))
        return True

    def _prepare(self) -> None:
        """Find the programs, and measure."""
        needed = self.report.needed_bytes
        with connect(self.source, name="tandem backup") as session, translated(self.source):
            facts = server_facts(session)
            self._facts = {
                "system": facts.system_identifier,
                "database": facts.database,
                "server_version": facts.version,
            }
            if "postgres" in self.wanted.parts:
                size = session.execute("SELECT pg_database_size(current_database())").fetchone()
                needed["postgres"] = int(size[0]) if size else 0
                self._programs = pg.programs(facts.version // 10_000, self.wanted.pg_bin)
                self._tools["pg_dump"] = self._programs.told
        if "mongodb" in self.wanted.parts:
            db = mongo.connect(self.target, name="tandem backup")
            try:
                needed["mongodb"] = bson_files.size_of(db)
            finally:
                db.client.close()
        if "files" in self.wanted.parts and self.wanted.trees:
            self._rsync = Rsync.find()
            self._tools["rsync"] = self._rsync.version
            needed["files"] = sum(self._tree_bytes(self._rsync, root) for root in self.wanted.trees)

    def _tree_bytes(self, rsync: Rsync, root: Path) -> int:
        order = Order(root, self.store.folder / ".nothing", _names(root), dry_run=True)
        return rsync.run(order, stop=self.stop.is_set).bytes if order.names else 0

    def _demand_room(self) -> None:
        self.report.free_bytes = free = self.store.free_bytes
        needed = max(sum(self.report.needed_bytes.values()), self.wanted.min_free_bytes)
        if free < needed:
            parts = ", ".join(f"{part} {size:,}" for part, size in self.report.needed_bytes.items())
            raise BackupRefused(
                f"{self.store.folder} has {free:,} bytes free, and {needed:,} are wanted ({parts}; at least"
                f" {self.wanted.min_free_bytes:,})",
                remedy="make room, give another BACKUP_PATH, or set backup.min_free_bytes",
            )

    # -- the parts ------------------------------------------------------------------------------------------------
    def _make(self, folder: Path) -> None:
        began = _now()
        files: list[Kept] = []
        trees: list[Tree] = []
        target: dict[str, object] = {}
        collections: dict[str, int] = {}
        if "postgres" in self.wanted.parts:
            files.append(self._postgres(folder))
        if "mongodb" in self.wanted.parts:
            db = mongo.connect(self.target, name="tandem backup")
            try:
                files += self._mongodb(db, folder, target, collections)
            finally:
                db.client.close()
        if "files" in self.wanted.parts:
            for number, root in enumerate(self.wanted.trees):
                tree, listed = self._tree(folder, root, number)
                trees.append(tree)
                files.append(listed)
        if self.stop.is_set():
            raise Stopped("told to stop", remedy="run it again: it begins anew")
        made = Manifest(
            name=self.wanted.name,
            began=began,
            ended=_now(),
            parts=self.wanted.parts,
            source=self._facts,
            target=target,
            collections=collections,
            tools=self._tools,
            files=tuple(files),
            trees=tuple(trees),
        )
        (folder / manifest.NAME).write_text(made.as_text(), encoding="utf-8")
        self.report.bytes = made.bytes

    def _postgres(self, folder: Path) -> Kept:
        assert self._programs is not None
        file = folder / POSTGRES_DUMP
        with pg.exported(self.source) as taken:
            self.report.lsn = str(taken.lsn)
            self._facts["lsn"] = self.report.lsn
            pg.dump(
                self.source,
                taken,
                self._programs,
                file,
                lambda done: self.watch("postgres", done, taken.bytes),
                self.stop.is_set,
            )
        return manifest.kept(folder, file)

    def _mongodb(
        self, db: Database, folder: Path, target: dict[str, object], collections: dict[str, int]
    ) -> list[Kept]:
        place = folder / MONGODB / db.name
        place.mkdir(parents=True)
        total = self.report.needed_bytes["mongodb"]
        kind, dumped = bson_files.dump(
            db, place, lambda done: self.watch("mongodb", done, total), self.stop.is_set
        )
        self.report.consistency = str(kind)
        if kind is Consistency.MOVING:
            self.report.warnings.append(
                "MongoDB cannot be read as of one time here: each document is as it was when it was read; end the"
                " consumers first for a backup that is consistent"
            )
        with mongo.translated():
            version = str(db.client.server_info()["version"])
        target |= {"database": db.name, "server_version": version, "consistency": str(kind)}
        collections |= {one.name: one.documents for one in dumped if one.kind != "view"}
        return [
            Kept(str(path.relative_to(folder)), path.stat().st_size, digest)
            for one in dumped
            for ending, digest in one.digests.items()
            for path in [place / f"{one.file}{ending}"]
        ]

    def _tree(self, folder: Path, root: Path, number: int) -> tuple[Tree, Kept]:
        assert self._rsync is not None
        place, listed = folder / FILES / str(number), folder / FILES / f"{number}.list"
        place.mkdir(parents=True)
        total = self.report.needed_bytes["files"]
        if names := _names(root):
            done = self._rsync.run(
                Order(root, place, names), lambda b, _: self.watch("files", b, total), self.stop.is_set
            )
            if done.vanished:
                self.report.warnings.append(f"files went from {root} while it was copied")
        shutil.copystat(root, place)
        count, size = manifest.write_list(place, listed, lambda b: self.watch("files (checksums)", b, total))
        tree = Tree(str(root), str(place.relative_to(folder)), str(listed.relative_to(folder)), count, size)
        return tree, manifest.kept(folder, listed)


def _names(root: Path) -> Sequence[bytes]:
    return sorted(os.listdir(os.fsencode(root)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _why(found: Listed) -> str:
    return found.problems[0] if found.problems else "it has other parts"
