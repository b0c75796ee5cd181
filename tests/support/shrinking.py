"""A failing case made shorter: parts are left out as long as it still fails (delta debugging, Zeller 1999)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def smallest(items: Sequence[T], fails: Callable[[Sequence[T]], bool], within_s: float) -> list[T]:
    """Few of these items, in their order, with which it still fails. It failed with all of them; when it does so no
    more (chance was not all in the seed), or time is over, what is known by then."""
    until = time.monotonic() + within_s
    kept, parts = list(items), 2
    while kept and time.monotonic() < until:
        size = max(1, len(kept) // parts)
        for start in range(0, len(kept), size):
            some = kept[:start] + kept[start + size :]
            if fails(some):
                kept, parts = some, max(2, parts - 1)
                break
            if time.monotonic() > until:
                return kept
        else:
            if size == 1:
                break
            parts = min(len(kept), parts * 2)
    return kept
