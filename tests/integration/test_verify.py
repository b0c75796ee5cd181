"""Verification on real servers: the correct documents are written by an oracle of this file's own."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database
from rich.console import Console

from connectors.errors import MappingInvalid, NotComplete, TableUnfit
from connectors.positions import Lsn
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.mapping.spec import load, parse
from sync.verify.report import Kind, VerifyReport, render
from sync.verify.run import Limits, verify
from tests.support.acp import EXAMPLES, load_script
from tests.support.stack import Own
from tests.support.until import until

Doc = dict[str, Any]
SYNC = {"at": Int64(3), "lsn": Int64(4)}
MAPPING = load(EXAMPLES / "mapping.yaml")


@dataclass
class Sides:
    """Both databases of one test, filled and in agreement."""

    source: SourceEndpoint
    target: TargetEndpoint
    sql: psycopg.Connection[Any]
    documents: Database[Doc]

    def verify(self, **options: Any) -> VerifyReport:
        return verify(options.pop("mapping", MAPPING), self.source, self.target, **options)


@pytest.fixture
def empty(own: Own) -> Iterator[Sides]:
    source = SourceEndpoint(dsn=SecretStr(own.addresses.postgres_dsn))
    target = TargetEndpoint(uri=SecretStr(own.addresses.mongodb_uri), database=own.addresses.mongodb_database)
    with (
        psycopg.connect(own.addresses.postgres_dsn, autocommit=True) as session,
        MongoClient[Doc](own.addresses.mongodb_uri, tz_aware=True) as client,
    ):
        session.execute("SET timezone = 'UTC'")
        yield Sides(source, target, session, client[own.addresses.mongodb_database])


@pytest.fixture
def acp(empty: Sides) -> Sides:
    empty.sql.execute((EXAMPLES / "schema.sql").read_text())
    with empty.sql.transaction():
        empty.sql.execute(load_script(100))
    write_all(empty)
    return empty


# the oracle: ACP's documents, by hand


def oid(table: str, key: int | UUID | None) -> ObjectId | None:
    if key is None:
        return None
    if isinstance(key, int):
        return ObjectId(hashlib.blake2b(table.encode(), digest_size=4).digest() + struct.pack(">q", key))
    text = json.dumps([table, str(key)], separators=(",", ":"), ensure_ascii=False)
    return ObjectId(hashlib.blake2b(text.encode(), digest_size=12).digest())


def ms(moment: datetime | None) -> datetime | None:
    return moment and moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def number(value: int | None) -> Int64 | None:
    return None if value is None else Int64(value)


def user(r: Any) -> Doc:
    return {
        "_id": oid("public.users", r.id),
        "originalId": Int64(r.id),
        "username": r.username,
        "email": r.email,
        "fullName": r.full_name,
        "phone": r.phone,
        "passwordHash": r.password_hash,
        "nfsWorkspacePath": r.nfs_workspace_path,
        "isActive": r.is_active,
        "createdAt": ms(r.created_at),
        "updatedAt": ms(r.updated_at),
        "_sync": SYNC,
    }


def team(r: Any, members: list[Any]) -> Doc:
    active = [m for m in members if m.team_id == r.id and m.status == "active"]
    return {
        "_id": oid("public.teams", r.id),
        "originalId": Int64(r.id),
        "teamName": r.team_name,
        "specialization": r.specialization,
        "description": r.description,
        "nfsWorkspacePath": r.nfs_workspace_path,
        "createdBy": oid("public.users", r.created_by),
        "isActive": r.is_active,
        "createdAt": ms(r.created_at),
        "updatedAt": ms(r.updated_at),
        "members": [
            {
                "userId": oid("public.users", m.user_id),
                "role": m.role,
                "status": m.status,
                "joinedAt": ms(m.joined_at),
            }
            for m in sorted(active, key=lambda m: (m.joined_at, m.user_id))
        ],
        "_sync": SYNC,
    }


def api_key(r: Any) -> Doc:
    return {
        "_id": oid("public.api_keys", r.id),
        "originalId": Int64(r.id),
        "userId": oid("public.users", r.user_id),
        "apiKey": r.api_key,
        "createdAt": ms(r.created_at),
        "expiresAt": ms(r.expires_at),
        "isActive": r.is_active,
        "_sync": SYNC,
    }


def embedding(r: Any) -> Doc:
    return {
        "_id": oid("public.file_embeddings", r.id),
        "originalId": Binary.from_uuid(r.id),
        "filePath": r.file_path,
        "fileName": r.file_name,
        "workspaceType": r.workspace_type,
        "ownerId": oid("public.users", r.owner_id),
        "teamId": oid("public.teams", r.team_id),
        "contentHash": r.content_hash,
        "embedding": [struct.unpack("f", struct.pack("f", x))[0] for x in json.loads(r.embedding)],
        "metadata": r.metadata,
        "createdAt": ms(r.created_at),
        "updatedAt": ms(r.updated_at),
        "_sync": SYNC,
    }


def user_session(r: Any) -> Doc:
    return {
        "_id": oid("public.user_sessions", r.id),
        "originalId": Int64(r.id),
        "userId": oid("public.users", r.user_id),
        "originalUserId": Int64(r.user_id),
        "sessionId": r.session_token,
        "workspacePath": r.workspace_path,
        "createdAt": ms(r.created_at),
        "expiresAt": ms(r.expires_at),
        "lastActivity": ms(r.last_activity or r.created_at),
        "status": "active",
        "resourceUsage": {"memory": 0, "cpu": 0, "tokenUsage": {"input": 0, "output": 0, "total": 0}},
        "_sync": SYNC,
    }


def rows_of(sql: psycopg.Connection[Any], query: str) -> list[Any]:
    with sql.cursor(row_factory=psycopg.rows.namedtuple_row) as cursor:
        return list(cursor.execute(query.encode()).fetchall())


def oracle(sql: psycopg.Connection[Any]) -> dict[str, list[Doc]]:
    """Every document there has to be, as of one snapshot."""
    with sql.transaction():
        sql.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        members = rows_of(sql, "SELECT * FROM team_members")
        return {
            "users": [user(r) for r in rows_of(sql, "SELECT * FROM users") if r.is_active],
            "teams": [team(r, members) for r in rows_of(sql, "SELECT * FROM teams") if r.is_active],
            "apiKeys": [api_key(r) for r in rows_of(sql, "SELECT * FROM api_keys") if r.is_active],
            "fileEmbeddings": [embedding(r) for r in rows_of(sql, "SELECT * FROM file_embeddings")],
            "activesessions": [
                user_session(r)
                for r in rows_of(sql, "SELECT *, expires_at > now() AS live FROM user_sessions")
                if r.live
            ],
        }


def write_all(sides: Sides) -> None:
    """Make MongoDB what the oracle says, document by document, as consumers would."""
    for name, wanted in oracle(sides.sql).items():
        collection = sides.documents[name]
        for document in wanted:
            collection.replace_one({"_id": document["_id"]}, document, upsert=True)
        collection.delete_many({"_id": {"$nin": [document["_id"] for document in wanted]}})


def found(report: VerifyReport) -> list[tuple[str, str, str | None]]:
    return sorted((d.collection, str(d.kind), d.field) for d in report.differences)


# agreement


def test_correct_documents_agree(acp: Sides) -> None:
    seen: list[tuple[str, int]] = []
    report = acp.verify(progress=lambda name, rows: seen.append((name, rows)), limits=Limits(batch=30))
    assert report.ok, report.differences
    counts = report.collections
    assert list(counts) == ["users", "teams", "apiKeys", "fileEmbeddings", "activesessions"]
    assert (counts["users"].rows, counts["users"].documents, counts["users"].compared) == (95, 95, 95)
    assert counts["users"].fields == 95 * 10
    assert counts["fileEmbeddings"].compared == 50
    assert sum(len(team["members"]) for team in acp.documents["teams"].find()) > 20
    assert ("users", 95) in seen
    assert report.as_dict()["ok"] is True
    assert acp.verify(collections=["teams"]).collections.keys() == {"teams"}


def test_nothing_on_both_sides_agrees(empty: Sides) -> None:
    empty.sql.execute((EXAMPLES / "schema.sql").read_text())
    report = empty.verify(wait=lambda lsn: None)
    assert report.ok
    assert report.waited


# one fault of each kind


def lose_a_millisecond(documents: Database[Doc]) -> None:
    one = documents["users"].find_one({"createdAt": {"$exists": True}})
    assert one is not None
    earlier = one["createdAt"] - timedelta(milliseconds=1)
    documents["users"].update_one({"_id": one["_id"]}, {"$set": {"createdAt": earlier}})


def set_one(collection: str, field: str, value: Any) -> Callable[[Database[Doc]], None]:
    def fault(documents: Database[Doc]) -> None:
        documents[collection].update_one({field: {"$exists": True, "$ne": None}}, {"$set": {field: value}})

    return fault


def change_members(change: Callable[[list[Doc]], list[Doc]]) -> Callable[[Database[Doc]], None]:
    def fault(documents: Database[Doc]) -> None:
        one = next(t for t in documents["teams"].find() if len(t.get("members", ())) > 1)
        documents["teams"].update_one({"_id": one["_id"]}, {"$set": {"members": change(one["members"])}})

    return fault


def insert(collection: str, id_: Any, **fields: Any) -> Callable[[Database[Doc]], None]:
    def fault(documents: Database[Doc]) -> None:
        documents[collection].insert_one({"_id": id_, **fields})

    return fault


FAULTS: dict[str, tuple[Callable[[Database[Doc]], Any], tuple[str, str, str | None]]] = {
    "a document is lost": (lambda d: d["users"].delete_one({}), ("users", "missing", None)),
    "a hashed one is lost": (
        lambda d: d["fileEmbeddings"].delete_one({}),
        ("fileEmbeddings", "missing", None),
    ),
    "a document of an inactive row": (
        insert("users", oid("public.users", 20), _sync=SYNC),
        ("users", "extra", None),
    ),
    "a document of no row": (
        insert("teams", oid("public.teams", 10**12), _sync=SYNC),
        ("teams", "extra", None),
    ),
    "a hashed one of no row": (
        insert("fileEmbeddings", ObjectId(), _sync=SYNC),
        ("fileEmbeddings", "extra", None),
    ),
    "of another table": (insert("apiKeys", oid("public.users", 1), _sync=SYNC), ("apiKeys", "extra", None)),
    "of another client": (insert("users", "me"), ("users", "extra", None)),
    "with an object as its id": (insert("users", {"a": 1}), ("users", "extra", None)),
    "a lost millisecond": (lose_a_millisecond, ("users", "differs", "createdAt")),
    "an int64 became a double": (set_one("apiKeys", "originalId", 1.0), ("apiKeys", "differs", "originalId")),
    "null is no field": (
        lambda d: d["users"].update_one({"phone": None}, {"$unset": {"phone": 1}}),
        ("users", "differs", "phone"),
    ),
    "null became empty": (
        lambda d: d["users"].update_one({"phone": None}, {"$set": {"phone": ""}}),
        ("users", "differs", "phone"),
    ),
    "a field too much": (set_one("teams", "teamName", "x"), ("teams", "differs", "teamName")),
    "an unmapped field": (
        lambda d: d["teams"].update_one({}, {"$set": {"isVip": True}}),
        ("teams", "differs", "isVip"),
    ),
    "a member twice": (change_members(lambda m: [*m, m[-1]]), ("teams", "differs", "members")),
    "a member lost": (change_members(lambda m: m[1:]), ("teams", "differs", "members")),
    "members in another order": (
        change_members(lambda m: m[::-1]),
        ("teams", "differs", "members[0].userId"),
    ),
    "a member's role": (
        change_members(lambda m: [{**m[0], "role": "x"}, *m[1:]]),
        ("teams", "differs", "members[0].role"),
    ),
    "a wrong reference": (
        set_one("fileEmbeddings", "teamId", ObjectId()),
        ("fileEmbeddings", "differs", "teamId"),
    ),
    "one of 768 numbers": (
        lambda d: d["fileEmbeddings"].update_one({}, {"$set": {"embedding.700": 0.123456}}),
        ("fileEmbeddings", "differs", "embedding[700]"),
    ),
    "a member of an object": (
        set_one("fileEmbeddings", "metadata.size", Int64(1)),
        ("fileEmbeddings", "differs", "metadata.size"),
    ),
    "a constant": (
        set_one("activesessions", "resourceUsage.tokenUsage.input", 1),
        ("activesessions", "differs", "resourceUsage.tokenUsage.input"),
    ),
    "a computed field": (
        set_one("activesessions", "lastActivity", datetime(2020, 1, 1)),
        ("activesessions", "differs", "lastActivity"),
    ),
    "no _sync": (
        lambda d: d["users"].update_one({}, {"$unset": {"_sync": 1}}),
        ("users", "differs", "_sync"),
    ),
    "an int32 in _sync": (set_one("users", "_sync.lsn", 4), ("users", "differs", "_sync")),
}


@pytest.mark.parametrize("waits", [False, True])
def test_each_fault_is_found_alone(acp: Sides, waits: bool) -> None:
    pristine = {name: list(acp.documents[name].find()) for name in oracle(acp.sql)}
    for name, (plant, expected) in FAULTS.items():
        plant(acp.documents)
        report = acp.verify(wait=(lambda lsn: None) if waits else None)
        assert found(report) == [expected], name
        assert not report.ok
        assert report.waited is waits
        touched = acp.documents[expected[0]]
        touched.delete_many({})
        touched.insert_many(pristine[expected[0]])
    assert acp.verify().ok


def test_all_faults_at_once(acp: Sides) -> None:
    planted = [plant(acp.documents) for plant, _ in FAULTS.values()]
    report = acp.verify(wait=lambda lsn: None, limits=Limits(samples=5, batch=7))
    assert len(report.differences) == 5
    assert report.total >= len(planted) - 8  # some of them are planted in the same field
    console = Console(record=True, width=300, file=io.StringIO())
    render(report, console)
    text = console.export_text()
    assert f"and {report.total - 5} more" in text
    json.dumps(report.as_dict())


def test_causes(acp: Sides) -> None:
    acp.documents["users"].delete_one({"_id": oid("public.users", 1)})
    acp.documents["_tandem_parked"].insert_one({"table": "public.users", "key": "[1]"})
    acp.documents["users"].insert_one({"_id": oid("public.users", 20), "_sync": SYNC})
    acp.documents["users"].update_one({"_id": oid("public.users", 2)}, {"$unset": {"_sync": 1}})
    acp.documents["fileEmbeddings"].insert_one({"_id": ObjectId(), "_sync": SYNC})
    causes = {(d.kind, d.key): d.cause for d in acp.verify().differences}
    assert causes == {
        (Kind.MISSING, "[1]"): "an event of this key is parked",
        (Kind.EXTRA, "[20]"): "its row does not pass the filter",
        (Kind.DIFFERS, "[2]"): "written by another client: it has no _sync",
        (Kind.EXTRA, None): "there is no such row",
    }


# time


def test_sessions_at_their_end_may_be_there_or_not(acp: Sides) -> None:
    soon = acp.sql.execute(
        "UPDATE user_sessions SET expires_at = now() + interval '100 s' WHERE id = 1"
    ).rowcount
    assert soon == 1
    acp.documents["activesessions"].delete_one({"_id": oid("public.user_sessions", 1)})
    acp.sql.execute("UPDATE user_sessions SET expires_at = now() - interval '1 s' WHERE id = 2")
    [row] = rows_of(acp.sql, "SELECT * FROM user_sessions WHERE id = 2")
    acp.documents["activesessions"].replace_one({"_id": oid("public.user_sessions", 2)}, user_session(row))
    report = acp.verify()
    assert report.ok, report.differences
    assert report.collections["activesessions"].expiring == 2
    acp.documents["activesessions"].delete_one({"_id": oid("public.user_sessions", 3)})
    assert found(acp.verify()) == [("activesessions", "missing", None)]


# live writes


def test_documents_on_their_way_are_waited_for(acp: Sides) -> None:
    """Everything lags behind; what waits for it is a wait that brings it."""
    acp.sql.execute("UPDATE users SET full_name = full_name || '!'")
    acp.sql.execute("UPDATE team_members SET role = 'guest' WHERE team_id = 1")
    acp.sql.execute("DELETE FROM file_embeddings WHERE owner_id < 10")
    acp.sql.execute("UPDATE teams SET is_active = NOT is_active WHERE id < 5")
    asked: list[Lsn] = []

    def wait(lsn: Lsn) -> None:
        asked.append(lsn)
        if len(asked) > 1:  # the first one is asked before anything is compared
            write_all(acp)

    report = acp.verify(wait=wait)
    assert report.ok, report.differences
    assert (report.waited, report.rounds) == (True, 1)
    assert asked == sorted(asked)


def test_a_row_that_never_rests_is_in_flux(acp: Sides) -> None:
    def wait(lsn: Lsn) -> None:
        acp.sql.execute("UPDATE users SET full_name = full_name || '!' WHERE id = 1")
        acp.sql.execute("UPDATE teams SET is_active = NOT is_active WHERE id = 15 - 1")

    acp.documents["users"].update_one({"_id": oid("public.users", 2)}, {"$set": {"email": "x"}})
    report = acp.verify(wait=wait, limits=Limits(rounds=3))
    assert found(report) == [("users", "differs", "email"), ("users", "in flux", "fullName")]
    assert (report.in_flux, report.rounds) == (1, 3)


def test_a_refused_wait_is_said(acp: Sides) -> None:
    def wait(lsn: Lsn) -> None:
        raise NotComplete("1 event is parked", remedy="retry it")

    acp.documents["users"].delete_one({})
    report = acp.verify(wait=wait)
    assert (report.ok, report.waited, report.not_waited) == (False, False, "1 event is parked")
    assert found(report) == [("users", "missing", None)]


def test_too_many_doubts_are_counted(acp: Sides) -> None:
    acp.documents["users"].delete_many({})
    report = acp.verify(wait=lambda lsn: None, limits=Limits(doubts=10))
    assert (report.ok, report.total, report.unchecked) == (False, 10, 85)


def test_under_live_writes_only_the_planted_fault_is_found(acp: Sides) -> None:
    """A writer changes rows all the time, a follower brings MongoDB after it; wait asks the follower."""
    stop, applied = threading.Event(), [Lsn(0)]
    dsn = acp.source.dsn.get_secret_value()

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as session:
            n = 0
            while not stop.wait(0.01):
                n += 1
                changes = [
                    f"UPDATE users SET phone = '{n}' WHERE id = {10 + n % 80}",
                    f"UPDATE users SET is_active = NOT is_active WHERE id = {10 + n % 50}",
                    "UPDATE team_members SET status = CASE status WHEN 'active' THEN 'disabled'"
                    f" ELSE 'active' END WHERE team_id = {2 + n % 8}",
                    "INSERT INTO file_embeddings (file_path, file_name, workspace_type, owner_id,"
                    f" content_hash, embedding) SELECT 'p{n}', 'f', 'private', 1, 'h', embedding"
                    " FROM file_embeddings LIMIT 1",
                    f"DELETE FROM file_embeddings WHERE file_path = 'p{n - 61}'",
                    f"UPDATE api_keys SET is_active = NOT is_active WHERE id = {1 + n % 40}",
                ]
                session.execute(changes[n % len(changes)].encode())

    def follow() -> None:
        broken = oid("public.users", 1)
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute("SET timezone = 'UTC'")
            while not stop.is_set():
                [(now,)] = session.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
                wanted = oracle(session)
                for name in ("users", "teams", "apiKeys", "fileEmbeddings"):
                    there = {d["_id"]: d for d in acp.documents[name].find()}
                    for document in wanted[name]:
                        id_ = document["_id"]
                        if id_ != broken and there.get(id_) != document:
                            acp.documents[name].replace_one({"_id": id_}, document, upsert=True)
                    gone = there.keys() - {document["_id"] for document in wanted[name]}
                    acp.documents[name].delete_many({"_id": {"$in": list(gone)}})
                applied[0] = Lsn.parse(now)

    def wait(lsn: Lsn) -> None:
        until(lambda: applied[0] >= lsn, within=60, every=0.01)

    acp.documents["users"].update_one({"_id": oid("public.users", 1)}, {"$set": {"email": "wrong"}})
    acp.documents["users"].delete_one({"_id": oid("public.users", 2)})  # and comes back by itself
    threads = [threading.Thread(target=work, daemon=True) for work in (write, follow)]
    for thread in threads:
        thread.start()
    try:
        reports = [acp.verify(wait=wait, limits=Limits(rounds=20)) for _ in range(3)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for report in reports:
        assert found(report) == [("users", "differs", "email")], report.differences
    print([report.rounds for report in reports])


# every kind of type of types.md, and keys of every kind

TYPES = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION IF NOT EXISTS citext;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN percent AS smallint CHECK (VALUE <= 100);
CREATE DOMAIN price AS numeric(10, 2);
CREATE TABLE "Odd %s" (
  "a""b" text, "k%" char(3), n smallint, part percent, l bigint, o oid, b boolean, d float8, r real,
  num numeric, p price, t text, v varchar(5), c char(4), ci citext, e mood, u uuid, j json, jb jsonb,
  raw bytea,
  tz timestamptz, ts timestamp, da date, ti time, ttz timetz, vec vector(3), hv halfvec(2),
  ai int[], al bigint[], an numeric[], at text[], ab boolean[], af real[], av varchar(3)[], au uuid[],
  ap percent[], ae mood[], ats timestamptz[], aj jsonb[], ay bytea[], avec vector[], ac char(2)[],
  iv interval, ivs interval[], ip inet, m money, rg int4range, bits bit(3), pt point, tsv tsvector,
  twice bigint GENERATED ALWAYS AS (l * 2) STORED,
  PRIMARY KEY ("k%", "a""b")
);
INSERT INTO "Odd %s" VALUES (
  'x''y', 'q', -1, 100, 5, 4000000000, true, 'NaN', 3.3,
  1.50, 2.5, 'tab' || chr(9), 'vv', 'c', 'CiTe', 'glad', '00000000-0000-0000-0000-000000000001',
  '{"a": 1, "a": 2.50, "n": 12345678901234567890}', '{"b": [1, 3000000000, 1e2, null, true], "": 0.1}',
  '\\x0001ff',
  '1969-12-31 23:59:59.9999+00', '2024-02-29 12:00:00.123999', '0001-01-01', '01:02:03.450', '01:02:03+02',
  '[1,3.3,-0]', '[1,0.1]',
  '{1,NULL,3}', '{}', '{1.0,NaN}', '{"a,b",NULL,"{}"}', '{t,f}', '{3.3,-0}', '{abc}',
  '{00000000-0000-0000-0000-000000000001}',
  '{7}', '{sad}', '{2024-01-01 00:00:00.0019+00,NULL}', ARRAY['{"x": 1}'::jsonb],
  '{"\\\\x00"}', '{"[1,2,3]"}',
  '{a}',
  '1 mon 2 days 03:00:00', '{1 day}', '10.0.0.1/8', 12.34, '[1,5)', B'101', '(1,2)', 'a b'
);
INSERT INTO "Odd %s" ("k%", "a""b") VALUES ('', '');
"""
TYPES_MAPPING = """
version: 1
collections: {odd: {from: "public.Odd %s", where: "'a%' LIKE 'a%'", rename: {"k%": key}}}
"""


def test_every_type(empty: Sides) -> None:
    empty.sql.execute(TYPES)
    f32 = [struct.unpack("f", struct.pack("f", x))[0] for x in (3.3, 0.1)]
    f16 = struct.unpack("e", struct.pack("e", 0.1))[0]
    full = {
        'a"b': "x'y",
        "key": "q  ",
        "n": -1,
        "part": 100,
        "l": Int64(5),
        "o": Int64(4_000_000_000),
        "b": True,
        "d": float("nan"),
        "r": f32[0],
        "num": Decimal128("1.50"),
        "p": Decimal128("2.50"),
        "t": "tab\t",
        "v": "vv",
        "c": "c   ",
        "ci": "CiTe",
        "e": "glad",
        "u": Binary(UUID(int=1).bytes, 4),
        "j": {"a": 2.5, "n": Decimal128("12345678901234567890")},
        "jb": {"b": [1, Int64(3_000_000_000), 100, None, True], "": 0.1},
        "raw": b"\x00\x01\xff",
        "tz": DatetimeMS(-1),
        "ts": DatetimeMS(1709208000123),
        "da": DatetimeMS(-62135596800000),
        "ti": "01:02:03.45",
        "ttz": "01:02:03+02",
        "vec": [1.0, f32[0], -0.0],
        "hv": [1.0, f16],
        "ai": [1, None, 3],
        "al": [],
        "an": [Decimal128("1.0"), Decimal128("NaN")],
        "at": ["a,b", None, "{}"],
        "ab": [True, False],
        "af": [f32[0], -0.0],
        "av": ["abc"],
        "au": [Binary(UUID(int=1).bytes, 4)],
        "ap": [7],
        "ae": ["sad"],
        "ats": [DatetimeMS(1704067200001), None],
        "aj": [{"x": 1}],
        "ay": [b"\x00"],
        "avec": [[1.0, 2.0, 3.0]],
        "ac": ["a "],
        "iv": "P1M2DT3H",
        "ivs": ["P1D"],
        "ip": "10.0.0.1/8",
        "m": Decimal128("12.34"),
        "rg": {"lower": 1, "upper": 5, "lowerInclusive": True, "upperInclusive": False},
        "bits": "101",
        "pt": {"x": 1.0, "y": 2.0},
        "tsv": "'a' 'b'",
        "twice": Int64(10),
    }
    nulls = dict.fromkeys(full) | {'a"b': "", "key": "   "}

    def id_(*key: str) -> ObjectId:
        text = json.dumps(["public.Odd %s", *key], separators=(",", ":"))
        return ObjectId(hashlib.blake2b(text.encode(), digest_size=12).digest())

    empty.documents["odd"].insert_many(
        [{"_id": id_("q", "x'y"), "_sync": SYNC, **full}, {"_id": id_("", ""), "_sync": SYNC, **nulls}]
    )
    report = empty.verify(mapping=parse(TYPES_MAPPING))
    assert report.ok, [(d.field, d.expected, d.found, d.kind, d.key) for d in report.differences]
    changes = {"num": Decimal128("1.5"), "r": 3.3, "ti": "01:02:03.450"}
    empty.documents["odd"].update_one({"n": -1}, {"$set": changes})
    changed = empty.verify(mapping=parse(TYPES_MAPPING), wait=lambda lsn: None)
    assert [d.field for d in changed.differences] == ["r", "num", "ti"]


def test_values_without_a_form_are_named(empty: Sides) -> None:
    empty.sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric, d date, a int[]);"
        f"INSERT INTO t VALUES (1, {'1' * 35}, null, null), (2, 1, 'infinity', null),"
        " (3, 1, null, '[0:0]={1}')"
    )
    report = empty.verify(mapping=parse("version: 1\ncollections: {t: {from: public.t}}"))
    assert [(d.kind, d.key) for d in report.differences] == [(Kind.MISSING, f"[{n}]") for n in (1, 2, 3)]
    assert all("no faithful document" in (d.cause or "") for d in report.differences)


def test_children_are_in_postgresqls_order_by_bytes(empty: Sides) -> None:
    empty.sql.execute(
        "CREATE TABLE p (a int, b text, PRIMARY KEY (b, a));"
        "CREATE TABLE c (id bigint PRIMARY KEY, pb text, pa smallint, name text, n numeric)"
        " PARTITION BY RANGE (id);"
        "CREATE TABLE c1 PARTITION OF c FOR VALUES FROM (0) TO (100);"
        "INSERT INTO p VALUES (1, 'x'), (2, 'x');"
        "INSERT INTO c VALUES (1, 'x', 1, 'b', 1), (2, 'x', 1, 'B', 2), (3, 'x', 1, null, 1),"
        " (4, 'x', 1, 'é', 1), (5, 'x', 1, 'a', 2),"
        " (6, 'x', 1, 'a', 1), (7, 'x', 3, 'a', 1), (8, null, 1, 'a', 1)"
    )
    mapping = parse(
        "version: 1\ncollections: {p: {from: public.p, embed: {cs: {from: public.c, foreign_key: [pb, pa],"
        " order_by: [name, n], omit: [name]}}}}"
    )
    order = [(2, "2"), (6, "1"), (5, "2"), (1, "1"), (4, "1"), (3, "1")]

    def write(key: tuple[str, int], children: list[tuple[int, str]]) -> None:
        text = json.dumps(["public.p", key[0], str(key[1])], separators=(",", ":"))
        empty.documents["p"].insert_one(
            {
                "_id": ObjectId(hashlib.blake2b(text.encode(), digest_size=12).digest()),
                "a": key[1],
                "b": key[0],
                "cs": [{"id": Int64(id_), "n": Decimal128(n)} for id_, n in children],
                "_sync": SYNC,
            }
        )

    write(("x", 1), order)
    write(("x", 2), [])
    report = empty.verify(mapping=mapping)
    assert report.ok, report.differences


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        ("{t: {from: public.nowhere}}", TableUnfit),
        ("{t: {from: public.keyless}}", TableUnfit),
        ("{t: {from: public.t, where: 'nope = 1'}}", Exception),
        ("{t: {from: public.t, where: 'id = 1; SELECT 1'}}", MappingInvalid),
    ],
)
def test_what_cannot_be_verified(empty: Sides, mapping: str, error: type[Exception]) -> None:
    empty.sql.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (id int)")
    with pytest.raises(error):
        empty.verify(mapping=parse(f"version: 1\ncollections: {mapping}"))
    with pytest.raises(MappingInvalid):
        empty.verify(collections=["nobody"])
