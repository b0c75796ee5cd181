"""Command lines and configuration texts of the embedded stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from sync.dev import components
from sync.dev.components import Component, Layout
from sync.dev.places import Home, Ports


@pytest.fixture
def layout() -> Layout:
    home = Home(Path("/srv/a stack"))
    ports = Ports(postgres=15001, kafka=15002, controller=15003, connect=15004, mongo=15005)
    return Layout(
        home, ports, home.pgdata, Path("/pg/bin"), "/usr/bin/java", Path("/cache/kafka"), "/venv/python"
    )


def properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


@pytest.mark.parametrize("component", Component)
def test_each_command_line_is_this_homes_alone(component: Component, layout: Layout) -> None:
    other = Layout(**{**layout.__dict__, "home": Home(Path("/srv/b")), "pgdata": Path("/srv/b/postgres")})
    assert components.command(component, layout) != components.command(component, other)


def test_every_listener_is_on_the_loopback_address(layout: Layout) -> None:
    assert properties(components.kafka_properties(layout, layout.home.kafka))["listeners"] == (
        "PLAINTEXT://127.0.0.1:15002,CONTROLLER://127.0.0.1:15003"
    )
    assert properties(components.connect_properties(layout))["listeners"] == "http://127.0.0.1:15004"
    assert "listen_addresses = '127.0.0.1'" in components.postgresql_conf()
    mongo = components.command(Component.MONGO, layout)
    assert mongo[mongo.index("--host") + 1] == "127.0.0.1"


def test_connect_supports_exactly_once_and_mongo_syncs_each_commit(layout: Layout) -> None:
    assert properties(components.connect_properties(layout))["exactly.once.source.support"] == "enabled"
    assert "--sync-on-commit" in components.command(Component.MONGO, layout)


def test_postgres_is_ready_for_logical_replication() -> None:
    assert "wal_level = logical" in components.postgresql_conf()
    assert "fsync = off" not in components.postgresql_conf()


def test_a_formatted_kafka_folder_is_the_one_that_is_served(layout: Layout) -> None:
    made = properties(components.kafka_properties(layout, Path("/srv/a stack/kafka.partial")))
    served = properties(components.configuration(layout)["kafka.properties"])
    assert made.pop("log.dirs") == "/srv/a stack/kafka.partial"
    assert served.pop("log.dirs") == "/srv/a stack/kafka"
    assert made == served


def test_all_that_connect_writes_to_is_ended_after_it() -> None:
    assert set(components.STOP_ORDER) == set(Component)
    assert components.STOP_ORDER[0] is Component.CONNECT
