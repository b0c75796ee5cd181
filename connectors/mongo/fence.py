"""The fence on MongoDB's side: while it stands, no application inserts or changes a document of these collections.

It is a validator that nothing satisfies. Two things pass it: a deletion, and the commit of a transaction that had
written before it was put up (a server that locks the collection for `collMod` waits for that one). So whoever relies on
it looks once more, when the application writes elsewhere. What the validators were is written down first, and put back
when it is lifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from connectors.mongo.changes import MARKS
from connectors.mongo.client import Database, Document, translated

_ID: Final = "fence"
_NOBODY: Final[Document] = {"$expr": {"$eq": ["tandem", "writes are refused for now"]}}
_OPTIONS = ("validator", "validationLevel", "validationAction")


def raise_(db: Database, collections: Sequence[str]) -> None:
    """Put it up. Safe to repeat."""
    with translated():
        for name, options in _options(db, collections).items():
            if options.get("validator") == _NOBODY:
                continue
            kept = {option: options[option] for option in _OPTIONS if option in options}
            entry = {"collection": name, "options": kept}
            # an array, since a collection's name may have a point in it
            db[MARKS].update_one({"_id": _ID}, {"$pull": {"fenced": {"collection": name}}}, upsert=True)
            db[MARKS].update_one({"_id": _ID}, {"$push": {"fenced": entry}}, upsert=True)
            db.command("collMod", name, validator=_NOBODY, validationLevel="strict", validationAction="error")


def lift(db: Database) -> int:
    """Let writes in, and put the validators back. Returns of how many collections. Safe to repeat."""
    with translated():
        known = db[MARKS].find_one({"_id": _ID}) or {"fenced": []}
        fenced = {entry["collection"]: entry["options"] for entry in known["fenced"]}
        for name, options in _options(db, list(fenced)).items():
            if options.get("validator") == _NOBODY:
                found = fenced[name]
                db.command(
                    "collMod",
                    name,
                    validator=found.get("validator", {}),
                    validationLevel=found.get("validationLevel", "strict"),
                    validationAction=found.get("validationAction", "error"),
                )
        db[MARKS].delete_one({"_id": _ID})
        return len(fenced)


def stands(db: Database, collections: Sequence[str]) -> bool:
    """Whether all of these refuse writes."""
    with translated():
        found = _options(db, collections)
    return bool(found) and all(options.get("validator") == _NOBODY for options in found.values())


def _options(db: Database, collections: Sequence[str]) -> dict[str, dict[str, Any]]:
    there = db.list_collections(filter={"name": {"$in": list(collections)}})
    return {one["name"]: dict(one.get("options", {})) for one in there}
