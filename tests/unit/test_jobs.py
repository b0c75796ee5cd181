"""Jobs: who has a turn, from where they go on, and what they don't write (docs/write-rule.md, clause 9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest

import consumers.apply.copies as copies_module
import consumers.apply.jobs as jobs_module
import consumers.apply.write as write_module
from connectors.errors import MappingChanged, TooMuchAtOnce, WriteRefused
from connectors.mongo import ledger
from consumers.apply.arrays import Anchors
from consumers.apply.copies import Copies, same
from tests.support import memory_mongo
from tests.support.mutants import MUTANTS, broken
from tests.support.simulation import FILES, TEAMS, Failed
from tests.unit.test_interleaved import (
    ONE,
    ZERO,
    Change,
    Pair,
    file,
    of_tables,
    only_jobs,
    team,
    truncate,
    update,
)


@contextmanager
def paired(pair: Pair, *, few: int = 0, at_once: int = 100, turn_s: float = 0.5) -> Iterator[Pair]:
    with ExitStack() as stack:
        stack.enter_context(pair.world._patched())
        for module, name, value in (
            (copies_module, "FEW", few),
            (copies_module, "SLOTS", 8),
            (write_module, "SLOTS", 8),
            (jobs_module, "_AT_ONCE", at_once),
            (jobs_module, "_TURN_S", turn_s),
        ):
            stack.enter_context(patch.object(module, name, value))
        pair.begin()
        yield pair


def applied(pair: Pair, times: int = 5) -> None:
    for _ in range(times):
        pair.work(0)
        pair.work(1)


def batches(pair: Pair, which: int) -> None:
    """No jobs."""
    with patch.object(jobs_module.Jobs, "run", lambda self: False):
        pair.world._work(pair.world.actors[which], 12)


def turn(pair: Pair, which: int = 0) -> bool:
    """One turn of jobs. Whether there is more to do soon."""
    found: list[bool] = []
    actor = pair.world.actors[which]
    assert actor.worker is not None
    run = actor.worker.jobs.run
    pair.world._as(actor, lambda: found.append(run()))
    return found[0]


def jobs(pair: Pair) -> Mapping[Any, Any]:
    return pair.world.store.collection(ledger.JOBS)


def names(pair: Pair) -> dict[str, str]:
    return {d["name"]: d["team"]["teamName"] for d in pair.world.store.collection("files").values()}


# -- a snapshot from before the job ---------------------------------------------------------------------------------
def _late() -> None:
    with paired(Pair.of(only_jobs, 2)) as pair:
        pair.commit((team(), file(ZERO), file(ONE)))
        applied(pair)
        store = pair.world.store
        before, time = {name: dict(of) for name, of in store.documents.items()}, store.time
        pair.commit([update(TEAMS, team_name="new")])
        batches(pair, 1)
        assert jobs(pair)
        view, behind = memory_mongo.OpenTransaction.view, [1, 2]

        def late(self: memory_mongo.OpenTransaction, collection: str) -> Any:
            if behind and self._snapshot is None:
                behind.pop()
                self._snapshot, self._time = before, time
            return view(self, collection)

        with patch.object(memory_mongo.OpenTransaction, "view", late):
            while behind:
                turn(pair)
        pair.rest()
        assert names(pair) == {f"f{ZERO}": "new", f"f{ONE}": "new"}


def test_a_snapshot_from_before_the_job() -> None:
    """The job was seen by a read outside of the transaction, which does not see it."""
    _late()


# -- turns ----------------------------------------------------------------------------------------------------------
def _hot(rounds: int = 40) -> None:
    with paired(Pair.of(of_tables(FILES)), at_once=1, turn_s=0.0001) as pair:
        pair.commit([team(1), team(2), *(file(n, 1) for n in range(1, 6)), file(9, 2)])
        applied(pair)
        for n in range(rounds):
            pair.commit([update(TEAMS, 1, team_name=f"hot{n}")])
            if n == 0:
                pair.commit([update(TEAMS, 2, team_name="cold")])
            batches(pair, 1)
            for _ in range(3):
                turn(pair)
        found = names(pair)
        assert found.pop("f9") == "cold"
        assert set(found.values()) <= {f"hot{n}" for n in range(rounds - 8, rounds)}
        pair.rest()
        assert set(names(pair).values()) == {"cold", f"hot{rounds - 1}"}


def test_a_parent_that_is_written_all_the_time() -> None:
    """Its last documents and the jobs of others have their turn; in the end all are as the last one says."""
    _hot()


@pytest.mark.parametrize(
    ("clause", "story"),
    [
        ("jobs: by a snapshot from before the job", _late),
        ("jobs: one that is recorded anew ends where it is", _hot),
    ],
)
def test_a_broken_clause_is_told(clause: str, story: Any) -> None:
    with broken(next(m for m in MUTANTS if m.name == clause)), pytest.raises((Failed, AssertionError)):
        story()


def test_every_job_has_its_turn() -> None:
    with paired(Pair.of(of_tables(FILES)), turn_s=-1) as pair:
        pair.commit([team(1), team(2), file(1, 1), file(2, 2)])
        applied(pair)
        pair.commit([update(TEAMS, 1, team_name="a"), update(TEAMS, 2, team_name="b"), truncate(FILES)])
        for which in (1, 0):
            batches(pair, which)
        wanted, begun = sorted(jobs(pair)), list[str]()
        assert [_id.split("/")[0] for _id in wanted] == ["copy", "copy", "truncate"]
        with patch.object(jobs_module.Jobs, "_do", lambda self, job, until: bool(begun.append(job.id))):
            for _ in range(7):
                assert turn(pair)
        assert sorted(begun[:3]) == wanted
        assert begun == [*begun[:3], *begun[:3], begun[0]]
        pair.rest()


def test_more_jobs_than_are_looked_at() -> None:
    with paired(Pair.of(of_tables(FILES)), turn_s=1e9) as pair, patch.object(jobs_module, "_LOOKED_AT", 4):
        pair.commit([*(team(n) for n in range(1, 11)), *(file(n, n) for n in range(1, 11))])
        applied(pair)
        pair.commit([update(TEAMS, n, team_name=f"new{n}") for n in range(1, 11)])
        batches(pair, 1)
        assert len(jobs(pair)) == 10
        assert [turn(pair), len(jobs(pair)), turn(pair), len(jobs(pair)), turn(pair)] == [
            True,
            6,
            True,
            2,
            False,
        ]
        assert not jobs(pair)
        pair.rest()


def test_one_that_others_are_faster_than_leaves_the_turn_to_the_next() -> None:
    with paired(Pair.of(of_tables(FILES)), turn_s=1e9) as pair:
        pair.commit([team(1), team(2), file(1, 1), file(2, 2)])
        applied(pair)
        pair.commit([update(TEAMS, 1, team_name="a"), update(TEAMS, 2, team_name="b")])
        batches(pair, 1)
        [first, _] = sorted(jobs(pair))
        parent = jobs(pair)[first]["parent"]
        store = pair.world.store
        taken = next(d for d in store.collection("files").values() if d["_sync"]["copy"]["team"] == parent)
        other = memory_mongo.OpenTransaction(store, "other")
        other.put("files", taken["_id"], {**taken, "x": 1})
        wait, store.wait = store.wait, None
        assert turn(pair)
        store.wait = wait
        assert [*jobs(pair)] == [first]
        other.end()
        pair.rest()


# -- what is too much, or refused -----------------------------------------------------------------------------------
def _only_so_many(most: int) -> Any:
    """A server that takes so many documents of a transaction at once."""
    update_, delete_ = memory_mongo.MemoryTransaction._update, memory_mongo.MemoryTransaction._delete

    def limited(whole: Any) -> Any:
        def run(self: Any, collection: str, query: Any, *rest: Any, **more: Any) -> int:
            if collection == "files" and len(self._matching(collection, query)) > most:
                self._open.end()
                raise TooMuchAtOnce("too much", remedy="less")
            done: int = whole(self, collection, query, *rest, **more)
            return done

        return run

    return patch.multiple(memory_mongo.MemoryTransaction, _update=limited(update_), _delete=limited(delete_))


def test_what_is_too_much_for_the_server_is_halved() -> None:
    with paired(Pair.of(of_tables(FILES))) as pair:
        pair.commit([team(1), *(file(n, 1) for n in range(1, 8))])
        applied(pair)
        pair.commit([update(TEAMS, 1, team_name="new")])
        batches(pair, 1)
        with _only_so_many(1):
            turn(pair)
        assert not jobs(pair)
        assert set(names(pair).values()) == {"new"}
        pair.commit([truncate(FILES)])
        with _only_so_many(1):
            batches(pair, 0)
            turn(pair)
        assert not jobs(pair)
        pair.rest()


def test_what_bson_does_not_take_is_refused_and_no_crash() -> None:
    for value in ({"a\0b": 1}, 2**70, "\ud800", {1, 2}):
        with pytest.raises(WriteRefused):
            same({"x": 1}, {"x": value})


def test_a_parent_with_what_bson_does_not_take_is_parked() -> None:
    with paired(Pair.of(of_tables(FILES))) as pair:
        pair.commit([team(1), file(1, 1)])
        applied(pair)
        one = pair.world.plan.copies["files"]["team"]
        document = type(one).document

        def refused(self: Any, natives: Any, now_us: int) -> Any:
            made = document(self, natives, now_us)
            return {**made, "a\0b": 1} if self.copied and natives.get("team_name") == "bad" else made

        pair.commit([update(TEAMS, 1, team_name="bad"), team(2)])
        with patch.object(type(one), "document", refused):
            batches(pair, 1)
        [parked] = pair.world.store.collection(ledger.PARKED).values()
        assert parked["code"] == "WriteRefused"
        assert len(pair.world.store.collection("teams")) == 2


# -- somebody else's table, or mapping ------------------------------------------------------------------------------
@pytest.mark.parametrize("change", [truncate(FILES), update(TEAMS, team_name="new")])
def test_nothing_is_written_under_a_hold_or_by_another_mapping(change: Change) -> None:
    with paired(Pair.of(of_tables(FILES))) as pair:
        pair.commit([team(1), file(1, 1)])
        applied(pair)
        pair.commit([change])
        for which in (0, 1):
            batches(pair, which)
        assert len(jobs(pair)) == 1
        store = pair.world.store
        positions = {_id: d for _id, d in store.collection(ledger.POSITIONS).items() if d["table"] == FILES}
        before = dict(store.collection("files"))

        def set_all(**fields: object) -> None:
            for _id, position in positions.items():
                store.plain_write(ledger.POSITIONS, _id, {**position, **fields})

        set_all(holder="heal:somebody")
        assert not turn(pair)
        set_all(plan="another mapping")
        with pytest.raises(MappingChanged):
            turn(pair)
        assert store.collection("files") == before
        assert len(jobs(pair)) == 1
        set_all()
        turn(pair)
        assert store.collection("files") != before
        pair.rest()


# -- a document that refuses what is copied into it -----------------------------------------------------------------
@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """A validator that takes no team of this name in the first file."""
    put = memory_mongo.OpenTransaction.put

    def validated(self: Any, collection: str, _id: Any, document: Any) -> None:
        mine = collection == "files" and document is not None and document["name"] == "f1"
        if mine and (document["team"] or {}).get("teamName") == name:
            self.end()
            raise WriteRefused("the validator refuses the document", remedy="mend it")
        put(self, collection, _id, document)

    with patch.object(memory_mongo.OpenTransaction, "put", validated):
        yield


@pytest.mark.parametrize("few", [0, 200])
def test_a_document_that_refuses_is_parked_alone(few: int) -> None:
    with paired(Pair.of(of_tables(FILES)), few=few) as pair:
        pair.commit([team(1), team(2), file(1), file(2), file(3, 2)])
        applied(pair)
        pair.commit([update(TEAMS, 1, team_name="bad"), update(TEAMS, 2, team_name="good")])
        parked = pair.world.store.collection(ledger.PARKED)
        with _refusing("bad"):
            batches(pair, 1)
            turn(pair)
            assert names(pair) == {"f1": "t1", "f2": "bad", "f3": "good"}
            assert not jobs(pair)
            [(_id, one)] = parked.items()
            assert (one["table"], one["code"], one["lsn"] > 0) == (FILES, "WriteRefused", True)
            assert {d["teamName"] for d in pair.world.store.collection("teams").values()} == {"bad", "good"}
        pair.commit([truncate(FILES)])
        batches(pair, 0)
        turn(pair)
        assert not parked
        assert not jobs(pair)


@pytest.mark.parametrize(("counted", "queries"), [(1_000, 1), (3, 9)])
def test_many_parents_at_once_are_counted_in_one_query(counted: int, queries: int) -> None:
    with paired(Pair.of(of_tables(FILES)), few=3) as pair:
        pair.commit([*(team(n) for n in range(1, 9)), *(file(n, n) for n in range(1, 7)), file(7, 6)])
        applied(pair)
        store, plan = pair.world.store, pair.world.plan
        use, seen = plan.copies["files"]["team"], list[str]()

        def work(tx: Any) -> None:
            copies = Copies(tx, plan, Anchors(tx), lambda table: 0)
            for _id in store.collection(use.place):
                copies.changed(use, _id, {"teamName": "new"})
            copies.settle()

        store.before = seen.append
        with patch.object(copies_module, "_COUNTED", counted):
            memory_mongo.MemoryTransactions(store.db).once(work)
        assert seen.count("find files") == queries
        old = {
            d["_sync"]["copy"]["team"]
            for d in store.collection("files").values()
            if d["team"]["teamName"] != "new"
        }
        assert {job["parent"] for job in jobs(pair).values()} == old
        assert len(old) in (2, 3)
