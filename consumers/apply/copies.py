"""A parent's fields in the documents that point to it (docs/write-rule.md, clause 9).

The parent's rows are staged. A document that comes to point to a parent takes what is staged, and writes an anchor of
the parent; a parent that comes, goes or changes writes all its anchors and every document that points to it, in its own
transaction while they are few, else by a job that is recorded in it. A document in flight meets the parent at the
anchor; one that points to it already, at itself. A parent has several anchors, so that the documents of one parent
don't meet each other: each writer has a slot of its own, as far as there are enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from bson import ObjectId, encode

from connectors.mongo import ledger
from connectors.mongo.client import CODEC
from connectors.mongo.transaction import Transaction, anchor, write
from consumers.apply.arrays import by_ids
from consumers.mapping.plan import Document, Plan, RowPlan, pointer_of

SLOTS = 8
_UNKNOWN = object()
#: so many documents are written in the parent's own transaction
FEW = 200


def slot_of(writer: str) -> int:
    """Which of a parent's anchors a writer uses."""
    return crc32(writer.encode()) % SLOTS


def same(one: Document | None, other: Document | None) -> bool:
    """Whether two copied objects are the same, types included."""
    if one is None or other is None:
        return one is other
    return encode(one, codec_options=CODEC) == encode(other, codec_options=CODEC)


class Copies:
    """What a transaction has to copy. slot: this writer's among the anchors. later: as of `Arrays`."""

    def __init__(self, tx: Transaction, plan: Plan, slot: int, later: frozenset[str] = frozenset()) -> None:
        self._tx, self._plan, self._slot, self._later = tx, plan, slot, later
        self._changed: dict[tuple[str, str], dict[ObjectId, Document | None]] = {}

    def changed(self, use: RowPlan, parent: ObjectId, now: Document | None) -> None:
        """A staged parent has come, gone or changed. now: what is copied of it from now on."""
        if use.copied and use.collection not in self._later:
            self._changed.setdefault((use.collection, use.copied), {})[parent] = now

    def fill(self, use: RowPlan, documents: Sequence[tuple[Document, Mapping[str, Any]]]) -> None:
        """Give documents that come to point to a parent what is staged of it, and write its anchor. Each comes with
        what is there of it already: one that points to the same parent keeps what it has."""
        for field, _, _ in use.pointers:
            new = [
                (document, document["_sync"]["copy"][field])
                for document, there in documents
                if document["_sync"]["copy"][field]
                != (there.get("_sync") or {}).get("copy", {}).get(field, _UNKNOWN)
            ]
            wanted = sorted({parent for _, parent in new if parent is not None})
            self._tx.bulk(
                ledger.ANCHORS, [anchor(_anchor(use.collection, field, p, self._slot)) for p in wanted]
            )
            staged = staged_parents(self._tx, self._plan, use, field, wanted)
            for document, parent in new:
                document[field] = staged.get(parent)

    def settle(self) -> None:
        """Write the anchors of what has changed, and the documents that point to it, or a job for them."""
        left = FEW
        for (collection, field), parents in self._changed.items():
            ordered = sorted(parents)
            self._tx.bulk(
                ledger.ANCHORS,
                [anchor(_anchor(collection, field, p, slot)) for p in ordered for slot in range(SLOTS)],
            )
            for parent in ordered:
                there = self._tx.find(collection, {pointer_of(field): parent}, {"_id": 1}, most=left + 1)
                if len(there) > left:
                    ledger.record_copy(self._tx, collection, field, parent)
                    continue
                left -= len(there)
                value = parents[parent]
                self._tx.bulk(collection, [write("set", d["_id"], {field: value}) for d in there])


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
    """Write what is staged of a job's parent into those of these documents that point to it.

    Also where it looks right: two that do the same job at once would else miss each other.
    """
    use = plan.documents[job.collection]
    value = staged_parents(tx, plan, use, job.field, [job.parent]).get(job.parent)
    query: Mapping[str, Any] = {"_id": {"$in": list(ids)}, pointer_of(job.field): job.parent}
    there = tx.find(job.collection, query, {"_id": 1})
    tx.bulk(job.collection, [write("set", d["_id"], {job.field: value}) for d in there])
