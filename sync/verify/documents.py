"""MongoDB's side: reads documents, never writes one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bson import ObjectId

from connectors.mongo.client import Database, Document, translated
from sync.verify.canonical import described

#: Events that could not be applied: `table` and `key`, as `consumers.mapping.ids.row_key` writes it.
PARKED = "_tandem_parked"

#: `_id`s in one query: the embedded server takes time by the square of them.
_AT_ONCE = 50

Token = ObjectId | str


def token(id_: Any) -> Token:
    """Something to look an `_id` up by; other clients may have written `_id`s of any type."""
    return id_ if isinstance(id_, ObjectId) else described(id_, limit=1000)


def these(database: Database, collection: str, ids: Iterable[Any]) -> dict[Token, Document]:
    """The documents with these `_id`s."""
    wanted = list(ids)
    found: dict[Token, Document] = {}
    with translated():
        for start in range(0, len(wanted), _AT_ONCE):
            some = {"_id": {"$in": wanted[start : start + _AT_ONCE]}}
            found.update((token(d["_id"]), d) for d in database[collection].find(some, batch_size=_AT_ONCE))
    return found


def ids(database: Database, collection: str, batch: int) -> Iterator[list[Any]]:
    """Every `_id` of a collection, in batches. A document that is there all the time is among them."""
    # by the index: its entries alone are read
    with translated(), database[collection].find({}, {"_id": 1}, batch_size=batch, hint="_id_") as cursor:
        gathered: list[Any] = []
        for document in cursor:
            gathered.append(document["_id"])
            if len(gathered) == batch:
                yield gathered
                gathered = []
        if gathered:
            yield gathered


def parked(database: Database, table: str, keys: Sequence[str]) -> set[str]:
    """Those of these keys that have parked events."""
    with translated():
        return {event["key"] for event in database[PARKED].find({"table": table, "key": {"$in": list(keys)}})}


def parked_count(database: Database, table: str) -> int:
    """How many events of a table are parked."""
    with translated():
        return database[PARKED].count_documents({"table": table})
