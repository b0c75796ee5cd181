"""Rows into documents, staged rows and arrays, in a transaction that somebody else has begun (docs/write-rule.md,
clauses 3, 4, 6, 7 and 9). Whoever calls has written the positions first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson import Int64, ObjectId

from connectors.errors import UniqueTaken
from connectors.mongo import ledger
from connectors.mongo.transaction import Transaction, Write, anchor, write
from connectors.positions import Lsn
from connectors.postgres.rows import Row, Selected, TableRead
from consumers.apply.decide import Gone, Put, Read, RowOp
from consumers.apply.untangle import MOST, parked_id, tied, unique_indexes
from consumers.contracts import Rows
from consumers.mapping.ids import row_key
from consumers.mapping.plan import Document, Key, Plan, RowPlan, TablePlan
from consumers.mapping.spec import Index

TableOps = Mapping[str, Mapping[Key, RowOp]]
#: a staged row's fields: p: its parent's `_id`, d: the element, o: sort values, l: LSN
_STAGED = {"p": 1, "d": 1, "o": 1}
_SLICE = 100


@dataclass(slots=True)
class Applied:
    """What a transaction did. rows: folded row operations. reread: rows read from PostgreSQL for them.
    untangled: rows tied by unique values, written together."""

    rows: int = 0
    reread: int = 0
    untangled: int = 0


def table_read(table: TablePlan) -> TableRead:
    """How rows of this table are read from PostgreSQL."""
    kinds = {c.name: c for c in table.table.columns}
    return TableRead(
        table.name,
        tuple(Selected(name, codec.select, codec.wire) for name, codec in table.columns),
        table.key,
        tuple(kinds[column].cast for column in table.key),
        tuple(kinds[column].collation for column in table.key),
        table.table.alone,
    )


def sync_of(use: RowPlan, key: Key, at: int | None, lsn: int) -> Document:
    """`_sync` of a document. A key that its id does not give back is kept in it."""
    stamp: Document = {"at": None if at is None else Int64(at), "lsn": Int64(lsn)}
    if len(key) != 1 or not isinstance(key[0], int):
        stamp["key"] = [str(value) for value in key]
    return stamp


def sort_key(values: Sequence[Any]) -> tuple[Any, ...]:
    """Ascending as PostgreSQL's default order is: NaN above infinity, NULLs last; texts by code point."""
    return tuple((2, 0) if v is None else (1, 0) if v != v else (0, v) for v in values)


def sortable(value: Any) -> Any:
    """A native value in a form that BSON keeps and Python orders as PostgreSQL does."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return Int64(value)
    return value if isinstance(value, float | str) else str(value)


class RowWriter:
    """Writes row operations. now_us: the clock that filters with now() are judged by, microseconds."""

    def __init__(self, plan: Plan, rows: Rows, now_us: Callable[[], int]) -> None:
        self.plan, self.rows, self.now_us = plan, rows, now_us
        self._reads = {name: table_read(table) for name, table in plan.tables.items()}

    def apply(
        self,
        tx: Transaction,
        ops: TableOps,
        *,
        careful: bool = False,
        later: frozenset[str] = frozenset(),
    ) -> Applied:
        """Carry out the operations of a batch, folded per row. Raises Unappliable, Contended, Unavailable.

        later: collections whose documents the caller, who holds all their tables, makes anew afterwards: rows are
        staged for them, and their arrays stay as they are.

        careful: rows that are in each other's way by unique values are found, read as they are now, and all of
        the batch's documents with unique values are removed before they are written. Slower: for a batch that
        has raised UniqueTaken.
        """
        now = self.now_us()
        done = Applied(rows=sum(len(of) for of in ops.values()))
        settled = {table: dict(of) for table, of in ops.items() if of}
        self._absent_are_read(tx, settled, now)
        done.reread = self._read(settled)
        if careful:
            for table in list(settled):
                for use in self.plan.uses(table):
                    if not use.array:
                        done.untangled += self._untangle(tx, use, settled, now)
        arrays = Arrays(tx, self.plan, later)
        for table, of in settled.items():
            for use in self.plan.uses(table):
                if use.array:
                    self._stage(tx, use, of, now, arrays)
        for table, of in settled.items():
            for use in self.plan.uses(table):
                if not use.array:
                    self._documents(tx, use, of, now, arrays, careful)
        arrays.remake()
        return done

    # -- values that were not sent -----------------------------------------------------------------------------
    def _absent_are_read(self, tx: Transaction, ops: dict[str, dict[Key, RowOp]], now: int) -> None:
        """Where a row was sent in part and there is nothing to keep the rest from, it is read."""
        for table, of in ops.items():
            partial = [op for op in of.values() if isinstance(op, Put) and not op.whole]
            for use in self.plan.uses(table) if partial else ():
                inside = [op for op in partial if use.inside(op.natives, now)]
                target = use.staging if use.array else use.collection
                ids = {(row_key(op.key) if use.array else use.id_of(op.key)): op for op in inside}
                there = (
                    {d["_id"] for d in tx.find(target, {"_id": {"$in": list(ids)}}, {"_id": 1})}
                    if ids
                    else set()
                )
                for found_id, op in ids.items():
                    if found_id not in there:
                        of[op.key] = Read(op.key, op.create, op.at, op.lsn)

    def _read(self, ops: dict[str, dict[Key, RowOp]]) -> int:
        """Replace each Read by what PostgreSQL has now, all in one snapshot. Returns how many there were."""
        wanted = {
            self._reads[table]: keys
            for table, of in ops.items()
            if (keys := [op.key for op in of.values() if isinstance(op, Read)])
        }
        if not wanted:
            return 0
        found, lsn = self.rows.read({read: [_texts(key) for key in keys] for read, keys in wanted.items()})
        for read, keys in wanted.items():
            of = ops[read.table]
            natives = self._by_key(self.plan.tables[read.table], found[read.table])
            for key in keys:
                old = of[key]
                assert isinstance(old, Read)
                row = natives.get(_texts(key))
                of[key] = (
                    Gone(key, old.at, lsn)
                    if row is None
                    else Put(key, row, True, old.create, old.at, max(lsn, old.lsn))
                )
        return sum(len(keys) for keys in wanted.values())

    @staticmethod
    def _by_key(table: TablePlan, rows: Sequence[Row]) -> dict[tuple[str, ...], Mapping[str, Any]]:
        return {_texts(table.key_of(natives)): natives for natives in map(table.from_row, rows)}

    # -- staged rows -------------------------------------------------------------------------------------------
    def _stage(
        self, tx: Transaction, use: RowPlan, of: Mapping[Key, RowOp], now: int, arrays: Arrays
    ) -> None:
        ids = [row_key(key) for key in of]
        parents = {d["_id"]: d["p"] for d in by_ids(tx, use.staging, ids, {"p": 1})}
        writes: list[Write] = []
        for _id, op in zip(ids, of.values(), strict=True):
            arrays.changed(use, parents.get(_id))
            row = None if not isinstance(op, Put) or not use.inside(op.natives, now) else op
            parent = use.parent_of(row.natives) if row else None
            if row is None or parent is None:
                if _id in parents:
                    writes.append(write("delete", _id))
                continue
            arrays.changed(use, parent)
            writes.append(self.staged(use, row, parent, now, _id in parents))
        tx.bulk(use.staging, writes)

    @staticmethod
    def staged(use: RowPlan, row: Put, parent: ObjectId, now: int, known: bool) -> Write:
        """The write of one staged row. One sent in part is laid over the one that is known."""
        document = RowWriter.staged_document(use, row, parent, now)
        if row.whole or not known:
            return write("replace", row_key(row.key), document)
        element = document.pop("d")
        return write(
            "set", row_key(row.key), {**document, **{f"d.{name}": value for name, value in element.items()}}
        )

    @staticmethod
    def staged_document(use: RowPlan, row: Put, parent: ObjectId, now: int) -> Document:
        """A staged row: its parent, sort values, LSN and element. Raises MappingFailed."""
        order = [sortable(value) for value in use.sort_values(row.natives)]
        return {"p": parent, "o": order, "l": Int64(row.lsn), "d": use.document(row.natives, now)}

    # -- documents ---------------------------------------------------------------------------------------------
    def _documents(
        self, tx: Transaction, use: RowPlan, of: Mapping[Key, RowOp], now: int, arrays: Arrays, careful: bool
    ) -> None:
        ids = {use.id_of(key): op for key, op in of.items()}
        embeds = self.plan.arrays.get(use.collection)
        remove = careful and bool(self._unique(use))
        there: dict[ObjectId, Document] = {}
        if embeds or remove:
            shown = None if remove else {"_id": 1}
            there = {d["_id"]: d for d in by_ids(tx, use.collection, list(ids), shown)}
        writes: list[Write] = [write("delete", _id) for _id in there] if remove else []
        for _id, op in ids.items():
            if not isinstance(op, Put) or not use.inside(op.natives, now):
                if embeds and _id in there:
                    arrays.gone(use.collection, _id)
                if not remove and (not embeds or _id in there):
                    writes.append(write("delete", _id))
                continue
            document = use.document(op.natives, now)
            document["_sync"] = sync_of(use, op.key, op.at, op.lsn)
            new = op.create or (bool(embeds) and _id not in there)
            if embeds and new:
                arrays.come(use.collection, _id)
                document.update({array: [] for array in embeds})
            elif embeds:
                arrays.there(use.collection, _id)
            if remove:
                old = {} if new else there.get(_id, {})
                writes.append(write("insert", _id, {**old, **document}))
            else:
                writes.append(write("replace" if new else "set", _id, document))
        tx.bulk(use.collection, writes)

    # -- unique values -----------------------------------------------------------------------------------------
    def _unique(self, use: RowPlan) -> list[Index]:
        return unique_indexes(self.plan.declared.collections[use.collection].indexes)

    def _untangle(self, tx: Transaction, use: RowPlan, ops: dict[str, dict[Key, RowOp]], now: int) -> int:
        """Make every row of the batch that is tied to another by a unique value a row read now, and that other too,
        until none is left. Returns how many. Raises UniqueTaken."""
        table, indexes = use.table.name, self._unique(use)
        of, read = ops[table], set[Key]()
        if not indexes:
            return 0
        while True:
            partial = {op.key for op in of.values() if isinstance(op, Put) and not op.whole}
            inside = [
                op for op in of.values() if isinstance(op, Put) and op.whole and use.inside(op.natives, now)
            ]
            documents = {use.id_of(op.key): use.document(op.natives, now) for op in inside}
            keys = {use.id_of(key): key for key in of}
            new = (partial | set(tied(tx, use, indexes, documents, keys).values())) - read
            if not new:
                break
            read |= new
            if len(read) > MOST:
                raise UniqueTaken(
                    f"{use.collection}: more than {MOST} rows are tied by unique values",
                    remedy="look at the rows",
                )
            for key in read:  # all in one snapshot
                before = of.get(key)
                create = before is not None and not isinstance(before, Gone) and before.create
                of[key] = Read(key, create, before.at if before else None, before.lsn if before else 0)
            self._read({table: of})
        if read:
            tx.delete(ledger.PARKED, {"_id": {"$in": [parked_id(table, key) for key in read]}})
        return len(read)

    # -- after a truncate --------------------------------------------------------------------------------------
    def remove_below(self, tx: Transaction, use: RowPlan, ids: Sequence[Any], lsn: Lsn) -> int:
        """Remove those of these documents or staged rows that are older than a truncate. Returns how many."""
        arrays = Arrays(tx, self.plan)
        target, stamp = (use.staging, "l") if use.array else (use.collection, "_sync.lsn")
        query = {"_id": {"$in": list(ids)}, stamp: {"$lt": Int64(lsn)}}
        for found in tx.find(target, query, {"p": 1}):
            if use.array:
                arrays.changed(use, found.get("p"))
            elif self.plan.arrays.get(use.collection):
                arrays.gone(use.collection, found["_id"])
        removed = tx.delete(target, query)
        arrays.remake()
        return removed


class Arrays:
    """Which parents' arrays have to be made anew, and their anchors: all who change what an array is made from
    meet there, and one of two that do so at once conflicts and runs again (reads alone would not: write skew)."""

    def __init__(self, tx: Transaction, plan: Plan, later: frozenset[str] = frozenset()) -> None:
        self._tx, self._plan, self._later = tx, plan, later
        self._parents: dict[str, set[ObjectId]] = {}
        self._arrays: dict[tuple[str, ObjectId], set[str]] = {}
        self._exists: dict[tuple[str, ObjectId], bool] = {}

    def changed(self, use: RowPlan, parent: ObjectId | None) -> None:
        """A row of this parent's array has come, gone or changed."""
        if parent is not None and use.array and use.collection not in self._later:
            self._parents.setdefault(use.collection, set()).add(parent)
            self._arrays.setdefault((use.collection, parent), set()).add(use.array)

    def come(self, collection: str, parent: ObjectId) -> None:
        """This parent is new, or begins a new life."""
        self._parents.setdefault(collection, set()).add(parent)
        self._arrays.setdefault((collection, parent), set()).update(self._plan.arrays[collection])
        self._exists[collection, parent] = True

    def gone(self, collection: str, parent: ObjectId) -> None:
        """This parent is no longer there."""
        self._parents.setdefault(collection, set()).add(parent)
        self._exists[collection, parent] = False

    def there(self, collection: str, parent: ObjectId) -> None:
        """This parent is known to be there."""
        self._exists[collection, parent] = True

    def remake(self) -> None:
        """Write the anchors, then every array that has a parent to be in."""
        for collection, parents in self._parents.items():
            ordered = sorted(parents)
            self._tx.bulk(ledger.ANCHORS, [anchor(f"{collection}/{parent}") for parent in ordered])
            there = self._those_there(collection, ordered)
            for array, use in self._plan.arrays.get(collection, {}).items():
                mine = [p for p in there if array in self._arrays.get((collection, p), ())]
                made = arrays_from_staging(self._tx, use, mine)
                self._tx.bulk(collection, [write("set", p, {array: made.get(p, [])}) for p in mine])

    def _those_there(self, collection: str, parents: Iterable[ObjectId]) -> list[ObjectId]:
        unknown = [p for p in parents if (collection, p) not in self._exists]
        if unknown:
            found = {d["_id"] for d in by_ids(self._tx, collection, unknown, {"_id": 1})}
            self._exists.update({(collection, p): p in found for p in unknown})
        return [p for p in parents if self._exists[collection, p]]


def by_ids(
    tx: Transaction, collection: str, ids: Sequence[Any], fields: Mapping[str, Any] | None
) -> Iterator[Document]:
    """The documents with these `_id`s that there are. Asked for in slices: some servers take long lists slowly."""
    for start in range(0, len(ids), _SLICE):
        yield from tx.find(collection, {"_id": {"$in": list(ids[start : start + _SLICE])}}, fields)


def arrays_from_staging(
    tx: Transaction, use: RowPlan, parents: Sequence[ObjectId]
) -> dict[ObjectId, list[Document]]:
    """The array of each of these parents that has any rows, from what is staged, in its order."""
    rows: dict[ObjectId, list[Document]] = {}
    if parents:
        for start in range(0, len(parents), _SLICE):
            wanted = {"p": {"$in": list(parents[start : start + _SLICE])}}
            for staged in tx.find(use.staging, wanted, _STAGED):
                rows.setdefault(staged["p"], []).append(staged)
    return {
        parent: [row["d"] for row in sorted(of, key=lambda row: sort_key(row["o"]))]
        for parent, of in rows.items()
    }


def _texts(key: Key) -> tuple[str, ...]:
    return tuple(str(value) for value in key)
