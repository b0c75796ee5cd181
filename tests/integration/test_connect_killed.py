"""Rows of one COPY share an LSN: a restart of Connect in the middle of them must lose none and repeat none."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
from kafka import KafkaConsumer, TopicPartition

from sync import app
from sync.settings import read
from tests.support import stack as servers

ROWS = 5_000
TWO_TO_A_PAGE = "x" * 3_900  # and so two to an LSN: half of all restarts find one of the two sent


def quiet(*_: object, **__: object) -> None:
    """No log."""


def test_connect_killed_in_the_middle_of_a_copy_loses_and_repeats_nothing(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("version: 1\ncollections:\n  rows: {from: public.rows}\n")
    with servers.embedded() as stack:
        addresses = stack.up()
        with psycopg.connect(addresses.postgres_dsn, autocommit=True) as session:
            session.execute("CREATE TABLE rows (id bigint PRIMARY KEY, v text)")
            session.execute("ALTER TABLE rows ALTER v SET STORAGE PLAIN")
            settings = read(mapping=mapping, environ=addresses.environ())
            app.setup(settings, quiet)
            with closing(_Reader(addresses.kafka_bootstrap_servers, settings.kafka.topic_prefix)) as reader:
                for number, kill_after in enumerate((500, 1_500, 3_000)):
                    low = number * 100_000
                    with session.cursor() as cursor, cursor.copy("COPY rows FROM STDIN") as copy:
                        for row in range(ROWS):
                            copy.write_row((low + row, TWO_TO_A_PAGE))
                    reader.read(lambda low=low, n=kill_after: reader.count(low) >= n, within=60)
                    stack.kill("connect")
                    stack.start("connect")
                    session.execute("INSERT INTO rows VALUES (%s, 'behind')", [low + ROWS])
                    reader.read(lambda low=low: low + ROWS in reader.seen, within=90)
                    reader.read(lambda low=low: reader.count(low) == ROWS + 1, within=10)
                    assert reader.count(low) == ROWS + 1, (
                        f"round {number}: {ROWS + 1 - reader.count(low)} rows lost"
                    )
                assert not [row for row, times in reader.seen.items() if times > 1]


class _Reader:
    """Committed records of the table's topic."""

    def __init__(self, bootstrap_servers: str, prefix: str) -> None:
        self.seen: Counter[int] = Counter()
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metrics_enabled=False,
        )
        self._consumer.assign([TopicPartition(f"{prefix}.public.rows", n) for n in range(4)])
        self._consumer.seek_to_beginning()

    def read(self, enough: Callable[[], bool], within: float) -> None:
        end = time.monotonic() + within
        while time.monotonic() < end and not enough():
            for records in self._consumer.poll(timeout_ms=200, max_records=5_000).values():
                self.seen.update(json.loads(r.value)["after"]["id"] for r in records if r.value)

    def count(self, low: int) -> int:
        return sum(low <= row <= low + ROWS for row in self.seen)

    def close(self) -> None:
        self._consumer.close(autocommit=False)
