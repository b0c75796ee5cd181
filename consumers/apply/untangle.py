"""Rows tied by unique values, written together (docs/write-rule.md, clause 11).

Two rows that swap a unique value may arrive in either order. What an event alone cannot do, all rows that are in each
other's way can: removed, then written as PostgreSQL has them now, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bson import ObjectId

from connectors.errors import UniqueTaken
from connectors.mongo import ledger
from connectors.mongo.transaction import Transaction, write
from consumers.apply.decide import Read
from consumers.apply.write import RowWriter
from consumers.mapping.ids import integer_key, row_key
from consumers.mapping.plan import Document, Key, RowPlan

#: more than that are not in each other's way by a swap
_MOST = 1_000


def parked_id(table: str, key: Key) -> str:
    """The `_id` of what is parked of a row."""
    return f"{table} {row_key(key)}"


def key_of_document(use: RowPlan, document: Mapping[str, Any]) -> Key:
    """The primary key of the row that a document was made from."""
    stamp: Mapping[str, Any] = document.get("_sync") or {}
    if "key" in stamp:
        return tuple(stamp["key"])
    number = integer_key(use.table.name, document["_id"])
    if number is None:
        raise UniqueTaken(
            f"{use.collection}: a document that no row was made into holds a value that has to be unique",
            remedy="find out who wrote it; remove it, then retry the parked event",
            id=document["_id"],
        )
    return (number,)


def untangle(tx: Transaction, writer: RowWriter, use: RowPlan, key: Key) -> int:
    """Write a row, and all that hold its unique values and theirs, as they are now. Returns how many rows.

    The caller has written the row's own position; the others' documents conflict by themselves. Raises
    UniqueTaken, and whatever writing a row raises.
    """
    keys: dict[ObjectId, Key] = {use.id_of(key): key}
    while True:
        documents = _as_they_are(writer, use, keys.values())
        tied = _holders(tx, writer, use, documents, keys)
        if not tied:
            break
        keys.update(tied)
        if len(keys) > _MOST:
            raise UniqueTaken(
                f"{use.collection}: more than {_MOST} rows are tied by unique values", remedy="look at the parked event"
            )
    tx.bulk(use.collection, [write("delete", _id) for _id in keys])
    writer.apply(tx, {use.table.name: {k: Read(k, True, None, 0) for k in keys.values()}})
    tx.delete(ledger.PARKED, {"_id": {"$in": [parked_id(use.table.name, k) for k in keys.values()]}})
    return len(keys)


def _as_they_are(writer: RowWriter, use: RowPlan, keys: Iterable[Key]) -> list[Document]:
    """The documents that these rows give now; none for a row that is gone or outside its filter."""
    now = writer.now_us()
    natives = writer.current(use.table, list(keys))
    return [use.document(n, now) for n in natives.values() if use.inside(n, now)]


def _holders(
    tx: Transaction, writer: RowWriter, use: RowPlan, documents: Sequence[Document], known: Mapping[ObjectId, Key]
) -> dict[ObjectId, Key]:
    """Documents beside the known ones that hold a value that one of these documents needs for itself."""
    tied: dict[ObjectId, Key] = {}
    for index in writer.plan.declared.collections[use.collection].indexes:
        fields = [name for name in index.keys if "." not in name]
        if not index.unique or len(fields) != len(index.keys):
            continue
        wanted = [{name: d.get(name) for name in fields} for d in documents]
        if wanted:
            for found in tx.find(use.collection, {"$or": wanted}, {"_sync": 1}):
                if found["_id"] not in known:
                    tied[found["_id"]] = key_of_document(use, found)
    return tied
