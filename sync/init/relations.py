"""Which foreign keys become references, and which child tables are embedded in a parent. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from connectors.postgres.schema_facts import Fanout, ForeignKey, TableFacts
from consumers.mapping import keys

#: more rows than these in one parent now, and a table gets a collection of its own
MOST_ROWS = 100
ROWS_ON_AVERAGE = 20
#: more bytes than these in one parent's array now, likewise
MOST_BYTES = 1_000_000
#: columns of a join table besides its foreign keys
FEW_COLUMNS = 3

_MOMENTS = frozenset({"date", "timestamp with time zone", "timestamp without time zone"})

#: (table, foreign key's columns) -> rows per parent
Fanouts = Mapping[tuple[str, tuple[str, ...]], Fanout | None]


@dataclass(frozen=True, slots=True)
class Embedding:
    """A child table that is embedded: in whom, by which foreign key, why."""

    child: str
    parent: str
    foreign_key: ForeignKey
    why: str


def points_to_key(key: ForeignKey, child: TableFacts, parents: Mapping[str, TableFacts]) -> str:
    """Empty where the key's values give the parent's `_id`; else why not."""
    parent = parents.get(key.table)
    if parent is None:
        return f"{key.table} has no collection of its own"
    if set(key.target_columns) != set(parent.table.key):
        return f"it points to {', '.join(key.target_columns)}, which is not the key of {key.table}"
    for own, target in zip(key.columns, key.target_columns, strict=True):
        holder, held = child.table.column(own), parent.table.column(target)
        if holder is not None and held is not None and (why := keys.refers(holder, held)):
            return why
    return ""


def in_key_order(key: ForeignKey, parent: TableFacts) -> tuple[str, ...]:
    """The foreign key's columns in the order of the parent's key."""
    own = dict(zip(key.target_columns, key.columns, strict=True))
    return tuple(own[column] for column in parent.table.key)


def is_join(facts: TableFacts) -> bool:
    """Two foreign keys that together are a key, and hardly anything else: a many-to-many relation."""
    pair = _pair(facts)
    if pair is None:
        return False
    columns = {*pair[0].columns, *pair[1].columns}
    others = [c.name for c in facts.table.columns if c.name not in columns and c.name not in facts.table.key]
    return len(others) <= FEW_COLUMNS


def _pair(facts: TableFacts) -> tuple[ForeignKey, ForeignKey] | None:
    sides = [k for k in facts.foreign_keys if all(_not_null(facts, c) for c in k.columns)]
    if len(facts.foreign_keys) != 2 or len(sides) != 2 or set(sides[0].columns) & set(sides[1].columns):
        return None
    both = {*sides[0].columns, *sides[1].columns}
    unique = [{c for c, _ in i.keys} for i in facts.indexes if i.unique and not i.predicate and i.keys]
    return (sides[0], sides[1]) if both == set(facts.table.key) or both in unique else None


def _not_null(facts: TableFacts, name: str) -> bool:
    column = facts.table.column(name)
    return column is not None and column.not_null


def own_life(facts: TableFacts, key: ForeignKey) -> bool:
    """Whether a row could be without its parent: the key is neither in its primary key nor cascades."""
    return not (set(key.columns) <= set(facts.table.key) or key.on_delete == "c" or is_join(facts))


def candidates(tables: Sequence[TableFacts]) -> list[tuple[TableFacts, ForeignKey]]:
    """Children that might be embedded, with the foreign keys by which: what has to be measured."""
    by_name = {facts.name: facts for facts in tables}
    referred = {k.table for facts in tables for k in facts.foreign_keys if k.table != facts.name}
    found = []
    for facts in tables:
        itself = any(k.table == facts.name for k in facts.foreign_keys)
        if itself or _grows(facts) or (facts.name in referred and not _only_inside(facts, tables, by_name)):
            continue
        found += [(facts, key) for key in facts.foreign_keys if _may_be_inside(facts, key, by_name)]
    return found


def _may_be_inside(facts: TableFacts, key: ForeignKey, by_name: Mapping[str, TableFacts]) -> bool:
    """Whether each row has one parent by this key, and goes with it."""
    fits = key.validated and all(_not_null(facts, c) for c in key.columns)
    return fits and not own_life(facts, key) and not points_to_key(key, facts, by_name)


def _only_inside(facts: TableFacts, tables: Sequence[TableFacts], by_name: Mapping[str, TableFacts]) -> bool:
    """Whether whatever refers to a table can be an array inside of its elements: nobody needs its own `_id` then."""
    referring = _referring(facts.name, tables)
    return len({t.name for t, _ in referring}) == len(referring) and all(
        _may_be_inside(t, key, by_name)
        and not is_join(t)
        and not _grows(t)
        and not any(k.table == t.name for other in tables for k in other.foreign_keys)
        for t, key in referring
    )


def _referring(name: str, tables: Iterable[TableFacts]) -> list[tuple[TableFacts, ForeignKey]]:
    return [(t, k) for t in tables if t.name != name for k in t.foreign_keys if k.table == name]


def _grows(facts: TableFacts) -> str:
    """Why a table grows with time, as far as its structure tells; else empty."""
    if facts.table.kind == "p":
        return "it is partitioned, so it grows"
    moments = [c.name for c in facts.table.columns if c.name in facts.table.key and c.type in _MOMENTS]
    return f"its key holds a time ({', '.join(moments)}), so it grows" if moments else ""


def embeddings(tables: Sequence[TableFacts], fanouts: Fanouts) -> tuple[dict[str, Embedding], dict[str, str]]:
    """Child table -> its embedding; and for those that nearly were, why they have collections of their own."""
    chosen: dict[str, Embedding] = {}
    doubts: dict[str, str] = {}
    per_child: dict[str, list[tuple[TableFacts, ForeignKey]]] = {}
    for facts, key in candidates(tables):
        per_child.setdefault(facts.name, []).append((facts, key))
    for name, options in per_child.items():
        facts = options[0][0]
        judged = [(_fanout(facts, key, fanouts), key) for _, key in options]
        good = [(f, key) for f, key in judged if f is not None and not _too_many(facts, f)]
        if not good:
            doubts[name] = _doubt(facts, judged)
            continue
        fanout, key = min(good, key=lambda g: (g[0].most, g[0].average, g[1].on_delete != "c"))
        chosen[name] = Embedding(name, key.table, key, _reason(facts, key, fanout, len(judged)))
    measured = {
        name: next(
            f
            for f, key in [(_fanout(facts, k, fanouts), k) for facts, k in options]
            if key is chosen[name].foreign_key
        )
        for name, options in per_child.items()
        if name in chosen
    }
    by_name = {facts.name: facts for facts in tables}
    for name in [n for n in chosen if _referring(n, tables)]:
        if why := _not_around(name, chosen, measured, by_name):
            doubts[name] = f"not embedded in {chosen[name].parent}: {why}"
            del chosen[name]
    for facts in tables:
        if facts.name not in chosen and facts.name not in doubts and (why := _near(facts, tables)):
            doubts[facts.name] = why
    return chosen, doubts


def _not_around(
    name: str,
    chosen: Mapping[str, Embedding],
    measured: Mapping[str, Fanout | None],
    tables: Mapping[str, TableFacts],
) -> str:
    """Why a table whose elements would have arrays themselves gets a collection of its own; else empty."""
    own = measured[name]
    assert own is not None
    rows, width = 0, _width(tables[name])
    for child, _ in _referring(name, tables.values()):
        inner = measured.get(child.name)
        if child.name not in chosen or chosen[child.name].parent != name or inner is None:
            return f"{child.name} refers to it, and is not embedded in it"
        rows += inner.most
        width += inner.most * _width(child)
    if own.most * rows > MOST_ROWS:
        return f"up to {own.most * rows:,} rows inside of up to {own.most:,} of its own"
    if own.most * width > MOST_BYTES:
        return f"up to {own.most:,} rows of about {width:,.0f} bytes with what is inside of them"
    return ""


def _width(facts: TableFacts) -> float:
    return facts.bytes / facts.table.rows if facts.table.rows > 0 else 0


def _near(facts: TableFacts, tables: Iterable[TableFacts]) -> str:
    """Why a table whose rows depend on a parent was not even measured."""
    by_name = {t.name: t for t in tables}
    dependent = [
        k
        for k in facts.foreign_keys
        if k.table != facts.name
        and not own_life(facts, k)
        and all(_not_null(facts, c) for c in k.columns)
        and not points_to_key(k, facts, by_name)
    ]
    if not dependent:
        return ""
    if why := _grows(facts):
        return f"not embedded in {dependent[0].table}: {why}"
    others = sorted(
        t.name for t in by_name.values() for k in t.foreign_keys if k.table == facts.name and t is not facts
    )
    return f"not embedded in {dependent[0].table}: {others[0]} refers to it" if others else ""


def _fanout(facts: TableFacts, key: ForeignKey, fanouts: Fanouts) -> Fanout | None:
    """Rows per parent; at most one, without measuring, where the key's columns are unique."""
    return Fanout(1, 1.0) if _one(facts, key) else fanouts.get((facts.name, key.columns))


def _one(facts: TableFacts, key: ForeignKey) -> bool:
    unique = [set(facts.table.key)]
    unique += [{c for c, _ in i.keys} for i in facts.indexes if i.unique and not i.predicate and i.keys]
    return any(columns <= set(key.columns) for columns in unique if columns)


def _too_many(facts: TableFacts, fanout: Fanout) -> str:
    if fanout.most > MOST_ROWS or fanout.average > ROWS_ON_AVERAGE:
        return f"up to {fanout.most:,} rows per parent, {fanout.average:,.1f} on average"
    width = _width(facts)
    if width * fanout.most > MOST_BYTES:
        return f"up to {fanout.most:,} rows of about {width:,.0f} bytes per parent"
    return ""


def _doubt(facts: TableFacts, judged: Sequence[tuple[Fanout | None, ForeignKey]]) -> str:
    kind = "a join table" if is_join(facts) else "it depends on a parent"
    told = [
        f"{_too_many(facts, fanout)} in {key.table}"
        if fanout is not None
        else f"rows per {key.table} are not known (none yet, or no statistics)"
        for fanout, key in judged
    ]
    return f"{kind}, but not embedded: {'; '.join(told)}"


def _reason(facts: TableFacts, key: ForeignKey, fanout: Fanout, choices: int) -> str:
    if is_join(facts):
        why = "a join table"
        if choices > 1:
            why += f", embedded where its rows are fewest ({key.table})"
    elif set(key.columns) <= set(facts.table.key):
        why = "its primary key contains the foreign key"
    else:
        why = "ON DELETE CASCADE"
    if _one(facts, key):
        return f"{why}; at most 1 row per parent"
    measured = "counted" if fanout.exact else "estimated"
    return f"{why}; {fanout.most:,} rows per parent at most, {fanout.average:.1f} on average ({measured} now)"
