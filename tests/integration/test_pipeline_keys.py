"""Tables told apart by keys of every type that can be one, composite and without a primary key, inherited ones too.

One pipeline: half of the rows come through the snapshot, the other half through the stream; then everything is
changed, moved to other keys and deleted. `verify` computes the ids by a path of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.errors import MappingInvalid, TableUnfit
from sync import app, settings
from sync.dev.state import Addresses
from tests.support import stack as servers
from tests.support.pipeline import Pipeline, consuming, pipeline

#: type of the key -> values as SQL; those of a pair of equal ones are one key in two forms
KEYS = {
    "timestamptz": [
        "2024-02-29 23:59:59.999999+05:30",
        "0044-03-15 12:00:00+00 BC",
        "infinity",
        "294276-12-31 23:59:59",
    ],
    "timestamp": [
        "2024-01-01",
        "1969-12-31 23:59:59.5",
        "0044-03-15 12:00:00 BC",
        "1600-02-29 00:00:00.000001",
    ],
    "date": ["2024-02-29", "0001-12-31 BC", "1970-01-01", "5874897-12-31"],
    "time": ["00:00", "24:00:00", "12:34:56.789", "12:34:56.789001"],
    "numeric(20,4)": ["1.50", "-0.0001", "9999999999999999.9999", "NaN"],
    "numeric": ["1.50", "1e30", "-0.000000000000000000001", "Infinity"],
    "boolean": ["true", "false"],
    "bytea": ["\\x", "\\x00ff", "\\x5c", "abc"],
    "double precision": ["0.1", "1e300", "-Infinity", "NaN"],
    "real": ["3.3", "1e-30", "Infinity", "-5"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1", "fe80::/64"],
    "cidr": ["10.0.0.0/8", "192.168.1.7/32", "2001:db8::/32", "::/0"],
    "macaddr": ["08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff"],
    "macaddr8": ["08:00:2b:01:02:03:04:05", "08:00:2b:ff:fe:01:02:03"],
    "char(5)": ["a", "ab ", "abcde", ""],
    "citext": ["Ab", "cd", "Ü", ""],
    '"Quoted Type"': ["red", "dark blue"],
    "positive": ["1", "2", "3"],
    "oid": ["1", "4294967295"],
    "uuid": ["12345678-1234-5678-9234-567812345678", "00000000-0000-0000-0000-000000000000"],
    'text COLLATE "C"': ["", " a ", "ü€😀", 'a"b\\c'],
}


def table_of(kind: str) -> str:
    return "k_" + "".join(c if c.isalnum() else "_" for c in kind.lower())


DDL = """
CREATE EXTENSION citext;
CREATE TYPE "Quoted Type" AS ENUM ('red', 'dark blue', 'green');
CREATE DOMAIN positive AS bigint CHECK (VALUE > 0);
CREATE TABLE payments (payment_date timestamptz, payment_id int, amount numeric(8,2), refund_date timestamptz,
  refund_id int, PRIMARY KEY (payment_date, payment_id)) PARTITION BY RANGE (payment_date);
CREATE TABLE payments_2023 PARTITION OF payments FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE payments_2024 PARTITION OF payments FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE lines (payment_date timestamptz, payment_id int, n numeric(5,1), note text,
  PRIMARY KEY (payment_date, payment_id, n));
CREATE TABLE full_unique (a int NOT NULL, b text NOT NULL, v text, big text, UNIQUE (a, b));
ALTER TABLE full_unique REPLICA IDENTITY FULL;
ALTER TABLE full_unique ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE "Odd:names; of, it" ("the Key" int NOT NULL, "The_Key" int, "b, c:d;$x" text NOT NULL, v text);
CREATE UNIQUE INDEX "odd idx" ON "Odd:names; of, it" ("the Key", "b, c:d;$x");
ALTER TABLE "Odd:names; of, it" REPLICA IDENTITY USING INDEX "odd idx";
CREATE TABLE by_code (id int PRIMARY KEY, code text NOT NULL UNIQUE, v text);
ALTER TABLE by_code REPLICA IDENTITY USING INDEX by_code_code_key;
CREATE TABLE wider (id int PRIMARY KEY, tenant int NOT NULL, v text, UNIQUE (tenant, id));
ALTER TABLE wider REPLICA IDENTITY USING INDEX wider_tenant_id_key;
CREATE TABLE fully (id int PRIMARY KEY, v text, big text);
ALTER TABLE fully REPLICA IDENTITY FULL;
ALTER TABLE fully ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE animals (id int PRIMARY KEY, name text);
CREATE TABLE dogs (barks boolean, PRIMARY KEY (id)) INHERITS (animals);
""" + "".join(f"CREATE TABLE {table_of(kind)} (k {kind} PRIMARY KEY, v text);\n" for kind in KEYS)
MAPPING = r"""
version: 1
collections:
  payments:
    from: public.payments
    references:
      refund: {column: [refund_date, refund_id], to: payments, keep: [refundDate, refundId]}
    omit: []
    embed: {lines: {from: public.lines, foreign_key: [payment_date, payment_id]}}
  lines: {from: public.lines, references: {payment: {column: [payment_date, payment_id], to: payments}}}
  fullUnique: {from: public.full_unique}
  odd:
    from: "public.Odd:names; of, it"
    rename: {"The_Key": other, "the Key": key, "b, c:d;$x": b}
  byCode: {from: public.by_code, key: code}
  wider: {from: public.wider}
  fully: {from: public.fully}
  animals: {from: public.animals}
  dogs: {from: public.dogs}
""" + "".join(
    f"  {table_of(kind)}: {{from: public.{table_of(kind)}{', omit: [k]' if kind[:4] in ('time', 'date') else ''}}}\n"
    for kind in KEYS
)
WIDE = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) AS n)"
FILL = """
INSERT INTO payments VALUES ('2023-05-05 10:00+02', {0}, 1.5, NULL, NULL),
  ('2024-05-05 10:00:00.123456', {0}, 2, '2023-05-05 08:00', {0});
INSERT INTO lines VALUES ('2023-05-05 08:00', {0}, 1, 'a'), ('2023-05-05 08:00', {0}, 10, 'b'),
  ('2024-05-05', {0}, 1, 'c');
INSERT INTO full_unique SELECT {0}, b, 'v', {1} FROM unnest(array['x', 'y', ' ']) AS b;
INSERT INTO "Odd:names; of, it" SELECT {0}, 7, b, 'v' FROM unnest(array['x', 'y', 'é']) AS b;
INSERT INTO by_code VALUES ({0}, 'c{0}', 'v'), ({0} + 100, 'd{0}', 'v');
INSERT INTO wider VALUES ({0}, 1, 'v'), ({0} + 100, 1, 'v');
INSERT INTO fully SELECT n, 'v', {1} FROM unnest(array[{0}, {0} + 100]) AS n;
INSERT INTO animals VALUES ({0}, 'cat'), ({0} + 100, 'cow');
INSERT INTO dogs VALUES ({0}, 'dog', true), ({0} + 100, 'dog', false);
"""


def fill(on: Pipeline, n: int) -> None:
    on.sql.execute(FILL.format(n, WIDE).encode())
    for kind, values in KEYS.items():
        for value in values[n::2]:
            on.sql.execute(
                f"INSERT INTO {table_of(kind)} VALUES (%s::text::{kind.split(' COLLATE')[0]}, 'v')".encode(),
                [value],
            )


@pytest.fixture(scope="module")
def on(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("keys")
    with servers.own_names(stack) as own, pipeline(own, folder, DDL, MAPPING) as on:
        fill(on, 0)
        on.tandem.run("snapshot")
        with consuming(on, 2):
            yield on


def test_rows_by_the_snapshot_and_by_the_stream_changed_moved_and_deleted(on: Pipeline) -> None:
    fill(on, 1)
    on.agree()
    tables = [
        *(table_of(kind) for kind in KEYS),
        "full_unique",
        '"Odd:names; of, it"',
        "by_code",
        "wider",
        "fully",
    ]
    for table in tables:
        on.sql.execute(f"UPDATE {table} SET v = 'changed'".encode())
    on.sql.execute("UPDATE animals SET name = name || ' changed'")  # of both tables
    on.sql.execute("UPDATE payments SET refund_date = NULL WHERE payment_id = 1")
    on.sql.execute(
        "UPDATE payments SET payment_date = payment_date + interval '1 year' WHERE payment_id = 0 AND amount = 1.5"
    )
    on.sql.execute("UPDATE lines SET n = n + 1, payment_id = 1 - payment_id")
    on.sql.execute("UPDATE full_unique SET b = b || '2', a = a + 10 WHERE b <> 'y'")
    on.sql.execute(
        'UPDATE "Odd:names; of, it" SET "the Key" = "the Key" + 10, "The_Key" = NULL WHERE "b, c:d;$x" <> \'y\''
    )
    on.sql.execute("UPDATE by_code SET id = id + 1000, v = 'other id' WHERE code LIKE 'c%'")
    on.sql.execute("UPDATE by_code SET code = code || '2' WHERE code LIKE 'd%'")
    on.sql.execute("UPDATE wider SET tenant = 2 WHERE id > 50")
    on.sql.execute("UPDATE fully SET id = id + 1000 WHERE id > 50")
    on.agree()
    assert len(on.all("fullUnique")) == 6
    assert {d["key"] for d in on.all("odd")} == {0, 1, 10, 11}
    [dog] = on.all("dogs", {"id": 101})
    assert dog["name"] == "dog changed"
    assert [len(d["lines"]) for d in on.all("payments")].count(2) == 1
    for table in [*tables, "ONLY animals", "dogs", "lines"]:
        column = "k" if table.startswith("k_") else "id" if table in ("dogs", "ONLY animals") else "ctid"
        on.sql.execute(
            f"DELETE FROM {table} WHERE {column} IN (SELECT {column} FROM {table} ORDER BY 1 LIMIT 1)".encode()
        )
    on.agree()
    for table in tables:
        assert on.sql.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    on.sql.execute("TRUNCATE animals")  # and dogs with it
    on.sql.execute("INSERT INTO dogs VALUES (5, 'alone', true)")
    on.agree()
    assert (on.all("animals"), [d["id"] for d in on.all("dogs")]) == ([], [5])


def test_a_key_that_is_written_in_another_form_is_the_same_key(on: Pipeline) -> None:
    """Debezium sends such a change as a delete and an insert of two keys: they keep their order in one partition."""
    for table, forms in (
        ("k_numeric", "2.5 2.50 2.500 2.5"),
        ("k_double_precision", "0 -0 0 -0"),
        ("k_real", "-0 0"),
    ):
        first, *others = forms.split()
        on.sql.execute(f"INSERT INTO {table} VALUES ('{first}', 'new')".encode())
        for other in others:
            on.sql.execute(f"UPDATE {table} SET k = '{other}', v = v || '+' WHERE k = '{first}'".encode())
            on.sql.execute(f"DELETE FROM {table} WHERE k = '{first}'".encode())
            on.sql.execute(f"INSERT INTO {table} VALUES ('{other}', 'again')".encode())
    on.agree()
    assert [d["v"] for d in on.all("k_numeric")].count("again") == 1


def test_tables_are_refused_with_what_to_type(on: Pipeline) -> None:
    """Each of them mapped alone; nothing is made for any."""
    on.sql.execute("""
        CREATE TABLE bare (a int, b int NOT NULL);
        CREATE TABLE quiet (a int NOT NULL UNIQUE);
        CREATE TABLE partly (a int NOT NULL, b int);
        CREATE UNIQUE INDEX ON partly (a) WHERE b > 0;
        ALTER TABLE partly REPLICA IDENTITY FULL;
        CREATE TABLE of_code (id int PRIMARY KEY, code text NOT NULL UNIQUE);
        ALTER TABLE of_code REPLICA IDENTITY USING INDEX of_code_code_key;
        CREATE TABLE spans (during interval PRIMARY KEY);
    """)
    for table, options, what in (
        ("bare", "", "ALTER TABLE public.bare ADD PRIMARY KEY (...)"),
        ("quiet", "", "ALTER TABLE public.quiet REPLICA IDENTITY USING INDEX quiet_a_key"),
        ("partly", "", "ALTER TABLE public.partly ADD PRIMARY KEY (...)"),
        ("partly", ", key: a", "CREATE UNIQUE INDEX ON public.partly (a)"),
        ("of_code", "", "`key: [code]`"),
        ("spans", "", "public.spans.during: Debezium's records cannot be told apart by a interval"),
    ):
        file = on.tandem.folder / "refused.yaml"
        file.write_text(f"version: 1\ncollections: {{c: {{from: public.{table}{options}}}}}\n")
        found = settings.read(mapping=file, environ=on.tandem.environ)
        with pytest.raises((TableUnfit, MappingInvalid)) as caught:
            app.setup(found, lambda *_, **__: None)
        assert what in caught.value.what + caught.value.remedy
