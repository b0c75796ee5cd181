"""Whether a document says what a row says. Pure.

Of numbers the value counts, not BSON's type; of a column with 32-bit or 16-bit floats, the nearest of these; of objects
the members, not their order: PostgreSQL's jsonb keeps none. An absent field is a null.
"""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from bson import Binary, DatetimeMS, Decimal128
from bson.binary import VECTOR_SUBTYPE

from connectors.postgres.catalog import Column
from connectors.postgres.types import Type
from consumers.reverse.texts import milliseconds

Alike = Callable[[Any, Any], bool]
_SINGLE, _HALF = struct.Struct("f"), struct.Struct("e")
#: types whose values are floats of fewer bits than a double
_NARROW: Final = {"real": _SINGLE, "vector": _SINGLE, "sparsevec": _SINGLE, "halfvec": _HALF}


def of(column: Column) -> Alike:
    """For values of a column."""
    narrow = _narrow(column.resolved)
    blanks = column.type == "character"
    return lambda one, other: _alike(one, other, narrow, blanks)


def same(one: Any, other: Any) -> bool:
    """For values of no column."""
    return _alike(one, other, None, False)


def _narrow(of_: Type) -> struct.Struct | None:
    found = _NARROW.get(of_.name)
    parts = [of_.element, *(member for _, member in of_.fields)]
    return found or next((n for p in parts if p is not None and (n := _narrow(p)) is not None), None)


def _alike(one: Any, other: Any, narrow: struct.Struct | None, blanks: bool) -> bool:
    if one is None or other is None:
        return one is other
    if _number(one) and _number(other):
        return _equal(one, other, narrow)
    if isinstance(one, _DATES) and isinstance(other, _DATES):
        return milliseconds(one) == milliseconds(other)
    if isinstance(one, bytes | uuid.UUID) and isinstance(other, bytes | uuid.UUID):
        return _binary(one) == _binary(other)
    if isinstance(one, str) and isinstance(other, str):
        return one.rstrip(" ") == other.rstrip(" ") if blanks else one == other
    one, other = _opened(one), _opened(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            _alike(a, b, narrow, blanks) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[n], other[n], narrow, blanks) for n in one)
    return type(one) is type(other) and bool(one == other)


_DATES = (DatetimeMS, dt.datetime)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal128) and not isinstance(value, bool)


def _opened(value: Any) -> Any:
    """A packed vector as the list that it is."""
    if isinstance(value, Binary) and value.subtype == VECTOR_SUBTYPE:
        return list(value.as_vector().data)
    return list(value) if isinstance(value, tuple) else value


def _binary(value: bytes | uuid.UUID) -> bytes:
    return value.bytes if isinstance(value, uuid.UUID) else bytes(value)


def _equal(one: Any, other: Any, narrow: struct.Struct | None) -> bool:
    if narrow is not None:
        try:
            return narrow.pack(float(_plain(one))) == narrow.pack(float(_plain(other)))
        except (OverflowError, struct.error):
            return False
    a, b = _plain(one), _plain(other)
    if _nan(a) or _nan(b):
        return _nan(a) and _nan(b)
    if isinstance(a, float) and isinstance(b, float):
        return a == b
    return _exact(a) == _exact(b)


def _plain(value: Any) -> int | float | Decimal:
    return value.to_decimal() if isinstance(value, Decimal128) else value


def _nan(value: Any) -> bool:
    return value.is_nan() if isinstance(value, Decimal) else isinstance(value, float) and math.isnan(value)


def _exact(value: int | float | Decimal) -> Decimal:
    """A double against another kind of number: by the digits that it prints."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
