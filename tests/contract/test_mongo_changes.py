"""What the way back needs of MongoDB's change streams, shown on the server under test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from bson import Binary, DatetimeMS, Int64, ObjectId
from pymongo import MongoClient
from pymongo.errors import OperationFailure, WriteError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from connectors.errors import CollectionGone, HistoryLost
from connectors.mongo import changes, fence
from connectors.mongo.changes import Change, Changes
from connectors.mongo.client import CODEC, Database

Document = dict[str, Any]
MOST = 1_000


@pytest.fixture
def db(mongodb_uri: str) -> Iterator[Database]:
    with MongoClient[Document](mongodb_uri, serverSelectionTimeoutMS=10_000) as client:
        name = f"test_{uuid.uuid4().hex[:12]}"
        opened = client.get_database(
            name,
            codec_options=CODEC,
            write_concern=WriteConcern("majority"),
            read_concern=ReadConcern("majority"),
        )
        changes.keep_images(opened, ["a", "b"])
        yield opened
        client.drop_database(name)


def seen(stream: Changes) -> list[Change]:
    """What comes until nothing comes any more."""
    found: list[Change] = []
    while some := stream.next(MOST).changes:
        found += some
    return found


def test_every_change_is_told_in_order_of_all_collections(db: Database) -> None:
    with closing(Changes(db, ["a", "b"])) as stream:
        db["a"].insert_one({"_id": 1, "x": 1, "_sync": {"lsn": 1}})
        db["c"].insert_one({"_id": "not asked for"})
        db["b"].insert_one({"_id": 2})
        db["a"].update_one({"_id": 1}, {"$set": {"x": 2, "y.z": 3}})
        db["a"].replace_one({"_id": 1}, {"x": 3, "_sync": {"lsn": 2}})
        db["a"].delete_one({"_id": 1})
        found = seen(stream)
    assert [(c.collection, c.id, c.kind) for c in found] == [
        ("a", 1, "insert"), ("b", 2, "insert"), ("a", 1, "update"), ("a", 1, "replace"), ("a", 1, "delete"),
    ]  # fmt: skip
    assert found[0].sync == {"lsn": 1}
    assert set(found[2].set) == {"x", "y"} or "x" in found[2].set
    assert (found[3].before, found[3].sync) == ({"lsn": 1}, {"lsn": 2})
    assert found[4].gone == {"_id": 1, "x": 3, "_sync": {"lsn": 2}}
    assert all(c.at.tzinfo is not None for c in found)


def test_a_transaction_is_told_when_it_is_committed_or_not_at_all(db: Database) -> None:
    with closing(Changes(db, ["a", "b"])) as stream, db.client.start_session() as session:
        session.start_transaction()
        db["a"].insert_one({"_id": 1}, session=session)
        db["b"].insert_one({"_id": 1}, session=session)
        assert not seen(stream)
        session.commit_transaction()
        assert {(c.collection, c.id) for c in seen(stream)} == {("a", 1), ("b", 1)}
        session.start_transaction()
        db["a"].insert_one({"_id": 2}, session=session)
        session.abort_transaction()
        assert not seen(stream)


def test_a_stream_goes_on_behind_its_token_and_a_token_is_text(db: Database) -> None:
    with closing(Changes(db, ["a", "b"])) as stream:
        start = changes.as_text(stream.token)
        db["a"].insert_many([{"_id": n} for n in range(5)])
        first = stream.next(2)
    assert [c.id for c in first.changes] == [0, 1]
    with closing(Changes(db, ["a", "b"], changes.from_text(changes.as_text(first.token)))) as stream:
        assert [c.id for c in seen(stream)] == [2, 3, 4]
    with closing(Changes(db, ["a", "b"], changes.from_text(start))) as stream:
        assert [c.id for c in seen(stream)] == [0, 1, 2, 3, 4]


def test_a_token_moves_on_while_nothing_happens_here(db: Database) -> None:
    with closing(Changes(db, ["a"])) as stream:
        before = stream.token
        db["c"].insert_many([{} for _ in range(20)])
        assert stream.next(MOST).changes == ()
        assert stream.token != before


def test_a_large_document_is_told_without_its_content(db: Database) -> None:
    with closing(Changes(db, ["a"])) as stream:
        db["a"].insert_one({"_id": 1, "t": "x" * 15_000_000})
        db["a"].update_one({"_id": 1}, {"$set": {"k": 1}})
        found = seen(stream)
    assert [(c.kind, c.sync, c.before) for c in found] == [("insert", None, None), ("update", None, None)]


def test_a_mark_comes_behind_all_that_was_written_before_it(db: Database) -> None:
    with closing(Changes(db, ["a"])) as stream:
        first = changes.mark(db)
        db["a"].insert_one({"_id": "here"})
        second = changes.mark(db)
        found = [
            c.mark if c.mark is not None else c.id for c in seen(stream) if c.mark or c.collection == "a"
        ]
    assert second > first
    assert list(dict.fromkeys(found)) == [first, "here", second]


def test_what_is_dropped_or_renamed_is_named(db: Database) -> None:
    for break_ in (lambda: db["a"].rename("other"), lambda: db["b"].drop()):
        with closing(Changes(db, ["a", "b"])) as stream:
            break_()
            with pytest.raises(CollectionGone):
                seen(stream)


def test_a_token_that_is_none_is_lost_history(db: Database) -> None:
    with pytest.raises(HistoryLost), closing(Changes(db, ["a"], {"_data": "zz"})) as stream:
        seen(stream)


def test_every_id_comes_back_from_its_text(db: Database) -> None:
    for id_ in (
        ObjectId(),
        1,
        Int64(1 << 40),
        'a"é',
        1.5,
        {"a": [1, None]},
        uuid.uuid4(),
        DatetimeMS(5),
        Binary(b"\0\1", 5),
        True,
    ):
        db["a"].insert_one({"_id": id_})
        [kept] = db["a"].find({"_id": id_})
        text = changes.as_text(kept["_id"])
        assert list(changes.documents(db, "a", [changes.from_text(text)])) == [text]
        db["a"].delete_many({})


def test_all_ids_are_walked_whatever_their_types(db: Database) -> None:
    ids: list[Any] = [ObjectId(), "b", 5, "a", Int64(3), 1.5, {"x": 1}]
    db["a"].insert_many([{"_id": i} for i in ids])
    found: list[Any] = []
    while some := changes.ids_after(db, "a", found[-1] if found else None, 2):
        found += some
    assert len(found) == len(ids)
    assert {str(i) for i in found} == {str(i) for i in ids}


def test_the_fence_refuses_whatever_would_be_written(db: Database) -> None:
    db.command("collMod", "a", validator={"n": {"$gte": 0}}, validationLevel="moderate")
    db["a"].insert_one({"_id": 1, "n": 1})
    fence.raise_(db, ["a", "b"])
    fence.raise_(db, ["a", "b"])
    assert fence.stands(db, ["a", "b"])
    for write in (
        lambda: db["a"].insert_one({"_id": 2, "n": 1}),
        lambda: db["a"].update_one({"_id": 1}, {"$set": {"n": 2}}),
        lambda: db["a"].replace_one({"_id": 1}, {"n": 2}),
        lambda: db["b"].update_one({"_id": 7}, {"$set": {"n": 2}}, upsert=True),
        lambda: db["a"].find_one_and_update({"_id": 1}, {"$set": {"n": 2}}),
    ):
        with pytest.raises((WriteError, OperationFailure)) as refused:
            write()
        assert refused.value.code == 121
    assert fence.lift(db) == 2
    assert fence.lift(db) == 0
    assert not fence.stands(db, ["a", "b"])
    [options] = [c["options"] for c in db.list_collections(filter={"name": "a"})]
    assert options["validator"] == {"n": {"$gte": 0}}
    assert options["validationLevel"] == "moderate"
    db["b"].insert_one({"_id": 7})
    with pytest.raises(WriteError):
        db["a"].insert_one({"_id": 3, "n": -1})
