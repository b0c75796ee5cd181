"""Flags in a collection: `{_id: NAME, definition: {...}, version: N}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bson import Int64
from pymongo.errors import DuplicateKeyError

from connectors.errors import FlagMoved, FlagRefused
from connectors.flags import Kept
from connectors.mongo.client import Database, Document, translated


class FlagCollection:
    """One collection of the target database."""

    def __init__(self, db: Database, collection: str) -> None:
        self._flags = db[collection]

    @property
    def where(self) -> str:
        """For people."""
        return f"the collection {self._flags.name}"

    def all(self) -> list[Kept]:
        """All flags."""
        with translated():
            return [self._kept(document) for document in self._flags.find().sort("_id", 1)]

    def read(self, name: str) -> Kept | None:
        """One of them."""
        with translated():
            found = self._flags.find_one({"_id": name})
        return None if found is None else self._kept(found)

    def write(self, name: str, definition: Mapping[str, Any], based_on: str | None) -> None:
        """Write it where it has still this version."""
        with translated():
            try:
                if based_on is None:
                    self._flags.insert_one({"_id": name, "definition": dict(definition), "version": Int64(1)})
                    return
                changed = self._flags.update_one(
                    {"_id": name, "version": Int64(based_on)},
                    {"$set": {"definition": dict(definition)}, "$inc": {"version": Int64(1)}},
                )
            except DuplicateKeyError:
                raise FlagMoved(f"the flag {name} was made in between", remedy="read it anew") from None
        if not changed.matched_count:
            raise FlagMoved(f"the flag {name} was changed in between", remedy="read it anew")

    def _kept(self, document: Document) -> Kept:
        definition, version = document.get("definition"), document.get("version")
        if not isinstance(definition, dict) or not isinstance(version, int):
            raise FlagRefused(
                f"the document {document['_id']!r} of {self.where} is no flag",
                remedy="it has to have `definition`, in flagd's form, and `version`, a number",
            )
        return Kept(str(document["_id"]), definition, str(int(version)))
