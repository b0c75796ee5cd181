"""The embedded stack, started for real."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from connectors.errors import StackFailed
from sync.dev.components import Component
from sync.dev.processes import Record
from sync.dev.stack import Stack
from sync.dev.state import Condition
from tests.support.stack import Own, embedded
from tests.support.until import until


@pytest.fixture(scope="module")
def home() -> Iterator[Stack]:
    """A stack of this module's own, as its tests kill and stop what others would be using."""
    with embedded() as stack:
        yield stack


@pytest.fixture
def running(home: Stack) -> Stack:
    home.up()
    return home


def dev(stack: Stack, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command, *rest = arguments
    return subprocess.run(
        [Path(sys.executable).with_name("tandem"), "dev", command, "--home", stack.home.root, *rest],
        input=stdin,
        capture_output=True,
        text=True,
    )


def pids(stack: Stack) -> dict[str, int | None]:
    return {c.component.value: c.pid for c in stack.status().components}


def test_up_twice_starts_nothing_new(running: Stack) -> None:
    before = pids(running)
    assert running.up() == running.addresses()
    assert pids(running) == before


@pytest.mark.parametrize("component", Component)
def test_a_killed_component_is_named_and_started_again(running: Stack, component: Component) -> None:
    before = pids(running)
    running.kill(component)
    status = running.status()
    assert status.not_running == [f"{component} is killed"]
    assert not status.ok
    with pytest.raises(StackFailed, match=f"{component} is killed"):
        running.addresses()
    running.up()
    after = pids(running)
    assert {name for name in before if before[name] != after[name]} == {component.value}


def test_status_tells_scripts_what_is_wrong(running: Stack) -> None:
    assert dev(running, "status").returncode == 0
    running.kill("mongo")
    told = dev(running, "status", "--json")
    assert told.returncode == 1
    states = {c["component"]: c["condition"] for c in json.loads(told.stdout)["components"]}
    assert states == {"postgres": "running", "kafka": "running", "connect": "running", "mongo": "killed"}


def test_a_component_whose_record_was_lost_is_taken_up_again(running: Stack) -> None:
    before = pids(running)
    running.home.record("kafka").unlink()
    assert running.status().not_running == ["kafka is stopped"]
    running.up()
    assert pids(running) == before


def test_down_ends_only_its_own_processes(running: Stack, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        # As after a restart of the machine: the recorded pid is somebody else's by now.
        record = Record.load(running.home.record("mongo"))
        assert record is not None
        Record(stranger.pid, record.born, ready=True).save(running.home.record("mongo"))
        running.down()
        assert stranger.poll() is None
        stranger.kill()
    record.save(running.home.record("mongo"))
    running.down()
    assert not record.alive


def test_down_keeps_the_data_and_the_ports(running: Stack) -> None:
    addresses = running.addresses()
    with psycopg.connect(addresses.postgres_dsn, autocommit=True) as session:
        session.execute("DROP TABLE IF EXISTS kept")
        session.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert running.down() == []
    assert {c.condition for c in running.status().components} == {Condition.STOPPED}
    assert running.up() == addresses
    with psycopg.connect(addresses.postgres_dsn) as session:
        assert session.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_taken_port_is_named_and_can_be_changed(running: Stack) -> None:
    running.stop("kafka")
    remembered = running.home.remembered()
    assert remembered is not None
    before, port = remembered.ports, remembered.ports.kafka
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(StackFailed, match=f"port {port}, which kafka") as raised:
            running.up()
        assert raised.value.facts["component"] == "kafka"
        assert str(os.getpid()) in str(raised.value.facts["taken_by"])
        assert "--repick-ports" in raised.value.remedy
        addresses = running.up(repick_ports=True)
    assert not addresses.kafka_bootstrap_servers.endswith(f":{port}")
    assert running.status().up
    with psycopg.connect(addresses.postgres_dsn) as session:
        assert session.info.port == before.postgres


def test_the_addresses_can_be_evaluated_by_sh(running: Stack) -> None:
    script = 'eval "$1"; for n in $2; do eval "printf \'%s\\n\' \\"\\$$n\\""; done'
    wanted = running.addresses().environ()
    told = dev(running, "env")
    shell = ["sh", "-c", script, "sh", told.stdout, " ".join(wanted)]
    assert subprocess.run(shell, capture_output=True, text=True).stdout.splitlines() == list(wanted.values())


def test_without_a_stack_env_says_what_to_do(tmp_path: Path) -> None:
    told = dev(Stack(tmp_path), "env")
    assert told.returncode == 1
    assert told.stdout == ""
    assert f"tandem dev up --home {tmp_path}" in told.stderr


def test_psql_gets_its_arguments_and_input_and_gives_its_exit_code(running: Stack, tmp_path: Path) -> None:
    file = tmp_path / "file.sql"
    file.write_text("\\if :on\nSELECT current_database(), :users;\n\\endif\n")
    told = dev(running, "psql", "-tA", "-v", "users=200", "-v", "on=1", "-f", str(file))
    assert (told.stdout, told.returncode) == ("acp|200\n", 0)
    assert dev(running, "psql", "-tAc", "SELECT 1+1").stdout == "2\n"
    assert dev(running, "psql", "-tA", stdin="SELECT 6*7;").stdout == "42\n"
    assert dev(running, "psql", "-v", "ON_ERROR_STOP=1", stdin="SELECT 1/0;").returncode == 3
    assert dev(running, "psql", "-tAc", "SELECT current_database()", "postgres").stdout == "postgres\n"


def test_the_stack_has_vectors_logical_wal_and_exactly_once_sources(running: Stack) -> None:
    with psycopg.connect(running.addresses().postgres_dsn, autocommit=True) as session:
        session.execute("CREATE EXTENSION IF NOT EXISTS vector")
        assert session.execute("SELECT '[1,2]'::vector <-> '[1,3]'").fetchone() == (1.0,)
        assert session.execute("SHOW wal_level").fetchone() == ("logical",)
    assert "exactly.once.source.support=enabled" in (running.home.conf / "connect.properties").read_text()


def test_two_homes_are_two_stacks_and_purge_leaves_nothing(running: Stack) -> None:
    with embedded() as other:
        other.up()
        first, second = set(running.addresses().environ().values()), set(other.addresses().environ().values())
        assert first & second == {"acp"}
        other.down(purge=True)
        assert not other.home.root.exists()
        assert running.status().up


def test_connect_is_ended_soon_also_when_the_broker_was_killed(running: Stack) -> None:
    running.kill("kafka")
    began = time.monotonic()
    running.stop("connect")
    assert time.monotonic() - began < 15


def test_a_start_that_was_cut_off_is_finished_by_the_next() -> None:
    with embedded() as stack:
        with subprocess.Popen(
            [Path(sys.executable).with_name("tandem"), "dev", "up", "--home", stack.home.root],
            stderr=subprocess.DEVNULL,
        ) as start:
            until(stack.home.record("kafka").exists, within=60)
            start.kill()
        assert not stack.status().up
        with pytest.raises(StackFailed, match=r"is not up: .*kafka is starting"):
            stack.addresses()
        kafka = pids(stack)["kafka"]
        stack.up()
        assert pids(stack)["kafka"] == kafka


def test_a_home_that_others_cannot_enter_will_do_for_root_too(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    stack = Stack(tmp_path / "home")
    try:
        stack.start("postgres")
        program, environ = stack.psql()
        told = subprocess.run(
            [program, "-tAc", "SHOW data_directory"], env=environ, capture_output=True, text=True
        )
        pgdata = Path(told.stdout.strip())
        assert pgdata.is_dir()
    finally:
        stack.down(purge=True)
    assert not pgdata.exists()
    assert not stack.home.root.exists()


def test_a_folder_with_other_things_in_it_is_not_taken_as_a_home(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(StackFailed, match="not empty: log"):
        Stack(tmp_path).up()
    Stack(tmp_path).down(purge=True)
    assert (tmp_path / "log").is_dir()


def test_a_component_that_ends_while_it_starts_shows_its_log(running: Stack) -> None:
    running.stop("postgres")
    conf = running.home.pgdata / "postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + "no_such_setting = 1\n")
    try:
        with pytest.raises(StackFailed, match="postgres ended while it was starting") as raised:
            running.up()
    finally:
        conf.write_text(good)
    assert "no_such_setting" in str(raised.value.facts["last_lines"])
    assert re.search(r"postgres\.log$", str(raised.value.facts["log"]))
    running.up()


def test_each_test_has_databases_of_its_own(own: Own) -> None:
    with psycopg.connect(own.addresses.postgres_dsn, autocommit=True) as session:
        assert session.execute("SELECT current_database()").fetchone() == (own.name,)
        session.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [own.name])
    assert own.environ()["MONGODB_DATABASE"] == own.name
