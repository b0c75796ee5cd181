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
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bson import Int64

from connectors.errors import MappingChanged, Moved, Refused
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo.client import Database
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn, Partition
from connectors.postgres import slots
from connectors.postgres.client import connect, translated
from connectors.postgres.rows import CurrentRows, SnapshotReader, rows_of
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.apply.write import table_read
from consumers.mapping.plan import Plan
from sync.settings import Limits
from sync.snapshot.chunks import Part, levels, parts_of
from sync.snapshot.lease import lease
from sync.snapshot.load import Loaded, await_older_than, await_shown
from sync.snapshot.walk import Walk

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

        ends: of what a lost slot has sent: nothing before them is to be applied, and nothing that an earlier run has
        done counts. Without them Refused is raised where a slot is being replaced: what an earlier run of that has left
        held is not to be let go before its positions are moved.
        """
        positions = ledger.positions(self.db).values()
        left = {p.table for p in positions if (p.holder or "").startswith(ledger.WALK)}
        wanted = {*tables, *left}
        self._tables = tuple(table for table in self.plan.tables if table in wanted)
        mine = [p for p in positions if p.table in self.plan.tables]
        if any(p.plan not in ("", self.plan.follows(p.table)) for p in mine):
            raise MappingChanged(
                "the mapping, or a table, is not the one that the pipeline was set up with",
                remedy="run `tandem setup` first",
            )
        self._sessions = [Transactions(self.db) for _ in range(self.limits.load_workers)]
        for session in self._sessions:
            ledger.register_loader(self.db, self.run, session.session_id, ledger.WALK)
        if any((p.holder or "").startswith(ledger.LOAD) for p in positions if p.table in wanted):
            ledger.end_sessions_of(self.db, ledger.LOAD)
        self._began = time.monotonic()
        ledger.ask_for(self.db, self._tables, self.run)
        was_held = self._transact(partial(self._take, ends=ends))
        self.log(f"holding {', '.join(self._tables)}: the stream waits for them")
        self.report.resumed = self.report.resumed or bool(was_held)

    def _take(self, tx: Transaction, ends: Mapping[Partition, int] | None) -> set[str]:
        if ends is None and ledger.healed_to(tx) not in (None, False, ledger.NEW_SLOT):
            # events from before the lost slot are still ahead of the positions, and what undid them is not
            raise Refused(
                "a lost slot is being replaced, and that has not come to its end",
                remedy="run `tandem heal` again: it goes on, and reads every row",
            )
        was_held = ledger.take_from_anyone(tx, self._tables, self.run, self.plan.follows, ends or {})
        going_on = was_held if ends is None else set()
        if ends is not None:
            ledger.healing(tx, ledger.NO_SLOT, slotMade=False)
        anew = [table for table in self._tables if table not in going_on]
        tx.delete(ledger.WALKS, {"table": {"$in": anew}})
        for n in range(len(self._sessions)):
            claim = {"run": self.run, "kind": ledger.WALK, "n": Int64(0)}
            tx.update(ledger.CLAIMS, {"_id": f"{self.run}/{n}"}, {"$set": claim}, upsert=True)
        return was_held

    def move(self, ends: Mapping[Partition, int], begins: Lsn) -> None:
        """Debezium streams from a new slot, which begins there: what was sent before these ends is not to be applied.
        Raises Moved where another run has the hold."""

        def work(tx: Transaction) -> None:
            ledger.move_to(tx, self._tables, self.run, ends)
            ledger.healing(tx, ledger.NEW_SLOT, slotMade=True, slotLsn=str(begins))

        self._transact(work)

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
            inside = [staged.table.name for staged in self.plan.staged(name)]
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
        uses = [use for table in level for use in self.plan.uses(table) if use.staged]
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
        stamp = f"{self.plan.follows(table)}/{job.serial if job else 0}/{' '.join(sorted(self._tables))}"
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
        targets = [use.place for use in self.plan.uses(table)]
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
                    Walk(self, reader, rows, transactions, f"{self.run}/{number}", part).run()
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


__all__ = ["Moved", "Outlook", "Reload", "ReloadReport", "due", "outlook"]
