"""Numbers and bytes in their native forms, as PostgreSQL prints them where extra_float_digits is not 0."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

_FLOAT, _BITS = struct.Struct("f"), struct.Struct("I")
_EXACT = Context(prec=1_100)  # the digits of the smallest double, and more
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
    return _printed(value, 15, _double_neighbours, len(repr(value).partition("e")[0].strip("-0.")) - 1)


def real(value: float) -> str:
    """The same of a 32-bit float: an exponent from 1e6 on."""
    return _printed(value, 6, _real_neighbours, 1)


def _double_neighbours(value: float) -> tuple[float, float]:
    return math.nextafter(value, 0), math.nextafter(value, math.inf)


def _real_neighbours(value: float) -> tuple[float, float]:
    [bits] = _BITS.unpack(_FLOAT.pack(value))
    below, above = (_FLOAT.unpack(_BITS.pack(bits + step))[0] for step in (-1, 1))
    return below, above


def _printed(
    value: float, limit: int, neighbours: Callable[[float], tuple[float, float]], fewest: int
) -> str:
    if (word := _WORDS.get(repr(value))) is not None:
        return word
    minus = "-" if math.copysign(1, value) < 0 else ""
    if value == 0:
        return f"{minus}0"
    shown = _shortest(abs(value), *neighbours(abs(value)), max(fewest, 1))
    digits = "".join(map(str, shown.as_tuple().digits)).rstrip("0")
    point = shown.adjusted()
    if -4 <= point < limit:
        return minus + format(Decimal((0, tuple(map(int, digits)), point - len(digits) + 1)), "f")
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{minus}{digits[0]}{fraction}e{'-' if point < 0 else '+'}{abs(point):02d}"


def _shortest(value: float, below: float, above: float, fewest: int) -> Decimal:
    """Fewest digits nearer to the value than to its neighbours; just between two is not near enough.

    Source: PostgreSQL, src/common/d2s.c and f2s.c (Ryu, without accepting bounds). Python's `repr` accepts them.
    """
    exact, number = Fraction(value), Decimal(value)
    low = (exact + Fraction(below)) / 2
    high = (exact + Fraction(above)) / 2 if math.isfinite(above) else exact + (exact - low)
    for digits in range(fewest, 18):
        step = Decimal((0, (1,), number.adjusted() - digits + 1))
        near = [number.quantize(step, rounding, _EXACT) for rounding in (ROUND_FLOOR, ROUND_CEILING)]
        if inside := [found for found in near if low < Fraction(found) < high]:
            return min(
                inside, key=lambda found: (abs(Fraction(found) - exact), found.as_tuple().digits[-1] % 2)
            )
    raise AssertionError(f"17 digits do not tell {value!r} from its neighbours")


def binary(value: bytes) -> str:
    """Hexadecimal."""
    return f"\\x{value.hex()}"
