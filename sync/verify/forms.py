"""How PostgreSQL is made to give each type's values, and what they become: `docs/values.md`, by SQL. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bson import Int64

from connectors.postgres.sql import SQL, Composable
from sync.verify import canonical
from sync.verify.canonical import Unfit


@dataclass(frozen=True)
class Form:
    """sql: the expression that PostgreSQL evaluates, over the value's own. value: what its result stands for.

    is_listed: values.md knows it by name, so an array of it is an array. native: the key rule takes it as it
    is (integer or uuid), not as text.
    """

    name: str
    sql: Callable[[Composable], Composable]
    value: Callable[[Any], Any]
    is_listed: bool = True
    native: bool = False
    #: The elements' form, for the type of an array.
    of: Form | None = None

    def canonical(self, raw: Any) -> Any:
        """The canonical value; SQL's NULL is null for every form."""
        return None if raw is None else self.value(raw)


def _as_it_is(expression: Composable) -> Composable:
    return expression


def _same(raw: Any) -> Any:
    return raw


def _as_text(expression: Composable) -> Composable:
    return SQL("({})::text").format(expression)


def _as_double(expression: Composable) -> Composable:
    return SQL("({})::float8").format(expression)


def _with_blanks(expression: Composable) -> Composable:
    # a cast of char(n) to text takes its blanks away; its output function keeps them
    return SQL("CASE WHEN ({0}) IS NOT NULL THEN pg_catalog.format('%s', {0}) END").format(expression)


def _as_milliseconds(expression: Composable) -> Composable:
    return SQL(
        "CASE WHEN isfinite({0}) THEN floor(extract(epoch FROM {0}) * 1000)::int8::text ELSE ({0})::text END"
    ).format(expression)


def _as_floats(expression: Composable) -> Composable:
    return SQL("({})::real[]::float8[]").format(expression)


INT = Form("int32", _as_it_is, _same, native=True)
BIGINT = Form("int64", _as_it_is, Int64, native=True)
OID = Form("int64", lambda e: SQL("({})::int8").format(e), Int64, native=True)
BOOL = Form("bool", _as_it_is, _same)
DOUBLE = Form("double", _as_double, _same)
NUMERIC = Form("decimal", _as_text, canonical.decimal)
TEXT = Form("string", _as_text, _same)
CHAR = Form("string", _with_blanks, _same)
IDENTITY = Form("uuid", _as_it_is, _same, native=True)
JSON = Form("json", _as_text, canonical.json_value)
BYTES = Form("binary", _as_it_is, bytes)
MOMENT = Form("date", _as_milliseconds, canonical.instant)
VECTOR = Form("vector", _as_floats, list)
OTHER = Form("string", _as_text, _same, is_listed=False)

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
    "name": TEXT,
    "bpchar": CHAR,
    "uuid": IDENTITY,
    "json": JSON,
    "jsonb": JSON,
    "bytea": BYTES,
    "timestamptz": MOMENT,
    "timestamp": MOMENT,
    "date": MOMENT,
    "time": TEXT,
}
_OF_EXTENSIONS = {"citext": TEXT, "vector": VECTOR, "halfvec": VECTOR}


def named(name: str, schema: str, *, is_enum: bool) -> Form:
    """The form of a type that is neither a domain nor an array, by its name and its schema's."""
    if is_enum:
        return TEXT
    return (_BUILT_IN if schema == "pg_catalog" else _OF_EXTENSIONS).get(name, OTHER)


def list_of(element: Form) -> Form:
    """The form of an array; of a type that values.md does not list, PostgreSQL's text of the whole array."""
    if not element.is_listed:
        return OTHER
    # an array of arrays of floats would have to be rectangular: vectors travel as text
    one = Form("vector", _as_text, canonical.vector) if element is VECTOR else element

    def sql(expression: Composable) -> Composable:
        elements = SQL("ARRAY(SELECT {} FROM unnest({}) WITH ORDINALITY AS u (e, n) ORDER BY n)").format(
            one.sql(SQL("u.e")), expression
        )
        # an array of more dimensions is marked by one dimension more than an element has
        return SQL(
            "CASE WHEN array_ndims({0}) > 1 THEN ARRAY[{1}] WHEN ({0}) IS NOT NULL THEN {1} END"
        ).format(expression, elements)

    def value(raw: list[Any]) -> list[Any] | Unfit:
        if raw and isinstance(raw[0], list):
            return Unfit("an array of more than one dimension has no form")
        return [one.canonical(item) for item in raw]

    return Form("array", sql, value, of=one)
