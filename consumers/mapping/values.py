"""Values on their way: from an event or a row of PostgreSQL to a native form, and from there to BSON.

Native forms: int, bool, float, Decimal, str, UUID and bytes as they are; timestamps are microseconds and dates days
since 1970-01-01 UTC; a time is microseconds; JSON is its text; a vector or an array is a list. docs/types.md says
what becomes of each type in the end.
"""

from __future__ import annotations

import json
import math
import struct
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, DecimalException
from sys import byteorder
from typing import Any

from bson import Binary, DatetimeMS, Decimal128, Int64, encode
from bson.binary import BinaryVectorDtype
from bson.errors import BSONError

from connectors.errors import MappingFailed
from consumers.mapping import rendered

Convert = Callable[[Any], Any]

INT64 = range(-(1 << 63), 1 << 63)


class NotFaithful(Exception):
    """An event's value may be another one than the row's: the row has to be read."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How values of one type travel. None is handled outside: it stays None everywhere.

    select: how a query asks for the column: `plain`, `output` (the text of its output function), or the type
    that it is cast to. wire: the type that the binary COPY is read as. carried: whether the event holds the
    value faithfully; else the row is read again. from_event, from_row: to the native form; None where it is
    that already; from_event may raise NotFaithful. from_text: to the native form from the text that stands
    for it inside an array, a row or a range. policies: from the native form to BSON, by name, the default
    first. key: whether it may be part of a primary key that ids are computed from.
    """

    select: str
    wire: str
    carried: bool
    from_event: Convert | None
    from_row: Convert | None
    policies: Mapping[str, Convert | None]
    from_text: Convert | None = None
    key: bool = False

    @property
    def to_bson(self) -> Convert | None:
        """By the default policy."""
        return next(iter(self.policies.values()))


def fail(what: str) -> MappingFailed:
    """For a value that has no form under its column's policy."""
    return MappingFailed(
        what,
        remedy="mend the row, or omit or `convert` the column in the mapping; then retry the parked event",
    )


# -- numbers -----------------------------------------------------------------------------------------------------
_FLOAT = struct.Struct("f")
_LOWEST_EXPONENT = -6176  # of Decimal128 (IEEE 754-2008)
_DECIMAL_WORDS = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}


def xid8_to_bson(value: int) -> Int64:
    if value not in INT64:
        raise fail("a transaction id beyond int64")
    return Int64(value)


def float_from_event(value: Any) -> float:
    return float(value)  # "NaN", "Infinity", "-Infinity" are strings


def float4_from_event(value: Any) -> float:
    wide = float(value)
    if not math.isfinite(wide):
        return wide
    return float(_FLOAT.unpack(_FLOAT.pack(wide))[0])


def decimal_from_event(value: Any) -> Decimal:
    return Decimal(_DECIMAL_WORDS.get(value, value))


def decimal_to_bson(value: Decimal) -> Decimal128:
    """A Decimal128 with the same digits and scale. Raises MappingFailed where it has no room for them."""
    _, digits, exponent = value.as_tuple()
    if isinstance(exponent, int) and exponent < _LOWEST_EXPONENT and len(digits) <= 34:
        raise fail("a numeric with a scale beyond that of Decimal128")
    try:
        return Decimal128(value)
    except DecimalException:
        raise fail("a numeric with more than 34 significant digits") from None


def decimal_to_double(value: Decimal) -> float:
    """The nearest one. Raises MappingFailed where that would be an infinity."""
    if value.is_finite() and value.adjusted() > 308:
        raise fail("a numeric beyond the largest double")
    return _no_overflow(float(value), value)


def _no_overflow(made: float, value: Decimal) -> float:
    if math.isinf(made) and value.is_finite():
        raise fail("a numeric beyond the largest double")
    return made


# -- JSON --------------------------------------------------------------------------------------------------------
def _json_int(text: str) -> int | Decimal128:
    if len(text) > 20:  # longer than any int64; and int() has a limit of its own
        return decimal_to_bson(Decimal(text))
    value = int(text)
    return value if value in INT64 else decimal_to_bson(Decimal(text))


def _json_float(text: str) -> float | Decimal128:
    value, exact = float(text), Decimal(text)
    if math.isfinite(value) and Decimal(repr(value)) == exact:
        return value
    return decimal_to_bson(exact)


_parse_json = json.JSONDecoder(parse_int=_json_int, parse_float=_json_float).decode


def json_to_bson(text: str) -> Any:
    """The value of a JSON text; numbers as docs/types.md has them. Raises MappingFailed."""
    try:
        value = _parse_json(text)
        if _ESCAPED_SURROGATE in text.lower():
            _refuse_halves(value)
    except (ValueError, RecursionError) as error:
        raise fail(f"JSON that cannot be read: {error}") from None
    return value


_ESCAPED_SURROGATE = "\\ud"  # PostgreSQL's json, not its jsonb, takes half of a pair


def _refuse_halves(value: Any) -> None:
    """Raise MappingFailed where a text holds half of a surrogate pair: no UTF-8 has it."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise fail("JSON with half of a surrogate pair in a text") from None
    elif isinstance(value, list):
        for element in value:
            _refuse_halves(element)
    elif isinstance(value, dict):
        for name, member in value.items():
            _refuse_halves(name)
            _refuse_halves(member)


def jsonb_from_row(value: bytes) -> str:
    return str(value[1:], "utf-8")  # its first byte is the version of the binary form


def json_from_row(value: bytes) -> str:
    return str(value, "utf-8")


# -- vectors (pgvector's binary send functions: int16 dimensions, int16 unused, big-endian floats) ---------------
def vector_from_row(value: bytes) -> list[float]:
    floats = array("f", value[4:])
    if byteorder == "little":
        floats.byteswap()
    return floats.tolist()


def halfvec_from_row(value: bytes) -> list[float]:
    return list(struct.unpack(f">{(len(value) - 4) // 2}e", value[4:]))


def vector_from_text(text: str) -> list[float]:
    return [float4_from_event(number) for number in text[1:-1].split(",")]


def vector_to_binary(value: list[float]) -> Binary:
    return Binary.from_vector(value, BinaryVectorDtype.FLOAT32)


def vector_to_text(value: list[float]) -> str:
    return f"[{','.join(map(rendered.real, value))}]"


def constant(value: Any) -> Any:
    """A constant or a default of the mapping file, as YAML reads it, in a form that BSON keeps: a day is its midnight,
    a time without a zone is UTC. Raises ValueError."""
    try:
        found = _constant(value)
        encode({"": found})
    except (BSONError, OverflowError, UnicodeError, RecursionError) as error:
        raise ValueError(f"MongoDB does not take this value: {error}") from error
    return found


def _constant(value: Any) -> Any:
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return DatetimeMS((aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1))
    if isinstance(value, date):
        return DatetimeMS((value - date(1970, 1, 1)).days * 86_400_000)
    if isinstance(value, list | tuple):
        return [_constant(element) for element in value]
    if isinstance(value, dict):
        return {name: _constant(member) for name, member in value.items()}
    return value
