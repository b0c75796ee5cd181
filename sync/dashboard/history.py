"""The last fifteen minutes of numbers, in memory, so that a page that is opened late sees how it came to this."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

KEPT_S = 900.0
#: one look a second; a clock that jumps back may not make it longer
_KEPT = 1_000

Point = dict[str, float | int | None]


def point_of(at_s: float, lag: Mapping[str, Any]) -> Point:
    """What the charts draw of one look. None: it was unknown."""
    rates = lag.get("rates") or {}
    return {
        "t": round(at_s, 3),
        "seconds": lag.get("seconds"),
        "records": lag.get("records"),
        "wal_bytes": lag.get("wal_bytes"),
        "records_in": rates.get("records_in"),
        "records_out": rates.get("records_out"),
    }


class History:
    """Points in the order of their time. One thread adds, others read."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def add(self, point: Point) -> None:
        """Keep it, and forget what is too old."""
        now = point["t"] or 0
        with self._lock:
            while self._points and not now - KEPT_S <= (self._points[0]["t"] or 0) <= now:
                self._points.popleft()
            self._points.append(point)

    def points(self) -> list[Point]:
        """All that is kept, the oldest first."""
        with self._lock:
            return list(self._points)

    def last(self) -> Point | None:
        """The newest."""
        with self._lock:
            return self._points[-1] if self._points else None
