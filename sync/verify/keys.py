"""Keys on PostgreSQL's side: how it is asked for a key's values, each in its one form (docs/values.md). Pure."""

from __future__ import annotations

from typing import Any

from connectors.postgres.sql import SQL, Composable
from consumers.mapping.ids import KeyValue
from sync.verify.forms import CHAR, Form

#: forms whose values PostgreSQL orders as an array is ordered
_ORDERED = frozenset({"int32", "int64", "uuid", "bool", "double", "date"})


def key_sql(form: Form, value: Composable) -> Composable:
    """What PostgreSQL evaluates for a key's value of this form."""
    if form.native or form.name == "double":
        return form.sql(value)
    if form.name == "decimal":
        return SQL("trim_scale({})::text").format(value)
    if form.name == "string" and form is not CHAR:
        return form.sql(value)
    return SQL("({})::text").format(value)  # of char(n) this takes the blanks away


def key_value(form: Form, raw: Any) -> KeyValue:
    """The key's value for what came back, which is not NULL."""
    if form.name == "double":
        return repr(float(raw) + 0.0)
    given: KeyValue = raw
    return given


def ordered(form: Form) -> bool:
    """Whether an array is ordered by the values themselves; else by the texts that keys have."""
    return form.name in _ORDERED
