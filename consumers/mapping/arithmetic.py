"""What compiled expressions call: PostgreSQL's arithmetic where Python's own answers differently."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any, Final, NoReturn

from consumers.mapping.literals import DAY_US, NUMERIC_AFTER, NUMERIC_BEFORE
from consumers.mapping.moments import DAY_MINUS_INFINITY, DAY_PLUS_INFINITY, MINUS_INFINITY, PLUS_INFINITY

#: 4714-11-24 BC, the first of PostgreSQL's timestamps; the last that fits this form is in the year 294247.
_FIRST_US: Final = -210_866_803_200_000_000


class EvaluationFailed(ValueError):
    """The expression has no value for this row: PostgreSQL would raise an error too."""


def too_large(type_name: str) -> NoReturn:
    raise EvaluationFailed(f"{type_name} out of range")


def equal(a: Any, b: Any) -> bool:
    """Of two numbers, either may be NaN."""
    return bool(a == b or (a != a and b != b))


def less(a: Any, b: Any) -> bool:
    """Of two numbers; NaN is the greatest."""
    if a != a:
        return False
    return bool(b != b or a < b)


def double(value: Decimal) -> float:
    result = float(value)
    if (result == 0 and value != 0) or (math.isinf(result) and value.is_finite()):
        too_large("double precision")
    return result


def midnight(day: int) -> int:
    if day == DAY_PLUS_INFINITY:
        return PLUS_INFINITY
    if day == DAY_MINUS_INFINITY:
        return MINUS_INFINITY
    return _instant(day * DAY_US)


def shift(instant: int, us: int) -> int:
    """An instant later (earlier); an infinite one stays."""
    return instant if instant in (PLUS_INFINITY, MINUS_INFINITY) else _instant(instant + us)


def _instant(us: int) -> int:
    if not _FIRST_US <= us < PLUS_INFINITY:
        too_large("timestamp")
    return us


#: Room for every exact result; nothing is trapped, infinities make NaN as they do in PostgreSQL.
_EXACT: Final = Context(prec=4 * NUMERIC_BEFORE, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def _numeric(operation: Callable[[Decimal, Decimal], Decimal]) -> Callable[[Decimal, Decimal], Decimal]:
    def calculate(a: Decimal, b: Decimal) -> Decimal:
        result = operation(a, b)
        if not result:  # PostgreSQL has no negative zero
            result = result.copy_abs()
        _, digits, exponent = result.as_tuple()
        if isinstance(exponent, int) and (
            len(digits) + exponent > NUMERIC_BEFORE or -exponent > NUMERIC_AFTER
        ):
            too_large("numeric")
        return result

    return calculate


def _floating(
    operation: Callable[[float, float], float], *, product: bool = False
) -> Callable[[float, float], float]:
    def calculate(a: float, b: float) -> float:
        result = operation(a, b)
        if math.isinf(result) and not (math.isinf(a) or math.isinf(b)):
            too_large("double precision")
        if product and result == 0 and a != 0 and b != 0:
            too_large("double precision")
        return result

    return calculate


def decimal_negative(value: Decimal) -> Decimal:
    return value.copy_negate() if value else value


#: By the names that the compiled code uses.
NAMES: Final[dict[str, Any]] = {
    "too_large": too_large,
    "equal": equal,
    "less": less,
    "double": double,
    "midnight": midnight,
    "shift": shift,
    "decimal": Decimal,
    "float": float,
    "decimal_plus": _numeric(_EXACT.add),
    "decimal_minus": _numeric(_EXACT.subtract),
    "decimal_times": _numeric(_EXACT.multiply),
    "decimal_negative": decimal_negative,
    "float_plus": _floating(lambda a, b: a + b),
    "float_minus": _floating(lambda a, b: a - b),
    "float_times": _floating(lambda a, b: a * b, product=True),
}
