"""What a swap needs of renameCollection, shown on the server under test (docs/rebuild.md).

Where servers may differ, the test allows both answers and the project relies on neither: "not relied on".
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from connectors.mongo import rebuilds
from tests.support.until import until

Document = dict[str, Any]


@pytest.fixture(scope="module")
def client(mongodb_uri: str) -> Iterator[MongoClient[Document]]:
    with MongoClient[Document](mongodb_uri, serverSelectionTimeoutMS=10_000) as opened:
        yield opened


@pytest.fixture
def db(client: MongoClient[Document]) -> Iterator[Database[Document]]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield client.get_database(
        name, write_concern=WriteConcern("majority"), read_concern=ReadConcern("majority")
    )
    client.drop_database(name)


def fill(db: Database[Document], name: str, count: int) -> None:
    db[name].insert_many([{"_id": n, "of": name} for n in range(count)])


def test_readers_see_the_old_collection_or_the_new_one_and_never_another_count(
    db: Database[Document], mongodb_uri: str
) -> None:
    fill(db, "live", 300)
    stop, seen, failed = threading.Event(), set[int](), list[str]()

    def read() -> None:
        with MongoClient[Document](mongodb_uri) as client:
            while not stop.is_set():
                try:
                    seen.add(len(list(client[db.name]["live"].find({}, batch_size=1_000))))
                except PyMongoError as error:  # a cursor that was open: the application reads again
                    failed.append(str(error))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        until(lambda: 300 in seen)
        for count in (400, 500, 600):
            fill(db, "shadow", count)
            assert rebuilds.take_name(db, "shadow", "live")
            until(lambda count=count: count in seen)  # type: ignore[misc]
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert seen == {300, 400, 500, 600}
    assert all("ursor" in what or "enamed" in what or "dropped" in what for what in failed), failed


def test_a_name_that_is_taken_is_refused_without_drop_target_and_a_second_rename_changes_nothing(
    db: Database[Document],
) -> None:
    fill(db, "live", 3)
    fill(db, "shadow", 5)
    with pytest.raises(OperationFailure) as refused:
        db["shadow"].rename("live")
    assert refused.value.code == 48
    assert rebuilds.take_name(db, "shadow", "live")
    assert not rebuilds.take_name(db, "shadow", "live")
    assert db["live"].count_documents({}) == 5
    assert db.list_collection_names() == ["live"]


def test_a_target_that_is_not_there_is_made(db: Database[Document]) -> None:
    fill(db, "shadow", 2)
    assert rebuilds.take_name(db, "shadow", "live")
    assert db["live"].count_documents({}) == 2


def test_indexes_come_along(db: Database[Document]) -> None:
    fill(db, "live", 3)
    fill(db, "shadow", 3)
    db["live"].create_index("of")
    db["shadow"].create_index([("x", 1)], unique=True, sparse=True, name="x_1")
    rebuilds.take_name(db, "shadow", "live")
    assert set(db["live"].index_information()) == {"_id_", "x_1"}
    assert db["live"].index_information()["x_1"]["unique"]


def test_a_validator_comes_along_or_not_so_it_is_set_again(db: Database[Document]) -> None:
    """Not relied on."""
    db.create_collection("shadow", validator={"$jsonSchema": {"required": ["of"]}})
    rebuilds.take_name(db, "shadow", "live")
    db.command("collMod", "live", validator={"$jsonSchema": {"required": ["of"]}})
    with pytest.raises(OperationFailure) as refused:
        db["live"].insert_one({"_id": 1})
    assert refused.value.code == 121


def test_it_waits_for_who_is_writing_into_the_collection_and_not_for_others(
    client: MongoClient[Document], db: Database[Document]
) -> None:
    fill(db, "live", 3)
    fill(db, "other", 3)
    fill(db, "shadow", 5)
    took: list[float] = []

    def rename() -> None:
        began = time.monotonic()
        rebuilds.take_name(db, "shadow", "live")
        took.append(time.monotonic() - began)

    with client.start_session() as session:
        session.start_transaction(write_concern=WriteConcern("majority"))
        db["other"].insert_one({"_id": 99}, session=session)
        rename()
        session.commit_transaction()
    fill(db, "shadow", 7)
    with client.start_session() as session:
        session.start_transaction(write_concern=WriteConcern("majority"))
        db["live"].insert_one({"_id": 99}, session=session)
        thread = threading.Thread(target=rename)
        thread.start()
        thread.join(1.0)
        waits = thread.is_alive()
        session.commit_transaction()
        thread.join(30)
    assert waits
    assert took[1] >= 1.0
    assert db["live"].count_documents({}) == 7  # what the other one wrote went with the old one
    assert db["other"].count_documents({}) == 4


def test_a_transaction_whose_snapshot_is_from_before_may_write_into_the_new_one_or_not(
    client: MongoClient[Document], db: Database[Document]
) -> None:
    """Not relied on: mongod refuses, the embedded server does not. What keeps such a transaction away is the hold,
    since whoever writes rows writes a position too."""
    fill(db, "live", 3)
    fill(db, "shadow", 5)
    with client.start_session() as session:
        session.start_transaction(read_concern=ReadConcern("snapshot"))
        db["other"].find_one({}, session=session)  # its snapshot is taken; nothing is locked
        rebuilds.take_name(db, "shadow", "live")
        expected = 5
        with suppress(OperationFailure):
            db["live"].insert_one({"_id": 99}, session=session)
            session.commit_transaction()
            expected = 6
        if session.in_transaction:
            session.abort_transaction()
    assert db["live"].count_documents({}) == expected


def test_out_copies_a_collection_whole_and_replaces_an_earlier_copy(db: Database[Document]) -> None:
    odd: Document = {"_id": "x", "a.b": 1, "$odd": True, "deep": {"$set": {"p.q": [{"$inc": 1}]}}}
    fill(db, "live", 3)
    db["live"].insert_one({"_id": "plain", "a": {"b": [1, None, 2.5]}})
    copy: list[Document] = [{"$match": {}}, {"$out": "kept"}]
    db["live"].aggregate(copy)
    assert list(db["kept"].find({})) == list(db["live"].find({}))
    db["live"].delete_one({"_id": 1})
    db["live"].insert_one(odd)
    db["live"].aggregate(copy)
    assert list(db["kept"].find({})) == list(db["live"].find({}))
