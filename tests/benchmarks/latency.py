"""From the commit in PostgreSQL to the acknowledged write in MongoDB, at steady rates: `make bench-latency`, or
`python -m tests.benchmarks.latency --rates 500 2000 --seconds 30 --consumers 2`.

p50, p90 and p99 of all change events, and where the time goes: until the record is in Kafka (its own time stamp), and
from there to the acknowledged write; and the CPU that each part of the stack took. Writer and consumers are processes
of their own, as they are in use. Never pass or fail; docs/performance.md keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
from tests.support.stack import Own
from tests.support.tandem import ACP_MAPPING

_SPAWN = multiprocessing.get_context("spawn")
#: until the load is steady
_WARM_S = 5


class _Noted:
    """An `Observer` that writes down each batch: when, how long, and how old each of its events was."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)

    def applied(self, events: Sequence[tuple[str, int]], seconds: float) -> None:
        now = time.time()
        ages = [round(max(0.0, now - commit_ms / 1e3), 3) for _, commit_ms in events]
        self._file.write(json.dumps([now, seconds, ages]) + "\n")

    def take(self, *_: object, **__: object) -> None:
        """What `ConsumerMetrics` is told besides."""


def _read(environ: dict[str, str]) -> Settings:
    return read(mapping=ACP_MAPPING, environ={**os.environ, **environ})


def _consume(environ: dict[str, str], path: Path, stop: Event) -> None:
    consumers = app.Consumers(_read(environ), quiet)
    consumers.counted = _Noted(path)  # type: ignore[assignment]
    consumers.run(stop.is_set)


def _write(environ: dict[str, str], path: Path, stop: Event, rate: float, sessions: int, seed: int) -> None:
    writer = Writer(_read(environ).source, seed=seed, sessions=sessions, rate=rate).start()
    with path.open("w", buffering=1) as file:
        while not stop.wait(0.25):
            file.write(json.dumps([time.time(), writer.counts.total]) + "\n")
    writer.stop()


@contextmanager
def _process(target: Any, *arguments: object) -> Iterator[psutil.Process]:
    """A process of its own, ended when the block is left. It gets an event to be told by, as the third argument."""
    stop = _SPAWN.Event()
    made = _SPAWN.Process(target=target, args=(*arguments[:2], stop, *arguments[2:]))
    made.start()
    assert made.pid is not None
    try:
        yield psutil.Process(made.pid)
    finally:
        stop.set()
        made.join(90)
        if made.is_alive():
            made.kill()


class _Topics:
    """What was in the topics at one moment, and how old each later record was when the connector sent it."""

    def __init__(self, settings: Settings) -> None:
        db = mongo.connect(settings.target)
        self._partitions = [TopicPartition(*p) for p in ledger.positions(db)]
        db.client.close()
        self._servers = settings.kafka.bootstrap_servers
        self._from = self._ends()

    def _consumer(self) -> KafkaConsumer:
        made = KafkaConsumer(bootstrap_servers=self._servers, enable_auto_commit=False, metrics_enabled=False)
        made.assign(self._partitions)
        return made

    def _ends(self) -> dict[TopicPartition, int]:
        consumer = self._consumer()
        ends: dict[TopicPartition, int] = consumer.end_offsets(self._partitions)
        consumer.close(autocommit=False)
        return ends

    def ages_since(self) -> list[float]:
        """Seconds from the commit to the record."""
        ends, ages, consumer = self._ends(), list[float](), self._consumer()
        for tp, offset in self._from.items():
            consumer.seek(tp, offset)
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for tp, records in consumer.poll(timeout_ms=500).items():
                for r in records:
                    if r.value:
                        sent = Record(
                            Partition(tp.topic, tp.partition), r.offset, r.key, r.value, r.timestamp
                        )
                        ages.append(max(0, r.timestamp - committed_ms(sent)) / 1e3)
        consumer.close(autocommit=False)
        return ages


def _parts(own: Own, known: dict[str, list[psutil.Process]]) -> dict[str, list[psutil.Process]]:
    """The processes of each part: the servers of this machine by the ports that they listen on."""
    ports = {
        int(at.rsplit(":", 1)[-1].split("/")[0]): name
        for name, at in (
            ("Kafka", own.addresses.kafka_bootstrap_servers),
            ("Connect", own.addresses.connect_url),
            ("MongoDB", own.addresses.mongodb_uri),
        )
    }
    parts = dict(known)
    for connection in psutil.net_connections("tcp"):
        at = connection.laddr.port if connection.laddr else None
        if connection.status == psutil.CONN_LISTEN and connection.pid and at in ports:
            parts[ports[at]] = [psutil.Process(connection.pid)]
    parts["PostgreSQL"] = [p for p in psutil.process_iter(["name"]) if p.info["name"].startswith("postgres")]
    return parts


def _cpu_s(parts: dict[str, list[psutil.Process]]) -> dict[str, float]:
    spent = dict.fromkeys(parts, 0.0)
    for name, processes in parts.items():
        for process in processes:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            spent[name] += times.user + times.system
    return spent


def at(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def told(values: Sequence[float]) -> str:
    return "  ".join(f"p{p} {at(values, p / 100) * 1_000:,.0f} ms" for p in (50, 90, 99))


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("]")]


def measure(own: Own, rate: float, options: argparse.Namespace, folder: Path) -> None:
    """One rate, on a pipeline that has caught up."""
    settings, environ = _read(own.environ()), own.environ()
    consumed = [folder / f"consumer-{number}" for number in range(options.consumers)]
    with _several([(_consume, environ, path) for path in consumed]) as consumers:
        app.wait_for(settings, "now", 60)
        topics = _Topics(settings)
        with _process(_write, environ, folder / "written", rate, options.sessions, options.seed) as writer:
            time.sleep(_WARM_S)
            parts = _parts(own, {"consumers": consumers, "writer": [writer]})
            before, began = _cpu_s(parts), time.time()
            time.sleep(options.seconds)
            spent, ended = _cpu_s(parts), time.time()
        told_cpu = {n: (spent[n] - before[n]) / (ended - began) for n in spent}
        app.wait_for(settings, "now", 300)
        sent = topics.ages_since()
    written = [total for when, total in _lines(folder / "written") if began <= when <= ended]
    batches = [b for path in consumed for b in _lines(path) if began <= b[0] <= ended]
    ages = [age for _, _, of in batches for age in of]
    sizes = [len(of) for _, _, of in batches]
    print(
        f"asked {rate:,.0f}/s, written {(written[-1] - written[0]) / (ended - began):,.0f} row changes/s,"
        f" applied {len(ages) / (ended - began):,.0f} events/s"
    )
    print(f"  commit to acknowledged write  {told(ages)}")
    print(f"  commit to record in Kafka     {told(sent)}")
    print(
        f"  one batch                     {told([s for _, s, _ in batches])}  (p50 {at(sizes, 0.5):.0f} events)"
    )
    cores = ", ".join(f"{n} {c:.2f}" for n, c in sorted(told_cpu.items(), key=lambda x: -x[1]))
    print(f"  cores                         {cores}", flush=True)


@contextmanager
def _several(of: Sequence[tuple[Any, ...]]) -> Iterator[list[psutil.Process]]:
    with ExitStack() as stack:
        yield [stack.enter_context(_process(*one)) for one in of]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[500, 2_000])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--sessions", type=int, default=2)
    parser.add_argument("--consumers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with servers.started("embedded") as addresses, servers.own_names(addresses) as own:
        load_acp(own.addresses.postgres_dsn, users=options.users)
        app.snapshot(_read(own.environ()), quiet)
        for rate in options.rates:
            with TemporaryDirectory() as folder:
                measure(own, rate, options, Path(folder))


if __name__ == "__main__":
    main()
