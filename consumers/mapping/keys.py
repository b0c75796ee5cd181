"""Values of keys, each in one form: the same from an event's key, from a row that is read, and in verification.

Integers and UUIDs stand for themselves. Anything else is a text: PostgreSQL's own of the value (time zone UTC, ISO
dates), except where it has several for equal values: a numeric has no zeros at the end of its fraction, a char(n)
no blanks, a double is written the shortest way that reads back as the same. Which of a table's unique keys tells
its rows apart is decided here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from connectors.postgres.catalog import Column, Table
from consumers.mapping.composed import codec_of
from consumers.mapping.ids import KeyValue
from consumers.mapping.moments import (
    DAY_MINUS_INFINITY,
    DAY_PLUS_INFINITY,
    MINUS_INFINITY,
    PLUS_INFINITY,
)

KeyConvert = Callable[[Any], KeyValue]
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class KeyForm:
    """How values of a type stand in a key.

    family: equal values of types of one family have one form, so that one may refer to the other. of: from the
    native form; None where it is that already. one: equal values have one form; else nothing can refer to them.
    """

    family: str
    of: KeyConvert | None = None
    one: bool = True


class KeyPart(NamedTuple):
    """A column that holds a key's value, or part of it."""

    column: str
    of: KeyConvert | None

    def value(self, native: Any) -> KeyValue:
        """The key's value. The native one is not None."""
        found: KeyValue = native if self.of is None else self.of(native)
        return found


# -- texts -------------------------------------------------------------------------------------------------------
def _truth(value: bool) -> str:
    return "true" if value else "false"


def _numeric(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _floating(value: float) -> str:
    return repr(value + 0.0)  # of two zeros the positive one


def _without_blanks(value: str) -> str:
    return value.rstrip(" ")


def _civil(days: int) -> tuple[int, int, int]:
    """Year (astronomical), month and day of a day since 1970-01-01; the reverse of values.days_from_civil."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    part = (5 * day_of_year + 2) // 153
    month = part + 3 if part < 10 else part - 9
    return era * 400 + year_of_era + (month <= 2), month, day_of_year - (153 * part + 2) // 5 + 1


def _day(days: int) -> tuple[str, str]:
    year, month, day = _civil(days)
    shown, era = (year, "") if year > 0 else (1 - year, " BC")
    return f"{shown:04d}-{month:02d}-{day:02d}", era


def _clock(us: int) -> str:
    seconds, micros = divmod(us, 1_000_000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{micros:06d}".rstrip("0") if micros else text


def _instant(zone: str) -> KeyConvert:
    def text(us: int) -> str:
        if us in (PLUS_INFINITY, MINUS_INFINITY):
            return "infinity" if us == PLUS_INFINITY else "-infinity"
        days, rest = divmod(us, _DAY_US)
        day, era = _day(days)
        return f"{day} {_clock(rest)}{zone}{era}"

    return text


def _date(days: int) -> str:
    if days in (DAY_PLUS_INFINITY, DAY_MINUS_INFINITY):
        return "infinity" if days == DAY_PLUS_INFINITY else "-infinity"
    return "".join(_day(days))


def _bytes(value: bytes) -> str:
    return "\\x" + value.hex()


# -- the table ---------------------------------------------------------------------------------------------------
FORMS: Final[dict[str, KeyForm]] = {
    "smallint": KeyForm("integer"),
    "integer": KeyForm("integer"),
    "bigint": KeyForm("integer"),
    "oid": KeyForm("integer"),
    "uuid": KeyForm("uuid"),
    "text": KeyForm("text"),
    "character varying": KeyForm("text"),
    "name": KeyForm("text"),
    "character": KeyForm("text", _without_blanks),
    "citext": KeyForm("citext", one=False),
    "enum": KeyForm("enum"),
    "boolean": KeyForm("boolean", _truth),
    "numeric": KeyForm("numeric", _numeric),
    "real": KeyForm("floating", _floating),
    "double precision": KeyForm("floating", _floating),
    "timestamp with time zone": KeyForm("timestamp with time zone", _instant("+00")),
    "timestamp without time zone": KeyForm("timestamp without time zone", _instant("")),
    "date": KeyForm("date", _date),
    "time without time zone": KeyForm("time", _clock),
    "bytea": KeyForm("bytea", _bytes),
    "inet": KeyForm("inet"),
    "cidr": KeyForm("cidr"),
    "macaddr": KeyForm("macaddr"),
    "macaddr8": KeyForm("macaddr8"),
}
#: how a key's value is read back from its text; text where not named
FROM_TEXT: Final[dict[str, Callable[[str], KeyValue]]] = {
    "smallint": int,
    "integer": int,
    "bigint": int,
    "oid": int,
    "uuid": UUID,
}


def form(column: Column) -> KeyForm | None:
    """How the column stands in a key; None where it cannot."""
    if column.generated or not codec_of(column.resolved).carried:
        return None
    found = FORMS.get(column.type)
    if found is not None and not column.deterministic:
        return KeyForm("text", found.of, one=False)
    return found


def part(column: Column) -> KeyPart:
    """The column as it holds a key's value; of a type without a form, its text."""
    found = FORMS.get(column.type)
    return KeyPart(column.name, str if found is None else found.of)


def event_part(column: Column) -> Callable[[Any], KeyValue]:
    """From the column's value in an event's key to the key's value."""
    native = codec_of(column.resolved).from_event
    of = FORMS.get(column.type, KeyForm("other")).of

    def value(sent: Any) -> KeyValue:
        there = sent if native is None else native(sent)
        given: KeyValue = there if of is None else of(there)
        return given

    return value


def refers(holder: Column, target: Column) -> str | None:
    """Why values of a column cannot stand for those of a key's column; None: they can."""
    mine, theirs = FORMS.get(holder.type), form(target)
    if theirs is None or mine is None or mine.family != theirs.family:
        return f"a {holder.cast} cannot hold the key {target.name}, which is a {target.cast}"
    if mine.family == "enum" and holder.cast != target.cast:
        return f"a {holder.cast} cannot hold the key {target.name}, which is a {target.cast}"
    if not theirs.one or not mine.one or not holder.deterministic:
        return (
            f"the key {target.name} ({target.cast}) has values that are equal and written differently, and ids are"
            " computed from what is written"
        )
    return None


def many_forms(column: Column) -> bool:
    """Whether equal values may be sent in several forms, so in several partitions of a topic with more than one."""
    if column.type in ("numeric", "character"):
        return not column.modified
    return column.type in ("real", "double precision")


def chosen(table: Table, declared: Sequence[str] | None) -> tuple[str, ...]:
    """The columns that tell the table's rows apart: those declared, its primary key, the index of its replica
    identity, its narrowest unique index. Empty where there is none."""
    if declared is not None:
        return tuple(declared)
    if table.key or not table.uniques:
        return table.key
    if table.replica_identity == "i":
        for unique in table.uniques:
            if set(unique.columns) == table.carried:
                return unique.columns
    return table.uniques[0].columns


__all__ = [
    "FORMS",
    "FROM_TEXT",
    "KeyForm",
    "KeyPart",
    "chosen",
    "event_part",
    "form",
    "many_forms",
    "part",
    "refers",
]
