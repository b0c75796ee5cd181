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
#: not those within a name, as in orders_2024
_NUMBERS = re.compile(r"\b[0-9][0-9.,:/]*")


#: of the facts of a line those that say what it is about
_ABOUT = ("table", "collection", "partition")


@dataclass(slots=True)
class _Seen:
    """A kind of line. told: when it was, lately. silent: how many were not since."""

    message: str
    told: list[float]
    silent: int = 0


@dataclass(slots=True)
class Repeats:
    """Which lines to tell. A line is the same as another when they are about the same, and only numbers differ that
    stand for themselves."""

    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[str, _Seen] = field(default_factory=OrderedDict)

    def tells(self, message: str, facts: Mapping[str, object]) -> bool:
        """Whether to tell this one."""
        now = self.clock()
        about = [str(facts[name]) for name in _ABOUT if name in facts]
        like = "|".join([_NUMBERS.sub("#", message), *about])
        seen = self._known.pop(like, None) or _Seen(message, [])
        seen.told = [t for t in seen.told if t > now - _WITHIN_S]
        self._known[like] = seen
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        if len(seen.told) >= _MOST:
            seen.silent += 1
            seen.message = message
            return False
        seen.told.append(now)
        return True

    def left_out(self, *, at_the_end: bool = False) -> list[tuple[str, int]]:
        """What was not told of kinds that have been silent long enough to be told again, or of all: the last line of
        each, and how many there were."""
        now = self.clock()
        due = [
            seen
            for seen in self._known.values()
            if seen.silent and (at_the_end or seen.told[0] <= now - _WITHIN_S)
        ]
        found = [(seen.message, seen.silent) for seen in due]
        for seen in due:
            seen.silent = 0
        return found


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
