"""Forms of values that are made of others: PostgreSQL takes them apart, into JSON. Pure."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, LiteralString

from bson import Int64

from connectors.postgres.sql import SQL, Composable, Identifier, Literal
from sync.verify.canonical import Unfit
from sync.verify.forms import AS_TEXT, Form, Sql

_LOWEST = re.compile(r"\[(-?\d+):(-?\d+)\]")
#: PostgreSQL takes 100 arguments at most
_AT_ONCE = 50


# -- arrays ------------------------------------------------------------------------------------------------------
def array_of(element: Form) -> Form:
    """The form of an array with elements of this form."""
    if element.name == "array":  # of a domain over an array: no cast reaches what is in it
        element = inside(element)
    policies = {name: _array(form, any_bounds=False) for name, form in _others(element)}
    return _array(
        element,
        any_bounds=False,
        policies={
            "elements": _array(element, any_bounds=True),
            **policies,
            "text": Form("string", lambda e: SQL("({})::{}").format(e, SQL(element.as_whole)), _same),
        },
        within=array_of(element.inside) if element.inside is not None else None,
    )


def _array(
    element: Form, *, any_bounds: bool, policies: dict[str, Form] | None = None, within: Form | None = None
) -> Form:
    def sql(expression: Composable) -> Composable:
        return SQL(
            "CASE WHEN num_nulls({0}) = 0 THEN json_build_object('d', array_dims({0}), 'e', (SELECT"
            " coalesce(json_agg({1} ORDER BY u.n), '[]') FROM (SELECT unnest({0}) AS e,"
            " generate_series(1, cardinality({0})) AS n) AS u)) END"
        ).format(expression, element.as_json(SQL("u.e")))

    def value(found: dict[str, Any]) -> list[Any] | Unfit:
        bounds = [(int(low), int(high)) for low, high in _LOWEST.findall(found["d"] or "")]
        if not any_bounds and any(low != 1 for low, _ in bounds):
            return Unfit("the array's indices do not start at 1")
        elements = [element.from_json(item) for item in found["e"]]
        for low, high in reversed(bounds[1:]):
            size = high - low + 1
            elements = [elements[at : at + size] for at in range(0, len(elements), size)]
        return _all_fit(elements)

    return Form("array", sql, value, default="array", policies=policies or {}, parts=True, inside=within)


def vector_of(element: Form, cast: LiteralString) -> Form:
    """int2vector, oidvector: always from 0."""
    array = _array(element, any_bounds=True)
    return Form(
        "array",
        lambda e: array.sql(SQL("({})::{}").format(e, SQL(cast))),
        array.value,
        default="array",
        policies={"text": AS_TEXT},
        parts=True,
    )


def _all_fit(elements: list[Any]) -> list[Any] | Unfit:
    return next((e for e in _leaves(elements) if isinstance(e, Unfit)), elements)


def _leaves(elements: Sequence[Any]) -> list[Any]:
    return [leaf for e in elements for leaf in (_leaves(e) if isinstance(e, list) else [e])]


def _others(part: Form) -> list[tuple[str, Form]]:
    """A part's policies, less its default, and less `text`, which is the whole's."""
    return [(name, form) for name, form in part.policies.items() if name != "text"]


def _same(raw: Any) -> Any:
    return raw


# -- rows and ranges ---------------------------------------------------------------------------------------------
def inside(part: Form) -> Form:
    """The form of a value inside a row or a range."""
    return part.inside or part


def composite_of(fields: Sequence[tuple[str, Form]]) -> Form:
    """The form of a composite type."""
    parts = [(name, inside(form)) for name, form in fields]

    def sql(expression: Composable) -> Composable:
        found = [form.as_json(SQL("({}).{}").format(expression, Identifier(name))) for name, form in parts]
        chunks = [
            SQL("json_build_array({})").format(SQL(", ").join(found[at : at + _AT_ONCE]))
            for at in range(0, len(found), _AT_ONCE)
        ]
        return _unless_null(expression, SQL("json_build_array({})").format(SQL(", ").join(chunks)))

    def value(found: list[list[Any]]) -> dict[str, Any] | Unfit:
        items = [item for chunk in found for item in chunk]
        return _fitting({name: form.from_json(item) for (name, form), item in zip(parts, items, strict=True)})

    return Form("object", sql, value, default="document", policies={"text": AS_TEXT}, parts=True)


def range_of(subtype: Form) -> Form:
    """The form of a range."""
    subtype = inside(subtype)
    others = {name: _range(form) for name, form in _others(subtype)}
    return _range(subtype, {**others, "text": AS_TEXT})


def _range(subtype: Form, policies: dict[str, Form] | None = None) -> Form:
    def sql(expression: Composable) -> Composable:
        made = SQL("json_build_array(isempty({0}), {1}, {2}, lower_inc({0}), upper_inc({0}))").format(
            expression,
            subtype.as_json(SQL("lower({})").format(expression)),
            subtype.as_json(SQL("upper({})").format(expression)),
        )
        return _unless_null(expression, made)

    def value(found: list[Any]) -> dict[str, Any] | Unfit:
        empty, lower, upper, lower_inc, upper_inc = found
        if empty:
            return {"empty": True}
        return _fitting(
            {
                "lower": subtype.from_json(lower),
                "upper": subtype.from_json(upper),
                "lowerInclusive": lower_inc,
                "upperInclusive": upper_inc,
            }
        )

    return Form("object", sql, value, default="document", policies=policies or {}, parts=True)


def multirange_of(of: Form) -> Form:
    """The form of a multirange over a range of this form."""
    others = {name: _multirange(form) for name, form in _others(of)}
    return _multirange(of, {**others, "text": AS_TEXT})


def _multirange(of: Form, policies: dict[str, Form] | None = None) -> Form:
    def sql(expression: Composable) -> Composable:
        made = SQL(
            "(SELECT coalesce(json_agg({1} ORDER BY u.n), '[]') FROM unnest({0}) WITH ORDINALITY AS u (e, n))"
        ).format(expression, of.as_json(SQL("u.e")))
        return _unless_null(expression, made)

    def value(found: list[Any]) -> list[Any] | Unfit:
        return _all_fit([of.from_json(item) for item in found])

    return Form("array", sql, value, default="array", policies=policies or {}, parts=True)


def _unless_null(expression: Composable, made: Composable) -> Composable:
    # `IS NULL` is also true of a row of NULLs
    return SQL("CASE WHEN num_nulls({}) = 0 THEN {} END").format(expression, made)


def _fitting(members: dict[str, Any]) -> dict[str, Any] | Unfit:
    return next((m for m in members.values() if isinstance(m, Unfit)), members)


# -- geometry, and other documents, by PostgreSQL's binary forms -------------------------------------------------
def _sent(function: Composable, unpack: Callable[[bytes], Any]) -> Form:
    return Form(
        "object",
        lambda e: SQL("{}({})").format(function, e),
        unpack,
        lambda text: unpack(bytes.fromhex(text.removeprefix("\\x"))),
        default="document",
        policies={"text": AS_TEXT},
    )


def _points(sent: bytes) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in struct.iter_unpack(">dd", sent)]


def _circle(sent: bytes) -> dict[str, Any]:
    x, y, radius = struct.unpack(">ddd", sent)
    return {"center": {"x": x, "y": y}, "radius": radius}


GEOMETRY: dict[str, Form] = {
    "point": _sent(SQL("point_send"), lambda sent: _points(sent)[0]),
    "line": _sent(SQL("line_send"), lambda sent: dict(zip("abc", struct.unpack(">ddd", sent), strict=True))),
    "lseg": _sent(SQL("lseg_send"), lambda sent: dict(zip(("from", "to"), _points(sent), strict=True))),
    "box": _sent(
        SQL("box_send"), lambda sent: dict(zip(("upperRight", "lowerLeft"), _points(sent), strict=True))
    ),
    "path": _sent(SQL("path_send"), lambda sent: {"closed": sent[0] == 1, "points": _points(sent[5:])}),
    "polygon": _sent(SQL("poly_send"), lambda sent: {"points": _points(sent[4:])}),
    "circle": _sent(SQL("circle_send"), _circle),
}


def sparse(schema: str) -> Form:
    """pgvector's sparsevec: dimensions, count, nothing, indices from 0, 32-bit floats."""

    def unpack(sent: bytes) -> dict[str, Any]:
        dims, count, _ = struct.unpack_from(">iii", sent)
        return {
            "dims": dims,
            "indices": list(struct.unpack_from(f">{count}i", sent, 12)),
            "values": list(struct.unpack_from(f">{count}f", sent, 12 + 4 * count)),
        }

    return _sent(Identifier(schema, "sparsevec_send"), unpack)


def pairs(schema: str) -> Form:
    """hstore: as the array of keys and values that its extension makes of it."""

    def sql(expression: Composable) -> Composable:
        return SQL("to_json({}({}))").format(Identifier(schema, "hstore_to_array"), expression)

    def value(found: list[str | None]) -> dict[str, str | None]:
        return {str(name): member for name, member in zip(found[::2], found[1::2], strict=True)}

    return Form("object", sql, value, default="document", policies={"text": AS_TEXT}, parts=True)


def _interval_parts(expression: Composable) -> Composable:
    return SQL(
        "CASE WHEN isfinite({0}) THEN json_build_array((extract(year FROM {0}) * 12 + extract(month FROM {0}))::int8,"
        " extract(day FROM {0})::int8, ((extract(hour FROM {0}) * 60 + extract(minute FROM {0})) * 60000000"
        " + extract(microseconds FROM {0}))::int8) WHEN {0} IS NOT NULL THEN '[]'::json END"
    ).format(expression)


def _interval(found: list[Any]) -> dict[str, Any] | Unfit:
    if not found:
        return Unfit("the interval is infinite")
    months, days, microseconds = found
    return {"months": int(months), "days": int(days), "microseconds": Int64(microseconds)}


INTERVAL = Form(
    "string",
    AS_TEXT.sql,
    _same,
    policies={"document": Form("object", _interval_parts, _interval, parts=True)},
)


def on_base(form: Form, sql_type: str) -> Form:
    """The form of a domain: PostgreSQL's functions for its base type do not all take it."""
    base = SQL("({})::{}")

    def over(sql: Sql) -> Sql:
        return lambda e: sql(base.format(e, SQL(sql_type)))

    policies = {name: _with_sql(other, over(other.sql)) for name, other in form.policies.items()}
    return _with_sql(form, over(form.sql), policies)


def _with_sql(form: Form, sql: Sql, policies: dict[str, Form] | None = None) -> Form:
    return Form(**{**vars(form), "sql": sql, "policies": policies or form.policies})


def moved(form: Form, old: str, new: str, workspaces: str | None = None) -> Form:
    """A text in which the folder old, a whole path or its beginning, is the folder new; the root is empty.

    workspaces: what has something behind old/private/USER/ gets this folder put in there.
    """

    def sql(expression: Composable) -> Composable:
        written = SQL('({}) COLLATE "C"').format(form.sql(expression))
        behind = SQL("substr({}, {})").format(written, Literal(len(old) + 1))
        if workspaces is not None:
            # the first group is greedy up to the slash behind USER, as no name has one; `.` takes newlines too
            behind = SQL("regexp_replace({}, '^(/private/[^/]+/)(.*[^/].*)$', {})").format(
                behind, Literal(f"\\1{workspaces}/\\2")
            )
        return SQL(
            "CASE WHEN {0} = {1} OR starts_with({0}, {2}) THEN coalesce(nullif({3} || {4}, ''), '/') ELSE {0} END"
        ).format(written, Literal(old or "/"), Literal(f"{old}/"), Literal(new), behind)

    return Form("string", sql, _same)
