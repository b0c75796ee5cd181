"""Waiting for a condition."""

from __future__ import annotations

import pytest

from tests.support.until import until


def test_returns_the_first_truthy_value() -> None:
    values = iter([0, "", None, 7, 8])
    assert until(lambda: next(values), within=5, every=0.001) == 7


def test_fails_with_the_last_value() -> None:
    values = iter(range(-1_000_000, 0))
    with pytest.raises(AssertionError, match=r"not within 0.02 s; last seen: \[\]"):
        until(lambda: [] if next(values) else None, within=0.02, every=0.005)


def test_asks_at_least_once_and_once_more_at_the_end() -> None:
    assert until(lambda: "at once", within=0) == "at once"
    asked: list[int] = []
    assert until(lambda: asked.append(1) or len(asked) > 1, within=0.02, every=60)  # type: ignore[func-returns-value]


def test_exceptions_pass_through() -> None:
    with pytest.raises(ZeroDivisionError):
        until(lambda: 1 // 0)
