"""From the commit in PostgreSQL to the acknowledged write in MongoDB, at steady rates: `make bench-latency`, or
`python -m tests.benchmarks.latency --rates 500 2000 --seconds 30`.

p50, p90 and p99 of all change events, and where the time goes: until the record is in Kafka (its own time stamp), and
from there to the acknowledged write. Never pass or fail; docs/performance.md keeps the figures.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Sequence

import psutil
from kafka import KafkaConsumer, TopicPartition

from connectors.debezium.envelope import committed_ms
from connectors.events import Record
from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.positions import Partition
from sync import app
from sync.dev.writer import Writer
from sync.settings import Settings, read
from tests.benchmarks.main_job import quiet
from tests.support import stack as servers
from tests.support.acp import load_acp
from tests.support.tandem import ACP_MAPPING


class Noted:
    """An `Observer` that keeps every latency."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.batches: list[tuple[int, float]] = []

    def applied(self, events: Sequence[tuple[str, int]], seconds: float) -> None:
        now = time.time_ns() / 1e6
        self.seconds += [max(0.0, now - commit_ms) / 1e3 for _, commit_ms in events]
        self.batches.append((len(events), seconds))


class Kafka(threading.Thread):
    """Reads the topics beside the consumers: how old each record was when the connector sent it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        db = mongo.connect(settings.target)
        partitions = [TopicPartition(*p) for p in ledger.positions(db)]
        db.client.close()
        self.seconds: list[float] = []
        self.done = threading.Event()
        self._consumer = KafkaConsumer(
            bootstrap_servers=settings.kafka.bootstrap_servers,
            enable_auto_commit=False,
            metrics_enabled=False,
        )
        self._consumer.assign(partitions)
        self._consumer.seek_to_end()
        for tp in partitions:
            self._consumer.position(tp)

    def run(self) -> None:
        while not self.done.is_set():
            for tp, records in self._consumer.poll(timeout_ms=200).items():
                for r in records:
                    if r.value:
                        home = Partition(tp.topic, tp.partition)
                        sent = Record(home, r.offset, r.key, r.value, r.timestamp)
                        self.seconds.append(max(0, r.timestamp - committed_ms(sent)) / 1e3)
        self._consumer.close(autocommit=False)


def at(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def told(values: Sequence[float]) -> str:
    return "  ".join(f"p{p} {at(values, p / 100) * 1_000:,.0f} ms" for p in (50, 90, 99))


def measure(settings: Settings, rate: float, seconds: float, sessions: int, seed: int) -> None:
    """One rate, on a pipeline that has caught up. One consumer, in this process."""
    noted, stop = Noted(), threading.Event()
    consumers = app.Consumers(settings, quiet)
    consumers.counted = noted  # type: ignore[assignment]
    noted.take = lambda *_, **__: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=consumers.run, args=(stop.is_set,), daemon=True)
    thread.start()
    app.wait_for(settings, "now", 60)
    kafka = Kafka(settings)
    kafka.start()
    writer = Writer(settings.source, seed=seed, sessions=sessions, rate=rate).start()
    time.sleep(5)  # until it is steady
    for values in (noted.seconds, noted.batches, kafka.seconds):
        values.clear()
    before, began = writer.counts.total, time.monotonic()
    psutil.cpu_percent()
    time.sleep(seconds)
    busy = psutil.cpu_percent()
    written = (writer.counts.total - before) / (time.monotonic() - began)
    whole, sent, batches = list(noted.seconds), list(kafka.seconds), list(noted.batches)
    writer.stop()
    app.wait_for(settings, "now", 120)
    stop.set()
    thread.join(60)
    kafka.done.set()
    kafka.join(10)
    sizes = [n for n, _ in batches]
    print(
        f"asked {rate:,.0f}/s, written {written:,.0f} row changes/s, {len(whole):,} events, CPU {busy:.0f} %"
    )
    print(f"  commit to acknowledged write  {told(whole)}")
    print(f"  commit to record in Kafka     {told(sent)}")
    print(
        f"  one batch                     {told([s for _, s in batches])}  (p50 {at(sizes, 0.5):.0f} events)",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[500, 2_000])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--sessions", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with servers.started("embedded") as addresses, servers.own_names(addresses) as own:
        load_acp(own.addresses.postgres_dsn, users=options.users)
        settings = read(mapping=ACP_MAPPING, environ={**os.environ, **own.environ()})
        app.snapshot(settings, quiet)
        for rate in options.rates:
            measure(settings, rate, options.seconds, options.sessions, options.seed)


if __name__ == "__main__":
    main()
