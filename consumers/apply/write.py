"""Rows into documents, staged rows and arrays, in a transaction that somebody else has begun (docs/write-rule.md,
clauses 3, 4, 6, 7 and 9). Whoever calls has written the positions first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from bson import Int64, ObjectId

from connectors.errors import UniqueTaken
from connectors.mongo import ledger
from connectors.mongo.transaction import Transaction, Write, write
from connectors.positions import Lsn
from connectors.postgres.rows import Row, Selected, TableRead
from consumers.apply.arrays import Anchors, Arrays, by_ids
from consumers.apply.copies import SLOTS, Copies, Copying, same, slot_of
from consumers.apply.decide import Gone, Put, Read, RowOp
from consumers.apply.untangle import MOST, parked_id, tied, unique_indexes
from consumers.contracts import Rows
from consumers.mapping.plan import Document, Key, Natives, Plan, RowPlan, TablePlan, referred
from consumers.mapping.spec import Index

TableOps = Mapping[str, Mapping[Key, RowOp]]


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


def keys_read(table: TablePlan) -> TableRead:
    """The same of their keys only: `TablePlan.key_of_row`."""
    read = table_read(table)
    return replace(read, columns=tuple(c for c in read.columns if c.name in table.key))


def sync_of(use: RowPlan, key: Key, natives: Natives, at: int | None, lsn: int) -> Document:
    """`_sync` of a document. A key that its id does not give back is kept in it, and so are the `_id`s of rows that
    are copied into it."""
    stamp: Document = {"at": None if at is None else Int64(at), "lsn": Int64(lsn)}
    if use.pointers:
        stamp["copy"] = {field: referred(table, parts, natives) for field, parts, table in use.pointers}
    if (texts := _kept(key)) is not None:
        stamp["key"] = texts
    return stamp


def _kept(key: Key) -> list[str] | None:
    """A key that its id does not give back, as it is kept."""
    return None if len(key) == 1 and isinstance(key[0], int) else [str(value) for value in key]


def sortable(value: Any) -> Any:
    """A native value in a form that BSON keeps and Python orders as PostgreSQL does."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return Int64(value)
    return value if isinstance(value, float | str) else str(value)


@dataclass(slots=True)
class _Documents:
    """What becomes of documents of one use. there: those that are there, as far as it matters. made: each with
    whether it is new. remove: all are removed first, since values may change places."""

    use: RowPlan
    ids: Mapping[ObjectId, RowOp]
    there: Mapping[ObjectId, Document]
    made: Mapping[ObjectId, tuple[Document, bool]]
    remove: bool


class RowWriter:
    """Writes row operations. now_us: the clock that filters with now() are judged by, microseconds. name: its own
    among those that write at once. met: whether the last transaction got as far as to write its anchors."""

    def __init__(self, plan: Plan, rows: Rows, now_us: Callable[[], int], name: str = "") -> None:
        self.plan, self.rows, self.now_us, self._slot = plan, rows, now_us, slot_of(name)
        self._reads = {name: table_read(table) for name, table in plan.tables.items()}
        self.met = False
        self._refused: set[Copying] = set()

    def apply(
        self,
        tx: Transaction,
        ops: TableOps,
        *,
        careful: bool = False,
        later: frozenset[str] = frozenset(),
        slots: Mapping[str, int] = MappingProxyType({}),
        only: AbstractSet[tuple[str, Key]] | None = None,
    ) -> Applied:
        """Carry out the operations of a batch, folded per row. Raises Unappliable, Contended, Unavailable.

        First it reads what it needs to know which anchors to write, then it writes these, then all else.
        slots: by table, this writer's own number among those that write rows of it at once, where it has one.

        later: collections whose documents the caller, who holds all their tables, makes anew afterwards: rows are
        staged for them, and their arrays stay as they are.

        only: the uses of rows that are written, as place and key: what else is made of these rows stays as it is, and
        is written when their events come. None: all.

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
            places = None if only is None else {place for place, _ in only}
            for table in list(settled):
                for use in self.plan.uses(table):
                    if not use.staged and (places is None or use.place in places):
                        done.untangled += self._untangle(tx, use, settled, now)
                        if only is not None:  # those that it has found too
                            only = {*only, *((use.place, key) for key in settled[table])}
        anchors, arrays, copies = self._to_meet(tx, later, slots)
        staged: list[tuple[str, list[Write]]] = []
        documents: list[_Documents] = []
        for table, whole in settled.items():
            for use in self.plan.uses(table):
                of = whole if only is None else {k: op for k, op in whole.items() if (use.place, k) in only}
                if not of:
                    continue
                if use.array:
                    staged.append((use.place, self._stage(tx, use, of, now, arrays)))
                elif use.copied:
                    staged.append((use.place, self._stage_copied(tx, use, of, now, copies)))
                else:
                    documents.append(self._documents(tx, use, of, now, arrays, copies, careful))
        arrays.go_up()
        anchors.write()
        self.met = True
        for place, writes in staged:
            tx.bulk(place, writes)
        for one in documents:
            copies.fill(one.use)
            tx.bulk(one.use.collection, self._document_writes(one))
        arrays.remake()
        copies.settle()
        return done

    def _to_meet(
        self,
        tx: Transaction,
        later: frozenset[str] = frozenset(),
        slots: Mapping[str, int] = MappingProxyType({}),
    ) -> tuple[Anchors, Arrays, Copies]:
        """What a transaction changes for others."""
        self.met = False
        anchors = Anchors(tx)
        slot_for = lambda table: slots.get(table, self._slot) % SLOTS  # noqa: E731
        copies = Copies(tx, self.plan, anchors, slot_for, later, self._refused)
        return anchors, Arrays(tx, self.plan, anchors, later), copies

    # -- values that were not sent -----------------------------------------------------------------------------
    def _absent_are_read(self, tx: Transaction, ops: dict[str, dict[Key, RowOp]], now: int) -> None:
        """Where a row was sent in part and there is nothing to keep the rest from, it is read."""
        for table, of in ops.items():
            partial = [op for op in of.values() if isinstance(op, Put) and not op.whole]
            for use in self.plan.uses(table) if partial else ():
                inside = [op for op in partial if use.inside(op.natives, now)]
                ids = {use.id_of(op.key): op for op in inside}
                there = (
                    {d["_id"] for d in tx.find(use.place, {"_id": {"$in": list(ids)}}, {"_id": 1})}
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
    ) -> list[Write]:
        ids = [use.id_of(key) for key in of]
        parents = {d["_id"]: d["p"] for d in by_ids(tx, use.place, ids, {"p": 1})}
        writes: list[Write] = []
        for _id, op in zip(ids, of.values(), strict=True):
            arrays.changed(use, parents.get(_id))
            row = None if not isinstance(op, Put) or not use.inside(op.natives, now) else op
            parent = use.parent_of(row.natives) if row else None
            if parent != parents.get(_id):
                arrays.moved(use, _id)
            if row is None or parent is None:
                if _id in parents:
                    writes.append(write("delete", _id))
                continue
            arrays.changed(use, parent)
            writes.append(self.staged(use, row, parent, now, _id in parents))
        return writes

    def _stage_copied(
        self, tx: Transaction, use: RowPlan, of: Mapping[Key, RowOp], now: int, copies: Copies
    ) -> list[Write]:
        ids = [use.id_of(key) for key in of]
        known = {d["_id"]: d["d"] for d in by_ids(tx, use.place, ids, {"d": 1})}
        writes: list[Write] = []
        for _id, op in zip(ids, of.values(), strict=True):
            there = known.get(_id)
            if not isinstance(op, Put) or not use.inside(op.natives, now):
                if there is not None:
                    copies.changed(use, _id, None)
                    writes.append(write("delete", _id))
                continue
            value = use.document(op.natives, now)
            if there is not None and not op.whole:
                value = {**there, **value}
            if not same(there, value):
                copies.changed(use, _id, value)
            writes.append(write("replace", _id, self.copied_document(op, value)))
        return writes

    @staticmethod
    def staged(use: RowPlan, row: Put, parent: ObjectId, now: int, known: bool) -> Write:
        """The write of one staged row. One sent in part is laid over the one that is known."""
        document = RowWriter.staged_document(use, row, parent, now)
        if row.whole or not known:
            return write("replace", use.id_of(row.key), document)
        element = document.pop("d")
        return write(
            "set", use.id_of(row.key), {**document, **{f"d.{name}": value for name, value in element.items()}}
        )

    @staticmethod
    def staged_document(use: RowPlan, row: Put, parent: ObjectId, now: int) -> Document:
        """A staged row: its parent, sort values, LSN, element, and a key that its id does not give back. Raises
        MappingFailed."""
        order = [sortable(value) for value in use.sort_values(row.natives)]
        texts = _kept(row.key)
        key = {} if texts is None else {"k": texts}
        return {"p": parent, "o": order, "l": Int64(row.lsn), **key, "d": use.document(row.natives, now)}

    @staticmethod
    def copied_document(row: Put, value: Document) -> Document:
        """A staged row whose values are copied into documents: these values, LSN and key."""
        texts = _kept(row.key)
        return {"l": Int64(row.lsn), **({} if texts is None else {"k": texts}), "d": value}

    # -- documents ---------------------------------------------------------------------------------------------
    def _documents(
        self,
        tx: Transaction,
        use: RowPlan,
        of: Mapping[Key, RowOp],
        now: int,
        arrays: Arrays,
        copies: Copies,
        careful: bool,
    ) -> _Documents:
        ids = {use.id_of(key): op for key, op in of.items()}
        embeds = self.plan.arrays.get(use.collection)
        remove = careful and bool(self._unique(use))
        there: dict[ObjectId, Document] = {}
        if embeds or remove or use.pointers:
            shown = None if remove else {"_sync.copy": 1}
            there = {d["_id"]: d for d in by_ids(tx, use.collection, list(ids), shown)}
        made: dict[ObjectId, tuple[Document, bool]] = {}
        for _id, op in ids.items():
            if isinstance(op, Put) and use.inside(op.natives, now):
                document = use.document(op.natives, now)
                document["_sync"] = sync_of(use, op.key, op.natives, op.at, op.lsn)
                made[_id] = document, op.create or (bool(embeds or use.pointers) and _id not in there)
        if use.pointers:
            copies.pointing(use, [(made[_id][0], {} if made[_id][1] else there[_id]) for _id in made])
        for _id in ids if embeds else ():
            if _id not in made:
                if _id in there:
                    arrays.gone(use.collection, _id)
            elif made[_id][1]:
                arrays.come(use.collection, _id)
                made[_id][0].update({array: [] for array in embeds or ()})
            else:
                arrays.there(use.collection, _id)
        return _Documents(use, ids, there, made, remove)

    def _document_writes(self, of: _Documents) -> list[Write]:
        embeds = self.plan.arrays.get(of.use.collection)
        writes: list[Write] = [write("delete", _id) for _id in of.there] if of.remove else []
        for _id in of.ids:
            if _id not in of.made:
                if not of.remove and (not embeds or _id in of.there):
                    writes.append(write("delete", _id))
                continue
            document, new = of.made[_id]
            if of.remove:
                old = {} if new else of.there.get(_id, {})
                writes.append(write("insert", _id, {**old, **document}))
            else:
                writes.append(write("replace" if new else "set", _id, document))
        return writes

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
        anchors, arrays, copies = self._to_meet(tx)
        query = {"_id": {"$in": list(ids)}, use.stamp: {"$lt": Int64(lsn)}}
        for found in tx.find(use.place, query, {"p": 1}):
            if use.array:
                arrays.changed(use, found.get("p"))
                arrays.moved(use, found["_id"])
            elif use.copied:
                copies.changed(use, found["_id"], None)
            elif self.plan.arrays.get(use.collection):
                arrays.gone(use.collection, found["_id"])
        arrays.go_up()
        anchors.write()
        removed = tx.delete(use.place, query)
        arrays.remake()
        copies.settle()
        return removed


def _texts(key: Key) -> tuple[str, ...]:
    return tuple(str(value) for value in key)
