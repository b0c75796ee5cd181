"""Log lines: for people on a terminal, one JSON object a line elsewhere; what repeats is told now and then."""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

Form = Literal["auto", "human", "json"]
#: of lines that differ in their numbers only, so many in so many seconds
_MOST, _WITHIN_S = 5, 10.0
_KNOWN = 500
_NUMBERS = re.compile(r"[0-9][0-9.,:/]*")


@dataclass(slots=True)
class Repeats:
    """Which lines to tell. A line is the same as another when only numbers differ."""

    clock: Callable[[], float] = time.monotonic
    #: line -> when it was told lately, and how many were not
    _known: OrderedDict[str, tuple[list[float], int]] = field(default_factory=OrderedDict)

    def held_back(self, message: str) -> int | None:
        """None: do not tell it. Else how many like it were not told since the last one."""
        now, like = self.clock(), _NUMBERS.sub("#", message)
        told, silent = self._known.pop(like, ([], 0))
        told = [t for t in told if t > now - _WITHIN_S]
        tell = len(told) < _MOST
        self._known[like] = ([*told, now], 0) if tell else (told, silent + 1)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return silent if tell else None


def as_json(component: str, message: str, facts: Mapping[str, object], level: str = "info") -> str:
    """One line. The keys at, level, component and event are always there."""
    head = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "component": component,
        "event": message,
    }
    more = {name if name not in head else f"{name}_": value for name, value in facts.items()}
    return json.dumps({**head, **more}, ensure_ascii=False, default=str)
