"""Rows tied by unique values, found so that they can be written together (docs/write-rule.md, clause 11).

Two rows that swap a unique value may arrive in either order, in different partitions. What an event alone cannot do,
all rows that are in each other's way can: removed, then written as PostgreSQL has them now, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from bson import Binary, ObjectId

from connectors.errors import Unappliable, UniqueTaken
from connectors.mongo import parked
from connectors.mongo.transaction import Transaction
from consumers.mapping.ids import integer_key, row_key
from consumers.mapping.plan import Document, Key, RowPlan
from consumers.mapping.spec import Index

#: more than that are not in each other's way by a swap
MOST = 2_000


def parked_id(table: str, key: Key) -> str:
    """The `_id` of what is parked of a row."""
    return f"{table} {row_key(key)}"


def park_row(
    tx: Transaction, table: str, key: Key, trouble: Unappliable, now_ms: int, lsn: int | None = None
) -> None:
    """Park a row that no record was read of: by a load, a walk or a job. A TRUNCATE later than lsn voids it."""
    parked.park(
        tx,
        parked_id(table, key),
        table=table,
        key=row_key(key),
        partition="",
        trouble=trouble,
        now_ms=now_ms,
        lsn=lsn,
    )


def key_of_document(use: RowPlan, document: Mapping[str, Any]) -> Key:
    """The key of the row that a document, or a staged one, was made from. Raises UniqueTaken where no row was."""
    stamp: Mapping[str, Any] = document.get("_sync") or {}
    texts = document.get("k") if use.staged else stamp.get("key")
    if texts is not None:
        return use.table.key_from_texts(texts)
    number = integer_key(use.table.name, document["_id"]) if isinstance(document["_id"], ObjectId) else None
    if number is None:
        raise UniqueTaken(
            f"{use.collection}: a document that no row was made into holds a value that has to be unique",
            remedy="find out who wrote it; remove it, then retry the parked event",
            id=document["_id"],
        )
    return (number,)


def key_in(use: RowPlan, document: Mapping[str, Any]) -> Key | None:
    """The key of the row that a document, or a staged one, stands for; None where no row can have its `_id`."""
    try:
        key = key_of_document(use, document)
        return key if use.id_of(key) == document["_id"] else None
    except (UniqueTaken, ValueError, KeyError, TypeError, AttributeError):
        return None


def unique_indexes(indexes: Iterable[Index]) -> list[Index]:
    """Those that are unique, over fields of the document itself."""
    return [i for i in indexes if i.unique and not any("." in name for name in i.keys)]


def tied(
    tx: Transaction,
    use: RowPlan,
    indexes: Iterable[Index],
    documents: Mapping[ObjectId, Document],
    keys: Mapping[ObjectId, Key],
) -> dict[ObjectId, Key]:
    """Rows that want a unique value which another row has or wants, and those others.

    documents: what is to be written. keys: every row of the batch, those that are to be removed included: a
    value that one of them holds in MongoDB is let go before anything is written.
    """
    found: dict[ObjectId, Key] = {}
    for index in indexes:
        fields = tuple(index.keys)
        wanted: dict[tuple[Any, ...], list[ObjectId]] = {}
        for _id, document in documents.items():
            values = _values(document, fields)
            if index.partial is None or None not in values:  # a partial index is there to leave out nulls
                wanted.setdefault(values, []).append(_id)
        for ids in wanted.values():
            if len(ids) > 1:
                found.update({_id: keys[_id] for _id in ids})
        for holder in _holders(tx, use, fields, wanted):
            if holder["_id"] not in keys:
                found[holder["_id"]] = key_of_document(use, holder)
                found.update({_id: keys[_id] for _id in wanted.get(_values(holder, fields), ())})
    return found


def _values(document: Mapping[str, Any], fields: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(_hashable(document.get(name)) for name in fields)


def _hashable(value: Any) -> Any:
    if isinstance(value, UUID):  # as it is read; it is written as Binary
        return Binary.from_uuid(value)
    return repr(value) if isinstance(value, dict | list) else value


def _holders(
    tx: Transaction, use: RowPlan, fields: tuple[str, ...], wanted: Mapping[tuple[Any, ...], object]
) -> list[Document]:
    if not wanted:
        return []
    shown = dict.fromkeys((*fields, "_sync"), 1)
    if len(fields) == 1:
        return tx.find(use.collection, {fields[0]: {"$in": [values[0] for values in wanted]}}, shown)
    return tx.find(use.collection, {"$or": [dict(zip(fields, v, strict=True)) for v in wanted]}, shown)
