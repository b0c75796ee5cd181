"""What unit tests can be told: `pytest tests/unit --thorough --seed N`, `--mutant NAME` (`make mutants`)."""

from __future__ import annotations

from contextlib import ExitStack

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        default=False,
        help="many more histories of the write rule, and mutants that few of them show: some ten minutes",
    )
    parser.addoption("--mutant", default=None, help="with this clause broken (tests/support/mutants.py)")


def pytest_configure(config: pytest.Config) -> None:
    if name := config.getoption("--mutant", default=None):
        from tests.support.mutants import broken, named

        stack = ExitStack()
        stack.enter_context(broken(named(name)))  # before any test module imports what it breaks
        config.add_cleanup(stack.close)
