"""Odd names and keys; a table that changes under running consumers; answers of `wait-for` that may never be early."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.pipeline import RAW, Pipeline, apart, consuming, partition_of, pipeline
from tests.support.stack import Own
from tests.support.until import until

# -- names and keys ----------------------------------------------------------------------------------------------
ODD_NAMES = """
CREATE SCHEMA "Ödd Schema";
CREATE TYPE "Ödd Schema"."Mood {}" AS ENUM ('sad', 'ok');
CREATE TABLE "Ödd Schema"."Täble {} $1,+* 🚀" ("Größe" text, "per cent" integer, "{}" text, "a,b" text[],
  "$dollar" text, "Id" bigint PRIMARY KEY, "quote""d" text);
CREATE TABLE "Ödd Schema"."Child Table" ("Parent Id" bigint, "Nr" integer, "Läbel" text,
  PRIMARY KEY ("Nr", "Parent Id"));
CREATE TABLE composite (note text, kind text, nr integer, PRIMARY KEY (nr, kind));
CREATE TABLE by_uuid (id uuid PRIMARY KEY, v text, other uuid);
CREATE TABLE by_big (id bigint PRIMARY KEY, v text);
CREATE TABLE by_small (v text, id smallint PRIMARY KEY);
CREATE TABLE by_text (id text PRIMARY KEY, v text);
CREATE TABLE by_char (id char(5) PRIMARY KEY, v text);
CREATE TABLE by_enum (id "Ödd Schema"."Mood {}" PRIMARY KEY, v text, a integer[]);
"""
ODD_NAMES_MAPPING = """
version: 1
collections:
  odd:
    from: "Ödd Schema.Täble {} $1,+* 🚀"
    where: '"Größe" IS NOT NULL'
    rename: {"$dollar": dollar, "{}": braces}
    embed:
      children: {from: "Ödd Schema.Child Table", foreign_key: "Parent Id", order_by: ["Läbel"]}
  composite: {from: public.composite}
  by_uuid: {from: public.by_uuid, references: {otherOne: {column: other, to: by_uuid, keep: otherId}}}
  by_big: {from: public.by_big}
  by_small: {from: public.by_small}
  by_text: {from: public.by_text}
  by_char: {from: public.by_char}
  by_enum: {from: public.by_enum}
"""
ODD = '"Ödd Schema"."Täble {} $1,+* 🚀"'
CHILD = '"Ödd Schema"."Child Table"'
ROWS = f"""
INSERT INTO {ODD} VALUES ('groß', 100, '{{%s}}', '{{x}}', '$', @ + 1, 'q'), (NULL, 1, '', NULL, '', @ + 2, '');
INSERT INTO {CHILD} VALUES (@ + 1, 2, 'ä'), (@ + 1, 1, 'z'), (@ + 7, 1, 'orphan');
INSERT INTO composite VALUES ('a', 'k @', 1), ('b', 'k", @', -1), ('c', '@ü', 1);
INSERT INTO by_uuid VALUES ('00000000-0000-0000-0000-00000000000@', 'v',
  '00000000-0000-0000-0000-00000000000@');
INSERT INTO by_text VALUES ('@ text', 'v'), ('@ “quoted” % {{}}', 'v'), ('@"\\', 'v');
INSERT INTO by_char VALUES ('a@', 'v'), ('abcd@', 'v');
"""


def test_odd_names_and_every_kind_of_key(own: Own, tmp_path: Path) -> None:
    with pipeline(own, tmp_path, ODD_NAMES, ODD_NAMES_MAPPING, TANDEM_LIMITS__CHUNK_ROWS="1") as on:
        on.sql.execute(_rows(0))
        on.sql.execute("INSERT INTO by_big VALUES (-1, 'v'), (9223372036854775807, 'v')")
        on.sql.execute("INSERT INTO by_small VALUES ('v', -32768)")
        on.sql.execute("INSERT INTO by_enum VALUES ('sad', 'v', '{1}')")
        on.tandem.run("snapshot")
        with consuming(on):
            on.sql.execute(_rows(9))
            on.sql.execute("INSERT INTO by_big VALUES (-9223372036854775808, 'v'), (0, 'v')")
            on.sql.execute("INSERT INTO by_small VALUES ('v', 32767), ('v', -1)")
            on.sql.execute("INSERT INTO by_enum VALUES ('ok', 'v', '{2}')")
            for table in ("composite", "by_uuid", "by_big", "by_small", "by_text", "by_char", "by_enum"):
                column = "note" if table == "composite" else "v"
                on.sql.execute(f"UPDATE {table} SET {column} = {column} || '!'".encode())
            on.sql.execute(f"UPDATE {ODD} SET \"Größe\" = 'nun groß'".encode())
            on.sql.execute(f"""UPDATE {CHILD} SET "Läbel" = 'a' WHERE "Nr" = 2""".encode())
            on.sql.execute("UPDATE by_text SET id = id || ' moved' WHERE id LIKE '9%'")
            on.sql.execute("DELETE FROM by_big WHERE id IN (0, -1)")
            on.sql.execute("DELETE FROM composite WHERE kind = 'k 0'")
            on.agree()
        assert [d["id"] for d in on.all("by_big")] == [9223372036854775807, -9223372036854775808]
        assert {tuple(c["Läbel"] for c in d["children"]) for d in on.all("odd")} == {("a", "z"), ()}
        assert {d["v"] for d in on.all("by_char")} == {"v!"}


def _rows(base: int) -> bytes:
    return ROWS.replace("@", str(base)).encode()


def test_a_column_with_a_percent_sign_is_read_again_like_any_other(own: Own, tmp_path: Path) -> None:
    ddl = 'CREATE TABLE t (id bigint PRIMARY KEY, "per %" integer, "%s" text[]);'
    with pipeline(own, tmp_path, ddl, "version: 1\ncollections:\n  t: {from: public.t}\n") as on:
        on.tandem.run("snapshot")
        with consuming(on):
            on.sql.execute(b"INSERT INTO t VALUES (1, 7, '{a}')")
            on.agree(20)
        assert [(d["per %"], d["%s"]) for d in on.all("t")] == [(7, ["a"])]


def test_a_key_column_may_have_any_name(own: Own, tmp_path: Path) -> None:
    """Names that a statement of the loader or of verification could use for itself."""
    names = ("n", "s", "e", "u", "k0", "table", "keys")
    ddl = "".join(
        f'CREATE TABLE "t_{n}" ("{n}" bigint PRIMARY KEY, v text[]); INSERT INTO "t_{n}" VALUES (1, \'{{}}\');'
        for n in names
    )
    mapping = "version: 1\ncollections:\n" + "".join(f"  c_{n}: {{from: public.t_{n}}}\n" for n in names)
    with pipeline(own, tmp_path, ddl, mapping) as on:
        on.tandem.run("snapshot")
        with consuming(on):
            for n in names:
                on.sql.execute(f'INSERT INTO "t_{n}" VALUES (2, NULL)'.encode())
            on.agree()


def test_a_key_with_included_columns_has_the_id_of_its_key(own: Own, tmp_path: Path) -> None:
    ddl = "CREATE TABLE t (id bigint, v text, PRIMARY KEY (id) INCLUDE (v)); INSERT INTO t VALUES (1, 'loaded');"
    with pipeline(own, tmp_path, ddl, "version: 1\ncollections:\n  t: {from: public.t}\n") as on:
        on.tandem.run("snapshot")
        with consuming(on):
            on.sql.execute("INSERT INTO t VALUES (2, 'streamed')")
            on.sql.execute("UPDATE t SET v = v || '!'")
            on.agree()
        assert on.one("t", "public.t", 1)
        assert [d["v"] for d in on.all("t")] == ["loaded!", "streamed!"]


@pytest.mark.parametrize("other", ["a b", "a+b"])
def test_two_tables_that_would_share_a_topic_are_refused(own: Own, tmp_path: Path, other: str) -> None:
    ddl = f'CREATE TABLE a_b (id bigint PRIMARY KEY); CREATE TABLE "{other}" (id bigint PRIMARY KEY);'
    mapping = f'version: 1\ncollections:\n  one: {{from: public.a_b}}\n  two: {{from: "public.{other}"}}\n'
    with pipeline(own, tmp_path, ddl, mapping) as on:
        done = on.tandem.run("setup", check=False)
        assert done.returncode in (1, 2), "both would be in one topic, where compaction mixes their keys"
        assert "topic" in done.stderr


# -- a table that changes ----------------------------------------------------------------------------------------
CHANGING = "CREATE TABLE t (id bigint PRIMARY KEY, v text);"
CHANGING_MAPPING = "version: 1\ncollections:\n  t: {from: public.t}\n"


def test_a_new_column_stops_the_consumers_and_arrives_after_they_are_started_again(
    own: Own, tmp_path: Path
) -> None:
    with pipeline(own, tmp_path, CHANGING, CHANGING_MAPPING) as on:
        on.tandem.run("snapshot")
        with on.tandem.started("run") as consumer:
            on.sql.execute("INSERT INTO t SELECT n, 'before' FROM generate_series(1, 20) AS n")
            on.wait()
            on.sql.execute("ALTER TABLE t ADD COLUMN extra integer")
            on.sql.execute("INSERT INTO t SELECT n, 'after', n FROM generate_series(21, 30) AS n")
            until(lambda: not consumer.alive, within=40)
            assert consumer.child.returncode == 1, consumer.text()
            assert "SchemaChanged" in consumer.text()
            assert "extra" in consumer.text()
        assert len(on.all("t")) == 20
        assert "SchemaChanged" in on.tandem.run("run", check=False).stderr  # a person has to decide
        on.tandem.run("setup")
        with consuming(on):
            on.tandem.run("snapshot")
            on.agree()
        assert [d["extra"] for d in on.all("t")] == [None] * 20 + list(range(21, 31))


def test_events_from_before_a_new_column_that_were_still_unread_are_not_lost(
    own: Own, tmp_path: Path
) -> None:
    with pipeline(own, tmp_path, CHANGING, CHANGING_MAPPING) as on:
        on.tandem.run("snapshot")
        on.sql.execute("INSERT INTO t SELECT n, 'before' FROM generate_series(1, 20) AS n")
        on.sql.execute("UPDATE t SET v = 'before!'")
        on.sql.execute("ALTER TABLE t ADD COLUMN extra integer")
        on.sql.execute("INSERT INTO t SELECT n, 'after', n FROM generate_series(21, 30) AS n")
        on.tandem.run("setup")
        on.tandem.run("snapshot")
        with consuming(on):
            on.agree()
        assert [d["v"] for d in on.all("t")] == ["before!"] * 20 + ["after"] * 10


def test_a_new_column_that_events_cannot_carry_arrives_after_setup(own: Own, tmp_path: Path) -> None:
    with pipeline(own, tmp_path, CHANGING, CHANGING_MAPPING) as on:
        on.tandem.run("snapshot")
        on.sql.execute("ALTER TABLE t ADD COLUMN list text[]")
        on.sql.execute("INSERT INTO t VALUES (1, 'after', '{a,b}')")
        on.tandem.run("setup")  # as the operator is told to
        on.tandem.run("snapshot")
        with consuming(on):
            on.agree(30)
        assert [d["list"] for d in on.all("t")] == [["a", "b"]]


def test_a_dropped_column_stops_the_consumers_and_the_rest_goes_on_afterwards(
    own: Own, tmp_path: Path
) -> None:
    ddl = "CREATE TABLE t (id bigint PRIMARY KEY, v text, old integer);"
    with pipeline(own, tmp_path, ddl, CHANGING_MAPPING) as on:
        on.tandem.run("snapshot")
        with on.tandem.started("run") as consumer:
            on.sql.execute("INSERT INTO t VALUES (1, 'before', 1)")
            on.wait()
            on.sql.execute("ALTER TABLE t DROP COLUMN old")
            on.sql.execute("INSERT INTO t VALUES (2, 'after')")
            until(lambda: not consumer.alive, within=40)
            assert consumer.child.returncode == 1
            assert "old" in consumer.text()
        on.tandem.run("setup")
        on.tandem.run("snapshot")
        with consuming(on):
            on.agree()
        assert [d["v"] for d in on.all("t")] == ["before", "after"]


# -- never early -------------------------------------------------------------------------------------------------
@pytest.fixture
def plain(own: Own, tmp_path: Path) -> Iterator[Pipeline]:
    with pipeline(own, tmp_path, CHANGING, CHANGING_MAPPING) as on:
        on.tandem.run("snapshot")
        yield on


def _refused(on: Pipeline) -> str:
    """What `wait-for now` says is missing; it has to exit with 1."""
    done = on.tandem.run("wait-for", "now", "--timeout", "3", check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr


def test_wait_for_is_not_early_while_a_consumer_a_partition_or_connect_is_held(plain: Pipeline) -> None:
    on = plain
    with consuming(on) as [consumer]:
        on.sql.execute("INSERT INTO t VALUES (1, 'seen')")
        on.wait()

        consumer.signal(signal.SIGSTOP)
        on.sql.execute("INSERT INTO t VALUES (2, 'behind a stopped consumer')")
        assert "records are not yet applied" in _refused(on)
        assert on.one("t", "public.t", 2) is None
        consumer.signal(signal.SIGCONT)
        _complete_with(on, 2)

        blocked, free = apart(2, start=10)
        with _partition_blocked(on, blocked):
            on.sql.execute("INSERT INTO t VALUES (%s, 'blocked'), (%s, 'free')", [blocked, free])
            assert "records are not yet applied" in _refused(on)
            assert on.one("t", "public.t", blocked) is None
        _complete_with(on, blocked)
        _complete_with(on, free)

        with _stopped(_connect_of(on)):
            on.sql.execute("INSERT INTO t VALUES (3, 'not in Kafka')")
            assert "bytes of WAL are not yet in Kafka" in _refused(on)
            assert on.one("t", "public.t", 3) is None
        _complete_with(on, 3)


def test_wait_for_is_not_early_before_the_load_and_without_a_slot(own: Own, tmp_path: Path) -> None:
    with pipeline(own, tmp_path, CHANGING, CHANGING_MAPPING) as on:
        assert "not set up" in on.tandem.run("wait-for", "now", "--timeout", "1", check=False).stderr
        on.sql.execute("INSERT INTO t VALUES (1, 'v')")
        on.tandem.run("setup")
        assert "not loaded yet, or held: public.t" in _refused(on)
        on.tandem.run("snapshot")
        on.wait()


def test_wait_for_is_not_early_on_a_slot_that_was_made_anew_by_hand(own: Own, tmp_path: Path) -> None:
    name = own.name
    with pipeline(own, tmp_path, CHANGING, CHANGING_MAPPING) as on:
        on.tandem.run("snapshot")
        with consuming(on):
            on.sql.execute("INSERT INTO t VALUES (1, 'seen')")
            on.wait()
            _connector(on, "stop")
            until(lambda: not _slot(on)["active"], within=60)
            on.sql.execute("SELECT pg_drop_replication_slot(%s)", [name])
            on.sql.execute("INSERT INTO t VALUES (2, 'in no event')")
            on.sql.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
            assert "nobody streams from the slot" in _refused(on)
            _connector(on, "resume")
            assert "nobody streams from the slot" in _refused(on)
            assert on.one("t", "public.t", 2) is None


def _connector(on: Pipeline, act: str) -> None:
    url = f"{on.own.addresses.connect_url}/connectors/{on.own.name}/{act}"
    httpx.put(url, timeout=30).raise_for_status()


def _slot(on: Pipeline) -> dict[str, Any]:
    with psycopg.connect(on.own.addresses.postgres_dsn, row_factory=dict_row) as session:
        found = session.execute(
            "SELECT * FROM pg_replication_slots WHERE slot_name = %s", [on.own.name]
        ).fetchone()
    assert found is not None
    return found


def _complete_with(on: Pipeline, key: int) -> None:
    on.wait()
    assert on.one("t", "public.t", key) is not None


@contextmanager
def _partition_blocked(on: Pipeline, key: int) -> Iterator[None]:
    """An open transaction on the position of the row's partition: who moves it conflicts."""
    _id = f"{on.own.name}.public.t/{partition_of(key)}"
    positions = on.db.get_collection("_tandem_positions", codec_options=RAW)
    with on.db.client.start_session() as session, session.start_transaction():
        changed = positions.update_one({"_id": _id}, {"$inc": {"touched": 1}}, session=session)
        assert changed.matched_count == 1
        yield
        session.abort_transaction()


def _connect_of(on: Pipeline) -> psutil.Process:
    """The Connect process of this machine: it listens where CONNECT_URL points."""
    port = urlsplit(on.own.addresses.connect_url).port
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid)
    raise LookupError(f"nobody listens on {port} here: this test wants Connect as a local process")


@contextmanager
def _stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()
