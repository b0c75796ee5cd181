"""Whether a target database can hold a pipeline, tried out on a collection of its own that is dropped again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from connectors.errors import SyncError, TargetNotReady
from connectors.mongo import schema
from connectors.mongo.client import Database, translated
from connectors.mongo.transaction import Transactions, write

PROBE = "_tandem_preflight"


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """refused: what was tried and refused, with the server's words. foreign: collections with documents that
    tandem did not write. free_bytes: None where the server does not say."""

    version: tuple[int, ...]
    refused: Mapping[str, str]
    foreign: tuple[str, ...]
    free_bytes: int | None


def target_facts(db: Database, collections: Sequence[str]) -> TargetFacts:
    """Look, and try what a pipeline does: a collection, a validator, an index, a transaction, a drop."""
    with translated():
        version = tuple(int(n) for n in db.client.server_info()["version"].split("-")[0].split(".")[:2])
        stats = db.command("dbStats")
    there = schema.collection_names(db)
    with translated():
        foreign = tuple(
            name
            for name in collections
            if name in there and db[name].count_documents({"_sync": {"$exists": False}}, limit=1)
        )
    total, used = stats.get("fsTotalSize"), stats.get("fsUsedSize")
    free = int(total - used) if total is not None and used is not None else None
    return TargetFacts(version, _tried(db), foreign, free)


def clock_s(db: Database) -> float:
    """The server's clock, in seconds since 1970."""
    with translated():
        return float(db.command("hello")["localTime"].timestamp())


def _tried(db: Database) -> dict[str, str]:
    validator = {"$jsonSchema": {"bsonType": "object"}}
    steps: list[tuple[str, Callable[[], object]]] = [
        ("make a collection", lambda: schema.create_collection(db, PROBE)),
        ("set a validator", lambda: schema.create_collection(db, PROBE, validator)),
        ("build an index", lambda: schema.create_index(db, PROBE, {"p": 1}, index_name="p_1")),
        ("write in a transaction", lambda: _transaction(db)),
        ("drop a collection", lambda: schema.drop(db, [PROBE])),
    ]
    refused = {}
    for what, step in steps:
        try:
            step()
        except TargetNotReady as error:
            refused[what] = error.what
        except SyncError as error:
            if error.retry_helps:
                raise
            refused[what] = error.what
    return refused


def _transaction(db: Database) -> None:
    transactions = Transactions(db)
    try:
        transactions.repeat(lambda tx: tx.bulk(PROBE, [write("set", 1, {"p": 1}), write("delete", 1)]))
    finally:
        transactions.close()
