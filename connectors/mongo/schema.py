"""Collections, validators and indexes of the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bson import SON
from pymongo.errors import CollectionInvalid, OperationFailure
from pymongo.operations import SearchIndexModel

from connectors.mongo.client import Database, Document, translate, translated

_NAMESPACE_EXISTS = 48
#: CommandNotFound, CommandNotSupported, SearchNotEnabled, and no mongot behind the server
_NO_SEARCH = {59, 115, 125, 31082, 6047401}


def collection_names(db: Database) -> set[str]:
    """Names of the collections that there are."""
    with translated():
        return set(db.list_collection_names())


def create_collection(db: Database, name: str, validator: Mapping[str, Any] | None = None) -> None:
    """Create a collection; one that exists gets the validator."""
    with translated():
        try:
            if validator:
                db.create_collection(name, check_exists=False, validator=validator)
            else:
                db.create_collection(name, check_exists=False)
        except (CollectionInvalid, OperationFailure) as error:
            if isinstance(error, OperationFailure) and error.code != _NAMESPACE_EXISTS:
                raise
            if validator:
                db.command("collMod", name, validator=validator)


def create_index(
    db: Database,
    name: str,
    keys: Mapping[str, int | str],
    *,
    index_name: str,
    unique: bool = False,
    expire_after_s: int | None = None,
    partial: Mapping[str, Any] | None = None,
) -> None:
    """Build one index; one that is there is left. Raises UniqueTaken when there are duplicates."""
    options: Document = {"name": index_name}
    if unique:
        options["unique"] = True
    if expire_after_s is not None:
        options["expireAfterSeconds"] = expire_after_s
    if partial:
        options["partialFilterExpression"] = partial
    with translated():
        db[name].create_index(SON(keys), **options)


def index_names(db: Database, name: str) -> set[str]:
    """Names of a collection's indexes."""
    with translated():
        return set(db[name].index_information())


def drop_indexes(db: Database, name: str, indexes: Iterable[str]) -> None:
    """Drop those of these indexes that there are."""
    there = index_names(db, name)
    with translated():
        for index in indexes:
            if index in there:
                db[name].drop_index(index)


def create_vector_index(
    db: Database, name: str, *, index_name: str, path: str, dimensions: int, similarity: str
) -> bool | None:
    """Ask for an Atlas vector search index. True: asked for; False: it is there; None: this server has no search."""
    field = {"type": "vector", "path": path, "numDimensions": dimensions, "similarity": similarity}
    try:
        if any(index["name"] == index_name for index in db[name].list_search_indexes()):
            return False
        db[name].create_search_index(
            SearchIndexModel({"fields": [field]}, name=index_name, type="vectorSearch")
        )
    except OperationFailure as error:
        if error.code in _NO_SEARCH:
            return None
        raise translate(error) from error
    return True


def drop(db: Database, names: Iterable[str]) -> None:
    """Drop collections. Safe to repeat."""
    with translated():
        for name in names:
            db.drop_collection(name)
