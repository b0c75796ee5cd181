"""A state of the past, into a shadow: exactly as it was; and a rebuild from an archive (docs/rebuild.md)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from consumers.mapping.ids import object_id
from tests.support.pipeline import Pipeline, consuming, pipeline
from tests.support.stack import Own
from tests.support.until import until

DDL = """
CREATE TABLE teams (id bigint PRIMARY KEY, name text NOT NULL, is_active boolean NOT NULL DEFAULT true);
CREATE TABLE members (id bigint PRIMARY KEY, team_id bigint, nick text);
CREATE TABLE others (id bigint PRIMARY KEY, v integer);
"""
MAPPING = """
version: 1
collections:
  teams:
    from: public.teams
    where: is_active
    embed: {members: {from: public.members, foreign_key: team_id}}
    indexes: [{keys: {name: 1}, unique: true}]
  others: {from: public.others}
"""
Docs = dict[Any, dict[str, Any]]


def change(session: psycopg.Connection[Any], rng: random.Random, times: int) -> None:
    """Random transactions over all tables."""
    for _ in range(times):
        with session.transaction():
            for _ in range(rng.randrange(1, 4)):
                key, other = rng.randrange(1, 30), rng.randrange(1, 60)
                statement, values = rng.choice(
                    [
                        ("INSERT INTO teams VALUES (%s, %s) ON CONFLICT DO NOTHING", [key, f"t{key} {rng.random()}"]),
                        ("UPDATE teams SET name = name || '.' WHERE id = %s", [key]),
                        ("UPDATE teams SET is_active = NOT is_active WHERE id = %s", [key]),
                        ("DELETE FROM teams WHERE id = %s", [key]),
                        ("INSERT INTO members VALUES (%s, %s, 'n') ON CONFLICT DO NOTHING", [other, key]),
                        ("UPDATE members SET team_id = %s WHERE id = %s", [key, other]),
                        ("DELETE FROM members WHERE id = %s", [other]),
                        ("INSERT INTO others VALUES (%s, 1) ON CONFLICT (id) DO UPDATE SET v = others.v + 1", [other]),
                    ]
                )  # fmt: skip
                session.execute(statement.encode(), values)


def oracle(session: psycopg.Connection[Any]) -> Docs:
    """The documents of teams, straight from the tables as they are now."""
    found: Docs = {}
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        members: dict[int, list[dict[str, Any]]] = {}
        for key, team, nick in session.execute("SELECT id, team_id, nick FROM members ORDER BY id"):
            members.setdefault(team, []).append({"id": key, "nick": nick})
        for key, name in session.execute("SELECT id, name FROM teams WHERE is_active"):
            found[object_id("public.teams", (key,))] = {
                "id": key, "name": name, "isActive": True, "members": members.get(key, []),
            }  # fmt: skip
    return found


def shadow(on: Pipeline, report: dict[str, Any]) -> Docs:
    """The documents of a shadow, less `_sync`."""
    found = {d.pop("_id"): d for d in on.db[report["prefix"] + "teams"].find({}, {"_sync": 0})}
    return {_id: {n: d[n] for n in ("id", "name", "isActive", "members")} for _id, d in found.items()}


@contextmanager
def begun(own: Own, folder: Path, **settings: str) -> Iterator[Pipeline]:
    """A pipeline whose tables were empty when it began, with a consumer."""
    with pipeline(own, folder, DDL, MAPPING, **settings) as on:
        on.tandem.run("snapshot")
        with consuming(on) as [consumer]:
            until(lambda: "consuming" in consumer.text(), within=60)
            yield on


def test_the_state_as_of_an_lsn_and_a_time_is_that_of_then(
    own: Own, tmp_path: Path, pytestconfig: Any
) -> None:
    seed = pytestconfig.getoption("--seed") or random.randrange(1_000_000)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with begun(own, tmp_path) as on, on.session() as late:
        change(on.sql, rng, 60)
        late.execute("INSERT INTO teams VALUES (1000, 'committed later')")
        late.execute("UPDATE others SET v = -1")
        at = on.sql.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        moment = on.sql.execute("SELECT clock_timestamp()::text").fetchone()
        assert at
        assert moment
        expected = oracle(on.sql)
        time.sleep(0.01)
        late.commit()
        change(on.sql, rng, 60)
        assert oracle(on.sql) != expected
        for until_ in (at[0], moment[0].replace(" ", "T")):
            report = on.tandem.json("rebuild", "teams", "--from", "topics", "--until", until_)
            assert shadow(on, report) == expected
            refused = on.tandem.run("rebuild", "--swap", check=False)
            assert refused.returncode == 1
            assert "not to be swapped in" in refused.stderr
            on.tandem.run("rebuild", "--discard")
        on.agree(60)
        assert not [n for n in on.db.list_collection_names() if n.startswith("_tandem_shadow_")]


def test_a_rebuild_from_the_archive_is_of_then_or_of_now(own: Own, tmp_path: Path) -> None:
    rng = random.Random(5)
    place = {"TANDEM_ARCHIVE__URL": str(tmp_path / "archive"), "TANDEM_ARCHIVE__SEGMENT_S": "1"}
    with begun(own, tmp_path, **place) as on:
        change(on.sql, rng, 40)
        refused = on.tandem.run("rebuild", "teams", "--from", "archive", check=False)
        assert refused.returncode == 1, refused.stderr
        with on.tandem.started("archive", "run"):
            on.tandem.run("archive", "base")
            change(on.sql, rng, 30)
            at = on.sql.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            assert at
            expected = oracle(on.sql)
            change(on.sql, rng, 30)
            report = on.tandem.json("rebuild", "teams", "--from", "archive", "--until", at[0])
            assert report["rows"] > 0
            assert shadow(on, report) == expected
            on.tandem.run("rebuild", "--discard")
            change(on.sql, rng, 20)
            report = on.tandem.json("rebuild", "teams", "--from", "archive", "--swap")
            assert report["swapped"]
        on.agree(60)
