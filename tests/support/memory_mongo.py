"""A MongoDB in memory: as much of it as the write rule leans on, so that histories can be played by the thousand.

`MemoryTransactions` and `MemoryTransaction` keep the contracts of `connectors.mongo.transaction`; `MemoryDatabase` is
the little of pymongo's that the ledger uses outside of transactions. What they do is what
tests/contract/test_mongo_transactions.py shows of real servers: a snapshot taken by the first operation, the first
writer wins at once, a delete or an update that matches nothing conflicts with nothing (so write skew is possible),
unique values are judged at each statement, an error ends the transaction, a client that dies leaves its
transaction open, and plain writes wait for open ones. Where servers may differ there is a switch.

Nothing happens in between by itself: `before` is called ahead of each operation, and whoever plays the history
lets others run in it, or raises.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID

import bson
from bson import DatetimeMS, ObjectId
from pymongo import DeleteOne, InsertOne, ReplaceOne, UpdateOne

from connectors.errors import Contended, ServerGone, UniqueTaken
from connectors.mongo.client import CODEC, translated

Document = dict[str, Any]
Result = TypeVar("Result")
_MISSING = object()
Place = tuple[str, Any]


class MemoryMongo:
    """The server: what is committed, when each document was last changed, and which transactions are open.

    lifetime_s: after that the server ends an open transaction. races_as_duplicates: a unique value taken since
    the snapshot is told as a duplicate and not as a conflict; servers may do either.
    """

    def __init__(
        self,
        *,
        before: Callable[[str], None] = lambda what: None,
        clock: Callable[[], float] = lambda: 0.0,
        wait: Callable[[], None] | None = None,
        lifetime_s: float = 60.0,
        races_as_duplicates: bool = False,
    ) -> None:
        self.before, self.clock, self.wait = before, clock, wait
        self.lifetime_s, self.races_as_duplicates = lifetime_s, races_as_duplicates
        self.documents: dict[str, dict[Any, Document]] = {}
        self.unique: dict[str, list[tuple[str, ...]]] = {}
        self.changed: dict[Place, int] = {}
        self.pending: dict[Place, OpenTransaction] = {}
        self.open: list[OpenTransaction] = []
        self.time = 0
        self.conflicts = 0
        #: what becomes of a commit's answer: "" it comes; "after": lost when it was done; "before": it never was
        self.fate: Callable[[], str] = lambda: ""
        self._sessions = itertools.count(1)
        self.db = MemoryDatabase(self)

    def collection(self, name: str) -> dict[Any, Document]:
        """The committed documents of a collection by `_id`."""
        return self.documents.setdefault(name, {})

    def build_unique(self, collection: str, fields: tuple[str, ...]) -> None:
        """Build a unique index. Raises UniqueTaken where there are duplicates."""
        seen: set[tuple[Any, ...]] = set()
        for document in self.collection(collection).values():
            values = _values(document, fields)
            if values in seen:
                raise _taken(collection, values)
            seen.add(values)
        self.unique.setdefault(collection, []).append(fields)

    def next_session(self) -> int:
        """A session's number."""
        return next(self._sessions)

    def expire(self) -> None:
        """End transactions that are older than the limit."""
        for transaction in list(self.open):
            if self.clock() - transaction.begun > self.lifetime_s:
                transaction.end()

    def kill(self, session: object) -> None:
        """End what a session has open."""
        for transaction in list(self.open):
            if transaction.session == session:
                transaction.end()

    def until_free(self, place: Place) -> None:
        """A plain write waits for the transaction that has written the document."""
        for _ in range(2_000):
            self.expire()
            if place not in self.pending:
                return
            if self.wait is None:
                break
            self.wait()
        raise ServerGone("a plain write waits for an open transaction", remedy="none: this is a test")

    def plain_write(self, collection: str, _id: Any, document: Document | None) -> None:
        """A write outside of transactions; None: delete."""
        self.until_free((collection, _id))
        self.time += 1
        self.changed[collection, _id] = self.time
        if document is None:
            self.collection(collection).pop(_id, None)
        else:
            self.collection(collection)[_id] = stored(document)


class OpenTransaction:
    """One transaction as the server sees it. Documents are never changed in place."""

    def __init__(self, store: MemoryMongo, session: object) -> None:
        self.store, self.session, self.alive, self.begun = store, session, True, store.clock()
        self.writes: dict[Place, Document | None] = {}
        self._snapshot: dict[str, dict[Any, Document]] | None = None
        self._time = 0
        store.open.append(self)

    def end(self) -> None:
        """Abort, whoever says so."""
        self.alive = False
        store = self.store
        if self in store.open:
            store.open.remove(self)
        for place in [place for place, other in store.pending.items() if other is self]:
            del store.pending[place]

    def commit(self) -> None:
        """Make it so. Raises Contended when the server has ended it."""
        self._alive()
        store = self.store
        if self.writes:
            store.time += 1
        for (collection, _id), document in self.writes.items():
            store.changed[collection, _id] = store.time
            if document is None:
                store.collection(collection).pop(_id, None)
            else:
                store.collection(collection)[_id] = document
        self.end()

    def view(self, collection: str) -> dict[Any, Document]:
        """The documents of its snapshot under its own writes."""
        self._alive()
        if self._snapshot is None:
            self._snapshot = {name: dict(documents) for name, documents in self.store.documents.items()}
            self._time = self.store.time
        seen = self._snapshot.get(collection, {})
        mine = {_id: document for (name, _id), document in self.writes.items() if name == collection}
        if not mine:
            return seen
        return {_id: document for _id, document in {**seen, **mine}.items() if document is not None}

    def put(self, collection: str, _id: Any, document: Document | None) -> None:
        """Write a document; None: delete. One that is as it was is no write: it locks nothing."""
        before = self.view(collection).get(_id)
        after = None if document is None else stored(document)
        if before == after:
            return
        if after is not None:
            self._check_unique(collection, _id, after)
        place = (collection, _id)
        if self._touched_by_others(place):
            self._conflict(f"{collection}/{_id}")
        self.store.pending[place] = self
        self.writes[place] = after

    def duplicate(self, collection: str, values: object) -> UniqueTaken:
        """End it for a duplicate."""
        self.end()
        return _taken(collection, values)

    def _alive(self) -> None:
        self.store.expire()
        if not self.alive:
            raise Contended("the server has ended the transaction", remedy="the transaction is run again")

    def _touched_by_others(self, place: Place) -> bool:
        return (
            self.store.pending.get(place) not in (None, self) or self.store.changed.get(place, 0) > self._time
        )

    def _conflict(self, what: str) -> None:
        self.store.conflicts += 1
        self.end()
        raise Contended(f"write conflict: {what}", remedy="the transaction is run again")

    def _check_unique(self, collection: str, _id: Any, document: Document) -> None:
        for fields in self.store.unique.get(collection, ()):
            wanted = _values(document, fields)
            for other, found in self.view(collection).items():
                if other != _id and _values(found, fields) == wanted:
                    place = (collection, other)
                    if place not in self.writes and self._touched_by_others(place):
                        self._race(collection, wanted)
                    raise self.duplicate(collection, wanted)
            for transaction in self.store.open:
                if transaction is not self and any(
                    name == collection and other != _id and found and _values(found, fields) == wanted
                    for (name, other), found in transaction.writes.items()
                ):
                    self._conflict(f"{collection} {wanted}")
            for other, found in self.store.collection(collection).items():
                place = (collection, other)
                if (
                    other != _id
                    and _values(found, fields) == wanted
                    and self.store.changed.get(place, 0) > self._time
                ):
                    self._race(collection, wanted)

    def _race(self, collection: str, values: object) -> None:
        if self.store.races_as_duplicates:
            raise self.duplicate(collection, values)
        self._conflict(f"{collection} {values}")


class MemoryTransaction:
    """The twin of `connectors.mongo.transaction.Transaction`."""

    def __init__(self, store: MemoryMongo, transaction: OpenTransaction) -> None:
        self._store, self._open = store, transaction

    def find(
        self,
        collection: str,
        query: Mapping[str, Any],
        fields: Mapping[str, Any] | None = None,
        *,
        most: int = 0,
        by_id: bool = False,
    ) -> list[Document]:
        """All documents that match, or so many of them."""
        self._store.before(f"find {collection}")
        found = self._matching(collection, query)
        if by_id:
            found.sort(key=lambda document: document["_id"])
        return [_shown(d, fields) for d in found[: most or None]]

    def one(self, collection: str, query: Mapping[str, Any]) -> Document | None:
        """The document that matches, or None."""
        return next(iter(self.find(collection, query)), None)

    def count(self, collection: str, query: Mapping[str, Any] = MappingProxyType({})) -> int:
        """How many documents match."""
        return len(self.find(collection, query))

    def bulk(self, collection: str, writes: Sequence[Any]) -> int:
        """Carry out pymongo's write objects in their order."""
        if not writes:
            return 0
        self._store.before(f"bulk {collection}")
        matched = 0
        for one in writes:
            if isinstance(one, InsertOne):
                self._insert(collection, one._doc)
            elif isinstance(one, DeleteOne):
                self._delete(collection, one._filter)
            elif isinstance(one, ReplaceOne):
                found = self._matching(collection, one._filter)[:1]
                matched += len(found)
                if found:
                    self._open.put(collection, found[0]["_id"], {"_id": found[0]["_id"], **one._doc})
                elif one._upsert:
                    self._open.put(collection, one._filter["_id"], {"_id": one._filter["_id"], **one._doc})
            else:
                assert isinstance(one, UpdateOne), one
                matched += self._update(
                    collection, one._filter, one._doc, upsert=bool(one._upsert), many=False
                )
        return matched

    def insert(self, collection: str, documents: Iterable[Document]) -> None:
        """Insert new documents."""
        self._store.before(f"insert {collection}")
        for document in documents:
            self._insert(collection, document)

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
        self._store.before(f"update {collection}")
        return self._update(collection, query, change, upsert=upsert, many=many)

    def delete(self, collection: str, query: Mapping[str, Any]) -> int:
        """Delete all that match. Returns how many."""
        self._store.before(f"delete {collection}")
        return self._delete(collection, query)

    def _matching(self, collection: str, query: Mapping[str, Any]) -> list[Document]:
        return list(_matching(self._open.view(collection), query))

    def _insert(self, collection: str, document: Document) -> None:
        if document["_id"] in self._open.view(collection):
            raise self._open.duplicate(collection, document["_id"])
        self._open.put(collection, document["_id"], document)

    def _delete(self, collection: str, query: Mapping[str, Any]) -> int:
        found = self._matching(collection, query)
        for document in found:
            self._open.put(collection, document["_id"], None)
        return len(found)

    def _update(
        self,
        collection: str,
        query: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        upsert: bool,
        many: bool,
    ) -> int:
        found = self._matching(collection, query)[: None if many else 1]
        for document in found:
            new = changed(document, change, self._store.clock())
            self._open.put(collection, document["_id"], new)
        if not found and upsert:
            _id = query["_id"]
            new = changed({"_id": _id}, change, self._store.clock(), inserted=True)
            self._open.put(collection, _id, new)
        return len(found)


class MemoryTransactions:
    """The twin of `connectors.mongo.transaction.Transactions`: one session."""

    def __init__(self, db: MemoryDatabase) -> None:
        self.db, self._store = db, db.store
        self._number = self._store.next_session()
        self._last: OpenTransaction | None = None
        self.commits = self.conflicts = 0

    @property
    def session_id(self) -> Mapping[str, Any]:
        """By which another client can end what this one has left open."""
        return {"id": UUID(int=self._number)}

    def close(self) -> None:
        """End the session, and what is open in it."""
        self._store.before("end session")
        if self._last is not None:
            self._last.end()

    def once(self, work: Callable[[MemoryTransaction], Result]) -> Result:
        """Run work and commit."""
        if self._last is not None:
            self._last.end()  # a session's new transaction ends the one before it
        opened = self._last = OpenTransaction(self._store, self.session_id["id"])
        try:
            result = work(MemoryTransaction(self._store, opened))
            self._store.before("commit")
            fate = self._store.fate()
            if fate != "before":
                opened.commit()
        except ServerGone:
            raise  # nor does the abort get there: it stays open
        except Contended:
            self.conflicts += 1
            opened.end()
            raise
        except Exception:
            opened.end()
            raise
        if fate:
            raise ServerGone("the answer of a commit is lost", remedy="look at what MongoDB says")
        self.commits += 1
        return result

    def repeat(self, work: Callable[[MemoryTransaction], Result], *, within_s: float = 120) -> Result:
        """Run work until it is committed, again after each conflict."""
        until = self._store.clock() + within_s
        while True:
            try:
                return self.once(work)
            except Contended:
                if self._store.wait is None or self._store.clock() > until:
                    raise
            self._store.wait()


class MemoryDatabase:
    """What the ledger and the loader use of a pymongo database outside of transactions."""

    def __init__(self, store: MemoryMongo) -> None:
        self.store = store
        self.client = SimpleNamespace(admin=SimpleNamespace(command=self._admin))

    def __getitem__(self, name: str) -> _Collection:
        return _Collection(self.store, name)

    def _admin(self, command: Mapping[str, Any]) -> None:
        self.store.before("killSessions")
        for session in command["killSessions"]:
            self.store.kill(session["id"].as_uuid())


class _Found(list[Document]):
    def limit(self, most: int) -> list[Document]:
        return self[:most]

    def sort(self, name: str, order: int) -> _Found:
        return _Found(sorted(self, key=lambda document: document[name], reverse=order < 0))


class _Collection:
    def __init__(self, store: MemoryMongo, name: str) -> None:
        self._store, self._name = store, name

    def find(self, query: Mapping[str, Any] | None = None, fields: Mapping[str, Any] | None = None) -> _Found:
        self._store.before(f"plain find {self._name}")
        return _Found(_shown(d, fields) for d in self._matching(query or {}))

    def find_one(self, query: Mapping[str, Any], fields: Mapping[str, Any] | None = None) -> Document | None:
        return next(iter(self.find(query, fields)), None)

    def count_documents(self, query: Mapping[str, Any], limit: int = 0) -> int:
        found = len(self.find(query))
        return min(found, limit) if limit else found

    def insert_many(self, documents: Iterable[Document]) -> None:
        self._store.before(f"plain insert {self._name}")
        for document in documents:
            if document["_id"] in self._store.collection(self._name):
                raise _taken(self._name, document["_id"])
            self._store.plain_write(self._name, document["_id"], document)

    def update_one(self, query: Mapping[str, Any], change: Mapping[str, Any], upsert: bool = False) -> None:
        self._store.before(f"plain update {self._name}")
        if "_id" in query and not isinstance(query["_id"], dict):
            self._store.until_free((self._name, query["_id"]))
        found = next(self._matching(query), None)
        now = self._store.clock()
        if found is not None:
            self._store.plain_write(self._name, found["_id"], changed(found, change, now))
        elif upsert:
            new = changed({"_id": query["_id"]}, change, now, inserted=True)
            self._store.plain_write(self._name, query["_id"], new)

    def delete_one(self, query: Mapping[str, Any]) -> None:
        self._delete(query, 1)

    def delete_many(self, query: Mapping[str, Any]) -> None:
        self._delete(query, None)

    def index_information(self) -> dict[str, Any]:
        return {
            "_".join(f"{field}_1" for field in fields): {}
            for fields in self._store.unique.get(self._name, ())
        }

    def drop_index(self, name: str) -> None:
        unique = self._store.unique[self._name]
        unique[:] = [fields for fields in unique if "_".join(f"{field}_1" for field in fields) != name]

    def _delete(self, query: Mapping[str, Any], most: int | None) -> None:
        self._store.before(f"plain delete {self._name}")
        for document in list(self._matching(query))[:most]:
            self._store.plain_write(self._name, document["_id"], None)

    def _matching(self, query: Mapping[str, Any]) -> Iterator[Document]:
        return _matching(self._store.collection(self._name), query)


# -- documents, queries, changes ---------------------------------------------------------------------------------
def stored(document: Mapping[str, Any]) -> Document:
    """A document as it comes back from a server. Raises WriteRefused for one that BSON does not take."""
    with translated():
        return bson.decode(bson.encode(document, codec_options=CODEC), CODEC)


def matches(document: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Whether a document answers a query in the subset of the language that tandem uses."""
    for path, wanted in query.items():
        if path == "$or":
            if not any(matches(document, one) for one in wanted):
                return False
            continue
        assert not path.startswith("$"), path
        found = _at(document, path)
        if isinstance(wanted, Mapping) and any(name.startswith("$") for name in wanted):
            if not all(_OPERATORS[name](found, value) for name, value in wanted.items()):
                return False
        elif not _equal(found, wanted):
            return False
    return True


def changed(
    document: Mapping[str, Any], change: Mapping[str, Any], now: float, *, inserted: bool = False
) -> Document:
    """A document after update operators."""
    new = _copy(document)
    for operator, fields in change.items():
        assert operator in _CHANGES, operator
        if operator == "$setOnInsert" and not inserted:
            continue
        for path, value in fields.items():
            *parents, name = path.split(".")
            inner = new
            for parent in parents:
                inner = inner.setdefault(parent, {})
            if operator == "$unset":
                inner.pop(name, None)
            elif operator == "$currentDate":
                inner[name] = DatetimeMS(int(now * 1_000))
            else:
                inner[name] = _CHANGES[operator](inner.get(name, _MISSING), _copy(value))
    return new


_CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "$set": lambda old, value: value,
    "$setOnInsert": lambda old, value: value,
    "$unset": lambda old, value: None,
    "$currentDate": lambda old, value: None,
    "$inc": lambda old, value: value if old is _MISSING else type(value)(old + value),
    "$max": lambda old, value: value if old is _MISSING else max(old, value),
    "$push": lambda old, value: _pushed([] if old is _MISSING else old, value),
}


def _pushed(old: list[Any], value: Any) -> list[Any]:
    """`$push`, of one or by `$each`; `$slice` keeps the last ones."""
    if not isinstance(value, dict) or "$each" not in value:
        return [*old, value]
    return [*old, *value["$each"]][value.get("$slice", 0) :]


def _matching(documents: Mapping[Any, Document], query: Mapping[str, Any]) -> Iterator[Document]:
    query = bson.decode(bson.encode(query, codec_options=CODEC), CODEC)
    wanted = query.get("_id", _MISSING)
    if wanted is _MISSING or (isinstance(wanted, Mapping) and "$in" not in wanted):
        candidates: Iterable[Document] = list(documents.values())
    else:
        ids = wanted["$in"] if isinstance(wanted, Mapping) else [wanted]
        candidates = [documents[_id] for _id in dict.fromkeys(ids) if _id in documents]
    return (document for document in candidates if matches(document, query))


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(document, Mapping) or name not in document:
            return _MISSING
        document = document[name]
    return document


def _equal(found: Any, wanted: Any) -> bool:
    if found is _MISSING:
        return wanted is None
    return found == wanted or (isinstance(found, list) and wanted in found)


def _ordered(found: Any, value: Any) -> bool:
    """Values of one kind; others answer no comparison."""
    numbers = [isinstance(x, int | float) and not isinstance(x, bool) for x in (found, value)]
    return all(numbers) or any(isinstance(found, k) and isinstance(value, k) for k in (ObjectId, str))


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$in": lambda found, values: any(_equal(found, value) for value in values),
    "$nin": lambda found, values: not any(_equal(found, value) for value in values),
    "$ne": lambda found, value: not _equal(found, value),
    "$lt": lambda found, value: _ordered(found, value) and found < value,
    "$gt": lambda found, value: type(found) is type(value) and found > value,
    "$gte": lambda found, value: _ordered(found, value) and found >= value,
    "$lte": lambda found, value: _ordered(found, value) and found <= value,
    "$exists": lambda found, value: (found is not _MISSING) == bool(value),
    "$not": lambda found, inner: not all(_OPERATORS[name](found, value) for name, value in inner.items()),
}


def _shown(document: Document, fields: Mapping[str, Any] | None) -> Document:
    if fields is None:
        return _copy(document)
    names = ("_id", *(name for name in fields if name != "_id"))
    shown = {name: _copy(document[name]) for name in names if name in document}
    for path in (name for name in names if "." in name):
        *parents, last = path.split(".")
        if (found := _at(document, path)) is not _MISSING:
            inner = shown
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = _copy(found)
    return shown


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_copy(inner) for inner in value]
    return value


def _values(document: Mapping[str, Any], fields: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(document.get(name) for name in fields)


def _taken(collection: str, values: object) -> UniqueTaken:
    return UniqueTaken(f"{collection}: {values} is taken", remedy="mend the row")
