"""The way back on real servers: what an application writes to MongoDB reaches PostgreSQL, each change once."""

from __future__ import annotations

import datetime as dt
import os
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import bson
import psycopg
import pytest
from bson import ObjectId

from connectors.errors import TakenOver
from connectors.mongo.changes import as_text, from_text
from connectors.postgres.reverse import Reverse
from consumers.mapping.ids import object_id
from sync import app, back
from sync.dev.state import Addresses
from tests.support import stack as servers
from tests.support import warm
from tests.support.acp import EXAMPLES, load_script
from tests.support.pipeline import Doc, Pipeline, pipeline
from tests.support.reverser import POINTS


@pytest.fixture(scope="module")
def acp(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """The ACP example, loaded, and the way back on; one for all tests, which write to documents of their own."""
    ddl = (EXAMPLES / "schema.sql").read_text(encoding="utf-8")
    mapping = (EXAMPLES / "mapping.yaml").read_text(encoding="utf-8")
    with (
        servers.own_names(stack) as own,
        pipeline(own, tmp_path_factory.mktemp("acp"), ddl, mapping) as on,
    ):
        on.sql.execute(load_script(20))
        app.setup(on.settings, _quiet)
        app.snapshot(on.settings, _quiet)
        back.turn_on(on.settings, "test")
        yield on


def _quiet(*_: object, **__: object) -> None:
    """Nobody reads it."""


def applied(on: Pipeline) -> None:
    """Everything that was written to MongoDB is in PostgreSQL, or parked."""
    back.run(on.settings, _quiet, lambda: False, until_drained=True)


def row(on: Pipeline, table: str, condition: str, *values: Any) -> Doc | None:
    cursor = on.sql.execute(f"SELECT * FROM {table} WHERE {condition}".encode(), values)
    found = cursor.fetchone()
    return (
        None if found is None else dict(zip([c.name for c in cursor.description or ()], found, strict=True))
    )


def aside(on: Pipeline, id_: Any) -> Any:
    """What of a document goes to no column."""
    found = on.sql.execute("SELECT fields FROM tandem.reverse_aside WHERE id = %s", [as_text(id_)]).fetchone()
    return None if found is None else found[0]


def same_as_rows(on: Pipeline) -> None:
    """No document differs from its rows, and nothing is parked."""
    status = back.status(on.settings)
    assert not status.counts["parked"], status.as_dict()
    found = back.resync(on.settings, _quiet, dry_run=True)
    assert not found.differing, found.as_dict()


def test_an_update_arrives_once(acp: Pipeline) -> None:
    acp.db["users"].update_one({"_id": object_id("public.users", (3,))}, {"$set": {"fullName": "Other"}})
    applied(acp)
    assert (row(acp, "users", "id = 3") or {})["full_name"] == "Other"
    now = acp.sql.execute("SELECT xmin::text FROM users WHERE id = 3").fetchone()
    applied(acp)
    assert now == acp.sql.execute("SELECT xmin::text FROM users WHERE id = 3").fetchone()
    same_as_rows(acp)


NOW = dt.datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=dt.UTC)


def user(name: str, **more: Any) -> Doc:
    """A user as an application makes one: without a key, without `_sync`."""
    return {
        "_id": ObjectId(), "username": name, "email": f"{name}@example.org", "fullName": name.title(), "phone": None,
        "passwordHash": "x", "nfsWorkspacePath": None, "isActive": True, "createdAt": NOW, "updatedAt": NOW, **more,
    }  # fmt: skip


def team(name: str, by: Any, *members: Any) -> Doc:
    return {
        "_id": ObjectId(), "teamName": name, "specialization": None, "description": "new", "createdBy": by,
        "isActive": True, "createdAt": NOW, "updatedAt": NOW,
        "members": [{"userId": m, "role": "member", "status": "active", "joinedAt": NOW} for m in members],
    }  # fmt: skip


def test_new_documents_become_rows_in_any_order(acp: Pipeline) -> None:
    ann, bob = user("ann"), user("bob", favourite={"colour": "red"})
    old = object_id("public.users", (2,))
    # the team comes before both users that it refers to
    acp.db["teams"].insert_one(team("reds", ann["_id"], bob["_id"], old))
    acp.db["users"].insert_many([bob, ann])
    applied(acp)
    a, b = row(acp, "users", "username = 'ann'"), row(acp, "users", "username = 'bob'")
    assert a is not None
    assert b is not None
    assert a["created_at"] == NOW
    made = row(acp, "teams", "team_name = 'reds'")
    assert made is not None
    assert made["created_by"] == a["id"]
    members = acp.sql.execute("SELECT user_id FROM team_members WHERE team_id = %s", [made["id"]]).fetchall()
    assert {m[0] for m in members} == {2, b["id"]}
    # what has no column is kept
    assert aside(acp, bob["_id"]) == {"favourite": {"colour": "red"}}
    # a second change of the same documents goes to the same rows
    acp.db["users"].update_one({"_id": bob["_id"]}, {"$set": {"phone": "1"}, "$unset": {"favourite": 1}})
    applied(acp)
    assert (row(acp, "users", "username = 'bob'") or {})["id"] == b["id"]
    assert aside(acp, bob["_id"]) is None
    same_as_rows(acp)


def test_members_come_go_and_change(acp: Pipeline) -> None:
    found = acp.db["teams"].find_one({"members.2": {"$exists": True}})
    assert found is not None
    [number] = acp.sql.execute(
        "SELECT id FROM teams WHERE team_name = %s", [found["teamName"]]
    ).fetchone() or [0]
    before = dict(
        acp.sql.execute(
            "SELECT user_id, xmin::text FROM team_members WHERE team_id = %s", [number]
        ).fetchall()
    )
    disabled = acp.sql.execute(
        "SELECT count(*) FROM team_members WHERE team_id = %s AND status = 'disabled'", [number]
    ).fetchone()
    first, second, *rest = found["members"]
    first["role"] = "owner"
    new = next(
        d["_id"] for d in acp.db["users"].find({}) if d["_id"] not in {m["userId"] for m in found["members"]}
        and int.from_bytes(d["_id"].binary[4:], "big") not in before
    )  # fmt: skip
    rest.append({"userId": new, "role": "guest", "status": "active", "joinedAt": NOW})
    acp.db["teams"].update_one({"_id": found["_id"]}, {"$set": {"members": [*rest, first]}})
    applied(acp)
    after = acp.sql.execute(
        "SELECT user_id, role, xmin::text FROM team_members WHERE team_id = %s", [number]
    ).fetchall()
    key = lambda id_: int.from_bytes(id_.binary[4:], "big", signed=True)  # noqa: E731
    roles = {u: r for u, r, _ in after}
    assert roles[key(first["userId"])] == "owner"
    assert key(second["userId"]) not in roles
    assert roles[key(new)] == "guest"
    # nothing else was touched, and those that the filter leaves out are still there
    untouched = {u for u, _, x in after if before.get(u) == x}
    assert untouched == set(before) - {key(first["userId"]), key(second["userId"])}
    assert (
        disabled
        == acp.sql.execute(
            "SELECT count(*) FROM team_members WHERE team_id = %s AND status = 'disabled'", [number]
        ).fetchone()
    )
    same_as_rows(acp)


def test_what_is_deleted_is_hidden_or_gone(acp: Pipeline) -> None:
    key = acp.db["apiKeys"].find_one({})
    file = acp.db["fileEmbeddings"].find_one({})
    assert key is not None
    assert file is not None
    acp.db["apiKeys"].delete_one({"_id": key["_id"]})
    acp.db["fileEmbeddings"].delete_one({"_id": file["_id"]})
    applied(acp)
    hidden = row(acp, "api_keys", "api_key = %s", key["apiKey"])
    assert hidden is not None
    assert hidden["is_active"] is False
    assert row(acp, "file_embeddings", "file_path = %s", file["filePath"]) is None
    [kept] = acp.sql.execute(
        "SELECT held FROM tandem.reverse_gone WHERE source = 'public.file_embeddings'"
    ).fetchone() or [{}]
    assert kept["file_path"] == file["filePath"]
    same_as_rows(acp)


def test_a_file_that_went_without_a_trace_is_found_by_its_key(acp: Pipeline) -> None:
    """MongoDB kept no image of it, and its `_id` is a hash."""
    acp.db.command("collMod", "fileEmbeddings", changeStreamPreAndPostImages={"enabled": False})
    file = acp.db["fileEmbeddings"].find_one({})
    assert file is not None
    acp.db["fileEmbeddings"].delete_one({"_id": file["_id"]})
    acp.db["users"].insert_one(passing := user("passing by"))
    acp.db["users"].delete_one({"_id": passing["_id"]})
    applied(acp)
    assert row(acp, "file_embeddings", "file_path = %s", file["filePath"]) is None
    assert back.compare(acp.settings).differing == []
    acp.db.command("collMod", "fileEmbeddings", changeStreamPreAndPostImages={"enabled": True})
    same_as_rows(acp)


def test_files_with_vectors_and_sessions(acp: Pipeline) -> None:
    owner = object_id("public.users", (1,))
    id_ = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
    file = {
        "_id": ObjectId(), "originalId": None, "filePath": "/x/é.txt", "fileName": "é.txt", "workspaceType": "shared",
        "ownerId": owner, "teamId": None, "contentHash": "h", "embedding": [n / 7 for n in range(768)],
        "metadata": {"deep": [1, 2.5, {"a": None}], "big": 2**60}, "createdAt": NOW, "updatedAt": NOW,
    }  # fmt: skip
    session = acp.db["activesessions"].find_one({})
    assert session is not None
    later = NOW.replace(year=2027)
    acp.db["fileEmbeddings"].insert_one(file)
    acp.db["activesessions"].update_one(
        {"_id": session["_id"]}, {"$set": {"lastActivity": later, "status": "idle"}}
    )
    applied(acp)
    made = row(acp, "file_embeddings", "file_path = '/x/é.txt'")
    assert made is not None
    assert made["metadata"] == file["metadata"]
    assert made["id"] != id_
    # a computed field that stands for a column goes to it; a constant that is another one now is kept
    touched = row(acp, "user_sessions", "session_token = %s", session["sessionId"])
    assert touched is not None
    assert touched["last_activity"] == later
    assert aside(acp, session["_id"]) == {"status": "idle"}
    same_as_rows(acp)


def test_what_does_not_fit_is_parked_and_goes_through_when_mended(acp: Pipeline) -> None:
    users = acp.db["users"]
    good, bad = user("good"), user("bad")
    users.insert_one(good)
    users.insert_one({**bad, "phone": 5})
    acp.db["teams"].insert_one(team("greens", bad["_id"]))
    applied(acp)
    status = back.status(acp.settings).as_dict()
    assert {p["collection"] for p in status["parked"]} == {"users", "teams"}  # type: ignore[attr-defined]
    assert any("phone" in str(p) for p in status["parked"])  # type: ignore[attr-defined]
    assert not status["ok"]
    assert row(acp, "users", "username = 'good'") is not None
    users.update_one({"_id": bad["_id"]}, {"$set": {"phone": "5"}})
    back.retry(acp.settings)
    applied(acp)
    made = row(acp, "teams", "team_name = 'greens'")
    assert made is not None
    same_as_rows(acp)


def test_a_name_that_is_given_to_another_document_and_two_that_swap(acp: Pipeline) -> None:
    users = acp.db["users"]
    two, three = (object_id("public.users", (n,)) for n in (2, 3))
    name = {n: (users.find_one({"_id": i}) or {})["username"] for n, i in ((2, two), (3, three))}
    with acp.db.client.start_session() as session, session.start_transaction():
        for id_, to in ((two, "passing"), (three, name[2]), (two, name[3])):
            users.update_one({"_id": id_}, {"$set": {"username": to}}, session=session)
    applied(acp)
    assert (row(acp, "users", "id = 2") or {})["username"] == name[3]
    assert (row(acp, "users", "id = 3") or {})["username"] == name[2]
    same_as_rows(acp)


def test_killed_in_a_transaction_each_change_is_there_once(acp: Pipeline) -> None:
    events = back.status(acp.settings).as_dict()["events"]
    names = []
    for point in POINTS:
        made = [user(f"{point}{n}") for n in range(3)]
        names += [m["username"] for m in made]
        acp.db["users"].insert_many(made)
        acp.db["users"].update_one({"_id": made[0]["_id"]}, {"$set": {"phone": point}})
        died = warm.run(
            "tests.support.reverser",
            ["reverse", "run", "--mapping", str(acp.tandem.mapping)],
            env={**acp.tandem.environ, "DIE_AT": point, "PYTHONPATH": os.getcwd()},
            cwd=acp.tandem.folder,
            timeout=60,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        there = acp.sql.execute("SELECT count(*) FROM users WHERE username LIKE %s", [f"{point}%"]).fetchone()
        assert there == (3 if point == "committed" else 0,)
    applied(acp)
    found = acp.sql.execute("SELECT username, phone FROM users WHERE username = ANY(%s)", [names]).fetchall()
    assert sorted(f[0] for f in found) == sorted(names)
    assert {f[1] for f in found if f[0].endswith("0")} == set(POINTS)
    # every event was counted in the transaction of its rows: none twice, none left out
    assert back.status(acp.settings).as_dict()["events"] == int(str(events)) + 4 * len(POINTS)
    same_as_rows(acp)


def test_one_writer_at_a_time_and_a_zombie_changes_nothing(acp: Pipeline) -> None:
    with psycopg.connect(acp.own.addresses.postgres_dsn, autocommit=True) as one:
        first = Reverse(one, acp.settings.source.slot)
        first.alone()
        refused = acp.tandem.run("reverse", "run", check=False)
        assert refused.returncode == 1
        assert "ReverseBusy" in refused.stderr
        token = first.take().token
        assert token is not None
    with psycopg.connect(acp.own.addresses.postgres_dsn, autocommit=True) as two, two.transaction():
        zombie = Reverse(two, acp.settings.source.slot)
        zombie.writer = first.writer
        applied(acp)  # takes over
        with pytest.raises(TakenOver):
            zombie.move(token, token, 0, 0, None)


def test_a_place_that_the_history_does_not_reach_is_named_and_made_good(acp: Pipeline) -> None:
    old = acp.sql.execute("SELECT token FROM tandem.reverse").fetchone()
    assert old is not None
    users = acp.db["users"]
    lost = user("lost")
    gone = users.find_one({"username": "user9"})
    assert gone is not None
    users.insert_one(lost)
    users.delete_one({"_id": gone["_id"]})
    acp.sql.execute("UPDATE tandem.reverse SET token = %s", [older(old[0])])
    refused = acp.tandem.run("reverse", "run", check=False)
    assert refused.returncode == 1
    assert "HistoryLost" in refused.stderr
    assert "tandem reverse resync" in refused.stderr
    assert "no longer keeps" in str(acp.tandem.json("reverse", "status", check=False)["why"])
    differs = acp.tandem.json("reverse", "resync", "--dry-run", check=False)
    assert len(differs["differing"]) == 2
    acp.tandem.json("reverse", "resync")
    assert row(acp, "users", "username = 'lost'") is not None
    assert (row(acp, "users", "username = 'user9'") or {})["is_active"] is False
    users.update_one({"_id": lost["_id"]}, {"$set": {"phone": "after"}})
    applied(acp)
    assert (row(acp, "users", "username = 'lost'") or {})["phone"] == "after"
    same_as_rows(acp)


def older(token: str) -> str:
    """A token of before the first change that the embedded server keeps."""
    value = bson.decode(bytes.fromhex(from_text(token)["_data"]))
    return as_text({"_data": bson.encode({**value, "s": 0}).hex()})
