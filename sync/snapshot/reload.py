"""Rows read again beside a running stream (docs/write-rule.md, clause 6): the tables are held, each row is read as
PostgreSQL has it now and written over what is there, what has no row goes, and the tables are let go where they were
taken. Kill it anywhere: the next run takes the hold over and does the parts again that were not done."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson
from bson import Int64

from connectors.errors import MappingChanged, Moved, Unappliable, UniqueTaken
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo.client import Database, Document
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn, Partition
from connectors.postgres import slots
from connectors.postgres.client import connect, translated
from connectors.postgres.rows import CurrentRows, SnapshotReader, TableRead, rows_of
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.apply.decide import Read
from consumers.apply.untangle import key_of_document, parked_id
from consumers.apply.write import RowWriter, table_read
from consumers.mapping.ids import row_key
from consumers.mapping.plan import Key, Plan, RowPlan, TablePlan
from sync.settings import Limits
from sync.snapshot.chunks import Part, levels, parts_of
from sync.snapshot.lease import lease
from sync.snapshot.load import Loaded, await_older_than, await_shown

#: newer than every row
_ANY_LSN = Lsn((1 << 63) - 1)
#: documents of one look for those whose row is not there
_LOOK = 1_000
#: a walk of so many rows says how fast the next one will be; before that it is supposed
_MEASURED_ROWS = 5_000
_SUPPOSED_RATE = 1_500.0


@dataclass(slots=True)
class ReloadReport:
    """A walk. collections: what was read, by table. held_s: for how long the tables stood still.

    removed: documents and staged rows whose row was not there. foreign: documents that tandem did not write; they
    stay.
    """

    collections: dict[str, Loaded] = field(default_factory=dict)
    removed: int = 0
    foreign: int = 0
    seconds: float = 0.0
    held_s: float = 0.0
    resumed: bool = False

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        names = ("total", "rows", "parked", "released")
        return {
            "tables": {t: {n: getattr(of, n) for n in names} for t, of in self.collections.items()},
            "removed": self.removed,
            "foreign": self.foreign,
            "seconds": round(self.seconds, 2),
            "held_s": round(self.held_s, 2),
            "resumed": self.resumed,
        }


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a reload would do. rows: by table, as PostgreSQL's statistics have them. measured: on an earlier one."""

    rows: Mapping[str, int]
    rate: float
    measured: bool

    @property
    def seconds(self) -> float:
        """For about how long the tables would stand still."""
        return sum(self.rows.values()) / self.rate

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "dry_run": True,
            "tables": dict(self.rows),
            "rows_per_second": round(self.rate),
            "measured": self.measured,
            "held_s": round(self.seconds, 1),
        }


def outlook(db: Database, source: SourceEndpoint, tables: Iterable[str]) -> Outlook:
    """Look, and change nothing."""
    with connect(source, name="tandem reload") as session, translated(source):
        rows = {table: rows_of(session, table) for table in tables}
    known = (ledger.state(db, ledger.WALK) or {}).get("rate")
    return Outlook(rows, float(known or _SUPPOSED_RATE), known is not None)


def due(db: Database, plan: Plan) -> tuple[str, ...]:
    """Tables that have to be read again: those with a job, those that an earlier run has left held, and those that
    were never loaded but cannot be loaded by themselves, as a table that streams feeds the same collection."""
    positions = list(ledger.positions(db).values())
    loading = {p.table for p in positions if (p.holder or "").startswith(ledger.LOAD)}
    left = {p.table for p in positions if (p.holder or "").startswith(ledger.WALK)}
    mixed = {
        table
        for group in plan.groups
        if not set(plan.group_tables(group)) <= loading
        for table in plan.group_tables(group)
        if table in loading
    }
    wanted = {job.table for job in ledger.rereads(db)} | left | mixed
    return tuple(table for table in plan.tables if table in wanted)


class Reload:
    """One run. Its hold outlives it when it dies: nobody else writes these tables until another run has ended it."""

    def __init__(
        self,
        source: SourceEndpoint,
        target: TargetEndpoint,
        plan: Plan,
        limits: Limits,
        *,
        log: Callable[..., None],
    ) -> None:
        self.source, self.plan, self.limits, self.log = source, plan, limits, log
        self.db: Database = mongo.connect(target, name="tandem reload")
        self.run = f"{ledger.WALK}:{uuid.uuid4().hex[:12]}"
        self.report = ReloadReport()
        self._lock, self._failed = threading.Lock(), list[BaseException]()
        self._tables: tuple[str, ...] = ()
        self._jobs: dict[str, ledger.Reread] = {}
        self._left: dict[str, int] = {}
        self._sessions: list[Transactions] = []
        #: by table, the collections whose documents are made anew after it
        self.later: dict[str, frozenset[str]] = {}
        self._began = 0.0

    # -- the whole -----------------------------------------------------------------------------------------------
    def reload(self, tables: Iterable[str]) -> ReloadReport:
        """Read these tables again, and those that an earlier run has left held. Raises Refused while another lives."""
        with self.leased():
            self.take(tables)
            return self.walk()

    @contextmanager
    def leased(self) -> Iterator[None]:
        """Nobody else walks meanwhile."""
        with lease(self.db, ledger.WALK, self.run, "tandem reload") as died:
            self.report.resumed = died
            yield

    def take(self, tables: Iterable[str], ends: Mapping[Partition, int] | None = None) -> None:
        """Hold these tables, and those that an earlier run has left held; whoever had one can write no more.

        ends: what lies before them in the topics is not to be applied.
        """
        positions = ledger.positions(self.db).values()
        left = {p.table for p in positions if (p.holder or "").startswith(ledger.WALK)}
        wanted = {*tables, *left}
        self._tables = tuple(table for table in self.plan.tables if table in wanted)
        if any(p.plan not in ("", self.plan.digest) for p in positions):
            raise MappingChanged(
                "the mapping is not the one that the pipeline was set up with",
                remedy="run `tandem setup` first",
            )
        self._sessions = [Transactions(self.db) for _ in range(self.limits.load_workers)]
        for session in self._sessions:
            ledger.register_loader(self.db, self.run, session.session_id, ledger.WALK)
        if any((p.holder or "").startswith(ledger.LOAD) for p in positions if p.table in wanted):
            ledger.end_sessions_of(self.db, ledger.LOAD)
        self._began = time.monotonic()
        ledger.ask_for(self.db, self._tables, self.run)
        was_held = self._transact(partial(self._take, ends=ends or {}))
        self.log(f"holding {', '.join(self._tables)}: the stream waits for them")
        self.report.resumed = self.report.resumed or bool(was_held)

    def _take(self, tx: Transaction, ends: Mapping[Partition, int]) -> set[str]:
        was_held = ledger.take_from_anyone(tx, self._tables, self.run, self.plan.digest, ends)
        going_on = set() if ends else was_held
        anew = [table for table in self._tables if table not in going_on]
        tx.delete(ledger.WALKS, {"table": {"$in": anew}})
        for n in range(len(self._sessions)):
            claim = {"run": self.run, "kind": ledger.WALK, "n": Int64(0)}
            tx.update(ledger.CLAIMS, {"_id": f"{self.run}/{n}"}, {"$set": claim}, upsert=True)
        return was_held

    def walk(self) -> ReloadReport:
        """Read what is held again, and let go."""
        started = time.monotonic()
        self._jobs = {job.table: job for job in ledger.rereads(self.db) if job.table in self._tables}
        barrier = (ledger.state(self.db, "pipeline") or {}).get("barrier")
        with connect(self.source) as session, translated(self.source):
            if barrier is not None:
                await_older_than(session, int(barrier), self.log)
            await_shown(session)
        try:
            with slots.export_snapshot(self.source) as snapshot:
                self._work(snapshot.name)
        finally:
            for transactions in self._sessions:
                transactions.close()
        self.report.seconds = time.monotonic() - started
        rows = sum(of.rows for of in self.report.collections.values())
        if rows >= _MEASURED_ROWS:
            ledger.set_state(self.db, ledger.WALK, rate=rows / self.report.seconds)
        self.report.held_s = time.monotonic() - self._began
        return self.report

    def _transact(self, work: Callable[[Transaction], Any]) -> Any:
        transactions = Transactions(self.db)
        try:
            return transactions.repeat(work)
        finally:
            transactions.close()

    # -- parts ---------------------------------------------------------------------------------------------------
    def _work(self, snapshot: str) -> None:
        """Tables that are embedded come first: a document is made with what is staged by then."""
        feeds: dict[str, list[str]] = {}
        for name, use in self.plan.documents.items():
            inside = [embedded.table.name for embedded in self.plan.arrays.get(name, {}).values()]
            feeds.setdefault(use.table.name, []).extend(inside)
        ordered = levels(self._tables, feeds)
        seen: set[str] = set()
        for level in ordered:
            circle = {t for t in level if set(feeds.get(t, ())) & set(level)}
            anew = {n for n, use in self.plan.documents.items() if use.table.name in self._tables}
            self.later[level[0]] = frozenset(
                n for n in anew if self.plan.documents[n].table.name not in seen | circle
            )
            for table in level:
                self.later[table] = self.later[level[0]]
            seen |= set(level)
        todo = {table: self._todo(table, snapshot) for table in self._tables}
        for group in self.plan.groups:
            self._let_go_when_done(group)
        for level in ordered:
            parts: queue.Queue[Part] = queue.Queue()
            for table in level:
                for part in todo[table]:
                    parts.put(part)
            self._run_workers(parts, snapshot, len(self._sessions) if self._apart(level) else 1)

    def _apart(self, level: Sequence[str]) -> bool:
        """Whether two parts of these tables never write the same document."""
        uses = [use for table in level for use in self.plan.uses(table) if use.array]
        return all(use.collection in self.later[use.table.name] for use in uses)

    def _run_workers(self, parts: queue.Queue[Part], snapshot: str, count: int) -> None:
        threads = [
            threading.Thread(target=self._worker, args=(n, parts, snapshot), name=f"walk {n}", daemon=True)
            for n in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failed:
            raise self._failed[0]

    def _todo(self, table: str, snapshot: str) -> list[Part]:
        parts = self._parts(table, snapshot)
        self._left[table] = sum(not part.done for part in parts)
        self.report.collections[table] = Loaded(
            total=sum(part.rows for part in parts),
            rows=sum(part.rows for part in parts if part.done),
            chunks=len(parts),
            chunks_done=sum(part.done for part in parts),
        )
        return [part for part in parts if not part.done]

    def _parts(self, table: str, snapshot: str) -> list[Part]:
        """The parts of a table's walk: those of the run before it, if it did the same, or new ones, recorded first."""
        job = self._jobs.get(table)
        stamp = f"{self.plan.digest}/{job.serial if job else 0}/{' '.join(sorted(self._tables))}"
        with mongo.translated():
            known = [Part.of(d) for d in self.db[ledger.WALKS].find({"table": table, "stamp": stamp})]
        if known:
            return sorted(known, key=lambda part: part.number)
        reader = SnapshotReader(self.source, snapshot)
        try:
            read = table_read(self.plan.tables[table])
            boundaries, rows = reader.boundaries(read, self.limits.chunk_rows)
        finally:
            reader.close()
        targets = [use.staging if use.array else use.collection for use in self.plan.uses(table)]
        parts = parts_of(table, boundaries, rows, self.limits.chunk_rows, targets, stamp)

        def record(tx: Transaction) -> None:
            ledger.claim(tx, f"{self.run}/0")
            tx.delete(ledger.WALKS, {"table": table})
            tx.insert(ledger.WALKS, [part.document() for part in parts])

        self._transact(record)
        return parts

    def _worker(self, number: int, todo: queue.Queue[Part], snapshot: str) -> None:
        try:
            reader = SnapshotReader(self.source, snapshot)
            rows = CurrentRows(self.source)
            transactions = self._sessions[number]
            try:
                while not self._failed:
                    try:
                        part = todo.get_nowait()
                    except queue.Empty:
                        return
                    _Walk(self, reader, rows, transactions, f"{self.run}/{number}", part).run()
                    with self._lock:
                        self._left[part.table] -= 1
                        self.report.collections[part.table].chunks_done += 1
                    for group in self.plan.groups:
                        self._let_go_when_done(group)
            finally:
                reader.close()
                rows.close()
        except BaseException as error:
            self._failed.append(error)

    # -- letting go ----------------------------------------------------------------------------------------------
    def _let_go_when_done(self, group: Sequence[str]) -> None:
        """When the tables of collections that share some are done, they stream again, at the same positions."""
        with self._lock:
            tables = [t for t in self.plan.group_tables(group) if t in self._tables]
            mine = [self.report.collections[t] for t in tables]
            if not tables or any(self._left[t] for t in tables) or any(of.released for of in mine):
                return
            for of in mine:
                of.released = True
        self._transact(partial(self._let_go, tables=tables, group=group))
        self.log(f"read again: {', '.join(tables)}: streaming from here")

    def _let_go(self, tx: Transaction, tables: Sequence[str], group: Sequence[str]) -> None:
        ledger.release(tx, tables, self.run)
        tx.delete(ledger.WALKS, {"table": {"$in": list(tables)}})
        for table in tables:
            if table in self._jobs:
                ledger.strike_reread(tx, self._jobs[table])
        for name in group:
            if set(self.plan.declared.collections[name].tables) <= set(tables):
                tx.delete(ledger.CHUNKS, {"collection": name})  # of a load that came to no end
                known = {"planned": True, "shape": self.plan.shape_of(name)}
                tx.update(ledger.STATE, {"_id": f"load/{name}"}, {"$set": known}, upsert=True)


class _Walk:
    """One part of a table's walk."""

    def __init__(
        self,
        of: Reload,
        reader: SnapshotReader,
        rows: CurrentRows,
        transactions: Transactions,
        claim: str,
        part: Part,
    ) -> None:
        self.of, self.reader, self.rows, self.transactions = of, reader, rows, transactions
        self.claim, self.part, self.db = claim, part, of.db
        self.table: TablePlan = of.plan.tables[part.table]
        self.writer = RowWriter(of.plan, rows, lambda: time.time_ns() // 1_000)
        self.told = of.report.collections[part.table]

    def run(self) -> None:
        """Do it, and say that it is done in the transaction with its last rows."""
        if self.part.what == "rows":
            self._rows()
        elif self.part.what == "parked":
            self._parked()
        else:
            self._left_over(self.part.target)
        self._write([], last=True)

    def _rows(self) -> None:
        """Every key that PostgreSQL has in this range; what is inserted meanwhile is in the stream."""
        keys: list[Key] = []
        for row in self.reader.copy(self._keys_only(), self.part.keys, None):
            keys.append(self._key(row))
            if len(keys) >= self.of.limits.load_rows:
                self._write(keys)
                keys = []
        self._write(keys)

    def _parked(self) -> None:
        """Keys with something parked, whose row and document may both be gone. What lies there without a key is of
        some row of the table: all are read again."""
        topics = {p.topic for p, at in ledger.positions(self.db).items() if at.table == self.table.name}
        with mongo.translated():
            found = list(self.db[ledger.PARKED].find({"table": {"$in": [self.table.name, *sorted(topics)]}}))
        keyless = [d["_id"] for d in found if not d["key"]]
        keys = {self.table.key_from_texts(_texts_of(d["key"])) for d in found if d["key"]}
        for some in _slices(sorted(keys, key=row_key), self.of.limits.load_rows):
            self._write(some)
        if keyless:
            self._transact(lambda tx: tx.delete(ledger.PARKED, {"_id": {"$in": keyless}}))

    def _left_over(self, target: str) -> None:
        """Documents, or staged rows, that no row of PostgreSQL stands for now."""
        use = next(u for u in self.of.plan.uses(self.table.name) if _target(u) == target)
        last: object = None
        while found := ledger.after(self.db, target, last, _LOOK):
            last = found[-1]["_id"]
            keys, strange = self._keys_of(use, found)
            there = self._there(keys)
            gone = [key for key in keys if key not in there]
            for some in _slices(gone, self.of.limits.load_rows):
                self._write(some)
            if strange:
                self._transact(partial(self.writer.remove_below, use=use, ids=strange, lsn=_ANY_LSN))
            with self.of._lock:
                self.of.report.removed += len(gone) + len(strange)

    def _keys_of(self, use: RowPlan, found: Sequence[Document]) -> tuple[list[Key], list[object]]:
        """Keys of these documents; and those that tandem wrote, but of no row that this table could have."""
        keys: list[Key] = []
        strange: list[object] = []
        for document in found:
            try:
                if use.array:
                    key = self.table.key_from_texts(_texts_of(document["_id"]))
                    mine = row_key(key) == document["_id"]
                else:
                    key = key_of_document(use, document)
                    mine = use.id_of(key) == document["_id"]
            except (UniqueTaken, ValueError, KeyError, TypeError):
                key, mine = (), False
            if mine:
                keys.append(key)
            elif use.array or "_sync" in document:
                strange.append(document["_id"])
            else:
                with self.of._lock:
                    self.of.report.foreign += 1
        return keys, strange

    def _there(self, keys: Sequence[Key]) -> set[Key]:
        """Those of these keys that PostgreSQL has a row of now."""
        if not keys:
            return set()
        read = self._keys_only()
        found, _ = self.rows.read({read: [tuple(str(value) for value in key) for key in keys]})
        return {self._key(row) for row in found[read.table]}

    def _keys_only(self) -> TableRead:
        read = table_read(self.table)
        return replace(read, columns=tuple(c for c in read.columns if c.name in self.table.key))

    def _key(self, row: Sequence[Any]) -> Key:
        kinds = [(name, kind) for name, kind in self.table.columns if name in self.table.key]
        natives = {
            name: value if kind.from_row is None else kind.from_row(value)
            for (name, kind), value in zip(kinds, row, strict=True)
        }
        return self.table.key_of(natives)

    # -- writing -------------------------------------------------------------------------------------------------
    def _transact(self, work: Callable[[Transaction], object]) -> None:
        def claimed(tx: Transaction) -> None:
            ledger.claim(tx, self.claim)
            work(tx)

        self.transactions.repeat(claimed)

    def _write(self, keys: Sequence[Key], *, careful: bool = False, last: bool = False) -> None:
        """One transaction with rows as they are now. What cannot be written is found by halving and parked."""
        if not keys and not last:
            return
        try:
            self._transact(partial(self._put, keys=keys, careful=careful, last=last))
        except Unappliable as trouble:
            if isinstance(trouble, UniqueTaken) and not careful:
                self._write(keys, careful=True, last=last)
            elif len(keys) > 1:
                self._write(keys[: len(keys) // 2], careful=careful)
                self._write(keys[len(keys) // 2 :], careful=careful, last=last)
            else:
                self._park(keys[0], trouble)
                self._write([], last=last)
            return
        if self.part.what == "rows":
            with self.of._lock:
                self.told.rows += len(keys)

    def _put(self, tx: Transaction, keys: Sequence[Key], careful: bool, last: bool) -> None:
        if keys:
            reads = {key: Read(key, True, None, 0) for key in keys}
            later = self.of.later[self.table.name]
            self.writer.apply(tx, {self.table.name: reads}, careful=careful, later=later)
            settled = [parked_id(self.table.name, key) for key in keys]
            tx.delete(ledger.PARKED, {"_id": {"$in": settled}})
        if last:
            tx.update(ledger.WALKS, {"_id": self.part.id}, {"$set": {"done": True}})

    def _park(self, key: Key, trouble: Unappliable) -> None:
        """A row that cannot be written, under the hold."""
        self._transact(
            lambda tx: ledger.park(
                tx,
                parked_id(self.table.name, key),
                table=self.table.name,
                key=row_key(key),
                partition="",
                code=trouble.code,
                reason=trouble.what,
                event={"at": None, "code": trouble.code},
            )
        )
        with self.of._lock:
            self.told.parked += 1
        self.of.log(f"parked: {trouble.what}", table=self.table.name, key=row_key(key), remedy=trouble.remedy)


def _target(use: RowPlan) -> str:
    return use.staging if use.array else use.collection


def _slices(keys: Sequence[Key], size: int) -> Iterator[Sequence[Key]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _texts_of(text: str) -> list[str]:
    return [str(value) for value in orjson.loads(text)]


__all__ = ["Moved", "Reload", "ReloadReport"]
