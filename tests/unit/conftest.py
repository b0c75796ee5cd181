"""What unit tests can be told: `pytest tests/unit --thorough --seed N`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        default=False,
        help="many more histories of the write rule, and mutants that few of them show: some ten minutes",
    )
