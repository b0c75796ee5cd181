"""A parent's fields in the documents that point to it (docs/write-rule.md, clause 9).

The parent's rows are staged. A document that comes to point to a parent takes what is staged, and writes an anchor of
the parent; a parent that comes, goes or changes writes all its anchors and every document that points to it, in its own
transaction while they are few, else by a job that is recorded in it. A document in flight meets the parent at the
anchor; one that points to it already, at itself. A parent has several anchors, so that the documents of one parent
don't meet each other: each writer has a slot of its own, as far as there are enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

from bson import Int64, ObjectId, encode

from connectors.errors import Contended, Unappliable, UniqueTaken
from connectors.mongo import ledger
from connectors.mongo.client import CODEC, translated
from connectors.mongo.transaction import Transaction
from consumers.apply.arrays import Anchors, by_ids
from consumers.mapping.plan import Document, Plan, RowPlan, pointer_of

SLOTS = 8
_UNKNOWN = object()
#: so many documents are written in the parent's own transaction: a longer one would be in everybody's way
FEW = 50
#: of so many parents the documents are counted in one query, up to so many documents
_SLICE, _COUNTED = 100, 1_000
#: so many parents with a document that refuses are remembered
_REMEMBERED = 10_000
#: collection, field, parent
Copying = tuple[str, str, ObjectId]


def slot_of(writer: str) -> int:
    """Which of a parent's anchors a writer uses that has none by its partitions."""
    return crc32(writer.encode()) % SLOTS


def same(one: Document | None, other: Document | None) -> bool:
    """Whether two copied objects are the same, types included. Raises WriteRefused for what BSON does not take."""
    if one is None or other is None:
        return one is other
    with translated():
        return encode(one, codec_options=CODEC) == encode(other, codec_options=CODEC)


class Copies:
    """What a transaction has to copy. slot: this writer's among a parent's anchors, by the documents' table. later:
    as of `Arrays`. refused: parents of which some document refused the copy: their documents are left to a job, which
    parks the one that refuses; one that is met here is added. First all that changes is told, then anchors and staged
    rows are written, then `fill` and `settle`."""

    def __init__(
        self,
        tx: Transaction,
        plan: Plan,
        anchors: Anchors,
        slot: Callable[[str], int],
        later: frozenset[str] = frozenset(),
        refused: set[Copying] | None = None,
    ) -> None:
        self._tx, self._plan, self._anchors, self._slot, self._later = tx, plan, anchors, slot, later
        self._refused = set() if refused is None else refused
        self._changed: dict[tuple[str, str], dict[ObjectId, Document | None]] = {}
        self._new: dict[tuple[str, str], list[tuple[Document, ObjectId | None]]] = {}

    def changed(self, use: RowPlan, parent: ObjectId, now: Document | None) -> None:
        """A staged parent has come, gone or changed. now: what is copied of it from now on."""
        if use.copied and use.collection not in self._later:
            self._changed.setdefault((use.collection, use.copied), {})[parent] = now
            for slot in range(SLOTS):
                self._anchors.want(_anchor(use.collection, use.copied, parent, slot))

    def pointing(self, use: RowPlan, documents: Sequence[tuple[Document, Mapping[str, Any]]]) -> None:
        """These documents are written. Each comes with what is there of it already: one that points to the same
        parent keeps what it has; one that comes to point to it meets it at its anchor."""
        slot = self._slot(use.table.name)
        for field, _, _ in use.pointers:
            new = self._new.setdefault((use.collection, field), [])
            for document, there in documents:
                parent = document["_sync"]["copy"][field]
                if parent != (there.get("_sync") or {}).get("copy", {}).get(field, _UNKNOWN):
                    new.append((document, parent))
                    if parent is not None:
                        self._anchors.want(_anchor(use.collection, field, parent, slot))

    def fill(self, use: RowPlan) -> None:
        """Give the documents that come to point to a parent what is staged of it."""
        for field, _, _ in use.pointers:
            new = self._new.pop((use.collection, field), [])
            wanted = sorted({parent for _, parent in new if parent is not None})
            staged = staged_parents(self._tx, self._plan, use, field, wanted)
            for document, parent in new:
                document[field] = None if parent is None else staged.get(parent)

    def settle(self) -> None:
        """Write the documents that point to what has changed, or a job for them. Raises Contended where one refuses:
        the same again leaves its parent's to a job."""
        left = FEW
        for (collection, field), values in self._changed.items():
            parents = sorted(values)
            for start in range(0, len(parents), _SLICE):
                some = parents[start : start + _SLICE]
                there = self._how_many(collection, field, some)
                for parent in some:
                    number = self._up_to(left, collection, field, parent) if there is None else there[parent]
                    if number > left or (number and (collection, field, parent) in self._refused):
                        ledger.record_copy(self._tx, collection, field, parent)
                        continue
                    left -= number
                    if number:
                        self._copy(collection, field, parent, values[parent])

    def _how_many(self, collection: str, field: str, parents: Sequence[ObjectId]) -> Counter[ObjectId] | None:
        """How many documents point to each of these; None where that are too many to be counted at once."""
        pointer = pointer_of(field)
        found = self._tx.find(collection, {pointer: {"$in": list(parents)}}, {pointer: 1}, most=_COUNTED + 1)
        if len(found) > _COUNTED:
            return None
        return Counter(document["_sync"]["copy"][field] for document in found)

    def _up_to(self, most: int, collection: str, field: str, parent: ObjectId) -> int:
        """How many point to one; more than that is one more."""
        return len(self._tx.find(collection, {pointer_of(field): parent}, {"_id": 1}, most=most + 1))

    def _copy(self, collection: str, field: str, parent: ObjectId, value: Document | None) -> None:
        query = {pointer_of(field): parent}
        try:
            self._tx.update(collection, query, copied_anew(field, value), many=True)
        except UniqueTaken:
            raise
        except Unappliable as trouble:
            if len(self._refused) > _REMEMBERED:
                self._refused.clear()
            self._refused.add((collection, field, parent))
            raise Contended(
                f"a document of {collection} refuses what is copied into it: {trouble.what}",
                remedy="the transaction is run again, and leaves these documents to a job",
            ) from trouble


def copied_anew(field: str, value: Document | None) -> Document:
    """The change that copies a value into documents. It changes one that looks right too: what is as it was is no
    write to MongoDB, and somebody who is about to write an older value there would not be met."""
    return {"$set": {field: value}, "$inc": {"_sync.copied": Int64(1)}}


def fill_held(tx: Transaction, plan: Plan, use: RowPlan, documents: Sequence[Document]) -> None:
    """Give new documents what is staged of the parents that they point to; for the one who holds all their tables."""
    for field, _, _ in use.pointers:
        parents = [document["_sync"]["copy"][field] for document in documents]
        staged = staged_parents(tx, plan, use, field, list({p for p in parents if p is not None}))
        for document, parent in zip(documents, parents, strict=True):
            document[field] = staged.get(parent)


def _anchor(collection: str, field: str, parent: ObjectId, slot: int) -> str:
    return f"{collection}.{field}/{parent}/{slot}"


def staged_parents(
    tx: Transaction, plan: Plan, use: RowPlan, field: str, parents: Sequence[ObjectId]
) -> dict[ObjectId, Document]:
    """What is staged of these parents."""
    place = plan.copies[use.collection][field].place
    return {d["_id"]: d["d"] for d in by_ids(tx, place, parents, {"d": 1})}


def copy_again(tx: Transaction, plan: Plan, job: ledger.CopyJob, ids: Sequence[Any]) -> None:
    """Write what is staged of a job's parent into those of these documents that point to it."""
    use = plan.documents[job.collection]
    value = staged_parents(tx, plan, use, job.field, [job.parent]).get(job.parent)
    query = {pointer_of(job.field): job.parent, "_id": {"$in": list(ids)}}
    tx.update(job.collection, query, copied_anew(job.field, value), many=True)
