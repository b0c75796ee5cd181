"""Arrays inside of the elements of an array, and a parent's fields in its children's documents: half through the
snapshot, half through the stream, under histories that pull them apart. One pipeline with two consumers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sync.dev.state import Addresses
from tests.support import stack as servers
from tests.support.pipeline import Pipeline, consuming, pipeline
from tests.support.until import until

TABLES = """
CREATE TABLE countries (code text PRIMARY KEY, name text, shown boolean NOT NULL DEFAULT true, anthem text);
ALTER TABLE countries ALTER COLUMN anthem SET STORAGE EXTERNAL;
CREATE TABLE customers (id bigint PRIMARY KEY, name text, country text, manager_id bigint, active boolean DEFAULT true);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, country text, note text);
CREATE TABLE lines (order_id bigint, n int, text text, kept boolean DEFAULT true, PRIMARY KEY (order_id, n));
CREATE TABLE parts (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), order_id bigint, n int, name text, weight float8);
CREATE TABLE checks (id serial PRIMARY KEY, part_id uuid, at timestamptz DEFAULT now(), ok boolean);
"""
MAPPING = """
version: 1
collections:
  customers:
    from: public.customers
    where: active
    copy: {manager: {from: public.customers, foreign_key: manager_id, only: name}}
    embed:
      orders:
        from: public.orders
        foreign_key: customer_id
        omit: [country]
        embed:
          lines:
            from: public.lines
            foreign_key: order_id
            where: kept
            order_by: [text]
            embed:
              parts:
                from: public.parts
                foreign_key: [order_id, n]
                order_by: weight
                embed: {checks: {from: public.checks, foreign_key: part_id, only: [ok, at]}}
  orders:
    from: public.orders
    defaults: {note: none}
    copy:
      customer: {from: public.customers, foreign_key: customer_id, only: [name, active], where: active}
      country: {from: public.countries, foreign_key: country, where: shown, rename: {name: title}}
    omit: [country]
"""
FILL = """
INSERT INTO countries SELECT chr(65 + n), 'country ' || n, n <> 2, repeat(md5(n::text), 200)
  FROM generate_series({0}, 3, 2) n;
INSERT INTO customers SELECT n, 'c' || n, chr(65 + n % 4), n - 1, n <> 3 FROM generate_series({0} + 1, 8, 2) n;
INSERT INTO orders SELECT n, 1 + n % 9, chr(65 + n % 5), nullif(n % 3, 0)::text FROM generate_series({0} + 1, 40, 2) n;
INSERT INTO lines SELECT o, k, 'line ' || k % 2, k <> 3 FROM generate_series({0} + 1, 40, 2) o, generate_series(1, 3) k;
INSERT INTO parts (order_id, n, name, weight) SELECT o, k, 'p', nullif(o % 3, 0)
  FROM generate_series({0} + 1, 44, 2) o, generate_series(1, 2) k;
INSERT INTO checks (part_id, ok) SELECT id, order_id % 2 = 0 FROM parts WHERE order_id % 2 = 1 - {0};
"""


@pytest.fixture(scope="module")
def on(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("nested")
    limits = {"TANDEM_LIMITS__CHUNK_ROWS": "7", "TANDEM_LIMITS__LOAD_ROWS": "3"}
    with servers.own_names(stack) as own, pipeline(own, folder, TABLES, MAPPING, **limits) as on:
        on.sql.execute(FILL.format(0).encode())
        on.tandem.run("snapshot")
        with consuming(on, 2):
            on.agree()
            on.sql.execute(FILL.format(1).encode())
            yield on


def customer(on: Pipeline, key: int) -> dict[str, Any]:
    found = on.one("customers", "public.customers", key)
    assert found is not None
    return found


def test_what_is_inside_follows_what_it_is_in(on: Pipeline) -> None:
    on.agree()
    order = customer(on, 2)["orders"][0]
    assert [line["text"] for line in order["lines"]] == ["line 0", "line 1"]
    assert order["lines"][0]["parts"][0]["checks"]
    for statement in (
        "UPDATE checks SET ok = NOT ok",
        "UPDATE parts SET n = 3 - n, weight = -weight",  # to another element
        "UPDATE lines SET kept = NOT kept WHERE n > 1",  # elements go and come, with what is inside
        "UPDATE orders SET customer_id = 1 + customer_id % 8",  # to another document
        "UPDATE customers SET active = NOT active WHERE id > 6",
        "DELETE FROM orders WHERE id BETWEEN 11 AND 15",  # their lines stay, unseen
        "UPDATE lines SET order_id = order_id + 100 WHERE order_id < 4",
        "INSERT INTO orders VALUES (12, 2, 'A'), (101, 1, 'B')",  # that find their lines there
        "DELETE FROM parts WHERE order_id % 5 = 0",
    ):
        on.sql.execute(statement.encode())
    on.agree()
    assert any(o["id"] == 101 and o["lines"] for c in on.all("customers") for o in c["orders"])
    for table in ("checks", "parts", "orders"):
        on.sql.execute(f"TRUNCATE {table}".encode())
        on.agree()
    assert all(c["orders"] == [] for c in on.all("customers"))
    on.sql.execute("INSERT INTO orders SELECT n, 1 + n % 8, 'A' FROM generate_series(1, 40) n")
    on.agree()
    assert sum(len(o["lines"]) for c in on.all("customers") for o in c["orders"]) > 20


def test_a_parents_fields_reach_its_childrens_documents(on: Pipeline) -> None:
    on.sql.execute("TRUNCATE orders, customers, countries")
    on.sql.execute("INSERT INTO countries VALUES ('A', 'a', true, repeat('x', 9000)), ('B', 'b', false, 'y')")
    on.sql.execute(
        "INSERT INTO customers VALUES (1, 'one', 'A', 2), (2, 'two', 'A', 1), (3, 'three', 'B', 9)"
    )
    on.sql.execute("INSERT INTO orders SELECT n, 1 + n % 3, chr(65 + n % 3) FROM generate_series(1, 900) n")
    on.agree()
    first = on.one("orders", "public.orders", 3)
    assert first is not None
    assert (first["customer"], first["country"]["title"], first["note"]) == (
        {"name": "one", "active": True}, "a", "none",
    )  # fmt: skip
    assert customer(on, 3)["manager"] is None
    on.sql.execute("UPDATE customers SET name = name || '!' WHERE id < 3")  # 300 orders each: by a job
    on.sql.execute("UPDATE countries SET shown = NOT shown")
    on.sql.execute("UPDATE countries SET name = 'A'  WHERE code = 'A'")
    on.sql.execute("UPDATE orders SET customer_id = 2, country = 'B' WHERE id % 7 = 0")
    on.sql.execute("UPDATE orders SET country = NULL WHERE id % 11 = 0")
    on.sql.execute("INSERT INTO countries VALUES ('C', 'late')")
    on.sql.execute("UPDATE customers SET active = false WHERE id = 2")
    on.agree()
    on.sql.execute("UPDATE countries SET shown = true WHERE code = 'A'")
    on.sql.execute("DELETE FROM customers WHERE id = 1")
    on.sql.execute("INSERT INTO customers VALUES (9, 'nine')")
    on.agree()
    assert customer(on, 3)["manager"] == {"name": "nine"}
    on.sql.execute("TRUNCATE countries")
    on.agree()
    assert on.db["orders"].count_documents({"country": {"$ne": None}}) == 0


def test_parents_and_children_change_at_once(on: Pipeline) -> None:
    def write(first: int) -> None:
        with on.session() as session:
            for n in range(60):
                key = 2_000 + first + 2 * n
                session.execute("INSERT INTO orders VALUES (%s, %s, 'A')", [key, 1 + n % 3])
                session.execute("INSERT INTO lines VALUES (%s, 1, 'x')", [key])
                session.commit()
                session.execute(
                    "UPDATE customers SET name = %s, active = true WHERE id = %s", [str(key), 1 + n % 3]
                )
                session.execute("UPDATE orders SET customer_id = %s WHERE id = %s", [1 + (n + 1) % 3, key])
                session.execute("INSERT INTO parts (order_id, n, name) VALUES (%s, 1, 'p')", [key])
                session.commit()

    writers = [threading.Thread(target=write, args=(n,)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    on.agree()


def test_consumers_that_are_killed_amid_a_job_lose_nothing(on: Pipeline) -> None:
    """The last one here: it kills the consumers of the others. What is copied is half done, and who comes next ends it;
    of what changes meanwhile nothing is lost either."""
    on.sql.execute(
        "INSERT INTO countries VALUES ('Z', 'before') ON CONFLICT (code) DO UPDATE SET name = 'before'"
    )
    on.sql.execute("INSERT INTO orders SELECT n, NULL, 'Z' FROM generate_series(10001, 12000) n")
    on.agree()
    done, left = {"country.title": "after"}, {"country.title": "before"}
    assert on.db["orders"].count_documents(left) == 2_000
    on.sql.execute("UPDATE countries SET name = 'after' WHERE code = 'Z'")
    until(lambda: on.db["orders"].count_documents(done), within=30, every=0.02)
    dead = list(on.consumers)
    for consumer in dead:
        consumer.kill()
    half = on.db["orders"].count_documents(done)
    assert 0 < half < 2_000
    assert on.db["_tandem_jobs"].count_documents({"parent": {"$exists": True}}) == 1
    print("killed with", half, "of 2000 documents written")
    on.sql.execute("UPDATE orders SET country = 'A' WHERE id % 3 = 0 AND id > 10000")
    on.sql.execute("UPDATE orders SET country = 'Z' WHERE id BETWEEN 2000 AND 2100")
    on.sql.execute("UPDATE countries SET name = 'after all' WHERE code = 'Z'")
    on.sql.execute("DELETE FROM orders WHERE id > 11900")
    on.consumers.clear()
    try:
        with consuming(on, 2):
            on.agree()
    finally:
        on.consumers += dead
    assert on.db["orders"].count_documents({**done}) == on.db["orders"].count_documents(left) == 0
    assert on.db["_tandem_jobs"].count_documents({}) == 0
