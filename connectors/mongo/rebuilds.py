"""A rebuild's documents: its journal, its own positions beside the live ones, the hold and the switch of a swap.

The journal is the document `rebuild` of `_tandem_state`: id (the shadow's collections begin with it), collections,
source, until, phase, owner, base (of the pipeline as it was), hold, moves (of a swap: [from, to]), drops, kept (what
the last swap has replaced: id, collections, shapes, at).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bson import Int64
from pymongo.errors import OperationFailure

from connectors.errors import Moved, Refused
from connectors.mongo import ledger
from connectors.mongo.client import Database, Document, Shadow, translated
from connectors.mongo.transaction import Transaction, write
from connectors.positions import Partition

JOURNAL = "rebuild"
#: of the run that works on it: see `ledger.begin_load`
LEASE = "shadow"
#: what the names of all shadow collections begin with; what is kept of a swap is a shadow too
PREFIX = "_tandem_shadow_"
#: phases of the journal that this room has to know of: `sync.rebuild.states`
FOLLOWING, HOLDING, RENAMING = "following", "holding", "renaming"
_NO_SUCH_COLLECTION = 26


def prefix_of(name: str) -> str:
    """Of the collections of one rebuild."""
    return f"{PREFIX}{name}_"


def journal(db: Database) -> Document | None:
    """What is known of the rebuild that is, or was the last; None where there never was one."""
    return ledger.state(db, JOURNAL)


class Journal:
    """The journal in the hands of one run. owner: its name; one that was taken over writes nothing any more."""

    def __init__(self, db: Database, owner: str) -> None:
        self.db, self.owner = db, owner

    def take(self) -> Document:
        """Make this run the one that writes it. Returns what it says."""
        with translated():
            self.db[ledger.STATE].update_one({"_id": JOURNAL}, {"$set": {"owner": self.owner}}, upsert=True)
        return journal(self.db) or {}

    def write(self, **fields: object) -> None:
        """Set fields, before the act that they tell of. Raises Moved."""
        with translated():
            mine = {"_id": JOURNAL, "owner": self.owner}
            self._demand(self.db[ledger.STATE].update_one(mine, {"$set": fields}).matched_count)

    def write_in(self, tx: Transaction, **fields: object) -> None:
        """The same in a transaction."""
        self._demand(tx.update(ledger.STATE, {"_id": JOURNAL, "owner": self.owner}, {"$set": fields}))

    @staticmethod
    def _demand(matched: int) -> None:
        if matched != 1:
            raise Moved("another `tandem rebuild` has taken over", remedy="that one goes on with it")


# -- the shadow's own positions ----------------------------------------------------------------------------------
def live_positions(db: Database, tables: Iterable[str]) -> dict[Partition, ledger.Position]:
    """Positions of these tables."""
    wanted = set(tables)
    return {p: at for p, at in ledger.positions(db).items() if at.table in wanted}


def copy_state(db: Database, shadow: Shadow, mapping: str) -> None:
    """Let the shadow know of the pipeline and its tables what the live side knows, but follow this mapping."""
    with translated():
        for known in db[ledger.STATE].find({}):
            if known["_id"].startswith("schema/") or known["_id"] == "pipeline":
                shadow[ledger.STATE].replace_one({"_id": known["_id"]}, known, upsert=True)
    ledger.set_state(shadow, "pipeline", mapping=mapping)


def begin_at_live(
    tx: Transaction, shadow: Shadow, tables: Sequence[str], follows: Callable[[str], str], holder: str | None
) -> None:
    """Positions where the live ones are, with their truncates: what lies before them was visible to everybody before
    it was applied, so it is in every snapshot that is taken from here on. Raises Refused where one is held."""
    for live in tx.find(ledger.POSITIONS, {"table": {"$in": list(tables)}}):
        if live["holder"] is not None:
            raise Refused(
                f"{live['table']} is held by {live['holder'].split(':')[0]}",
                remedy="wait until that load, reload or swap has ended; `tandem status` tells of it",
            )
        mine = {**live, "holder": holder, "plan": follows(live["table"])}
        tx.bulk(shadow.full(ledger.POSITIONS), [write("replace", live["_id"], _less_id(mine))])


def begin_at(
    tx: Transaction,
    shadow: Shadow,
    tables: Sequence[str],
    follows: Callable[[str], str],
    begins: Mapping[Partition, int],
    holder: str | None,
) -> None:
    """Positions at these offsets, before every truncate."""
    for live in tx.find(ledger.POSITIONS, {"table": {"$in": list(tables)}}):
        at = begins[ledger.Position.of(live).partition]
        mine = {**live, "holder": holder, "plan": follows(live["table"]), "at": Int64(at), "mark": Int64(0)}
        tx.bulk(shadow.full(ledger.POSITIONS), [write("replace", live["_id"], _less_id(mine))])


def follow(db: Shadow, follows: Callable[[str], str]) -> None:
    """Let positions that are there follow this plan, and let nobody hold them: of what was kept at a swap."""
    with translated():
        for position in ledger.positions(db).values():
            change = {"$set": {"plan": follows(position.table), "holder": None}}
            db[ledger.POSITIONS].update_one({"_id": position.partition.id}, change)


def _less_id(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "_id"}


# -- a swap ------------------------------------------------------------------------------------------------------
def hold(db: Database, tables: Sequence[str], run: str) -> dict[Partition, int]:
    """Hold all partitions of these tables, whose consumers wait. Returns where they are. Raises Refused where somebody
    else has one: what was taken is the caller's to let go."""
    ledger.ask_for(db, tables, run)
    found = live_positions(db, tables)
    others = sorted({p.table for p in found.values() if p.holder != run})
    if others:
        raise Refused(
            f"held by another: {', '.join(others)}",
            remedy="wait until that load, reload or cutover has ended; `tandem status` tells of it",
        )
    return {partition: position.at for partition, position in found.items()}


def let_go(tx: Transaction, run: str | None = None) -> None:
    """Whatever this run holds, or any swap that has not switched, streams again at the same positions. Safe to repeat.
    After the switch nothing is let go of: what is to be renamed may not be written to."""
    known = tx.one(ledger.STATE, {"_id": JOURNAL}) or {}
    switched = known.get("hold") if known.get("phase") == RENAMING else None
    for position in map(ledger.Position.of, tx.find(ledger.POSITIONS, {})):
        holder = position.holder or ""
        mine = holder == run if run is not None else holder.startswith(ledger.SWAP)
        if mine and holder != switched:
            tx.update(ledger.POSITIONS, {"_id": position.partition.id}, {"$set": {"holder": None}})
    if known.get("phase") == HOLDING and run in (None, known.get("hold")):
        tx.update(ledger.STATE, {"_id": JOURNAL}, {"$set": {"phase": FOLLOWING, "hold": ""}})


def release(db: Database, run: str) -> None:
    """The renames are done: what this run holds streams again, at the same positions. Safe to repeat."""
    with translated():
        db[ledger.POSITIONS].update_many({"holder": run}, {"$set": {"holder": None}})


def demand_held(tx: Transaction, run: str, at: Mapping[Partition, int]) -> None:
    """Under this run's hold, where it was taken. Raises Moved."""
    for partition, offset in at.items():
        mine = {"_id": partition.id, "holder": run, "at": Int64(offset)}
        if tx.update(ledger.POSITIONS, mine, {"$inc": {"touched": Int64(1)}}) != 1:
            raise Moved("the hold was taken over", remedy="run `tandem rebuild --swap` again")


def retire_shadow(tx: Transaction, shadow: Shadow, run: str, at: Mapping[Partition, int]) -> None:
    """The shadow stands where the live side does, complete, and nobody writes it any more. Raises Moved, Refused."""
    for partition, offset in at.items():
        mine = {"_id": partition.id, "holder": None, "at": Int64(offset)}
        if tx.update(shadow.full(ledger.POSITIONS), mine, {"$set": {"holder": run}}) != 1:
            raise Moved(
                "the shadow is not where the live side is", remedy="run `tandem rebuild --swap` again"
            )
    if tx.count(shadow.full(ledger.JOBS)) or tx.count(shadow.full(ledger.PARKED)):
        raise Refused(
            "the shadow has work left: rows are parked, or copies not made",
            remedy="see `tandem rebuild`, which tells what is parked",
        )


def demand_base(tx: Transaction, base: Mapping[str, Any], tables: Sequence[str]) -> None:
    """The pipeline is the one that the rebuild began on, and owes its tables nothing. Raises Refused."""
    now = tx.one(ledger.STATE, {"_id": "pipeline"}) or {}
    if base_of(now) != dict(base) or now.get("healing"):
        raise Refused(
            "the pipeline is no longer as it was when the rebuild began: its mapping or its slot has changed",
            remedy="`tandem rebuild --discard`, then begin anew",
        )
    again = sorted({job.table for job in ledger.rereads_in(tx)} & set(tables))
    if again:
        raise Refused(
            f"tables have to be read again: {', '.join(again)}",
            remedy="run `tandem snapshot`, or let the consumers do it; then swap",
        )


def base_of(pipeline: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change under a rebuild."""
    return {name: pipeline.get(name) for name in ("mapping", "slotLsn", "system", "database")}


def switch(
    tx: Transaction,
    collections: Sequence[str],
    mapping: str,
    follows: Callable[[str], str],
    shapes: Mapping[str, str],
    settled: Sequence[str],
) -> None:
    """From here on this mapping is followed, and what was owed to the replaced documents is not. settled: tables that
    feed nothing else: what is parked of them is written in the shadow."""
    for position in map(ledger.Position.of, tx.find(ledger.POSITIONS, {})):
        if position.plan != follows(position.table):
            tx.update(
                ledger.POSITIONS, {"_id": position.partition.id}, {"$set": {"plan": follows(position.table)}}
            )
    tx.update(ledger.STATE, {"_id": "pipeline"}, {"$set": {"mapping": mapping}})
    for name in collections:
        known = {"planned": True, "shape": shapes[name], "removed": False}
        tx.update(ledger.STATE, {"_id": f"load/{name}"}, {"$set": known}, upsert=True)
    for name in collections:
        tx.delete(ledger.JOBS, {"_id": {"$gt": f"copy/{name}/", "$lt": f"copy/{name}0"}, "collection": name})
    tx.delete(ledger.PARKED, {"table": {"$in": list(settled)}})


def keep(db: Database, kept: Shadow, tables: Sequence[str], names: Sequence[str]) -> None:
    """Under the hold: copy these collections, and positions and parked rows of their tables, as they are. The server
    copies; a copy of an earlier try is replaced."""
    with translated():
        there = set(db.list_collection_names())
        for name in names:
            if name in there:
                db[name].aggregate([{"$match": {}}, {"$out": kept.full(name)}])
        for name, query in (
            (ledger.POSITIONS, {"table": {"$in": list(tables)}}),
            (ledger.PARKED, {"table": {"$in": list(tables)}}),
        ):
            kept[name].delete_many({})
            found = list(db[name].find(query))
            if found:
                kept[name].insert_many([{**d, "due": True} if name == ledger.PARKED else d for d in found])


def take_name(db: Database, source: str, target: str) -> bool:
    """Give a collection another's name, in whose place it comes: at once, whoever reads sees the one or the other.
    False where it was done before. Source: MongoDB documentation, renameCollection, `dropTarget`."""
    with translated():
        try:
            db[source].rename(target, dropTarget=True)
        except OperationFailure as error:
            if error.code != _NO_SUCH_COLLECTION:
                raise
            return False
    return True


def count(db: Database, name: str) -> int:
    """Documents of a collection, about."""
    with translated():
        return int(db[name].estimated_document_count())


def page(db: Database, name: str, last: object, most: int) -> list[Document]:
    """The next documents of a collection in the order of their `_id`s, of those whose `_id` is an ObjectId, as tandem's
    are; last None: the first ones."""
    with translated():
        query = {"_id": {"$gte": ledger.LOWEST} if last is None else {"$gt": last}}
        return list(db[name].find(query).sort("_id", 1).limit(most))


def these(db: Database, name: str, ids: Sequence[Any]) -> dict[Any, Document]:
    """These documents, by `_id`."""
    with translated():
        return {d["_id"]: d for d in db[name].find({"_id": {"$in": list(ids)}})}


def rows_loaded(db: Database, names: Sequence[str]) -> int | None:
    """Rows that there were when these collections were loaded; None where it is not known."""
    with translated():
        found = list(
            db[ledger.CHUNKS].find({"collection": {"$in": list(names)}}, {"rows": 1, "collection": 1})
        )
    return None if {d["collection"] for d in found} != set(names) else sum(int(d["rows"]) for d in found)


def foreign(db: Database, name: str, most: int = 0) -> int:
    """Documents that tandem did not write; at most so many are counted."""
    with translated():
        options: dict[str, Any] = {"limit": most} if most else {}
        return int(db[name].count_documents({"_sync": {"$exists": False}}, **options))
