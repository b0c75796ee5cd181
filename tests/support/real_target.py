"""A recorded or running history delivered to workers that are threads, on a real MongoDB and a real PostgreSQL.

Of Kafka only the topics are made up: who is assigned what, how far a poll gets, and that everything may be read again
is decided here. A worker may be ended in the middle of its transaction, and another one goes on.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from connectors.mongo import client as mongo
from connectors.mongo import ledger
from connectors.mongo.client import Database
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Partition
from connectors.postgres.rows import CurrentRows
from connectors.settings import TargetEndpoint
from consumers.worker import Worker
from sync.settings import Limits, Settings
from sync.snapshot.load import Loader
from tests.support.memory_postgres import Group, MemoryStream
from tests.support.recording import Recording, Truth
from tests.support.replay import RecordedTopics, compare


class Ended(BaseException):
    """A worker is no more."""


class _Mortal(Transactions):
    """Transactions of a worker that may die in the middle of one."""

    def __init__(self, db: Database, dies: Callable[[], bool]) -> None:
        super().__init__(db)
        self._dies = dies

    def once(self, work: Callable[[Transaction], Any]) -> Any:
        def mortal(tx: Transaction) -> Any:
            found = work(tx)
            if self._dies():
                raise Ended
            return found

        return super().once(mortal)


class Target:
    """A database of its own, and the workers that write it."""

    def __init__(self, settings: Settings, recording: Recording, db: Database, seed: int) -> None:
        self.settings, self.recording, self.db = settings, recording, db
        self.rng = random.Random(f"target {seed}")
        self.topics = RecordedTopics(recording)
        self.group = Group(self.topics)
        self.workers: dict[str, threading.Thread] = {}
        self.trouble: list[BaseException] = []
        self.rates = (self.rng.choice((1, 3, 20)), self.rng.choice((300, 3_000, 8_000_000)))
        self.deaths = self.rng.choice((0.0, 0.0, 0.1))
        self._over, self._serial = threading.Event(), 0
        self._lock = threading.Lock()

    def prepare(self, loaded: bool) -> None:
        """Positions of all topics; held until a load, or free, with the unique indexes there from the start."""
        for table in self.recording.tables:
            ends = dict.fromkeys(self.topics.of(table), 0)
            ledger.add_positions(self.db, table, "id", ends)
        for name in self.recording.plan.documents:
            self.db.create_collection(name)
        for own in (
            *ledger.OWN,
            *(u.place for a in self.recording.plan.arrays.values() for u in a.values()),
        ):
            if own not in self.db.list_collection_names():
                self.db.create_collection(own)
        if not loaded:
            self.db[ledger.POSITIONS].update_many({}, {"$set": {"holder": None}})
            self.index()

    def index(self) -> None:
        """The unique indexes of the mapping."""
        for name, collection in self.recording.plan.declared.collections.items():
            for index in collection.indexes:
                self.db[name].create_index(list(index.keys.items()), unique=index.unique)

    def load(self) -> None:
        """As `tandem snapshot` does when the slot's own snapshot is gone."""
        target = TargetEndpoint(uri=self.settings.target.uri, database=self.db.name)
        limits = Limits(chunk_rows=self.rng.choice((1, 2)), load_rows=self.rng.choice((1, 2, 5)))
        loader = Loader(
            self.settings.source, target, self.recording.plan, limits, log=lambda message, **facts: None
        )
        try:
            loader.load()
        finally:
            loader.db.client.close()

    def start(self, workers: int) -> None:
        """So many workers."""
        for _ in range(workers):
            self._new()
        self.rebalance()

    def rebalance(self) -> None:
        """Every partition to one of those that live."""
        with self._lock:
            names = sorted(self.workers)
            shares: dict[str, set[Partition]] = {name: set() for name in names}
            for partition in self.topics.logs:
                shares[self.rng.choice(names)].add(partition)
            self.group.assign({name: frozenset(of) for name, of in shares.items()})

    def _new(self) -> None:
        self._serial += 1
        name = f"{self.db.name}-{self._serial}"
        thread = threading.Thread(target=self._work, args=(name,), daemon=True)
        with self._lock:
            self.workers[name] = thread
        thread.start()

    def _work(self, name: str) -> None:
        chance = random.Random(name)
        rows = CurrentRows(self.settings.source)
        transactions = _Mortal(self.db, lambda: not self._over.is_set() and chance.random() < self.deaths)
        worker = Worker(
            name=name,
            stream=MemoryStream(
                self.group,
                name,
                before=lambda what: None,
                idle=lambda seconds: time.sleep(0.01),
                draw=chance.randrange,
            ),
            transactions=transactions,
            rows=rows,
            plan=self.recording.plan,
            placeholder=self.recording.placeholder,
            topic_ids=lambda: {p.topic: "id" for p in self.topics.logs},
            now_us=lambda: time.time_ns() // 1_000,
            log=lambda message, **facts: None,
            batch_events=self.rates[0],
            batch_bytes=self.rates[1],
        )
        try:
            worker.run(self._over.is_set)
            worker.close()
        except Ended:
            with self._lock:
                del self.workers[name]
            self._new()
            self.rebalance()
        except BaseException as error:
            self.trouble.append(error)
        finally:
            rows.close()

    def applied(self) -> bool:
        """Whether everything in the topics is applied, and nothing is held or under way."""
        if self.trouble:
            raise self.trouble[0]
        ends = {p: len(log) for p, log in self.topics.logs.items()}
        there = ledger.positions(self.db)
        return not ledger.jobs(self.db) and all(
            there[p].holder is None and there[p].at == end for p, end in ends.items()
        )

    def finish(self, within_s: float = 60) -> None:
        """Wait until all is applied, then end the workers."""
        until = time.monotonic() + within_s
        while not self.applied():
            if time.monotonic() > until:
                raise AssertionError(f"not applied: {ledger.positions(self.db)}")
            time.sleep(0.02)
        self.end()

    def end(self) -> None:
        """No more workers."""
        self._over.set()
        for thread in list(self.workers.values()):
            thread.join(30)

    def judge(self, truth: Truth) -> None:
        """Compare. Raises Failed."""
        parked = list(self.db[ledger.PARKED].find({}))
        assert not parked, parked
        self.index()
        held: Mapping[str, Any] = {
            name: {d["_id"]: d for d in self.db[name].find({})} for name in truth.documents
        }
        compare(truth, held)


@contextmanager
def target(settings: Settings, recording: Recording, seed: int) -> Iterator[Target]:
    """In a database of its own, which is dropped afterwards."""
    db = mongo.connect(
        TargetEndpoint(uri=settings.target.uri, database=f"{settings.target.database}_{seed}"), name="test"
    )
    made = Target(settings, recording, db, seed)
    try:
        yield made
    finally:
        made.end()
        db.client.drop_database(db.name)
        db.client.close()


def delivered(settings: Settings, recording: Recording, seed: int) -> None:
    """All of a recorded history, PostgreSQL being at its end. Raises Failed."""
    assert recording.truth is not None
    with target(settings, recording, seed) as to:
        rng = to.rng
        loaded = any(recording.states[0].rows.values()) or rng.random() < 0.4
        to.prepare(loaded)
        to.start(rng.choice((1, 2, 3)))
        loading = threading.Thread(target=to.load, daemon=True)
        begins = rng.randrange(len(recording.sent) + 1)
        for number, sent in enumerate([*recording.sent, None]):
            if loaded and number == begins:
                loading.start()
            for record in sent.records if sent else ():
                to.topics.append(record)
            if rng.random() < 0.15:
                to.rebalance()
            time.sleep(rng.choice((0, 0, 0, 0.02)))
        if loaded:
            loading.join()
        to.rebalance()
        to.finish()
        to.judge(recording.truth)
