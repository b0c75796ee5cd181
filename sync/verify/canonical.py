"""BSON-level values, the same for both sides: made from PostgreSQL's text here, decoded by the driver there.

A canonical value is None, bool, int (an int32), Int64, float, Decimal128, str, bytes (binary of subtype 0),
UUID (subtype 4), DatetimeMS, ObjectId, a list or a dict of such values; or Unfit, which no document holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from secrets import token_bytes
from typing import Any
from uuid import UUID

import bson
from bson import CodecOptions, Decimal128, Int64, ObjectId
from bson.binary import Binary, UuidRepresentation
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef

INT32 = range(-(1 << 31), 1 << 31)
INT64 = range(-(1 << 63), 1 << 63)
_DIGITS = 34
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)
#: Exponents that Decimal128 has (IEEE 754-2008, decimal128): of its last digit, and of its first one.
_LOWEST, _HIGHEST = -6176, 6144

_NAMES: dict[type, str] = {
    type(None): "null",
    bool: "bool",
    int: "int32",
    Int64: "int64",
    float: "double",
    Decimal128: "decimal",
    str: "string",
    bytes: "binary",
    UUID: "uuid",
    DatetimeMS: "date",
    ObjectId: "objectId",
    list: "array",
    dict: "object",
}


@dataclass(frozen=True)
class Unfit:
    """A value that BSON has no faithful form for: a row with one is parked, so no document agrees with it."""

    why: str


@dataclass(frozen=True)
class Masked:
    """A value that nobody is to be shown. told: what may be."""

    told: str


#: masks of one process can be compared with each other, and with nothing else
_KEY = token_bytes(16)


def masked(value: Any) -> Any:
    """A value by its type, its length and a keyed hash: enough to tell whether two are the same. null is shown."""
    if value is None or isinstance(value, Unfit | Masked):
        return Unfit("a secret value has no form") if isinstance(value, Unfit) else value
    length = f" of {len(value)}" if isinstance(value, str | bytes | list | dict) else ""
    written = bson.encode({"": value}, codec_options=_CODEC)
    return Masked(
        f"{type_name(value)}{length}, secret {blake2b(written, digest_size=4, key=_KEY).hexdigest()}"
    )


def type_name(value: object) -> str:
    """MongoDB's name of a value's BSON type; int32 and int64 are two types here."""
    if isinstance(value, Binary):
        return f"binary subtype {value.subtype}"
    return _NAMES.get(type(value), type(value).__name__)


def decoded(value: Any) -> Any:
    """What the driver decoded, less its interpretation of `$ref` objects."""
    return dict(value.as_doc()) if isinstance(value, DBRef) else value


def whole(value: int) -> int | Int64 | Unfit:
    """An integer as int32 where it fits, else int64."""
    if value in INT32:
        return value
    return Int64(value) if value in INT64 else Unfit(f"{value} is beyond int64")


def decimal(text: str) -> Decimal128 | Unfit:
    """PostgreSQL's text of a numeric, digits and scale kept; zeros beyond 34 digits become an exponent."""
    number = Decimal(text)
    if not number.is_finite():
        return Decimal128(text)
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # a finite one has a number there
    if len(digits) > _DIGITS and not any(digits[_DIGITS:]):
        exponent += len(digits) - _DIGITS
        digits = digits[:_DIGITS]
    if len(digits) > _DIGITS:
        return Unfit(f"{len(digits)} digits do not fit into the 34 of Decimal128")
    if exponent < _LOWEST or exponent + len(digits) - 1 > _HIGHEST:
        return Unfit(f"an exponent of {exponent} is outside Decimal128")
    return Decimal128(Decimal((number.is_signed(), digits, exponent)))


def instant(text: str) -> DatetimeMS | Unfit:
    """Milliseconds since 1970 as text, or `infinity`, `-infinity`."""
    if text.lstrip("-").isdigit():
        return DatetimeMS(int(text))
    return Unfit(f"a BSON date cannot be {text}")


def text(value: str) -> str | Unfit:
    """A string, when it is one that UTF-8 can carry."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return Unfit("the text holds half of a surrogate pair")
    return value


def json_value(written: str) -> Any:
    """The value of a json or jsonb text. Unfit when any part of it has no form."""
    try:
        return _fit(_JSON.decode(written))
    except RecursionError:
        return Unfit("the JSON is nested too deep")


def constant(value: Any) -> Any:
    """A constant of the mapping file, as YAML reads it."""
    if isinstance(value, bool) or value is None or isinstance(value, float | str | bytes):
        return value
    if isinstance(value, int):
        return whole(value)
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return DatetimeMS((aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1))
    if isinstance(value, date):
        return DatetimeMS((value - date(1970, 1, 1)).days * 86_400_000)
    if isinstance(value, list | tuple):
        return [constant(element) for element in value]
    if isinstance(value, dict):
        return {str(name): constant(member) for name, member in value.items()}
    return Unfit(f"a constant of type {type(value).__name__} has no form")


def described(value: object, limit: int = 200) -> str:
    """A value with its BSON type, for people; long ones are cut."""
    if isinstance(value, Unfit):
        return f"nothing that BSON has: {value.why}"
    if isinstance(value, Masked):
        return value.told
    if value is None:
        return "null"
    if isinstance(value, DatetimeMS):
        shown = _iso(int(value))
    elif isinstance(value, bytes):
        shown = value.hex()
    elif isinstance(value, list):
        shown = f"{len(value)}: [" + ", ".join(described(element, 60) for element in value[:8])
        shown += ", …]" if len(value) > 8 else "]"
    elif isinstance(value, dict):
        shown = "{" + ", ".join(f"{name}: {described(member, 60)}" for name, member in value.items()) + "}"
    else:
        shown = repr(value) if isinstance(value, str | float) else str(value)
    shown = f"{type_name(value)} {shown}"
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _iso(ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json_whole(written: str) -> Any:
    if len(written) > 20:  # longer than any int64; int() itself has a limit, too
        return decimal(written)
    value = int(written)
    return whole(value) if value in INT64 else decimal(written)


def _json_fraction(written: str) -> Any:
    as_double = float(written)
    if Decimal(repr(as_double)) == Decimal(written):
        return as_double
    return decimal(written)


def _json_object(pairs: list[tuple[str, Any]]) -> Any:
    members = {name: _fit(member) for name, member in pairs}
    for name, member in members.items():
        if isinstance(text(name), Unfit) or "\0" in name:
            return Unfit("a JSON object has a name that BSON does not take")
        if isinstance(member, Unfit):
            return member
    return members


def _fit(value: Any) -> Any:
    """The value, or the first thing inside it that has no form. Objects have been through here already."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        fitting = [_fit(element) for element in value]
        return next((element for element in fitting if isinstance(element, Unfit)), fitting)
    return value


_hooks: dict[str, Callable[[Any], Any]] = {
    "parse_int": _json_whole,
    "parse_float": _json_fraction,
    "object_pairs_hook": _json_object,
}
_JSON = json.JSONDecoder(strict=False, **_hooks)
