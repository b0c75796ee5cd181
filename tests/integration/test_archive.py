"""The archive of a real pipeline: killed as it writes, it has every record; base and tail are the tables as they
are now."""

from __future__ import annotations

import random
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.archive.manifest import Base
from connectors.archive.reader import ArchiveReader
from connectors.debezium import config, envelope
from connectors.events import Entry, Operation
from connectors.positions import Partition
from consumers.apply.write import table_read
from consumers.mapping.plan import TablePlan
from tests.support.pipeline import Pipeline, pipeline
from tests.support.stack import Own
from tests.support.until import until

with warnings.catch_warnings():  # of kafka-python, on Python 3.11
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import TopicPartition
    from kafka.admin import ConfigResource, ConfigResourceType

    from connectors.kafka.admin import Admin
    from connectors.kafka.follow import Follower
    from connectors.postgres.client import connect
    from connectors.postgres.rows import KeyRange, SnapshotReader
    from connectors.postgres.slots import export_snapshot
    from sync.setup.make import load_plan

DDL = """
CREATE TABLE t (id bigint PRIMARY KEY, name text, n numeric, raw bytea, f float8, at timestamptz, d date, doc jsonb);
CREATE TABLE "odd name" ("key" text PRIMARY KEY, "a-b" int, "a b" int);
"""
MAPPING = """
version: 1
collections:
  ts: {from: public.t}
  odds: {from: public.odd name}
"""
TABLES = ("public.t", "public.odd name")


@pytest.fixture
def on(own: Own, tmp_path: Path) -> Iterator[Pipeline]:
    place = str(tmp_path / "archive")
    with pipeline(
        own, tmp_path, DDL, MAPPING, TANDEM_ARCHIVE__URL=place, TANDEM_ARCHIVE__SEGMENT_S="0.3"
    ) as made:
        made.sql.execute("INSERT INTO t (id, name) SELECT g, 'old' FROM generate_series(1, 50) g")
        made.tandem.run("setup")  # nobody consumes: the archive is of the topics, whatever becomes of them
        yield made


def sent(on: Pipeline, key: int) -> None:
    """Write a last row, and return when the topics have it, and so all that was committed before it."""
    on.sql.execute("INSERT INTO t (id, name) VALUES (%s, 'last')", [key])
    last = orjson.dumps({"k": {"id": key}})
    until(lambda: any(e.record.key == last for of in in_kafka(on).values() for e in of), within=60)


def write(on: Pipeline, seed: int, stop: threading.Event) -> None:
    """Rows come, change and go, with values of every form, until it is told to stop."""
    chance = random.Random(seed)
    with on.session() as session:
        session.autocommit = True
        while not stop.wait(0.002):
            key = chance.randrange(1, 200)
            value = chance.choice(["NaN", "1.50", "-123456789012345678901234567890.5"])
            row = [
                key,
                f"r{chance.random()} é\x01",
                value,
                chance.randbytes(5),
                chance.choice([1.0, 1e300, float("nan")]),
            ]
            if chance.random() < 0.3:
                session.execute("DELETE FROM t WHERE id = %s", [key])
            else:
                session.execute(
                    "INSERT INTO t VALUES (%s, %s, %s, %s, %s, now(), '2024-02-29', '{\"a\": [1.50, null]}')"
                    " ON CONFLICT (id) DO UPDATE SET name = excluded.name, n = excluded.n, f = excluded.f",
                    row,
                )
            if chance.random() < 0.1:
                session.execute('INSERT INTO "odd name" VALUES (%s, 1, 2) ON CONFLICT DO NOTHING', [str(key)])
            if chance.random() < 0.01:
                session.execute('TRUNCATE "odd name"')


def in_kafka(on: Pipeline) -> dict[Partition, list[Entry]]:
    """Every committed record that the topics have, read by nothing but Kafka's client."""
    kafka = on.settings.kafka
    homes = [Partition(config.topic_of(kafka.topic_prefix, t), n) for t in TABLES for n in range(4)]
    with Admin(kafka) as admin:
        ends = admin.ends(homes)
    follower = Follower(kafka, "nobody")
    found: dict[Partition, list[Entry]] = {home: [] for home in homes}
    try:
        follower.place(follower.begins(homes))
        while any(follower.position(home) < end for home, end in ends.items()):
            for home, entries in follower.poll(200, 1_000).items():
                found[home] += entries
    finally:
        follower.close()
    return found


def reader(on: Pipeline) -> ArchiveReader:
    assert on.settings.archive.url is not None
    return ArchiveReader(on.settings.archive.url)


def demand_same(on: Pipeline) -> None:
    """The archive has the records of the topics, each once, and the decoder reads the same in them."""
    there, archive = in_kafka(on), reader(on)
    placeholder = config.placeholder(on.settings.source, on.settings.kafka)
    for home, entries in there.items():
        kept = list(archive.entries(home, archive.chain(home).start))
        assert [e.record.offset for e in kept] == [e.record.offset for e in entries]
        for back, first in zip(kept, entries, strict=True):
            assert repr(envelope.decode(back.record, placeholder)) == repr(
                envelope.decode(first.record, placeholder)
            )
            assert (back.headers, back.timestamp_type, back.record.key, back.record.timestamp_ms) == (
                first.headers, first.timestamp_type, first.record.key, first.record.timestamp_ms
            )  # fmt: skip
            values = (back.record.value, first.record.value)
            assert values[0] == values[1] or orjson.loads(values[0] or b"") == orjson.loads(values[1] or b"")


def rebuilt(on: Pipeline, base: Base, table: TablePlan) -> dict[Any, dict[str, Any]]:
    """The rows of a table: those of the base, with everything behind it, one event after the other."""
    archive, rows = reader(on), dict[Any, dict[str, Any]]()
    names = [column.name for column in table_read(table).columns]
    for row in archive.base(table.name, base):
        natives = table.from_row([row[name] for name in names])
        rows[table.key_of(natives)] = {**natives, "": base.lsn}
    placeholder = config.placeholder(on.settings.source, on.settings.kafka)
    topic = config.topic_of(on.settings.kafka.topic_prefix, table.name)
    for home in (h for h in archive.partitions() if h.topic == topic):
        for record in archive.tail(home, base.positions[home.id]):
            event = envelope.decode(record, placeholder)
            if event.op is Operation.TRUNCATE:
                rows = {key: row for key, row in rows.items() if row[""] >= event.lsn}
            elif event.op in (Operation.DELETE, Operation.TOMBSTONE):
                rows.pop(table.key_of_event(event.key), None)
            else:
                assert event.row is not None
                rows[table.key_of_event(event.key)] = {**table.from_event(event.row), "": event.lsn}
    return {key: {k: v for k, v in row.items() if k} for key, row in rows.items()}


def now(on: Pipeline, table: TablePlan) -> dict[Any, dict[str, Any]]:
    """The rows as PostgreSQL has them."""
    with export_snapshot(on.settings.source) as snapshot:
        session = SnapshotReader(on.settings.source, snapshot.name)
        try:
            read = table_read(table)
            natives = [table.from_row(row) for row in session.copy(read, KeyRange(None, None), None)]
        finally:
            session.close()
    return {table.key_of(row): row for row in natives}


def test_killed_as_it_writes_it_has_every_record_and_base_and_tail_are_the_tables(on: Pipeline) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    stop, chance = threading.Event(), random.Random(seed)
    writer = threading.Thread(target=write, args=(on, seed, stop))
    writer.start()
    try:
        for life in range(2):
            with on.tandem.started("archive", "run") as process:
                until(lambda: "archiving" in process.text(), within=60)
                time.sleep(chance.uniform(0.1, 1.5))
                process.kill()
            if life == 0:
                on.tandem.run("archive", "base")
    finally:
        stop.set()
        writer.join()
    with connect(on.settings.source) as session:
        plan = load_plan(on.settings, session)
    on.sql.execute("ALTER TABLE t ADD COLUMN late int")
    sent(on, 1000)
    on.tandem.run("archive", "run", "--until-caught-up")
    demand_same(on)
    report = on.tandem.json("archive", "verify")
    assert report["ok"], report
    (base,) = reader(on).bases()
    assert report["rebuilds"] == base.name
    for table in TABLES:
        rows = rebuilt(on, base, plan.tables[table])
        assert repr(sorted(rows.items())) == repr(sorted(now(on, plan.tables[table]).items()))
    status = on.tandem.json("archive", "status")
    assert (status["ok"], status["behind"]) == (True, 0)
    whole = on.tandem.json("status", check=False)
    (part,) = [part for part in whole["components"] if part["name"] == "archive"]
    assert (part["ok"], part["what"]) == (True, "0 offsets are not kept yet")


def test_events_that_kafka_has_removed_are_told_and_written_down(on: Pipeline) -> None:
    on.sql.execute("INSERT INTO t (id, name) SELECT g, 'new' FROM generate_series(100, 140) g")
    sent(on, 1000)
    on.tandem.run("archive", "run", "--until-caught-up")
    on.sql.execute("UPDATE t SET name = 'newer'")
    sent(on, 1001)
    kafka = on.settings.kafka
    home = Partition(config.topic_of(kafka.topic_prefix, "public.t"), 0)
    at = reader(on).chain(home).next
    with Admin(kafka) as admin:
        end = admin.ends([home])[home]
        # a topic that is only compacted takes no deletion of records
        resource = ConfigResource(ConfigResourceType.TOPIC, home.topic, {"cleanup.policy": "compact,delete"})
        admin._admin.alter_configs([resource])
        admin._admin.delete_records({TopicPartition(*home): end})
    status = on.tandem.run("archive", "status", check=False)
    assert status.returncode == 1
    assert f"{end - at} offsets are lost" in " ".join(status.stdout.split())
    refused = on.tandem.run("archive", "run", "--until-caught-up", "--json", check=False)
    assert refused.returncode == 1
    assert orjson.loads(refused.stdout)["error"] == "ArchiveGap"
    assert on.tandem.json("archive", "run", "--until-caught-up", "--accept-gaps")["gaps"] == 1
    assert [(g.start, g.end, g.why) for g in reader(on).chain(home).gaps] == [(at, end, "expired")]
    broken = on.tandem.run("archive", "verify", check=False)
    assert broken.returncode == 1
    assert "no base was made after them" in " ".join(broken.stdout.split())
    on.tandem.run("archive", "base")
    assert on.tandem.json("archive", "verify")["ok"]
