"""Live control on real servers: what is asked reaches running processes within a second, and nothing is lost by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from pymongo import MongoClient

from tests.support.operator import Operator
from tests.support.stack import Own
from tests.support.tandem import Process
from tests.support.until import until

#: "within a second", and what the command itself takes to print after it has asked
REACHED_S = 1.5


@pytest.fixture
def operator(own: Own, tmp_path: Path) -> Operator:
    return Operator(own, tmp_path)


@pytest.fixture
def consumer(operator: Operator) -> Iterator[Process]:
    operator.ready()
    with operator.running() as process:
        yield process
        assert process.terminate() == 0, process.text()


def names(operator: Operator, mark: str) -> int:
    return sum(mark in d["name"] for d in operator.documents("people"))


def test_paused_consumers_write_nothing_and_go_on_where_they_were(
    operator: Operator, consumer: Process
) -> None:
    assert operator.tandem.json("pause", "consumers")["paused"] == ["consumers"]
    until(lambda: "paused" in consumer.text(), within=REACHED_S)
    operator.execute("UPDATE people SET name = name || ' late'")
    waiting = operator.refused("wait-for", "now", "--timeout", "3")
    assert waiting["error"] == "NotComplete"
    assert names(operator, "late") == 0
    part = operator.status()["control"]
    assert part["ok"] is False
    assert "paused: consumers" in part["what"]
    assert "tandem resume" in part["remedy"]
    operator.tandem.run("resume")
    until(lambda: "resumed" in consumer.text(), within=REACHED_S)
    operator.tandem.run("wait-for", "now", "--timeout", "30")
    assert names(operator, "late") == 100
    operator.agrees()


def test_a_consumer_that_starts_paused_waits_and_a_rebalance_changes_nothing(operator: Operator) -> None:
    operator.ready()
    operator.tandem.run("pause")
    operator.execute("UPDATE people SET name = name || ' late'")
    with operator.running() as one:
        until(lambda: "paused" in one.text(), within=20)
        with operator.running() as two:
            until(lambda: "paused" in two.text(), within=20)
            time.sleep(6)  # partitions move to the second
            assert names(operator, "late") == 0
            operator.tandem.run("resume")
            operator.agrees()
            assert names(operator, "late") == 100
            assert (one.terminate(), two.terminate()) == (0, 0), one.text() + two.text()


def test_throttled_consumers_keep_to_the_rate(operator: Operator, consumer: Process) -> None:
    operator.tandem.run("throttle", "--max-ops", "20")
    time.sleep(1)
    operator.execute("UPDATE people SET name = name || ' slow'")
    began = time.monotonic()
    until(lambda: names(operator, "slow") > 0, within=10)
    time.sleep(1)
    assert names(operator, "slow") < 80
    until(lambda: names(operator, "slow") == 100, within=20)
    assert time.monotonic() - began > 3  # 100 rows at 20 a second, and what was saved up
    assert operator.tandem.json("throttle", "--off")["max_ops"] is None


def loaded(operator: Operator) -> int:
    with MongoClient[dict[str, Any]](operator.own.addresses.mongodb_uri) as client:
        return client[operator.own.addresses.mongodb_database]["people"].count_documents({})


def big(operator: Operator, rows: int) -> None:
    operator.execute(
        f"INSERT INTO people SELECT n, 'name ' || n, NULL FROM generate_series(1001, {1000 + rows}) n"
    )


def test_a_running_load_is_paused_throttled_and_resumed(operator: Operator) -> None:
    big(operator, 6_000)
    operator.tandem.run("setup")
    operator.tandem.run("throttle", "--max-ops", "600")
    with operator.under(TANDEM_LIMITS__LOAD_ROWS="100").started("snapshot") as load:
        until(lambda: loaded(operator) > 300, within=60)
        operator.tandem.run("pause", "snapshot")
        time.sleep(REACHED_S)
        there = loaded(operator)
        time.sleep(3)
        assert loaded(operator) == there < 6_000
        status = operator.status()
        assert "paused" in status["snapshot"]["what"], status
        operator.tandem.run("resume")
        operator.tandem.run("throttle", "--off")
        until(lambda: not load.alive, within=90)
        assert load.child.returncode == 0, load.text()
    operator.tandem.run("run", "--until-caught-up")
    report = operator.tandem.json("verify")
    assert report["ok"], report


def test_a_load_gives_way_to_a_slow_server_and_comes_to_its_end(operator: Operator) -> None:
    big(operator, 15_000)
    operator.tandem.run("setup")
    slow = operator.under(TANDEM_LIMITS__SLOW_TARGET_MS="0.001", TANDEM_LIMITS__LOAD_ROWS="500")
    with slow.started("snapshot", "--metrics", "0") as load:
        until(lambda: "the load goes slowly: MongoDB answers in" in load.text(), within=60)
        until(
            lambda: "MongoDB answers in" in operator.status().get("snapshot", {}).get("what", ""), within=20
        )
        until(lambda: not load.alive, within=120)
        assert load.child.returncode == 0, load.text()
    assert loaded(operator) == 15_100


def test_a_load_waits_for_the_stream(operator: Operator) -> None:
    """People stream; the load of another table waits while nobody applies what they do."""
    operator.ready()
    operator.map(
        "version: 1\ncollections:\n  people: {from: public.people, embed: {notes: {from: public.notes, foreign_key:"
        " person}}}\n  more: {from: public.more}\n"
    )
    operator.execute("CREATE TABLE more AS SELECT n AS id, 'x' AS v FROM generate_series(1, 2000) n")
    operator.execute("ALTER TABLE more ADD PRIMARY KEY (id)")
    operator.tandem.run("setup")
    operator.tandem.run("throttle", "--max-lag", "2")
    operator.execute("UPDATE people SET name = name || ' unread'")
    time.sleep(4)  # no consumer runs
    with operator.under(TANDEM_LIMITS__LOAD_ROWS="100").started("snapshot") as load:
        until(lambda: "the stream is" in load.text(), within=30)
        assert load.alive
        with operator.running() as consumer:
            until(lambda: "at full speed again" in load.text() or not load.alive, within=60)
            until(lambda: not load.alive, within=60)
            assert load.child.returncode == 0, load.text()
            operator.agrees()
            assert consumer.terminate() == 0, consumer.text()


def test_what_makes_no_sense_is_refused(operator: Operator) -> None:
    assert operator.refused("pause")["error"] == "NotSetUp"
    assert operator.refused("throttle")["error"] == "Misused"
    assert operator.refused("throttle", "--off", "--max-ops", "3")["error"] == "Misused"
    operator.tandem.run("setup")
    told = operator.refused("pause", "everything")
    assert (told["error"], told["exit"]) == ("Misused", 2)
    assert "consumers or snapshot" in told["remedy"]


def test_a_failed_connector_is_restarted_and_told(operator: Operator, consumer: Process) -> None:
    """Its topic takes no record for a while: that is nothing which Debezium itself would try again."""
    connector = f"{operator.own.addresses.connect_url}/connectors/{operator.own.name}"

    def state() -> list[str]:
        return [t["state"] for t in httpx.get(f"{connector}/status", timeout=30).json()["tasks"]]

    def takes(most: int) -> None:
        admin = KafkaAdminClient(bootstrap_servers=operator.own.addresses.kafka_bootstrap_servers)
        topic = f"{operator.own.name}.public.people"
        wanted = {"max.message.bytes": str(most)}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=wanted)])
        admin.close()

    takes(90)
    operator.execute("UPDATE people SET name = name || ' a' WHERE id < 10")
    # Kafka may hold what its last transaction has left open against it, for a minute
    until(lambda: "the connector has failed: restarting it" in consumer.text(), within=100)
    assert "RecordTooLarge" in consumer.text()
    takes(16 << 20)
    status = operator.tandem.json("status", check=False)
    assert status["connector_restarts"] >= 1
    operator.tandem.run("wait-for", "now", "--timeout", "150", timeout_s=160)
    assert state() == ["RUNNING"]
    assert names(operator, " a") == 9
    operator.agrees()
