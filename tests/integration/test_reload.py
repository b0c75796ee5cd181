"""Rows read again beside a running stream: by hand, for another mapping, after a slot was lost, and after a change of
the tables (docs/operations.md)."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from bson import Int64

from consumers.mapping.ids import object_id
from tests.support.pipeline import Pipeline, consuming, pipeline
from tests.support.stack import Own
from tests.support.until import until

DDL = """
CREATE TABLE teams (id bigint PRIMARY KEY, name text NOT NULL, body text, is_active boolean NOT NULL DEFAULT true);
CREATE TABLE members (id bigint PRIMARY KEY, team_id bigint, nick text, place integer);
CREATE TABLE notes (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), team_id bigint, text text);
INSERT INTO teams SELECT n, 'team ' || n, repeat(md5(n::text), 100) FROM generate_series(1, 300) AS n;
INSERT INTO members SELECT n, n % 300 + 1, 'nick ' || n, n % 7 FROM generate_series(1, 2000) AS n;
INSERT INTO notes (team_id, text) SELECT n % 300 + 1, 'note ' || n FROM generate_series(1, 500) AS n;
"""
MAPPING = """
version: 1
collections:
  teams:
    from: public.teams
    where: is_active
    embed:
      members: {from: public.members, foreign_key: team_id, order_by: place}
    indexes: [{keys: {name: 1}, unique: true}]
"""


@contextmanager
def writing(on: Pipeline, tables: tuple[str, ...] = ("teams", "members")) -> Iterator[list[int]]:
    """A client of the source beside the test: it changes, moves, removes and makes rows until the end."""
    stop, done, failed = threading.Event(), [0], list[BaseException]()

    def write() -> None:
        rng = random.Random(7)
        try:
            with psycopg.connect(on.own.addresses.postgres_dsn, autocommit=True) as session:
                while not stop.is_set():
                    _change(session, rng.choice(tables), rng, done[0])
                    done[0] += 1
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


def _change(session: psycopg.Connection[object], table: str, rng: random.Random, n: int) -> None:
    key, other = rng.randrange(1, 320), rng.randrange(1, 2100)
    statements = {
        "teams": (
            ("UPDATE teams SET name = name || '.' WHERE id = %s", [key]),
            ("UPDATE teams SET is_active = NOT is_active WHERE id = %s", [key]),
            ("DELETE FROM teams WHERE id = %s", [key]),
            ("INSERT INTO teams VALUES (%s, %s, 'new') ON CONFLICT DO NOTHING", [key, f"new {n}"]),
        ),
        "members": (
            ("UPDATE members SET team_id = %s WHERE id = %s", [key, other]),
            ("DELETE FROM members WHERE id = %s", [other]),
            ("INSERT INTO members VALUES (%s, %s, 'new', 1) ON CONFLICT DO NOTHING", [other, key]),
        ),
        "notes": (
            (
                "UPDATE notes SET text = text || '.' WHERE ctid = (SELECT min(ctid) FROM notes WHERE team_id = %s)",
                [key],
            ),
            ("INSERT INTO notes (team_id, text) VALUES (%s, 'new')", [key]),
        ),
    }
    session.execute(*rng.choice(statements[table]))
    time.sleep(0.04)


def test_rows_are_read_again_under_a_writer_though_the_reload_is_killed(own: Own, tmp_path: Path) -> None:
    limits = {"TANDEM_LIMITS__CHUNK_ROWS": "100", "TANDEM_LIMITS__LOAD_ROWS": "50"}
    with pipeline(own, tmp_path, DDL, MAPPING, **limits) as on:
        on.tandem.run("snapshot")
        with consuming(on, 2):
            on.wait()
            dry = on.tandem.json("reload", "teams", "--dry-run")
            print(dry)
            with writing(on) as written:
                until(lambda: written[0] > 20)
                _spoil(on)
                with on.tandem.started("reload", "teams") as first:
                    until(lambda: on.db["_tandem_walks"].count_documents({"done": True}) > 3, within=120)
                    first.kill()
                report = on.tandem.json("reload")
                print(report)
                assert report["resumed"]
            on.agree(180)


def test_a_slot_that_was_dropped_under_a_writer_is_healed(own: Own, tmp_path: Path) -> None:
    with pipeline(own, tmp_path, DDL, MAPPING) as on:
        on.tandem.run("snapshot")
        with writing(on):
            with consuming(on) as [consumer]:
                until(lambda: on.db["_tandem_positions"].count_documents({"at": {"$gt": 0}}) > 0, within=30)
                _drop_slot(on)
                until(lambda: not consumer.alive, within=40)
                assert "tandem heal" in consumer.text()
            with on.tandem.started(
                "heal"
            ) as first:  # killed when it holds all, before or after there is a new slot
                until(lambda: on.db["_tandem_claims"].count_documents({}) > 0, within=120)
                first.kill()
            refused = on.tandem.run("wait-for", "now", "--timeout", "1", check=False)
            assert refused.returncode == 1
            on.tandem.run("heal")
            assert on.tandem.run("heal", check=False).returncode == 1  # nothing is to be healed
        with consuming(on):
            on.agree(180)


def _drop_slot(on: Pipeline) -> None:
    name = [on.own.name]

    def dropped() -> bool:
        on.sql.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active",
            name,
        )
        with contextlib.suppress(psycopg.errors.ObjectInUse):
            on.sql.execute("SELECT pg_drop_replication_slot(%s)", name)
            return True
        return False

    until(dropped, within=20)


OTHER_MAPPING = (
    MAPPING.replace("embed:", "rename: {body: text}\n    embed:", 1)
    + """
  memberships: {from: public.members}
  notes: {from: public.notes, references: {teamId: {column: team_id, to: teams}}}
"""
)


def test_collections_come_change_and_go_on_a_running_pipeline(own: Own, tmp_path: Path) -> None:
    """The consumers follow by themselves."""
    with pipeline(own, tmp_path, DDL, MAPPING) as on:
        on.tandem.run("snapshot")
        with consuming(on, 2) as both, writing(on, ("teams", "members", "notes")):
            until(lambda: all("consuming" in consumer.text() for consumer in both), within=60)
            on.tandem.mapping.write_text(OTHER_MAPPING, encoding="utf-8")
            told = on.tandem.json("setup")
            assert any("tandem reload teams" in line for line in told["warnings"]), told
            missing = on.tandem.run("wait-for", "now", "--timeout", "1", check=False).stderr
            assert "not read again yet: public.teams, public.members" in missing
            assert "public.notes" in missing
            loaded = on.tandem.json("snapshot")
            assert set(loaded["collections"]) == {"notes"}
            assert set(loaded["again"]["tables"]) == {"public.teams", "public.members"}
            assert all("going on by the new one" in consumer.text() for consumer in both)
        with consuming(on):
            on.agree(180)
        assert on.db["teams"].count_documents({"body": {"$exists": True}}) == 0
        assert on.db["memberships"].count_documents({}) > 1_000

        with consuming(on) as [consumer], writing(on, ("teams", "members", "notes")):
            until(lambda: "consuming" in consumer.text(), within=60)
            on.tandem.mapping.write_text(MAPPING.replace("embed:", "rename: {body: text}\n    embed:", 1))
            told = on.tandem.json("setup", "--drop-removed")
            assert any("no longer mapped: memberships, notes" in line for line in told["warnings"])
            until(lambda: "going on by the new one" in consumer.text(), within=60)
            on.agree(180)
        assert {"memberships", "notes"}.isdisjoint(on.db.list_collection_names())
        assert {p["table"] for p in on.db["_tandem_positions"].find({})} == {"public.teams", "public.members"}
        published = on.sql.execute("SELECT tablename FROM pg_publication_tables ORDER BY 1").fetchall()
        assert published == [("members",), ("teams",)]


TAKEN_OVER = """
CREATE TABLE a (id bigint PRIMARY KEY, v text, n integer, old text);
CREATE TABLE b (id bigint PRIMARY KEY, v text);
INSERT INTO a SELECT i, 'v', i, 'old' FROM generate_series(1, 300) AS i;
INSERT INTO b SELECT i, 'v' FROM generate_series(1, 50) AS i;
"""
TAKEN_OVER_MAPPING = """
version: 1
collections:
  a: {from: public.a, on_schema_change: apply}
  b: {from: public.b, on_schema_change: ignore}
"""


def test_tables_that_change_under_a_writer_are_taken_over_or_not(own: Own, tmp_path: Path) -> None:
    with pipeline(own, tmp_path, TAKEN_OVER, TAKEN_OVER_MAPPING) as on:
        on.tandem.run("snapshot")
        stop = threading.Event()
        with consuming(on, 2), _touching(on, stop):
            on.sql.execute("ALTER TABLE b ADD COLUMN extra integer DEFAULT 5")
            on.sql.execute(
                "ALTER TABLE a ADD COLUMN extra integer DEFAULT 5, ADD COLUMN u uuid DEFAULT gen_random_uuid()"
            )
            until(lambda: on.db["a"].count_documents({"extra": 5}) >= 300, within=120)
            on.sql.execute(
                "ALTER TABLE a DROP COLUMN old, ALTER COLUMN n TYPE text,"
                " ADD COLUMN g text GENERATED ALWAYS AS (id || '!') STORED"
            )
            on.sql.execute("ALTER TABLE a RENAME COLUMN extra TO more")
            until(
                lambda: on.db["a"].count_documents({"more": 5, "n": {"$type": "string"}}) >= 300, within=120
            )
            on.sql.execute("BEGIN; TRUNCATE a; ALTER TABLE a ADD COLUMN last boolean DEFAULT true; COMMIT")
            stop.set()
        with consuming(on):
            on.sql.execute("INSERT INTO a (id, v) VALUES (1, 'new')")
            on.agree(180)
        assert len(on.all("b")) == 50
        assert all("extra" not in d for d in on.all("b"))
        assert [d["last"] for d in on.all("a")][-1:] == [True]
        assert "left out" in on.tandem.run("status", check=False).stdout


@contextmanager
def _touching(on: Pipeline, stop: threading.Event) -> Iterator[None]:
    """A client that knows only the column `v`."""

    def touch() -> None:
        rng = random.Random(5)
        with on.session() as session:
            session.autocommit = True
            while not stop.wait(0.02):
                session.execute("UPDATE a SET v = v || '.' WHERE id = %s", [rng.randrange(1, 310)])
                session.execute(
                    "INSERT INTO a (id, v) VALUES (%s, 'v') ON CONFLICT DO NOTHING", [rng.randrange(1, 310)]
                )
                session.execute("UPDATE b SET v = v || '.' WHERE id = %s", [rng.randrange(1, 51)])

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _spoil(on: Pipeline) -> None:
    """What no event mends: values, a document and a staged row without a row, a document that is missing."""
    stamp = {"at": None, "lsn": Int64(1)}
    on.db["teams"].update_many({}, {"$set": {"members": []}, "$unset": {"body": 1}})
    on.db["teams"].delete_one({"_id": object_id("public.teams", (7,))})
    on.db["teams"].insert_one(
        {"_id": object_id("public.teams", (99_999,)), "name": "left over", "_sync": stamp}
    )
    # more than a look of ids of a type that comes before ours
    strange = [{"_id": f"strange {n}", "name": f"strange {n}", "_sync": stamp} for n in range(1_100)]
    on.db["teams"].insert_many(strange)
    staged = {
        "_id": "[99999]",
        "p": object_id("public.teams", (8,)),
        "o": [1, 99_999],
        "l": Int64(1),
        "d": {},
    }
    on.db["_tandem_rows_teams_members"].insert_one(staged)
    parked = {
        "table": "public.teams",
        "key": "[9]",
        "partition": "",
        "code": "Test",
        "reason": "",
        "events": [],
    }
    on.db["_tandem_parked"].insert_one({"_id": "public.teams [9]", **parked})
