"""Ratios in one run: the snapshot against plain insert_many of the same documents, verification against the snapshot,
the stream against the same events written blind in bulk. `make bench`, or
`python -m tests.benchmarks.main_job --users 2000 --changes 4000`.

Never pass or fail: it prints medians with their spread, and docs/performance.md keeps the figures.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from bson import Int64
from kafka import KafkaConsumer, TopicPartition
from pymongo import DeleteOne, MongoClient, ReplaceOne
from pymongo.write_concern import WriteConcern

from connectors.mongo import client as mongo
from connectors.mongo import ledger
from consumers.mapping.ids import object_id
from sync import app
from sync.dev.writer import Writer
from sync.settings import Settings, read
from tests.support import stack as servers
from tests.support.acp import load_acp
from tests.support.stack import Own
from tests.support.tandem import ACP_MAPPING

COLLECTIONS = ("users", "teams", "apiKeys", "fileEmbeddings", "activesessions")


def quiet(*_: object, **__: object) -> None:
    """No log."""


def timed(work: Callable[[], int]) -> float:
    """Things per second."""
    started = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - started)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


class Bench:
    """One stack, one ACP database."""

    def __init__(self, own: Own, users: int) -> None:
        load_acp(own.addresses.postgres_dsn, users=users)
        self.own = own
        self.settings: Settings = read(mapping=ACP_MAPPING, environ=own.environ())
        self.db = mongo.connect(self.settings.target)
        self.client: MongoClient[dict[str, Any]] = MongoClient(
            own.addresses.mongodb_uri, uuidRepresentation="standard"
        )

    # -- the snapshot against insert_many ------------------------------------------------------------------------
    def snapshot(self) -> int:
        """Load everything anew; returns documents and staged rows written."""
        self.forget()
        report = app.snapshot(self.settings, quiet)
        return sum(of.rows + of.staged for of in report.collections.values())

    def forget(self) -> None:
        """Positions held and chunks forgotten, as before a first load; collections empty."""
        if ledger.positions(self.db):
            for name in (*COLLECTIONS, "_tandem_rows_teams_members", ledger.CHUNKS, ledger.ANCHORS):
                self.db[name].delete_many({})
            self.db[ledger.STATE].delete_many({"_id": {"$regex": "^load"}})
            self.db[ledger.POSITIONS].update_many({}, {"$set": {"holder": ledger.UNLOADED}})

    def verify(self) -> int:
        """Compare everything; returns documents and elements compared, which the snapshot writes as staged rows."""
        report = app.verify(self.settings)
        assert report.ok, report.as_dict()
        members = sum(len(team["members"]) for team in self.db["teams"].find({}, {"members": 1}))
        return members + sum(of.compared for of in report.collections.values())

    def insert_many(self, documents: dict[str, list[dict[str, Any]]], workers: int = 2) -> int:
        """The same documents, by as many threads as the loader has."""
        target = self.client.get_database("plain_" + self.own.name, write_concern=WriteConcern("majority"))
        self.client.drop_database(target.name)
        for name in documents:
            target.create_collection(name)
        pieces = [(n, of[i : i + 1000]) for n, of in documents.items() for i in range(0, len(of), 1000)]

        def work() -> None:
            while pieces:
                try:
                    name, piece = pieces.pop()
                except IndexError:
                    return
                target[name].insert_many(piece, ordered=False)

        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.client.drop_database(target.name)
        return sum(len(of) for of in documents.values())

    def written(self) -> dict[str, list[dict[str, Any]]]:
        """What the loader wrote, staged rows included."""
        names = (*COLLECTIONS, "_tandem_rows_teams_members")
        return {name: list(self.db[name].find({})) for name in names}

    # -- the stream against a blind writer -----------------------------------------------------------------------
    def stream(self) -> float:
        """Apply the whole topics from their beginning, exactly once; events per second of a busy worker."""
        self.db[ledger.POSITIONS].update_many({}, {"$set": {"at": Int64(0), "holder": None}})
        tally = app.Consumers(self.settings, quiet, until_caught_up=True).run(lambda: False)
        return tally.events / tally.busy_s

    def blind(self) -> float:
        """The same records: parsed, and the row as it came replaced by `_id`, unordered, in bulk; no positions.

        Records per second, less the time in which it waited for them, as for the worker.
        """
        target = self.client.get_database("blind_" + self.own.name, write_concern=WriteConcern("majority"))
        self.client.drop_database(target.name)
        consumer = KafkaConsumer(
            bootstrap_servers=self.own.addresses.kafka_bootstrap_servers,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metrics_enabled=False,
        )
        partitions = [TopicPartition(*p) for p in ledger.positions(self.db)]
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        seen, busy = 0, 0.0
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            polled = consumer.poll(timeout_ms=200, max_records=500)
            started = time.perf_counter()
            writes: dict[str, list[Any]] = {}
            for tp, records in polled.items():
                seen += len(records)
                for record in records:
                    key = orjson.loads(record.key)["k"]
                    _id = object_id(tp.topic, tuple(key.values()))
                    value = orjson.loads(record.value) if record.value else None
                    if value and value["after"]:
                        write: Any = ReplaceOne({"_id": _id}, value["after"], upsert=True)
                    else:
                        write = DeleteOne({"_id": _id})
                    writes.setdefault(tp.topic.replace(".", "_"), []).append(write)
            for name, of in writes.items():
                target[name].bulk_write(of, ordered=False)
            busy += time.perf_counter() - started
        consumer.close(autocommit=False)
        self.client.drop_database(target.name)
        return seen / busy


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--changes", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with servers.started("embedded") as addresses, servers.own_names(addresses) as own:
        bench = Bench(own, options.users)
        bench.snapshot()  # sets up
        documents = bench.written()
        loads, inserts, verifies = [], [], []
        for _ in range(options.rounds):
            loads.append(timed(bench.snapshot))
            verifies.append(timed(bench.verify))
            inserts.append(timed(lambda: bench.insert_many(documents)))
        ratio = statistics.median(loads) / statistics.median(inserts)
        print(
            f"snapshot {spread(loads)} rows/s; insert_many {spread(inserts)} docs/s; ratio {ratio:.2f}",
            flush=True,
        )
        ratio = statistics.median(verifies) / statistics.median(loads)
        print(f"verify {spread(verifies)} rows/s; ratio to the snapshot {ratio:.2f}", flush=True)
        Writer(bench.settings.source, seed=options.seed).run(options.changes)
        bench.stream()  # the unique indexes are built, and Kafka has everything
        streams, blinds = [], []
        for _ in range(options.rounds):
            streams.append(bench.stream())
            blinds.append(bench.blind())
        ratio = statistics.median(streams) / statistics.median(blinds)
        print(f"stream {spread(streams)} events/s; blind bulk {spread(blinds)} events/s; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
