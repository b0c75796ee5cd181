"""Values on their way: from an event or a row of PostgreSQL to a native form, and from there to BSON.

Native forms: int, bool, float, Decimal, str, UUID and bytes as they are; timestamps are microseconds and dates days
since 1970-01-01 UTC; a time is microseconds; JSON is its text; a vector or an array is a list. docs/values.md says
what becomes of each type in the end.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from sys import byteorder
from typing import Any, Final
from uuid import UUID

from bson import Binary, Decimal128, Int64
from bson.datetime_ms import DatetimeMS

from connectors.errors import DecodeFailed, MappingFailed

Convert = Callable[[Any], Any]

PLUS_INFINITY: Final = (1 << 63) - 1
MINUS_INFINITY: Final = -(1 << 63)
DAY_PLUS_INFINITY: Final = (1 << 31) - 1
DAY_MINUS_INFINITY: Final = -(1 << 31)
#: 2000-01-01, PostgreSQL's epoch, as seconds and days of ours
_EPOCH_2000_US = 946_684_800_000_000
_EPOCH_2000_DAYS = 10_957
_INT64 = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True, slots=True)
class Codec:
    """How values of one type travel. None is handled outside: it stays None everywhere.

    select: how a query asks for the column: `plain`, or the type that it is cast to. wire: the type that the
    binary COPY is read as. carried: whether the event holds the value faithfully; else the row is read again.
    from_event, from_row: to the native form; None where it is that already. to_bson: from the native form.
    key: whether it may be part of a primary key that ids are computed from.
    """

    select: str
    wire: str
    carried: bool
    from_event: Convert | None
    from_row: Convert | None
    to_bson: Convert | None
    key: bool = False


def _fail(what: str) -> MappingFailed:
    return MappingFailed(
        what, remedy="mend the row, or omit the column in the mapping; then retry the parked event"
    )


# -- numbers -----------------------------------------------------------------------------------------------------
_FLOAT = struct.Struct("f")
_LOWEST_EXPONENT = -6176  # of Decimal128 (IEEE 754-2008)
_DECIMAL_WORDS = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}


def _float_from_event(value: Any) -> float:
    return float(value)  # "NaN", "Infinity", "-Infinity" are strings


def _float4_from_event(value: Any) -> float:
    wide = float(value)
    if not math.isfinite(wide):
        return wide
    return float(_FLOAT.unpack(_FLOAT.pack(wide))[0])


def _decimal_from_event(value: Any) -> Decimal:
    return Decimal(_DECIMAL_WORDS.get(value, value))


def decimal_to_bson(value: Decimal) -> Decimal128:
    """A Decimal128 with the same digits and scale. Raises MappingFailed where it has no room for them."""
    _, digits, exponent = value.as_tuple()
    if isinstance(exponent, int) and exponent < _LOWEST_EXPONENT and len(digits) <= 34:
        raise _fail("a numeric with a scale beyond that of Decimal128")
    try:
        return Decimal128(value)
    except DecimalException:
        raise _fail("a numeric with more than 34 significant digits") from None


# -- time --------------------------------------------------------------------------------------------------------
_ISO = re.compile(r"([+-]?\d+)-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)$")


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar, any year (astronomical: 0 is 1 BC)."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def _instant_from_event(value: Any) -> int:
    """Debezium's ZonedTimestamp: ISO 8601, or `infinity`, `-infinity`."""
    match = _ISO.match(value)
    if match is None:
        if value in ("infinity", "-infinity"):
            return PLUS_INFINITY if value == "infinity" else MINUS_INFINITY
        raise DecodeFailed(
            "a value is not a timestamp with time zone",
            remedy="report this value: Debezium's form has changed",
        )
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    days = days_from_civil(int(year), int(month), int(day))
    seconds = days * 86_400 + int(hour) * 3_600 + int(minute) * 60 + int(second or 0)
    if zone != "Z":
        sign = 1 if zone[0] == "+" else -1
        seconds -= sign * (int(zone[1:3]) * 3_600 + int(zone[4:6]) * 60)
    return seconds * 1_000_000 + int((fraction or "0").ljust(6, "0")[:6])


#: What Debezium makes of the infinities of timestamp and date (pgjdbc's own far dates, cut or wrapped).
_EVENT_INFINITE_TIMESTAMPS = {9223372036825200000: PLUS_INFINITY, -9223372036832400000: MINUS_INFINITY}
_EVENT_INFINITE_DATES = {-2147472692: DAY_PLUS_INFINITY, -2147472691: DAY_MINUS_INFINITY}


def _timestamp_from_event(value: int) -> int:
    return _EVENT_INFINITE_TIMESTAMPS.get(value, value)


def _date_from_event(value: int) -> int:
    return _EVENT_INFINITE_DATES.get(value, value)


def _instant_from_row(value: int) -> int:
    return value if value in (PLUS_INFINITY, MINUS_INFINITY) else value + _EPOCH_2000_US


def _date_from_row(value: int) -> int:
    return value if value in (DAY_PLUS_INFINITY, DAY_MINUS_INFINITY) else value + _EPOCH_2000_DAYS


def _instant_to_bson(value: int) -> DatetimeMS:
    if value in (PLUS_INFINITY, MINUS_INFINITY):
        raise _fail("an infinite timestamp: BSON has no such date")
    return DatetimeMS(value // 1_000)


def _date_to_bson(value: int) -> DatetimeMS:
    if value in (DAY_PLUS_INFINITY, DAY_MINUS_INFINITY):
        raise _fail("an infinite date: BSON has no such date")
    return DatetimeMS(value * 86_400_000)


def _time_to_bson(value: int) -> str:
    seconds, micros = divmod(value, 1_000_000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{micros:06d}".rstrip("0") if micros else text


# -- JSON --------------------------------------------------------------------------------------------------------
def _json_int(text: str) -> int | Decimal128:
    if len(text) > 20:  # longer than any int64; and int() has a limit of its own
        return decimal_to_bson(Decimal(text))
    value = int(text)
    return value if value in _INT64 else decimal_to_bson(Decimal(text))


def _json_float(text: str) -> float | Decimal128:
    value, exact = float(text), Decimal(text)
    if math.isfinite(value) and Decimal(repr(value)) == exact:
        return value
    return decimal_to_bson(exact)


_parse_json = json.JSONDecoder(parse_int=_json_int, parse_float=_json_float).decode


def json_to_bson(text: str) -> Any:
    """The value of a JSON text; numbers as docs/values.md has them. Raises MappingFailed."""
    try:
        value = _parse_json(text)
    except (ValueError, RecursionError) as error:
        raise _fail(f"JSON that cannot be read: {error}") from None
    if _ESCAPED_SURROGATE in text.lower():
        _refuse_halves(value)
    return value


_ESCAPED_SURROGATE = "\\ud"  # PostgreSQL's json, not its jsonb, takes half of a pair


def _refuse_halves(value: Any) -> None:
    """Raise MappingFailed where a text holds half of a surrogate pair: no UTF-8 has it."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _fail("JSON with half of a surrogate pair in a text") from None
    elif isinstance(value, list):
        for element in value:
            _refuse_halves(element)
    elif isinstance(value, dict):
        for name, member in value.items():
            _refuse_halves(name)
            _refuse_halves(member)


def _jsonb_from_row(value: bytes) -> str:
    return str(value[1:], "utf-8")  # its first byte is the version of the binary form


def _json_from_row(value: bytes) -> str:
    return str(value, "utf-8")


# -- vectors (pgvector's binary send functions: int16 dimensions, int16 unused, big-endian floats) ---------------
def _vector_from_row(value: bytes) -> list[float]:
    floats = array("f", value[4:])
    if byteorder == "little":
        floats.byteswap()
    return floats.tolist()


def _halfvec_from_row(value: bytes) -> list[float]:
    return list(struct.unpack(f">{(len(value) - 4) // 2}e", value[4:]))


# -- the table ---------------------------------------------------------------------------------------------------
def _plain(
    wire: str,
    from_event: Convert | None = None,
    from_row: Convert | None = None,
    to_bson: Convert | None = None,
    *,
    carried: bool = True,
    key: bool = False,
) -> Codec:
    return Codec("plain", wire, carried, from_event, from_row, to_bson, key)


_TEXT = _plain("text", key=True)
#: any type not named here: PostgreSQL's text of it, read from the row
OTHER = Codec("text", "text", False, None, None, None)

CODECS: Final[dict[str, Codec]] = {
    "smallint": _plain("int2", key=True),
    "integer": _plain("int4", key=True),
    "bigint": _plain("int8", to_bson=Int64, key=True),
    "oid": _plain("oid", to_bson=Int64, key=True),
    "boolean": _plain("bool"),
    "double precision": _plain("float8", _float_from_event),
    "real": _plain("float4", _float4_from_event),
    "numeric": _plain("numeric", _decimal_from_event, None, decimal_to_bson),
    # Debezium sends it with 2046 digits behind the point
    "numeric of negative scale": _plain("numeric", None, None, decimal_to_bson, carried=False),
    "text": _TEXT,
    "character varying": _plain("varchar", key=True),
    "character": _plain("bpchar", key=True),
    "name": _plain("name"),
    "citext": Codec("text", "text", True, None, None, None),
    "enum": Codec("text", "text", True, None, None, None, key=True),
    "uuid": _plain("uuid", UUID, None, Binary.from_uuid, key=True),
    "json": _plain("bytea", None, _json_from_row, json_to_bson),
    "jsonb": _plain("bytea", None, _jsonb_from_row, json_to_bson),
    "bytea": _plain("bytea", base64.b64decode, bytes, bytes),
    "timestamp with time zone": _plain("int8", _instant_from_event, _instant_from_row, _instant_to_bson),
    "timestamp without time zone": _plain("int8", _timestamp_from_event, _instant_from_row, _instant_to_bson),
    "date": _plain("int4", _date_from_event, _date_from_row, _date_to_bson),
    "time without time zone": _plain("int8", None, None, _time_to_bson),
    "vector": _plain("bytea", None, _vector_from_row, None, carried=False),
    "halfvec": _plain("bytea", None, _halfvec_from_row, None, carried=False),
}
#: array elements that are read as they are
_ELEMENTS = (
    "smallint",
    "integer",
    "bigint",
    "boolean",
    "double precision",
    "real",
    "numeric",
    "text",
    "uuid",
)
_ELEMENTS_WITH_WIRE = {**{e: CODECS[e].wire for e in _ELEMENTS}, "character varying": "varchar"}


def _array_codec(element: str) -> Codec:
    convert = CODECS[element].to_bson

    def to_bson(values: list[Any]) -> list[Any]:
        if any(isinstance(value, list) for value in values):
            raise _fail("an array of more than one dimension")
        return [None if v is None else convert(v) for v in values] if convert else values

    return Codec(f"{element}[]", f"{_ELEMENTS_WITH_WIRE[element]}[]", False, None, None, to_bson)


def codec(type_name: str) -> Codec:
    """The codec of a column type as `catalog.Column.type` names it."""
    if type_name.endswith("[]") and type_name[:-2] in _ELEMENTS_WITH_WIRE:
        return _array_codec(type_name[:-2])
    return CODECS.get(type_name, OTHER)
