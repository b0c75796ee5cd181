"""Sessions in the target: who has one, what becomes of each, what was told to whom.

How far each is lies in `_tandem_sessions`, by the session document's own `_id`, and not in the document: while a
pipeline runs, that is the consumers' alone. It is written there only by `publish`.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, TypeVar

from bson import DatetimeMS, Decimal128
from bson.errors import InvalidBSON
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from connectors.mongo.client import Database, Document, translated
from connectors.settings import SessionShape

T = TypeVar("T")
#: sessions of one request
_PIECE = 1_000
MOVES = "_tandem_sessions"
NOTICES = "_tandem_notices"
MIGRATING, MIGRATED, FAILED = "migrating", "migrated", "migration_failed"
#: what publish writes into a session's document
_WRITTEN = ("status", "migratedAt", "acpSessionId", "migrationReason")


@dataclass(frozen=True, slots=True)
class Session:
    """One session document. session: the value that conversations go by; it may be a token, so it is shown nowhere."""

    id: Any
    user: str
    workspace: str | None
    status: str
    session: Any = field(repr=False)

    @property
    def name(self) -> str:
        """For people: the document's `_id`."""
        return str(self.id)


@dataclass(frozen=True, slots=True)
class Move:
    """How far a session is. key: the same for all its attempts. agent_id: the agent's id of it. size: messages that
    were restored."""

    id: Any
    status: str
    attempt: int
    key: str
    agent_id: str | None = None
    reason: str | None = None
    size: int | None = None
    #: of the conversation that was restored
    digest: str | None = None
    #: its document says so
    published: bool = False


def _unexpired(shape: SessionShape, now: datetime) -> Document:
    expires = shape.expires_field
    return {"$or": [{expires: {"$gt": now}}, {expires: None}]}  # None: also where there is no such field


def _text(value: Any) -> str:
    return "" if value is None else str(value)


class TargetRoster:
    """Who has sessions now, by MongoDB."""

    place = "MongoDB"

    def __init__(self, db: Database, shape: SessionShape) -> None:
        self._db, self._shape = db, shape

    def users(self) -> Mapping[str, int]:
        """User -> sessions in use."""
        shape, found = self._shape, dict[str, int]()
        query = {"status": shape.active_status, **_unexpired(shape, datetime.now(UTC))}
        with translated():
            for document in self._db[shape.collection].find(query, {shape.user_field: 1}):
                user = _text(document.get(shape.user_field))
                found[user] = found.get(user, 0) + 1
        return dict(sorted(found.items()))

    def close(self) -> None:
        """The database is the caller's."""


def candidates(db: Database, shape: SessionShape) -> list[Session]:
    """Sessions that have not expired and are in use, moved, or failed to move; in order of their ids."""
    query = {
        "status": {"$in": [shape.active_status, MIGRATED, FAILED]},
        **_unexpired(shape, datetime.now(UTC)),
    }
    fields = (shape.session_field, shape.user_field, shape.workspace_field, "status")
    with translated():
        found = db[shape.collection].find(query, dict.fromkeys(fields, 1)).sort("_id", 1)
        return [
            Session(
                d["_id"],
                _text(d.get(shape.user_field)),
                d.get(shape.workspace_field),
                d["status"],
                d.get(shape.session_field),
            )
            for d in found
        ]


def conversation(db: Database, shape: SessionShape, session: Session) -> list[Any]:
    """A session's messages as JSON has them; empty where it has none."""
    with translated():
        found = db[shape.conversations].find_one({shape.session_field: session.session})
    messages = (found or {}).get(shape.messages_field)
    return [plain(m) for m in messages] if isinstance(messages, list) else []


def digest_of(messages: list[Any]) -> str:
    """By which a conversation is known to have changed."""
    text = json.dumps(messages, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def plain(value: Any) -> Any:
    """A BSON value as JavaScript's JSON.stringify has it: dates as ISO text, ids as hex digits, NaN as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, DatetimeMS):
        try:
            value = value.as_datetime()
        except (InvalidBSON, ValueError, OverflowError):
            return int(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal128):
        return str(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value)


# -- how far each is ---------------------------------------------------------------------------------------------
def moves(db: Database) -> dict[Any, Move]:
    """By the session document's `_id`."""
    with translated():
        return {d["_id"]: _move(d) for d in db[MOVES].find({})}


def _move(document: Document) -> Move:
    return Move(
        document["_id"],
        document["status"],
        document["attempt"],
        document["key"],
        document.get("agentId"),
        document.get("reason"),
        document.get("size"),
        document.get("digest"),
        document.get("published") == document["attempt"],
    )


def begin(db: Database, session: Session, *, anew: bool = False) -> Move:
    """Note, before the agent is asked, that a session is being moved. An attempt that began before this is void.
    anew: with another key, so that the agent makes another session."""
    key = {"key": str(uuid.uuid4())}
    change: Document = {
        "$set": {"status": MIGRATING, "at": datetime.now(UTC), **(key if anew else {})},
        "$inc": {"attempt": 1},
        "$unset": {"reason": 1, "agentId": 1, "size": 1, "digest": 1},
    }
    if not anew:
        change["$setOnInsert"] = key
    with translated():
        for again in (True, False):
            try:
                found = db[MOVES].find_one_and_update(
                    {"_id": session.id}, change, upsert=True, return_document=ReturnDocument.AFTER
                )
                break
            except DuplicateKeyError:  # somebody else has made it at the same time
                if not again:
                    raise
    assert found is not None
    return _move(found)


def end(
    db: Database,
    move: Move,
    status: str,
    *,
    agent_id: str | None,
    reason: str | None,
    size: int | None,
    digest: str | None = None,
) -> bool:
    """Note what became of an attempt. False: another one has begun since, and this one says nothing."""
    known = {"agentId": agent_id, "reason": reason, "size": size, "digest": digest}
    fields: Document = {
        "status": status,
        "at": datetime.now(UTC),
        **{name: value for name, value in known.items() if value is not None},
    }
    with translated():
        done = db[MOVES].update_one({"_id": move.id, "attempt": move.attempt}, {"$set": fields})
    return done.matched_count == 1


def publish(db: Database, shape: SessionShape) -> int:
    """Write what became of each session into its document: status, migratedAt, acpSessionId, migrationReason.

    What was there before is kept for `withdraw`. Safe to repeat. Returns how many were written now; a session whose
    document has expired since is passed over.
    """
    with translated():
        ended = [d for d in db[MOVES].find({"status": {"$in": [MIGRATED, FAILED]}}) if _unpublished(d)]
        if not ended:
            return 0
        there = _documents(db, shape, [d["_id"] for d in ended])
        ended = [d for d in ended if d["_id"] in there]
        kept = [
            UpdateOne({"_id": d["_id"]}, {"$set": {"before": there[d["_id"]]}})
            for d in ended
            if "before" not in d
        ]
        _bulk(db, MOVES, kept)
        _bulk(db, shape.collection, [UpdateOne({"_id": d["_id"]}, _outcome(d)) for d in ended])
        _bulk(
            db,
            MOVES,
            [
                UpdateOne({"_id": d["_id"], "attempt": d["attempt"]}, {"$set": {"published": d["attempt"]}})
                for d in ended
            ],
        )
        return len(ended)


def _unpublished(document: Document) -> bool:
    return bool(document.get("published") != document["attempt"])


def _documents(db: Database, shape: SessionShape, ids: Sequence[Any]) -> dict[Any, Document]:
    documents = {}
    for some in _in_pieces(ids):
        found = db[shape.collection].find({"_id": {"$in": list(some)}}, dict.fromkeys(_WRITTEN, 1))
        documents.update({d.pop("_id"): d for d in found})
    return documents


def _outcome(document: Document) -> Document:
    fields = {
        "status": document["status"],
        "migratedAt": document["at"],
        "acpSessionId": document.get("agentId"),
        "migrationReason": document.get("reason"),
    }
    change: Document = {"$set": {name: value for name, value in fields.items() if value is not None}}
    if gone := {name: 1 for name, value in fields.items() if value is None}:
        change["$unset"] = gone
    return change


def withdraw(db: Database, shape: SessionShape) -> int:
    """Put documents back as they were before `publish`, and forget every move: a later one begins anew, with a
    conversation that may have grown. Safe to repeat. Returns how many moves are forgotten."""
    with translated():
        known = list(db[MOVES].find({}))
        back = []
        for d in (d for d in known if "before" in d):
            before = d["before"]
            change: Document = {"$set": before} if before else {}
            if gone := {name: 1 for name in _WRITTEN if name not in before}:
                change["$unset"] = gone
            back.append(UpdateOne({"_id": d["_id"]}, change))
        _bulk(db, shape.collection, back)
        for some in _in_pieces([d["_id"] for d in known]):
            db[MOVES].delete_many({"_id": {"$in": list(some)}})
        return len(known)


def _bulk(db: Database, collection: str, writes: Sequence[UpdateOne]) -> None:
    for some in _in_pieces(writes):
        db[collection].bulk_write(list(some), ordered=False)


def _in_pieces(all_: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(all_), _PIECE):
        yield all_[first : first + _PIECE]


# -- what was told -----------------------------------------------------------------------------------------------
def told(db: Database, notice: str) -> set[str]:
    """`channel/user` of every receipt of a notice."""
    with translated():
        return {d["to"] for d in db[NOTICES].find({"notice": notice}, {"to": 1})}


def receipt(db: Database, notice: str, to: str) -> None:
    """Note that a channel has taken a notice for a user."""
    with translated():
        db[NOTICES].update_one(
            {"_id": f"{notice}/{to}"},
            {"$set": {"notice": notice, "to": to, "at": datetime.now(UTC)}},
            upsert=True,
        )


class NoticeCollection:
    """A collection that the application watches: one document for each notice and user."""

    name = "collection"

    def __init__(self, db: Database, collection: str) -> None:
        self._db, self._collection = db, collection

    def close(self) -> None:
        """The database is the caller's."""

    def check(self) -> None:
        """Raise ServerGone where MongoDB does not answer."""
        with translated():
            self._db.command("ping")

    def send(self, id_: str, notice: Mapping[str, object]) -> None:
        """Insert a notice, unless it is there."""
        fields = {name: value for name, value in notice.items() if name != "scheduledTime"}
        at = datetime.fromisoformat(str(notice["scheduledTime"]))
        with translated():
            self._db[self._collection].update_one(
                {"_id": id_},
                {"$setOnInsert": {**fields, "scheduledTime": at, "createdAt": datetime.now(UTC)}},
                upsert=True,
            )


def has(db: Database, collection: str) -> bool:
    """Whether there is such a collection."""
    with translated():
        return collection in db.list_collection_names(filter={"name": collection})
