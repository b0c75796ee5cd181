"""Each component killed under load: lag and health tell the truth within five seconds, an alert would have fired, all
goes on by itself, and nothing is lost."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sync.dev.components import Component
from sync.dev.stack import Stack
from tests.support import alerts
from tests.support.operator import Operator
from tests.support.stack import embedded, own_names
from tests.support.tandem import Process
from tests.support.until import until

#: the truth has to be told by then
IN_TIME_S = 5
OUTAGE_S = 8


@pytest.fixture(scope="module")
def breakable() -> Iterator[Stack]:
    """A stack of this module's own: its servers are killed."""
    with embedded() as stack:
        yield stack


class Watched:
    """`tandem lag --watch --json` and what it said last."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def last(self) -> dict[str, Any]:
        lines = [line for line in self.process.text().splitlines() if line.startswith('{"at": "')]
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return found if "wal_bytes" in found else {}


@contextmanager
def writing(operator: Operator) -> Iterator[None]:
    """Twenty rows a second, whatever happens."""
    done = threading.Event()

    def write() -> None:
        while not done.wait(0.2):
            with suppress(psycopg.Error):
                operator.execute("UPDATE people SET name = name || 'x' WHERE id IN (1, 20, 40, 60)")

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)


def metrics_of(process: Process) -> str:
    found = until(lambda: re.search(r"http://127\.0\.0\.1:\d+/metrics", process.text()), within=30)
    return str(found[0])


TRUTH = {
    Component.MONGO: (
        lambda lag: (
            lag["records"] is None and lag["parked"] is None and "MongoDB" in lag["unknown"]["records"]
        ),
        "MongoDB",
        {"TandemLagUnknown"},
    ),
    Component.POSTGRES: (
        lambda lag: lag["wal_bytes"] is None and "PostgreSQL" in lag["unknown"]["wal_bytes"],
        "PostgreSQL",
        {"TandemLagUnknown"},
    ),
    Component.KAFKA: (
        lambda lag: lag["records"] is None and "Kafka" in lag["unknown"]["records"],
        "Kafka",
        {"TandemLagUnknown"},
    ),
    Component.CONNECT: (
        lambda lag: lag["slot"] is not None and not lag["slot"]["active"],
        "Connect",
        {"TandemNobodyStreams"},
    ),
}


def test_an_outage_of_any_component_is_told_and_got_over(breakable: Stack, tmp_path: Path) -> None:
    with own_names(breakable.up()) as own:
        operator = Operator(own, tmp_path)
        operator.ready()
        with (
            operator.running("--metrics", "0") as consumer,
            operator.tandem.started("lag", "--watch", "--json") as process,
            writing(operator),
        ):
            watched, metrics = Watched(process), metrics_of(consumer)
            for component, (true, part, expected) in TRUTH.items():
                until(lambda: watched.last().get("catch_up", {}).get("state") == "caught_up", within=60)
                waited = consumer.text().count("waiting: ")
                breakable.kill(component)
                killed = time.monotonic()
                until(lambda true=true: watched.last() and true(watched.last()), within=IN_TIME_S)
                health = operator.tandem.json("health", check=False)
                assert not health["ok"]
                (told,) = [p for p in health["components"] if p["name"] == part]
                assert told["ok"] is not True, told
                until(
                    lambda expected=expected: expected <= alerts.firing(alerts.scraped([metrics])), within=20
                )
                if component is not Component.CONNECT:
                    until(lambda told=waited: consumer.text().count("waiting: ") > told, within=40)
                time.sleep(max(0.0, killed + OUTAGE_S - time.monotonic()))
                breakable.start(component)
            until(lambda: watched.last()["catch_up"]["state"] == "caught_up", within=90)
            # a consumer that is gone: its records pile up, and it is said
            consumer.kill()
            until(lambda: (watched.last()["seconds"] or 0) > 2, within=IN_TIME_S)
            until(lambda: not _runs(operator), within=10)
            assert "TandemTargetDown" in alerts.firing(alerts.scraped([metrics]))
        with operator.running() as consumer:
            operator.agrees()
            assert consumer.terminate() == 0, consumer.text()
            assert "Traceback" not in consumer.text()


def test_a_slot_that_has_lost_wal_is_told_with_what_is_missing_and_healed(
    breakable: Stack, tmp_path: Path
) -> None:
    with own_names(breakable.up()) as own:
        operator = Operator(own, tmp_path)
        operator.ready()
        with operator.running() as consumer:
            operator.execute("UPDATE people SET name = name || ' seen'")
            operator.agrees()
            breakable.kill(Component.CONNECT)
            operator.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
            operator.execute("SELECT pg_reload_conf()")
            try:
                operator.execute("UPDATE people SET name = name || ' missed'")
                until(lambda: _lost(operator), within=60)
                until(lambda: not consumer.alive, within=40)
                assert consumer.child.returncode == 1
                breakable.start(Component.CONNECT)
                for command in ("wait-for now --timeout 10", "run", "setup"):
                    told = operator.refused(*command.split())
                    assert (told["error"], told["exit"]) == ("SlotLost", 1)
                    assert "tandem heal" in told["remedy"]
                told = operator.status()["PostgreSQL"]
                assert re.search(r"is lost, .* those after [0-9A-F]+/[0-9A-F]+", told["what"]), told
                assert operator.tandem.json("lag", check=False)["slot"]["wal_status"] == "lost"
            finally:
                operator.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
                operator.execute("SELECT pg_reload_conf()")
        operator.tandem.run("heal", timeout_s=240)
        with operator.running():
            operator.agrees()


def _lost(operator: Operator) -> bool:
    """Write a segment of WAL and let PostgreSQL remove what it need not keep."""
    operator.execute("SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()")
    operator.execute("CHECKPOINT")
    with psycopg.connect(operator.own.addresses.postgres_dsn) as session:
        query = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
        return session.execute(query, [operator.own.name]).fetchone() == ("lost",)


def _runs(operator: Operator) -> bool:
    components = operator.tandem.json("health", check=False)["components"]
    return bool(next(p["ok"] for p in components if p["name"] == "consumers"))
