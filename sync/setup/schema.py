"""Tables that change under a running pipeline: what is different, and what it asks for (docs/operations.md, "Schema
changes"). Each table has a version, which every change of its columns alters. The pipeline's state keeps the one that
was taken over; consumers follow it, apply no batch under another, and read rows for events from before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bson import Int64

from connectors.errors import SchemaChanged
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo.client import Database
from connectors.mongo.transaction import Transaction, Transactions
from connectors.postgres import slots
from connectors.postgres.catalog import Table
from connectors.postgres.client import Session
from consumers.mapping import filters
from consumers.mapping.plan import Plan
from consumers.mapping.spec import Collection, Copy, Embed, Mapping_

Columns = Mapping[str, str]
_Shape = Collection | Embed | Copy


@dataclass(frozen=True, slots=True)
class Known:
    """A table as it was taken over. columns: name -> what it is. since: events below this LSN may be from before.
    ignored: columns that were added since and are left out."""

    version: str
    columns: Columns
    key: tuple[str, ...]
    since: int
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Known:
        """From its document."""
        return cls(
            document["version"],
            dict(document["columns"]),
            tuple(document["key"]),
            int(document["since"]),
            tuple(document["ignored"]),
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """What a table has now and had not, or had otherwise, when it was taken over."""

    table: str
    added: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    key: bool = False

    @property
    def told(self) -> str:
        """For people."""
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (("new:", self.added), ("gone:", self.gone), ("of another type:", self.other))
            if names
        ]
        parts += ["another primary key"] if self.key else []
        return f"{self.table} ({'; '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done about all differences. stop: those that a person has to decide. reread: tables whose documents
    are no longer as their rows are. ignored: columns that are left out, by table."""

    stop: tuple[Difference, ...] = ()
    reread: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def columns_of(table: Table) -> dict[str, str]:
    """What counts of each column: a column that was dropped and made again is another one."""
    return {
        c.name: f"{c.number} {c.type} {c.cast}{' generated' if c.generated else ''}" for c in table.columns
    }


def difference(known: Known, table: Table) -> Difference:
    """Compare. Pure."""
    now, before = columns_of(table), known.columns
    return Difference(
        table.name,
        added=tuple(name for name in now if name not in before),
        gone=tuple(name for name in before if name not in now),
        other=tuple(name for name in now if name in before and now[name] != before[name]),
        key=tuple(table.key) != known.key,
    )


def judge(
    declared: Mapping_, known: Mapping[str, Known], tables: Mapping[str, Table], *, asked: bool
) -> Verdict:
    """What to do about tables that are not as they were taken over. asked: a person has run `tandem setup`, which is
    the decision that `stop` waits for. Pure."""
    stop, reread, ignored = list[Difference](), dict[str, str](), dict[str, tuple[str, ...]]()
    for name, before in known.items():
        table, policies = tables.get(name), _policies(declared, name)
        if before.ignored and "ignore" in policies:
            ignored[name] = before.ignored
        if table is None or table.version == before.version:
            continue
        found = difference(before, table)
        used = _used(declared, before, table)
        added = tuple(c for c in found.added if used(c))
        lost = tuple(c for c in (*found.gone, *found.other) if used(c))
        undecided = not asked and (
            ("stop" in policies and bool(added or lost)) or ("ignore" in policies and bool(lost))
        )
        if found.key or undecided:
            stop.append(found)
            continue
        if "ignore" in policies and added:
            ignored[name] = tuple(dict.fromkeys((*before.ignored, *added)))
        if lost or (added and policies != {"ignore"}):
            reread[name] = f"its columns have changed: {found.told}"
    for name, before in known.items():
        if before.ignored and name not in ignored and "ignore" not in _policies(declared, name):
            reread.setdefault(name, f"no longer left out: {', '.join(before.ignored)}")
    return Verdict(tuple(stop), reread, ignored)


def _policies(declared: Mapping_, table: str) -> set[str]:
    return {
        c.on_schema_change or declared.on_schema_change
        for c in declared.collections.values()
        if table in c.tables
    }


def _used(declared: Mapping_, known: Known, table: Table) -> Callable[[str], bool]:
    """Whether a column goes into a document, or has a say in it: its key's columns always have. In doubt it does."""
    named = {*known.key, *table.key}
    fields: list[Callable[[str], bool]] = []
    for collection in declared.collections.values():
        policy = collection.on_schema_change or declared.on_schema_change
        left_out = known.ignored if policy == "ignore" else ()
        for shape in _shapes(collection):
            if shape.table == table.name:
                named |= _named(shape)
                fields.append(partial(_has_field, shape, left_out))
    return lambda column: column in named or any(has(column) for has in fields)


def _has_field(shape: _Shape, left_out: Sequence[str], column: str) -> bool:
    if shape.only is not None:
        return column in shape.only
    return column not in shape.omit and column not in left_out


def _named(shape: _Shape) -> set[str]:
    """The columns that a shape names beside those that get a field by themselves: of its own table."""
    named = {*(shape.key or ()), *shape.convert}
    for reference in shape.references.values():
        named.update(reference.columns)
    if isinstance(shape, Embed):
        named.update(shape.foreign_key, shape.order_by)
    if isinstance(shape, Collection):
        for copy in shape.copies.values():  # of a copy they are the collection's, not its own table's
            named.update(copy.foreign_key)
    for text in (shape.where, *shape.computed.values()):
        if text:
            named |= filters.parse(text).columns
    return named


def _shapes(collection: Collection) -> list[_Shape]:
    """A collection and what is embedded in it, at any depth, or copied into it."""
    found: list[_Shape] = [collection]
    for part in found:
        found += [*getattr(part, "embed", {}).values(), *getattr(part, "copies", {}).values()]
    return found


def leaving_out(declared: Mapping_, ignored: Mapping[str, Sequence[str]]) -> Mapping_:
    """The mapping without these columns, where a collection ignores new ones."""
    if not any(ignored.values()):
        return declared

    def less(part: Any) -> Any:
        more = tuple(c for c in ignored.get(part.table or "", ()) if c not in part.omit)
        update: dict[str, Any] = {"omit": (*part.omit, *more)}
        for inside in ("embed", "copies"):
            if getattr(part, inside, None):
                update[inside] = {name: less(inner) for name, inner in getattr(part, inside).items()}
        return part.model_copy(update=update)

    collections = {
        name: less(c) if (c.on_schema_change or declared.on_schema_change) == "ignore" else c
        for name, c in declared.collections.items()
    }
    return declared.model_copy(update={"collections": collections})


# -- as it is kept ------------------------------------------------------------------------------------------------
def known(db: Database) -> dict[str, Known]:
    """Every table as it was taken over."""
    with mongo.translated():
        found = [d for d in db[ledger.STATE].find({}) if d["_id"].startswith("schema/")]
    return {d["_id"].removeprefix("schema/"): Known.of(d) for d in found}


def take_over(
    tx: Transaction,
    tables: Iterable[Table],
    verdict: Verdict,
    before: Mapping[str, Known],
    since: int,
) -> set[str]:
    """Keep tables as they are now. Of several who do so at once, one does. Returns those that were otherwise.

    since: a WAL position of after they were looked at.
    """
    changed = set()
    for table in tables:
        _id = f"schema/{table.name}"
        stored = tx.one(ledger.STATE, {"_id": _id})
        old = before.get(table.name)
        ignored = verdict.ignored.get(table.name, ())
        if stored and (stored["version"], tuple(stored["ignored"])) == (table.version, ignored):
            continue
        same = stored is not None and stored["version"] == table.version
        fields = {
            "version": table.version,
            "columns": columns_of(table),
            "key": list(table.key),
            "since": stored["since"] if same and stored else Int64(since if old else 0),
            "ignored": list(ignored),
        }
        tx.update(ledger.STATE, {"_id": _id}, {"$set": fields}, upsert=True)
        changed.add(table.name)
    return changed


def aged(table: Table, known: Known | None) -> Table:
    """A table with the LSN below which events may be from before it was so."""
    same = known is not None and known.version == table.version
    return replace(table, since=known.since) if known is not None and same else table


@dataclass(frozen=True, slots=True)
class Changes:
    """All tables as they are now beside what was taken over. plan: of now."""

    plan: Plan
    verdict: Verdict
    before: Mapping[str, Known]
    since: int

    @classmethod
    def of(
        cls,
        db: Database,
        session: Session,
        compiled: Callable[[Mapping[str, Known]], Plan],
        *,
        asked: bool,
    ) -> Changes:
        """Look, and change nothing. Raises SchemaChanged for what a person has to decide, MappingInvalid where the
        mapping names what is gone. asked: a person has run `tandem setup`."""
        before = known(db)
        while True:
            plan = compiled(before)
            tables = {name: t.table for name, t in plan.tables.items()}
            verdict = judge(plan.written or plan.declared, before, tables, asked=asked)
            refuse(verdict)
            left_out = {
                name: replace(of, ignored=verdict.ignored.get(name, ()))
                for name, of in before.items()
                if name in tables and (tables[name].version != of.version or of.ignored)
            }
            again = compiled({**before, **left_out})
            if all(again.tables[name].table.version == table.version for name, table in tables.items()):
                return cls(again, verdict, before, int(slots.wal_position(session)))

    @property
    def differ(self) -> bool:
        """Whether there is anything to take over."""
        return any(
            (of := self.before.get(name)) is None or of.version != table.table.version
            for name, table in self.plan.tables.items()
        )

    @property
    def told(self) -> list[str]:
        """For people."""
        lines = [
            f"{table}: {why}; its rows have to be read again" for table, why in self.verdict.reread.items()
        ]
        lines += [f"{table}: left out: {', '.join(c)}" for table, c in self.verdict.ignored.items()]
        return lines

    def take_over(self, db: Database, *, by_itself: bool) -> None:
        """Keep all this, and record what has to be read again."""
        transactions = Transactions(db)
        try:
            transactions.repeat(lambda tx: self._take_over(tx, by_itself))
        finally:
            transactions.close()

    def _take_over(self, tx: Transaction, by_itself: bool) -> None:
        tables = [t.table for t in self.plan.tables.values()]
        changed = take_over(tx, tables, self.verdict, self.before, self.since)
        held = {p["table"]: p["holder"] or "" for p in tx.find(ledger.POSITIONS, {})}
        for table in changed & set(self.verdict.reread):
            if not held.get(table, "").startswith(ledger.LOAD):
                ledger.record_reread(tx, table, self.verdict.reread[table], by_itself=by_itself)
                continue
            for name, use in self.plan.declared.collections.items():  # a load that has begun begins anew
                if table in use.tables:
                    tx.delete(ledger.CHUNKS, {"collection": name})
                    tx.update(ledger.STATE, {"_id": f"load/{name}"}, {"$set": {"planned": False}})


def refuse(verdict: Verdict) -> None:
    """Raise SchemaChanged for what a person has to decide."""
    if not verdict.stop:
        return
    what = "; ".join(found.told for found in verdict.stop)
    if any(found.key for found in verdict.stop):
        remedy = (
            "ids are made from the primary key: run `tandem teardown`, `tandem setup` and `tandem snapshot`"
        )
    else:
        remedy = (
            "look at the mapping; `tandem setup` takes the tables over as they are now, `tandem snapshot` reads their"
            " rows again; then start the consumers (or set on_schema_change: apply)"
        )
    raise SchemaChanged(f"tables have changed: {what}", remedy=remedy)


def demand_same(plan: Plan, versions: Mapping[str, str]) -> None:
    """Raise SchemaChanged when a table is no longer as it was when the plan was made."""
    changed = [n for n, t in plan.tables.items() if t.table.version != versions.get(n, "")]
    if changed:
        raise _changed(changed)


def is_taken_over(db: Database, plan: Plan) -> bool:
    """Whether the pipeline follows these tables as they are now."""
    kept = known(db)
    positions = ledger.positions(db).values()
    same = all(n in kept and kept[n].version == t.table.version for n, t in plan.tables.items())
    return same and all(p.plan in ("", plan.follows(p.table)) for p in positions if p.table in plan.tables)


def demand_taken_over(db: Database, plan: Plan) -> None:
    """Raise SchemaChanged when it does not."""
    if not is_taken_over(db, plan):
        kept = known(db)
        raise _changed(
            [n for n, t in plan.tables.items() if n not in kept or kept[n].version != t.table.version]
            or list(plan.tables)
        )


def _changed(tables: Sequence[str]) -> SchemaChanged:
    return SchemaChanged(
        f"tables have changed since the pipeline took them over: {', '.join(tables)}",
        remedy="look at the mapping; `tandem setup` takes the tables over as they are now, `tandem snapshot` reads"
        " their rows again",
    )
