"""The loop of the way back: what has changed in documents, into rows, with the place in the stream, in one transaction.

An event only says which document changed. The document is read as it is now, and PostgreSQL is made to say the same: so
an event that comes twice changes nothing, and what was passed over in between is in what is read. The place in the
stream moves in the transaction of the rows; documents that cannot be written are parked in it, and tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from connectors.errors import Unappliable
from connectors.mongo.changes import Change, Changes, as_text, documents, from_text
from connectors.mongo.client import Database, Document
from connectors.postgres.client import Rollback, Session, translated
from connectors.postgres.reverse import Reverse
from connectors.postgres.writing import Uniques, Writing
from consumers.apply.write import keys_read
from consumers.reverse import echo
from consumers.reverse.invert import Back
from consumers.reverse.write import KeyTexts, Writer, Written, key_of_document, key_of_id, says_key

#: unique_violation
_UNIQUE = "23505"
#: events that are applied in one transaction
MOST = 200
#: a place in the stream that nothing happened at is written down so often, so that it stays within MongoDB's history
_IDLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A document to be looked at. gone: what it was, where it was deleted and MongoDB kept it. key: of its row, where
    it is known."""

    collection: str
    id: Any
    gone: Document | None = None
    key: KeyTexts | None = None

    @property
    def name(self) -> tuple[str, str]:
        """By which it is kept."""
        return self.collection, as_text(self.id)


@dataclass
class Tally:
    """What a worker did. events: of applications; own: of tandem itself, passed over."""

    events: int = 0
    own: int = 0
    documents: int = 0
    rows: int = 0
    parked: int = 0
    batches: int = 0


@dataclass
class _Batch:
    """documents: as they are now, None where there is none. pending: not yet tried, or in vain."""

    pending: dict[tuple[str, str], Wanted]
    documents: dict[tuple[str, str], Document | None] = field(default_factory=dict)
    failed: dict[tuple[str, str], Unappliable] = field(default_factory=dict)
    asides: set[tuple[str, str]] = field(default_factory=set)
    parked: set[tuple[str, str]] = field(default_factory=set)
    #: how many rows were written of each document
    written: dict[tuple[str, str], int] = field(default_factory=dict)


class Applier:
    """Documents into rows. deletes: rows are deleted also where their filter could say that they are not there.
    at_rest: nobody writes rows meanwhile, this one neither."""

    def __init__(
        self,
        backs: Mapping[str, Back],
        db: Database,
        session: Session,
        reverse: Reverse,
        *,
        deletes: bool,
        uniques: Uniques,
        at_rest: bool = False,
    ) -> None:
        self._backs, self._db, self._session, self._reverse = backs, db, session, reverse
        self._uniques, self._at_rest = uniques, at_rest
        #: `_id` to key of all rows, of collections that were searched while nobody writes
        self._searches: dict[str, dict[Any, KeyTexts]] = {}
        self._writing, self._deletes = Writing(session), deletes
        self.tally = Tally()
        self._batch = _Batch({})

    def apply(
        self, wanted: Iterable[Wanted], move: Callable[[], None], *, undone: bool = False
    ) -> list[tuple[str, str]]:
        """Make rows say what these documents say, all in one transaction. move: what is written with them, first of
        all. undone: only look what would be written. Returns the documents of which something differed. Raises
        what the servers say; what a document is to blame for is parked."""
        pending = {w.name: w for w in wanted}
        found = self._read(pending.values())
        for deferred in (True, False):
            if self._attempted(pending, found, move, deferred=deferred, undone=undone):
                break
        self.tally.documents += len(pending)
        self.tally.batches += 1
        self.tally.rows += sum(self._batch.written.values())
        self.tally.parked += len(self._batch.failed)
        return [*self._batch.written, *self._batch.failed]

    # -- the transaction -----------------------------------------------------------------------------------------
    def _attempted(
        self,
        pending: Mapping[tuple[str, str], Wanted],
        found: Mapping[tuple[str, str], Document | None],
        move: Callable[[], None],
        *,
        deferred: bool,
        undone: bool,
    ) -> bool:
        """False: constraints that are looked at in the end do not hold, and nothing was done; it is done again, each
        looked at when it is met, so that it is known whose fault it is."""
        self._batch, again = _Batch(dict(pending), dict(found)), True
        with translated(), self._session.transaction() as transaction:
            move()
            self._prepare(deferred)
            self._writer = Writer(self._backs, self._writing, self, self._now(), deletes=self._deletes)
            self._all()
            self._untangle()
            if deferred and not self._holds():
                raise Rollback(transaction)
            if not undone:
                self._park()
                return True
            again = False
            raise Rollback(transaction)
        return not again

    def _prepare(self, deferred: bool) -> None:
        self._session.execute(f"SET CONSTRAINTS ALL {'DEFERRED' if deferred else 'IMMEDIATE'}")
        names = list(self._batch.pending)
        if names:
            ids = [id_ for _, id_ in names]
            self._batch.asides = self._reverse.known("reverse_aside", ids)
            self._batch.parked = self._reverse.known("reverse_parked", ids)
            self._reverse.see(names)

    def _holds(self) -> bool:
        try:
            with self._writing.attempt():
                self._session.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except Unappliable:
            return False
        return True

    def _now(self) -> int:
        found = self._session.execute(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        ).fetchone()
        assert found is not None
        return int(found[0])

    def _all(self) -> None:
        """Every document, those that fail once more as long as others have gone through meanwhile."""
        batch = self._batch
        while batch.pending:
            before = len(batch.pending)
            for name in list(batch.pending):
                if name in batch.pending:
                    self._one(name, ())
            if len(batch.pending) == before:
                return

    def _untangle(self) -> None:
        """Documents that hold each other's unique values: their rows let go of them, then all are written."""
        batch = self._batch
        tied = [
            name
            for name, error in batch.failed.items()
            if error.facts.get("sqlstate") == _UNIQUE and batch.documents.get(name) is not None
        ]
        if len(tied) < 2:
            return
        done: dict[tuple[str, str], int] = {}
        try:
            with self._writing.attempt():
                for name in tied:
                    self._free(batch.pending[name])
                for name in tied:
                    done[name] = self._written(batch.pending[name], batch.documents[name]).rows
        except Unappliable:
            return
        for name in tied:
            del batch.failed[name], batch.pending[name]
        batch.written |= done

    def _free(self, wanted: Wanted) -> None:
        collection, text = wanted.name
        back = self._backs[collection]
        key = self._reverse_key(back, collection, text, wanted, self._batch.documents[wanted.name])
        if key is not None:
            self._writer.free(collection, key, self._uniques.get(back.table.name, frozenset()))

    def _one(self, name: tuple[str, str], within: tuple[tuple[str, str], ...]) -> None:
        """One document, behind those that it refers to."""
        batch = self._batch
        wanted, document = batch.pending[name], batch.documents.get(name)
        if document is not None:
            for other in self._before(wanted.collection, document):
                if other not in within and other != name and other in batch.pending:
                    self._one(other, (*within, name))
        try:
            with self._writing.attempt():
                done = self._written(wanted, document)
        except Unappliable as error:
            batch.failed[name] = error
            return
        batch.failed.pop(name, None)
        del batch.pending[name]
        if done.rows:
            batch.written[name] = done.rows

    def _before(self, collection: str, document: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What a document refers to that may have to be written first."""
        found = []
        for to, id_ in self._backs[collection].wanted(document):
            name = to, as_text(id_)
            if name not in self._batch.pending and self._unknown(to, id_):
                self._batch.pending[name] = Wanted(to, id_)
            found.append(name)
        return found

    def _unknown(self, collection: str, id_: Any) -> bool:
        """Whether a document is there that no row is known of."""
        return self.key(collection, id_) is None and self._document(collection, id_) is not None

    def _written(self, wanted: Wanted, document: Document | None) -> Written:
        collection, text = wanted.name
        back = self._backs[collection]
        key = self._reverse_key(back, collection, text, wanted, document)
        if document is not None:
            done = self._writer.put(collection, document, key)
            assert done.key is not None
            if key_of_document(back, document) != done.key:
                self._reverse.remember(collection, text, done.key)
            aside = as_text(done.aside) if done.aside else None
        else:
            done = Written(None) if key is None else self._writer.remove(collection, key)
            self._reverse.forget(collection, text)
            aside = None
        if aside is not None or wanted.name in self._batch.asides:
            self._reverse.put_aside(collection, text, aside)
        for table, row in done.gone:
            self._reverse.bury(collection, text, table, row)
        if wanted.name in self._batch.parked:
            self._reverse.settle(collection, text)
        return done

    def _reverse_key(
        self, back: Back, collection: str, text: str, wanted: Wanted, document: Document | None
    ) -> KeyTexts | None:
        known = wanted.key or key_of_id(back, wanted.id) or self._reverse.key(collection, text)
        if known is not None:
            return known
        kept = document or wanted.gone
        if kept is not None:
            return key_of_document(back, kept)
        return self._searched(back, wanted.id)

    def _searched(self, back: Back, id_: Any) -> KeyTexts | None:
        """The key of the row whose document has gone without a trace: by all keys of its table."""
        if says_key(back):
            return None  # another client's _id: no row ever had it
        if self._at_rest:
            if back.use.collection not in self._searches:
                self._searches[back.use.collection] = dict(self._all_ids(back))
            return self._searches[back.use.collection].get(id_)
        return next((texts for other, texts in self._all_ids(back) if other == id_), None)

    def _all_ids(self, back: Back) -> Iterator[tuple[Any, KeyTexts]]:
        table = back.use.table
        for row in self._writing.keys(keys_read(table)):
            key = table.key_of_row(row)
            yield back.use.id_of(key), tuple(str(value) for value in key)

    def _park(self) -> None:
        for (collection, text), error in self._batch.failed.items():
            wanted = self._batch.pending[collection, text]
            gone = None if wanted.gone is None else as_text(wanted.gone)
            self._reverse.park(collection, text, error.parked_class, error.what, error.remedy, gone)

    # -- documents -----------------------------------------------------------------------------------------------
    def key(self, collection: str, id_: Any) -> KeyTexts | None:
        """Of the row of a document that is referred to."""
        back = self._backs[collection]
        found = key_of_id(back, id_) or self._reverse.key(collection, as_text(id_))
        if found is not None:
            return found
        document = self._document(collection, id_)
        return None if document is None else key_of_document(back, document)

    def _document(self, collection: str, id_: Any) -> Document | None:
        name = collection, as_text(id_)
        if name not in self._batch.documents:
            self._batch.documents[name] = documents(self._db, collection, [id_]).get(name[1])
        return self._batch.documents[name]

    def _read(self, wanted: Iterable[Wanted]) -> dict[tuple[str, str], Document | None]:
        by: dict[str, list[Any]] = {}
        for of in wanted:
            by.setdefault(of.collection, []).append(of.id)
        found: dict[tuple[str, str], Document | None] = {}
        for collection, ids in by.items():
            there = documents(self._db, collection, ids)
            found |= {(collection, text): there.get(text) for text in map(as_text, ids)}
        return found


class Worker:
    """Follows the stream. Makes its own stream at the place that PostgreSQL says."""

    def __init__(
        self,
        applier: Applier,
        db: Database,
        reverse: Reverse,
        collections: Sequence[str],
        log: Callable[..., None],
    ) -> None:
        self._applier, self._db, self._reverse, self._log = applier, db, reverse, log
        self._collections = tuple(collections)
        standing = reverse.take()
        assert standing.token is not None
        self._token = standing.token
        self._stream = Changes(db, self._collections, from_text(standing.token))
        self._moved = time.monotonic()

    def close(self) -> None:
        """End the stream."""
        self._stream.close()

    def run_once(self) -> int:
        """One batch. Returns how many events were in it. Raises TakenOver, HistoryLost, CollectionGone, Unavailable."""
        batch = self._stream.next(MOST)
        token, mark = as_text(batch.token), max((c.mark or 0 for c in batch.changes), default=0)
        theirs = [
            c for c in batch.changes if c.mark is None and not echo.own(c.kind, c.set, c.sync, c.before)
        ]
        theirs = [c for c in theirs if c.collection in self._collections]
        wanted = {**{w.name: w for w in self._due()}, **{w.name: w for w in _wanted(theirs)}}
        idle = not wanted and not mark and (token == self._token or time.monotonic() - self._moved < _IDLE_S)
        if idle:
            return 0
        last = batch.changes[-1].at if batch.changes else None
        self._applier.apply(wanted.values(), self._mover(token, len(theirs), mark, last))
        self._token, self._moved = token, time.monotonic()
        self._applier.tally.events += len(theirs)
        self._applier.tally.own += sum(c.mark is None for c in batch.changes) - len(theirs)
        return len(batch.changes)

    def _mover(self, token: str, events: int, mark: int, at: datetime | None) -> Callable[[], None]:
        return lambda: self._reverse.move(self._token, token, events, mark, at)

    def _due(self) -> Iterator[Wanted]:
        with translated():
            for p in self._reverse.due(MOST):
                yield Wanted(p.collection, from_text(p.id), None if p.gone is None else from_text(p.gone))


def _wanted(changes: Iterable[Change]) -> Iterator[Wanted]:
    """Each document once, as its last change left it."""
    for change in changes:
        yield Wanted(change.collection, change.id, change.gone)
