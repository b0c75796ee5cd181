"""What a CHECK constraint says of one column: a list of values, or bounds of a whole number. Pure.

Only what every row that PostgreSQL takes fulfils in MongoDB's sense too: a validator must refuse no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from connectors.postgres.schema_facts import Check

#: equal exactly when their texts are; not char(n), whose blanks do not count, nor citext
TEXTS = frozenset({"text", "character varying", "enum"})
WHOLE = frozenset({"smallint", "integer", "bigint"})
#: a comparison with the column on its left
_BOUNDS: dict[type[exp.Expr], tuple[str, int]] = {
    exp.GTE: ("minimum", 0),
    exp.GT: ("minimum", 1),
    exp.LTE: ("maximum", 0),
    exp.LT: ("maximum", -1),
}
_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {
    exp.GTE: exp.LTE,
    exp.GT: exp.LT,
    exp.LTE: exp.GTE,
    exp.LT: exp.GT,
}


_KEEPING = frozenset(
    {
        exp.DType.TEXT,
        exp.DType.VARCHAR,
        exp.DType.SMALLINT,
        exp.DType.INT,
        exp.DType.BIGINT,
        exp.DType.DECIMAL,
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one CHECK says of one column. values: the whole list, without NULL."""

    column: str
    values: tuple[str | int, ...] = ()
    minimum: int | None = None
    maximum: int | None = None


def understood(check: Check, types: dict[str, str]) -> list[Limits] | None:
    """What it says, if that is all that it says; else None. types: column -> `catalog.Column.type`."""
    if len(check.expression) > 20_000:
        return None
    try:
        tree = sqlglot.parse_one(check.expression, read="postgres")
        parts = [_limits(part, check, types) for part in _conjuncts(tree)]
    except (SqlglotError, RecursionError):
        return None
    return [part for part in parts if part is not None] if None not in parts else None


def _conjuncts(tree: exp.Expr) -> Iterator[exp.Expr]:
    tree = _bare(tree)
    if isinstance(tree, exp.And):
        yield from _conjuncts(tree.this)
        yield from _conjuncts(tree.expression)
    else:
        yield tree


def _bare(tree: exp.Expr) -> exp.Expr:
    while isinstance(tree, exp.Paren):
        tree = tree.this
    return tree


def _uncast(tree: exp.Expr) -> exp.Expr:
    """Without the casts that PostgreSQL writes around names and literals and that change no value."""
    tree = _bare(tree)
    while isinstance(tree, exp.Cast) and _keeps_value(tree.to):
        tree = _bare(tree.this)
    return tree


def _keeps_value(to: exp.DataType) -> bool:
    """A cast of a text to a text, of a whole number to a wide enough number."""
    if to.this == exp.DType.ARRAY:
        return all(isinstance(e, exp.DataType) and _keeps_value(e) for e in to.expressions)
    return to.this in _KEEPING and not to.expressions


def _column(tree: exp.Expr, check: Check, types: dict[str, str]) -> str | None:
    tree = _uncast(tree)
    if not isinstance(tree, exp.Column) or tree.args.get("table"):
        return None
    if check.column:  # a domain's: the value that is checked has no name of its own
        quoted = isinstance(tree.this, exp.Identifier) and tree.this.quoted
        return check.column if tree.name.upper() == "VALUE" and not quoted else None
    return tree.name if tree.name in types else None


def _limits(tree: exp.Expr, check: Check, types: dict[str, str]) -> Limits | None:
    if not isinstance(tree, exp.Binary):
        return None
    column = _column(tree.this, check, types)
    if column is not None and isinstance(tree, exp.EQ):
        return _listed(column, types[column], tree.expression)
    kind: type[exp.Expr] = type(tree)
    other = tree.expression
    if column is None and kind in _MIRRORED:
        column, other, kind = _column(tree.expression, check, types), tree.this, _MIRRORED[kind]
    if column is None or kind not in _BOUNDS or types[column] not in WHOLE:
        return None
    value = _literal(other, types[column])
    if not isinstance(value, int):
        return None
    name, step = _BOUNDS[kind]
    return Limits(column, minimum=value + step) if name == "minimum" else Limits(column, maximum=value + step)


def _listed(column: str, kind: str, right: exp.Expr) -> Limits | None:
    """`column = 'a'`, or `column = ANY (ARRAY['a', 'b'])`, as PostgreSQL writes IN."""
    right = _bare(right)
    elements: list[exp.Expr] = [right]
    if isinstance(right, exp.Any):
        inner = _uncast(right.this)
        if not isinstance(inner, exp.Array):
            return None
        elements = list(inner.expressions)
    values = [_literal(element, kind) for element in elements]
    known = tuple(value for value in values if value is not None)
    return Limits(column, values=known) if len(known) == len(values) and known else None


def _literal(tree: exp.Expr, kind: str) -> str | int | None:
    """A text for a column of texts, a whole number for one of those; None for everything else."""
    if kind == "enum" and isinstance(tree, exp.Cast):
        tree = tree.this
    tree = _uncast(tree)
    negative = isinstance(tree, exp.Neg)
    if negative:
        tree = _uncast(tree.this)
    if not isinstance(tree, exp.Literal):
        return None
    if kind in TEXTS:
        return str(tree.this) if tree.is_string and not negative else None
    if kind not in WHOLE:
        return None
    try:
        value = int(str(tree.this))
    except ValueError:
        return None
    return -value if negative else value
