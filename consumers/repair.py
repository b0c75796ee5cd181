"""Documents that do not say what PostgreSQL says, made anew from their rows (docs/write-rule.md, clause 6).

A repair of a few rows needs no hold. One transaction writes the positions of all tables that the documents are made
from, so that whoever else writes these rows conflicts; then the rows are read: a document's own, those of its arrays,
both that PostgreSQL has and that are staged, and those that are copied into it; then they are written as the stream
would write them. What else is made of these rows is left alone, and so is a document of which a row is parked: that is
for a retry, which settles all of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import uuid4

from bson import ObjectId

from connectors.mongo import ledger, parked
from connectors.mongo.transaction import Transaction, Transactions
from connectors.postgres.rows import TableRead
from consumers.apply.arrays import by_ids
from consumers.apply.attempt import Ended, attempt
from consumers.apply.decide import Read
from consumers.apply.untangle import key_in, parked_id
from consumers.apply.write import RowWriter, keys_read, table_read
from consumers.contracts import Rows
from consumers.mapping.plan import Document, Key, Plan, RowPlan, TablePlan

#: documents in one transaction
_TOGETHER = 20
_SLICE = 100


class Act(StrEnum):
    """What was done to a document, or would be."""

    WRITTEN = "made anew"
    REMOVED = "removed"
    #: it is not there, and no row wants it
    ABSENT = "not there"
    #: nobody knows its row, and tandem did not write it
    FOREIGN = "of another client"
    #: a row that it is made from is parked
    PARKED = "parked"
    #: its row cannot be written
    FAILING = "cannot be written"
    #: a table is held, or others were always in the way
    BUSY = "not tried"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A document to be made anew. key: of its row, where that is known; else the document itself may tell it."""

    collection: str
    id: Any
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of one. before, after: the document, None where there is none. rows: what was read of PostgreSQL, as
    `schema.table [key]`. reason: why it was left as it is."""

    wanted: Wanted
    act: Act
    before: Document | None = None
    after: Document | None = None
    rows: tuple[str, ...] = ()
    reason: str = ""
    remedy: str = ""


@dataclass(slots=True)
class _Made:
    """What one document is made from. key: None where no row has this `_id`. rows: keys by table. uses: place and key
    of each. strange: staged rows that no row of PostgreSQL could have, by place."""

    wanted: Wanted
    before: Document | None
    key: Key | None
    rows: dict[str, dict[Key, None]] = field(default_factory=dict)
    uses: set[tuple[str, Key]] = field(default_factory=set)
    strange: dict[str, list[Any]] = field(default_factory=dict)

    def take(self, use: RowPlan, keys: Iterable[Key]) -> None:
        """It is made from these rows too."""
        for key in keys:
            self.rows.setdefault(use.table.name, {})[key] = None
            self.uses.add((use.place, key))

    @property
    def names(self) -> tuple[str, ...]:
        """Its rows, as what is parked of them is called."""
        return tuple(parked_id(table, key) for table, keys in self.rows.items() for key in keys)


class Repairer:
    """Makes documents anew. positions: all there are. remove_foreign: also what tandem did not write is removed, where
    no row can have its `_id`."""

    def __init__(
        self,
        transactions: Transactions,
        rows: Rows,
        plan: Plan,
        now_us: Callable[[], int],
        positions: Callable[[], Iterable[ledger.Position]],
        *,
        remove_foreign: bool = False,
        within_s: float = 60.0,
    ) -> None:
        self._transactions, self._rows, self._plan, self._positions = transactions, rows, plan, positions
        self._remove_foreign, self._within_s = remove_foreign, within_s
        self._name = f"repair-{uuid4().hex[:12]}"
        self._writer = RowWriter(plan, rows, now_us, self._name)

    def close(self) -> None:
        """It is done: nobody has to end its session."""
        ledger.forget_worker(self._transactions.db, self._name)

    def repair(
        self, wanted: Sequence[Wanted], *, keep: bool = True, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Repaired]:
        """Make each anew, or with keep=False say what it would become; those that can be are written together. Raises
        Unavailable where a server is away, and MappingChanged."""
        by_collection: dict[str, list[Wanted]] = {}
        for one in wanted:
            by_collection.setdefault(one.collection, []).append(one)
        todo = [of[n : n + _TOGETHER] for of in by_collection.values() for n in range(0, len(of), _TOGETHER)]
        while todo and not stop():
            group = todo.pop(0)
            done: list[Repaired] = []
            ended = self._attempt(group, done, keep=keep)
            if ended.fewer:
                half = len(group) // 2
                todo[:0] = [group[:half], group[half:]]
            elif ended.busy is not None:
                for one in group:
                    yield Repaired(one, Act.BUSY, reason=ended.busy.what, remedy=ended.busy.remedy)
            elif ended.trouble is not None:
                trouble = ended.trouble
                yield Repaired(group[0], Act.FAILING, reason=trouble.what, remedy=trouble.remedy)
            else:
                yield from done

    def _attempt(self, group: Sequence[Wanted], done: list[Repaired], *, keep: bool) -> Ended:
        tables = self._plan.declared.collections[group[0].collection].tables
        partitions = sorted(p.partition for p in self._positions() if p.table in tables)
        session = self._transactions.session_id
        ledger.register_guest(self._transactions.db, self._name, session, partitions)

        def work(tx: Transaction, careful: bool) -> None:
            ledger.touch(tx, partitions, self._plan.follows)
            done[:] = self._together(tx, group, careful=careful)

        alone = len(group) == 1
        return attempt(self._transactions, work, alone=alone, keep=keep, within_s=self._within_s)

    def _together(self, tx: Transaction, group: Sequence[Wanted], *, careful: bool) -> list[Repaired]:
        """What is done in one transaction, whose positions are written, to documents of one collection."""
        name = group[0].collection
        ids = [one.id for one in group]
        before = {document["_id"]: document for document in by_ids(tx, name, ids, None)}
        made = [self._made_from(tx, self._plan.documents[name], one, before.get(one.id)) for one in group]
        waiting = parked.those_parked(tx, (row for one in made for row in one.names))
        ops: dict[str, dict[Key, Read]] = {}
        uses: set[tuple[str, Key]] = set()
        for one in made:
            if waiting.keys() & set(one.names):
                continue
            uses |= one.uses
            for table, keys in one.rows.items():
                ops.setdefault(table, {}).update({key: Read(key, True, None, 0) for key in keys})
            for place, strange in one.strange.items():
                tx.delete(place, {"_id": {"$in": strange}})
            if one.key is None and one.before is not None and not self._leaves(one.before):
                tx.delete(name, {"_id": one.wanted.id})
        self._writer.apply(tx, ops, careful=careful, only=uses)
        after = {document["_id"]: document for document in by_ids(tx, name, ids, None)}
        return [self._told(one, waiting.keys() & set(one.names), after.get(one.wanted.id)) for one in made]

    def _leaves(self, document: Document) -> bool:
        """Whether a document that no row can have is left alone: tandem did not write it."""
        return "_sync" not in document and not self._remove_foreign

    def _told(self, one: _Made, parked_rows: set[str], after: Document | None) -> Repaired:
        rows = one.names
        if parked_rows:
            names = sorted(parked_rows)
            return Repaired(
                one.wanted,
                Act.PARKED,
                one.before,
                one.before,
                rows,
                f"events of {', '.join(names)} are parked",
                f"tandem dead-letters retry {' '.join(repr(name) for name in names)}",
            )
        if after is not None and one.key is None:
            return Repaired(
                one.wanted,
                Act.FOREIGN,
                after,
                after,
                rows,
                "tandem did not write it, and its _id belongs to no row",
                "find out who wrote it; --remove-foreign removes it",
            )
        act = Act.WRITTEN if after is not None else Act.ABSENT if one.before is None else Act.REMOVED
        return Repaired(one.wanted, act, one.before, after, rows)

    # -- what a document is made from ----------------------------------------------------------------------------
    def _made_from(self, tx: Transaction, use: RowPlan, wanted: Wanted, before: Document | None) -> _Made:
        made = _Made(wanted, before, wanted.key or (None if before is None else key_in(use, before)))
        if made.key is not None:
            made.take(use, [made.key])
            self._below(tx, made, use.collection, use.table, {wanted.id: made.key})
            self._copied(made, use, made.key)
        return made

    def _below(
        self, tx: Transaction, made: _Made, home: str, table: TablePlan, parents: dict[ObjectId, Key]
    ) -> None:
        """The rows of the arrays of these parents: those that PostgreSQL has now, and those that are staged."""
        for use in self._plan.arrays.get(home, {}).values():
            keys = dict.fromkeys(self._children(use, table, list(parents.values())))
            for staged in _staged_of(tx, use, list(parents)):
                key = key_in(use, staged)
                if key is None:
                    made.strange.setdefault(use.place, []).append(staged["_id"])
                else:
                    keys[key] = None
            made.take(use, keys)
            if keys:
                self._below(tx, made, use.place, use.table, {use.id_of(key): key for key in keys})

    def _children(self, use: RowPlan, parent: TablePlan, parents: Sequence[Key]) -> Iterator[Key]:
        """Keys of the rows that point to these parents now. One that comes later is in the stream, behind the position
        that this transaction has written."""
        read, of = keys_read(use.table), table_read(parent)
        below = TableRead(read.table, read.columns, use.parent_columns, of.casts, (), read.alone)
        found, _ = self._rows.read({below: [tuple(str(value) for value in key) for key in parents]})
        for row in found[read.table]:
            yield use.table.key_of_row(row)

    def _copied(self, made: _Made, use: RowPlan, key: Key) -> None:
        """The rows that are copied into the document, as its row points to them now."""
        if not use.pointers:
            return
        read = table_read(use.table)
        found, _ = self._rows.read({read: [tuple(str(value) for value in key)]})
        for natives in map(use.table.from_row, found[read.table]):
            for copied, parts, _ in use.pointers:
                if all(natives[part.column] is not None for part in parts):
                    pointed = tuple(part.value(natives[part.column]) for part in parts)
                    made.take(self._plan.copies[use.collection][copied], [pointed])


def _staged_of(tx: Transaction, use: RowPlan, parents: Sequence[ObjectId]) -> Iterator[Document]:
    for start in range(0, len(parents), _SLICE):
        wanted = {"p": {"$in": list(parents[start : start + _SLICE])}}
        yield from tx.find(use.place, wanted, {"k": 1})
