"""Verification of many rows, against a plain scan of both sides in the same run: `count(*)` and a whole `find`.

`make bench-verify ARGS='--rows 1000000'`, or `python -m tests.benchmarks.verify --rows 100000`. Nine of ten rows have
an integer key, one a text, whose `_id` is a hash. The documents are written as verification itself expects them, so no
pipeline is needed; then one of them is broken, which has to be found. `--stack external` takes servers that are there.

Never pass or fail on time: it prints rows per second, the ratio, CPU and memory of the verifying process alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
from bson import Int64
from pydantic import SecretStr

from connectors.mongo import client as mongo
from connectors.postgres import client as postgres
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.mapping.spec import parse
from sync.verify import rows
from sync.verify.catalog import Catalog
from sync.verify.expected import reading
from sync.verify.run import Limits, verify
from tests.support import stack as servers
from tests.support.stack import Own

MAPPING = """
version: 1
collections:
  orders: {from: public.orders, references: {customerId: {column: customer_id, to: orders}}, convert: {at: micros}}
  coupons: {from: public.coupons}
"""
TABLES = """
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, number text, state text, price numeric(12, 2), n int,
  at timestamptz, paid boolean, note text, detail jsonb);
CREATE TABLE coupons (code text PRIMARY KEY, n int, price numeric(12, 2), at timestamptz, note text);
INSERT INTO orders SELECT n, 1 + n % 1000, 'order ' || n, (ARRAY['new', 'paid', 'sent'])[1 + n % 3], n * 0.37, n % 17,
  '2024-01-01Z'::timestamptz + n * interval '1.000001 s', n % 2 = 0, CASE WHEN n % 5 <> 0 THEN repeat('x', n % 80) END,
  jsonb_build_object('lang', 'en', 'tags', jsonb_build_array(n, 'a')) FROM generate_series(1, {rows} - {rows} / 10) n;
INSERT INTO coupons SELECT 'code-' || md5(n::text), n, n, now(), 'note' FROM generate_series(1, {rows} / 10) n;
ANALYZE;
"""


def endpoints(own: Own) -> tuple[SourceEndpoint, TargetEndpoint]:
    """Both sides."""
    uri, name = own.addresses.mongodb_uri, own.addresses.mongodb_database
    return SourceEndpoint(dsn=SecretStr(own.addresses.postgres_dsn)), TargetEndpoint(
        uri=SecretStr(uri), database=name
    )


def fill(source: SourceEndpoint, target: TargetEndpoint, count: int) -> None:
    """Rows, and the documents that they have to be."""
    with psycopg.connect(source.dsn.get_secret_value(), autocommit=True) as session:
        session.execute(TABLES.replace("{rows}", str(count)).encode())
    declared = parse(MAPPING)
    database = mongo.connect(target)
    with (
        closing(database.client),
        closing(postgres.connect(source)) as walking,
        closing(postgres.connect(source)) as looking,
    ):
        catalog = Catalog(looking, declared.keys())
        for name in declared.collections:
            for batch in rows.stream(walking, reading(name, declared, catalog), 2_000):
                sync = {"at": None, "lsn": Int64(1)}
                made: list[dict[str, Any]] = [{"_id": e.id, **e.fields, "_sync": sync} for e in batch]
                database[name].insert_many(made, ordered=False)
        database["orders"].update_one({"number": "order 7"}, {"$set": {"n": 7.0}})


def plain(source: SourceEndpoint, target: TargetEndpoint) -> int:
    """Count the rows, and go through the documents."""
    database, seen = mongo.connect(target), 0
    with closing(database.client), psycopg.connect(source.dsn.get_secret_value()) as session:
        for name in ("orders", "coupons"):
            session.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()
            seen += sum(1 for _ in database[name].find({}, batch_size=1_000))
    return seen


def verified(source: SourceEndpoint, target: TargetEndpoint, workers: int) -> dict[str, Any]:
    """In a process of its own, so that memory and CPU are verification's."""
    told = [source.dsn.get_secret_value(), target.uri.get_secret_value(), target.database, str(workers)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.verify", "--alone"],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def alone() -> None:
    """What that process does."""
    dsn, uri, name, workers = json.loads(sys.stdin.read())
    report = verify(
        parse(MAPPING),
        SourceEndpoint(dsn=SecretStr(dsn)),
        TargetEndpoint(uri=SecretStr(uri), database=name),
        wait=lambda _: None,
        limits=Limits(workers=int(workers)),
    )
    print(json.dumps(report.as_dict(), default=str))


def timed(work: Callable[[], int]) -> float:
    """Things per second."""
    began = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stack", choices=("embedded", "external"), default="embedded")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone()
        return
    with servers.started(options.stack) as addresses, servers.own_names(addresses) as own:
        source, target = endpoints(own)
        fill(source, target, options.rows)
        print(f"{options.rows:,} rows on both sides", flush=True)
        for _ in range(options.rounds):
            scan = timed(lambda: plain(source, target))
            report = verified(source, target, options.workers)
            found = [(d["key"], d["field"]) for d in report["differences"]]
            assert found == [("[7]", "n")], found
            cost, rate = report["cost"], options.rows / report["took_s"]
            print(
                f"count and find {scan:,.0f} rows/s; verify {rate:,.0f} rows/s; ratio {rate / scan:.2f};"
                f" {cost['cpu_s'] / report['took_s']:.2f} cores, {cost['peak_mb']:,.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
