"""`tandem explain`, and `tandem verify --repair` under a writer: what differs is made anew, nothing else is touched."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import bson
import psycopg
import pytest
from bson import Int64, ObjectId
from bson.datetime_ms import DatetimeMS

from connectors.errors import Misused
from consumers.mapping.ids import object_id
from sync import app
from sync.explain.facts import Facts
from sync.explain.read import Asked
from sync.explain.verdict import Verdict
from sync.repair.report import Line, RepairReport
from tests.support import stack as servers
from tests.support.pipeline import RAW, Pipeline, consuming, pipeline
from tests.support.stack import Addresses

TABLES = """
CREATE TABLE owners (id bigint PRIMARY KEY, name text, email text);
CREATE TABLE teams (id bigint PRIMARY KEY, name text NOT NULL, owner_id bigint, active boolean, size integer,
                    made timestamptz);
CREATE TABLE members (team_id bigint, nr integer, role text, active boolean, PRIMARY KEY (team_id, nr));
CREATE TABLE badges (id bigint PRIMARY KEY, team_id bigint, nr integer, label text);
CREATE TABLE files (id uuid PRIMARY KEY, team_id bigint, name text, size numeric);
INSERT INTO owners SELECT n, 'owner ' || n, n || '@x' FROM generate_series(1, 60) AS n;
INSERT INTO teams SELECT n, 'team ' || n, n, n <> 29, n, '2026-01-01 12:00:00.123+00' FROM generate_series(1, 60) AS n;
INSERT INTO members SELECT t, m, 'role ' || m, m < 5 FROM generate_series(1, 60) AS t, generate_series(1, 5) AS m;
INSERT INTO badges SELECT t * 10 + b, t, 1, 'badge ' || b FROM generate_series(1, 60) AS t, generate_series(1, 2) AS b;
INSERT INTO files SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, n, 'file ' || n, n / 4.0
  FROM generate_series(1, 40) AS n;
"""
MAPPING = """
version: 1
collections:
  owners: {from: public.owners}
  teams:
    from: public.teams
    where: active
    embed:
      members:
        from: public.members
        foreign_key: team_id
        where: active
        order_by: [nr]
        embed: {badges: {from: public.badges, foreign_key: [team_id, nr], order_by: [id]}}
    copy: {owner: {from: public.owners, foreign_key: owner_id, only: [name]}}
    indexes: [{keys: {name: 1}, unique: true}]
  members: {from: public.members}
  files:
    from: public.files
    references: {teamId: {column: team_id, to: teams}}
"""
#: rows that the writer leaves alone
QUIET = range(1, 27)


def team(n: int) -> ObjectId:
    return object_id("public.teams", [n])


def member(n: int, no: int) -> ObjectId:
    return object_id("public.members", [n, no])


def file(n: int) -> ObjectId:
    return object_id("public.files", [UUID(int=int(str(n), 16))])


ROWS, COPIES = "_tandem_rows_teams_members", "_tandem_copies_teams_owner"
BADGES = "_tandem_rows_teams_members_badges"


@pytest.fixture(scope="module")
def on(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("story")
    with servers.own_names(stack) as own, pipeline(own, folder, TABLES, MAPPING) as running:
        running.tandem.run("snapshot")
        with consuming(running, 2):
            running.agree()
            yield running


@contextmanager
def writing(on: Pipeline, seed: int) -> Iterator[None]:
    """Changes, beside the test, of the rows that are not quiet."""
    stopping, failed, chance = threading.Event(), list[BaseException](), random.Random(seed)

    def write(session: psycopg.Connection[Any]) -> None:
        n, nr = chance.randrange(30, 61), chance.randrange(1, 6)
        statement: str = chance.choice(
            [
                "UPDATE teams SET size = size + 1 WHERE id = {n}",
                "UPDATE teams SET active = NOT active WHERE id = {n}",
                "UPDATE owners SET name = name || '.' WHERE id = {n}",
                "UPDATE members SET role = role || '.' WHERE team_id = {n} AND nr = {nr}",
                "DELETE FROM members WHERE team_id = {n} AND nr = {nr}",
                "INSERT INTO members VALUES ({n}, {nr}, 'new', true) ON CONFLICT DO NOTHING",
                "UPDATE badges SET label = label || '.' WHERE team_id = {n}",
            ]
        )
        session.execute(statement.format(n=n, nr=nr).encode())

    def run() -> None:
        try:
            with on.session() as session:
                session.autocommit = True
                while not stopping.wait(0.05):
                    write(session)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        assert not failed, failed


def plant(on: Pipeline) -> dict[tuple[str, str], str]:
    """One fault of each kind, each in a document of its own. Returns what is to be done about each."""
    db = on.db
    sync = {"at": None, "lsn": Int64(4)}
    reverse = db["teams"].find_one({"_id": team(4)}) or {}
    made = (db["teams"].find_one({"_id": team(13)}) or {})["made"]
    faults: dict[tuple[str, Any], tuple[str, Callable[[], object]]] = {
        ("teams", team(1)): ("made anew", lambda: db["teams"].delete_one({"_id": team(1)})),
        ("teams", team(999)): ("removed", lambda: db["teams"].insert_one({"_id": team(999), "_sync": sync})),
        ("teams", team(29)): (
            "removed",
            lambda: db["teams"].insert_one({"_id": team(29), "name": "?", "_sync": sync}),
        ),
        ("teams", team(2)): ("made anew", lambda: set_in("teams", team(2), {"name": "team two"})),
        ("teams", team(3)): ("made anew", lambda: set_in("teams", team(3), {"size": 3.0})),
        ("teams", team(4)): (
            "made anew",
            lambda: set_in("teams", team(4), {"members": reverse["members"][::-1]}),
        ),
        ("teams", team(5)): (
            "made anew",
            lambda: (
                db[ROWS].delete_one({"_id": member(5, 2)}),
                db["teams"].update_one({"_id": team(5)}, {"$pull": {"members": {"nr": 2}}}),
            ),
        ),
        ("teams", team(6)): (
            "made anew",
            lambda: (
                copied_row(ROWS, member(6, 1)),
                db["teams"].update_one({"_id": team(6)}, {"$push": {"members": {"nr": 1}}}),
            ),
        ),
        ("teams", team(7)): ("made anew", lambda: set_in("teams", team(7), {"isVip": True})),
        # the array is right, but a staged row is missing: whoever makes it anew would lose a member
        ("teams", team(8)): (
            "made anew",
            lambda: (db[ROWS].delete_one({"_id": member(8, 3)}), set_in("teams", team(8), {"size": 0})),
        ),
        ("teams", team(9)): ("made anew", lambda: set_in("teams", team(9), {"owner": {"name": "?"}})),
        ("teams", team(10)): (
            "made anew",
            lambda: (
                set_in(COPIES, object_id("public.owners", [10]), {"d": {"name": "?"}}),
                set_in("teams", team(10), {"owner": {"name": "?"}}),
            ),
        ),
        ("teams", team(11)): (
            "made anew",
            lambda: (
                db[BADGES].delete_one({"_id": object_id("public.badges", [111])}),
                set_in("teams", team(11), {"members.0.badges": []}),
            ),
        ),
        ("teams", team(12)): (
            "made anew",
            lambda: db["teams"].update_one({"_id": team(12)}, {"$unset": {"_sync": 1}}),
        ),
        ("teams", team(13)): (
            "made anew",
            lambda: set_in("teams", team(13), {"made": DatetimeMS(int(made) - 1)}),
        ),
        # a member lies with another team
        ("teams", team(14)): ("made anew", lambda: None),
        ("teams", team(15)): (
            "made anew",
            lambda: (
                set_in(ROWS, member(14, 1), {"p": team(15)}),
                db["teams"].update_one({"_id": team(14)}, {"$pull": {"members": {"nr": 1}}}),
                db["teams"].update_one({"_id": team(15)}, {"$push": {"members": {"nr": 1}}}),
            ),
        ),
        ("files", file(1)): ("made anew", lambda: db["files"].delete_one({"_id": file(1)})),
        ("files", file(2)): ("made anew", lambda: set_in("files", file(2), {"teamId": ObjectId()})),
        ("files", file(77)): (
            "removed",
            lambda: db["files"].insert_one(
                {"_id": file(77), "_sync": {**sync, "key": [str(UUID(int=0x77))]}}
            ),
        ),
        ("files", strange := ObjectId()): (
            "removed",
            lambda: db["files"].insert_one({"_id": strange, "_sync": sync}),
        ),
        ("files", "me"): ("of another client", lambda: db["files"].insert_one({"_id": "me"})),
        ("owners", foreign := ObjectId()): (
            "of another client",
            lambda: db["owners"].insert_one({"_id": foreign, "name": "me"}),
        ),
    }

    def set_in(collection: str, _id: ObjectId, fields: dict[str, Any]) -> None:
        assert db[collection].update_one({"_id": _id}, {"$set": fields}).matched_count == 1

    def copied_row(place: str, _id: ObjectId) -> None:
        one = db[place].find_one({"_id": _id}) or {}
        db[place].insert_one({**one, "_id": ObjectId()})

    for _, fault in faults.values():
        fault()
    return {(collection, str(_id)): act for (collection, _id), (act, _) in faults.items()}


def acts(report: RepairReport) -> dict[tuple[str, str], str]:
    return {(line.suspect.collection, line.suspect.id): line.act for line in report.lines}


def quiet(on: Pipeline, less: set[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """The bytes of all documents that nobody has a reason to touch."""
    rows = {
        "owners": [object_id("public.owners", [n]) for n in QUIET],
        "teams": [team(n) for n in QUIET],
        "members": [member(n, no) for n in QUIET for no in range(1, 6)],
        "files": [file(n) for n in range(1, 41)],
    }
    return {
        (name, str(document["_id"])): bson.encode(document, codec_options=RAW)
        for name, ids in rows.items()
        for document in on.db[name].find({"_id": {"$in": ids}})
        if (name, str(document["_id"])) not in less
    }


def line(report: RepairReport, collection: str, _id: object) -> Line:
    return next(
        one for one in report.lines if (one.suspect.collection, one.suspect.id) == (collection, str(_id))
    )


def story(on: Pipeline, collection: str, _id: object = None, **more: Any) -> tuple[Facts, Verdict]:
    return app.explain(on.settings, Asked(collection, None if _id is None else str(_id), **more))


def test_where_a_document_comes_from(on: Pipeline) -> None:
    on.sql.execute("UPDATE teams SET size = size + 1 WHERE id = 27")
    on.sql.execute("UPDATE members SET role = 'chief' WHERE team_id = 27 AND nr = 1")
    on.sql.execute("DELETE FROM members WHERE team_id = 27 AND nr = 2")
    on.sql.execute("DELETE FROM teams WHERE id = 28")
    on.wait()

    # -- it agrees -----------------------------------------------------------------------------------------------
    facts, told = story(on, "teams", team(27))
    assert (told.ok, told.what) == (True, f"agrees with public.teams id=27 as of {facts.lsn}")
    assert (facts.key, facts.key_from, facts.passes) == ({"id": "27"}, "read back from the _id", True)
    lines = on.tandem.mapping.read_text().splitlines()
    assert {one.name: lines[one.line - 1].split(":")[0].strip() for one in facts.fields} == {
        **dict.fromkeys(("id", "name", "ownerId", "active", "size", "made"), "from"),
        "members": "members",
        "owner": "copy",
    }
    document = on.one("teams", "public.teams", 27) or {}
    (own,) = (one for one in facts.events if one.own)
    assert (own.op, own.offset, own.partition) == ("update", document["_sync"]["at"], facts.partition)
    assert own.lsn == (facts.sync or {})["lsn"]
    others = [(one.table, one.key, one.op) for one in facts.events if not one.own and one.op != "tombstone"]
    assert others == [("public.members", "[27,1]", "update"), ("public.members", "[27,2]", "delete")]
    assert {one.field for one in facts.staged} == {"members", "members.badges", "owner"}
    assert facts.behind == 0
    assert not any(one.own for one in story(on, "teams", pk={"id": "27"}, look_back=0)[0].events)

    # -- it does not -----------------------------------------------------------------------------------------------
    on.db["teams"].update_one(
        {"_id": team(27)}, {"$set": {"size": 3.5, "members.0.role": "?", "isVip": True}}
    )
    on.db["_tandem_parked"].insert_one(
        {"_id": "public.members [27,1]", "table": "public.members", "key": "[27,1]", "partition": ""}
    )
    shown = on.tandem.run("explain", "teams", "--pk", "id=27", check=False)
    assert shown.returncode == 1
    assert shown.stdout.startswith("differs from public.teams id=27 in 3 fields: size, members, isVip\n")
    assert "an event of public.members [27,1] is parked" in shown.stdout
    assert "members[0].role: expected string 'chief'" in shown.stdout
    on.db["_tandem_parked"].delete_many({})
    assert app.repair(on.settings, collections=["teams"], execute=True).ok
    assert story(on, "teams", team(27))[1].ok

    # -- it is not there, rightly or not -----------------------------------------------------------------------------
    assert "there is no row public.teams id=28: deleted at" in story(on, "teams", team(28))[1].what
    assert "`active` is false" in story(on, "teams", team(29))[1].what
    on.db["files"].update_one({"_id": file(3)}, {"$unset": {"_sync.key": 1}})
    facts, told = story(on, "files", file(3))
    assert (told.ok, facts.key_from) == (True, "found among all keys of the table")
    on.db["files"].delete_one({"_id": file(3)})
    assert story(on, "files", file(3))[1].what.startswith("missing: public.files id=00000000-")
    assert app.repair(on.settings, collections=["files"], execute=True).ok
    assert story(on, "files", file(3))[0].key_from == "kept beside it"
    assert "no row of public.files has this _id" in story(on, "files", "f" * 24)[1].what

    # -- what is asked wrongly ---------------------------------------------------------------------------------
    for collection, more in (
        ("teamz", {"_id": team(1)}),
        ("teams", {"_id": "zzz"}),
        ("teams", {"pk": {"name": "x"}}),
        ("members", {"pk": {"team_id": "1"}}),
        ("teams", {"pk": {"id": "x"}}),
        ("members", {"pk": {"team_id": "1", "nr": "9" * 20}}),
    ):
        with pytest.raises(Misused):
            story(on, collection, more.get("_id"), **{n: v for n, v in more.items() if n == "pk"})
    assert on.tandem.run("explain", "teams", check=False).returncode == 2


def test_what_differs_is_made_anew_and_nothing_else_is_touched(
    on: Pipeline, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("seed") or random.randrange(10**6)
    print(f"--seed {seed}")
    with writing(on, seed):
        wanted = plant(on)
        untouched = quiet(on, set(wanted))
        assert len(untouched) > 150

        # -- a dry run says all and does nothing ----------------------------------------------------------------
        planted = {at: on.db[at[0]].find_one({"_id": ObjectId(at[1])}) for at in wanted if at[1] != "me"}
        would = app.repair(on.settings)
        assert acts(would) == wanted
        assert not would.ok
        assert line(would, "teams", team(3)).changes == ("- size: 3.0", "+ size: 3")
        assert line(would, "teams", team(7)).changes == ("- isVip: true",)
        assert "public.members [5,2]" in line(would, "teams", team(5)).rows
        assert "public.badges [111]" in line(would, "teams", team(11)).rows
        assert {at: on.db[at[0]].find_one({"_id": ObjectId(at[1])}) for at in planted} == planted
        assert quiet(on, set(wanted)) == untouched

        # -- killed in the middle, it is run again ----------------------------------------------------------------
        with on.tandem.started("verify", "--repair", "--execute") as process:
            began = time.monotonic()
            while "of 2" not in process.text() and process.alive and time.monotonic() - began < 60:
                time.sleep(0.005)
            process.kill()
        report = app.repair(on.settings, execute=True)
        assert set(acts(report).items()) <= set(wanted.items())
        left = {at for at, act in wanted.items() if act == "of another client"}
        assert {
            (of.suspect.collection, of.suspect.id) for of in report.lines if of.verdict != "mended"
        } == left
        assert quiet(on, set(wanted)) == untouched

        # -- who asks for it has also removed what tandem did not write --------------------------------------------
        last = app.repair(on.settings, execute=True, remove_foreign=True)
        assert last.ok
        assert acts(last).keys() == left
        done = on.tandem.json("verify", "--repair", "--execute")
        assert done == {"ok": True, "dry_run": False, "lsn": done["lsn"], "documents": [], "left": 0}
        assert quiet(on, set(wanted)) == untouched

    # -- and the stream goes on from there, by what is staged -------------------------------------------------------
    on.sql.execute("UPDATE members SET role = 'last' WHERE nr = 1")
    on.sql.execute("UPDATE owners SET name = name || '!'")
    on.sql.execute("UPDATE teams SET active = true")
    on.sql.execute("DELETE FROM members WHERE nr = 2")
    on.agree()


def test_parked_rows_and_held_tables_are_left_alone(on: Pipeline) -> None:
    on.db["teams"].update_one({"_id": team(1)}, {"$set": {"size": 0}})
    on.db["owners"].update_one({"_id": object_id("public.owners", [3])}, {"$set": {"name": "?"}})
    on.db["_tandem_parked"].insert_one(
        {"_id": "public.members [1,3]", "table": "public.members", "key": "[1,3]", "partition": ""}
    )
    report = app.repair(on.settings, execute=True)
    assert acts(report) == {
        ("teams", str(team(1))): "parked",
        ("owners", str(object_id("public.owners", [3]))): "made anew",
    }
    assert line(report, "teams", team(1)).remedy == "tandem dead-letters retry 'public.members [1,3]'"
    assert line(report, "owners", object_id("public.owners", [3])).verdict == "mended"
    assert app.retry_dead_letters(on.settings, ["public.members [1,3]"]).ok
    assert app.repair(on.settings, execute=True).ok
    refused = on.tandem.run("verify", "--execute", check=False)
    assert refused.returncode == 2
