"""What MongoDB is told of each PostgreSQL type, as docs/types.md has it, and what a person should know of it. Pure."""

from __future__ import annotations

import re

from connectors.postgres.catalog import Column
from consumers.mapping.composed import policies

#: the BSON type of every value of a type, by the alias that MongoDB has for it; types with several are not here
_BSON = {
    "smallint": "int",
    "integer": "int",
    "bigint": "long",
    "oid": "long",
    "boolean": "bool",
    "double precision": "double",
    "real": "double",
    "numeric": "decimal",
    "numeric of negative scale": "decimal",
    "text": "string",
    "character varying": "string",
    "character": "string",
    "name": "string",
    "citext": "string",
    "enum": "string",
    "uuid": "binData",
    "bytea": "binData",
    "timestamp with time zone": "date",
    "timestamp without time zone": "date",
    "date": "date",
    "time without time zone": "string",
    "vector": "array",
    "halfvec": "array",
    "money": "decimal",
    "inet": "string",
    "cidr": "string",
    "macaddr": "string",
    "macaddr8": "string",
    "int2vector": "array",
    "oidvector": "array",
    "int4multirange": "array",
    "int8multirange": "array",
    "nummultirange": "array",
    "datemultirange": "array",
    "tsmultirange": "array",
    "tstzmultirange": "array",
}
_MOMENTS = frozenset({"timestamp with time zone", "timestamp without time zone"})


def bson_type(kind: str) -> str:
    """The alias of the BSON type that all values of a column type have; empty where it is not one."""
    if kind.endswith("[]"):
        return "array"
    return _BSON.get(kind, "")


def may_be_array(kind: str) -> bool:
    """Whether a value may be an array in MongoDB: its index has a key for each element."""
    return kind in ("json", "jsonb") or bson_type(kind) == "array"


def keeps_distinct(kind: str, declared: str) -> bool:
    """Whether two values that differ in PostgreSQL differ in MongoDB, so that a unique index can be carried over."""
    if may_be_array(kind) or not bson_type(kind):
        return False
    # BSON's dates have milliseconds
    return kind not in _MOMENTS or any(f"({n})" in declared for n in range(4))


def remarks(column: Column, declared: str) -> list[str]:
    """What a person should know of a column's values. declared: its type with its modifier."""
    said = []
    if column.type not in _BSON and policies(column.resolved) == ("text",):
        said.append("carried as PostgreSQL's text")
    if column.type == "numeric" and not _fits_decimal(declared):
        said.append("a value of more than 34 digits does not fit, its row is parked")
    if column.type.endswith("[]"):
        said.append("an array whose indices do not start at 1 does not fit, its row is parked")
    if column.generated:
        said.append("generated")
    return said


def _fits_decimal(declared: str) -> bool:
    found = re.search(r"\((\d+),", declared)
    return found is not None and int(found[1]) <= 34
