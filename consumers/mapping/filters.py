"""Conditions and computed values of a mapping: a small SQL subset that means the same on both sides.

As SQL in the snapshot (`Expression.sql`), in Python on events (`Expression.compile`), NULL and three-valued
logic included. What PostgreSQL and Python could answer differently is refused when the mapping is loaded:
the order of texts (collations), the order of enums, lower and upper, regular expressions, division.

Some meanings hold because every session of ours runs with TimeZone UTC: a time without a zone is UTC, a date
is its midnight, a day of an INTERVAL has 24 hours. Equality of texts is by characters, which is what every
deterministic collation does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from consumers.mapping.arithmetic import EvaluationFailed
from consumers.mapping.evaluation import Compiler
from consumers.mapping.expressions import Column, Node, Now, walk
from consumers.mapping.literals import FilterInvalid
from consumers.mapping.moments import MINUS_INFINITY, PLUS_INFINITY
from consumers.mapping.subset import read

__all__ = ["MINUS_INFINITY", "PLUS_INFINITY", "EvaluationFailed", "Expression", "FilterInvalid", "parse"]

#: (row in native forms, now in microseconds since 1970 UTC) -> native value, None for NULL.
Evaluate = Callable[[Mapping[str, Any], int], Any]


def parse(text: str) -> Expression:
    """Read a condition or a computed value. Raises FilterInvalid, naming what is not in the subset."""
    return Expression(read(text))


@dataclass(frozen=True)
class Expression:
    """A parsed expression over the columns of one row."""

    root: Node

    @cached_property
    def columns(self) -> frozenset[str]:
        """The columns it needs; names as the catalog has them."""
        return frozenset(node.name for node in walk(self.root) if isinstance(node, Column))

    @cached_property
    def uses_now(self) -> bool:
        """Whether its result can change while the row stays as it is."""
        return any(isinstance(node, Now) for node in walk(self.root))

    def sql(self) -> str:
        """PostgreSQL text made from the tree, names quoted.

        A `%` of a LIKE stays as it is: double it in a query that goes to psycopg with parameters.
        """
        return self.root.sql()

    def check(self, types: Mapping[str, str]) -> str:
        """The PostgreSQL type of the result.

        types: column -> `format_type` without modifier, `enum` for every enum. Raises FilterInvalid for
        unknown columns, for types that do not fit, and for arithmetic that fails whatever the row is.
        """
        return Compiler(types).whole(self.root).public_type

    def compile(self, types: Mapping[str, str]) -> Evaluate:
        """A function from a row to the value. A condition lets a row in only when it gives True.

        The row has to hold every name in `columns`. Raises FilterInvalid as `check` does; the function
        raises EvaluationFailed where PostgreSQL would fail for the row.
        """
        compiler = Compiler(types)
        code = f"lambda row, now: {compiler.whole(self.root).code}"
        # The code is the compiler's own; names and values of the mapping are in it by repr() or by name.
        return eval(code, compiler.names)  # type: ignore[no-any-return]  # noqa: S307
