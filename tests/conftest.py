"""Servers for the tests: `--stack=embedded` (default), `containers`, or `external` by the five addresses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from sync.dev.state import Addresses
from tests.support import secrets
from tests.support import stack as servers
from tests.support.stack import Own

settings.register_profile("tandem", deadline=None)  # how long a case takes is the machine's affair
settings.load_profile("tandem")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=("embedded", "containers", "external"),
        default="embedded",
        help="where the servers of the tests come from; external: by POSTGRES_DSN, KAFKA_BOOTSTRAP_SERVERS, "
        "CONNECT_URL, MONGODB_URI and MONGODB_DATABASE",
    )
    parser.addoption(
        "--seed", type=int, default=None, help="of the random tests; each prints the one it used"
    )


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Iterator[Addresses]:
    """A whole stack, one for all tests of the session. Without one the tests that need it fail."""
    with servers.started(pytestconfig.getoption("--stack")) as addresses:
        yield addresses


@pytest.fixture(scope="session", autouse=True)
def _no_password_in_any_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever a test has run: its logs are looked through when all are over."""
    yield
    told = secrets.told(tmp_path_factory.getbasetemp())
    assert not told, f"a password is in these logs: {told}"


@pytest.fixture
def own(stack: Addresses) -> Iterator[Own]:
    """A PostgreSQL database, a MongoDB database and all other names, of this test alone, gone after it."""
    with servers.own_names(stack) as names:
        yield names
