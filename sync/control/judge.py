"""How fast work may go. Pure: time and measurements come in as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from connectors.errors import Misused
from connectors.mongo.control import ROLES, Control

#: so many slow answers in a row throttle, so many quick ones let go
_SLOW_IN_A_ROW, _QUICK_IN_A_ROW = 2, 3
#: below this part of its limit an answer counts as quick: between the two nothing changes
_QUICK = 0.5


def changed(
    now: Control,
    *,
    pause: Iterable[str] = (),
    resume: Iterable[str] = (),
    max_ops: int | None = None,
    max_lag_s: float | None = None,
    unlimited: bool = False,
    by: str,
    at_ms: int,
) -> Control:
    """What is asked after one more command. Raises Misused for a role that there is not, and limits that let nothing
    through."""
    pause, resume = list(pause), list(resume)
    if unknown := [role for role in (*pause, *resume) if role not in ROLES]:
        raise Misused(f"there is nothing called {unknown[0]} to pause", remedy=f"name {' or '.join(ROLES)}")
    if max_ops is not None and max_ops < 1:
        raise Misused("--max-ops has to be at least 1", remedy="to stop all work, use `tandem pause`")
    if max_lag_s is not None and not 0 < max_lag_s < math.inf:
        raise Misused(
            "--max-lag has to be a number above 0", remedy="to stop the snapshot: `tandem pause snapshot`"
        )
    return Control(
        (now.paused | set(pause)) - set(resume),
        None if unlimited else (now.max_ops if max_ops is None else max_ops),
        None if unlimited else (now.max_lag_s if max_lag_s is None else max_lag_s),
        by,
        at_ms,
    )


@dataclass(slots=True)
class Bucket:
    """A token bucket that may go into debt: work is done whole, and what comes after it waits. rate: a second."""

    rate: float
    #: of saved-up time no more than this is worth anything
    burst_s: float = 0.25
    _free_at: float = field(default=0.0)

    def take(self, ops: int, now: float) -> float:
        """Take so many; returns how many seconds to wait before doing them."""
        start = max(self._free_at, now - self.burst_s)
        self._free_at = start + ops / self.rate
        return max(0.0, start - now)


@dataclass(slots=True)
class Brake:
    """Whether a server answers too slowly, with hysteresis. limit_ms: 0 never brakes."""

    name: str
    limit_ms: float
    on: bool = False
    last_ms: float = 0.0
    _in_a_row: int = 0

    def feel(self, answered_ms: float) -> bool:
        """One more measurement. True while work should give way."""
        self.last_ms = answered_ms
        if not self.limit_ms:
            return False
        against = answered_ms < self.limit_ms * _QUICK if self.on else answered_ms > self.limit_ms
        self._in_a_row = self._in_a_row + 1 if against else 0
        if self._in_a_row >= (_QUICK_IN_A_ROW if self.on else _SLOW_IN_A_ROW):
            self.on, self._in_a_row = not self.on, 0
        return self.on

    @property
    def why(self) -> str:
        """For people."""
        return (
            f"{self.name} answers in {self.last_ms:,.0f} ms (limit {self.limit_ms:,.0f})" if self.on else ""
        )
