"""What the write rule needs of MongoDB's transactions, shown on the server under test.

It runs on the stack's server or, by `--mongodb-uri`, on any other. Where servers may differ, the test allows
both answers and the project relies on neither: those tests say "not relied on".
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bson.binary import Binary
from pymongo import DeleteOne, InsertOne, MongoClient, ReplaceOne, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from connectors.errors import Contended, UniqueTaken, WriteRefused
from connectors.mongo.client import translate
from tests.support.proxy import Proxy
from tests.support.until import until

Document = dict[str, Any]
Rows = Collection[Document]
Act = Callable[[ClientSession], object]

WRITE_CONFLICT, NO_SUCH_TRANSACTION, DUPLICATE, NOT_VALID, DOLLAR_PREFIX = 112, 251, 11000, 121, 52
TRANSIENT = "TransientTransactionError"
#: MongoDB's own default of transactionLifetimeLimitSeconds
DEFAULT_LIFETIME_S = 60

ODD_NAMES: Document = {"a.b": 1, "$odd": True, "": 2, "deep": {"$set": {"p.q": [{"$inc": 1}]}}, "$ref": "x"}


@pytest.fixture(scope="module")
def client(mongodb_uri: str) -> Iterator[MongoClient[Document]]:
    with MongoClient[Document](mongodb_uri, serverSelectionTimeoutMS=10_000) as opened:
        yield opened


@pytest.fixture(scope="module")
def database(client: MongoClient[Document]) -> Iterator[Database[Document]]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield client.get_database(
        name, write_concern=WriteConcern("majority"), read_concern=ReadConcern("majority")
    )
    client.drop_database(name)


@pytest.fixture
def rows(database: Database[Document]) -> Iterator[Rows]:
    """A collection with `{_id: 1, at: 0, v: 0}` and `{_id: 2, at: 0, v: 0}`."""
    collection = database.create_collection("rows")
    collection.insert_many([{"_id": 1, "at": 0, "v": 0}, {"_id": 2, "at": 0, "v": 0}])
    yield collection
    collection.drop()


@contextmanager
def begin(client: MongoClient[Document]) -> Iterator[ClientSession]:
    """An open transaction as the project's are; whatever is left of it at the end is undone."""
    with client.start_session() as session:
        session.start_transaction(
            read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority")
        )
        yield session
        if session.in_transaction:
            session.abort_transaction()


@contextmanager
def two(client: MongoClient[Document], rows: Rows) -> Iterator[tuple[ClientSession, ClientSession]]:
    """Two open transactions, both with their snapshots taken."""
    with begin(client) as one, begin(client) as other:
        rows.find_one({"_id": 0}, session=one)
        rows.find_one({"_id": 0}, session=other)
        yield one, other


def code_of(error: PyMongoError) -> int | None:
    if isinstance(error, BulkWriteError):
        return int(error.details["writeErrors"][0]["code"])
    return getattr(error, "code", None)


def failure_of(act: Callable[[], object]) -> PyMongoError:
    with pytest.raises(PyMongoError) as failed:
        act()
    return failed.value


def failure_if_any(act: Callable[[], object]) -> PyMongoError | None:
    """For what one server does and another refuses."""
    try:
        act()
    except PyMongoError as error:
        return error
    return None


def conflicts(act: Callable[[], object]) -> None:
    """The act fails with a write conflict that says: run the whole transaction again."""
    started = time.monotonic()
    error = failure_of(act)
    assert code_of(error) == WRITE_CONFLICT
    assert error.has_error_label(TRANSIENT)
    assert isinstance(translate(error), Contended)
    assert time.monotonic() - started < 5, "the conflict is told at once"


def is_over(session: ClientSession) -> None:
    """The server has ended the transaction: it can't be committed any more."""
    error = failure_of(session.commit_transaction)
    assert code_of(error) == NO_SUCH_TRANSACTION
    assert error.has_error_label(TRANSIENT)


def content(rows: Rows) -> list[Document]:
    return list(rows.find().sort("_id"))


# -- snapshots --


def test_reads_are_stable(client: MongoClient[Document], rows: Rows) -> None:
    with begin(client) as session:
        before = list(rows.find(session=session).sort("_id"))
        rows.update_one({"_id": 1}, {"$set": {"v": 9}})
        rows.insert_one({"_id": 3, "v": 0})
        rows.delete_one({"_id": 2})
        assert list(rows.find(session=session).sort("_id")) == before
        assert rows.find_one({"_id": 1}, session=session) == before[0]
        assert rows.find_one({"_id": 3}, session=session) is None
        assert rows.count_documents({}, session=session) == 2
        assert rows.count_documents({"v": 0}, session=session) == 2
        assert rows.distinct("_id", session=session) == [1, 2]
        summed = rows.aggregate([{"$group": {"_id": None, "v": {"$sum": "$v"}}}], session=session)
        assert list(summed) == [{"_id": None, "v": 0}]
    assert [row["_id"] for row in content(rows)] == [1, 3]


def test_the_snapshot_is_taken_by_the_first_operation(client: MongoClient[Document], rows: Rows) -> None:
    with begin(client) as session:
        rows.update_one({"_id": 1}, {"$set": {"v": 9}})
        found = rows.find_one({"_id": 1}, session=session)
        assert found is not None
        assert found["v"] == 9


def test_own_writes_are_read_and_nobody_elses(client: MongoClient[Document], rows: Rows) -> None:
    with begin(client) as session:
        rows.update_one({"_id": 1}, {"$inc": {"v": 5}}, session=session)
        rows.replace_one({"_id": 3}, {"v": 5}, upsert=True, session=session)
        rows.delete_one({"_id": 2}, session=session)
        mine = [{"_id": 1, "at": 0, "v": 5}, {"_id": 3, "v": 5}]
        assert list(rows.find(session=session).sort("_id")) == mine
        assert rows.count_documents({"v": 5}, session=session) == 2
        assert rows.update_one({"_id": 3, "v": 5}, {"$set": {"v": 6}}, session=session).matched_count == 1
        assert content(rows) == [{"_id": 1, "at": 0, "v": 0}, {"_id": 2, "at": 0, "v": 0}]
        session.commit_transaction()
    assert content(rows) == [{"_id": 1, "at": 0, "v": 5}, {"_id": 3, "v": 6}]


# -- two open transactions --


def _set(key: object, value: object) -> Callable[[Rows], Act]:
    return lambda rows: (
        lambda session: rows.update_one({"_id": key}, {"$set": {"v": value}}, upsert=True, session=session)
    )


def _delete(key: object) -> Callable[[Rows], Act]:
    return lambda rows: lambda session: rows.delete_one({"_id": key}, session=session)


def _insert(key: object) -> Callable[[Rows], Act]:
    return lambda rows: lambda session: rows.insert_one({"_id": key}, session=session)


def _replace(key: object, value: object) -> Callable[[Rows], Act]:
    return lambda rows: (
        lambda session: rows.bulk_write(
            [ReplaceOne({"_id": key}, {"v": value}, upsert=True)], session=session
        )
    )


def _count_up(key: object) -> Callable[[Rows], Act]:
    return lambda rows: (
        lambda session: rows.update_one({"_id": key}, {"$inc": {"n": 1}}, upsert=True, session=session)
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(_set(1, "a"), _set(1, "b"), id="update and update"),
        pytest.param(_set(1, "a"), _delete(1), id="update and delete"),
        pytest.param(_delete(1), _set(1, "b"), id="delete and update"),
        pytest.param(_delete(1), _delete(1), id="delete and delete"),
        pytest.param(_set(7, "a"), _set(7, "b"), id="upsert and upsert of an absent document"),
        pytest.param(_insert(7), _insert(7), id="insert and insert"),
        pytest.param(_insert(7), _set(7, "b"), id="insert and upsert"),
        pytest.param(_replace(7, "a"), _replace(7, "b"), id="bulk replace of an absent document"),
        pytest.param(_replace(1, "a"), _replace(1, "b"), id="bulk replace"),
        pytest.param(_count_up("anchor"), _count_up("anchor"), id="count up an absent anchor"),
        pytest.param(_count_up(1), _count_up(1), id="count up an anchor"),
    ],
)
def test_writes_of_one_document_conflict(
    client: MongoClient[Document], rows: Rows, first: Callable[[Rows], Act], second: Callable[[Rows], Act]
) -> None:
    with two(client, rows) as (one, other):
        first(rows)(one)
        expected = list(rows.find(session=one).sort("_id"))
        rows.insert_one({"_id": 100}, session=other)
        conflicts(lambda: second(rows)(other))
        is_over(other)
        one.commit_transaction()
    assert content(rows) == expected


def test_one_unique_value_in_two_documents_conflicts(client: MongoClient[Document], rows: Rows) -> None:
    rows.create_index("u", unique=True, sparse=True)
    with two(client, rows) as (one, other):
        rows.insert_one({"_id": 7, "u": "x"}, session=one)
        conflicts(lambda: rows.insert_one({"_id": 8, "u": "x"}, session=other))
        one.commit_transaction()


def test_writes_of_different_documents_do_not_conflict(client: MongoClient[Document], rows: Rows) -> None:
    with two(client, rows) as (one, other):
        rows.update_one({"_id": 1}, {"$set": {"v": 1}}, session=one)
        rows.update_one({"_id": 2}, {"$set": {"v": 2}}, session=other)
        one.commit_transaction()
        other.commit_transaction()
    assert [row["v"] for row in content(rows)] == [1, 2]


def test_after_an_abort_the_document_is_free(client: MongoClient[Document], rows: Rows) -> None:
    with two(client, rows) as (one, other):
        rows.update_one({"_id": 1}, {"$set": {"v": 1}}, session=one)
        one.abort_transaction()
        rows.update_one({"_id": 1}, {"$set": {"v": 2}}, session=other)
        other.commit_transaction()
    assert content(rows)[0]["v"] == 2


# -- an old snapshot --


@contextmanager
def stale(client: MongoClient[Document], rows: Rows) -> Iterator[ClientSession]:
    """A transaction whose snapshot is older than a change of document 1 and the coming of document 7."""
    with begin(client) as session:
        assert rows.count_documents({}, session=session) == 2
        rows.update_one({"_id": 1}, {"$set": {"at": 5, "v": 9}})
        rows.insert_one({"_id": 7, "at": 0})
        yield session


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(
            lambda rows, s: rows.update_one({"_id": 1, "at": 0}, {"$set": {"at": 1}}, session=s), id="cas"
        ),
        pytest.param(lambda rows, s: rows.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=s), id="$inc"),
        pytest.param(lambda rows, s: rows.delete_many({"v": {"$lt": 5}}, session=s), id="delete_many"),
        pytest.param(lambda rows, s: rows.update_many({}, {"$inc": {"n": 1}}, session=s), id="update_many"),
        pytest.param(lambda rows, s: rows.insert_one({"_id": 7, "late": 1}, session=s), id="insert"),
        pytest.param(
            lambda rows, s: rows.replace_one({"_id": 7}, {"late": 1}, upsert=True, session=s),
            id="replace upsert",
        ),
        pytest.param(
            lambda rows, s: rows.bulk_write(
                [DeleteOne({"_id": 2}), UpdateOne({"_id": 1}, {"$set": {"v": 1}})], session=s
            ),
            id="bulk",
        ),
    ],
)
def test_a_write_on_an_old_snapshot_aborts(
    client: MongoClient[Document], rows: Rows, act: Callable[[Rows, ClientSession], object]
) -> None:
    with stale(client, rows) as session:
        rows.update_one({"_id": 2}, {"$set": {"v": 1}}, session=session)
        conflicts(lambda: act(rows, session))
        is_over(session)
    assert content(rows) == [{"_id": 1, "at": 5, "v": 9}, {"_id": 2, "at": 0, "v": 0}, {"_id": 7, "at": 0}]


def test_a_unique_value_taken_since_the_snapshot(client: MongoClient[Document], rows: Rows) -> None:
    """A conflict, or a duplicate key: which of them is not relied on; both end the transaction."""
    rows.create_index("u", unique=True, sparse=True)
    with begin(client) as session:
        rows.find_one({"_id": 1}, session=session)
        rows.insert_one({"_id": 7, "u": "x"})
        error = failure_of(lambda: rows.insert_one({"_id": 8, "u": "x"}, session=session))
        assert code_of(error) in (WRITE_CONFLICT, DUPLICATE)
        is_over(session)


def test_a_document_whose_unique_value_went_elsewhere_since_the_snapshot(
    client: MongoClient[Document], rows: Rows
) -> None:
    """To write another field of it is a conflict, as it was changed, or a duplicate, as the old value that it keeps
    is another one's: which of them is not relied on."""
    rows.create_index("u", unique=True, sparse=True)
    rows.update_one({"_id": 1}, {"$set": {"u": "x"}})
    with begin(client) as session:
        rows.find_one({"_id": 1}, session=session)
        rows.update_one({"_id": 1}, {"$set": {"u": "y"}})
        rows.update_one({"_id": 2}, {"$set": {"u": "x"}})
        error = failure_of(lambda: rows.update_one({"_id": 1}, {"$set": {"v": 9}}, session=session))
        print(code_of(error))
        assert code_of(error) in (WRITE_CONFLICT, DUPLICATE)
        is_over(session)


def test_a_compare_and_set_that_matches_nothing(client: MongoClient[Document], rows: Rows) -> None:
    """It says so and does no harm. What it did not match may be an old state: that is no conflict."""
    with stale(client, rows) as session:
        assert rows.update_one({"_id": 2, "at": 99}, {"$set": {"at": 1}}, session=session).matched_count == 0
        assert rows.update_one({"_id": 1, "at": 5}, {"$set": {"at": 6}}, session=session).matched_count == 0
        assert rows.delete_one({"_id": 7}, session=session).deleted_count == 0
        rows.insert_one({"_id": 8}, session=session)
        session.commit_transaction()
    assert [row["_id"] for row in content(rows)] == [1, 2, 7, 8]
    assert content(rows)[0]["at"] == 5


def test_an_update_that_changes_nothing(client: MongoClient[Document], rows: Rows) -> None:
    """Whether it conflicts is not relied on: it may be no write at all. So anchors are counted up."""
    with two(client, rows) as (one, other):
        rows.update_one({"_id": 1}, {"$inc": {"v": 1}}, session=one)
        one.commit_transaction()
        error = failure_if_any(lambda: rows.update_one({"_id": 1}, {"$set": {"v": 0}}, session=other))
        assert error is None or code_of(error) == WRITE_CONFLICT
    assert content(rows)[0]["v"] == 1


# -- write skew --


def _skew(client: MongoClient[Document], rows: Rows, anchor: bool) -> None:
    """Two transactions count the rows with v = 0 and, as there are two, each takes one away."""
    with begin(client) as one, begin(client) as other:
        for session in (one, other):
            assert rows.count_documents({"v": 0}, session=session) == 2
        for key, session in ((1, one), (2, other)):
            rows.update_one({"_id": key}, {"$set": {"v": 1}}, session=session)
            if anchor:
                rows.update_one({"_id": "anchor"}, {"$inc": {"n": 1}}, upsert=True, session=session)
        one.commit_transaction()
        other.commit_transaction()


def test_write_skew_is_possible(client: MongoClient[Document], rows: Rows) -> None:
    """Both commit, though neither's count is right any more: nobody may rely on reads alone."""
    _skew(client, rows, anchor=False)
    assert rows.count_documents({"v": 0}) == 0


def test_an_anchor_turns_write_skew_into_a_conflict(client: MongoClient[Document], rows: Rows) -> None:
    for _ in range(2):  # an anchor that is absent, and one that is there
        rows.update_many({}, {"$set": {"v": 0}})
        rows.update_one({"_id": "anchor"}, {"$unset": {"v": ""}})
        conflicts(lambda: _skew(client, rows, anchor=True))
        rows.update_one({"_id": "anchor"}, {"$inc": {"n": 1}}, upsert=True)


# -- outside of transactions --


@pytest.mark.parametrize("commit", [True, False])
def test_a_plain_write_waits_for_the_open_transaction(
    client: MongoClient[Document], rows: Rows, commit: bool
) -> None:
    """It waits, or conflicts; it never overwrites what the transaction goes on to commit."""
    done: list[object] = []

    def write() -> None:
        try:
            done.append(rows.update_one({"_id": 1}, {"$inc": {"n": 1}}).modified_count)
        except OperationFailure as error:
            done.append(code_of(error))

    with begin(client) as session:
        rows.update_one({"_id": 1}, {"$set": {"v": 1}}, session=session)
        plain = threading.Thread(target=write)
        plain.start()
        plain.join(1)
        assert done in ([], [WRITE_CONFLICT])
        if commit:
            session.commit_transaction()
        else:
            session.abort_transaction()
        plain.join(30)
    assert done in ([1], [WRITE_CONFLICT])
    expected: Document = {"_id": 1, "at": 0, "v": 1 if commit else 0}
    assert content(rows)[0] == (expected | {"n": 1} if done == [1] else expected)


# -- errors that end a transaction --


def test_a_duplicate_key_ends_the_transaction(client: MongoClient[Document], rows: Rows) -> None:
    rows.create_index("u", unique=True, sparse=True)
    rows.update_one({"_id": 1}, {"$set": {"u": "x"}})
    before = content(rows)
    with begin(client) as session:
        rows.update_one({"_id": 2}, {"$set": {"v": 5}}, session=session)
        error = failure_of(lambda: rows.update_one({"_id": 2}, {"$set": {"u": "x"}}, session=session))
        assert code_of(error) == DUPLICATE
        assert not error.has_error_label(TRANSIENT), "running it again would not help"
        assert isinstance(translate(error), UniqueTaken)
        assert code_of(failure_of(lambda: rows.find_one({"_id": 1}, session=session))) == NO_SUCH_TRANSACTION
        is_over(session)
    assert content(rows) == before


def test_a_refusing_validator_ends_the_transaction(
    client: MongoClient[Document], database: Database[Document], rows: Rows
) -> None:
    strict = database.create_collection("strict", validator={"$jsonSchema": {"required": ["name"]}})
    try:
        with begin(client) as session:
            rows.update_one({"_id": 2}, {"$set": {"v": 5}}, session=session)
            strict.insert_one({"_id": 1, "name": "x"}, session=session)
            error = failure_of(lambda: strict.replace_one({"_id": 2}, {"n": 1}, upsert=True, session=session))
            assert code_of(error) == NOT_VALID
            assert not error.has_error_label(TRANSIENT)
            assert isinstance(translate(error), WriteRefused)
            is_over(session)
        assert content(strict) == []
        assert content(rows)[1]["v"] == 0
    finally:
        strict.drop()


@pytest.mark.parametrize("ordered", [True, False])
def test_one_bad_write_of_a_bulk_ends_the_transaction(
    client: MongoClient[Document], rows: Rows, ordered: bool
) -> None:
    """Ordered or not, nothing of it stays. (Outside of a transaction an unordered bulk goes on behind it.)"""
    writes = [InsertOne({"_id": 5}), InsertOne({"_id": 1}), InsertOne({"_id": 6})]
    with begin(client) as session:
        error = failure_of(lambda: rows.bulk_write(writes, ordered=ordered, session=session))
        assert isinstance(error, BulkWriteError)
        assert code_of(error) == DUPLICATE
        assert isinstance(translate(error), UniqueTaken)
        is_over(session)
    assert [row["_id"] for row in content(rows)] == [1, 2]
    failure_of(lambda: rows.bulk_write(writes, ordered=ordered))
    assert [row["_id"] for row in content(rows)] == ([1, 2, 5] if ordered else [1, 2, 5, 6])


# -- a whole batch --


@pytest.mark.parametrize("ordered", [True, False])
def test_a_batch_and_its_position_in_one_transaction(
    client: MongoClient[Document], database: Database[Document], ordered: bool
) -> None:
    """1,000 upserts, replacements and merges by turns, in two collections, and the position: one commit."""
    names = ("batch_a", "batch_b", "batch_positions")
    one, two, positions = (database.create_collection(name) for name in names)
    try:
        positions.insert_one({"_id": "t/0", "at": 0, "holder": None})

        def write(session: ClientSession) -> None:
            moved = positions.update_one(
                {"_id": "t/0", "at": 0, "holder": None}, {"$set": {"at": 1000}}, session=session
            )
            assert moved.matched_count == 1
            for target in (one, two):
                answer = target.bulk_write(
                    [
                        ReplaceOne({"_id": key}, {"v": key, "long": "x" * 200}, upsert=True)
                        if key % 2
                        else UpdateOne({"_id": key}, {"$set": {"v": key, "meta": ODD_NAMES}}, upsert=True)
                        for key in range(500)
                    ],
                    ordered=ordered,
                    session=session,
                )
                assert answer.upserted_count == 500

        with begin(client) as session:
            write(session)
            session.abort_transaction()
        assert [target.count_documents({}) for target in (one, two)] == [0, 0]
        with begin(client) as session:
            write(session)
            assert [target.count_documents({}) for target in (one, two)] == [0, 0]
            session.commit_transaction()
        assert [target.count_documents({}) for target in (one, two)] == [500, 500]
        assert positions.find_one() == {"_id": "t/0", "at": 1000, "holder": None}
    finally:
        for name in names:
            database.drop_collection(name)


def test_a_collection_made_after_the_snapshot(
    client: MongoClient[Document], database: Database[Document], rows: Rows
) -> None:
    """Writing it works or is transient: not relied on. Collections are made before the first transaction."""
    try:
        with begin(client) as session:
            rows.update_one({"_id": 1}, {"$set": {"v": 1}}, session=session)
            late = database.create_collection("late")

            def write() -> None:
                late.insert_one({"_id": 1}, session=session)
                session.commit_transaction()

            error = failure_if_any(write)
        assert error is None or isinstance(translate(error), Contended)
        assert content(late) == ([] if error else [{"_id": 1}])
        assert content(rows)[0]["v"] == (0 if error else 1)
    finally:
        database.drop_collection("late")


# -- commits that nobody hears of, and clients that die --


def test_commit_again_is_the_same_commit(client: MongoClient[Document], rows: Rows) -> None:
    with begin(client) as session:
        rows.update_one({"_id": 1}, {"$inc": {"v": 1}}, session=session)
        session.commit_transaction()
        rows.update_one({"_id": 1}, {"$inc": {"v": 10}})
        session.commit_transaction()
        session.commit_transaction()
    assert content(rows)[0]["v"] == 11


def test_a_commit_whose_answer_is_lost(client: MongoClient[Document], rows: Rows, mongodb_uri: str) -> None:
    """The driver says that the outcome is unknown; the same commit again tells it, and commits only once."""
    parsed = parse_uri(mongodb_uri)
    host, port = client.address or parsed["nodelist"][0]
    with Proxy(host, port or 27017) as proxy:
        through: MongoClient[Document] = MongoClient(
            "127.0.0.1",
            proxy.port,
            directConnection=True,
            socketTimeoutMS=500,
            username=parsed["username"],
            password=parsed["password"],
        )
        behind = through[rows.database.name][rows.name]
        with through, through.start_session() as session:
            session.start_transaction(write_concern=WriteConcern("majority"))
            behind.update_one({"_id": 1}, {"$inc": {"v": 1}}, session=session)
            proxy.mute()
            with pytest.raises(ConnectionFailure) as failed:
                session.commit_transaction()
            assert failed.value.has_error_label("UnknownTransactionCommitResult")
            assert until(lambda: content(rows)[0]["v"]) == 1
            proxy.resume()
            session.commit_transaction()
    assert content(rows)[0]["v"] == 1


#: a client that leaves a transaction open: it prints its session's id and waits to be killed
ABANDON = """
import sys, time, pymongo
client = pymongo.MongoClient(sys.argv[1])
session = client.start_session()
session.start_transaction()
client[sys.argv[2]].rows.update_one({"_id": 1}, {"$set": {"v": "abandoned"}}, session=session)
client[sys.argv[2]].rows.insert_one({"_id": "abandoned"}, session=session)
print(session.session_id["id"].hex(), flush=True)
time.sleep(600)
"""


@contextmanager
def abandoned(mongodb_uri: str, rows: Rows) -> Iterator[Document]:
    """The lsid of a session with an open transaction on document 1, whose client has been killed."""
    with subprocess.Popen(
        [sys.executable, "-c", ABANDON, mongodb_uri, rows.database.name],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lsid = {"id": Binary(bytes.fromhex(process.stdout.readline().strip()), 4)}
        finally:
            process.kill()
    yield lsid


def _write(client: MongoClient[Document], rows: Rows, value: object) -> None:
    with begin(client) as session:
        rows.update_one({"_id": 1}, {"$set": {"v": value}}, session=session)
        session.commit_transaction()


def test_an_abandoned_transaction_blocks_and_can_be_killed(
    client: MongoClient[Document], rows: Rows, mongodb_uri: str
) -> None:
    with abandoned(mongodb_uri, rows) as lsid:
        for _ in range(3):
            conflicts(lambda: _write(client, rows, "mine"))
        client.admin.command({"killSessions": [lsid]})
        _write(client, rows, "mine")
    assert content(rows) == [{"_id": 1, "at": 0, "v": "mine"}, {"_id": 2, "at": 0, "v": 0}]


def test_a_killed_session_commits_nothing(
    client: MongoClient[Document], rows: Rows, mongodb_uri: str
) -> None:
    """From another client, by the id alone; a second kill does no harm."""
    with MongoClient[Document](mongodb_uri) as another, begin(client) as session:
        rows.update_one({"_id": 1}, {"$set": {"v": 1}}, session=session)
        for _ in range(2):
            another.admin.command({"killSessions": [dict(session.session_id)]})
        is_over(session)
    assert content(rows)[0]["v"] == 0


def test_killing_a_session_that_has_committed_undoes_nothing(
    client: MongoClient[Document], rows: Rows
) -> None:
    with begin(client) as session:
        rows.update_one({"_id": 1}, {"$set": {"v": 1}}, session=session)
        session.commit_transaction()
        client.admin.command({"killSessions": [dict(session.session_id)]})
    assert content(rows)[0]["v"] == 1


@pytest.mark.slow
def test_an_abandoned_transaction_ends_by_itself(
    client: MongoClient[Document], rows: Rows, mongodb_uri: str
) -> None:
    """After transactionLifetimeLimitSeconds and not before. A server may look only once a minute."""
    lifetime_s = _lifetime_s(client)
    opened = time.monotonic()
    with abandoned(mongodb_uri, rows):
        conflicts(lambda: _write(client, rows, "early"))

        def free() -> bool:
            error = failure_if_any(lambda: _write(client, rows, "mine"))
            assert error is None or code_of(error) == WRITE_CONFLICT
            return error is None

        until(free, within=lifetime_s + 65, every=0.5)
        took_s = time.monotonic() - opened
    print(f"free after {took_s:.1f} s; limit {lifetime_s} s")
    assert took_s > lifetime_s * 0.9
    assert content(rows) == [{"_id": 1, "at": 0, "v": "mine"}, {"_id": 2, "at": 0, "v": 0}]


def _lifetime_s(client: MongoClient[Document]) -> float:
    """What the server says, or MongoDB's default where it does not say."""
    try:
        answer = client.admin.command({"getParameter": 1, "transactionLifetimeLimitSeconds": 1})
    except OperationFailure:
        answer = {}
    return float(answer.get("transactionLifetimeLimitSeconds", DEFAULT_LIFETIME_S))


# -- field names with dots and dollars --


def test_odd_field_names_below_the_top_level(rows: Rows) -> None:
    """Every way of writing keeps them, as long as the value is set whole (MongoDB since 5.0)."""
    rows.insert_one({"_id": "insert", "m": ODD_NAMES})
    rows.replace_one({"_id": "replace"}, {"m": 0}, upsert=True)
    rows.replace_one({"_id": "replace"}, {"m": ODD_NAMES})
    rows.replace_one({"_id": "replace upsert"}, {"m": ODD_NAMES}, upsert=True)
    rows.update_one({"_id": "set upsert"}, {"$set": {"m": ODD_NAMES}}, upsert=True)
    rows.insert_one({"_id": "set", "m": {"$odd": False, "gone": 1}})
    rows.update_one({"_id": "set"}, {"$set": {"m": ODD_NAMES}})
    rows.update_one({"_id": "on insert"}, {"$setOnInsert": {"m": ODD_NAMES}}, upsert=True)
    rows.bulk_write([UpdateOne({"_id": "bulk"}, {"$set": {"m": ODD_NAMES}}, upsert=True)])
    rows.update_one({"_id": "pipeline"}, [{"$set": {"m": {"$literal": ODD_NAMES}}}], upsert=True)
    written = [row for row in content(rows) if isinstance(row["_id"], str)]
    assert len(written) == 8
    for row in written:
        assert row["m"] == ODD_NAMES, row["_id"]
        assert list(row["m"]) == list(ODD_NAMES), "in their order"


def test_odd_field_names_in_arrays(rows: Rows) -> None:
    rows.update_one({"_id": 1}, {"$set": {"list": [ODD_NAMES, [ODD_NAMES]]}})
    assert content(rows)[0]["list"] == [ODD_NAMES, [ODD_NAMES]]


def test_a_dot_in_an_update_is_a_path(rows: Rows) -> None:
    """So a field whose name has a dot is set only with the whole value that it is in."""
    rows.insert_one({"_id": "dot", "m": {"a.b": 1}})
    rows.update_one({"_id": "dot"}, {"$set": {"m.a.b": 2}})
    assert rows.find_one({"_id": "dot"}) == {"_id": "dot", "m": {"a.b": 1, "a": {"b": 2}}}


def test_a_pipeline_takes_values_for_expressions(rows: Rows) -> None:
    """A value with a dollar needs $literal there."""
    assert failure_of(lambda: rows.update_one({"_id": 1}, [{"$set": {"m": {"$odd": True}}}])) is not None
    rows.update_one({"_id": 1}, [{"$set": {"m": "$v"}}])
    assert content(rows)[0]["m"] == 0


def test_dollars_at_the_top_level(rows: Rows) -> None:
    """Inserted they stay. Set in a document that is there, MongoDB refuses them: not relied on."""
    rows.insert_one({"_id": "top", "$odd": 1, "a.b": 2})
    assert rows.find_one({"_id": "top"}) == {"_id": "top", "$odd": 1, "a.b": 2}
    refused = (
        failure_if_any(lambda: rows.replace_one({"_id": 1}, {"v": 1, "$odd": 1})),
        failure_if_any(lambda: rows.update_one({"_id": 1}, {"$set": {"$odd": 1}})),
    )
    assert all(error is None or code_of(error) == DOLLAR_PREFIX for error in refused)
