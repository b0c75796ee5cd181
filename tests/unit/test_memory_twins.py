"""The twins in memory do what tests/contract shows of a real MongoDB, and what PostgreSQL's order of things is."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pymongo import DeleteOne, InsertOne, ReplaceOne, UpdateOne

from connectors.errors import Contended, ServerGone, UniqueTaken, WriteRefused
from connectors.mongo import ledger
from connectors.mongo.transaction import write
from connectors.positions import Partition
from consumers.apply.write import table_read
from tests.support.memory_mongo import (
    MemoryMongo,
    MemoryTransaction,
    MemoryTransactions,
    OpenTransaction,
    matches,
)
from tests.support.memory_postgres import (
    Blocked,
    Group,
    MemoryPostgres,
    MemoryRows,
    MemoryStream,
    Topics,
    Violated,
)
from tests.support.simulation import PLACEHOLDER, SOURCES, TEAMS, plan_of

Two = tuple[MemoryMongo, MemoryTransaction, MemoryTransaction]


def opened(store: MemoryMongo) -> MemoryTransaction:
    transaction = MemoryTransaction(store, OpenTransaction(store, object()))
    transaction.find("rows", {})
    return transaction


@pytest.fixture
def two() -> Two:
    """Two rows, and two open transactions that have their snapshots."""
    store = MemoryMongo()
    for _id in (1, 2):
        store.plain_write("rows", _id, {"_id": _id, "v": 0})
    return store, opened(store), opened(store)


def end(transaction: MemoryTransaction) -> None:
    transaction._open.commit()


# -- MongoDB -----------------------------------------------------------------------------------------------------
def test_reads_are_stable_and_own_writes_are_seen(two: Two) -> None:
    store, one, _ = two
    store.plain_write("rows", 1, {"_id": 1, "v": 9})
    store.plain_write("rows", 3, {"_id": 3})
    assert one.find("rows", {}) == [{"_id": 1, "v": 0}, {"_id": 2, "v": 0}]
    one.update("rows", {"_id": 2}, {"$set": {"v": 5}})
    assert one.find("rows", {"v": 5}) == [{"_id": 2, "v": 5}]
    assert store.collection("rows")[2]["v"] == 0


ACTS: dict[str, Callable[[MemoryTransaction], object]] = {
    "update": lambda tx: tx.update("rows", {"_id": 1}, {"$inc": {"v": 1}}),
    "replace": lambda tx: tx.bulk("rows", [ReplaceOne({"_id": 1}, {"w": id(tx) % 1000}, upsert=True)]),
    "delete": lambda tx: tx.delete("rows", {"_id": 1}),
    "upsert of an absent one": lambda tx: tx.bulk(
        "rows", [UpdateOne({"_id": 7}, {"$inc": {"n": 1}}, upsert=True)]
    ),
    "insert": lambda tx: tx.bulk("rows", [InsertOne({"_id": 7})]),
    "bulk delete": lambda tx: tx.bulk("rows", [DeleteOne({"_id": 1})]),
}


@pytest.mark.parametrize("name", ACTS)
def test_writes_of_one_document_conflict(two: Two, name: str) -> None:
    store, one, other = two
    ACTS[name](one)
    with pytest.raises(Contended):
        ACTS[name](other)
    end(one)
    with pytest.raises(Contended):
        end(other)
    late = opened(store)
    assert late.find("rows", {}) == list(store.collection("rows").values())


def test_a_write_on_an_old_snapshot_conflicts(two: Two) -> None:
    _, one, other = two
    one.update("rows", {"_id": 1}, {"$set": {"v": 1}})
    end(one)
    with pytest.raises(Contended):
        other.update("rows", {"_id": 1}, {"$set": {"v": 2}})


def test_what_matches_nothing_or_changes_nothing_conflicts_with_nothing(two: Two) -> None:
    _, one, other = two
    one.update("rows", {"_id": 1}, {"$set": {"v": 1}})
    assert other.update("rows", {"_id": 1, "v": 99}, {"$set": {"v": 2}}) == 0
    assert other.delete("rows", {"_id": 7}) == 0
    assert other.update("rows", {"_id": 1}, {"$set": {"v": 0}}) == 1
    end(one)
    end(other)


def test_write_skew_is_possible(two: Two) -> None:
    store, one, other = two
    for tx, _id in ((one, 1), (other, 2)):
        assert len(tx.find("rows", {"v": 0})) == 2
        tx.delete("rows", {"_id": _id})
    end(one)
    end(other)
    assert store.collection("rows") == {}


def test_a_unique_value_is_judged_at_each_statement(two: Two) -> None:
    store, one, other = two
    store.plain_write("names", 1, {"_id": 1, "n": "a"})
    store.build_unique("names", ("n",))
    one = opened(store)
    with pytest.raises(UniqueTaken):
        one.insert("names", [{"_id": 2, "n": "a"}])
    with pytest.raises(Contended):  # it is over
        one.find("names", {})
    one, other = opened(store), opened(store)
    one.bulk("names", [write("delete", 1), write("insert", 2, {"n": "a"})])
    with pytest.raises(Contended):
        other.insert("names", [{"_id": 3, "n": "a"}])


@pytest.mark.parametrize(("duplicates", "error"), [(False, Contended), (True, UniqueTaken)])
def test_a_unique_value_taken_since_the_snapshot(duplicates: bool, error: type[Exception]) -> None:
    store = MemoryMongo(races_as_duplicates=duplicates)
    store.build_unique("names", ("n",))
    one = opened(store)
    store.plain_write("names", 1, {"_id": 1, "n": "a"})
    with pytest.raises(error):
        one.insert("names", [{"_id": 2, "n": "a"}])


def test_what_bson_does_not_take_is_refused() -> None:
    with pytest.raises(WriteRefused):
        opened(MemoryMongo()).insert("rows", [{"_id": 1, "v": Decimal(1)}])


def test_a_dead_client_s_transaction_blocks_until_its_session_is_ended() -> None:
    store = MemoryMongo(lifetime_s=60)
    dead, alive = MemoryTransactions(store.db), MemoryTransactions(store.db)
    partition = Partition("t", 0)
    ledger.add_positions(store.db, "public.t", "id", {partition: 0})  # type: ignore[arg-type]
    ledger.register_worker(store.db, "dead", dead.session_id, [partition])  # type: ignore[arg-type]

    class Died(BaseException):
        pass

    def die(tx: MemoryTransaction) -> None:
        tx.update(ledger.POSITIONS, {"_id": partition.id}, {"$set": {"at": 5}})
        raise Died

    def go_on(tx: MemoryTransaction) -> int:
        return tx.update(ledger.POSITIONS, {"_id": partition.id}, {"$set": {"at": 6}})

    with pytest.raises(Died):
        dead.once(die)
    with pytest.raises(Contended):
        alive.once(go_on)
    assert ledger.end_sessions_of_others(store.db, "alive", [partition]) == 1  # type: ignore[arg-type]
    assert alive.once(go_on) == 1
    assert store.collection(ledger.POSITIONS)[partition.id]["at"] == 6


def test_a_transaction_ends_when_its_time_is_over() -> None:
    now = [0.0]
    store = MemoryMongo(clock=lambda: now[0], lifetime_s=60)
    one = opened(store)
    one.insert("rows", [{"_id": 1}])
    now[0] = 61
    with pytest.raises(Contended):
        end(one)
    assert store.collection("rows") == {}


@pytest.mark.parametrize(("fate", "done"), [("before", False), ("after", True)])
def test_a_commit_whose_answer_is_lost(fate: str, done: bool) -> None:
    store = MemoryMongo()
    store.fate = lambda: fate
    with pytest.raises(ServerGone):
        MemoryTransactions(store.db).once(lambda tx: tx.insert("rows", [{"_id": 1}]))
    assert (1 in store.collection("rows")) == done


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"a": None}, False),
        ({"b": None}, True),
        ({"a.x": {"$lt": 2}}, True),
        ({"a.y": {"$lt": 2}}, False),
        ({"a.y": {"$not": {"$gte": 2}}}, True),
        ({"l": 2}, True),
        ({"l": {"$in": [2, 5]}}, True),
        ({"$or": [{"s": "t"}, {"s": "s"}]}, True),
        ({"s": {"$ne": "s"}}, False),
        ({"b": {"$exists": False}}, True),
    ],
)
def test_queries(query: dict[str, Any], found: bool) -> None:
    assert matches({"_id": 1, "a": {"x": 1}, "l": [1, 2], "s": "s"}, query) == found


# -- PostgreSQL and Kafka ----------------------------------------------------------------------------------------
def team(key: int, name: str) -> dict[str, Any]:
    return {"id": key, "team_name": name, "description": "d", "is_active": True, "score": Decimal(1)}


def test_an_insert_that_waits_for_a_delete_has_the_lower_lsn() -> None:
    server = MemoryPostgres(SOURCES)
    server.fill(TEAMS, team(1, "a"))
    inserts, deletes = server.begin(), server.begin()
    inserts.log_insert(TEAMS)
    deletes.delete(TEAMS, (1,))
    with pytest.raises(Blocked):
        inserts.insert(TEAMS, team(1, "a"))
    deletes.commit()
    with pytest.raises(Blocked):  # decoded, but its locks are held until it is visible
        inserts.insert(TEAMS, team(1, "a"))
    deletes.show()
    inserts.insert(TEAMS, team(1, "a"))
    inserts.commit()
    assert [change.op for change in server.wal] == ["d", "c"]
    assert server.wal[0].lsn > server.wal[1].lsn


def test_a_commit_is_decoded_before_it_is_visible() -> None:
    server = MemoryPostgres(SOURCES, first_tx=(1 << 32) - 1)
    rows = MemoryRows(server, lambda what: None, lambda: None)
    read = table_read(plan_of(False).tables[TEAMS])
    tx = server.begin()
    tx.insert(TEAMS, team(1, "a"))
    tx.commit()
    assert len(server.wal) == 1
    sent = server.wal[0].tx & 0xFFFFFFFF
    assert not rows.visible_now().shows(sent)
    assert rows.read({read: [("1",)]})[0][TEAMS] == []
    tx.show()
    assert rows.visible_now().shows(sent)
    assert rows.read({read: [("1",)]})[0][TEAMS] == [(1, "a", "d", True, Decimal(1))]


def test_a_unique_value_is_waited_for_and_refused() -> None:
    server = MemoryPostgres(SOURCES)
    one, other = server.begin(), server.begin()
    one.insert(TEAMS, team(1, "a"))
    with pytest.raises(Blocked):
        other.insert(TEAMS, team(2, "a"))
    one.commit()
    one.show()
    with pytest.raises(Violated):
        other.insert(TEAMS, team(2, "a"))


def test_a_truncate_waits_and_empties_older_snapshots() -> None:
    server = MemoryPostgres(SOURCES)
    server.fill(TEAMS, team(1, "a"))
    exported, writes, truncates = server.export(), server.begin(), server.begin()
    writes.update(TEAMS, (1,), description="e")
    with pytest.raises(Blocked):
        truncates.truncate(TEAMS)
    writes.end()
    truncates.truncate(TEAMS)
    assert server.rows_under(exported, TEAMS) != {}
    truncates.commit()
    truncates.show()
    assert server.rows_under(exported, TEAMS) == {}


def test_a_member_hears_of_a_rebalance_when_it_polls_and_has_to_be_placed() -> None:
    topics = Topics(SOURCES, 1, PLACEHOLDER)
    server = MemoryPostgres(SOURCES)
    tx = server.begin()
    tx.insert(TEAMS, team(1, "a"))
    tx.delete(TEAMS, (1,))
    tx.commit()
    for change in server.wal:
        topics.send(change)
    (home,) = topics.of(TEAMS)
    topics.marker(home)
    group = Group(topics)
    stream = MemoryStream(
        group, "me", before=lambda what: None, idle=lambda seconds: None, draw=lambda n: n - 1
    )
    group.assign({"me": frozenset(topics.logs)})
    assert stream.poll(0, 9) == {}
    assert (stream.generation, stream.assigned()) == (1, frozenset(topics.logs))
    assert stream.poll(0, 9) == {}
    stream.place({home: 0})
    records = stream.poll(0, 9)[home]
    assert [record.value is None for record in records] == [False, False, True]
    assert stream.position(home) == 4
