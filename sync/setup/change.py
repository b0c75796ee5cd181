"""Another mapping for a running pipeline: what is new, what is made otherwise, what is no longer wanted; and the
switch, after which nobody writes by the old one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from connectors.errors import Refused
from connectors.mongo import client as mongo
from connectors.mongo import ledger, rebuilds, schema
from connectors.mongo.client import Database
from connectors.mongo.ledger import Position
from connectors.mongo.transaction import Transaction, Transactions
from consumers.mapping.plan import Plan

#: of a direct writer that lives
_LIVES_S = 6.0


@dataclass(frozen=True, slots=True)
class Change:
    """What a mapping asks for beside what there is.

    new, changed: collections over tables that stream, which have to be read again, with `tables`. begun: those
    whose load began under another form: it begins anew. removed: collections; removed_tables: those of them that
    nothing else is made from.
    """

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    removed_tables: tuple[str, ...] = ()


def change(plan: Plan, shapes: Mapping[str, str | None], positions: Iterable[Position]) -> Change:
    """Compare. shapes: of every collection that was loaded, or began to be; None: it was removed before. Pure."""
    found = list(positions)
    streaming = {p.table for p in found if not (p.holder or "").startswith(ledger.LOAD)}
    new, changed, begun, tables = list[str](), list[str](), list[str](), list[str]()
    for name in plan.documents:
        mine = plan.declared.collections[name].tables
        known = shapes.get(name)
        if known == plan.shape_of(name):
            continue
        if set(mine) & streaming:
            (changed if known else new).append(name)
            tables += [table for table in mine if table in streaming]
        elif name in shapes:
            begun.append(name)
    return Change(
        new=tuple(new),
        changed=tuple(changed),
        tables=tuple(dict.fromkeys(tables)),
        begun=tuple(begun),
        removed=tuple(sorted(n for n, shape in shapes.items() if shape and n not in plan.documents)),
        removed_tables=tuple(sorted({p.table for p in found} - set(plan.tables))),
    )


def look(db: Database, plan: Plan) -> Change:
    """What this mapping asks for now. Raises Refused beside a direct writer that follows another one."""
    known = ledger.state(db, "pipeline") or {}
    if known.get("mapping", plan.digest) != plan.digest:
        for kind, command in ((ledger.LOAD, "tandem snapshot"), (ledger.WALK, "tandem reload")):
            if ledger.load_lives(db, _LIVES_S, kind):
                raise Refused(
                    f"`{command}` is running, with the mapping that the pipeline was set up with",
                    remedy="wait until it has ended, or stop it; then run `tandem setup` again",
                )
    if (rebuilds.journal(db) or {}).get("phase") in ("holding", "renaming"):
        raise Refused(
            "a rebuild is being swapped in",
            remedy="wait until it has ended; where it has died, run `tandem rebuild`, which carries it to its end",
        )
    return change(plan, shapes_of(db), ledger.positions(db).values())


def shapes_of(db: Database) -> dict[str, str | None]:
    """The shape of every collection that was loaded, or began to be; None: it was removed."""
    with mongo.translated():
        found = list(db[ledger.STATE].find({}))
    return {d["_id"].removeprefix("load/"): d.get("shape") for d in found if d["_id"].startswith("load/")}


def switch(db: Database, plan: Plan, asked: Change) -> None:
    """From here on this mapping is followed. What has to be read again is recorded first; then no batch, load or walk
    of another mapping can commit: each writes a position or a claim, and finds them changed."""
    transactions = Transactions(db)
    try:
        transactions.repeat(lambda tx: _record(tx, asked))
    finally:
        transactions.close()
    robbed: set[str] = set()
    with mongo.translated():
        for position in ledger.positions(db).values():
            if position.table in plan.tables and position.plan != plan.follows(position.table):
                _id, follows = position.partition.id, plan.follows(position.table)
                db[ledger.POSITIONS].update_one({"_id": _id}, {"$set": {"plan": follows}})
                robbed.add(position.holder or "")
        if (ledger.state(db, "pipeline") or {}).get("mapping") != plan.digest:
            db[ledger.CLAIMS].delete_many({})
        db[ledger.CLAIMS].delete_many({"run": {"$in": sorted(robbed)}})
    ledger.set_state(db, "pipeline", mapping=plan.digest)


def _record(tx: Transaction, asked: Change) -> None:
    known = {job.table for job in ledger.rereads_in(tx)}
    for table in asked.tables:
        if table not in known:
            names = ", ".join((*asked.new, *asked.changed))
            ledger.record_reread(tx, table, f"the mapping of {names} has changed", by_itself=False)
    for name in asked.begun:
        tx.delete(ledger.CHUNKS, {"collection": name})
        tx.update(ledger.STATE, {"_id": f"load/{name}"}, {"$set": {"planned": False, "shape": None}})


def forget(db: Database, plan: Plan, asked: Change) -> list[str]:
    """After the switch: take away what tandem keeps of tables that are no longer mapped. Returns their topics."""
    topics = sorted(
        {p.partition.topic for p in ledger.positions(db).values() if p.table in asked.removed_tables}
    )
    mine = {"table": {"$in": [*asked.removed_tables, *topics]}}
    with mongo.translated():
        for name in (ledger.JOBS, ledger.PARKED, ledger.WALKS):
            db[name].delete_many(mine)
        ledger.forget_copy_jobs(db, list(plan.documents))
        for name in asked.removed:
            db[ledger.CHUNKS].delete_many({"collection": name})
            gone = {"planned": False, "shape": None, "removed": True}
            db[ledger.STATE].update_one({"_id": f"load/{name}"}, {"$set": gone})
        db[ledger.POSITIONS].delete_many({"table": {"$in": list(asked.removed_tables)}})
    wanted = set(plan.targets())
    there = schema.collection_names(db)
    staging = [n for n in there if n.startswith(("_tandem_rows_", "_tandem_copies_")) and n not in wanted]
    schema.drop(db, staging)
    return topics


def drop_removed(db: Database, plan: Plan) -> list[str]:
    """Drop the documents of collections that were mapped and are no longer."""
    with mongo.translated():
        found = list(db[ledger.STATE].find({"removed": True}))
    names = [d["_id"].removeprefix("load/") for d in found]
    gone = sorted(set(names) - set(plan.declared.collections))
    schema.drop(db, gone)
    with mongo.translated():
        db[ledger.STATE].delete_many({"_id": {"$in": [f"load/{name}" for name in names]}, "shape": None})
    return gone


def told(asked: Change) -> list[str]:
    """For people."""
    lines = []
    if asked.new:
        lines.append(
            f"new over tables that stream: {', '.join(asked.new)}; `tandem snapshot` reads {_tables(asked.tables)}"
        )
    if asked.changed:
        lines.append(
            f"the mapping of {', '.join(asked.changed)} has changed: documents keep their form until"
            f" `tandem reload {' '.join(asked.changed)}` (or `tandem snapshot`) has read them again, and nothing is"
            " complete before"
        )
    if asked.removed:
        lines.append(
            f"no longer mapped: {', '.join(asked.removed)}; their documents stay as they are"
            " (`tandem setup --drop-removed` drops them)"
        )
    return lines


def _tables(tables: Sequence[str]) -> str:
    return ", ".join(tables) + (" again" if tables else "")
