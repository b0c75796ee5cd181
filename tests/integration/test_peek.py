"""The first record at an offset, on the real broker: again on the same connection, behind markers, and held by an open
transaction. And clients that cannot be made leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer

from connectors.events import Record
from connectors.kafka.admin import Admin
from connectors.kafka.peek import Nothing, Peek
from connectors.positions import Partition
from connectors.settings import KafkaEndpoint
from sync.dev.state import Addresses


@pytest.fixture
def endpoint(stack: Addresses) -> KafkaEndpoint:
    return KafkaEndpoint(bootstrap_servers=stack.kafka_bootstrap_servers)


@pytest.fixture
def topic(endpoint: KafkaEndpoint) -> Iterator[str]:
    name = f"peek_{uuid.uuid4().hex[:8]}"
    with Admin(endpoint) as admin:
        admin.create(name, 2, {})
        yield name
        admin.delete([name])


def test_first_records_at_offsets(endpoint: KafkaEndpoint, topic: str) -> None:
    one, two = Partition(topic, 0), Partition(topic, 1)
    producer = KafkaProducer(
        bootstrap_servers=endpoint.bootstrap_servers, transactional_id=topic, transaction_timeout_ms=60_000
    )
    producer.init_transactions()
    with closing(Peek(endpoint, timeout_ms=5_000)) as peek, Admin(endpoint) as admin:

        def firsts(offsets: dict[Partition, int]) -> dict[Partition, bytes | Nothing | None]:
            found = peek.firsts(offsets, admin.ends([one, two]))
            return {p: r.value if isinstance(r, Record) else r for p, r in found.items()}

        producer.begin_transaction()
        for n in range(3):
            producer.send(topic, value=b"one%d" % n, partition=0)
        producer.send(topic, value=b"two", partition=1)
        producer.commit_transaction()
        assert firsts({one: 0, two: 0}) == {one: b"one0", two: b"two"}
        assert firsts({one: 1, two: 0}) == {one: b"one1", two: b"two"}  # again, on what was paused before
        assert firsts({one: 2}) == {one: b"one2"}
        assert firsts({one: 3, two: 1}) == {one: Nothing.MARKERS, two: Nothing.MARKERS}
        producer.begin_transaction()
        producer.send(topic, value=b"open", partition=0).get(10)
        assert firsts({one: 3, two: 0}) == {one: Nothing.OPEN, two: b"two"}
        producer.commit_transaction()
        assert firsts({one: 3}) == {one: b"open"}
    producer.close()


HELD = """
import gc, os, threading
from connectors.errors import ServerGone
from connectors.kafka.admin import Admin
from connectors.kafka.peek import Peek
from connectors.settings import KafkaEndpoint

def fail():
    for kind in (Admin, Peek):
        try:
            kind(KafkaEndpoint(bootstrap_servers="127.0.0.1:1"), timeout_ms=100)
        except ServerGone:
            continue
        raise SystemExit("it was made")
    gc.collect()
    print(threading.active_count(), len(os.listdir("/proc/self/fd")))

for _ in range(6):
    fail()
"""


def test_clients_that_find_no_broker_leave_no_threads_and_no_files() -> None:
    # apart, as kafka-python leaves sockets that were refused to the garbage collector, which warns of them
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HELD],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    held = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(held) == 6
    assert held[-1][0] <= held[0][0]
    assert held[-1][1] <= held[0][1] + 2
