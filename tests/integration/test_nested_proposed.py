"""Arrays in arrays from `tandem init` to `verify`: the mapping is proposed, preflight measures what is loaded, to the
byte, and both the load and a re-load agree."""

from __future__ import annotations

from pathlib import Path

import bson
import yaml

from tests.integration.test_init import init
from tests.support.pipeline import RAW, consuming, pipeline
from tests.support.stack import Own

TABLES = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, active boolean NOT NULL DEFAULT true);
CREATE TABLE orders (
  id uuid PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE, note text);
CREATE TABLE lines (
  order_id uuid REFERENCES orders ON DELETE CASCADE, n int, product text NOT NULL, PRIMARY KEY (order_id, n));
INSERT INTO customers SELECT n, repeat('c', n), n % 4 <> 0 FROM generate_series(1, 20) n;
INSERT INTO orders SELECT gen_random_uuid(), 1 + n % 19, repeat('o', n) FROM generate_series(1, 60) n;
INSERT INTO lines SELECT id, n, repeat('l', n * 9) FROM orders, generate_series(1, 4) n WHERE length(note) % 3 <> 0;
"""


def test_arrays_in_arrays_from_init_to_verify(own: Own, tmp_path: Path) -> None:
    with pipeline(own, tmp_path, TABLES, "") as on:
        done = init(
            tmp_path, own.addresses.postgres_dsn, "--schema", "public", "-o", "mapping.yaml", "--force"
        )
        assert done.returncode == 0, done.stderr
        mapping = yaml.safe_load((tmp_path / "mapping.yaml").read_text(encoding="utf-8"))
        assert list(mapping["collections"]) == ["customers"]
        lines = mapping["collections"]["customers"]["embed"]["orders"]["embed"]["lines"]
        assert lines == {"from": "public.lines", "foreign_key": "order_id"}
        mapping["collections"]["orders"] = {
            "from": "public.orders",
            "copy": {
                "customer": {
                    "from": "public.customers",
                    "foreign_key": "customer_id",
                    "only": ["name"],
                    "where": "active",
                }
            },
        }
        (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
        report = on.tandem.json("preflight", check=False)
        wrong = [f for f in report["findings"] if f["level"] == "error" and f["check"] == "data"]
        assert not wrong
        on.tandem.run("snapshot")
        with consuming(on):
            on.agree()
            for name, of in report["data"]["collections"].items():
                sizes = [len(bson.encode(d, codec_options=RAW)) for d in on.db[name].find({})]
                assert (of["documents"], of["document_bytes"]["max"]) == (len(sizes), max(sizes)), name
            assert report["data"]["collections"]["customers"]["arrays"]["orders.lines"]["max"] == 4
            on.sql.execute("UPDATE customers SET name = name || '!', active = NOT active")
            on.sql.execute("DELETE FROM orders WHERE length(note) % 5 = 0")
            on.sql.execute("UPDATE lines SET n = n + 10 WHERE n > 2")
            on.agree()
            on.db["customers"].update_many({}, {"$set": {"orders": []}})
            on.db["_tandem_rows_customers_orders_lines"].delete_many({"d.n": 1})
            on.db["_tandem_copies_orders_customer"].delete_many({})
            on.db["orders"].update_many({}, {"$set": {"customer": {"name": "nobody"}}})
            assert not on.tandem.json("verify", check=False)["ok"]
            on.tandem.run("reload", "customers", "orders")
            on.agree()
            on.sql.execute("UPDATE orders SET note = note || '.'")
            on.agree()
