"""How PostgreSQL is made to give each type's values, and what they become: `docs/values.md`, by SQL. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

from bson import Int64

from connectors.postgres.sql import SQL, Composable
from sync.verify import canonical
from sync.verify.canonical import Unfit


@dataclass(frozen=True)
class Form:
    """sql: the expression that PostgreSQL evaluates, over the value's own. value: what its result stands for.

    in_arrays: an array of it is an array; others are PostgreSQL's text. native: the key rule takes it as it
    is (integer or uuid), not as text.
    """

    name: str
    sql: Callable[[Composable], Composable]
    value: Callable[[Any], Any]
    in_arrays: bool = False
    native: bool = False

    def canonical(self, raw: Any) -> Any:
        """The canonical value; SQL's NULL is null for every form."""
        return None if raw is None else self.value(raw)


def _cast(sql_type: LiteralString) -> Callable[[Composable], Composable]:
    """The value as this type; it may be a domain over it, whose arrays have a type of their own."""

    def sql(expression: Composable) -> Composable:
        return SQL("({})::{}").format(expression, SQL(sql_type))

    return sql


def _same(raw: Any) -> Any:
    return raw


def _with_blanks(expression: Composable) -> Composable:
    # a cast of char(n) to text takes its blanks away; its output function keeps them
    return SQL("CASE WHEN ({0}) IS NOT NULL THEN pg_catalog.format('%s', {0}) END").format(expression)


def _as_milliseconds(expression: Composable) -> Composable:
    return SQL(
        "CASE WHEN isfinite({0}) THEN floor(extract(epoch FROM {0}) * 1000)::int8::text ELSE ({0})::text END"
    ).format(expression)


def _as_floats(expression: Composable) -> Composable:
    return SQL("({})::real[]::float8[]").format(expression)


INT = Form("int32", _cast("int4"), _same, in_arrays=True, native=True)
BIGINT = Form("int64", _cast("int8"), Int64, in_arrays=True, native=True)
OID = Form("int64", _cast("int8"), Int64, native=True)
BOOL = Form("bool", _cast("bool"), _same, in_arrays=True)
DOUBLE = Form("double", _cast("float8"), _same, in_arrays=True)
NUMERIC = Form("decimal", _cast("text"), canonical.decimal, in_arrays=True)
TEXT = Form("string", _cast("text"), _same, in_arrays=True)
CHAR = Form("string", _with_blanks, _same)
IDENTITY = Form("uuid", _cast("uuid"), _same, in_arrays=True, native=True)
JSON = Form("json", _cast("text"), canonical.json_value)
BYTES = Form("binary", _cast("bytea"), bytes)
MOMENT = Form("date", _as_milliseconds, canonical.instant)
VECTOR = Form("vector", _as_floats, list)
OTHER = Form("string", _cast("text"), _same)

_BUILT_IN = {
    "int2": INT,
    "int4": INT,
    "int8": BIGINT,
    "oid": OID,
    "bool": BOOL,
    "float8": DOUBLE,
    "float4": DOUBLE,
    "numeric": NUMERIC,
    "text": TEXT,
    "varchar": TEXT,
    "name": OTHER,
    "bpchar": CHAR,
    "uuid": IDENTITY,
    "json": JSON,
    "jsonb": JSON,
    "bytea": BYTES,
    "timestamptz": MOMENT,
    "timestamp": MOMENT,
    "date": MOMENT,
    "time": OTHER,
}
_OF_EXTENSIONS = {"citext": OTHER, "vector": VECTOR, "halfvec": VECTOR}


def named(name: str, schema: str, *, is_enum: bool) -> Form:
    """The form of a type that is neither a domain nor an array, by its name and its schema's."""
    if is_enum:
        return OTHER
    return (_BUILT_IN if schema == "pg_catalog" else _OF_EXTENSIONS).get(name, OTHER)


def list_of(element: Form) -> Form:
    """The form of an array with elements of this form."""
    if not element.in_arrays:
        return OTHER

    def sql(expression: Composable) -> Composable:
        elements = SQL("ARRAY(SELECT {} FROM unnest({}) WITH ORDINALITY AS u (e, n) ORDER BY n)").format(
            element.sql(SQL("u.e")), expression
        )
        # an array of more dimensions is marked by one dimension more than an element has
        return SQL(
            "CASE WHEN array_ndims({0}) > 1 THEN ARRAY[{1}] WHEN ({0}) IS NOT NULL THEN {1} END"
        ).format(expression, elements)

    def value(raw: list[Any]) -> list[Any] | Unfit:
        if raw and isinstance(raw[0], list):
            return Unfit("an array of more than one dimension has no form")
        return [element.canonical(item) for item in raw]

    return Form("array", sql, value)
