"""From the text of an expression to our tree, through sqlglot; what has no place there is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Final

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.errors import SqlglotError

from consumers.mapping.expressions import (
    Binary,
    Boolean,
    Call,
    Case,
    Column,
    In,
    Interval,
    Is,
    Like,
    Many,
    Negative,
    Node,
    Not,
    Now,
    Null,
    Number,
    Text,
    Typed,
    walk,
)
from consumers.mapping.literals import FilterInvalid, interval_us

#: Deeper nesting would meet the limits of Python's own parser.
MAX_DEPTH: Final = 25
MAX_NODES: Final = 2_000


def read(text: str) -> Node:
    """The tree of an expression. Raises FilterInvalid, naming what is not in the subset."""
    if "\x00" in text:
        raise FilterInvalid("an expression cannot hold the character NUL")
    try:
        parsed = sqlglot.parse_one(_plain_intervals(text), dialect="postgres", into=exp.Condition)
        return _Reader().node(parsed)
    except SqlglotError as error:
        near = next((e["highlight"] for e in getattr(error, "errors", ()) if e.get("highlight")), "")
        where = f" near '{near}'" if near else ""
        raise FilterInvalid(f"this cannot be read as one SQL expression{where}: {_short(text)}") from None
    except RecursionError:
        raise FilterInvalid(f"this is nested too deeply: {_short(text)}") from None


def _plain_intervals(text: str) -> str:
    """`INTERVAL 'x'` as `'x'::interval`: sqlglot drops parts of the first ('1 day 2:30', '1 day ago')."""
    tokens = sqlglot.tokenize(text, dialect="postgres")
    for i in reversed(range(len(tokens) - 1)):
        word, literal = tokens[i : i + 2]
        if word.token_type is not TokenType.INTERVAL or literal.token_type is not TokenType.STRING:
            continue
        if i + 2 < len(tokens) and tokens[i + 2].token_type is TokenType.VAR:
            raise FilterInvalid(
                f"INTERVAL '{literal.text}' {tokens[i + 2].text}: write the unit inside the quotes"
            )
        quoted = text[literal.start : literal.end + 1]
        text = f"{text[: word.start]} {quoted}::interval {text[literal.end + 1 :]}"
    return text


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."


_COMPARISONS: Final[dict[type[exp.Expr], str]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
    exp.NullSafeNEQ: "IS DISTINCT FROM",
}
_ARITHMETIC: Final[dict[type[exp.Expr], str]] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*"}
_PREDICATES: Final = (
    *_COMPARISONS,
    exp.Is,
    exp.In,
    exp.Between,
    exp.Like,
    exp.Escape,
    exp.Not,
    exp.And,
    exp.Or,
)
_TYPES: Final = {
    exp.DType.SMALLINT: "smallint",
    exp.DType.INT: "integer",
    exp.DType.BIGINT: "bigint",
    exp.DType.DECIMAL: "numeric",
    exp.DType.DOUBLE: "double precision",
    exp.DType.BOOLEAN: "boolean",
    exp.DType.TEXT: "text",
    exp.DType.VARCHAR: "character varying",
    exp.DType.UUID: "uuid",
    exp.DType.DATE: "date",
    exp.DType.TIMESTAMP: "timestamp without time zone",
    exp.DType.TIMESTAMPTZ: "timestamp with time zone",
}
#: Words that are values of their own in PostgreSQL unless quoted, and columns to sqlglot.
_NOT_COLUMNS: Final = frozenset(
    (
        "user",
        "session_user",
        "current_user",
        "system_user",
        "current_role",
        "current_catalog",
        "current_schema",
        "current_date",
        "current_time",
        "localtime",
        "localtimestamp",
        "default",
    )
)
_REASONS: Final[tuple[tuple[tuple[type[exp.Expr], ...], str], ...]] = (
    ((exp.Lower, exp.Upper, exp.Initcap, exp.Collate), "the result depends on the database's collation"),
    (
        (exp.ILike, exp.RegexpLike, exp.RegexpILike, exp.SimilarTo),
        "PostgreSQL and Python disagree about it; LIKE is in the subset",
    ),
    (
        (exp.Query, exp.Subquery, exp.Exists, exp.Any, exp.All),
        "only the columns of the row itself can be used",
    ),
    ((exp.AggFunc, exp.Window), "only the columns of the row itself can be used"),
    ((exp.Div, exp.IntDiv, exp.Mod, exp.Pow), "of arithmetic there are +, - and *"),
    (
        (exp.CurrentDate, exp.CurrentTime, exp.Localtime, exp.Localtimestamp, exp.AtTimeZone),
        "of the clock there is now()",
    ),
    ((exp.Placeholder, exp.Parameter), "there is nothing to put in its place"),
    (
        (exp.ByteString, exp.RawString, exp.HexString, exp.UnicodeString, exp.BitString),
        "write '...' or a decimal number",
    ),
    ((exp.Func,), "of functions there are coalesce, nullif and now"),
)


class _Reader:
    """From sqlglot's tree to ours. Every argument that is not understood is refused, whatever it means."""

    #: the arguments understood, by class
    _known: ClassVar[dict[type[exp.Expr], frozenset[str]]] = {
        exp.Paren: frozenset({"this"}),
        exp.Column: frozenset({"this"}),
        exp.Literal: frozenset({"this", "is_string"}),
        exp.Boolean: frozenset({"this"}),
        exp.Null: frozenset(),
        exp.Not: frozenset({"this"}),
        exp.Neg: frozenset({"this"}),
        exp.Is: frozenset({"this", "expression", "negate"}),
        exp.Like: frozenset({"this", "expression", "negate"}),
        exp.Escape: frozenset({"this", "expression"}),
        exp.In: frozenset({"this", "expressions"}),
        exp.Between: frozenset({"this", "low", "high"}),
        exp.Cast: frozenset({"this", "to"}),
        exp.CurrentTimestamp: frozenset(),
        exp.Coalesce: frozenset({"this", "expressions"}),
        exp.Nullif: frozenset({"this", "expression"}),
        exp.Case: frozenset({"this", "ifs", "default"}),
        **dict.fromkeys((*_COMPARISONS, *_ARITHMETIC, exp.And, exp.Or), frozenset({"this", "expression"})),
        exp.DPipe: frozenset({"this", "expression", "safe"}),
    }

    def __init__(self) -> None:
        self._left = MAX_NODES
        self._handlers: dict[type[exp.Expr], Callable[[Any, int], Node]] = {
            exp.Paren: lambda e, depth: self.node(e.this, depth),
            exp.Column: self._column,
            exp.Literal: lambda e, _: Text(e.this) if e.is_string else self._number(e),
            exp.Boolean: lambda e, _: Boolean(bool(e.this)),
            exp.Null: lambda e, _: Null(),
            exp.Not: lambda e, depth: Not(self.node(e.this, depth + 1)),
            exp.Neg: self._negative,
            exp.Is: self._is,
            exp.Like: self._like,
            exp.Escape: self._escape,
            exp.In: self._in,
            exp.Between: self._between,
            exp.Cast: self._cast,
            exp.CurrentTimestamp: lambda e, _: Now(),
            exp.Coalesce: lambda e, depth: Call("coalesce", self._all([e.this, *e.expressions], depth + 1)),
            exp.Nullif: lambda e, depth: Call("nullif", self._all([e.this, e.expression], depth + 1)),
            exp.Case: self._case,
            exp.And: lambda e, depth: Many("AND", self._all(_chain(e), depth + 1)),
            exp.Or: lambda e, depth: Many("OR", self._all(_chain(e), depth + 1)),
            exp.DPipe: lambda e, depth: Many("||", tuple(self._operand(part, depth) for part in _chain(e))),
            **dict.fromkeys((*_COMPARISONS, *_ARITHMETIC), self._binary),
        }

    def node(self, e: Any, depth: int = 0) -> Node:
        handler = self._handlers.get(type(e))
        given = {name for name, value in e.args.items() if value} if isinstance(e, exp.Expr) else set()
        if handler is None or given - self._known[type(e)]:
            raise _refused(e)
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise FilterInvalid(
                f"this is too large: at most {MAX_DEPTH} levels and {MAX_NODES} parts are possible"
            )
        return handler(e, depth)

    def _all(self, found: list[Any], depth: int) -> tuple[Node, ...]:
        return tuple(self.node(e, depth) for e in found)

    def _operand(self, e: Any, depth: int) -> Node:
        """What stands beside an operator: PostgreSQL and sqlglot rank some operators differently."""
        if type(e) in _PREDICATES:
            raise FilterInvalid(f"put parentheses around '{_short(e.sql(dialect='postgres'))}'")
        return self.node(e, depth + 1)

    def _column(self, e: exp.Column, _: int) -> Node:
        name = e.this
        if type(name) is not exp.Identifier:
            raise _refused(e)
        if name.args.get("quoted"):
            return Column(name.this)
        if name.this.lower() in _NOT_COLUMNS:
            raise FilterInvalid(
                f'{name.this} is not in the subset; a column of this name is written "{name.this}"'
            )
        return Column("".join(c.lower() if c.isascii() else c for c in name.this))

    def _number(self, e: exp.Literal) -> Node:
        if not re.fullmatch(r"\d+(\.\d*)?([eE][+-]?\d+)?", e.this, re.ASCII):
            raise _refused(e)
        return Number(e.this)

    def _negative(self, e: exp.Neg, depth: int) -> Node:
        of = self._operand(e.this, depth)
        if isinstance(of, Number):
            return Number(of.text[1:] if of.text.startswith("-") else f"-{of.text}")
        return Negative(of)

    def _is(self, e: exp.Is, depth: int) -> Node:
        what = e.expression
        if type(what) not in (exp.Null, exp.Boolean):
            raise _refused(e)
        node = Is(self._operand(e.this, depth), None if type(what) is exp.Null else bool(what.this))
        return Not(node) if e.args.get("negate") else node

    def _like(self, e: exp.Like, depth: int) -> Node:
        pattern = e.expression
        if type(pattern) is not exp.Literal or not pattern.is_string:
            raise FilterInvalid("LIKE needs its pattern as a literal: LIKE 'abc%'")
        if (len(pattern.this) - len(pattern.this.rstrip("\\"))) % 2:
            raise FilterInvalid(f"LIKE '{pattern.this}': a pattern cannot end with its escape character")
        node = Like(self._operand(e.this, depth), pattern.this)
        return Not(node) if e.args.get("negate") else node

    def _escape(self, e: exp.Escape, depth: int) -> Node:
        if type(e.this) is not exp.Like or type(e.expression) is not exp.Literal or e.expression.this != "\\":
            raise FilterInvalid("LIKE has the escape character \\ and no other")
        return self.node(e.this, depth)

    def _in(self, e: exp.In, depth: int) -> Node:
        items = self._all(e.expressions, depth + 1)
        if not items:
            raise _refused(e)
        if not all(isinstance(item, Null | Text | Number | Boolean | Typed) for item in items):
            raise FilterInvalid("IN needs a list of literals; write OR for anything else")
        return In(self._operand(e.this, depth), items)

    def _between(self, e: exp.Between, depth: int) -> Node:
        of = self._operand(e.this, depth + 1)
        low, high = self._operand(e.args["low"], depth + 1), self._operand(e.args["high"], depth + 1)
        self._left -= sum(1 for _ in walk(of))
        return Many("AND", (Binary(">=", of, low), Binary("<=", of, high)))

    def _binary(self, e: exp.Binary, depth: int) -> Node:
        operator = _COMPARISONS.get(type(e)) or _ARITHMETIC[type(e)]
        return Binary(operator, self._operand(e.this, depth), self._operand(e.expression, depth))

    def _cast(self, e: exp.Cast, depth: int) -> Node:
        to, of = e.args["to"], self.node(e.this, depth)
        shown = e.sql(dialect="postgres")
        if not isinstance(of, Null | Text | Number | Boolean):
            raise FilterInvalid(f"{_short(shown)}: only literals can be cast")
        if to.this is exp.DType.INTERVAL and isinstance(of, Text) and not to.expressions:
            return Interval(interval_us(of.value))
        name = _TYPES.get(to.this)
        if name is None or to.expressions or to.args.get("nested"):
            raise FilterInvalid(
                f"{_short(shown)}: the type {to.sql(dialect='postgres')} is not in the subset of literals"
            )
        if isinstance(of, Boolean):
            if name != "boolean":
                raise FilterInvalid(f"{_short(shown)}: a boolean is cast to nothing else")
            return of
        if isinstance(of, Number) and name not in (
            "smallint",
            "integer",
            "bigint",
            "numeric",
            "double precision",
        ):
            raise FilterInvalid(f"{_short(shown)}: a number is cast to numbers only")
        return Typed(name, None if isinstance(of, Null) else of.text if isinstance(of, Number) else of.value)

    def _case(self, e: exp.Case, depth: int) -> Node:
        whens: list[Node] = []
        for branch in e.args["ifs"]:
            if e.this is None:
                whens.append(self.node(branch.this, depth + 1))
            else:  # CASE x WHEN y is CASE WHEN x = y
                of = self.node(e.this, depth + 2)
                whens.append(Binary("=", of, self.node(branch.this, depth + 2)))
        thens = self._all([branch.args["true"] for branch in e.args["ifs"]], depth + 1)
        default = e.args.get("default")
        return Case(tuple(whens), thens, Null() if default is None else self.node(default, depth + 1))


def _chain(e: exp.Expr) -> list[Any]:
    """The operands of a chain of one operator, in order; parentheses within it change nothing."""
    found: list[Any] = []
    rest: list[Any] = [e]
    while rest:
        part = rest.pop()
        inner = part
        while type(inner) is exp.Paren:
            inner = inner.this
        if type(inner) is type(e):
            rest += [inner.args["expression"], inner.args["this"]]
        else:
            found.append(part)
    return found


def _refused(e: Any) -> FilterInvalid:
    shown = _short(e.sql(dialect="postgres")) if isinstance(e, exp.Expr) else str(e)
    reason = next((why for kinds, why in _REASONS if isinstance(e, kinds)), "")
    if type(e) is exp.Column:
        reason = "a column is named without its table"
    elif isinstance(e, exp.Expr) and e.find(exp.Query):
        reason = "only the columns of the row itself can be used"
    return FilterInvalid(
        f"'{shown}' is not in the SQL subset of the mapping" + (f": {reason}" if reason else "")
    )
