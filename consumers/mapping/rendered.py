"""Numbers and bytes in their native forms, as PostgreSQL prints them where extra_float_digits is not 0."""

from __future__ import annotations

import struct
from decimal import Decimal

_FLOAT = struct.Struct("f")
_WORDS = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}


def boolean(value: bool) -> str:
    """As a cast to text writes it."""
    return "true" if value else "false"


def numeric(value: Decimal) -> str:
    """Never with an exponent."""
    if value.is_nan():
        return "NaN"
    return format(value, "f") if value.is_finite() else ("-Infinity" if value < 0 else "Infinity")


def double(value: float) -> str:
    """The shortest digits that give the value back; an exponent from 1e15 on and below 1e-4."""
    return _WORDS.get(text := repr(value)) or _scientific(Decimal(text), 15)


def real(value: float) -> str:
    """The same of a 32-bit float: an exponent from 1e6 on."""
    if (word := _WORDS.get(repr(value))) is not None:
        return word
    return _scientific(Decimal(shortest(value)), 6)


def shortest(value: float) -> str:
    """The shortest decimal text that gives this 32-bit float back."""
    for digits in range(1, 9):
        text = f"{value:.{digits}g}"
        try:
            if _FLOAT.unpack(_FLOAT.pack(float(text)))[0] == value:
                return text
        except OverflowError:
            continue
    return f"{value:.9g}"


def _scientific(value: Decimal, limit: int) -> str:
    sign, digits, _ = value.as_tuple()
    point = value.adjusted()
    shown = "".join(map(str, digits)).rstrip("0") or "0"
    minus = "-" if sign else ""
    if value == 0:
        return f"{minus}0"
    if -4 <= point < limit:
        return minus + format(Decimal((0, tuple(map(int, shown)), point - len(shown) + 1)), "f")
    fraction = f".{shown[1:]}" if len(shown) > 1 else ""
    return f"{minus}{shown[0]}{fraction}e{'-' if point < 0 else '+'}{abs(point):02d}"


def binary(value: bytes) -> str:
    """Hexadecimal."""
    return f"\\x{value.hex()}"
