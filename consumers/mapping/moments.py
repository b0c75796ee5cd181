"""Points in time: from an event, a row or a text of PostgreSQL to the native form, from there to BSON or text.

Native forms: timestamps are microseconds since 1970-01-01 UTC, dates are days since then, a time is microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from bson import Int64
from bson.datetime_ms import DatetimeMS

from connectors.errors import DecodeFailed
from consumers.mapping.values import INT64, Convert, NotFaithful, fail

PLUS_INFINITY: Final = (1 << 63) - 1
MINUS_INFINITY: Final = -(1 << 63)
DAY_PLUS_INFINITY: Final = (1 << 31) - 1
DAY_MINUS_INFINITY: Final = -(1 << 31)
#: 2000-01-01, PostgreSQL's epoch, as microseconds and days of ours
_EPOCH_2000_US = 946_684_800_000_000
_EPOCH_2000_DAYS = 10_957
_INFINITE = {PLUS_INFINITY: "infinity", MINUS_INFINITY: "-infinity"}
_INFINITE_DAYS = {DAY_PLUS_INFINITY: "infinity", DAY_MINUS_INFINITY: "-infinity"}

_ISO = re.compile(r"([+-]?\d+)-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)$")


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar, any year (astronomical: 0 is 1 BC)."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def instant_from_event(value: Any) -> int:
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


#: Outside these Debezium's numbers are wrapped, cut, or stand for an infinity. PostgreSQL has nothing earlier.
_EVENT_TIMESTAMPS = range(-210_866_803_200_000_000, 9_223_372_000_000_000_000)
_EVENT_DATES = range(-2_440_588, 2_145_042_906)


def timestamp_from_event(value: int) -> int:
    if value not in _EVENT_TIMESTAMPS:
        raise NotFaithful
    return value


def date_from_event(value: int) -> int:
    if value not in _EVENT_DATES:
        raise NotFaithful
    return value


_PRINTED = re.compile(r"(\d+)-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d+))?)?(?:\+00(?::00)?)?( BC)?")


def instant_from_text(text: str) -> int:
    """As PostgreSQL prints it in UTC."""
    if text in ("infinity", "-infinity"):
        return PLUS_INFINITY if text == "infinity" else MINUS_INFINITY
    match = _PRINTED.fullmatch(text)
    if match is None:
        raise ValueError(f"no timestamp: {text}")
    year, month, day, hour, minute, second, fraction, bc = match.groups()
    days = days_from_civil(1 - int(year) if bc else int(year), int(month), int(day))
    seconds = days * 86_400 + int(hour or 0) * 3_600 + int(minute or 0) * 60 + int(second or 0)
    return seconds * 1_000_000 + int((fraction or "0").ljust(6, "0"))


def date_from_text(text: str) -> int:
    if text in ("infinity", "-infinity"):
        return DAY_PLUS_INFINITY if text == "infinity" else DAY_MINUS_INFINITY
    return instant_from_text(text) // 86_400_000_000


def time_from_text(text: str) -> int:
    hour, minute, second = text.split(":")
    whole, _, fraction = second.partition(".")
    return ((int(hour) * 60 + int(minute)) * 60 + int(whole)) * 1_000_000 + int(
        (fraction or "0").ljust(6, "0")
    )


def instant_from_row(value: int) -> int:
    return value if value in (PLUS_INFINITY, MINUS_INFINITY) else value + _EPOCH_2000_US


def date_from_row(value: int) -> int:
    return value if value in (DAY_PLUS_INFINITY, DAY_MINUS_INFINITY) else value + _EPOCH_2000_DAYS


#: what the infinities become by `date-clamped`: the ends of what every driver reads
_LAST_MS, _FIRST_MS = 253_402_300_799_999, -62_135_596_800_000


def instant_to_bson(value: int) -> DatetimeMS:
    if value in (PLUS_INFINITY, MINUS_INFINITY):
        raise fail("an infinite timestamp: BSON has no such date")
    return DatetimeMS(value // 1_000)


def date_to_bson(value: int) -> DatetimeMS:
    if value in (DAY_PLUS_INFINITY, DAY_MINUS_INFINITY):
        raise fail("an infinite date: BSON has no such date")
    return DatetimeMS(value * 86_400_000)


def or_null(plus: int, minus: int, convert: Callable[[int], DatetimeMS]) -> Convert:
    return lambda value: None if value in (plus, minus) else convert(value)


def clamped(plus: int, minus: int, convert: Callable[[int], DatetimeMS]) -> Convert:
    ends = {plus: DatetimeMS(_LAST_MS), minus: DatetimeMS(_FIRST_MS)}
    return lambda value: ends.get(value) or convert(value)


def micros_to_bson(value: int) -> Int64:
    """The infinities are the ends of int64 already."""
    if value not in INT64:
        raise fail("a timestamp that microseconds since 1970 in 64 bits do not reach")
    return Int64(value)


def instants(text: Convert) -> dict[str, Convert | None]:
    ends = PLUS_INFINITY, MINUS_INFINITY
    return {
        "date": instant_to_bson,
        "date-or-null": or_null(*ends, instant_to_bson),
        "date-clamped": clamped(*ends, instant_to_bson),
        "micros": micros_to_bson,
        "text": text,
    }


# -- as PostgreSQL prints them in UTC, with DateStyle ISO
def time_text(micros: int) -> str:
    """`HH:MM:SS`, or with a fraction without trailing zeros."""
    seconds, rest = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{rest:06d}".rstrip("0") if rest else text


def timestamp_text(micros: int) -> str:
    """Without a zone."""
    if micros in _INFINITE:
        return _INFINITE[micros]
    days, rest = divmod(micros, 86_400_000_000)
    day, era = _day(days)
    return f"{day} {time_text(rest)}{era}"


def timestamptz_text(micros: int) -> str:
    """In UTC."""
    if micros in _INFINITE:
        return _INFINITE[micros]
    days, rest = divmod(micros, 86_400_000_000)
    day, era = _day(days)
    return f"{day} {time_text(rest)}+00{era}"


def date_text(days: int) -> str:
    """`YYYY-MM-DD`, with ` BC` where it is."""
    return _INFINITE_DAYS[days] if days in _INFINITE_DAYS else "".join(_day(days))


def _day(days: int) -> tuple[str, str]:
    """Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant, civil_from_days)."""
    era, of_era = divmod(days + 719_468, 146_097)
    year_of_era = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    day_of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    return f"{year if year > 0 else 1 - year:04d}-{month:02d}-{day:02d}", "" if year > 0 else " BC"


#: the policies of each type, the default first
DATES: Final[dict[str, Convert | None]] = {
    "date": date_to_bson,
    "date-or-null": or_null(DAY_PLUS_INFINITY, DAY_MINUS_INFINITY, date_to_bson),
    "date-clamped": clamped(DAY_PLUS_INFINITY, DAY_MINUS_INFINITY, date_to_bson),
    "text": date_text,
}
INSTANTS: Final = instants(timestamptz_text)
LOCAL: Final = instants(timestamp_text)
TIMES: Final[dict[str, Convert | None]] = {"text": time_text, "micros": Int64}
