"""How PostgreSQL is made to give each type's values, and what they become: `docs/types.md`, by SQL. Pure.

A value made of others (an array, a composite type, a range) is taken apart by PostgreSQL, into JSON whose leaves are
texts; here each leaf becomes what its type says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID

from bson import Int64
from bson.binary import Binary

from connectors.postgres.sql import SQL, Composable
from sync.verify import canonical
from sync.verify.canonical import Unfit

Sql = Callable[[Composable], Composable]


@dataclass(frozen=True)
class Form:
    """sql: the expression that PostgreSQL evaluates, over the value's own. value: what its result stands for.

    text: the same from the result's text, for a value inside another one. native: the key rule takes it as it
    is (integer or uuid), not as text. default: the name of the policy that this form is; policies: the forms
    of the others that `convert` in the mapping may name. parts: its SQL gives JSON. as_whole: the cast under
    which an array of it is printed by the policy `text`, and `inside` the form of it as a part of a row or
    a range, where that cannot be.
    """

    name: str
    sql: Sql
    value: Callable[[Any], Any]
    text: Callable[[str], Any] | None = None
    native: bool = False
    default: str = "text"
    policies: Mapping[str, Form] = field(default_factory=dict)
    parts: bool = False
    as_whole: LiteralString = "text"
    inside: Form | None = None

    def canonical(self, raw: Any) -> Any:
        """The canonical value; SQL's NULL is null for every form."""
        return None if raw is None else self.value(raw)

    def under(self, policy: str) -> Form | None:
        """The form by a policy; None where there is no such policy."""
        return self if policy == self.default else self.policies.get(policy)

    def as_json(self, expression: Composable) -> Composable:
        """The value inside JSON: what it is made of, or its text."""
        if self.parts:
            return self.sql(expression)
        return SQL("to_json(({})::text)").format(self.sql(expression))

    def from_json(self, found: Any) -> Any:
        """What stands there."""
        if found is None:
            return None
        return self.value(found) if self.parts else (self.text or self.value)(found)


def _cast(sql_type: LiteralString) -> Sql:
    """The value as this type; it may be a domain over it, whose arrays have a type of their own."""

    def sql(expression: Composable) -> Composable:
        return SQL("({})::{}").format(expression, SQL(sql_type))

    return sql


def _same(raw: Any) -> Any:
    return raw


def output(expression: Composable) -> Composable:
    """What the type's output function writes; a cast of some to text is something else."""
    return SQL("CASE WHEN num_nulls({0}) = 0 THEN pg_catalog.format('%s', {0}) END").format(expression)


def _finite(written: LiteralString) -> Sql:
    """A number as text, or the word for an infinity."""

    def sql(expression: Composable) -> Composable:
        return SQL("CASE WHEN isfinite({0}) THEN (" + written + ")::text ELSE ({0})::text END").format(
            expression
        )

    return sql


# of a timestamp beyond 294247 PostgreSQL gives the epoch with less than microseconds: whole minutes are exact
_MICROSECONDS: LiteralString = (
    "extract(epoch FROM date_trunc('minute', {0}))::numeric(20, 0) * 1000000 + extract(microseconds FROM {0})"
)
_as_microseconds = _finite(f"({_MICROSECONDS})::numeric(30, 0)")
_as_milliseconds = _finite(f"floor(({_MICROSECONDS}) / 1000)::int8")
_days_as_milliseconds = _finite("(extract(epoch FROM {0}) * 1000)::int8")


def _as_floats(expression: Composable) -> Composable:
    return SQL("({})::real[]::float8[]").format(expression)


def _bool(text: str) -> bool:
    return text == "true"


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("\\x"))


def _int64(text: str) -> Int64 | Unfit:
    found = canonical.whole(int(text))
    return found if isinstance(found, Unfit) else Int64(found)


def _microseconds(text: str) -> Int64 | Unfit:
    ends = {"infinity": (1 << 63) - 1, "-infinity": -(1 << 63)}
    return Int64(ends[text]) if text in ends else _int64(text)


def _instant_or(plus: Any, minus: Any) -> Callable[[str], Any]:
    ends = {"infinity": plus, "-infinity": minus}
    return lambda text: ends[text] if text in ends else canonical.instant(text)


def _double_of_numeric(text: str) -> float | Unfit:
    made = float(text)
    if made in (float("inf"), float("-inf")) and "nf" not in text:
        return Unfit("it is beyond the largest double")
    return made


def _float_vector(floats: list[float]) -> Binary:
    """MongoDB's binary vector of 32-bit floats: subtype 9, its type and padding, little-endian."""
    return Binary(struct.pack(f"<BB{len(floats)}f", 0x27, 0, *floats), 9)


def _listed_floats(text: str) -> list[float]:
    return [float(number) for number in text[1:-1].split(",")] if len(text) > 2 else []


AS_TEXT = Form("string", _cast("text"), _same)
AS_OUTPUT = Form("string", output, _same)
CHAR = Form("string", output, _same)  # a cast of char(n) to text takes its blanks away
_TEXT_TOO: Mapping[str, Form] = {"text": AS_TEXT}
_LAST, _FIRST = canonical.instant("253402300799999"), canonical.instant("-62135596800000")


def _moment(milliseconds: Sql, **more: Form) -> Form:
    policies = {
        "date-or-null": Form("date", milliseconds, _instant_or(None, None)),
        "date-clamped": Form("date", milliseconds, _instant_or(_LAST, _FIRST)),
        "text": AS_TEXT,
    }
    return Form("date", milliseconds, canonical.instant, default="date", policies={**policies, **more})


def _decimal(written: LiteralString, name: LiteralString = "text", inside: Form | None = None) -> Form:
    """written: the cast that gives its digits; name: that of a whole array."""
    policies = {
        "double": Form("double", _cast(written), _double_of_numeric),
        "text": Form("string", _cast(written), _same),
    }
    return Form(
        "decimal",
        _cast(written),
        canonical.decimal,
        default="decimal",
        policies=policies,
        as_whole=name,
        inside=inside,
    )


def _time_micros(expression: Composable) -> Composable:
    return SQL("(extract(epoch FROM {}) * 1000000)::int8").format(expression)


INT = Form("int32", _cast("int4"), _same, int, native=True, default="int32", policies=_TEXT_TOO)
BIGINT = Form("int64", _cast("int8"), Int64, _int64, native=True, default="int64", policies=_TEXT_TOO)
OID = Form("int64", _cast("oid::int8"), Int64, _int64, native=True, default="int64", policies=_TEXT_TOO)
XID = Form("int64", _cast("text"), _int64, default="int64", policies=_TEXT_TOO)
OID_NAMES = Form(
    "int64",
    _cast("oid::int8"),
    Int64,
    _int64,
    default="int64",
    policies={"text": Form("string", _cast("oid::text"), _same)},
    as_whole="oid[]::text",
    inside=AS_TEXT,
)
BOOL = Form("bool", _cast("bool"), _same, _bool, default="bool", policies=_TEXT_TOO)
DOUBLE = Form("double", _cast("float8"), _same, float, default="double", policies=_TEXT_TOO)
NUMERIC = _decimal("text")
MONEY = _decimal("numeric::text", "numeric[]::text", inside=AS_TEXT)
TEXT = Form("string", _cast("text"), _same)
IDENTITY = Form("uuid", _cast("uuid"), _same, UUID, native=True, default="binary", policies=_TEXT_TOO)
JSON = Form("json", _cast("text"), canonical.json_value, default="value", policies=_TEXT_TOO)
BYTES = Form("binary", _cast("bytea"), bytes, _bytes, default="binary", policies=_TEXT_TOO)
MOMENT = _moment(_as_milliseconds, micros=Form("int64", _as_microseconds, _microseconds))
DAY = _moment(_days_as_milliseconds)
TIME = Form("string", _cast("text"), _same, policies={"micros": Form("int64", _time_micros, Int64, _int64)})
VECTOR = Form(
    "vector",
    _as_floats,
    list,
    _listed_floats,
    default="array",
    policies={
        "binary": Form("binary", _as_floats, _float_vector, lambda t: _float_vector(_listed_floats(t))),
        "text": AS_TEXT,
    },
)
OTHER = AS_TEXT
