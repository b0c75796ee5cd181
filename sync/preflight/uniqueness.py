"""Unique indexes of the mapping that PostgreSQL itself keeps, so that no row has to be looked at for them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from connectors.postgres.facts import TableFacts
from consumers.mapping.composed import codec
from consumers.mapping.plan import Plan, RowPlan
from consumers.mapping.spec import Index
from sync.preflight.equality import unknown_in

#: two values of these that PostgreSQL tells apart are two values in BSON
_TELL_APART = {
    "smallint",
    "integer",
    "bigint",
    "oid",
    "boolean",
    "text",
    "character varying",
    "name",
    "citext",
    "uuid",
    "enum",
    "numeric",
    "double precision",
    "real",
    "date",
    "bytea",
}
_KEYS = {"smallint", "integer", "bigint", "oid", "text", "character varying", "uuid", "enum"}


def to_be_checked(plan: Plan, collection: str, facts: Mapping[str, TableFacts]) -> dict[str, Index]:
    """The unique indexes of a collection that its rows may not fit, by name."""
    use = plan.documents[collection]
    of = facts.get(use.table.name)
    return {
        index.wire_name: index
        for index in plan.declared.collections[collection].indexes
        if index.unique
        and not unknown_in(index.partial or {})
        and not (of is not None and kept_by_source(use, index, of))
    }


def kept_by_source(use: RowPlan, index: Index, facts: TableFacts) -> bool:
    """Whether a unique index of PostgreSQL over NOT NULL columns says that no two documents share an entry."""
    held = _columns_of(use, index)
    columns = {c.name: c for c in use.table.table.columns}
    return any(
        set(unique) <= held and all(columns[name].not_null for name in unique) for unique in facts.unique
    )


def _columns_of(use: RowPlan, index: Index) -> set[str]:
    """Columns whose value the index holds, in a form that tells apart what PostgreSQL does."""
    kinds = {c.name: c.type for c in use.table.table.columns}
    found = set()
    for field, column, convert in use.fields:
        kind = kinds[column]
        if field in index.keys and kind in _TELL_APART and convert is codec(kind).to_bson:
            found.add(column)
    for field, parts, _ in use.references:
        held = {part.column for part in parts}
        if field in index.keys and all(kinds[column] in _KEYS for column in held):
            found |= held
    return found
