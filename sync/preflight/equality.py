"""When two values are the same for MongoDB: for its unique indexes, its enums, its partial filters. Pure.

Source: MongoDB documentation, "Comparison/Sort Order", "Multikey Indexes", "Partial Indexes". There is no collation:
texts are compared by their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from itertools import product
from typing import Any
from uuid import UUID

from bson import Binary, DatetimeMS, Decimal128, Int64, ObjectId, Regex, Timestamp

Comparable = tuple[Any, ...]


def bson_type(value: Any) -> str:
    """MongoDB's alias of a value's type."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Int64):
        return "long"
    if isinstance(value, int):
        return "int" if -(1 << 31) <= value < 1 << 31 else "long"
    for kinds, name in _TYPES:
        if isinstance(value, kinds):
            return name
    return type(value).__name__


_TYPES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (float, "double"),
    (str, "string"),
    (Decimal128, "decimal"),
    (ObjectId, "objectId"),
    ((DatetimeMS, datetime), "date"),
    (dict, "object"),
    ((list, tuple), "array"),
    ((Binary, bytes, UUID), "binData"),
    (Regex, "regex"),
    (Timestamp, "timestamp"),
)


def comparable(value: Any) -> Comparable:
    """A form that is equal for two values just when MongoDB says that they are; hashable."""
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int | float | Decimal128):
        return ("number", _number(value))
    if isinstance(value, dict):
        return ("object", tuple((name, comparable(member)) for name, member in value.items()))
    if isinstance(value, list | tuple):
        return ("array", tuple(comparable(member) for member in value))
    if isinstance(value, DatetimeMS):
        return ("date", int(value))
    if isinstance(value, UUID):
        value = Binary.from_uuid(value)
    if isinstance(value, Binary):
        return ("binary", value.subtype, bytes(value))
    if isinstance(value, bytes):
        return ("binary", 0, value)
    return (type(value).__name__, value)


def _number(value: int | float | Decimal128) -> tuple[int, str, int] | str:
    """Exact, and the same for 1, 1.0 and 1.00; zero has no sign, NaN equals itself."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if value == value else "nan"
    number = value.to_decimal() if isinstance(value, Decimal128) else Decimal(value)
    if number.is_nan():
        return "nan"
    if number.is_infinite():
        return "-inf" if number < 0 else "inf"
    sign, digits, exponent = number.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    short = text.rstrip("0")
    if not short:
        return (0, "", 0)
    return (sign, short, int(exponent) + len(text) - len(short))


def at_path(value: Any, steps: Sequence[str]) -> Iterator[Any]:
    """What an index finds at a dotted path: through arrays, each element; None where there is nothing."""
    if not steps:
        if isinstance(value, list):
            yield from value or [_EMPTY]
        else:
            yield value
        return
    if isinstance(value, list):
        found = [m for m in value if isinstance(m, dict)]
        for member in found:
            yield from at_path(member, steps)
        if steps[0].isdigit() and int(steps[0]) < len(value):
            yield from at_path(value[int(steps[0])], steps[1:])
        elif not found:
            yield None
        return
    yield from at_path(value.get(steps[0]) if isinstance(value, dict) else None, steps[1:])


#: an empty array's entry in an index is `undefined`: one of its own, the same for every empty array
_EMPTY = ("an empty array",)


def index_entries(document: Mapping[str, Any], fields: Sequence[str]) -> set[bytes]:
    """A digest for each entry that a document has in an index over these fields."""
    parts = [list(dict.fromkeys(_entry(v) for v in at_path(document, name.split(".")))) for name in fields]
    return {digest(repr(entry).encode()) for entry in product(*parts)}


def _entry(value: Any) -> Comparable:
    return ("empty",) if value is _EMPTY else comparable(value)


def digest(content: bytes) -> bytes:
    """12 bytes that stand for these."""
    return blake2b(content, digest_size=12).digest()


# -- partial filters ---------------------------------------------------------------------------------------------
_OPERATORS = {"$eq", "$gt", "$gte", "$lt", "$lte", "$exists", "$type", "$in"}
_CODES = {
    1: "double",
    2: "string",
    3: "object",
    4: "array",
    5: "binData",
    7: "objectId",
    8: "bool",
    9: "date",
    10: "null",
    11: "regex",
    16: "int",
    17: "timestamp",
    18: "long",
    19: "decimal",
}


def unknown_in(condition: Mapping[str, Any]) -> set[str]:
    """Operators of a partial filter that are not evaluated here."""
    found: set[str] = set()
    for name, wanted in condition.items():
        if name in ("$and", "$or"):
            found = found.union(*(unknown_in(part) for part in wanted))
        elif name.startswith("$"):
            found.add(name)
        elif _is_operators(wanted):
            found |= set(wanted) - _OPERATORS
    return found


def _is_operators(wanted: Any) -> bool:
    return isinstance(wanted, Mapping) and bool(wanted) and all(str(n).startswith("$") for n in wanted)


def matches(document: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    """Whether a document is in a partial index with this filter."""
    for name, wanted in condition.items():
        if name == "$and":
            if not all(matches(document, part) for part in wanted):
                return False
        elif name == "$or":
            if not any(matches(document, part) for part in wanted):
                return False
        elif not _field_matches(document, name.split("."), wanted):
            return False
    return True


def _field_matches(document: Mapping[str, Any], steps: Sequence[str], wanted: Any) -> bool:
    there = _exists(document, steps)
    values = list(at_path(document, steps)) if there else [None]
    tests = wanted if _is_operators(wanted) else {"$eq": wanted}
    return all(_holds(operator, values, there, of) for operator, of in tests.items())


def _exists(value: Any, steps: Sequence[str]) -> bool:
    if not steps:
        return True
    if isinstance(value, list):
        return any(_exists(member, steps) for member in value)
    return isinstance(value, dict) and steps[0] in value and _exists(value[steps[0]], steps[1:])


def _holds(operator: str, values: Sequence[Any], there: bool, of: Any) -> bool:
    if operator == "$exists":
        return there is bool(of)
    if operator == "$type":
        names = {_CODES.get(n, n) for n in (of if isinstance(of, list) else [of])}
        return there and any(_has_type(value, names) for value in values)
    if operator == "$in":
        wanted = {comparable(one) for one in of}
        return any(comparable(value) in wanted for value in values)
    return any(_compares(operator, value, of) for value in values)


def _has_type(value: Any, names: set[Any]) -> bool:
    kind = bson_type(value)
    return kind in names or ("number" in names and kind in ("int", "long", "double", "decimal"))


def _compares(operator: str, value: Any, of: Any) -> bool:
    """Equality, or order within one type: MongoDB compares no text with a number."""
    mine, other = comparable(value), comparable(of)
    if operator == "$eq" or (operator in ("$gte", "$lte") and mine == other):
        return mine == other
    if mine[0] != other[0]:
        return False
    if mine[0] == "number":
        a, b = _decimal(value), _decimal(of)
        if a.is_nan() or b.is_nan():
            return False
        return a > b if operator in ("$gt", "$gte") else a < b
    low, high = (mine[1:], other[1:]) if operator in ("$lt", "$lte") else (other[1:], mine[1:])
    if mine[0] == "str":
        return str(low[0]).encode() < str(high[0]).encode()
    return bool(low < high)


def _decimal(value: int | float | Decimal128) -> Decimal:
    return value.to_decimal() if isinstance(value, Decimal128) else Decimal(value)
