"""Backups of real servers: what comes back is all that was there, and a backup that is not whole is no backup."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import bson
import psycopg
import pytest
from bson import Decimal128, ObjectId, json_util
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient
from pymongo.database import Database

from connectors.errors import BackupDamaged, BackupForeign, BackupRefused, RestoreRefused, Stopped
from sync import settings as reader
from sync import steps
from sync.backup import manifest
from sync.backup.restore import Into
from sync.backup.store import Store
from sync.settings import Settings
from tests.support import rsync
from tests.support.acp import load_acp
from tests.support.stack import Own
from tests.support.tandem import ACP_MAPPING, Tandem
from tests.support.until import until

RAW: CodecOptions[Any] = CodecOptions(
    uuid_representation=UuidRepresentation.UNSPECIFIED, datetime_conversion=DatetimeConversion.DATETIME_MS
)
NOW = datetime.now(UTC).replace(microsecond=0)
ODD = "odd name: ü/;?"


@pytest.fixture
def db(own: Own) -> Iterator[Database[Any]]:
    with MongoClient[Any](own.addresses.mongodb_uri) as client:
        yield client.get_database(own.addresses.mongodb_database, codec_options=RAW)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files as users have them."""
    rsync.installed()
    root = tmp_path / "nfs"
    (root / "private" / "7" / "a folder").mkdir(parents=True)
    (root / "private" / "7" / "a folder" / "-rf *").write_text("contents")
    (root / os.fsdecode(b"not \xff utf-8\nat all")).write_bytes(os.urandom(5_000))
    (root / "link").symlink_to("/etc/passwd")
    (root / "dangling").symlink_to("nowhere")
    os.link(root / "private" / "7" / "a folder" / "-rf *", root / "hard")
    with (root / "sparse").open("wb") as file:
        file.seek(1_000_000)
        file.write(b"end")
    (root / "private").chmod(0o700)
    (root / "hard").chmod(0o640)
    os.utime(root / "sparse", ns=(1, 1_234_567_891_234_567_891))
    (root / "empty").mkdir()
    return root


def settings_of(own: Own, folder: Path, tree: Path | None = None, **more: str) -> Settings:
    folder.mkdir(exist_ok=True)
    environ = {
        **own.environ(),
        "BACKUP_PATH": str(folder),
        "TANDEM_BACKUP__MIN_FREE_BYTES": "1000000",
        **more,
    }
    if tree is not None:
        environ["TANDEM_BACKUP__TREES"] = str(tree)
    return reader.read(mapping=ACP_MAPPING, environ=environ)


def in_postgres(dsn: str, database: str) -> dict[str, Any]:
    """Everything: definitions, rows, sequences."""
    with psycopg.connect(dsn, dbname=database) as session:
        found: dict[str, Any] = {}
        tables = session.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for (name,) in tables:
            query = f"SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")) FROM {name} AS t"
            found[name] = session.execute(query.encode()).fetchone()
        for what, query in {
            "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default"
            " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position",
            "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
            "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
            "sequences": "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1",
            "publications": "SELECT pubname, tablename FROM pg_publication_tables ORDER BY 1, 2",
            "extensions": "SELECT extname, extversion FROM pg_extension ORDER BY 1",
        }.items():
            found[what] = session.execute(query.encode()).fetchall()
        return found


def in_mongo(db: Database[Any]) -> dict[str, Any]:
    """Everything: options, indexes, and documents by their bytes."""
    found = {}
    for listed in db.list_collections():
        name = listed["name"]
        view = listed["type"] == "view"
        found[name] = (
            listed["type"],
            bson.encode(listed["options"]),
            None if view else sorted(bson.encode({**i, "ns": ""}) for i in db[name].list_indexes()),
            None if view else [bson.encode(d, codec_options=RAW) for d in db[name].find().sort("_id", 1)],
        )
    return found


def in_tree(root: Path) -> dict[str, Any]:
    """Everything: kinds, modes, owners, times, contents, targets of links, which names are one file."""
    found: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        it = path.lstat()
        name = str(path.relative_to(root))
        content: Any = None
        if stat.S_ISREG(it.st_mode):
            content = (hashlib.sha256(path.read_bytes()).hexdigest(), inodes.setdefault(it.st_ino, name))
        elif stat.S_ISLNK(it.st_mode):
            content = os.readlink(path)
        when = None if stat.S_ISLNK(it.st_mode) else it.st_mtime_ns
        found[name] = (stat.filemode(it.st_mode), it.st_uid, it.st_gid, when, content)
    return found


def fill(db: Database[Any]) -> None:
    db.create_collection("people", validator={"$jsonSchema": {"bsonType": "object", "required": ["n"]}})
    db["people"].insert_many(
        {
            "_id": ObjectId(),
            "n": n,
            "amount": Decimal128(Decimal(n) / 7),
            "at": NOW + timedelta(seconds=n),
            "long": bson.Int64(n),
            "text": "ü" * (n % 300),
            "bin": bson.Binary(bytes(range(n % 50)), 9),
            "nested": {"a": [1, {"b": None}], "z": 0, "A": 1.5},
        }
        for n in range(80)
    )
    db["people"].create_index([("n", 1)], unique=True, name="by_n")
    db["people"].create_index("at", expireAfterSeconds=10**9)
    db["people"].create_index([("text", 1)], partialFilterExpression={"n": {"$gt": 5}}, name="some")
    db[ODD].insert_one({"_id": {"a": 1, "b": "x"}, "": "an empty name"})
    db.create_collection("empty")
    db.create_collection("young", viewOn="people", pipeline=[{"$match": {"n": {"$lt": 10}}}])


def restore(settings: Settings, *, execute: bool = True, **into: Any) -> Any:
    return steps.backup_restore(settings, "b1", Into(into.pop("parts", ()), **into), execute=execute)


def test_what_comes_back_is_all_that_was_there(
    own: Own, db: Database[Any], tree: Path, tmp_path: Path
) -> None:
    dsn, name = own.addresses.postgres_dsn, own.name
    load_acp(dsn, users=60)
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("CREATE PUBLICATION chosen FOR TABLE users, teams")
    fill(db)
    settings = settings_of(own, tmp_path / "backups", tree)
    before = in_postgres(dsn, name), in_mongo(db), in_tree(tree)

    rehearsed = steps.backup_create(settings, name="b1", rehearse=True)
    assert set(rehearsed.needed_bytes) == {"postgres", "mongodb", "files"}
    assert os.listdir(tmp_path / "backups") == []

    seen: dict[str, int] = {}
    made = steps.backup_create(settings, name="b1", watch=lambda part, done, _: seen.update({part: done}))
    assert seen["postgres"] > 10_000
    assert seen["mongodb"] > 10_000
    assert seen["files"] > 5_000
    place = tmp_path / "backups" / "b1"
    kept = manifest.read(place)
    assert (kept.source["database"], kept.target["consistency"]) == (name, made.consistency)
    assert made.consistency in ("snapshot", "transaction")
    assert set(kept.tools) == {"pg_dump", "rsync"}
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert "/" in kept.source["lsn"]
    # MongoDB's part is as mongodump would have it
    files = place / "mongodb" / name
    told = json_util.loads((files / "people.metadata.json").read_text())
    assert {i["name"] for i in told["indexes"]} == {"_id_", "by_n", "at_1", "some"}
    assert told["options"]["validator"]["$jsonSchema"]["required"] == ["n"]
    assert json.loads((files / "people.metadata.json").read_text())["indexes"][0]["v"] == {"$numberInt": "2"}
    assert len(bson.decode_all((files / "people.bson").read_bytes(), RAW)) == 80
    assert (files / "odd%20name:%20%C3%BC%2F%3B%3F.bson").is_file()
    assert not (files / "young.bson").exists()

    assert steps.backup_create(settings, name="b1").existing
    with pytest.raises(BackupRefused, match="no whole backup of mongodb"):
        steps.backup_create(settings, name="b1", parts=("mongodb",))
    assert [one.ok for one in steps.backup_list(settings, deep=True)] == [True]

    # -- into places of their own, beside what is there -------------------------------------------------------------
    other = f"{name}_back"
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute(f"CREATE DATABASE {other} TEMPLATE template0".encode())
    try:
        (tmp_path / "back").mkdir()
        to = {"postgres_database": other, "mongodb_database": other, "folder": tmp_path / "back"}
        plan = restore(settings, execute=False, **to)
        assert plan.ok
        assert len(plan.steps) == 3
        assert in_mongo(db.client[other]) == {}
        done = restore(settings, **to)
        assert done.documents == 81
        assert in_postgres(dsn, other) == before[0]
        assert in_mongo(db.client.get_database(other, codec_options=RAW)) == before[1]
        assert in_tree(tmp_path / "back") == before[2]
        with pytest.raises(RestoreRefused) as refused:
            restore(settings, **to)
        for word in ("relations", "collections", "is not empty"):
            assert word in refused.value.what
    finally:
        db.client.drop_database(other)
        with psycopg.connect(dsn, autocommit=True) as sql:
            sql.execute(f"DROP DATABASE IF EXISTS {other} WITH (FORCE)".encode())

    # -- in place of what is there ----------------------------------------------------------------------------------
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("UPDATE users SET full_name = 'changed'; DELETE FROM team_members; DROP TABLE api_keys")
    db["people"].delete_many({"n": {"$gt": 50}})
    db["people"].drop_index("by_n")
    db["newer"].insert_one({})
    (tree / "sparse").unlink()
    (tree / "link").unlink()
    (tree / "private" / "7" / "newer").write_text("newer")
    restore(settings, replace=True)
    assert (in_postgres(dsn, name), in_mongo(db), in_tree(tree)) == before

    # -- one that does not belong here ------------------------------------------------------------------------------
    elsewhere = settings.model_copy(
        update={"target": settings.target.model_copy(update={"database": f"{name}_x"})}
    )
    with pytest.raises(BackupForeign, match="is of the MongoDB database"):
        restore(elsewhere, execute=False, parts=("mongodb",))
    (place / manifest.NAME).write_text(replace(kept, source={**kept.source, "system": "1"}).as_text())
    with pytest.raises(BackupForeign, match="is of another PostgreSQL server"):
        restore(settings, parts=("postgres",), replace=True)
    assert restore(settings, execute=False, parts=("postgres",), replace=True, foreign=True).ok
    (place / manifest.NAME).write_text(kept.as_text())
    now = datetime.now(UTC)
    db["_tandem_workers"].insert_one({"_id": "w", "partitions": [], "seen": now, "alive": now})
    with pytest.raises(RestoreRefused, match="consumers write to the MongoDB database"):
        restore(settings, parts=("mongodb",), replace=True)
    db["_tandem_state"].insert_one({"_id": "pipeline", "system": "1", "database": "other"})
    with pytest.raises(BackupForeign, match="target of another source"):
        restore(settings, parts=("mongodb",), replace=True)


def test_a_flipped_byte_anywhere_is_refused(own: Own, db: Database[Any], tree: Path, tmp_path: Path) -> None:
    fill(db)
    settings = settings_of(own, tmp_path / "backups", tree)
    steps.backup_create(settings, name="b1")
    place = tmp_path / "backups" / "b1"
    before = in_mongo(db)
    for file in [
        *("postgres.dump", f"mongodb/{own.name}/people.bson", f"mongodb/{own.name}/people.metadata.json"),
        *("files/0/hard", "files/0.list", "manifest.json"),
    ]:
        path = place / file
        sound = path.read_bytes()
        middle = len(sound) // 2
        path.write_bytes(sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :])
        with pytest.raises(BackupDamaged) as damaged:
            restore(settings, replace=True)
        assert file.split("/")[-1].split(".")[0] in damaged.value.what
        assert not steps.backup_list(settings, deep=True)[0].ok
        path.write_bytes(sound[:-2])
        assert not steps.backup_list(settings)[0].ok
        path.write_bytes(sound)
    os.utime(place / "files/0/hard", ns=(0, 0))
    with pytest.raises(BackupDamaged, match="another mtime_ns"):
        restore(settings)
    (place / "files/0/empty/more").write_text("")
    assert any("was not there" in p for p in steps.backup_list(settings)[0].problems)
    (place / "files/0/empty/more").unlink()
    assert in_mongo(db) == before


def test_one_that_is_killed_is_no_backup_and_is_swept_away_by_the_next(own: Own, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    tandem = Tandem(own, tmp_path, BACKUP_PATH=str(folder), TANDEM_BACKUP__MIN_FREE_BYTES="0")
    ours = settings_of(own, folder)
    create = ("backup", "create", "--name", "b1", "--only", "postgres")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with (
        psycopg.connect(own.addresses.postgres_dsn, autocommit=True) as sql,
        psycopg.connect(own.addresses.postgres_dsn) as holder,
    ):
        sql.execute("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n")
        holder.execute("LOCK TABLE t")
        with tandem.started(*create) as process:
            until(lambda: sql.execute(waiting).fetchone(), within=60)  # pg_dump is in the middle of it
            with pytest.raises(BackupRefused, match="another process makes a backup"):
                steps.backup_create(ours, name="b1", parts=("postgres",))
            process.kill()
        holder.rollback()
    assert list(Store(folder).all()) == []
    assert (folder / ".partial-b1").is_dir()
    assert steps.backup_create(ours, name="b1", parts=("postgres",)).swept == [".partial-b1"]
    assert [p.name for p in folder.iterdir() if p.is_dir()] == ["b1"]
    full = settings_of(own, folder, TANDEM_BACKUP__MIN_FREE_BYTES=str(2**60))
    with pytest.raises(BackupRefused, match="bytes free, and"):
        steps.backup_create(full, name="b2")
    # told to stop in the middle: nothing of it stays
    stop = threading.Event()
    with pytest.raises(Stopped):
        steps.backup_create(
            settings_of(own, folder),
            name="b3",
            stop=stop,
            watch=lambda part, *_: stop.set() if part else None,
        )
    assert [p.name for p in folder.iterdir() if p.is_dir()] == ["b1"]
