"""`tandem verify` on a whole pipeline whose rows are written all the time: planted faults are found, each with its
field, and nothing else; runs that are killed go on; samples; tokens; secrets; what is kept. One pipeline for all."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bson import Int64, ObjectId

from connectors.errors import NotComplete, Refused, SettingsInvalid
from connectors.mongo import verified
from consumers.mapping.ids import object_id
from sync import proof
from sync.dev.state import Addresses
from sync.verify.report import VerifyReport
from tests.support import stack as servers
from tests.support.pipeline import Pipeline, consuming, pipeline
from tests.support.until import until

TABLES = """
CREATE TABLE owners (id bigint PRIMARY KEY, name text, token text);
CREATE TABLE items (id bigint PRIMARY KEY, owner_id bigint, n int, at timestamptz, note text);
CREATE TABLE tags (id bigint PRIMARY KEY, item_id bigint, label text, code text);
CREATE TABLE things (code text PRIMARY KEY, n int);
INSERT INTO owners SELECT n, 'o' || n, md5(n::text) FROM generate_series(1, 40) n;
INSERT INTO items SELECT n, 1 + n % 40, n, '2024-01-01 00:00:00.123456Z'::timestamptz + n * interval '1 s', 'note'
  FROM generate_series(1, 900) n;
INSERT INTO tags SELECT n, 1 + n % 300, 't' || n, md5(n::text) FROM generate_series(1, 900) n;
INSERT INTO things SELECT 'k' || n, n FROM generate_series(1, 400) n;
ANALYZE;
"""
MAPPING = """
version: 1
collections:
  owners: {from: public.owners, secret: token}
  items:
    from: public.items
    references: {owner: {column: owner_id, to: owners}}
    convert: {at: micros}
    embed: {tags: {from: public.tags, foreign_key: item_id, secret: [code]}}
  things: {from: public.things}
"""
#: rows that the writer leaves alone, so that what is planted in them stays
RESTING = 500
SECRET = hashlib.md5(b"3").hexdigest()


@pytest.fixture(scope="module")
def on(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("verify")
    slow = {"TANDEM_LIMITS__SLOW_SOURCE_MS": "0", "TANDEM_LIMITS__SLOW_TARGET_MS": "0"}
    limits = {"TANDEM_LIMITS__CHUNK_ROWS": "100", **slow}
    with servers.own_names(stack) as own, pipeline(own, folder, TABLES, MAPPING, **limits) as on:
        on.tandem.run("setup")
        with pytest.raises(NotComplete, match="not loaded yet: owners, items, things"):
            proof.verify(on.settings, proof.Asked(timeout_s=60))
        on.tandem.run("snapshot")
        with consuming(on):
            yield on


@contextmanager
def written(on: Pipeline) -> Iterator[None]:
    """Rows above RESTING change all the while."""
    stop, draw = threading.Event(), random.Random(1)

    def write() -> None:
        with on.session() as session:
            n = 0
            while not stop.wait(0.04):
                n += 1
                key = draw.randint(RESTING + 1, 1_000)
                changes = [
                    f"UPDATE items SET n = {n}, note = 'w{n}' WHERE id = {key}",
                    f"DELETE FROM items WHERE id = {key}",
                    f"INSERT INTO items VALUES ({key}, 1, {n}, now(), 'new') ON CONFLICT DO NOTHING",
                    f"INSERT INTO tags VALUES ({10_000 + n}, {key}, 'new', 'c')",
                    f"DELETE FROM tags WHERE id = {10_000 + n - 9}",
                    f"INSERT INTO things VALUES ('w{n}', {n})",
                    f"DELETE FROM things WHERE code = 'w{n - 14}'",
                    f"UPDATE things SET n = {n} WHERE code = 'k{200 + n % 100}'",
                ]
                session.execute(changes[n % len(changes)].encode())
                session.commit()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def item(key: int) -> ObjectId:
    return object_id("public.items", (key,))


def change(on: Pipeline, key: int, update: dict[str, Any]) -> Callable[[], object]:
    return lambda: on.db["items"].update_one({"_id": item(key)}, update)


def tags(on: Pipeline, key: int, made: Callable[[list[Any]], list[Any]]) -> Callable[[], object]:
    def plant() -> None:
        one = on.db["items"].find_one({"_id": item(key)})
        assert one is not None
        assert len(one["tags"]) >= 2
        on.db["items"].update_one({"_id": item(key)}, {"$set": {"tags": made(one["tags"])}})

    return plant


def faults(on: Pipeline) -> dict[tuple[str, str, str | None, str | None], Callable[[], object]]:
    """Each kind of fault: what has to be told of it (collection, kind, key, field), and how it is made."""
    at = Int64(1_704_067_200_123_456 + 7_000_000)
    return {
        ("items", "missing", "[1]", None): lambda: on.db["items"].delete_one({"_id": item(1)}),
        ("items", "extra", None, None): lambda: on.db["items"].insert_one(
            {"_id": item(77_777), "n": 1, "_sync": {"at": Int64(1), "lsn": Int64(1)}}
        ),
        ("items", "differs", "[2]", "note"): change(on, 2, {"$set": {"note": "another"}}),
        ("items", "differs", "[5]", "n"): change(on, 5, {"$set": {"n": 5.0}}),
        ("items", "differs", "[7]", "at"): change(on, 7, {"$set": {"at": Int64(at - 1)}}),
        ("items", "differs", "[10]", "tags[0].id"): tags(on, 10, lambda had: had[::-1]),
        ("items", "differs", "[11]", "tags[1].label"): tags(
            on, 11, lambda had: [had[0], {**had[1], "label": "old"}, *had[2:]]
        ),
        ("items", "differs", "[12]", "tags"): tags(on, 12, lambda had: [*had, had[0]]),
        ("items", "differs", "[13]", "tags[0].code"): tags(
            on, 13, lambda had: [{**had[0], "code": "leaked"}, *had[1:]]
        ),
        ("items", "differs", "[14]", "owner"): change(on, 14, {"$set": {"owner": ObjectId()}}),
        ("items", "differs", "[15]", "isVip"): change(on, 15, {"$set": {"isVip": True}}),
        ("items", "differs", "[16]", "_sync"): change(
            on, 16, {"$set": {"_sync": {"source": "another tool"}}}
        ),
        ("owners", "differs", "[3]", "token"): lambda: on.db["owners"].update_one(
            {"_id": object_id("public.owners", (3,))}, {"$set": {"token": "leaked"}}
        ),
        ("things", "missing", '["k1"]', None): lambda: on.db["things"].delete_one(
            {"_id": object_id("public.things", ("k1",))}
        ),
        ("things", "extra", None, None): lambda: on.db["things"].insert_one({"_id": ObjectId(), "n": 1}),
    }


def told(report: VerifyReport) -> set[tuple[str, str, str | None, str | None]]:
    extra = {d.id: None for d in report.differences if d.kind == "extra"}
    return {(d.collection, str(d.kind), extra.get(d.id, d.key), d.field) for d in report.differences}


def test_each_planted_fault_is_found_under_a_writer_and_nothing_else(on: Pipeline) -> None:
    on.wait()
    before = {name: list(on.db[name].find()) for name in ("owners", "items", "things")}
    with written(on):
        clean = proof.verify(on.settings, proof.Asked())
        assert clean.ok, clean.differences
        assert clean.waited
        assert clean.coverage == 1
        planted = faults(on)
        for plant in planted.values():
            plant()
        found = proof.verify(on.settings, proof.Asked())
        done = on.tandem.run("verify", "--last", "--json", check=False)
    assert told(found) == planted.keys(), found.differences
    assert found.total == len(planted)
    assert found.in_flux == 0
    items = found.collections["items"]
    assert items.source != items.target
    assert clean.collections["items"].chunks >= 5
    causes = {(d.collection, d.kind, d.field): d.cause for d in found.differences}
    assert (
        causes["things", "extra", None] == "written by another client: it has no _sync; there is no such row"
    )
    assert "another client" in str(causes["items", "differs", "_sync"])

    # what is kept, and what of it is secret
    assert done.returncode == 1
    shown = json.loads(done.stdout)
    assert [d["field"] for d in shown["differences"]] == [d.field for d in found.differences]
    assert shown["mapping"] == found.mapping
    assert shown["run"] == found.run
    [token] = [d for d in shown["differences"] if d["field"] == "token"]
    assert token["expected"].startswith("string of 32, secret ")
    assert token["found"].startswith("string of 6, secret ")
    kept = repr([*on.db["_tandem_verify"].find(), found])
    for hidden in (SECRET, "leaked", hashlib.md5(b"12").hexdigest()):
        assert hidden not in done.stdout
        assert hidden not in kept
    status = on.tandem.json("status", check=False)["verification"]
    assert status["last"]["differences"] == len(planted)
    assert not status["last"]["ok"]
    assert status["whole"]["mapping"]

    # put right again, less what the writer has written
    on.wait()
    resting = {
        "owners": lambda d: True,
        "items": lambda d: d["id"] <= RESTING,
        "things": lambda d: d["code"] == "k1",
    }
    for name, mine in resting.items():
        for document in filter(mine, before[name]):
            on.db[name].replace_one({"_id": document["_id"]}, document, upsert=True)
    on.db["items"].delete_one({"_id": item(77_777)})
    on.db["things"].delete_many({"_sync": {"$exists": False}})
    on.agree()


def test_a_killed_run_goes_on_where_it_was(on: Pipeline) -> None:
    on.agree()
    on.db["items"].update_one({"_id": item(2)}, {"$set": {"note": "broken"}})
    slow = ("verify", "--max-rows-per-s", "150", "--workers", "1")
    with on.tandem.started(*slow) as process:
        chunks = on.db["_tandem_verify_chunks"]
        until(
            lambda: chunks.count_documents({"doubts": {"$ne": []}}) and chunks.count_documents({}) >= 2,
            within=60,
        )
        process.kill()
    [run] = on.db["_tandem_verify"].find({"ended": False})
    done = chunks.count_documents({"run": run["_id"]})
    on.sql.execute("UPDATE items SET n = n + 1 WHERE id IN (1, 3)")  # the stream goes on meanwhile
    on.wait()
    quick = proof.verify(on.settings, proof.Asked())  # wants the same: its pace is no matter
    assert (quick.run, quick.resumed) == (run["_id"], done)
    assert quick.lsn == run["lsn"]
    assert [(d.key, d.field) for d in quick.differences] == [("[2]", "note")]
    assert chunks.count_documents({}) == 0
    rows = {name: on.db[name].count_documents({}) for name in ("owners", "items", "things")}
    assert {name: c.rows for name, c in quick.collections.items()} == rows
    assert {name: c.documents for name, c in quick.collections.items()} == rows
    on.sql.execute("UPDATE items SET note = 'note' WHERE id = 2")
    on.agree()


def test_a_sample_is_the_same_for_its_seed_and_counts_all_ids(on: Pipeline) -> None:
    one = on.tandem.json(
        "verify", "--sample", "40", "--seed", "3", "--collection", "items", "--collection", "things"
    )
    again = proof.verify(on.settings, proof.Asked(collections=["items", "things"], sample=40, seed=3))
    lows = sorted(str(c["low"] and list(c["low"])) for c in again.chunks)
    assert sorted(str(c["low"]) for c in one["chunks"]) == lows
    assert one["coverage"] == pytest.approx(0.4 * 2 / 3, abs=1e-5)
    rows = on.db["items"].count_documents({})
    assert 0 < one["collections"]["items"]["rows"] < rows
    assert one["collections"]["items"]["documents"] == rows
    on.db["things"].insert_one({"_id": ObjectId(), "n": 1})
    extra = proof.verify(on.settings, proof.Asked(sample=0.01, seed=1))
    assert [(d.collection, d.kind) for d in extra.differences] == [("things", "extra")]
    on.db["things"].delete_many({"_sync": {"$exists": False}})
    assert proof.verify(on.settings, proof.Asked()).ok
    proof.verify(on.settings, proof.Asked(sample=0.01, seed=1))
    status = on.tandem.json("status", check=False)["verification"]
    assert status["last"]["coverage"] < status["whole"]["coverage"] == 1


def test_the_target_holds_what_a_token_says(on: Pipeline) -> None:
    on.sql.execute("UPDATE owners SET name = name || '!' WHERE id = 9")
    token = on.tandem.json("wait-for", "now")
    report = proof.verify(on.settings, proof.Asked(at=json.dumps(token)))
    assert report.ok
    assert str(report.wanted) == token["lsn"]
    assert report.lsn >= (report.wanted or 0)
    foreign = {**token, "positions": {"another.public.owners/0": 5}}
    with pytest.raises(Refused, match="another pipeline"):
        proof.verify(on.settings, proof.Asked(at=json.dumps(foreign)))
    with pytest.raises(Refused, match="has not written"):
        proof.verify(on.settings, proof.Asked(at="FFFF/0"))
    with pytest.raises(SettingsInvalid):
        proof.verify(on.settings, proof.Asked(at="yesterday"))


def test_a_schedule_walks_everything_again_and_again(on: Pipeline) -> None:
    def last() -> verified.Kept | None:
        return verified.last(on.db, scheduled=True)

    with on.tandem.started("verify", "--schedule", "5s", "--metrics", "0") as process:
        first = until(last, within=60)
        second = until(
            lambda: (found := last()) and found.report["run"] != first.report["run"] and found, within=60
        )
        assert process.terminate() in (0, 130)
    assert second.report["ok"]
    assert second.report["coverage"] == 1
    took = [one.report["took_s"] for one in (first, second)]
    assert all(seconds > 1 for seconds in took), took  # slowly: at full speed it is done in less
