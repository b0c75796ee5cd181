"""Which WAL position PostgreSQL had at which time, kept in `_tandem_state` as `clock`: what the slot has confirmed is
as old as the time at which the WAL had come so far.

Debezium's own heartbeats cannot say that: they carry the time at which they are sent, also when what has been read of
the WAL is hours old.
"""

from __future__ import annotations

from contextlib import suppress

from bson import Int64
from pymongo.errors import DuplicateKeyError

from connectors.mongo.client import Database, translated
from connectors.mongo.ledger import STATE
from connectors.positions import Lsn

_ID = "clock"
#: one a second, then one a minute: four minutes and ten hours of them
_RECENT, _OLDER = 240, 600
_EVERY_MS = 900
#: clocks of one server differ from one look to the next by less
_AHEAD_MS = 5_000
#: milliseconds since 1970 by PostgreSQL's clock, and the position that it had reached by then
Tick = tuple[int, Lsn]


def tick(db: Database, at_ms: int, position: Lsn, confirmed: Lsn) -> None:
    """Note a position, unless somebody has done so within the last second."""
    set_back(db, at_ms)
    pair = [Int64(at_ms), Int64(position)]
    more = {"recent": {"$each": [pair], "$slice": -_RECENT}}
    with translated(), suppress(DuplicateKeyError):  # raised where another one was faster
        found = db[STATE].find_one_and_update(
            {"_id": _ID, "ms": {"$lte": Int64(at_ms - _EVERY_MS)}},
            {"$set": {"ms": Int64(at_ms), "confirmed": Int64(confirmed)}, "$push": more},
            {"ms": 1},
            upsert=True,
        )
        if found is None or found["ms"] // 60_000 != at_ms // 60_000:
            db[STATE].update_one({"_id": _ID}, {"$push": {"older": {"$each": [pair], "$slice": -_OLDER}}})


def set_back(db: Database, at_ms: int) -> None:
    """PostgreSQL's clock was set back, or another server took over: what was noted of a time to come goes."""
    with translated():
        if db[STATE].find_one({"_id": _ID, "ms": {"$gt": Int64(at_ms + _AHEAD_MS)}}, {"ms": 1}) is None:
            return  # as a rule; the notes are many, and this is asked once a second
        known = db[STATE].find_one({"_id": _ID}) or {}
        kept = {name: [p for p in known.get(name, ()) if int(p[0]) <= at_ms] for name in ("recent", "older")}
        db[STATE].update_one(
            {"_id": _ID, "ms": known.get("ms")}, {"$set": {**kept, "ms": Int64(at_ms - _EVERY_MS)}}
        )


def ticks(db: Database) -> list[Tick]:
    """All that are kept, the oldest first."""
    with translated():
        known = db[STATE].find_one({"_id": _ID}) or {}
    pairs = {(int(ms), Lsn(lsn)) for ms, lsn in [*known.get("older", ()), *known.get("recent", ())]}
    return sorted(pairs)


def last_confirmed(db: Database) -> Lsn | None:
    """What the slot had confirmed when it was last looked at."""
    with translated():
        known = db[STATE].find_one({"_id": _ID}, {"confirmed": 1}) or {}
    return Lsn(known["confirmed"]) if "confirmed" in known else None


def missing_since(db: Database | None) -> str:
    """What is in no event, where a slot is gone, for people."""
    confirmed = last_confirmed(db) if db is not None else None
    return "changes since then are in no event" + (f", those after {confirmed}" if confirmed else "")
