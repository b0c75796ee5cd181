"""Fields that hold texts, such as paths, read from every document that has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from connectors.mongo.client import Database, translated

#: tandem's own, and the server's
_NOT_THEIRS = ("_tandem", "system.")
_BATCH = 2_000


def fields(db: Database, names: Iterable[str]) -> list[tuple[str, str]]:
    """(collection, field) of these fields, where some document has a text in it."""
    wanted = list(names)
    with translated():
        collections: Sequence[str] = sorted(
            name for name in db.list_collection_names() if not name.startswith(_NOT_THEIRS)
        )
        return [
            (collection, field)
            for collection in collections
            for field in wanted
            if db[collection].find_one({field: {"$type": "string"}}, {"_id": 1}) is not None
        ]


def values(db: Database, collection: str, field: str) -> Iterator[str]:
    """The texts, each as it is in its document."""
    query = {field: {"$type": "string"}}
    with translated():
        for document in db[collection].find(query, {field: 1, "_id": 0}, batch_size=_BATCH):
            value: Any = document
            for step in field.split("."):
                value = value.get(step) if isinstance(value, dict) else None
            if isinstance(value, str):
                yield value
