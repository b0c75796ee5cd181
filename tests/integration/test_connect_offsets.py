"""Offsets of a connector that never had a task.

Connect refuses to remove them for good where it was told twice to stop the connector: a stop asks for fencing, and
for fencing it wants the generation of task configurations, of which there is none (Kafka 4.3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from psycopg import conninfo

from connectors.debezium.connect import PLUGIN, Connect
from connectors.settings import ConnectEndpoint
from sync.dev.state import Addresses
from tests.support.stack import Own, own_names


@pytest.fixture
def own(stack: Addresses) -> Iterator[Own]:
    with own_names(stack) as own:
        yield own


@pytest.fixture
def rest(own: Own) -> Iterator[Connect]:
    with Connect(ConnectEndpoint(url=own.addresses.connect_url, connector=own.name)) as rest:
        yield rest


@pytest.fixture
def config(own: Own) -> dict[str, str]:
    at = conninfo.conninfo_to_dict(own.addresses.postgres_dsn)
    return {
        "connector.class": PLUGIN,
        "tasks.max": "1",
        "plugin.name": "pgoutput",
        "database.hostname": str(at["host"]),
        "database.port": str(at["port"]),
        "database.user": str(at["user"]),
        "database.password": "",
        "database.dbname": own.name,
        "topic.prefix": own.name,
        "slot.name": own.name,
        "snapshot.mode": "no_data",
    }


def test_offsets_of_a_connector_that_is_not_there_are_removed_any_number_of_times(
    rest: Connect, config: dict[str, str]
) -> None:
    for _ in range(3):
        rest.drop(config)
        assert rest.state().connector == "ABSENT"


def test_a_connector_is_removed_before_it_has_a_task(rest: Connect, config: dict[str, str]) -> None:
    for _ in range(3):
        rest.put(config)
        rest.drop()
        assert rest.state().connector == "ABSENT"


def test_a_removal_that_was_killed_at_any_request_is_finished_by_the_next(
    rest: Connect, config: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, left = rest.call, 0

    def killed(method: str, path: str, body: object = None) -> object:
        nonlocal left
        if method != "GET":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return call(method, path, body)

    monkeypatch.setattr(rest, "call", killed)
    for requests in (0, 1, 1, 0, 2):
        left = requests
        with suppress(KeyboardInterrupt):  # what an earlier one did is not done again: it may come to its end
            rest.drop(config)
    left = 1_000
    rest.drop(config)
    assert rest.state().connector == "ABSENT"
