"""What changes in the target's documents, from a point on: MongoDB's change streams.

An event only says which document has changed; what the document says is read afterwards. So no event is too large, and
a server that keeps no images of documents before and after a change will do, except for documents whose `_id` does not
say which row they are: of these the image before a deletion is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import DatetimeMS, Int64, Timestamp, json_util
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from pymongo.change_stream import DatabaseChangeStream
from pymongo.errors import OperationFailure, PyMongoError

from connectors.errors import CollectionGone, HistoryLost
from connectors.mongo.client import Database, Document, translated

#: InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost, FailedToParse of a token
_LOST = {260, 280, 286, 9}
#: where this pipeline writes, to see that it has been read up to there
MARKS = "_tandem_reverse"
_MARK = "mark"
_SET = {
    "$map": {
        "input": {"$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}},
        "as": "f",
        "in": "$$f.k",
    }
}
_DELETED = {"$eq": ["$operationType", "delete"]}
_PROJECTED = {
    "operationType": 1,
    "ns": 1,
    "documentKey": 1,
    "clusterTime": 1,
    "wallTime": 1,
    "after": "$fullDocument._sync",
    "before": "$fullDocumentBeforeChange._sync",
    "gone": {"$cond": [_DELETED, "$fullDocumentBeforeChange", "$$REMOVE"]},
    "mark": {"$cond": [{"$eq": ["$ns.coll", MARKS]}, "$fullDocument.n", "$$REMOVE"]},
    "set": _SET,
}


@dataclass(frozen=True, slots=True)
class Change:
    """One document has changed. kind: insert, update, replace, delete. set: the fields that an update has set.
    sync: `_sync` behind it, before: `_sync` before it, each where MongoDB tells it. gone: what was deleted, where
    MongoDB kept it. mark: the number that was written to see how far this is."""

    collection: str
    id: Any
    kind: str
    at: datetime
    set: tuple[str, ...] = ()
    sync: Any = None
    before: Any = None
    gone: Document | None = None
    mark: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes in their order. token: where to go on behind them."""

    changes: tuple[Change, ...]
    token: Mapping[str, Any]


def keep_images(db: Database, collections: Sequence[str]) -> None:
    """Let MongoDB keep documents as they were before a change, as long as its settings say. Safe to repeat."""
    with translated():
        there = set(db.list_collection_names())
        for name in (*collections, MARKS):
            if name not in there:
                db.create_collection(name, check_exists=False)
            db.command("collMod", name, changeStreamPreAndPostImages={"enabled": True})


def mark(db: Database) -> int:
    """Write a mark into the stream. Returns its number; each is larger than those before."""
    with translated():
        found = db[MARKS].find_one_and_update(
            {"_id": _MARK}, {"$inc": {"n": Int64(1)}}, upsert=True, return_document=True
        )
        assert found is not None, "it was made by this very write"
        number = int(found["n"])
        # an insertion, since of these every server tells the whole document
        db[MARKS].insert_one({"_id": Int64(number), "n": Int64(number)})
        db[MARKS].delete_many({"_id": {"$type": "long", "$lt": Int64(number - 20)}})
        return number


_JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    document_class=dict,
)


def as_text(value: Any) -> str:
    """An `_id` or a token as text that stands for it alone."""
    return json_util.dumps(value, json_options=_JSON)


def from_text(text: str) -> Any:
    """What `as_text` was made from."""
    return json_util.loads(text, json_options=_JSON)


class Changes:
    """The stream of some collections of a database. Used by one thread at a time."""

    def __init__(
        self, db: Database, collections: Sequence[str], after: Mapping[str, Any] | None = None
    ) -> None:
        """after: a token; without one from now on. Raises HistoryLost, CollectionGone, Unavailable."""
        self._db = db
        named = {"$match": {"ns.coll": {"$in": [*collections, MARKS]}}}
        self._collections = frozenset(collections)
        try:
            with translated():
                self._stream: DatabaseChangeStream[Document] = db.watch(
                    [named, {"$project": _PROJECTED}],
                    full_document_before_change="whenAvailable",
                    resume_after=after,
                    max_await_time_ms=200,
                )
        except Exception as error:
            raise _lost(error) or error from error

    def close(self) -> None:
        """End it."""
        with suppress(PyMongoError):
            self._stream.close()

    @property
    def token(self) -> Mapping[str, Any]:
        """Where a stream that is begun later goes on."""
        token = self._stream.resume_token
        assert token is not None, "a stream that was opened has a token"
        return dict(token)

    def next(self, most: int) -> Batch:
        """The next changes, waiting a little for the first. Raises HistoryLost, CollectionGone, Unavailable."""
        found: list[Change] = []
        try:
            with translated():
                while len(found) < most and (event := self._stream.try_next()) is not None:
                    found.append(self._change(event))
        except Exception as error:
            raise _lost(error) or error from error
        return Batch(tuple(found), self.token)

    def _change(self, event: Mapping[str, Any]) -> Change:
        name, kind = event.get("ns", {}).get("coll", ""), event["operationType"]
        if kind not in ("insert", "update", "replace", "delete"):
            raise CollectionGone(
                f"MongoDB: {kind} of the collection {name or 'or the whole database'}",
                remedy="where its documents are meant to be gone, delete the rows by hand; then `tandem reverse resync`"
                " takes up what is there now",
            )
        return Change(
            name,
            event["documentKey"]["_id"],
            kind,
            moment(event),
            tuple(event.get("set") or ()),
            event.get("after"),
            event.get("before"),
            event.get("gone"),
            None if event.get("mark") is None else int(event["mark"]),
        )


def moment(event: Mapping[str, Any]) -> datetime:
    """When it happened, by MongoDB's clock."""
    found = event.get("wallTime") or event.get("clusterTime")
    if isinstance(found, DatetimeMS | Timestamp):
        found = found.as_datetime()
    if not isinstance(found, datetime):
        return datetime.now(UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _lost(error: Exception) -> HistoryLost | None:
    cause = error.__cause__ if not isinstance(error, OperationFailure) else error
    if isinstance(cause, OperationFailure) and cause.code in _LOST:
        return HistoryLost(
            "MongoDB no longer keeps its changes back to where the way back stands",
            remedy="`tandem reverse resync`: it compares all documents with their rows, and goes on from there",
            mongo_code=cause.code,
        )
    return None


def documents(db: Database, collection: str, ids: Sequence[Any]) -> dict[str, Document]:
    """Those of these documents that there are, by the text of their `_id`."""
    with translated():
        return {as_text(d["_id"]): d for d in db[collection].find({"_id": {"$in": list(ids)}})}


def ids_after(db: Database, collection: str, last: Any, most: int) -> list[Any]:
    """The `_id`s behind one, in their order; last: None from the first on. Those of other types than the last one's
    come behind them, as MongoDB orders types."""
    with translated():
        query = {} if last is None else {"$expr": {"$gt": ["$_id", {"$literal": last}]}}
        return [d["_id"] for d in db[collection].find(query, {"_id": 1}).sort("_id", 1).limit(most)]


def remove_document(db: Database, collection: str, id_: Any) -> int:
    """Remove one. Returns how many there were."""
    with translated():
        return db[collection].delete_one({"_id": id_}).deleted_count
