"""Times in words. Pure."""

from __future__ import annotations

_STEPS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def told_seconds(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 d`: for people."""
    for size, unit in _STEPS:
        if seconds >= 2 * size:
            value = seconds / size
            return f"{value:.0f} {unit}" if unit == "min" or value >= 10 else f"{value:.1f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
