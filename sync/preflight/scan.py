"""The scan of the source: several sessions under one exported snapshot, portion by portion, each row made into its
document."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from connectors.errors import SyncError
from connectors.postgres import slots, sql
from connectors.postgres.facts import TableFacts
from connectors.postgres.rows import KeyRange, Row, SnapshotReader, TableRead, identifier
from connectors.settings import SourceEndpoint
from consumers.apply.write import table_read
from consumers.mapping.plan import Plan, RowPlan
from sync.preflight import inspect, links
from sync.preflight.beside import Beside, one_of, where
from sync.preflight.spill import Spill
from sync.preflight.tally import Tally
from sync.preflight.uniqueness import to_be_checked

#: a collection whose tables have fewer blocks is read whole, also when a sample is asked for
SMALL_BLOCKS = 2_000
#: of each collection that is read by sample, so many of the largest rows, and of the parents with most children
_LARGEST = 20
_SAY_EVERY = 500
_VARIABLE = ("text", "character varying", "json", "jsonb", "bytea", "citext", "xml", "numeric")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is read. percent: None for all. seed: of the sample."""

    percent: float | None
    seed: int = 0
    examples: int = 5
    show_values: bool = False
    collections: tuple[str, ...] = ()


@dataclass(slots=True)
class Reading:
    """How far the scan of one collection is. total: rows that are to be read, about. whole: none was left out."""

    total: int = 0
    rows: int = 0
    whole: bool = True
    done: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are one for an index, or have one `_id`. rows: how many; keys: of a few groups."""

    collection: str
    index: str
    groups: int
    rows: int
    keys: tuple[tuple[str, ...], ...]


@dataclass
class ScanReport:
    """What was read and what was found. failed: collections that could not be read, with the reason."""

    lsn: str = ""
    seconds: float = 0.0
    extent: Extent = field(default_factory=lambda: Extent(None))
    reading: dict[str, Reading] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    broken: list[links.Broken] = field(default_factory=list)
    never: dict[str, str] = field(default_factory=dict)
    failed: dict[str, SyncError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Portion:
    """Rows of one collection that are read at once. keys: a range; else a condition, of a sample or not."""

    collection: str
    keys: KeyRange | None = None
    condition: sql.Composable | None = None
    sample: sql.Composable | None = None


class Scan:
    """One scan. Memory: a portion's arrays for each worker, and counts."""

    def __init__(
        self,
        source: SourceEndpoint,
        plan: Plan,
        facts: Mapping[str, TableFacts],
        extent: Extent,
        *,
        workers: int,
        chunk_rows: int,
    ) -> None:
        self.source, self.plan, self.facts, self.extent = source, plan, facts, extent
        self.workers, self.chunk_rows = workers, chunk_rows
        self.report = ScanReport(extent=extent)
        self._now = time.time_ns() // 1_000
        self._lock = threading.Lock()
        self._failed: list[BaseException] = []
        self._snapshot = ""
        self._wanted: dict[str, inspect.Wanted] = {}
        self._spills: dict[tuple[str, str], Spill] = {}

    # -- the whole -----------------------------------------------------------------------------------------------
    def run(self) -> ScanReport:
        """Read, and count. Raises Unavailable when PostgreSQL goes away."""
        began = time.monotonic()
        with ExitStack() as stack, slots.export_snapshot(self.source) as snapshot:
            self.report.lsn = str(snapshot.lsn)
            self._snapshot = snapshot.name
            names = [
                n for n in self.plan.documents if n in self.extent.collections or not self.extent.collections
            ]
            self._prepare(names, stack)
            todo: queue.Queue[Portion] = queue.Queue()
            self._in_parallel(snapshot.name, [partial(self._cut, name=n, todo=todo) for n in names])
            portions = list(todo.queue)
            self._in_parallel(snapshot.name, [partial(self._read, portion=p) for p in portions])
            wanted = [link for link in links.links(self.plan) if link.use.collection in names]
            self._in_parallel(snapshot.name, [partial(self._link, link=k) for k in wanted])
            self._repeated()
        self.report.seconds = time.monotonic() - began
        return self.report

    def _prepare(self, names: Sequence[str], stack: ExitStack) -> None:
        for name in names:
            unique = to_be_checked(self.plan, name, self.facts)
            self._wanted[name] = want = inspect.wanted(
                self.plan,
                name,
                unique,
                show_values=self.extent.show_values,
                examples=self.extent.examples,
            )
            self.report.reading[name] = Reading(total=self._rows(name))
            self.report.tallies[name] = Tally(self.extent.examples)
            for index in (*unique, *(["_id"] if want.ids else [])):
                self._spills[name, index] = stack.enter_context(Spill())

    def _rows(self, name: str) -> int:
        of = self.facts.get(self.plan.documents[name].table.name)
        return of.rows if of else 0

    def _in_parallel(self, snapshot: str, work: Sequence[Callable[[SnapshotReader], None]]) -> None:
        """Do all of it, each worker under the snapshot in a session of its own."""
        todo: queue.Queue[Callable[[SnapshotReader], None]] = queue.Queue()
        for one in work:
            todo.put(one)
        threads = [
            threading.Thread(target=self._worker, args=(snapshot, todo), name=f"preflight {n}", daemon=True)
            for n in range(min(self.workers, len(work)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failed:
            raise self._failed[0]

    def _worker(self, snapshot: str, todo: queue.Queue[Callable[[SnapshotReader], None]]) -> None:
        reader: SnapshotReader | None = None
        try:
            while not self._failed:
                try:
                    one = todo.get_nowait()
                except queue.Empty:
                    return
                reader = reader or SnapshotReader(self.source, snapshot)
                try:
                    one(reader)
                except _Unreadable:  # its transaction is gone with the statement
                    reader.close()
                    reader = None
        except BaseException as error:
            self._failed.append(error)
        finally:
            if reader is not None:
                reader.close()

    # -- portions ------------------------------------------------------------------------------------------------
    def _cut(self, reader: SnapshotReader, name: str, todo: queue.Queue[Portion]) -> None:
        """The portions of a collection: all of it by ranges of keys, or its largest rows and a sample."""
        use, reading = self.plan.documents[name], self.report.reading[name]
        read = table_read(use.table)
        with self._telling(name):
            blocks = sum(self.facts[t].blocks for t in self._tables(name) if t in self.facts)
            if self.extent.percent is None or blocks < SMALL_BLOCKS:
                boundaries, reading.total = reader.boundaries(read, self.chunk_rows)
                for low, high in pairwise([None, *boundaries, None]):
                    todo.put(Portion(name, KeyRange(low, high)))
                return
            reading.whole = False
            reading.total = int(reading.total * self.extent.percent / 100)
            keys = self._largest(reader, use, read)
            if keys:
                skip = frozenset(keys)
                self._wanted[name] = replace(self._wanted[name], skip=skip)
                todo.put(Portion(name, condition=one_of(read, read.key, keys)))
            todo.put(Portion(name, sample=self._sample(use.table.name)))

    def _tables(self, name: str) -> list[str]:
        return [use.table.name for use in (self.plan.documents[name], *self.plan.staged(name))]

    def _sample(self, table: str) -> sql.Composable:
        """Blocks at random; rows at random where there are few blocks."""
        of = self.facts.get(table)
        method = "SYSTEM" if of and of.blocks >= SMALL_BLOCKS else "BERNOULLI"
        return sql.SQL("TABLESAMPLE " + method + " ({}) REPEATABLE ({})").format(
            sql.Literal(float(self.extent.percent or 100)), sql.Literal(self.extent.seed)
        )

    def _largest(self, reader: SnapshotReader, use: RowPlan, read: TableRead) -> list[tuple[str, ...]]:
        """Keys of the rows that take most space, and of the parents with most children."""
        found: dict[tuple[str, ...], None] = {}
        kinds = {c.name: c.type for c in use.table.table.columns}
        wide = [c for c in use.table.names if kinds[c] in _VARIABLE or kinds[c].endswith("[]")]
        if wide:
            size = sql.SQL(" + ").join(
                sql.SQL("coalesce(pg_column_size({}), 0)").format(sql.Identifier(c)) for c in sorted(wide)
            )
            query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {} DESC LIMIT {}").format(
                _key_texts(use.table.key), identifier(read.table), where(use), size, sql.Literal(_LARGEST)
            )
            found.update(dict.fromkeys(tuple(row) for row in reader.ask(query)))
        for child in inspect.child_uses(self.plan, use.collection):
            columns = sql.SQL(", ").join(sql.Identifier(c) for c in child.parent_columns)
            query = sql.SQL("SELECT {} FROM {} WHERE {} GROUP BY {} ORDER BY count(*) DESC LIMIT {}").format(
                _key_texts(child.parent_columns),
                identifier(child.table.name),
                where(child),
                columns,
                sql.Literal(_LARGEST),
            )
            found.update(dict.fromkeys(tuple(r) for r in reader.ask(query) if None not in r))
        return list(found)

    # -- reading -------------------------------------------------------------------------------------------------
    def _read(self, reader: SnapshotReader, portion: Portion) -> None:
        name = portion.collection
        if name in self.report.failed:
            return
        want = (
            self._wanted[name]
            if portion.sample is not None
            else replace(self._wanted[name], skip=frozenset())
        )
        inspector = inspect.Inspector(self.plan, name, want, self._now)
        said = 0
        with self._telling(name), Beside(self.source, self._snapshot, inspector) as beside:
            for use in inspect.child_uses(self.plan, name):
                for row in beside.with_inner(use, self._children(reader, portion, use)):
                    inspector.child(use, row)
            for row in beside.with_copied(self._rows_of(reader, portion)):
                inspector.row(row)
                if inspector.tally.rows - said >= _SAY_EVERY:
                    self._say(name, inspector.tally.rows - said)
                    said = inspector.tally.rows
        with self._lock:
            self.report.reading[name].rows += inspector.tally.rows - said
            self.report.tallies[name].merge(inspector.tally)
        for index, entries in inspector.entries.items():
            self._spills[name, index].add(entries)

    def _say(self, name: str, rows: int) -> None:
        with self._lock:
            self.report.reading[name].rows += rows

    def _rows_of(self, reader: SnapshotReader, portion: Portion) -> Iterator[Row]:
        use = self.plan.documents[portion.collection]
        read = table_read(use.table)
        if portion.keys is not None:
            return reader.copy(read, portion.keys, use.where_sql)
        condition = sql.SQL("{} AND {}").format(portion.condition or sql.SQL("true"), where(use))
        return reader.stream(read, condition, portion.sample)

    def _children(self, reader: SnapshotReader, portion: Portion, use: RowPlan) -> Iterator[Row]:
        """Rows of an embedded table whose parents are in the portion."""
        parent = table_read(self.plan.documents[portion.collection].table)
        read = table_read(use.table)
        if portion.keys is not None:
            return reader.copy(read, portion.keys, use.where_sql, (parent, use.parent_columns))
        keys = sql.SQL("SELECT {} FROM {} {} WHERE {}").format(
            sql.SQL(", ").join(sql.Identifier(c) for c in parent.key),
            identifier(parent.table),
            portion.sample or sql.SQL(""),
            portion.condition or sql.SQL("true"),
        )
        columns = sql.SQL(", ").join(sql.Identifier(c) for c in use.parent_columns)
        condition = sql.SQL("({}) IN ({}) AND {}").format(columns, keys, where(use))
        return reader.stream(read, condition)

    # -- what takes more than one row ----------------------------------------------------------------------------
    def _link(self, reader: SnapshotReader, link: links.Link) -> None:
        why = links.never_meets(link)
        if why:
            self.report.never[link.place] = why
        elif not links.cannot_break(link, self.facts):
            whole = self.report.reading[link.use.collection].whole
            sample = None if whole else self._sample(link.use.table.name)
            with self._telling(link.place):
                found = links.look(link, reader.ask, self.extent.examples, sample)
                with self._lock:
                    self.report.broken.append(found)

    def _repeated(self) -> None:
        for (name, index), spill in self._spills.items():
            groups = rows = 0
            keys: list[tuple[str, ...]] = []
            for group in spill.repeated():
                distinct = tuple(dict.fromkeys(group))
                if len(distinct) < 2:  # one row that has a value twice, in an array
                    continue
                groups, rows = groups + 1, rows + len(distinct)
                if len(keys) < self.extent.examples:
                    keys.append(distinct[: self.extent.examples])
            if groups:
                self.report.groups.append(Group(name, index, groups, rows, tuple(keys)))

    def _telling(self, name: str) -> _Telling:
        return _Telling(self, name)


class _Unreadable(Exception):
    """A statement failed; why is in the report."""


class _Telling:
    """Notes why something could not be read, and lets the rest go on. What a retry could mend goes out."""

    def __init__(self, scan: Scan, name: str) -> None:
        self.scan, self.name = scan, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SyncError) and not error.retry_helps:
            self.scan.report.failed.setdefault(self.name, error)
            raise _Unreadable from error


def _key_texts(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(c)) for c in columns)


__all__ = ["Extent", "Reading", "Scan", "ScanReport"]
