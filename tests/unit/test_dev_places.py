"""Homes, ports and notes of the embedded stack."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from connectors.errors import SettingsInvalid, StackFailed
from sync.dev.places import (
    PORT_RANGE,
    Home,
    Ports,
    Remembered,
    default_cache,
    default_home,
    home_at,
    locked,
    pick_ports,
    port_is_free,
    repick,
)

PORTS = Ports(postgres=15001, kafka=15002, controller=15003, connect=15004, mongo=15005)


def all_free(port: int) -> bool:
    return True


@pytest.mark.parametrize("seed", range(5))
def test_picked_ports_are_five_different_free_ones(seed: int) -> None:
    ports = pick_ports(lambda port: port % 2 == 0, random.Random(seed))
    numbers = list(vars(ports).values())
    assert len(set(numbers)) == 5
    assert all(n % 2 == 0 and n in PORT_RANGE for n in numbers)


def test_without_five_free_ports_it_says_so() -> None:
    with pytest.raises(StackFailed, match="no five free ports"):
        pick_ports(lambda port: port < PORT_RANGE.start + 4, random.Random(1))


def test_repicking_changes_the_taken_ports_only() -> None:
    new = repick(PORTS, ["kafka"], all_free, random.Random(1))
    assert new.kafka not in vars(PORTS).values()
    assert Ports(**{**vars(new), "kafka": PORTS.kafka}) == PORTS


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)


def test_a_port_that_is_taken_on_all_addresses_is_not_free() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not port_is_free(server.getsockname()[1])


def test_what_is_remembered_is_read_back(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.remembered() is None
    home.remember(Remembered(PORTS, tmp_path / "postgres"))
    assert home.remembered() == Remembered(PORTS, tmp_path / "postgres")
    assert [p.name for p in tmp_path.iterdir()] == ["stack.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"ports": 1, "pgdata": "/x"}', '{"ports": {"kafka": 1}}']
)
def test_a_damaged_note_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    with pytest.raises(StackFailed, match=r"stack\.json cannot be read"):
        Home(tmp_path).remembered()


@pytest.mark.parametrize("path", ["/", "/srv/a,b", "/srv/a:b", "/srv/a\nb", "~nobody-of-that-name/x"])
def test_a_home_that_the_servers_cannot_take_is_refused(path: str) -> None:
    with pytest.raises(SettingsInvalid):
        home_at(path)


def test_two_names_of_a_folder_are_one_home(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert home_at(tmp_path / "link") == home_at(tmp_path / "real")


def test_the_environment_names_home_and_cache() -> None:
    assert default_home({"TANDEM_HOME": "/srv/x"}) == Path("/srv/x")
    assert default_home({}) == Path("~/.tandem")
    assert default_cache({"TANDEM_CACHE": "/srv/c"}) == Path("/srv/c")
    assert default_cache({"TANDEM_CACHE": ""}) == Path("~/.cache/tandem")


def test_a_lock_can_be_taken_again_after_its_file_was_removed(tmp_path: Path) -> None:
    lock = tmp_path / "home" / ".lock"
    with locked(lock):
        lock.unlink()
        lock.parent.rmdir()
    with locked(lock):
        assert lock.exists()
