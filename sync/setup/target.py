"""What is made in MongoDB: collections with validators, indexes, tandem's own collections."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from connectors.errors import UniqueTaken
from connectors.mongo import ledger, schema
from connectors.mongo.client import Database
from consumers.mapping.plan import Plan, pointer_of
from consumers.mapping.spec import Collection, Index, Mapping_

Log = Callable[..., None]


def json_schema(collection: Collection) -> dict[str, object] | None:
    """The validator as MongoDB takes it; None where none is declared."""
    if collection.validator is None:
        return None
    wanted: dict[str, object] = {"bsonType": "object"}
    if collection.validator.required:
        wanted["required"] = list(collection.validator.required)
    if collection.validator.properties:
        wanted["properties"] = collection.validator.properties
    return {"$jsonSchema": wanted}


def make_collections(db: Database, plan: Plan) -> list[str]:
    """Collections, validators and every index that need not wait. Safe to repeat. Returns what was new."""
    there = schema.collection_names(db)
    made = [name for name in plan.declared.collections if name not in there]
    for name in ledger.OWN:
        if name not in there:
            schema.create_collection(db, name)
    for name, collection in plan.declared.collections.items():
        schema.create_collection(db, name, json_schema(collection))
        for use in plan.staged(name):
            if use.place not in there:
                schema.create_collection(db, use.place)
            if use.copied:
                pointer = pointer_of(use.copied)
                schema.create_index(db, name, {pointer: 1, "_id": 1}, index_name=f"{pointer}_1")
            else:
                schema.create_index(db, use.place, {"p": 1}, index_name="p_1")
        for index in collection.indexes:
            if not index.unique or collection.table is None:
                _create(db, name, index)
    return made


def _create(db: Database, name: str, index: Index) -> None:
    schema.create_index(
        db,
        name,
        index.keys,
        index_name=index.wire_name,
        unique=index.unique,
        expire_after_s=index.expire_after_s,
        partial=index.partial,
    )


def missing_unique(db: Database, mapping: Mapping_) -> list[tuple[str, Index]]:
    """Unique indexes that have still to be built, once their collections have caught up."""
    missing = []
    for name, collection in mapping.collections.items():
        wanted = [index for index in collection.indexes if index.unique and collection.table]
        there = schema.index_names(db, name) if wanted else set()
        missing += [(name, index) for index in wanted if index.wire_name not in there]
    return missing


def build_unique(db: Database, wanted: Sequence[tuple[str, Index]], log: Log) -> list[tuple[str, Index]]:
    """Build them. Returns those that met the duplicates of a swap in passing, to be tried again."""
    left = []
    for name, index in wanted:
        try:
            _create(db, name, index)
            log(f"built the unique index {index.wire_name} of {name}")
        except UniqueTaken:
            left.append((name, index))
    return left


def make_vector_indexes(db: Database, mapping: Mapping_, log: Log) -> list[str]:
    """Vector search indexes. Returns warnings for those that this server cannot have."""
    warnings = []
    for name, collection in mapping.collections.items():
        for wanted in collection.vector_search:
            asked = schema.create_vector_index(
                db,
                name,
                index_name=wanted.name,
                path=wanted.path,
                dimensions=wanted.dimensions,
                similarity=wanted.similarity,
            )
            if asked:
                log(f"asked for the vector search index {wanted.name} of {name}")
            elif asked is None:
                warnings.append(
                    f"no vector search index {wanted.name} on {name}: this MongoDB server has no search"
                    " (Atlas and Atlas Local have); the data is kept in step all the same"
                )
    return warnings


def drop_own(db: Database) -> None:
    """Remove tandem's own collections, staged rows included."""
    schema.drop(db, [name for name in schema.collection_names(db) if name.startswith("_tandem_")])
