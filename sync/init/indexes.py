"""A table's indexes as a collection's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.postgres.schema_facts import IndexFacts, TableFacts
from sync.init.proposal import IndexLine
from sync.init.types import bson_type, keeps_distinct, may_be_array

#: MongoDB has 64 for a collection, one of them `_id`'s
_MOST = 63
_ORDERED = frozenset({"btree", "hash"})


def proposed(facts: TableFacts, fields: Mapping[str, str], references: Mapping[str, str]) -> list[IndexLine]:
    """The collection's indexes, and those left out with the reason, unique ones first among equals.

    fields: column -> field. references: column -> the reference's field that has taken its place.
    """
    lines: list[IndexLine] = []
    seen: dict[tuple[tuple[str, int], ...], str] = {}
    for index in sorted(facts.indexes, key=lambda i: (not i.unique, i.name)):
        line = _one(index, facts, fields, references)
        if line.index is not None:
            keys = tuple(line.index["keys"].items())
            if keys in seen:
                line = IndexLine(None, f"{index.name}: the same keys as {seen[keys]}")
            elif len(seen) == _MOST:
                line = IndexLine(None, f"{index.name}: MongoDB has no more than 64 indexes for a collection")
            else:
                seen[keys] = index.name
        lines.append(line)
    return lines


def _one(
    index: IndexFacts, facts: TableFacts, fields: Mapping[str, str], references: Mapping[str, str]
) -> IndexLine:
    if reason := _unsupported(index, facts, fields):
        return IndexLine(None, f"{index.name}: {reason}")
    keys = {fields[column]: way for column, way in index.keys}
    if len(keys) == 1:
        keys = dict.fromkeys(keys, 1)  # one key is read from both ends
    content: dict[str, Any] = {"keys": keys}
    why = [index.name]
    if index.unique:
        weak = [c for c, _ in index.keys if not (c in references or _distinct(facts, c))]
        if weak:
            why.append(f"unique in PostgreSQL; not here: different {', '.join(weak)} may be equal in MongoDB")
        else:
            content["unique"] = True
            partial = _given(index, facts, fields, references)
            if partial:
                content["partial"] = partial
                why.append(
                    "PostgreSQL takes several NULLs, MongoDB one: only rows without NULL are held to it"
                )
    return IndexLine(content, "; ".join(why))


def _unsupported(index: IndexFacts, facts: TableFacts, fields: Mapping[str, str]) -> str:
    """Why an index cannot be one of MongoDB's; empty where it can."""
    if not index.keys:
        return "its key is an expression"
    if index.exclusion:
        return "an exclusion constraint: MongoDB has none"
    if index.predicate:
        return f"it is partial ({index.predicate})"
    arrays = [c for c, _ in index.keys if may_be_array(_kind(facts, c))]
    if index.method not in _ORDERED and not (index.method == "gin" and len(index.keys) == 1 and arrays):
        return f"{index.method} has no like in MongoDB"
    if index.method == "gin" and not _kind(facts, arrays[0]).endswith("[]"):
        return f"gin over {_kind(facts, arrays[0])} has no like in MongoDB"
    if index.method != "gin" and arrays and (len(index.keys) > 1 or index.unique):
        return f"{', '.join(arrays)} may be an array, of which MongoDB indexes each element"
    if lost := [c for c, _ in index.keys if c not in fields]:
        return f"{', '.join(lost)} has no field"
    return ""


def _kind(facts: TableFacts, name: str) -> str:
    column = facts.table.column(name)
    return column.type if column is not None else ""


def _distinct(facts: TableFacts, name: str) -> bool:
    known = facts.columns.get(name)
    return keeps_distinct(_kind(facts, name), known.declared if known is not None else "")


def _given(
    index: IndexFacts, facts: TableFacts, fields: Mapping[str, str], references: Mapping[str, str]
) -> dict[str, Any]:
    """The filter under which no key of a unique index is null; empty where none can be."""
    found = {}
    for name, _ in index.keys:
        column = facts.table.column(name)
        if column is not None and not column.not_null:
            found[fields[name]] = {"$type": "objectId" if name in references else bson_type(column.type)}
    return found
