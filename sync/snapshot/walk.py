"""One part of a walk (docs/write-rule.md, clause 6): keys, from PostgreSQL, from documents or from what is parked; each
row read as it is now in the transaction that checks the claim and writes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import orjson
from bson import ObjectId

from connectors.errors import Unappliable, UniqueTaken
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo.client import Document
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn
from connectors.postgres.rows import CurrentRows, SnapshotReader
from consumers.apply.decide import Read
from consumers.apply.untangle import key_in, park_row, parked_id
from consumers.apply.write import RowWriter, keys_read
from consumers.mapping.ids import row_key
from consumers.mapping.plan import Key, RowPlan, TablePlan
from sync.snapshot.chunks import Part

if TYPE_CHECKING:
    from sync.snapshot.reload import Reload

#: newer than every row
_ANY_LSN = Lsn((1 << 63) - 1)
#: documents of one look for those whose row is not there
_LOOK = 1_000


class Walk:
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
        self.writer = RowWriter(of.plan, rows, lambda: time.time_ns() // 1_000, claim)
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
        for row in self.reader.copy(keys_read(self.table), self.part.keys, None):
            keys.append(self.table.key_of_row(row))
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
        use = next(u for u in self.of.plan.uses(self.table.name) if u.place == target)
        for found in self._pages(target):
            keys, strange = self._keys_of(use, found)
            there = self._there(keys)
            gone = [key for key in keys if key not in there]
            for some in _slices(gone, self.of.limits.load_rows):
                self._write(some)
            if strange:
                self._transact(partial(self.writer.remove_below, use=use, ids=strange, lsn=_ANY_LSN))
            with self.of._lock:
                self.of.report.removed += len(gone) + len(strange)

    def _pages(self, target: str) -> Iterator[Sequence[Document]]:
        """Every document, a look at a time."""
        last: ObjectId | None = None
        while found := ledger.after(self.db, target, last, _LOOK):
            last = found[-1]["_id"]
            yield found
        others = iter(ledger.of_other_ids(self.db, target))
        while found := list(islice(others, _LOOK)):
            yield found

    def _keys_of(self, use: RowPlan, found: Sequence[Document]) -> tuple[list[Key], list[object]]:
        """Keys of these documents; and those that tandem wrote, but of no row that this table could have."""
        keys: list[Key] = []
        strange: list[object] = []
        for document in found:
            key = key_in(use, document)
            if key is not None:
                keys.append(key)
            elif use.staged or "_sync" in document:
                strange.append(document["_id"])
            else:
                with self.of._lock:
                    self.of.report.foreign += 1
        return keys, strange

    def _there(self, keys: Sequence[Key]) -> set[Key]:
        """Those of these keys that PostgreSQL has a row of now."""
        if not keys:
            return set()
        read = keys_read(self.table)
        found, _ = self.rows.read({read: [tuple(str(value) for value in key) for key in keys]})
        return {self.table.key_of_row(row) for row in found[read.table]}

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
        self._transact(lambda tx: park_row(tx, self.table.name, key, trouble, time.time_ns() // 1_000_000))
        with self.of._lock:
            self.told.parked += 1
        self.of.log(f"parked: {trouble.what}", table=self.table.name, key=row_key(key), remedy=trouble.remedy)


def _slices(keys: Sequence[Key], size: int) -> Iterator[Sequence[Key]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _texts_of(text: str) -> list[str]:
    return [str(value) for value in orjson.loads(text)]
