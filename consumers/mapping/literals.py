"""Literals of the mapping's SQL subset: from their text to the native form that a column of that type has.

Only texts that mean one thing whatever the settings of the session: ISO dates, no 'today', no month names.
A time without a zone is UTC, as the sessions' TimeZone is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from consumers.mapping.moments import (
    DAY_MINUS_INFINITY,
    DAY_PLUS_INFINITY,
    MINUS_INFINITY,
    PLUS_INFINITY,
    days_from_civil,
)

DAY_US: Final = 86_400_000_000
INT_LIMITS: Final = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}
#: Digits a numeric may have before and after its point (PostgreSQL documentation, "Numeric Types").
NUMERIC_BEFORE, NUMERIC_AFTER = 131_072, 16_383


class FilterInvalid(ValueError):
    """An expression that is outside the subset, or does not fit its table; the text is for its author."""


def native(type_name: str, text: str) -> Any:
    """The value of the literal 'text' of this type. Raises FilterInvalid."""
    reader = _READERS.get(type_name)
    if reader is None:
        raise FilterInvalid(f"a literal of type {type_name} is not in the subset ('{text}')")
    value = reader(text)
    if value is None:
        raise FilterInvalid(f"'{text}' is no {type_name}{_HINTS.get(type_name, '')}")
    return value


def number(text: str) -> tuple[str, int | Decimal]:
    """Type and value of a number as it stands in SQL; PostgreSQL takes the first that fits."""
    if re.fullmatch(r"-?\d+", text):
        value = int(text)
        for name in ("integer", "bigint"):
            if -INT_LIMITS[name] <= value < INT_LIMITS[name]:
                return name, value
    return "numeric", native("numeric", text)


def interval_us(text: str) -> int:
    """Microseconds of an interval without months and years; a day is 24 hours. Raises FilterInvalid."""
    total, rest = 0, text.strip().lower()
    if not rest:
        raise FilterInvalid("an INTERVAL is empty")
    while rest:
        match = _CLOCK.match(rest) or _AMOUNT.match(rest)
        if match is None:
            raise FilterInvalid(
                f"INTERVAL '{text}' is not in the subset: write whole numbers with units, '1 day 2 hours'"
            )
        total += _clock_us(match) if match.re is _CLOCK else _amount_us(match, text)
        rest = rest[match.end() :]
    if abs(total) > PLUS_INFINITY:
        raise FilterInvalid(f"INTERVAL '{text}' is too long")
    return total


_CLOCK = re.compile(r"([+-]?)(\d{1,4}):([0-5]\d)(?::([0-5]\d)(?:\.(\d{1,6}))?)?(?:\s+|$)")
_AMOUNT = re.compile(r"([+-]?\d{1,18})\s*([a-z]+)(?:\s+|$)")
_UNITS: Final = {
    **dict.fromkeys(("microsecond", "microseconds", "us", "usec", "usecs"), 1),
    **dict.fromkeys(("millisecond", "milliseconds", "ms", "msec", "msecs"), 1_000),
    **dict.fromkeys(("second", "seconds", "sec", "secs", "s"), 1_000_000),
    **dict.fromkeys(("minute", "minutes", "min", "mins"), 60_000_000),
    **dict.fromkeys(("hour", "hours", "hr", "hrs", "h"), 3_600_000_000),
    **dict.fromkeys(("day", "days", "d"), DAY_US),
    **dict.fromkeys(("week", "weeks", "w"), 7 * DAY_US),
}


def _clock_us(match: re.Match[str]) -> int:
    sign, hours, minutes, seconds, fraction = match.groups()
    whole = int(hours) * 3_600 + int(minutes) * 60 + int(seconds or 0)
    return (-1 if sign == "-" else 1) * (whole * 1_000_000 + _micros(fraction))


def _amount_us(match: re.Match[str], text: str) -> int:
    amount, unit = match.groups()
    if unit not in _UNITS:
        if re.fullmatch(
            r"mons?|months?|y|yrs?|years?|decades?|century|centuries|c|millennium|millenniums|mil", unit
        ):
            raise FilterInvalid(
                f"INTERVAL '{text}': months and years have no fixed length; write days or smaller units"
            )
        raise FilterInvalid(
            f"INTERVAL '{text}': the unit '{unit}' is not in the subset (weeks to microseconds are)"
        )
    return int(amount) * _UNITS[unit]


def _micros(fraction: str | None) -> int:
    return int((fraction or "0").ljust(6, "0"))


def _int_reader(limit: int) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        match = re.fullmatch(r"\s*([+-]?[0-9]{1,20})\s*", text)
        value = int(match[1]) if match else limit
        return value if -limit <= value < limit else None

    return read


_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?)\s*")
_SPECIAL = re.compile(r"\s*(nan|[+-]?inf(?:inity)?)\s*", re.IGNORECASE)


def _numeric(text: str) -> Decimal | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        special = _SPECIAL.fullmatch(text)
        return Decimal(special[1]) if special else None
    sign, digits, exponent = Decimal(match[1]).as_tuple()
    assert isinstance(exponent, int)
    if -exponent > NUMERIC_AFTER or (len(digits) + exponent > NUMERIC_BEFORE):
        return None
    if exponent > 0:  # PostgreSQL's numerics have no positive exponent
        digits, exponent = digits + (0,) * exponent if any(digits) else (0,), 0
    return Decimal((sign if any(digits) else 0, digits, exponent))


def _double(text: str) -> float | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        special = _SPECIAL.fullmatch(text)
        return float(special[1]) if special else None
    value = float(match[1])
    lost = math.isinf(value) or (value == 0 and re.search(r"[1-9]", re.split("[eE]", match[1])[0]))
    return None if lost else value


def _boolean(text: str) -> bool | None:
    word = text.strip(" \t\n\r\f\v").lower()
    if word in ("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"):
        return True
    return False if word in ("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0") else None


def _uuid(text: str) -> UUID | None:
    plain = re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text)
    return UUID(text) if plain else None


_INFINITE = re.compile(r"\s*([+-]?)infinity\s*", re.IGNORECASE)
_DATE = r"\s*([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
_TIME = r"(?:[ T]([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]{1,6}))?)?"
_ZONE = r"\s?(Z|UTC|[+-](?:0?[0-9]|1[0-5])(?::?[0-5][0-9])?)?"
_DAY = re.compile(rf"{_DATE}\s*")
_LOCAL = re.compile(rf"{_DATE}{_TIME})?\s*")
_ZONED = re.compile(rf"{_DATE}{_TIME}{_ZONE})?\s*", re.IGNORECASE)
_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _days(match: re.Match[str]) -> int | None:
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    if year < 1 or not 1 <= month <= 12 or not 1 <= day <= _MONTHS[month - 1]:
        return None
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return None if month == 2 and day == 29 and not leap else days_from_civil(year, month, day)


def _date(text: str) -> int | None:
    if infinite := _INFINITE.fullmatch(text):
        return DAY_MINUS_INFINITY if infinite[1] == "-" else DAY_PLUS_INFINITY
    match = _DAY.fullmatch(text)
    return _days(match) if match else None


def _instant(pattern: re.Pattern[str]) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        if infinite := _INFINITE.fullmatch(text):
            return MINUS_INFINITY if infinite[1] == "-" else PLUS_INFINITY
        match = pattern.fullmatch(text)
        days = _days(match) if match else None
        if match is None or days is None:
            return None
        seconds = days * 86_400 + int(match[4] or 0) * 3_600 + int(match[5] or 0) * 60 + int(match[6] or 0)
        zone = match[8] if pattern is _ZONED else None
        return (seconds - _offset_s(zone)) * 1_000_000 + _micros(match[7])

    return read


def _offset_s(zone: str | None) -> int:
    if zone is None or zone.upper() in ("Z", "UTC"):
        return 0
    digits = zone[1:].replace(":", "")
    hours, minutes = (digits, "0") if len(digits) <= 2 else (digits[:-2], digits[-2:])
    return (-1 if zone[0] == "-" else 1) * (int(hours) * 3_600 + int(minutes) * 60)


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    **{name: _int_reader(limit) for name, limit in INT_LIMITS.items()},
    "numeric": _numeric,
    "double precision": _double,
    "boolean": _boolean,
    "text": str,
    "character varying": str,
    "character": str,
    "enum": str,
    "uuid": _uuid,
    "date": _date,
    "timestamp without time zone": _instant(_LOCAL),
    "timestamp with time zone": _instant(_ZONED),
}
_HINTS: Final = {
    "uuid": " (write it as 8-4-4-4-12 hexadecimal digits)",
    "date": " (write it as YYYY-MM-DD)",
    "timestamp without time zone": " (write it as YYYY-MM-DD HH:MM:SS, without a zone)",
    "timestamp with time zone": " (write it as YYYY-MM-DD HH:MM:SS+00; without a zone it is UTC)",
}
