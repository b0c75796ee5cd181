"""A batch's events folded per row leave what they would leave one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.debezium.envelope import decode
from connectors.errors import UniqueTaken
from consumers.apply.arrays import sort_key
from consumers.apply.decide import Gone, Put, Read, RowOp, decide, fold, merge
from consumers.apply.write import RowWriter
from consumers.mapping.plan import Plan
from tests.support.memory_mongo import MemoryMongo, MemoryTransactions
from tests.support.memory_postgres import (
    Change,
    Key,
    MemoryPostgres,
    MemoryRows,
    RowValues,
    SourceTransaction,
    Topics,
    Violated,
)
from tests.support.simulation import (
    FILES,
    MEMBERS,
    NOW_US,
    PLACEHOLDER,
    SOURCES,
    TAGGED,
    TEAMS,
    judge,
    plan_of,
)

KEY = (1,)
COLUMNS = ("a", "b", "c")


# -- merging, of the operations of one row -----------------------------------------------------------------------
@st.composite
def sequences(draw: st.DrawFn) -> list[RowOp]:
    """Operations of one row as `decide` makes them: what creates a row has all of its values."""
    made: list[RowOp] = []
    for at in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(("whole", "whole", "part", "part", "gone", "read")))
        lsn = draw(st.integers(1, 99))
        create = draw(st.booleans())
        if kind == "gone":
            made.append(Gone(KEY, at, lsn))
        elif kind == "read":
            made.append(Read(KEY, create, at, lsn))
        elif kind == "whole":
            made.append(Put(KEY, {name: (name, at) for name in COLUMNS}, True, create, at, lsn))
        else:
            names = draw(st.sets(st.sampled_from(COLUMNS), max_size=2))
            made.append(Put(KEY, {name: (name, at) for name in names}, False, False, at, lsn))
    return made


@given(sequences(), st.data())
def test_merging_does_not_depend_on_where_a_batch_is_cut(ops: list[RowOp], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(ops)))
    parts = [reduce(merge, part) for part in (ops[:cut], ops[cut:]) if part]
    assert reduce(merge, parts) == reduce(merge, ops) == fold(ops)[KEY]


@given(sequences())
def test_folding_what_is_folded_changes_nothing(ops: list[RowOp]) -> None:
    once = fold(ops)
    assert fold(once.values()) == once


@given(sequences())
def test_a_fold_stands_where_its_last_operation_stood(ops: list[RowOp]) -> None:
    folded = fold(ops)[KEY]
    assert (folded.at, folded.lsn) == (ops[-1].at, ops[-1].lsn)


@given(sequences())
def test_the_last_value_that_was_sent_wins(ops: list[RowOp]) -> None:
    """Unless the row is gone, or has to be read."""
    folded = fold(ops)[KEY]
    if not isinstance(folded, Put):
        return
    for name, value in folded.natives.items():
        sent = [op.natives[name] for op in ops if isinstance(op, Put) and name in op.natives]
        assert value == sent[-1]


@given(sequences())
def test_nothing_of_an_earlier_life_shines_through(ops: list[RowOp]) -> None:
    """What comes after a delete is a new row: all of it is known, or it is read."""
    folded = fold(ops)[KEY]
    lives = [at for at, op in enumerate(ops) if isinstance(op, Gone)]
    if isinstance(ops[-1], Gone):
        assert folded == ops[-1]
    elif lives:
        assert not isinstance(folded, Gone)
        assert folded.create
        assert isinstance(folded, Read) or folded.whole


def test_a_part_after_a_delete_has_to_be_read() -> None:
    """A repeated suffix may begin with it."""
    folded = merge(Gone(KEY, 1, 10), Put(KEY, {"a": 1}, False, False, 2, 20))
    assert folded == Read(KEY, True, 2, 20)


@pytest.mark.parametrize("create", [False, True])
def test_a_whole_row_after_a_delete_begins_a_life(create: bool) -> None:
    """Nothing of the document before may be left, also where the event is an update."""
    whole = Put(KEY, {"a": 1, "b": 2, "c": 3}, True, create, 2, 20)
    assert merge(Gone(KEY, 1, 10), whole) == Put(KEY, whole.natives, True, True, 2, 20)


def test_a_part_after_what_has_to_be_read_does_not_replace_the_reading() -> None:
    folded = merge(Read(KEY, True, 1, 10), Put(KEY, {"a": 1}, False, False, 2, 20))
    assert folded == Read(KEY, True, 2, 20)


def test_rows_are_folded_each_for_itself() -> None:
    one, other = Gone((1,), 0, 1), Gone((2,), 1, 2)
    assert fold([one, other]) == {(1,): one, (2,): other}


# -- and applied -------------------------------------------------------------------------------------------------
VALUES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    TEAMS: {
        "team_name": st.sampled_from("ab"),
        "description": st.sampled_from((None, "long", "longer")),
        "is_active": st.booleans(),
        "score": st.decimals(0, 9, places=1),
    },
    MEMBERS: {
        "team_id": st.sampled_from((1, 2, None)),
        "place": st.sampled_from((1, 2, None)),
        "joined": st.integers(0, 9).map(lambda day: day * 86_400_000_000),
        "note": st.sampled_from(("n", "m")),
        "status": st.sampled_from(("active", "active", "disabled", "gone")),
        "weight": st.decimals(0, 9, places=1),
    },
    FILES: {
        "folder": st.sampled_from("fg"),
        "name": st.sampled_from("nm"),
        "team_id": st.sampled_from((1, None)),
        "body": st.sampled_from((None, "b", "c")),
        "meta": st.sampled_from(("{}", '{"a": [1, null]}')),
        "tags": st.sampled_from(("{}", "{x}", "{x,y}")),
    },
}


@st.composite
def histories(draw: st.DrawFn) -> tuple[bool, MemoryPostgres, int]:
    """A source after random statements, and after how many of its changes the batch begins."""
    tagged = draw(st.booleans())
    server = MemoryPostgres(TAGGED if tagged else SOURCES)
    cut = None
    for _ in range(draw(st.integers(1, 14))):
        tx = server.begin()
        try:
            _statement(draw, tx, tagged)
        except Violated:
            tx.end()
            continue
        tx.commit()
        tx.show()
        if cut is None and draw(st.integers(0, 3)) == 0:
            cut = len(server.wal)
    return tagged, server, cut or 0


def _statement(draw: st.DrawFn, tx: SourceTransaction, tagged: bool) -> None:
    name = draw(st.sampled_from((TEAMS, MEMBERS, MEMBERS, FILES)))
    columns = {c: v for c, v in VALUES[name].items() if tagged or c != "tags"}
    number = draw(st.integers(1, 2))
    key: Key = (number,) if name != FILES else (UUID(int=number),)
    if key not in tx.rows(name):
        tx.insert(name, {"id": key[0], **{c: draw(v) for c, v in columns.items()}})
        return
    kind = draw(st.sampled_from(("update", "update", "update", "whole", "delete", "rekey", "again")))
    if kind == "rekey":
        other = 3 - number
        tx.update(name, key, id=other if name != FILES else UUID(int=other))
        return
    if kind in ("delete", "again"):
        tx.delete(name, key)
        if kind == "again":
            tx.insert(name, {"id": key[0], **{c: draw(v) for c, v in columns.items()}})
        return
    some = columns if kind == "whole" else {draw(st.sampled_from(sorted(columns))): None}
    values: RowValues = {c: draw(columns[c]) for c in some}
    tx.update(name, key, **values)


def operations(server: MemoryPostgres, changes: Sequence[Change], plan: Plan) -> list[tuple[str, RowOp]]:
    """What these changes ask, by way of Debezium's records."""
    topics = Topics(server.sources, 1, PLACEHOLDER)
    found = []
    for change in changes:
        topics.send(change)
        for record in topics.logs[topics.of(change.table)[0]][-1 if change.op != "d" else -2 :]:
            assert record is not None
            if record.value is not None:  # a tombstone says what its delete has said
                event = decode(record, PLACEHOLDER)
                found.append((event.table, decide(event, plan.tables[event.table])))
    return found


def applied(
    server: MemoryPostgres, plan: Plan, batches: Sequence[Sequence[tuple[str, RowOp]]], *, careful: bool
) -> MemoryMongo:
    """A target after these batches, each folded and in a transaction of its own."""
    store = MemoryMongo()
    writer = RowWriter(plan, MemoryRows(server, lambda what: None, lambda: None), lambda: NOW_US)
    transactions = MemoryTransactions(store.db)
    for batch in batches:
        by_table: dict[str, list[RowOp]] = {}
        for name, op in batch:
            by_table.setdefault(name, []).append(op)
        folded = {name: fold(ops) for name, ops in by_table.items()}
        transactions.once(lambda tx, folded=folded: writer.apply(tx, folded, careful=careful))  # type: ignore
    return store


@settings(max_examples=250, deadline=None)
@given(histories(), st.booleans(), st.data())
def test_a_folded_batch_leaves_what_its_events_leave_one_by_one(
    history: tuple[bool, MemoryPostgres, int], careful: bool, data: st.DataObject
) -> None:
    tagged, server, _ = history
    plan = plan_of(tagged)
    ops = operations(server, server.wal, plan)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(ops)), max_size=3)) | {0, len(ops)})
    one_by_one = applied(server, plan, [[op] for op in ops], careful=False)
    in_one = applied(server, plan, [ops], careful=careful)
    in_some = applied(server, plan, [ops[a:b] for a, b in pairwise(cuts)], careful=careful)
    for store in (one_by_one, in_one, in_some):
        judge(server.seen, store, early=False)
    for name in ("teams", "memberships", "files", "_tandem_rows_teams_members"):
        assert without_stamps(in_one, name) == without_stamps(one_by_one, name)


@settings(max_examples=150, deadline=None)
@given(histories(), st.booleans())
def test_a_repeated_suffix_changes_nothing(history: tuple[bool, MemoryPostgres, int], folded: bool) -> None:
    """What a restarted connector sends once more: documents are ahead of it, and end as they were."""
    tagged, server, cut = history
    plan = plan_of(tagged)
    ops, again = operations(server, server.wal, plan), operations(server, server.wal[cut:], plan)
    batches = [ops, again] if folded else [[op] for op in (*ops, *again)]
    judge(server.seen, applied(server, plan, batches, careful=False), early=False)


def without_stamps(store: MemoryMongo, collection: str) -> dict[Any, Any]:
    return {
        _id: {name: value for name, value in document.items() if name not in ("_sync", "l")}
        for _id, document in store.collection(collection).items()
    }


def test_arrays_are_ordered_as_postgresql_orders() -> None:
    """NULL behind everything, NaN behind infinity (PostgreSQL documentation, 8.1.3 and ORDER BY)."""
    ordered: list[Any] = [float("-inf"), -1.5, 0.0, 2.0, float("inf"), float("nan"), None]
    shuffled = [ordered[n] for n in (6, 2, 5, 0, 4, 1, 3)]
    assert [repr(v) for v in sorted(shuffled, key=lambda v: sort_key([v]))] == [repr(v) for v in ordered]
    assert sort_key([1, None]) > sort_key([1, "a"]) > sort_key([0, None])


@pytest.mark.parametrize("careful", [False, True])
def test_two_rows_that_swap_a_unique_value_in_one_batch(careful: bool) -> None:
    """Once the values are let go before they are written; without, the worker is told."""
    server = MemoryPostgres(SOURCES)
    for key, name in ((1, "a"), (2, "b")):
        server.fill(TEAMS, team(key, name))
    plan = plan_of(False)
    store = MemoryMongo()
    store.build_unique("teams", ("teamName",))
    writer = RowWriter(plan, MemoryRows(server, lambda what: None, lambda: None), lambda: NOW_US)
    transactions = MemoryTransactions(store.db)

    def put(key: int, name: str, lsn: int) -> Put:
        return Put((key,), team(key, name), True, False, lsn, lsn)

    first = {TEAMS: fold([put(1, "a", 1), put(2, "b", 2)])}
    transactions.once(lambda tx: writer.apply(tx, first))  # type: ignore[arg-type]
    server.fill(TEAMS, team(1, "b"))
    server.fill(TEAMS, team(2, "a"))
    swap = {TEAMS: fold([put(1, "b", 3), put(2, "a", 4)])}
    if careful:
        transactions.once(lambda tx: writer.apply(tx, swap, careful=True))  # type: ignore[arg-type]
        judge(server.seen, store, early=True)
    else:
        with pytest.raises(UniqueTaken):
            transactions.once(lambda tx: writer.apply(tx, swap))  # type: ignore[arg-type]


def team(key: int, name: str) -> RowValues:
    return {"id": key, "team_name": name, "description": "d", "is_active": True, "score": Decimal("1.5")}
