"""Parked rows without servers: when they are tried again, how often, together, and what is kept of their events."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

import consumers.dead_letters as dead_letters
import consumers.worker as worker_module
from connectors.errors import Contended, TooMuchAtOnce, Unappliable, WriteRefused
from connectors.events import Record
from connectors.mongo import ledger, parked
from connectors.positions import Lsn, Partition, Snapshot
from consumers.dead_letters import Fate, Healing, Outcome, Parking, Settler
from consumers.records import Decoder
from consumers.worker import Worker
from tests.support.memory_mongo import MemoryMongo, MemoryTransactions
from tests.support.simulation import MEMBERS, PLACEHOLDER, TEAMS, plan_of

PLAN = plan_of(False)
HOME = Partition(f"tandem.{TEAMS}", 0)
OTHER = Partition(f"tandem.{TEAMS}", 1)


class _Rows:
    """PostgreSQL: the teams there are. asked: how many rows each reading was for."""

    def __init__(self) -> None:
        self.teams: dict[str, tuple[Any, ...]] = {}
        self.asked: list[int] = []

    def read(self, wanted: Any) -> tuple[dict[str, list[Any]], Lsn]:
        self.asked.append(sum(len(keys) for keys in wanted.values()))
        return {
            read.table: [self.teams[key[0]] for key in keys if key[0] in self.teams]
            for read, keys in wanted.items()
        }, Lsn(500)

    def visible_now(self) -> Snapshot:
        return Snapshot(10**6, 10**6, frozenset())


def row(number: int, *, score: str = "1") -> tuple[Any, ...]:
    return (number, f"name {number}", None, True, Decimal(score))


BAD = "1." + "1" * 40


def record(offset: int, number: int, *, score: str = "1", home: Partition = HOME) -> Record:
    value = {
        "op": "u",
        "source": {"schema": "public", "table": "teams", "lsn": 100 + offset, "txId": 5, "ts_ms": 1},
        "after": {"id": number, "team_name": "n", "description": None, "is_active": True, "score": score},
    }
    return Record(home, offset, b'{"k":{"id":%d}}' % number, orjson.dumps(value), 1)


@pytest.fixture
def store() -> MemoryMongo:
    made = MemoryMongo()
    ledger.add_positions(made.db, TEAMS, "id", {HOME: 0, OTHER: 0})  # type: ignore[arg-type]
    for one in (HOME, OTHER):
        made.plain_write(
            ledger.POSITIONS, one.id, {**made.collection(ledger.POSITIONS)[one.id], "holder": None}
        )
    return made


def settler(store: MemoryMongo, rows: _Rows) -> Settler:
    decoder = Decoder(PLAN, PLACEHOLDER, {HOME.topic: TEAMS})
    return Settler(
        MemoryTransactions(store.db),  # type: ignore[arg-type]
        rows,
        PLAN,
        decoder,
        lambda: 2_000_000,
        lambda: ledger.positions(store.db).values(),  # type: ignore[arg-type]
    )


def park(store: MemoryMongo, *records: Record) -> None:
    parking = Parking(Decoder(PLAN, PLACEHOLDER, {HOME.topic: TEAMS}), lambda: 1_000_000)
    trouble = WriteRefused("it is not taken", remedy="mend it", details={"value": "a secret"})
    for one in records:
        MemoryTransactions(store.db).repeat(partial(parking.alone, record=one, trouble=trouble))  # type: ignore[arg-type]


def documents(store: MemoryMongo) -> dict[str, Any]:
    return store.collection(ledger.PARKED)


def settle(store: MemoryMongo, rows: _Rows) -> dict[str, Fate]:
    found = parked.all_parked(store.db)  # type: ignore[arg-type]
    return {o.parked.id: o.fate for o in settler(store, rows).settle(found)}


# -- what is kept ------------------------------------------------------------------------------------------------
def test_a_row_is_parked_with_its_class_and_the_last_of_its_events(store: MemoryMongo) -> None:
    park(store, record(3, 1))
    waiting = [parked.Waiting(f"{TEAMS} [1]", record(4 + n, 1), 104 + n) for n in range(80)]
    MemoryTransactions(store.db).repeat(lambda tx: parked.park_behind(tx, waiting))  # type: ignore[arg-type]
    (found,) = documents(store).values()
    assert (found["class"], found["code"], found["count"], found["lsn"], found["due"]) == (
        "data",
        "WriteRefused",
        81,
        183,
        True,
    )
    assert [e["at"] for e in found["events"]] == list(range(34, 84))
    assert "secret" not in found["reason"]
    assert "secret" in found["details"]


def test_a_long_record_is_cut_but_its_row_is_still_known(store: MemoryMongo) -> None:
    whole = record(3, 1)
    long = Record(whole.home, 3, whole.key, b'{"op": "u", ' + b" " * 50_000, 1)
    park(store, long)
    assert documents(store)[f"{TEAMS} [1]"]["events"][0]["cut"]
    assert documents(store)[f"{TEAMS} [1]"]["partition"] == ""  # whoever wrote it, perhaps in a wrong one
    rows = _Rows()
    rows.teams["1"] = row(1)
    assert settle(store, rows) == {f"{TEAMS} [1]": Fate.HEALED}
    assert len(store.collection("teams")) == 1


def test_a_record_whose_key_nobody_can_read_is_parked_by_its_place_and_stays(store: MemoryMongo) -> None:
    park(store, Record(HOME, 7, b"?", b"?", 1), Record(HOME, 8, b"?" * 20_000, b"{}", 1))
    assert set(settle(store, _Rows()).values()) == {Fate.FAILING}
    assert "first 16,000 bytes" in documents(store)[f"{HOME.id}@8"]["reason"]
    assert "first 16,000 bytes" not in documents(store)[f"{HOME.id}@7"]["reason"]
    assert documents(store)[f"{HOME.id}@7"]["tries"] == 1


def test_a_record_that_can_be_read_by_now_settles_its_row(store: MemoryMongo) -> None:
    """It was parked by its place, when the plan did not know its table, say."""
    whole = record(7, 1)
    nobody = Parking(Decoder(PLAN, PLACEHOLDER), lambda: 0)
    strange = Record(HOME, 7, whole.key, b"?", 1)
    trouble = WriteRefused("x", remedy="y")
    MemoryTransactions(store.db).repeat(lambda tx: nobody.alone(tx, strange, trouble))  # type: ignore[arg-type]
    park(store, record(9, 1))
    assert set(documents(store)) == {f"{HOME.id}@7", f"{TEAMS} [1]"}
    rows = _Rows()
    rows.teams["1"] = row(1)
    found = parked.all_parked(store.db, ids=[f"{HOME.id}@7"])  # type: ignore[arg-type]
    assert [o.fate for o in settler(store, rows).settle(found)] == [Fate.HEALED]
    assert documents(store) == {}


# -- settling ----------------------------------------------------------------------------------------------------
def test_rows_are_settled_together_and_a_bad_one_is_found_by_halving(store: MemoryMongo) -> None:
    rows = _Rows()
    for n in range(1, 21):
        park(store, record(n, n))
        rows.teams[str(n)] = row(n, score=BAD if n == 13 else "1")
    del rows.teams["7"]
    fates = settle(store, rows)
    assert fates.pop(f"{TEAMS} [13]") is Fate.FAILING
    assert fates.pop(f"{TEAMS} [7]") is Fate.GONE
    assert set(fates.values()) == {Fate.HEALED}
    assert len(fates) == 18
    assert documents(store).keys() == {f"{TEAMS} [13]"}
    assert documents(store)[f"{TEAMS} [13]"]["class"] == "data"
    assert len(rows.asked) < 12


def test_rows_in_each_other_s_way_by_a_unique_value_are_settled_together(store: MemoryMongo) -> None:
    """Two rows have swapped their names, and both are parked."""
    store.build_unique("teams", ("teamName",))
    rows = _Rows()
    for n in (1, 2):
        park(store, record(n, n))
        rows.teams[str(n)] = row(n)
    settle(store, rows)
    rows.teams = {"1": (1, "name 2", *row(1)[2:]), "2": (2, "name 1", *row(2)[2:])}
    park(store, record(3, 1), record(4, 2))
    assert set(settle(store, rows).values()) == {Fate.HEALED}
    assert [d["teamName"] for d in store.collection("teams").values()] == ["name 2", "name 1"]
    park(store, record(5, 1))
    rows.teams = {"1": (1, "name 1", *row(1)[2:]), "2": (2, "name 2", *row(2)[2:])}
    assert set(settle(store, rows).values()) == {Fate.HEALED}
    assert [d["teamName"] for d in store.collection("teams").values()] == ["name 1", "name 2"]
    rows.teams["2"] = (2, "name 1", *row(2)[2:])  # in PostgreSQL too two rows have it
    park(store, record(6, 2))
    assert settle(store, rows) == {f"{TEAMS} [2]": Fate.FAILING}
    assert documents(store)[f"{TEAMS} [2]"]["class"] == "unique"


def test_a_row_of_an_unknown_partition_is_guarded_by_all_positions_of_its_table(store: MemoryMongo) -> None:
    trouble = WriteRefused("x", remedy="y")
    MemoryTransactions(store.db).repeat(
        lambda tx: parked.park(
            tx,  # type: ignore[arg-type]
            f"{TEAMS} [1]",
            table=TEAMS,
            key="[1]",
            partition="",
            trouble=trouble,
            now_ms=1,
        )
    )
    park(store, record(3, 2))
    settle(store, _Rows())
    touched = {i: d.get("touched", 0) for i, d in store.collection(ledger.POSITIONS).items()}
    assert touched == {HOME.id: 2, OTHER.id: 1}


def test_nothing_is_written_while_the_table_is_held(store: MemoryMongo) -> None:
    park(store, record(3, 1))
    position = store.collection(ledger.POSITIONS)[HOME.id]
    store.plain_write(ledger.POSITIONS, HOME.id, {**position, "holder": "load:x"})
    rows = _Rows()
    rows.teams["1"] = row(1)
    assert settle(store, rows) == {f"{TEAMS} [1]": Fate.BUSY}
    assert rows.asked == []
    assert "tries" not in documents(store)[f"{TEAMS} [1]"]


def test_a_rehearsal_tells_the_truth_and_keeps_nothing(store: MemoryMongo) -> None:
    park(store, record(3, 1), record(4, 2))
    rows = _Rows()
    rows.teams = {"1": row(1), "2": row(2, score=BAD)}
    before = {i: dict(d) for i, d in documents(store).items()}
    one, two = parked.all_parked(store.db)  # type: ignore[arg-type]
    desk = settler(store, rows)
    assert desk.rehearse(one).fate is Fate.HEALED
    assert desk.rehearse(two).fate is Fate.FAILING
    assert documents(store) == before
    assert store.collection("teams") == {}
    assert store.open == []


def test_an_event_that_came_while_a_row_was_tried_leaves_it_to_be_tried_again(store: MemoryMongo) -> None:
    park(store, record(3, 1))
    transactions = MemoryTransactions(store.db)
    behind = [parked.Waiting(f"{TEAMS} [1]", record(4, 1), 104)]
    transactions.repeat(lambda tx: parked.park_behind(tx, behind))  # type: ignore[arg-type]
    trouble = WriteRefused("x", remedy="y")
    transactions.repeat(lambda tx: parked.failed(tx, f"{TEAMS} [1]", 1, trouble, 5))  # type: ignore[arg-type]
    assert documents(store)[f"{TEAMS} [1]"]["due"]
    transactions.repeat(lambda tx: parked.failed(tx, f"{TEAMS} [1]", 2, trouble, 5))  # type: ignore[arg-type]
    assert not documents(store)[f"{TEAMS} [1]"]["due"]


# -- healing by itself -------------------------------------------------------------------------------------------
class _Failing:
    """A settler that takes a while and fails; counts."""

    def __init__(self, clock: _Clock, takes_s: float = 0.01) -> None:
        self.tried, self._clock, self._takes_s = 0, clock, takes_s

    def settle(self, found: Sequence[Any], stop: object) -> Any:
        for one in found:
            self.tried += 1
            self._clock.now += self._takes_s
            yield Outcome(one, Fate.FAILING, WriteRefused("x", remedy="y"), "x")


class _Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


def _row(name: str) -> Any:
    return SimpleNamespace(id=name)


def test_a_row_that_stays_bad_costs_a_try_now_and_then_however_often_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = _Clock()
    monkeypatch.setattr(dead_letters, "time", clock)
    failing = _Failing(clock)
    healing = Healing(failing)  # type: ignore[arg-type]
    for _ in range(60 * 20):  # a minute of twenty batches a second, each with an event of it
        healing.expect(["bad"])
        healing.heal([_row(one) for one in healing.ready()], lambda: False)
        clock.now += 0.05
    assert 5 <= failing.tried <= 7  # after 0, 1, 3, 7, 15, 31 s


def test_tries_that_fail_take_a_fifth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(dead_letters, "time", clock)
    failing = _Failing(clock, takes_s=0.02)
    healing = Healing(failing)  # type: ignore[arg-type]
    began = clock.now
    for _ in range(2_000):
        healing.expect(f"bad {n}" for n in range(5_000))
        healing.heal([_row(one) for one in healing.ready()], lambda: False)
        clock.now += 0.05
    assert failing.tried > 100
    assert failing.tried * 0.02 / (clock.now - began) < 0.25


# -- batches that are too much -----------------------------------------------------------------------------------
class _Stream:
    generation = 1

    def assigned(self) -> frozenset[Partition]:
        return frozenset({HOME})

    def place(self, offsets: Any) -> None:
        """Wherever."""

    def poll(self, timeout_ms: int, most: int) -> Any:
        return {}

    def position(self, partition: Partition) -> int:
        return 0

    def tell(self, offsets: Any) -> None:
        """Nobody listens."""


def worker(store: MemoryMongo, rows: _Rows, batch_events: int = 64) -> Worker:
    made = Worker(
        name="w",
        stream=_Stream(),
        transactions=MemoryTransactions(store.db),  # type: ignore[arg-type]
        rows=rows,
        plan=PLAN,
        placeholder=PLACEHOLDER,
        topic_ids=lambda: {HOME.topic: "id"},
        now_us=lambda: 1_000_000,
        log=lambda message, **facts: None,
        batch_events=batch_events,
    )
    made._place()
    return made


@pytest.mark.parametrize("error", ["code 290", "a long conflict"])
def test_a_transaction_that_takes_too_long_is_done_in_smaller_ones_and_parks_nothing(
    store: MemoryMongo, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    on, sizes, clock = worker(store, _Rows()), list[int](), _Clock()
    clock_module = SimpleNamespace(monotonic=clock.monotonic, sleep=lambda s: None, time=lambda: 0.0)
    monkeypatch.setattr(worker_module, "time", clock_module)
    real = on._apply

    def slow(tx: Any, records: Any, *rest: Any) -> None:
        if len(records) > 10:
            clock.now += 61
            raise TooMuchAtOnce("x", remedy="y") if error == "code 290" else Contended("x", remedy="y")
        sizes.append(len(records))
        real(tx, records, *rest)

    monkeypatch.setattr(on, "_apply", slow)
    on._backlog = [record(n, n + 1) for n in range(64)]
    on._consume(on._cut())
    assert sum(sizes) == 64
    assert max(sizes) <= 10
    assert documents(store) == {}
    assert len(store.collection("teams")) == 64


def test_one_bad_event_does_not_make_the_rest_of_its_batch_slow(
    store: MemoryMongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    on, tried = worker(store, _Rows(), batch_events=512), list[int]()
    real = on._apply

    def counting(tx: Any, records: Any, *rest: Any) -> None:
        tried.append(len(records))
        real(tx, records, *rest)

    monkeypatch.setattr(on, "_apply", counting)
    on._backlog = [record(n, n + 1, score=BAD if n == 100 else "1") for n in range(512)]
    on._consume(on._cut())
    assert documents(store).keys() == {f"{TEAMS} [101]"}
    assert len(store.collection("teams")) == 511
    assert len(tried) < 40


def test_every_class_of_trouble_is_one_that_people_can_ask_for() -> None:
    from connectors.errors import PARKED_CLASSES

    kinds, todo = set[str](), [Unappliable]
    while todo:
        kind = todo.pop()
        kinds.add(kind.parked_class)
        todo += kind.__subclasses__()
    assert kinds == set(PARKED_CLASSES)
    assert MEMBERS in PLAN.tables
