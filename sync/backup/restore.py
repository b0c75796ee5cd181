"""A backup back into its place, or into another one that is named. A rehearsal unless it is to be done."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from connectors.errors import BackupDamaged, BackupForeign, DumpFailed, Refused, RestoreRefused
from connectors.mongo import client as mongo
from connectors.mongo import dump as bson_files
from connectors.mongo import ledger, schema
from connectors.mongo.client import Database
from connectors.postgres import dump as pg
from connectors.postgres.client import connect, parameters, translated
from connectors.postgres.slots import server_facts
from connectors.rsync.program import Order, Rsync
from connectors.settings import SourceEndpoint, TargetEndpoint
from sync.backup.create import Watch
from sync.backup.manifest import MONGODB, POSTGRES_DUMP, Manifest, Tree
from sync.backup.store import Store

#: so many problems of a damaged backup are told
_SHOWN = 20
#: a consumer that was heard of since is taken to run
_ALIVE_S = 30


@dataclass(frozen=True, slots=True)
class Into:
    """parts: which of them; none: all that the backup has. postgres_database, mongodb_database, folder: other places
    than its own. replace: what is there goes. foreign: it may be of another server or database."""

    parts: tuple[str, ...]
    postgres_database: str | None = None
    mongodb_database: str | None = None
    folder: Path | None = None
    replace: bool = False
    foreign: bool = False
    pg_bin: Path | None = None


@dataclass(slots=True)
class Restored:
    """steps: what is, or was, done. refusals: why it must not be. notes: what is to be known."""

    name: str
    rehearsed: bool
    steps: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    documents: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """It is done, or, rehearsed, may be."""
        return not self.refusals

    def as_dict(self) -> dict[str, object]:
        """The report for `--json`."""
        return {
            "ok": self.ok,
            "rehearsed": self.rehearsed,
            "name": self.name,
            "steps": self.steps,
            "refusals": self.refusals,
            "notes": self.notes,
            "documents": self.documents,
            "seconds": round(self.seconds, 1),
        }


class Restoration:
    """One restore. Every guard is asked first, and every reason against it told; the backup is checked byte for byte.

    PostgreSQL comes back in one transaction. MongoDB's collections are made whole beside what is there, then take
    their names. Files are copied by rsync. Safe to repeat.
    """

    def __init__(
        self,
        source: SourceEndpoint,
        target: TargetEndpoint,
        store: Store,
        name: str,
        into: Into,
        *,
        stop: threading.Event | None = None,
        watch: Watch = lambda *_: None,
    ) -> None:
        self.source, self.target, self.store, self.into = source, target, store, into
        self.stop, self.watch = stop or threading.Event(), watch
        self.place = store.place(name)
        self.report = Restored(name, rehearsed=True)

    def rehearse(self) -> Restored:
        """Guards and plan. Raises BackupDamaged and BackupForeign."""
        began = time.monotonic()
        self._judged()
        self.report.seconds = time.monotonic() - began
        return self.report

    def run(self) -> Restored:
        """Do it. Raises what `rehearse` raises, RestoreRefused with every reason, DumpFailed, and Stopped."""
        began = time.monotonic()
        found = self._judged()
        self.report.rehearsed = False
        if self.report.refusals:
            raise RestoreRefused(
                f"{self.report.name} is not restored: " + "; ".join(self.report.refusals),
                remedy="mend that, name another place, or give --replace where what is there may go",
            )
        for part in self._parts(found):
            {"postgres": self._postgres, "mongodb": self._mongodb, "files": self._files}[part](found)
        self.report.seconds = time.monotonic() - began
        return self.report

    # -- guards ---------------------------------------------------------------------------------------------------
    def _judged(self) -> Manifest:
        found = self.store.look(
            self.place, deep=True, tell=lambda _, done, of: self.watch("checking", done, of)
        )
        if not found.ok or found.manifest is None:
            told = "; ".join(found.problems[:_SHOWN])
            raise BackupDamaged(
                f"the backup {found.name} is damaged: {told}",
                remedy="restore another one: `tandem backup list --deep` names those that are whole",
                problems=len(found.problems),
            )
        if missing := sorted(set(self.into.parts) - set(found.manifest.parts)):
            self.report.refusals.append(f"it has no {', '.join(missing)}")
        judges: dict[str, Callable[[Manifest], None]] = {
            "postgres": self._judge_postgres,
            "mongodb": self._judge_mongodb,
            "files": self._judge_files,
        }
        for part in self._parts(found.manifest):
            judges[part](found.manifest)
        return found.manifest

    def _parts(self, found: Manifest) -> list[str]:
        return [part for part in found.parts if part in (self.into.parts or found.parts)]

    @property
    def _database(self) -> str:
        known = parameters(self.source)
        return self.into.postgres_database or str(known.get("dbname") or known.get("user") or "")

    def _judge_postgres(self, found: Manifest) -> None:
        report, database = self.report, self._database
        with connect(self.source, name="tandem backup") as session, translated(self.source):
            facts = server_facts(session)
        if facts.system_identifier != found.source.get("system"):
            self._foreign(f"it is of another PostgreSQL server ({found.source.get('system')})")
        if database != found.source.get("database") and self.into.postgres_database is None:
            self._foreign(f"it is of the database {found.source.get('database')}, not {database}")
        try:
            self._programs = pg.programs(facts.version // 10_000, self.into.pg_bin)
            there = pg.relations(self.source, database)
            others, slots = pg.beside(self.source, database)
        except Refused as error:
            report.refusals.append(f"{error.what} ({error.remedy})")
            return
        if there and not self.into.replace:
            report.refusals.append(
                f"the database {database} has {len(there):,} relations, such as {there[0]}"
            )
        if slots:
            report.refusals.append(
                f"something streams from the database {database} by the slot {', '.join(slots)}:"
                " `tandem teardown` first"
            )
        if there and others:
            report.notes.append(
                f"{others} other sessions are in the database {database}: the restore waits for their locks"
            )
        how = f", in place of its {len(there):,} relations" if there else ""
        report.steps.append(f"PostgreSQL: into the database {database}{how}, in one transaction")

    def _judge_mongodb(self, found: Manifest) -> None:
        report, own = self.report, found.target.get("database")
        with self._db() as db:
            if db.name != own and self.into.mongodb_database is None:
                self._foreign(f"it is of the MongoDB database {own}, not {db.name}")
            there = sorted(
                n for n in schema.collection_names(db) if not n.startswith(("system.", bson_files.RESTORING))
            )
            known = ledger.state(db, "pipeline") or {}
            if known and (known.get("system"), known.get("database")) != (
                found.source.get("system"),
                found.source.get("database"),
            ):
                self._foreign(f"the MongoDB database {db.name} is the target of another source")
            lives = any(w.alive_s < _ALIVE_S for w in ledger.workers(db))
        if there and not self.into.replace:
            report.refusals.append(f"the MongoDB database {db.name} has {len(there):,} collections")
        if lives:
            report.refusals.append(f"consumers write to the MongoDB database {db.name}: end them first")
        gone = [name for name in there if name not in found.collections]
        how = f", in place of its {len(there):,} collections" if there else ""
        also = f"; {', '.join(gone)} would go" if gone and self.into.replace else ""
        report.steps.append(
            f"MongoDB: {len(found.collections):,} collections into the database {db.name}{how}{also}; each whole"
            " before it takes its name"
        )
        if found.target.get("consistency") == "moving":
            report.notes.append(
                "MongoDB could not be read as of one time when it was made: run `tandem verify` after"
            )

    def _judge_files(self, found: Manifest) -> None:
        for number, tree in enumerate(found.trees):
            folder = self._folder(found, number, tree)
            if not folder.is_dir():
                self.report.refusals.append(f"{folder} is no folder")
                continue
            if not os.access(folder, os.W_OK | os.X_OK):
                self.report.refusals.append(f"{folder} may not be written")
            there = os.listdir(os.fsencode(folder))
            if there and not self.into.replace:
                self.report.refusals.append(f"{folder} is not empty")
            own = set(os.listdir(os.fsencode(self.place / tree.path)))
            if left := len(set(there) - own):
                self.report.notes.append(
                    f"{left:,} entries of {folder} that the backup does not have stay there"
                )
            self.report.steps.append(f"files: {tree.entries:,} entries, {tree.bytes:,} bytes, into {folder}")
        if found.trees:
            try:
                self._rsync = Rsync.find()
            except Refused as error:
                self.report.refusals.append(f"{error.what} ({error.remedy})")

    def _foreign(self, what: str) -> None:
        if not self.into.foreign:
            raise BackupForeign(
                f"{self.report.name} does not belong here: {what}",
                remedy="correct the addresses, or give --foreign if it is what you want",
            )
        if what not in self.report.notes:
            self.report.notes.append(what)

    # -- acts -----------------------------------------------------------------------------------------------------
    def _postgres(self, found: Manifest) -> None:
        self.watch("postgres", 0, 0)
        pg.restore(
            self.source,
            self._database,
            self._programs,
            self.place / POSTGRES_DUMP,
            self.stop.is_set,
            replace=self.into.replace,
            keep_owners=not self.into.foreign,
        )

    def _mongodb(self, found: Manifest) -> None:
        total = sum(f.bytes for f in found.files if f.path.endswith(".bson"))
        folder = self.place / MONGODB / str(found.target["database"])
        with self._db() as db:
            counts = bson_files.restore(
                db,
                folder,
                lambda done: self.watch("mongodb", done, total),
                self.stop.is_set,
                replace=self.into.replace,
            )
        if wrong := {n: c for n, c in found.collections.items() if counts.get(n) != c}:
            raise DumpFailed(
                f"other numbers of documents than the backup has: {', '.join(sorted(wrong))}",
                remedy="restore again, or another backup",
            )
        self.report.documents = sum(counts.values())

    def _files(self, found: Manifest) -> None:
        total = sum(tree.bytes for tree in found.trees)
        for number, tree in enumerate(found.trees):
            origin = self.place / tree.path
            if names := sorted(os.listdir(os.fsencode(origin))):
                self._rsync.run(
                    Order(origin, self._folder(found, number, tree), names, again=self.into.replace),
                    lambda done, _: self.watch("files", done, total),
                    self.stop.is_set,
                )

    def _folder(self, found: Manifest, number: int, tree: Tree) -> Path:
        """Where a tree goes: where it was, or, given a folder, there; several into folders 0, 1, … of it."""
        if self.into.folder is None:
            return Path(tree.root)
        return self.into.folder if len(found.trees) == 1 else self.into.folder / str(number)

    def _db(self) -> _Opened:
        name = self.into.mongodb_database
        target = self.target if name is None else self.target.model_copy(update={"database": name})
        return _Opened(target)


class _Opened:
    """The target, closed when the block ends."""

    def __init__(self, target: TargetEndpoint) -> None:
        self._db: Database = mongo.connect(target, name="tandem backup")

    def __enter__(self) -> Database:
        return self._db

    def __exit__(self, *_: object) -> None:
        self._db.client.close()
