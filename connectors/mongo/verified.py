"""Verifications in the target: the reports of the last ones, and the chunks that one under way has done.

| collection             | _id          | what |
|------------------------|--------------|------|
| _tandem_verify         | run          | wanted, lsn, seed, began, beat; when it has ended: at, report |
| _tandem_verify_chunks  | run, chunk   | see `sync.verify.chunks.Seen` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson import DatetimeMS, Int64
from pymongo.errors import DuplicateKeyError

from connectors.mongo.client import Database, Document, translated
from connectors.positions import Lsn

VERIFICATIONS = "_tandem_verify"
CHUNKS = "_tandem_verify_chunks"
#: reports that are kept
_KEPT = 10
#: a run that has not said for so long that it lives is dead
_LEASE_S = 20.0
#: and one that nobody took over for so long is forgotten
_FORGOTTEN_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Running:
    """A verification under way. lsn: where the WAL was when it began. began_ms: by MongoDB's clock. seed: of its
    sample."""

    id: str
    lsn: Lsn
    began_ms: int
    seed: int


def begin(db: Database, run: str, wanted: str, lsn: Lsn, seed: int, by: str) -> Running:
    """A run begins. wanted: what it is to look at; only one that wants the same goes on with it. by: which process."""
    now = _now_ms(db)
    with translated():
        db[VERIFICATIONS].insert_one(
            {
                "_id": run,
                "wanted": wanted,
                "lsn": Int64(lsn),
                "seed": Int64(seed),
                "by": by,
                "began": DatetimeMS(now),
                "beat": DatetimeMS(now),
                "ended": False,
            }
        )
    return Running(run, lsn, now, seed)


def take_over(
    db: Database, wanted: str, within_s: float, by: str, ended: Callable[[str], bool]
) -> Running | None:
    """Take over the newest run that wanted the same, is dead, and began within this time. None: there is none.

    ended: whether a process is known to be gone; else a run is dead when it has not been heard of for some time.
    """
    now = _now_ms(db)
    query = {"wanted": wanted, "ended": False, "began": {"$gte": DatetimeMS(int(now - within_s * 1_000))}}
    with translated():
        for found in db[VERIFICATIONS].find(query, sort=[("began", -1)]):
            if int(found["beat"]) > now - _LEASE_S * 1_000 and not ended(found["by"]):
                continue
            mine = {"_id": found["_id"], "beat": found["beat"], "by": found["by"]}
            if (
                db[VERIFICATIONS]
                .update_one(mine, {"$set": {"beat": DatetimeMS(now), "by": by}})
                .matched_count
            ):
                return Running(found["_id"], Lsn(found["lsn"]), int(found["began"]), int(found["seed"]))
    return None


def beat(db: Database, run: str) -> None:
    """A run says that it lives."""
    with translated():
        db[VERIFICATIONS].update_one({"_id": run}, {"$currentDate": {"beat": True}})


def let_go(db: Database, run: str) -> None:
    """A run ends too early, and says so: whoever comes goes on with it at once."""
    silent = DatetimeMS(int(_now_ms(db) - _LEASE_S * 1_000) - 1)
    with translated():
        db[VERIFICATIONS].update_one({"_id": run}, {"$set": {"beat": silent}})


def done(db: Database, run: str, chunk: Mapping[str, Any]) -> None:
    """A chunk of a run is done."""
    id_ = f"{run}/{chunk['number']}/{chunk['collection']}"
    with translated(), suppress(DuplicateKeyError):  # by another one, which had taken it for dead
        db[CHUNKS].insert_one({"_id": id_, "run": run, **chunk})


def chunks(db: Database, run: str) -> Iterator[Document]:
    """The chunks of a run that are done."""
    with translated():
        yield from db[CHUNKS].find({"run": run})


def keep(db: Database, run: str, report: Mapping[str, Any]) -> None:
    """A run has ended: its report is kept, and the chunks of those that ended before are dropped."""
    now = DatetimeMS(_now_ms(db))
    with translated():
        db[VERIFICATIONS].update_one(
            {"_id": run}, {"$set": {"ended": True, "at": now, "report": dict(report)}}, upsert=True
        )
        old = [d["_id"] for d in db[VERIFICATIONS].find({"ended": True}, {"_id": 1}, sort=[("at", -1)])]
        alive = {"ended": False, "beat": {"$gte": DatetimeMS(int(now) - int(_FORGOTTEN_S * 1_000))}}
        living = [d["_id"] for d in db[VERIFICATIONS].find(alive, {"_id": 1})]
        db[CHUNKS].delete_many({"run": {"$nin": living}})
        db[VERIFICATIONS].delete_many({"_id": {"$in": old[_KEPT:]}})
        db[VERIFICATIONS].delete_many({"ended": False, "_id": {"$nin": living}})


@dataclass(frozen=True, slots=True)
class Kept:
    """The report of a verification, and how old it is by MongoDB's clock."""

    report: Mapping[str, Any]
    at: datetime
    age_s: float


def last(db: Database, **of: object) -> Kept | None:
    """The last one that ended. of: fields of its report that have to be so."""
    wanted = {"ended": True, **{f"report.{name}": value for name, value in of.items()}}
    with translated():
        found = db[VERIFICATIONS].find_one(wanted, sort=[("at", -1)])
    if found is None:
        return None
    at = int(found["at"])
    return Kept(found["report"], DatetimeMS(at).as_datetime(), max(0, _now_ms(db) - at) / 1_000)


def _now_ms(db: Database) -> int:
    with translated():
        now = db.command("hello")["localTime"]
    return int(now if isinstance(now, DatetimeMS) else DatetimeMS(now))
