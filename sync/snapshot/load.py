"""The loader: holds its tables, reads under one snapshot with several workers, writes chunks, lets go
(docs/write-rule.md, clauses 5 and 6). Kill it anywhere: the next run takes the hold over and starts the unfinished
chunks again."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bson import Int64, ObjectId

from connectors.errors import (
    Moved,
    Refused,
    Stopped,
    SyncError,
    TargetNotReady,
    TooMuchAtOnce,
    Unappliable,
)
from connectors.mongo import client as mongo
from connectors.mongo import ledger, schema
from connectors.mongo.client import Database
from connectors.mongo.transaction import Transaction, Transactions, Write, write
from connectors.postgres import slots
from connectors.postgres.client import Session, connect, translated
from connectors.postgres.rows import SnapshotReader
from connectors.postgres.slots import ExportedSnapshot
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.apply.arrays import Anchors, Arrays, by_ids, inner_arrays, sort_key
from consumers.apply.copies import fill_held
from consumers.apply.decide import Put
from consumers.apply.untangle import park_row, parked_id
from consumers.apply.write import RowWriter, sync_of, table_read
from consumers.contracts import FullSpeed, Pace
from consumers.mapping.ids import row_key
from consumers.mapping.plan import Document, Key, Plan, RowPlan
from sync.settings import Limits
from sync.snapshot.chunks import Chunk, cut

LEASE_S = 6.0
_LOAD = ledger.LOAD  # of runs and claims too


@dataclass(slots=True)
class Loaded:
    """How far a collection's load is. rows: of its own table. total: of the whole table, filter not applied."""

    total: int = 0
    rows: int = 0
    staged: int = 0
    parked: int = 0
    chunks: int = 0
    chunks_done: int = 0
    released: bool = False


@dataclass(slots=True)
class LoadReport:
    """A load. exact: it read the slot's own snapshot; else rows as they were later, which the stream brings in line."""

    collections: dict[str, Loaded] = field(default_factory=dict)
    exact: bool = False
    lsn: str = ""
    seconds: float = 0.0
    resumed: bool = False
    #: of tables that stream already: what was read again for new collections
    again: Any = None

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        names = ("total", "rows", "staged", "parked", "released")
        return {
            "collections": {c: {n: getattr(of, n) for n in names} for c, of in self.collections.items()},
            "exact": self.exact,
            "lsn": self.lsn,
            "seconds": round(self.seconds, 2),
            "resumed": self.resumed,
            **({"again": self.again.as_dict()} if self.again else {}),
        }


class Loader:
    """One run of the load. slot_snapshot: the slot's own, where this process has just made the slot."""

    def __init__(
        self,
        source: SourceEndpoint,
        target: TargetEndpoint,
        plan: Plan,
        limits: Limits,
        *,
        log: Callable[..., None],
        slot_snapshot: ExportedSnapshot | None = None,
        replace_existing: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.pace = pace or FullSpeed()
        self.source, self.target, self.plan, self.limits, self.log = source, target, plan, limits, log
        self.db: Database = mongo.connect(target, name="tandem loader")
        self.run = f"load:{uuid.uuid4().hex[:12]}"
        self.report = LoadReport()
        self._slot_snapshot, self._replace_existing = slot_snapshot, replace_existing
        self._lock, self._failed, self._stop = threading.Lock(), list[BaseException](), threading.Event()
        self._own: Transactions
        self._own_lock = threading.Lock()
        self._lsn, self._resumed = 0, set[str]()

    # -- the whole -----------------------------------------------------------------------------------------------
    def load(self) -> LoadReport:
        """Load every collection that is not loaded yet, and let each go. Raises Refused while another run lives."""
        started = time.monotonic()
        groups = self._groups_to_load()
        if groups:
            self._take_lease()
            self._own = self._transactions()
            beat = threading.Thread(target=self._beat, daemon=True)
            beat.start()
            try:
                self._take(groups)
                with self._snapshot() as snapshot:
                    self.report.lsn = str(snapshot.lsn)
                    self._lsn = int(snapshot.lsn)
                    self._work(groups, snapshot)
            finally:
                self._stop.set()
                beat.join()
                self._own.close()
                ledger.load_ended(self.db, self.run)
        self.report.seconds = time.monotonic() - started
        return self.report

    def _groups_to_load(self) -> list[tuple[str, ...]]:
        """Those of which no table streams; new collections over a table that does are read again: `reload`."""
        positions = ledger.positions(self.db).values()
        held = {p.table for p in positions if (p.holder or "").startswith(_LOAD)}
        if set(self.plan.tables) - {p.table for p in positions}:
            raise Refused("the pipeline is not set up", remedy="run `tandem setup` first")
        return [g for g in self.plan.groups if set(self.plan.group_tables(g)) <= held]

    def _take_lease(self) -> None:
        """Wait for a run that has just died; refuse beside one that lives. Two at once do no harm, only waste."""
        with mongo.translated():
            self.db[ledger.STATE].update_one({"_id": _LOAD}, {"$setOnInsert": {"run": None}}, upsert=True)
        beats: set[object] = set()
        until = time.monotonic() + LEASE_S
        while (known := ledger.state(self.db, _LOAD)) and known.get("beat") and time.monotonic() < until:
            beats.add(known["beat"])
            if len(beats) > 2:
                raise Refused(
                    "another `tandem snapshot` is running",
                    remedy="wait until it has ended, or stop it",
                    run=known.get("run"),
                )
            self.report.resumed = True
            time.sleep(0.5)
        if ended := ledger.begin_load(self.db, self.run):
            self.log("ended the sessions that a loader has left open", sessions=ended)

    def _transactions(self) -> Transactions:
        """In a session that the next run ends, should this one die with a transaction open."""
        transactions = Transactions(self.db)
        ledger.register_loader(self.db, self.run, transactions.session_id)
        return transactions

    def _beat(self) -> None:
        while not self._stop.wait(1.0):
            try:
                ledger.load_beats(self.db, self.run)
            except SyncError:
                continue  # the workers meet the same trouble, and tell

    def _take(self, groups: Sequence[tuple[str, ...]]) -> None:
        """Take the hold of all tables; whoever had it can write no more."""
        tables = [t for group in groups for t in self.plan.group_tables(group)]

        def work(tx: Transaction) -> None:
            ledger.take(tx, tables, self.run, _LOAD, self.plan.follows)
            tx.delete(ledger.CLAIMS, {"run": {"$ne": self.run}, "kind": _LOAD})
            for n in range(self.limits.load_workers):
                tx.update(
                    ledger.CLAIMS,
                    {"_id": f"{self.run}/{n}"},
                    {"$set": {"run": self.run, "kind": _LOAD, "n": Int64(0)}},
                    upsert=True,
                )

        self._transact(work)

    def _snapshot(self) -> ExportedSnapshot:
        """The slot's own while nothing was loaded under another; else a later one that shows all it won't send."""
        with mongo.translated():
            begun = self.db[ledger.CHUNKS].count_documents({}, limit=1) > 0
        if self._slot_snapshot is not None and not begun:
            self.report.exact = True
            return self._slot_snapshot
        barrier = (ledger.state(self.db, "pipeline") or {}).get("barrier")
        with connect(self.source) as session, translated(self.source):
            if barrier is not None:
                await_older_than(session, int(barrier), self.log)
            await_shown(session)
        return slots.export_snapshot(self.source)

    # -- chunks --------------------------------------------------------------------------------------------------
    def _work(self, groups: Sequence[tuple[str, ...]], snapshot: ExportedSnapshot) -> None:
        todo: list[Chunk] = []
        for name in (name for group in groups for name in group):
            chunks = self._chunks(name, snapshot)
            own = [c for c in chunks if not c.staged]
            self.report.collections[name] = Loaded(
                total=sum(c.rows for c in own),
                rows=sum(c.rows for c in own if c.done),
                chunks=len(chunks),
                chunks_done=sum(c.done for c in chunks),
            )
            todo += [chunk for chunk in chunks if not chunk.done]
        for group in groups:
            self._let_go_when_done(group)
        # documents are made from what is staged: all of that is there first
        for staged in (True, False):
            self._work_off([chunk for chunk in todo if chunk.staged is staged], groups, snapshot)

    def _work_off(
        self, chunks: Sequence[Chunk], groups: Sequence[tuple[str, ...]], snapshot: ExportedSnapshot
    ) -> None:
        """Load these chunks, several at once. Raises what a worker has raised."""
        if not chunks:
            return
        todo: queue.Queue[Chunk] = queue.Queue()
        for chunk in chunks:
            todo.put(chunk)
        threads = [
            threading.Thread(
                target=self._worker, args=(n, todo, snapshot, groups), name=f"loader {n}", daemon=True
            )
            for n in range(self.limits.load_workers)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as interrupt:  # Ctrl-C: each ends after the piece in hand, nothing is left open
            self._failed.append(interrupt)
            for thread in threads:
                thread.join()
        if self._failed:
            raise self._failed[0]

    def go_on(self) -> None:
        """Raise Stopped when the load is to end: it was interrupted, or another worker has failed."""
        if self._failed:
            raise Stopped(
                "the load was stopped", remedy="run `tandem snapshot` again: it goes on where it was"
            )

    def _chunks(self, name: str, snapshot: ExportedSnapshot) -> list[Chunk]:
        """The chunks of a collection: those of an earlier run, or new ones, recorded before any row is written."""
        with mongo.translated():
            known = [Chunk.of(d) for d in self.db[ledger.CHUNKS].find({"collection": name})]
            planned = ledger.state(self.db, f"load/{name}")
            if planned and planned.get("planned"):
                self.report.resumed = True
                self._resumed.add(name)
                return sorted(known, key=lambda c: (c.place, c.number))
            self._empty(name)
            reader = SnapshotReader(self.source, snapshot.name)
            try:
                every, chunks = self.limits.chunk_rows, []
                for use in (*self.plan.staged_apart(name), self.plan.documents[name]):
                    found = reader.boundaries(table_read(use.table), every)
                    chunks += cut(name, use.place, *found, every)
            finally:
                reader.close()

        def record(tx: Transaction) -> None:
            ledger.claim(tx, f"{self.run}/0")
            tx.delete(ledger.CHUNKS, {"collection": name})
            tx.insert(ledger.CHUNKS, [c.document() for c in chunks])
            plan = {"planned": True, "lsn": Int64(snapshot.lsn), "shape": self.plan.shape_of(name)}
            tx.update(ledger.STATE, {"_id": f"load/{name}"}, {"$set": plan}, upsert=True)

        self._transact(record)
        return chunks

    def _transact(self, work: Callable[[Transaction], object]) -> None:
        """In the loader's own session, which is used by one thread at a time."""
        with self._own_lock:
            self._own.repeat(work)

    def _empty(self, name: str) -> None:
        """Remove what an earlier pipeline has left in the collection, and its unique indexes, which are built again
        when it has caught up. Raises TargetNotReady for documents that tandem did not write."""
        foreign = self.db[name].count_documents({"_sync": {"$exists": False}}, limit=1)
        if foreign and not self._replace_existing:
            raise TargetNotReady(
                f"the collection {self.target.database}.{name} has documents that tandem did not write",
                remedy="empty it, map to another name, or give --replace-existing to have them removed",
            )
        targets = [name, *(use.place for use in self.plan.staged(name))]
        left = [t for t in targets if self.db[t].find_one({}, {"_id": 1})]
        if left:
            self.log(f"removing what an earlier pipeline left in {', '.join(left)}")
            unique = [i.wire_name for i in self.plan.declared.collections[name].indexes if i.unique]
            schema.drop_indexes(self.db, name, unique)
        for target in left:
            while ids := [d["_id"] for d in self.db[target].find({}, {"_id": 1}).limit(1_000)]:
                self._transact(partial(self._remove, target, ids))

    def _remove(self, target: str, ids: Sequence[object], tx: Transaction) -> None:
        ledger.claim(tx, f"{self.run}/0")
        tx.delete(target, {"_id": {"$in": list(ids)}})

    def _worker(
        self,
        number: int,
        todo: queue.Queue[Chunk],
        snapshot: ExportedSnapshot,
        groups: Sequence[tuple[str, ...]],
    ) -> None:
        try:
            reader = SnapshotReader(self.source, snapshot.name)
            transactions = self._transactions()
            try:
                while not self._failed:
                    try:
                        chunk = todo.get_nowait()
                    except queue.Empty:
                        return
                    _ChunkLoad(self, reader, transactions, f"{self.run}/{number}", chunk).load()
                    with self._lock:
                        self.report.collections[chunk.collection].chunks_done += 1
                    for group in groups:
                        if chunk.collection in group:
                            self._let_go_when_done(group)
            finally:
                reader.close()
                transactions.close()
        except BaseException as error:
            self._failed.append(error)

    # -- letting go ----------------------------------------------------------------------------------------------
    def _let_go_when_done(self, group: tuple[str, ...]) -> None:
        """When all chunks of a group are done, its tables stream."""
        with self._lock:
            mine = [self.report.collections[name] for name in group]
            if any(of.released or of.chunks_done < of.chunks for of in mine):
                return
            for of in mine:
                of.released = True
        self._transact(partial(self._let_go, group=group))
        self.log(f"loaded {', '.join(group)}: streaming from here")

    def _let_go(self, tx: Transaction, group: tuple[str, ...]) -> None:
        ledger.release(tx, self.plan.group_tables(group), self.run)
        for name in group:
            known = {"planned": True, "shape": self.plan.shape_of(name)}
            tx.update(ledger.STATE, {"_id": f"load/{name}"}, {"$set": known}, upsert=True)


class _ChunkLoad:
    """One chunk: its children staged and kept by parent, then its own rows with their arrays; or rows that are only
    staged."""

    def __init__(
        self, loader: Loader, reader: SnapshotReader, transactions: Transactions, claim: str, chunk: Chunk
    ) -> None:
        self.loader, self.reader, self.transactions, self.claim, self.chunk = (
            loader,
            reader,
            transactions,
            claim,
            chunk,
        )
        self.plan, self.limits = loader.plan, loader.limits
        self.use = self.plan.at(chunk.place) or self.plan.documents[chunk.collection]
        #: nothing of it can be there
        self.fresh = chunk.tries == 0
        #: rows of the embedded tables may be: another run may have staged them below another parent
        self.resumed = chunk.collection in loader._resumed
        self.loaded = loader.report.collections[chunk.collection]
        self.now = time.time_ns() // 1_000

    def load(self) -> None:
        """Write the chunk, and that it is done in the transaction with its last rows."""
        with mongo.translated():
            self.loader.db[ledger.CHUNKS].update_one({"_id": self.chunk.id}, {"$inc": {"tries": 1}})
        if self.chunk.staged:
            rows = self.reader.copy(table_read(self.use.table), self.chunk.keys, self.use.where_sql)
            self._write_all(self.use, ((key, row) for key, row, _ in self._staged(self.use, rows)), last=True)
            return
        arrays = {
            array: self._stage(use) for array, use in self.plan.arrays.get(self.chunk.collection, {}).items()
        }
        self._write_all(self.use, self._documents(arrays), last=True)

    def _documents(
        self, arrays: Mapping[str, Mapping[ObjectId, Sequence[tuple[list[object], Document]]]]
    ) -> Iterator[tuple[Key, Document]]:
        rows = self.reader.copy(table_read(self.use.table), self.chunk.keys, self.use.where_sql)
        for row in rows:
            natives = self.use.table.from_row(row)
            key = self.use.table.key_of(natives)
            try:
                document = self.use.document(natives, self.now)
            except Unappliable as trouble:
                self._park(self.use, key, trouble)
                continue
            _id = self.use.id_of(key)
            for array, of in arrays.items():
                document[array] = [e for _, e in sorted(of.get(_id, ()), key=lambda pair: sort_key(pair[0]))]
            document["_sync"] = sync_of(self.use, key, natives, None, self.loader._lsn)
            yield key, document

    def _stage(self, use: RowPlan) -> dict[ObjectId, list[tuple[list[object], Document]]]:
        """Stage the rows of an embedded table whose parents lie in this chunk. Returns them by parent."""
        by_parent: dict[ObjectId, list[tuple[list[object], Document]]] = {}
        elements: dict[ObjectId, Document] = {}
        parent_read = (table_read(self.use.table), use.parent_columns)
        rows = self.reader.copy(table_read(use.table), self.chunk.keys, use.where_sql, parent_read)

        def kept() -> Iterator[tuple[Key, Document]]:
            for key, staged, parent in self._staged(use, rows):
                element = dict(staged["d"])
                elements[use.id_of(key)] = element
                by_parent.setdefault(parent, []).append((staged["o"], element))
                yield key, staged

        self._write_all(use, kept())
        if use.place in self.plan.arrays:  # what is inside of them is staged already
            self.transactions.repeat(lambda tx: inner_arrays(tx, self.plan, use, elements))
        return by_parent

    def _staged(
        self, use: RowPlan, rows: Iterable[Sequence[Any]]
    ) -> Iterator[tuple[Key, Document, ObjectId]]:
        """Staged rows, each with its parent; of a row that is copied that is its own `_id`."""
        for row in rows:
            natives = use.table.from_row(row)
            key = use.table.key_of(natives)
            parent = use.id_of(key) if use.copied else use.parent_of(natives)
            if parent is None:
                continue
            put = Put(key, natives, True, True, None, self.loader._lsn)
            try:
                if use.copied:
                    staged = RowWriter.copied_document(put, use.document(natives, self.now))
                else:
                    staged = RowWriter.staged_document(use, put, parent, self.now)
            except Unappliable as trouble:
                self._park(use, key, trouble)
                continue
            yield key, staged, parent

    def _write_all(self, use: RowPlan, rows: Iterable[tuple[Key, Document]], *, last: bool = False) -> None:
        """Rows in pieces. last: the chunk is done with them."""
        piece: list[tuple[Key, Document]] = []
        size = 0
        for key, document in rows:
            piece.append((key, document))
            size += weight(document)
            if len(piece) >= self.loader.pace.most(self.limits.load_rows) or size >= self.limits.batch_bytes:
                self._write(use, piece)
                piece, size = [], 0
        self._write(use, piece, last=last)

    # -- writing -------------------------------------------------------------------------------------------------
    def _write(self, use: RowPlan, piece: Sequence[tuple[Key, Document]], *, last: bool = False) -> None:
        """One transaction with a piece; what is refused is found by halving and parked."""
        if not piece and not last:
            return
        self.loader.go_on()
        self.loader.pace.wait(len(piece), lambda: bool(self.loader._failed))
        self.loader.go_on()

        def work(tx: Transaction) -> None:
            ledger.claim(tx, self.claim)
            self._put(tx, use, piece)
            if last:
                tx.update(ledger.CHUNKS, {"_id": self.chunk.id}, {"$set": {"done": True}})

        try:
            self.transactions.repeat(work)
        except (Unappliable, TooMuchAtOnce) as trouble:
            if len(piece) == 1 and isinstance(trouble, Unappliable):
                self._park(use, piece[0][0], trouble)
            elif len(piece) > 1:
                half = len(piece) // 2
                self._write(use, piece[:half])
                self._write(use, piece[half:])
            else:
                raise
            if last:
                self._write(use, [], last=True)
            return
        with self.loader._lock:
            if use.staged:
                self.loaded.staged += len(piece)
            else:
                self.loaded.rows += len(piece)

    def _put(self, tx: Transaction, use: RowPlan, piece: Sequence[tuple[Key, Document]]) -> None:
        if not piece:
            return
        fill_held(tx, self.plan, use, [document for _, document in piece])
        if self.fresh and not (use.staged and self.resumed):
            tx.insert(use.place, ({"_id": use.id_of(key), **document} for key, document in piece))
            return
        anchors = Anchors(tx)
        arrays = Arrays(tx, self.plan, anchors)
        if use.array:  # a row that another run staged below another parent leaves that one's array
            now = {use.id_of(key): document["p"] for key, document in piece}
            for known in by_ids(tx, use.place, list(now), {"p": 1}):
                if known["p"] != now[known["_id"]]:
                    arrays.changed(use, known["p"])
            arrays.go_up()
            anchors.write()
        writes: list[Write] = [write("replace", use.id_of(key), document) for key, document in piece]
        tx.bulk(use.place, writes)
        arrays.remake()
        settled = [parked_id(use.table.name, key) for key, _ in piece]
        tx.delete(ledger.PARKED, {"_id": {"$in": settled}})

    def _park(self, use: RowPlan, key: Key, trouble: Unappliable) -> None:
        """A row that cannot be written: its key is parked, under the hold."""

        def work(tx: Transaction) -> None:
            ledger.claim(tx, self.claim)
            park_row(tx, use.table.name, key, trouble, time.time_ns() // 1_000_000, self.loader._lsn)

        self.transactions.repeat(work)
        with self.loader._lock:
            self.loaded.parked += 1
        self.loader.log(
            f"parked: {trouble.what}", table=use.table.name, key=row_key(key), remedy=trouble.remedy
        )


def weight(document: Document) -> int:
    """About how many bytes a document has in BSON; exact enough to bound a transaction."""
    size = 16
    for value in document.values():
        if isinstance(value, str | bytes):
            size += len(value) * (3 if isinstance(value, str) and not value.isascii() else 1) + 24
        elif isinstance(value, list):
            size += len(value) * (12 if value and isinstance(value[0], float) else 96) + 24
        elif isinstance(value, dict):
            size += weight(value) + 24
        else:
            size += 32
    return size


def await_shown(session: Session, within_s: float = 10.0) -> None:
    """Return when PostgreSQL shows whatever was committed before now, also to a reader that begins now.

    A commit is in the WAL, and may be what a slot's point lies behind, a moment before others see it (for
    long, where it waits for a synchronous standby). Transactions that simply go on are not waited for longer
    than within_s: what they commit, the slot sends.
    """
    first = slots.visible_now(session)
    until = time.monotonic() + within_s
    while True:
        now = slots.visible_now(session)
        pending = {xid for xid in first.in_progress if not now.shows(xid & 0xFFFFFFFF)}
        if not pending:
            return
        if (
            time.monotonic() > until
            and not session.execute(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' LIMIT 1"
            ).fetchone()
        ):
            return
        time.sleep(0.05)


def await_older_than(session: Session, barrier: int, log: Callable[..., None]) -> None:
    """Return when every transaction that began before the barrier has ended.

    A table was added to the publication while they ran: what they wrote to it before is in no event, so the
    load has to see it.
    """
    told = 0.0
    while slots.visible_now(session).xmin <= barrier:
        if time.monotonic() - told > 10:
            told = time.monotonic()
            log("waiting for transactions that began before the publication was changed", barrier=barrier)
        time.sleep(0.1)


__all__ = ["LoadReport", "Loaded", "Loader", "Moved", "await_shown"]
