"""A collection's validator: from NOT NULL, types, CHECK lists, enums and comments. Pure.

It may refuse no document that a row of the table becomes: a refused one is parked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.postgres.schema_facts import TableFacts
from sync.init.checks import Limits, understood
from sync.init.proposal import Line, ValidatorProposal
from sync.init.types import bson_type


def limits(facts: TableFacts) -> tuple[dict[str, list[Limits]], tuple[str, ...]]:
    """What CHECKs say of single columns, and the names of those that say something else."""
    types = {c.name: c.type for c in facts.table.columns}
    found: dict[str, list[Limits]] = {}
    others: dict[str, None] = {}
    for check in facts.checks:
        said = understood(check, types)
        if said is None:
            others[check.name] = None
        for one in said or ():
            found.setdefault(one.column, []).append(one)
    return found, tuple(others)


def proposed(
    facts: TableFacts,
    fields: Mapping[str, str],
    references: Mapping[str, str],
    several: Mapping[str, bool],
    arrays: Sequence[Line] = (),
) -> ValidatorProposal:
    """The validator of what these fields hold. several: references of several columns, and whether they may be null.

    arrays: schemas of embedded arrays, by name.
    """
    said, _ = limits(facts)
    required: list[str] = []
    properties: list[Line] = []
    for column in facts.table.columns:
        name = fields.get(column.name)
        if name is None:
            continue
        if column.not_null:
            required.append(name)
        if column.name in references:
            kinds: Any = "objectId"
            schema: dict[str, Any] = {"bsonType": _nullable(kinds, column.not_null)}
            why = ""
        else:
            schema, why = _property(facts, column.name, said.get(column.name, ()))
        known = facts.columns.get(column.name)
        if known is not None and known.comment:
            schema["description"] = known.comment
        if schema:
            properties.append(Line(name, schema, why))
    for name, nullable in several.items():
        required += [] if nullable else [name]
        properties.append(Line(name, {"bsonType": _nullable("objectId", not nullable)}))
    return ValidatorProposal(tuple(dict.fromkeys(required)), (*properties, *arrays))


def _nullable(kind: str, not_null: bool) -> Any:
    return kind if not_null else [kind, "null"]


def _property(facts: TableFacts, name: str, said: Sequence[Limits]) -> tuple[dict[str, Any], str]:
    column = facts.table.column(name)
    known = facts.columns.get(name)
    if column is None:
        return {}, ""
    values, why = _values(said), "CHECK"
    if values is None and known is not None and column.type == "enum" and known.labels:
        values, why = (
            list(known.labels),
            f"{known.declared}: add a label here before PostgreSQL's type gets it",
        )
    if values is not None:
        return {"enum": values if column.not_null else [*values, None]}, why
    kind = bson_type(column.type)
    if not kind:
        return {}, ""
    schema: dict[str, Any] = {"bsonType": _nullable(kind, column.not_null)}
    lowest = [one.minimum for one in said if one.minimum is not None]
    highest = [one.maximum for one in said if one.maximum is not None]
    if lowest:
        schema["minimum"] = max(lowest)
    if highest:
        schema["maximum"] = min(highest)
    return schema, "CHECK" if lowest or highest else ""


def _values(said: Sequence[Limits]) -> list[str | int] | None:
    """The values that all lists allow, in the first one's order; None where there is no list."""
    lists = [one.values for one in said if one.values]
    if not lists:
        return None
    return [value for value in lists[0] if all(value in other for other in lists[1:])] or None
