"""What contract tests can be told: `pytest tests/contract --mongodb-uri=URI --slow`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mongodb-uri", default=None, help="this MongoDB in place of the stack's, for contract tests"
    )
    parser.addoption(
        "--slow", action="store_true", default=False, help="contract tests that take a minute too"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: waits for a limit of the server; runs with --slow only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow", default=False):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session")
def mongodb_uri(request: pytest.FixtureRequest) -> str:
    """The server under test: the one of the option, else the stack's."""
    given: str | None = request.config.getoption("--mongodb-uri", default=None)
    return given or str(request.getfixturevalue("stack").mongodb_uri)
