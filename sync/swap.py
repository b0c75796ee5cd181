"""The swap of a rebuild: under a hold of the live tables, at equal positions (docs/rebuild.md).

Every act is in the journal before it is done. Up to the switch, one transaction, all can be let go of; from it on what
is left is to rename, which can be repeated by anybody: a shadow collection that has got its name is no longer there.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from connectors.errors import Refused, Stopped, SyncError
from connectors.mongo import changes, cohort, ledger, rebuilds, schema
from connectors.mongo import client as mongo
from connectors.mongo.client import Database, Document, Shadow
from connectors.mongo.rebuilds import Journal
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Partition
from consumers.mapping.plan import Plan
from sync.follower import Follower
from sync.rebuild.states import Phase, moves
from sync.setup import target

Log = Callable[..., None]
#: a swap begins when the shadow is so close behind the live side
_NEAR = 5_000


def dated() -> str:
    """A name by time, and its own."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}_{uuid.uuid4().hex[:4]}"


@dataclass(slots=True)
class Swapped:
    """What a swap did. held_s: for so long the live consumers waited."""

    kept: str = ""
    held_s: float = 0.0


class Swap:
    """One try. plan: the whole mapping; mine: of the rebuilt collections only."""

    def __init__(
        self,
        db: Database,
        shadow: Shadow,
        journal: Journal,
        plan: Plan,
        mine: Plan,
        log: Log,
        *,
        within_s: float,
        keep: bool,
        replace_existing: bool,
    ) -> None:
        self.db, self.shadow, self.journal, self.plan, self.mine = db, shadow, journal, plan, mine
        self.log, self.within_s, self.keeping, self.replace_existing = log, within_s, keep, replace_existing
        self.collections = tuple(mine.documents)
        self.run = f"{ledger.SWAP}:{uuid.uuid4().hex[:12]}"

    def swap(self, known: Document, follower: Follower, stop: Callable[[], bool]) -> Swapped:
        """Carry it out. Raises Refused, NotComplete, Moved: then the live side goes on as it was."""
        done = Swapped()
        self._not_written_by_others()
        self._no_foreign()
        self._no_parked()
        # all of them: with another mapping all consumers have to follow it; and on some servers a rename waits for
        # every transaction that is open
        held = tuple(self.plan.tables)
        kept = dated() if self.keeping else ""
        self.journal.write(phase=Phase.HOLDING, hold=self.run, keeping=kept)
        began = time.monotonic()
        try:
            at = rebuilds.hold(self.db, held, self.run)
            taken = time.monotonic() - began
            mine = {p: at[p] for p in rebuilds.live_positions(self.db, self.mine.tables)}
            if not follower.reach(mine, self.within_s, stop):
                raise Stopped("told to stop before the swap", remedy="run `tandem rebuild --swap` again")
            follower.stop()
            reached = time.monotonic() - began
            self._no_parked()
            self._no_foreign()
            replaced = self._replaced()
            if kept:
                self._keep(kept, replaced)
            copied = time.monotonic() - began
            self._switch(known, at, mine, kept, replaced)
            switched = time.monotonic() - began
        except BaseException:
            with suppress(SyncError):  # what went wrong is told; the next run lets go
                let_go(self.db, self.run)
            raise
        free = finish(self.db, self.journal, self.plan, self.log)
        done.held_s, done.kept = free - began, rebuilds.prefix_of(kept) if kept else ""
        steps = {"taken": taken, "caught_up": reached, "copied": copied, "switched": switched}
        self.log(
            "the consumers go on", held_s=round(done.held_s, 2), **{n: round(s, 2) for n, s in steps.items()}
        )
        return done

    def _not_written_by_others(self) -> None:
        """Where the application writes too, a rename would end the way back, and documents would go that are on it."""
        if cohort.held(self.db) is not None or changes.MARKS in schema.collection_names(self.db):
            raise Refused(
                "MongoDB's changes are carried to PostgreSQL, by `tandem reverse` or for a cohort: a collection that is"
                " swapped would end that",
                remedy="swap before the way back is turned on; the shadow can be read, and verified, all the same",
            )

    def _no_foreign(self) -> None:
        if self.replace_existing:
            return
        there = schema.collection_names(self.db)
        found = [n for n in self.collections if n in there and rebuilds.foreign(self.db, n, 1)]
        if found:
            raise Refused(
                f"documents that tandem did not write would go: in {', '.join(found)}",
                remedy="move them elsewhere, or give --replace-existing",
            )

    def _no_parked(self) -> None:
        with mongo.translated():
            parked = [str(d["_id"]) for d in self.shadow[ledger.PARKED].find({}, {"_id": 1}).limit(5)]
            count = self.shadow[ledger.PARKED].count_documents({}) if parked else 0
        if parked:
            raise Refused(
                f"{count} rows are parked in the shadow: {', '.join(parked)}",
                remedy="mend the rows, or the mapping (`tandem rebuild --discard`, then begin anew)",
            )

    def _replaced(self) -> list[str]:
        """Live collections that this swap replaces: those of the rebuilt ones, and all staged rows that belong to no
        other."""
        others = {
            use.place for name in self.plan.documents if name not in self.collections
            for use in self.plan.staged(name)
        }  # fmt: skip
        there = schema.collection_names(self.db)
        staged = [n for n in there if n.startswith(("_tandem_rows_", "_tandem_copies_")) and n not in others]
        return [*sorted(staged), *(n for n in self.collections if n in there)]

    def _keep(self, kept: str, replaced: Sequence[str]) -> None:
        began = time.monotonic()
        rebuilds.keep(self.db, Shadow(self.db, rebuilds.prefix_of(kept)), list(self.mine.tables), replaced)
        self.log("kept what is replaced", took_s=round(time.monotonic() - began, 2))

    def _switch(
        self,
        known: Document,
        at: Mapping[Partition, int],
        mine: Mapping[Partition, int],
        kept: str,
        replaced: Sequence[str],
    ) -> None:
        """One transaction: whoever comes after it goes by the new mapping, and the renames are decided."""
        names = [n for n in schema.collection_names(self.shadow) if n in set(self.mine.targets())]
        renames, drops = moves(self.shadow.full(""), replaced, names)
        settled = [
            table for table in self.mine.tables
            if all(use.collection in self.collections for use in self.plan.uses(table))
        ]  # fmt: skip
        shapes = {name: self.plan.shape_of(name) for name in self.collections}
        old = {d["_id"]: d.get("shape") for d in self._loads()}
        fields: dict[str, Any] = {
            "phase": Phase.RENAMING,
            "moves": [list(pair) for pair in renames],
            "drops": drops,
        }
        if kept:
            fields["kept"] = {
                "id": kept,
                "collections": list(self.collections),
                "shapes": {name: old.get(f"load/{name}") for name in self.collections},
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            }

        def work(tx: Transaction) -> None:
            rebuilds.demand_held(tx, self.run, at)
            rebuilds.retire_shadow(tx, self.shadow, self.run, mine)
            rebuilds.demand_base(tx, known["base"], list(self.mine.tables))
            self.journal.write_in(tx, **fields)
            rebuilds.switch(tx, self.collections, self.plan.digest, self.plan.follows, shapes, settled)

        transactions = Transactions(self.db)
        # should this die with it open: the next run ends it
        ledger.register_loader(self.db, self.journal.owner, transactions.session_id, rebuilds.LEASE)
        try:
            transactions.repeat(work, within_s=30)
        finally:
            transactions.close()

    def _loads(self) -> list[Document]:
        with mongo.translated():
            return list(self.db[ledger.STATE].find({"_id": {"$in": [f"load/{n}" for n in self.collections]}}))


def let_go(db: Database, run: str | None = None) -> None:
    """Let the consumers go on, unless the switch was made. run None: whoever's hold it is."""
    transactions = Transactions(db)
    try:
        transactions.repeat(lambda tx: rebuilds.let_go(tx, run), within_s=30)
    finally:
        transactions.close()


def finish(db: Database, journal: Journal, plan: Plan, log: Log) -> float:
    """After the switch: give the shadow's collections their names, and let the consumers go on. What is left of the
    shadow is a stray. Safe to repeat, and for several at once. Returns when they could, by the monotonic clock."""
    known = rebuilds.journal(db) or {}
    for source, name in known["moves"]:
        renamed = rebuilds.take_name(db, source, name)
        if renamed and not name.startswith("_tandem_"):
            log(f"swapped in: {name}")
        if name in plan.declared.collections:  # a server may lose it with the name
            schema.create_collection(db, name, target.json_schema(plan.declared.collections[name]))
    rebuilds.release(db, known["hold"])
    free = time.monotonic()
    schema.drop(db, known.get("drops", ()))
    mine = [name for _, name in known["moves"] if name in plan.declared.collections]
    part = plan.declared.model_copy(update={"collections": {n: plan.declared.collections[n] for n in mine}})
    for warning in target.make_vector_indexes(db, part, log):
        log(warning)
    journal.write(phase=Phase.NONE, id="", hold="", moves=[], drops=[])
    return free


def drop_shadow(db: Database, name: str) -> None:
    """All collections of one shadow, its positions first: then nobody writes it any more. Safe to repeat."""
    prefix = rebuilds.prefix_of(name)
    there = [n for n in schema.collection_names(db) if n.startswith(prefix)]
    first = prefix + ledger.POSITIONS
    schema.drop(db, sorted(there, key=lambda n: (n != first, n)))


def drop_strays(db: Database) -> None:
    """Shadows that the journal does not know: what a swap has left, what a newer one has superseded, and what one has
    made that did not know it was over."""
    known = rebuilds.journal(db) or {}
    mine = {rebuilds.prefix_of(n) for n in (known.get("id"), (known.get("kept") or {}).get("id")) if n}
    there = schema.collection_names(db)
    strays = [n for n in there if n.startswith(rebuilds.PREFIX) and not n.startswith(tuple(mine) or ("\0",))]
    schema.drop(db, strays)
