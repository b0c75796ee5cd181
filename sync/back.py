"""The way back, put together: MongoDB's changes into PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from connectors.errors import (
    HistoryLost,
    Kind,
    NotComplete,
    ReverseState,
    SyncError,
    TakenOver,
)
from connectors.mongo import client as mongo
from connectors.mongo.changes import Changes, as_text, from_text, keep_images, mark, remove_document
from connectors.mongo.client import Database
from connectors.postgres.client import Session, connect, translated
from connectors.postgres.reverse import Reverse
from connectors.postgres.writing import Writing, advance, as_natives, givens, uniques
from consumers.apply.write import keys_read
from consumers.mapping import spec
from consumers.mapping.plan import Plan
from consumers.reverse import walk
from consumers.reverse.invert import Back, Finding, every, invert, not_invertible
from consumers.reverse.worker import Applier, Tally, Wanted, Worker
from consumers.reverse.write import id_of
from sync.reverse.report import ReverseStatus
from sync.settings import Settings
from sync.setup import schema
from sync.setup.make import load_plan

Log = Callable[..., None]
Stop = Callable[[], bool]
#: events that are counted at most, to say how far behind it is
_COUNTED = 2_000
_SHOWN = 100
_PAUSE_S = 0.5
_AGAIN_S = 2.0


@dataclass
class Ends:
    """Both ends, open. backs: the mapping backwards."""

    db: Database
    session: Session
    reverse: Reverse
    plan: Plan
    backs: Mapping[str, Back] = field(default_factory=dict)

    @property
    def collections(self) -> tuple[str, ...]:
        """Those that are written back."""
        return tuple(self.backs)


@contextmanager
def _ends(settings: Settings, name: str = "tandem reverse") -> Iterator[Ends]:
    with ExitStack() as stack:
        db = mongo.connect(settings.target, name=name)
        stack.callback(db.client.close)
        session = stack.enter_context(closing(connect(settings.source, name=name)))
        plan = load_plan(settings, session, schema.known(db))
        backs = invert(plan, givens(session, plan.declared.tables))
        as_natives(session)
        yield Ends(db, session, Reverse(session, settings.source.slot), plan, backs)


@contextmanager
def _kept(settings: Settings) -> Iterator[tuple[Database, Reverse]]:
    with ExitStack() as stack:
        db = mongo.connect(settings.target, name="tandem reverse")
        stack.callback(db.client.close)
        session = stack.enter_context(closing(connect(settings.source, name="tandem reverse")))
        yield db, Reverse(session, settings.source.slot)


def check(settings: Settings) -> list[Finding]:
    """What the way back cannot do, by line of the mapping. Asks PostgreSQL's catalog only."""
    with closing(connect(settings.source, name="tandem reverse")) as session:
        plan = load_plan(settings, session)
        backs = invert(plan, givens(session, plan.declared.tables))
    return not_invertible(backs, plan.declared, spec.Lines.of(settings.mapping))


# -- on, off -----------------------------------------------------------------------------------------------------
def turn_on(settings: Settings, run: str) -> dict[str, object]:
    """Begin to follow MongoDB's changes from now on, for a cutover: while nobody writes anywhere. Safe to repeat; what
    an earlier cutover has left is taken away."""
    with _ends(settings) as ends:
        ends.reverse.make()
        keep_images(ends.db, ends.collections)
        with closing(Changes(ends.db, ends.collections)) as stream:
            new = ends.reverse.turn_on(run, as_text(stream.token))
        if new:
            _advance(ends)
        return {"new": new, "collections": len(ends.collections)}


def turn_off(settings: Settings) -> None:
    """Nobody follows them any more; what is kept stays. Safe to repeat."""
    with _kept(settings) as (_, reverse):
        reverse.turn_off()


def drain(settings: Settings, timeout_s: float, stop: Stop = lambda: False) -> dict[str, object]:
    """Return when PostgreSQL has everything that was written to MongoDB before this was called. Raises NotComplete,
    also while anything is parked."""
    began = time.monotonic()
    with _kept(settings) as (db, reverse):
        number = mark(db)
        while True:
            at = reverse.standing()
            if at is None or at.state == "off":
                raise ReverseState("the way back is off", remedy="the cutover turns it on")
            if at.mark >= number and not reverse.counts()["parked"]:
                return {"mark": number, "events": at.events, "seconds": round(time.monotonic() - began, 2)}
            if time.monotonic() - began > timeout_s or stop():
                raise _not_drained(reverse, at.mark >= number)
            time.sleep(0.05)


def _not_drained(reverse: Reverse, read: bool) -> NotComplete:
    parked = reverse.parked(1)
    if parked:
        what = f"{reverse.counts()['parked']} documents are parked, the first: {parked[0].reason}"
    elif not reverse.someone():
        what = "no `tandem reverse run` is at work"
    else:
        what = "not everything that was written to MongoDB is in PostgreSQL yet" if not read else "it goes on"
    return NotComplete(what, remedy="see `tandem reverse status`")


# -- the process -------------------------------------------------------------------------------------------------
def run(settings: Settings, log: Log, stop: Stop, *, until_drained: bool = False) -> Tally:
    """Follow MongoDB's changes until stopped; while the way back is off, wait until it is on. Servers that are away are
    waited for. Raises ReverseBusy, HistoryLost, CollectionGone, MappingInvalid."""
    tally = Tally()
    with closing(connect(settings.source, name="tandem reverse alone")) as guard:
        reverse = Reverse(guard, settings.source.slot)
        reverse.alone()
        reverse.make()
        while not stop():
            try:
                with translated():
                    guard.execute("SELECT 1")  # whoever has lost it is no longer alone
                _follow(settings, tally, log, stop, until_drained=until_drained)
                return tally
            except (TakenOver, ReverseState) as error:
                if until_drained:
                    raise
                log(f"waiting: {error.what}", remedy=error.remedy)
                _wait_until_on(reverse, stop)
            except SyncError as error:
                if error.kind is not Kind.RETRY:
                    _told(reverse, error)
                    raise
                log(f"{error.what}; it is tried again", remedy=error.remedy)
                time.sleep(_AGAIN_S)
                if guard.closed or guard.broken:
                    return run(settings, log, stop, until_drained=until_drained)
    return tally


def _told(reverse: Reverse, error: SyncError) -> None:
    try:
        reverse.tell(error.what)
    except SyncError:
        return


def _wait_until_on(reverse: Reverse, stop: Stop) -> None:
    while not stop():
        at = reverse.standing()
        if at is not None and at.state == "on":
            return
        time.sleep(_PAUSE_S)


def _follow(settings: Settings, tally: Tally, log: Log, stop: Stop, *, until_drained: bool) -> None:
    with _ends(settings) as ends:
        applier = _applier(settings, ends, tally)
        worker = Worker(applier, ends.db, ends.reverse, ends.collections, log)
        log("following MongoDB's changes", collections=len(ends.collections))
        with closing(worker):
            number = mark(ends.db) if until_drained else None
            while not stop():
                worker.run_once()
                if number is not None:
                    at = ends.reverse.standing()
                    if at is not None and at.mark >= number:
                        return


def _applier(settings: Settings, ends: Ends, tally: Tally, *, at_rest: bool = False) -> Applier:
    made = Applier(
        ends.backs,
        ends.db,
        ends.session,
        ends.reverse,
        deletes=settings.reverse.on_delete == "delete",
        uniques=uniques(ends.session, ends.plan.declared.tables),
        at_rest=at_rest,
    )
    made.tally = tally
    return made


# -- looking -----------------------------------------------------------------------------------------------------
def status(settings: Settings) -> ReverseStatus:
    """How the way back is, and how far behind: MongoDB is asked for what was not applied yet."""
    with _kept(settings) as (db, reverse):
        standing = reverse.standing()
        alive, counts, parked = reverse.someone(), reverse.counts(), reverse.parked(_SHOWN)
        behind, more, oldest, trouble = None, False, None, standing.trouble if standing else None
        if standing is not None and standing.state == "on" and standing.token is not None:
            names = [n for n, c in spec.load(settings.mapping).collections.items() if c.table]
            try:
                with closing(Changes(db, names, from_text(standing.token))) as stream:
                    found = [c for c in stream.next(_COUNTED).changes if c.collection in names]
                behind, more = len(found), len(found) >= _COUNTED
                oldest = found[0].at if found else None
            except HistoryLost as error:
                trouble = error.what
        return ReverseStatus(
            standing, alive, behind, more, oldest, datetime.now(UTC), counts, parked, trouble
        )


def retry(settings: Settings) -> int:
    """Let what is parked be tried again at once. Returns how many documents."""
    with _kept(settings) as (_, reverse):
        return reverse.hurry() if reverse.there else 0


# -- all of it ---------------------------------------------------------------------------------------------------
def resync(
    settings: Settings,
    log: Log,
    *,
    dry_run: bool = False,
    watch: Callable[[str, int], None] = lambda *_: None,
) -> walk.Walked:
    """Compare every document with its rows and write what differs, then go on from a place in the stream that was taken
    before: for when MongoDB's history no longer reaches back. dry_run: compare only. Safe to repeat; one that was
    killed is begun again, and until then nobody follows the stream."""
    with ExitStack() as stack:
        if not dry_run:
            guard = stack.enter_context(closing(connect(settings.source, name="tandem reverse alone")))
            Reverse(guard, settings.source.slot).alone()
        ends = stack.enter_context(_ends(settings))
        if not ends.reverse.there:
            raise ReverseState("the way back was never on", remedy="the cutover turns it on")
        applier = _applier(settings, ends, Tally())
        if not dry_run:
            keep_images(ends.db, ends.collections)
            with closing(Changes(ends.db, ends.collections)) as stream:
                token = as_text(stream.token)
            ends.reverse.begin_again(token)
            ends.reverse.take("resync")
        else:
            ends.reverse.let_pass()
            token = ""
        walker = walk.Walker(ends.backs, ends.db, applier, ends.reverse, token, watch, dry_run=dry_run)
        found = walker.run(lambda back: _keys(settings, back))
        if not dry_run:
            ends.reverse.compared()
            log(
                "documents and rows agree; the stream is followed from where it was",
                documents=found.documents,
            )
        return found


def _keys(settings: Settings, back: Back) -> Iterator[tuple[Any, ...]]:
    """The keys of all rows of a table, in a session of its own, whose snapshot is of now."""
    with closing(connect(settings.source, name="tandem reverse keys")) as session:
        as_natives(session)
        with translated(settings.source), session.transaction():
            for row in Writing(session).keys(keys_read(back.use.table)):
                yield back.use.table.key_of_row(row)


# -- for the cutover and the rollback ----------------------------------------------------------------------------
def trouble(settings: Settings, *, on: bool) -> list[str]:
    """What stands in the way of a way back. on: it has to be on."""
    found = [f"{settings.mapping}:{f.line}: {f.what}" for f in check(settings) if f.lost]
    with _kept(settings) as (_, reverse):
        at = reverse.standing()
        if not reverse.someone():
            found.append("no `tandem reverse run` is at work: start it, it waits until it is needed")
        elif on and (at is None or at.state != "on"):
            found.append("it is not on")
    return found


def collections(settings: Settings) -> tuple[str, ...]:
    """Those that are written back."""
    return tuple(name for name, c in spec.load(settings.mapping).collections.items() if c.table)


def is_off(settings: Settings) -> bool:
    """Whether nobody follows MongoDB's changes."""
    with _kept(settings) as (_, reverse):
        at = reverse.standing()
    return at is None or at.state == "off"


def changed(settings: Settings) -> int:
    """How many documents were changed since it was turned on."""
    with _kept(settings) as (_, reverse):
        return len(reverse.seen())


def compare(settings: Settings, stop: Stop = lambda: False) -> walk.Walked:
    """Compare every document that was changed since it was turned on with its rows. Changes nothing."""
    found = walk.Walked()
    with _ends(settings) as ends:
        ends.reverse.let_pass()
        applier = _applier(settings, ends, Tally(), at_rest=True)
        for some in _chunks(ends.reverse.seen()):
            if stop():
                raise NotComplete("the comparison was stopped", remedy="run it again")
            wanted = [Wanted(collection, from_text(text)) for collection, text in some]
            differing = applier.apply(wanted, lambda: None, undone=True)
            found.documents += len(wanted)
            found.differing += [f"{collection} {text}" for collection, text in differing]
    return found


def advance_sequences(settings: Settings) -> int:
    """Let sequences go on behind the keys that documents brought. Returns how many were moved. Safe to repeat."""
    with _ends(settings) as ends:
        return _advance(ends)


def _advance(ends: Ends) -> int:
    return sum(advance(ends.session, back.table) for back in every(ends.backs.values()))


def hand_over(settings: Settings, log: Log) -> dict[str, object]:
    """Remove the documents that the application made under `_id`s of its own: their rows get documents of the way
    forward. What of them goes to no column is kept aside, in PostgreSQL. Safe to repeat."""
    removed = 0
    with _ends(settings) as ends:
        for (collection, text), key in ends.reverse.keys().items():
            id_ = from_text(text)
            if id_ != id_of(ends.backs[collection].use.table, key):
                removed += remove_document(ends.db, collection, id_)
    log("documents of the application's own are replaced by those of their rows", documents=removed)
    return {"replaced": removed}


def to_make_anew(settings: Settings) -> list[tuple[str, Any, tuple[Any, ...] | None]]:
    """Collection, `_id` and key of each document that the way forward has to make anew; the key where it is known."""
    found: list[tuple[str, Any, tuple[Any, ...] | None]] = []
    with _ends(settings) as ends:
        keys = ends.reverse.keys()
        for collection, text in ends.reverse.seen():
            table, texts = ends.backs[collection].use.table, keys.get((collection, text))
            if texts is None:
                found.append((collection, from_text(text), None))
            else:
                found.append((collection, id_of(table, texts), table.key_from_texts(texts)))
    return found


def _chunks(items: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(items), 200):
        yield items[start : start + 200]
