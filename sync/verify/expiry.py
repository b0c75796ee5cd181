"""Documents at the end of a TTL: MongoDB removes them in its own time, so they may be there or not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bson.datetime_ms import DatetimeMS

#: MongoDB's TTL monitor runs every 60 s, and the clocks of the two servers differ a little.
GRACE_MS = 120_000


def may_be_gone(ttl: Sequence[tuple[str, int]], fields: Mapping[str, Any], now_ms: int) -> bool:
    """True when one of the TTL indexes (field, seconds) lets go of this document by now, or about now.

    A date that is not a date never expires; of an array the earliest date counts, as in MongoDB.
    """
    for field, seconds in ttl:
        value = _at(fields, field)
        dates = [
            int(date)
            for date in (value if isinstance(value, list) else [value])
            if isinstance(date, DatetimeMS)
        ]
        if dates and min(dates) + seconds * 1000 <= now_ms + GRACE_MS:
            return True
    return False


def _at(fields: Mapping[str, Any], path: str) -> Any:
    value: Any = fields
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
