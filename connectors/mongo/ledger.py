"""tandem's own documents in the target database: positions, holds, claims, chunks, parked events, jobs, state.

| collection          | one document per | what it holds |
| _tandem_positions   | partition        | at: next offset; holder of its table or null; mark: LSN of a truncate; plan |
| _tandem_claims      | worker of a direct writer | run; n, written in each of its transactions |
| _tandem_chunks      | chunk of a load  | group, low, high, state, tries, rows |
| _tandem_walks       | part of a walk   | table, what, low, high, done, stamp |
| _tandem_parked      | key              | see `connectors.mongo.parked` |
| _tandem_jobs        | table, or copied row | truncate: lsn; reread: why; copy: of which row, into what; serial |
| _tandem_anchors     | parent           | v |
| _tandem_workers     | running consumer | lsid, partitions |
| _tandem_state       | thing            | `pipeline`, `load/GROUP`, `preflight`, ... |
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson import Binary, DatetimeMS, Int64, ObjectId

from connectors.errors import CutoverState, MappingChanged, Moved, Refused
from connectors.mongo.client import Database, Document, translated
from connectors.mongo.transaction import Transaction, Write, write
from connectors.positions import Lsn, Partition

POSITIONS = "_tandem_positions"
CLAIMS = "_tandem_claims"
CHUNKS = "_tandem_chunks"
WALKS = "_tandem_walks"
PARKED = "_tandem_parked"
JOBS = "_tandem_jobs"
ANCHORS = "_tandem_anchors"
WORKERS = "_tandem_workers"
STATE = "_tandem_state"
OWN = (POSITIONS, CLAIMS, CHUNKS, WALKS, PARKED, JOBS, ANCHORS, WORKERS, STATE)
#: a consumer whose process was not heard of for so long is dead
SILENT_AFTER_S = 5.0
#: the holder of a table from setup on, until a load takes it
UNLOADED = "load:none"
#: what the holder of a table begins with, and the `_id` of what is known of the one that runs, or ran last: a load; a
#: walk, which reads rows as they are now
LOAD, WALK = "load", "heal"
#: what the holder of a table begins with while a rebuild's swap replaces what is made from it: nobody else may take it
SWAP = "rebuild"
#: what the holder of every table begins with once the application writes to MongoDB: nobody lets go of it but an abort
RETIRED = "cutover"
#: how far a lost slot is healed, `healing` of the pipeline's state: nobody knows which slot there is; it is there, and
#: the positions lie where it begins. Neither: it is done
NO_SLOT, NEW_SLOT = "slot", "rows"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition is. holder: who holds its table; consumers do not write while it is set."""

    partition: Partition
    table: str
    at: int
    holder: str | None
    mark: Lsn
    topic_id: str
    #: what whoever writes its rows has to go by: `Plan.follows`; empty: anything
    plan: str = ""

    @classmethod
    def of(cls, document: Document) -> Position:
        """From its document."""
        topic, _, number = document["_id"].rpartition("/")
        return cls(
            Partition(topic, int(number)),
            document["table"],
            int(document["at"]),
            document["holder"],
            Lsn(document["mark"]),
            document.get("topicId", ""),
            document.get("plan", ""),
        )


def _ids(partitions: Iterable[Partition]) -> dict[str, Any]:
    return {"_id": {"$in": [p.id for p in partitions]}}


# -- outside of transactions -------------------------------------------------------------------------------------
def positions(db: Database, partitions: Iterable[Partition] | None = None) -> dict[Partition, Position]:
    """Positions as of now, of these partitions or of all."""
    with translated():
        found = db[POSITIONS].find({} if partitions is None else _ids(partitions))
        return {p.partition: p for p in map(Position.of, found)}


def state(db: Database, name: str) -> Document | None:
    """One document of what is known of the pipeline."""
    with translated():
        return db[STATE].find_one({"_id": name})


def set_state(db: Database, name: str, **fields: object) -> None:
    """Set fields of one, which is made where there is none."""
    with translated():
        db[STATE].update_one({"_id": name}, {"$set": fields}, upsert=True)


def versions(db: Database) -> dict[str, str]:
    """The version of each table that was taken over."""
    with translated():
        found = [d for d in db[STATE].find({}) if d["_id"].startswith("schema/")]
    return {d["_id"].removeprefix("schema/"): d["version"] for d in found}


def left_out(db: Database) -> list[str]:
    """Columns that were added since their table was taken over, and are ignored."""
    with translated():
        found = [d for d in db[STATE].find({}) if d["_id"].startswith("schema/")]
    return [f"{d['_id'].removeprefix('schema/')}.{column}" for d in found for column in d["ignored"]]


def add_positions(
    db: Database, table: str, topic_id: str, ends: Mapping[Partition, int], plan: str = ""
) -> None:
    """Positions of a table that streams nothing yet: at the end, held until its load. Those there stay.

    What lies in a topic already, of an earlier pipeline, is older than any load that is still to come.
    """
    with translated():
        for partition, end in ends.items():
            db[POSITIONS].update_one(
                {"_id": partition.id},
                {
                    "$setOnInsert": {
                        "at": Int64(end),
                        "holder": UNLOADED,
                        "mark": Int64(0),
                        "table": table,
                        "topicId": topic_id,
                        "plan": plan,
                    }
                },
                upsert=True,
            )


def skip_to(db: Database, ends: Mapping[Partition, int]) -> None:
    """Before a slot is made: what an earlier one sent is not to be applied over the load that follows."""
    with translated():
        for partition, end in ends.items():
            db[POSITIONS].update_one({"_id": partition.id}, {"$max": {"at": Int64(end)}})


def register_worker(
    db: Database, worker: str, lsid: Mapping[str, Any], partitions: Iterable[Partition]
) -> None:
    """Say whose session may hold transactions on these partitions, so that a successor can end it."""
    with translated():
        db[WORKERS].update_one(
            {"_id": worker},
            {
                "$set": {"lsid": lsid["id"], "partitions": [p.id for p in partitions]},
                "$currentDate": {"seen": True, "alive": True},
            },
            upsert=True,
        )


def register_guest(db: Database, name: str, lsid: Mapping[str, Any], partitions: Iterable[Partition]) -> None:
    """The same of one that is no consumer and writes rows of these partitions for a moment: killed, it would block them
    until the server's limit."""
    with translated():
        what = {"lsid": lsid["id"], "partitions": [p.id for p in partitions], "guest": True}
        db[WORKERS].replace_one({"_id": name}, what, upsert=True)


def seen(db: Database, worker: str) -> None:
    """A worker says that it gets on with its work."""
    with translated():
        db[WORKERS].update_one({"_id": worker}, {"$currentDate": {"seen": True}})


def beats(db: Database, worker: str) -> None:
    """A worker's process says that it lives, whatever its work waits for."""
    with translated():
        db[WORKERS].update_one({"_id": worker}, {"$currentDate": {"alive": True}})


@dataclass(frozen=True, slots=True)
class Registered:
    """A running consumer. alive_s, seen_s: since its process, and its work, were heard of; by MongoDB's clock."""

    name: str
    partitions: int
    alive_s: float
    seen_s: float


def workers(db: Database) -> list[Registered]:
    """All that are registered, also those that have died since."""
    with translated():
        now = _ms(db.command("hello")["localTime"])
        found = list(db[WORKERS].find({"guest": {"$ne": True}}).sort("_id", 1))
    return [
        Registered(
            str(w["_id"]),
            len(w["partitions"]),
            max(0, now - _ms(w["alive"] if "alive" in w else w["seen"])) / 1_000,
            max(0, now - _ms(w["seen"])) / 1_000,
        )
        for w in found
    ]


def load_lives(db: Database, within_s: float, kind: str = LOAD) -> bool:
    """Whether a loader, or who walks, has said within this time that it lives."""
    with translated():
        now = db.command("hello")["localTime"]
        known = db[STATE].find_one({"_id": kind})
    return known is not None and "beat" in known and _ms(now) - _ms(known["beat"]) < within_s * 1_000


def _ms(moment: datetime | DatetimeMS) -> int:
    """Answers of commands come as datetime, documents as DatetimeMS."""
    return int(moment if isinstance(moment, DatetimeMS) else DatetimeMS(moment))


def forget_worker(db: Database, worker: str) -> None:
    """A worker has ended in order."""
    with translated():
        db[WORKERS].delete_one({"_id": worker})


def end_sessions_of_others(db: Database, worker: str, partitions: Iterable[Partition]) -> int:
    """End the sessions of all other workers that were assigned any of these partitions. Returns how many.

    It aborts what they have open and nothing else: one that lives finds its transaction gone, and its
    position moved or not. Source: MongoDB documentation, killSessions.
    """
    with translated():
        others = list(
            db[WORKERS].find({"_id": {"$ne": worker}, "partitions": {"$in": [p.id for p in partitions]}})
        )
        if others:
            _end_sessions(db, [other["lsid"] for other in others])
            db[WORKERS].delete_many({"_id": {"$in": [other["_id"] for other in others]}})
    return len(others)


def _end_sessions(db: Database, lsids: Sequence[Any]) -> None:
    """Abort what these sessions have open, and nothing else. Source: MongoDB documentation, killSessions."""
    if lsids:
        ids = [{"id": lsid if isinstance(lsid, Binary) else Binary.from_uuid(lsid)} for lsid in lsids]
        db.client.admin.command({"killSessions": ids})


# -- the lease of a direct writer --------------------------------------------------------------------------------
def begin_load(db: Database, run: str, kind: str = LOAD) -> int:
    """Make this run the one that loads, or walks, and end the sessions that the last one has left open. Returns how
    many.

    A loader that dies leaves its transactions open until the server's limit, and what they have written blocks
    whoever goes on. One that lives after all has its transaction aborted, and finds its claim gone.
    """
    left = end_sessions_of(db, kind)
    with translated():
        db[STATE].update_one(
            {"_id": kind}, {"$set": {"run": run, "sessions": []}, "$currentDate": {"beat": True}}, upsert=True
        )
    return left


def end_sessions_of(db: Database, kind: str) -> int:
    """End the sessions that the last run of this kind has registered. Returns how many."""
    with translated():
        left = (db[STATE].find_one({"_id": kind}) or {}).get("sessions", [])
        _end_sessions(db, left)
    return len(left)


def register_loader(db: Database, run: str, lsid: Mapping[str, Any], kind: str = LOAD) -> None:
    """Say which session may hold transactions of this run, so that a successor can end it."""
    with translated():
        db[STATE].update_one({"_id": kind, "run": run}, {"$push": {"sessions": lsid["id"]}})


def load_beats(db: Database, run: str, kind: str = LOAD) -> None:
    """This run says that it lives, if it is still the one that loads."""
    with translated():
        db[STATE].update_one({"_id": kind, "run": run}, {"$currentDate": {"beat": True}})


def load_ended(db: Database, run: str, kind: str = LOAD) -> None:
    """This run has ended in order."""
    with translated():
        db[STATE].update_one({"_id": kind, "run": run}, {"$unset": {"beat": 1}, "$set": {"sessions": []}})


# -- in a transaction --------------------------------------------------------------------------------------------
def advance(
    tx: Transaction, moves: Mapping[Partition, tuple[int, int]], follows: Callable[[str], str] = lambda _: ""
) -> dict[Partition, Lsn]:
    """Move positions from start to end by compare-and-set; returns each one's truncate watermark.

    Raises Moved where one is not at its start, or held, and MappingChanged where another plan is to be followed:
    nothing of this transaction may be kept then.
    """
    found = {p.partition: p for p in map(Position.of, tx.find(POSITIONS, _ids(moves)))}
    for partition, (start, _) in moves.items():
        position = found.get(partition)
        if position is None or position.at != start or position.holder is not None:
            raise Moved(
                f"{partition.id} is not at {start}, or held",
                remedy="go on at the position that MongoDB has",
                at=position.at if position else "unknown",
                holder=position.holder if position else "none",
            )
        _same_plan(position, follows)
    writes: list[Write] = [
        write("set", partition.id, {"at": Int64(end)}) for partition, (_, end) in moves.items()
    ]
    tx.bulk(POSITIONS, writes)
    return {partition: found[partition].mark for partition in moves}


def _same_plan(position: Position, follows: Callable[[str], str]) -> None:
    if position.plan and follows(position.table) not in ("", position.plan):
        raise MappingChanged(
            "the mapping, or a table, is no longer the one that this process follows",
            remedy="start it again with the mapping that `tandem setup` was run with",
            table=position.table,
        )


def touch(
    tx: Transaction, partitions: Sequence[Partition], follows: Callable[[str], str] = lambda _: ""
) -> None:
    """Write positions as they are, so that whoever else writes rows of them conflicts. follows: as for `advance`.

    Raises Moved where one is held, and MappingChanged.
    """
    matched = tx.update(
        POSITIONS, {**_ids(partitions), "holder": None}, {"$inc": {"touched": Int64(1)}}, many=True
    )
    if matched != len(partitions):
        raise Moved("a table is held by a direct writer", remedy="wait until it has ended")
    for position in map(Position.of, tx.find(POSITIONS, _ids(partitions))):
        _same_plan(position, follows)


def mark(tx: Transaction, table: str, lsn: Lsn) -> Lsn:
    """Write a truncate's watermark into all positions of its table; returns the highest one there is now.

    Raises Moved where the table is held.
    """
    highest = lsn
    for position in map(Position.of, tx.find(POSITIONS, {"table": table})):
        if position.holder is not None:
            raise Moved(f"{table} is held", remedy="wait until the direct writer has ended")
        highest = max(highest, position.mark)
    tx.update(
        POSITIONS, {"table": table}, {"$max": {"mark": Int64(lsn)}, "$inc": {"touched": Int64(1)}}, many=True
    )
    return highest


def take(
    tx: Transaction,
    tables: Sequence[str],
    run: str,
    takes_over: str,
    follows: Callable[[str], str] = lambda _: "",
) -> None:
    """Hold all partitions of these tables for a run. Who holds them now has to be free to rob: takes_over is the
    prefix of such holders. Raises Moved where another kind of writer, or nobody, holds one, MappingChanged where
    another plan is to be followed."""
    for position in map(Position.of, tx.find(POSITIONS, {"table": {"$in": list(tables)}})):
        _same_plan(position, follows)
        if position.holder is None or not position.holder.startswith(takes_over):
            raise Moved(
                f"{position.table} is held by {position.holder or 'nobody: it streams already'}",
                remedy="wait until it has ended",
            )
    tx.update(POSITIONS, {"table": {"$in": list(tables)}}, {"$set": {"holder": run}}, many=True)


def take_from_anyone(
    tx: Transaction,
    tables: Sequence[str],
    run: str,
    follows: Callable[[str], str],
    ends: Mapping[Partition, int],
) -> set[str]:
    """Hold all partitions of these tables for a walk; whoever held one can write no more. Returns the tables that an
    earlier walk held. ends: what lies before these offsets is not to be applied. Raises MappingChanged."""
    found = [Position.of(d) for d in tx.find(POSITIONS, {"table": {"$in": list(tables)}})]
    demand_not_retired(found)
    if any((position.holder or "").startswith(SWAP) for position in found):
        raise Refused(
            "a rebuild is being swapped in, and its tables are held for that",
            remedy="wait until it has ended; where it has died, run `tandem rebuild`, which carries it to its end",
        )
    for position in found:
        _same_plan(position, follows)
    robbed = {p.holder for p in found if p.holder not in (None, UNLOADED, run)}
    tx.delete(CLAIMS, {"run": {"$in": sorted(str(holder) for holder in robbed)}})
    for position in found:
        change = {"$set": {"holder": run}, "$max": {"at": Int64(ends.get(position.partition, 0))}}
        tx.update(POSITIONS, {"_id": position.partition.id}, change)
    return {p.table for p in found if (p.holder or "").startswith(WALK)}


def move_to(tx: Transaction, tables: Sequence[str], run: str, ends: Mapping[Partition, int]) -> None:
    """Under this run's hold, before rows are read: what lies before these offsets is not to be applied. Raises Moved
    where another has taken the hold."""
    for position in map(Position.of, tx.find(POSITIONS, {"table": {"$in": list(tables)}})):
        mine = {"_id": position.partition.id, "holder": run}
        change = {"$max": {"at": Int64(ends.get(position.partition, 0))}, "$inc": {"touched": Int64(1)}}
        if tx.update(POSITIONS, mine, change) != 1:
            raise Moved("the hold was taken over", remedy="another run goes on with it")


def healing(tx: Transaction, how_far: str, **fields: object) -> None:
    """Say how far a lost slot is healed."""
    tx.update(STATE, {"_id": "pipeline"}, {"$set": {"healing": how_far, **fields}}, upsert=True)


def healed_to(tx: Transaction) -> object:
    """How far a lost slot is healed; none is where this is false."""
    return (tx.one(STATE, {"_id": "pipeline"}) or {}).get("healing")


def healed(db: Database) -> None:
    """All rows were read again; where another run makes a slot by now, it is not done."""
    with translated():
        db[STATE].update_one({"_id": "pipeline", "healing": NEW_SLOT}, {"$set": {"healing": False}})


def release(tx: Transaction, tables: Sequence[str], run: str) -> None:
    """Let go, at the same positions. Raises Moved where one is no longer this run's."""
    wanted = len(tx.find(POSITIONS, {"table": {"$in": list(tables)}}))
    matched = tx.update(
        POSITIONS, {"table": {"$in": list(tables)}, "holder": run}, {"$set": {"holder": None}}, many=True
    )
    if matched != wanted:
        raise Moved("the hold was taken over", remedy="another load goes on with it")


def demand_not_retired(found: Iterable[Position]) -> None:
    """Raises CutoverState where the application writes these documents itself, or is about to."""
    if any((position.holder or "").startswith(RETIRED) for position in found):
        raise CutoverState(
            "this pipeline was cut over: what PostgreSQL holds is older than what the application has written since",
            remedy="see `tandem cutover status`; nothing but the application may write these collections",
        )


def retire(tx: Transaction, run: str) -> int:
    """Hold every partition for good: no consumer applies an event any more, and no direct writer begins. Raises Moved
    where one is held by another, so that something is still being written. Safe to repeat."""
    found = [Position.of(d) for d in tx.find(POSITIONS, {})]
    mine = f"{RETIRED}:{run}"
    busy = sorted({p.table for p in found if p.holder not in (None, mine)})
    if busy:
        raise Moved(f"held by others: {', '.join(busy)}", remedy="wait until they have ended")
    tx.update(POSITIONS, {}, {"$set": {"holder": mine}, "$inc": {"touched": Int64(1)}}, many=True)
    return len(found)


def unretire(tx: Transaction) -> None:
    """The consumers go on where they were."""
    for position in map(Position.of, tx.find(POSITIONS, {})):
        if (position.holder or "").startswith(RETIRED):
            tx.update(POSITIONS, {"_id": position.partition.id}, {"$set": {"holder": None}})


def claim(tx: Transaction, worker: str) -> None:
    """A direct writer's right to write, checked and written. Raises Moved when it was taken over."""
    if tx.update(CLAIMS, {"_id": worker}, {"$inc": {"n": Int64(1)}}) != 1:
        raise Moved("the hold was taken over", remedy="another load goes on with it")


# -- jobs --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Job:
    """A truncate that has still to remove documents. serial: another one of the table has another."""

    table: str
    lsn: Lsn
    serial: int

    @property
    def id(self) -> str:
        """The `_id` of its document."""
        return f"truncate/{self.table}"


@dataclass(frozen=True, slots=True)
class CopyJob:
    """A parent that has still to be copied into the documents that point to it. serial: as of `Job`."""

    collection: str
    field: str
    parent: ObjectId
    serial: int

    @property
    def id(self) -> str:
        """The `_id` of its document."""
        return f"copy/{self.collection}/{self.field}/{self.parent}"


@dataclass(frozen=True, slots=True)
class Reread:
    """A table whose rows have to be read again: until then documents are not as their rows are. by_itself: the
    consumers see to it; else an operator. serial: one that was recorded anew meanwhile has another."""

    table: str
    why: str
    by_itself: bool
    serial: int


def _serial() -> Int64:
    """Tells a job that is recorded anew from the one before, also when that one is struck already: a number that
    begins again with each job would let somebody who is late with the old one strike the new one."""
    return Int64(secrets.randbits(62))


def record_job(tx: Transaction, table: str, lsn: Lsn) -> None:
    """Record, or record anew, that documents of a table older than this have to go."""
    tx.update(
        JOBS,
        {"_id": f"truncate/{table}"},
        {"$set": {"table": table, "serial": _serial()}, "$max": {"lsn": Int64(lsn)}},
        upsert=True,
    )


def record_reread(tx: Transaction, table: str, why: str, *, by_itself: bool) -> None:
    """Record, or record anew, that a table's rows have to be read again."""
    tx.update(
        JOBS,
        {"_id": f"reread/{table}"},
        {"$set": {"table": table, "why": why, "by_itself": by_itself, "serial": _serial()}},
        upsert=True,
    )


def _all_of(kind: str) -> dict[str, Any]:
    """The jobs of a kind, by the range of their `_id`s."""
    return {"_id": {"$gt": f"{kind}/", "$lt": f"{kind}0"}}  # "0" is what comes after "/"


def jobs(db: Database) -> list[Job]:
    """Every truncate that there is to carry out."""
    with translated():
        found = list(db[JOBS].find(_all_of("truncate")))
    return [Job(d["table"], Lsn(d["lsn"]), int(d["serial"])) for d in found]


def rereads(db: Database) -> list[Reread]:
    """Every table that has to be read again."""
    with translated():
        return [_reread(d) for d in db[JOBS].find(_all_of("reread"))]


def rereads_in(tx: Transaction) -> list[Reread]:
    """Every table that has to be read again, as a transaction sees it."""
    return [_reread(d) for d in tx.find(JOBS, _all_of("reread"))]


def _reread(document: Document) -> Reread:
    return Reread(document["table"], document["why"], document["by_itself"], int(document["serial"]))


def record_copy(tx: Transaction, collection: str, field: str, parent: ObjectId) -> None:
    """Record, or record anew, that what is copied of a row has to reach all documents that point to it."""
    job = CopyJob(collection, field, parent, 0)
    what = {"collection": collection, "field": field, "parent": parent, "serial": _serial()}
    tx.update(JOBS, {"_id": job.id}, {"$set": what}, upsert=True)


def copy_jobs(db: Database, collections: Sequence[str], after: str, most: int) -> list[CopyJob]:
    """So many of the jobs that write documents of these collections, as a circle in the order of their `_id`s, from
    behind this one on."""
    found = _copy_jobs(db, collections, after, most)
    if len(found) < most:
        found += [job for job in _copy_jobs(db, collections, "", most - len(found)) if job.id <= after]
    return found


def _copy_jobs(db: Database, collections: Sequence[str], after: str, most: int) -> list[CopyJob]:
    ranges = [
        {"_id": {"$gt": max(after, f"copy/{name}/"), "$lt": f"copy/{name}0"}, "collection": name}
        for name in collections
    ]
    if not ranges:
        return []
    with translated():
        found = list(db[JOBS].find({"$or": ranges}).sort("_id", 1).limit(most))
    return [CopyJob(d["collection"], d["field"], d["parent"], int(d["serial"])) for d in found]


def forget_copy_jobs(db: Database, collections: Sequence[str]) -> None:
    """The jobs that write documents of other collections than these: nobody does them any more."""
    with translated():
        db[JOBS].delete_many({**_all_of("copy"), "collection": {"$nin": list(collections)}})


def pointing(
    tx: Transaction, collection: str, pointer: str, parent: ObjectId, last: object, until: object, most: int
) -> list[Any]:
    """`_id`s of documents that point to a row, those behind `last` (None: from the first) up to `until` (None: to the
    end), in their order; so many at once."""
    bounds = {**({} if last is None else {"$gt": last}), **({} if until is None else {"$lte": until})}
    query = {pointer: parent, **({"_id": bounds} if bounds else {})}
    return [d["_id"] for d in tx.find(collection, query, {"_id": 1}, most=most, by_id=True)]


def still(tx: Transaction, job: Job | CopyJob) -> bool:
    """Whether a job is recorded as it was found. Everything that is done of it asks that in its own transaction: one
    whose snapshot is from before the job does not see what the job is about."""
    return tx.one(JOBS, {"_id": job.id, "serial": Int64(job.serial)}) is not None


def strike(tx: Transaction, job: Job | CopyJob, plan: str = "") -> None:
    """A job that is `still` there is done, by one who follows this plan."""
    known = tx.one(STATE, {"_id": "pipeline"}) if plan else None
    if known and known.get("mapping", plan) != plan:
        raise MappingChanged(
            "the mapping is no longer the one that this process follows",
            remedy="start it again with the mapping that `tandem setup` was run with",
        )
    tx.delete(JOBS, {"_id": job.id})


def strike_reread(tx: Transaction, job: Reread) -> None:
    """A table was read again; one that was recorded anew meanwhile stays."""
    tx.delete(JOBS, {"_id": f"reread/{job.table}", "serial": Int64(job.serial)})


#: before every ObjectId
LOWEST = ObjectId(b"\0" * 12)
#: what the keys of documents are read from
_KEYED = {"_id": 1, "_sync": 1, "k": 1}


def after(db: Database, collection: str, last: ObjectId | None, most: int) -> list[Document]:
    """The next documents of a collection in the order of their `_id`s, with what their keys are read from; of those
    whose `_id` is an ObjectId: a comparison never leaves its type, so paging would end where another type begins."""
    with translated():
        query = {"_id": {"$gte": LOWEST} if last is None else {"$gt": last}}
        return list(db[collection].find(query, _KEYED).sort("_id", 1).limit(most))


def of_other_ids(db: Database, collection: str) -> Iterator[Document]:
    """The documents of a collection whose `_id` is no ObjectId: not many are expected."""
    with translated():
        yield from db[collection].find({"_id": {"$not": {"$gte": LOWEST}}}, _KEYED)


def ask_for(db: Database, tables: Sequence[str], run: str) -> None:
    """Hold each partition that streams, one after the other: each waits for the batch that is open there. Taking all
    in one transaction would lose against consumers that always have one open."""
    with translated():
        for position in positions(db).values():
            if position.table in tables and position.holder is None:
                mine = {"_id": position.partition.id, "holder": None}
                db[POSITIONS].update_one(mine, {"$set": {"holder": run}})


def older_than(db: Database, collection: str, stamp: str, lsn: Lsn, most: int = 500) -> list[object]:
    """`_id`s of documents with an LSN below this."""
    with translated():
        return [d["_id"] for d in db[collection].find({stamp: {"$lt": Int64(lsn)}}, {"_id": 1}).limit(most)]
