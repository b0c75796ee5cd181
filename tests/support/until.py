"""Waiting for a condition, instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], within: float = 10.0, every: float = 0.05) -> T:
    """The first truthy value of the condition. Fails with the last value it saw; its exceptions pass through.

    It is asked once more after the time is over, so a stalled machine does not fail what has come true.
    """
    end = time.monotonic() + within
    while True:
        late = time.monotonic() >= end
        seen = condition()
        if seen:
            return seen
        if late:
            raise AssertionError(f"not within {within:g} s; last seen: {seen!r}")
        time.sleep(min(every, max(0.0, end - time.monotonic())))
