"""One MongoDB transaction, all or nothing, majority acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from bson import Int64
from pymongo import DeleteOne, InsertOne, ReplaceOne, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from connectors.errors import Contended
from connectors.mongo.client import Database, Document, translate, translated

Result = TypeVar("Result")
Write = InsertOne[Document] | ReplaceOne[Document] | UpdateOne | DeleteOne
Op = Literal["insert", "replace", "set", "delete"]


def anchor(_id: object) -> Write:
    """A write that conflicts with every other one of the same anchor."""
    return UpdateOne({"_id": _id}, {"$inc": {"v": Int64(1)}}, upsert=True)


def write(kind: Op, _id: object, document: Document | None = None) -> Write:
    """One write by `_id`. `replace` and `set` insert where there is no document; `set` leaves other fields."""
    if kind == "insert":
        return InsertOne({"_id": _id, **(document or {})})
    if kind == "replace":
        return ReplaceOne({"_id": _id}, document or {}, upsert=True)
    if kind == "set":
        return UpdateOne({"_id": _id}, {"$set": document or {}}, upsert=True)
    return DeleteOne({"_id": _id})


class Transaction:
    """An open transaction. Its first operation takes its snapshot; every read is of that and of its own writes."""

    def __init__(self, db: Database, session: ClientSession) -> None:
        self._db, self._session = db, session

    def find(
        self,
        collection: str,
        query: Mapping[str, Any],
        fields: Mapping[str, Any] | None = None,
        *,
        most: int = 0,
        by_id: bool = False,
    ) -> list[Document]:
        """All documents that match, or so many of them; by_id: the first ones by `_id`, in its order."""
        with translated():
            found = self._db[collection].find(query, fields, session=self._session, batch_size=10_000)
            return list((found.sort("_id", 1) if by_id else found).limit(most))

    def one(self, collection: str, query: Mapping[str, Any]) -> Document | None:
        """The document that matches, or None."""
        with translated():
            return self._db[collection].find_one(query, session=self._session)

    def count(self, collection: str, query: Mapping[str, Any] = MappingProxyType({})) -> int:
        """How many documents match."""
        with translated():
            return self._db[collection].count_documents(query, session=self._session)

    def bulk(self, collection: str, writes: Sequence[Write]) -> int:
        """Carry out writes in their order. Returns how many documents they matched. Raises by kind."""
        if not writes:
            return 0
        with translated():
            result = self._db[collection].bulk_write(writes, ordered=True, session=self._session)
        return result.matched_count

    def insert(self, collection: str, documents: Iterable[Document]) -> None:
        """Insert new documents."""
        with translated():
            self._db[collection].insert_many(documents, ordered=True, session=self._session)

    def update(
        self,
        collection: str,
        query: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        upsert: bool = False,
        many: bool = False,
    ) -> int:
        """Change one document, or all, that match. Returns how many matched."""
        with translated():
            run = self._db[collection].update_many if many else self._db[collection].update_one
            return run(query, change, upsert=upsert, session=self._session).matched_count

    def delete(self, collection: str, query: Mapping[str, Any]) -> int:
        """Delete all that match. Returns how many."""
        with translated():
            return self._db[collection].delete_many(query, session=self._session).deleted_count


class Transactions:
    """Runs work in transactions of one session, one after the other. Used by one thread at a time."""

    def __init__(self, db: Database) -> None:
        self.db = db
        with translated():
            self._session = db.client.start_session(causal_consistency=False)
        self.commits = 0
        self.conflicts = 0

    @property
    def session_id(self) -> Mapping[str, Any]:
        """By which another client can end what this one has left open."""
        return self._session.session_id

    def close(self) -> None:
        """End the session, and a transaction that is open in it."""
        self._session.end_session()

    def once(self, work: Callable[[Transaction], Result]) -> Result:
        """Run work and commit. Raises Contended when it has to be run again, and whatever work raises.

        After ServerGone it is not known whether it was committed: the caller looks at what MongoDB says.
        """
        self._session.start_transaction(
            read_concern=ReadConcern("snapshot"),
            write_concern=WriteConcern("majority"),
            max_commit_time_ms=60_000,
        )
        try:
            result = work(Transaction(self.db, self._session))
            self._commit()
        except Contended:
            self.conflicts += 1
            raise
        finally:
            if self._session.in_transaction:
                with suppress(PyMongoError):  # it lapses by itself
                    self._session.abort_transaction()
        self.commits += 1
        return result

    def _commit(self) -> None:
        """Commit; the same again while the answer is unknown, which is safe (MongoDB documentation, Transactions)."""
        until = time.monotonic() + 30
        while True:
            try:
                self._session.commit_transaction()
                return
            except PyMongoError as error:
                if error.has_error_label("UnknownTransactionCommitResult") and time.monotonic() < until:
                    time.sleep(0.1)
                    continue
                raise translate(error) from error

    def repeat(self, work: Callable[[Transaction], Result], *, within_s: float = 120) -> Result:
        """Run work until it is committed, again after each conflict. Raises the last Contended after within_s."""
        until, pause = time.monotonic() + within_s, 0.005
        while True:
            try:
                return self.once(work)
            except Contended:
                if time.monotonic() > until:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.6, 0.5)
