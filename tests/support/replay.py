"""A recorded history delivered again and again: real records and real rows, and a world in which anything may happen.

`Delivery` is a `World` (tests/support/simulation.py) whose PostgreSQL goes from one recorded state to the next. The
slot is made at a state of the history, any of them: what later ones show comes by the stream, what it shows by the
load. A record comes at the earliest one state before its transaction is shown: it may be decoded before it is visible.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import orjson
from bson import ObjectId

from connectors.errors import UniqueTaken
from connectors.events import Record
from connectors.positions import Lsn, Partition, Snapshot
from connectors.postgres.rows import KeyRange, TableRead
from consumers.mapping.ids import row_key
from tests.support.memory_mongo import Document, MemoryMongo
from tests.support.recording import Recording, Row, Seen, Sent, State, Truth
from tests.support.simulation import Failed, Script, World, shortened

#: what depends on a PostgreSQL that is made up, or on rows that no document can be made of
NOT_REPLAYED = frozenset({"bad", "tagged", "truncate", "swap", "reinsert", "rekey", "toast", "savepoint"})


class RecordedTopics:
    """The topics of one history. Offsets are given anew, so that markers can lie anywhere."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.logs: dict[Partition, list[Record | None]] = {
            home: [] for table in recording.tables for home in recording.partitions_of(table)
        }

    def of(self, table: str) -> list[Partition]:
        return self.recording.partitions_of(table)

    def marker(self, partition: Partition) -> None:
        self.logs[partition].append(None)

    def append(self, record: Record) -> None:
        log = self.logs[record.home]
        log.append(Record(record.home, len(log), record.key, record.value, record.timestamp_ms))

    def extend(self, found: Mapping[Partition, Sequence[Record]]) -> None:
        """What has come, as far as it is of this history's tables."""
        for home, records in found.items():
            for record in records if home in self.logs else ():
                self.append(record)


@dataclass(slots=True)
class _Postgres:
    """The server as it was. now: the number of the state that it shows."""

    recording: Recording
    now: int
    wal: list[Sent]
    exported: dict[str, _Exported] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, str]:
        return self.recording.tables

    @property
    def state(self) -> State:
        return self.recording.states[self.now]

    def export(self) -> _Exported:
        made = _Exported(f"snapshot-{len(self.exported)}", self.state.lsn, self.now)
        self.exported[made.name] = made
        return made

    def rows_under(self, snapshot: _Exported, table: str) -> Sequence[Seen]:
        """A table under a snapshot; empty when it was truncated since."""
        for sent in self.wal:
            if sent.truncates and snapshot.state < sent.state <= self.now:
                home = sent.records[0].home
                if home in self.recording.partitions_of(table):
                    return ()
        return self.recording.states[snapshot.state].rows[table]


@dataclass(frozen=True, slots=True)
class _Exported:
    name: str
    lsn: Lsn
    state: int

    def __enter__(self) -> _Exported:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class _Rows:
    """`consumers.contracts.Rows` of the state that is shown."""

    def __init__(self, world: Delivery) -> None:
        self._world = world

    def close(self) -> None:
        """Nothing to do."""

    def visible_now(self) -> Snapshot:
        self._world.moment("visible_now")
        return self._world.pg.state.snapshot

    def read(self, wanted: Mapping[TableRead, Sequence[tuple[Any, ...]]]) -> tuple[dict[str, list[Row]], Lsn]:
        self._world.moment("wal position")
        lsn, snapshot = self._world.pg.state.lsn, None
        found = {}
        for read, keys in wanted.items():
            self._world.moment(f"read {read.table}")
            snapshot = snapshot or self._world.pg.export()
            rows = {seen.key: seen.row for seen in self._world.pg.rows_under(snapshot, read.table)}
            shown = self._world.columns(read)
            found[read.table] = [shown(rows[tuple(k)]) for k in keys if tuple(k) in rows]
        self._world.moment("rows were read")
        return found, lsn


class _Reader:
    """Rows under an exported snapshot, for the loader. All keys are of integers."""

    def __init__(self, world: Delivery, name: str) -> None:
        self._world, self._snapshot = world, world.pg.exported[name]

    def close(self) -> None:
        """Nothing to do."""

    def boundaries(self, read: TableRead, every: int) -> tuple[list[tuple[str, ...]], int]:
        self._world.moment("boundaries")
        rows = self._world.pg.rows_under(self._snapshot, read.table)
        keys = sorted((seen.key for seen in rows), key=lambda key: [int(text) for text in key])
        return keys[::every][1:], len(keys)

    def copy(
        self,
        read: TableRead,
        keys: KeyRange,
        where: str | None,
        parent: tuple[TableRead, Sequence[str]] | None = None,
    ) -> Iterator[Row]:
        columns, shown = parent[1] if parent else read.key, self._world.columns(read)
        self._world.moment(f"copy {read.table}")
        at = [self._world.place(read.table, column) for column in columns]
        low, high = (None if end is None else [int(text) for text in end] for end in keys)
        for seen in self._world.pg.rows_under(self._snapshot, read.table):
            place = [seen.row[n] for n in at]
            if (low is not None or high is not None) and None in place:
                continue
            if (low is not None and place < low) or (high is not None and place >= high):
                continue
            if where is None or where in seen.passes:
                yield shown(seen.row)


@dataclass
class Delivery(World):
    """One delivery of a recording. mood: `slot`, the state at which the slot is made."""

    recording: Recording | None = None

    def __post_init__(self) -> None:
        self.without = frozenset(self.without) | NOT_REPLAYED
        super().__post_init__()

    def _make_source(self, mood: Mapping[str, Any]) -> None:
        recording = self.recording
        assert recording is not None
        last = len(recording.states) - 1
        slot = self.rng.choice((0, 0, self.rng.randrange(last + 1)))
        slot = mood.get("slot", slot)
        if any(recording.states[slot].rows.values()):
            self.features = (self.features | {"load"}) - {"unique"}
        elif self.rng.random() < 0.5:
            self.features = (self.features | {"unique"}) - {"load"}
        if self.script is not None:
            self.features = {f for f in self.features if f in self.script.features or f == "load"}
        self.plan, self.placeholder = recording.plan, recording.placeholder
        self.pg: Any = _Postgres(recording, slot, [s for s in recording.sent if s.state > slot])
        self.topics: Any = RecordedTopics(recording)
        self.rows = _Rows(self)
        self.sessions = [self._goes_on()]
        self.draws = {session: random.Random(self.seed) for session in self.sessions}

    def _goes_on(self) -> Iterator[None]:
        assert self.recording is not None
        for number in range(self.pg.now + 1, len(self.recording.states)):
            self.pg.now = number
            self.say(f"PostgreSQL goes on to its state {number}")
            for _ in range(self.rng.choice((0, 0, 1, 3, 8))):
                yield
            yield

    def _fill(self) -> None:
        self.slot_snapshot = self.pg.export()

    def _leave_documents(self) -> None:
        staged_uses = [u for name in self.plan.documents for u in self.plan.staged(name)]
        for use in [*self.plan.documents.values(), *staged_uses]:
            old: Document = {"_id": ObjectId(b"an old thing"), "_sync": {"at": 1, "lsn": 5}, "name": "old"}
            if use.staged:
                key = row_key([77] * len(use.table.key))
                old = {"_id": key, "p": ObjectId(b"an old thing"), "o": [1], "l": 5, "d": {}}
            self.store.plain_write(use.place, old["_id"], old)

    def _send(self) -> None:
        if not self.slot or not self.connector:
            return
        if self.sent == len(self.pg.wal):
            self.confirmed = self.sent
            return
        sent = self.pg.wal[self.sent]
        if sent.state > self.pg.now + 1:
            return
        self.sent += 1
        self.events += 1
        for record in sent.records:
            self.topics.append(record)
        home = sent.records[0].home
        self.say(f"kafka: {home.id}: {_told(sent)}")
        if "markers" in self.features and self.rng.random() < 0.3:
            self.topics.marker(home)
        if self.rng.random() < 0.2:
            self.confirmed = self.sent

    def _slot_begins(self) -> Lsn:
        self.sent = self.confirmed = sum(sent.state <= self.pg.now for sent in self.pg.wal)
        return Lsn(0)

    def place(self, table: str, column: str) -> int:
        """Where a column lies in a recorded row."""
        assert self.recording is not None
        return [c.name for c in self.recording.reads[table].columns].index(column)

    def columns(self, read: TableRead) -> Callable[[Row], Row]:
        """Of a recorded row, what a read asks for."""
        at = [self.place(read.table, c.name) for c in read.columns]
        return lambda row: tuple(row[n] for n in at)

    def _reader(self, source: object, name: str) -> Any:
        return _Reader(self, name)

    def _waits_for_standby(self, _: str) -> Any:
        return SimpleNamespace(fetchone=lambda: None)

    def _retry(self) -> None:
        """Nothing may be parked here."""

    def _judge(self) -> None:
        assert self.recording is not None
        assert self.recording.truth is not None
        if self.store.open:
            raise Failed("transactions are left open")
        if "unique" not in self.features:
            try:
                self._build_indexes()
            except UniqueTaken as taken:
                raise Failed(f"the unique indexes cannot be built: {taken}") from taken
        judge(self.recording, self.recording.truth, self.store)


def judge(recording: Recording, truth: Truth, store: MemoryMongo) -> None:
    """Compare what MongoDB holds with what SQL says. Raises Failed."""
    held = {name: store.collection(name) for name in truth.documents}
    compare(truth, held)
    [staging] = [use.place for of in recording.plan.arrays.values() for use in of.values()]
    if set(store.collection(staging)) != truth.staged:
        raise Failed(f"staged are {sorted(store.collection(staging))}, should be {sorted(truth.staged)}")


def compare(truth: Truth, held: Mapping[str, Mapping[Any, Document]]) -> None:
    """The documents of each collection. Raises Failed."""
    for name, wanted in truth.documents.items():
        have = {_id: _plain(document) for _id, document in held[name].items()}
        for _id in sorted(wanted.keys() | have.keys(), key=str):
            if _id not in have:
                raise Failed(f"{name} {_id} is missing: {_brief(wanted[_id])}")
            if _id not in wanted:
                raise Failed(f"{name} {_id} is left over: {_brief(have[_id])}")
            if have[_id] != wanted[_id]:
                raise Failed(f"{name} {_id} differs: {_brief(have[_id])} should be {_brief(wanted[_id])}")


def _plain(document: Document) -> Document:
    if not isinstance(document.get("_sync", {}).get("lsn"), int):
        raise Failed(f"no stamp: {document}")
    found = {name: value for name, value in document.items() if name not in ("_id", "_sync")}
    if found.get("changedAt") is not None:
        found["changedAt"] = int(found["changedAt"])
    return found


def _brief(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _brief(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_brief(inner) for inner in value]
    return f"{value[:8]}..." if isinstance(value, str) and len(value) > 40 else value


def _told(sent: Sent) -> str:
    value = orjson.loads(sent.records[0].value or b"{}")
    key = list((orjson.loads(sent.records[0].key or b"{}").get("k") or {}).values())
    word = {"c": "insert", "u": "update", "d": "delete", "t": "truncate"}[value["op"]]
    after = _brief(list((value["after"] or {}).values()))
    return f"{word} {value['source']['table']} {key} {after} lsn {value['source']['lsn']} tx {sent.tx}"


def deliver(recording: Recording, seed: int, **mood: Any) -> Delivery:
    """One delivery. Raises Failed."""
    world = Delivery(seed, mood=mood, recording=recording)
    world.run()
    return world


def shorter_delivery(recording: Recording, seed: int, within_s: float = 10.0, **mood: Any) -> World:
    """Of a delivery that fails: as little as fails too, of what comes in between."""

    def make(script: Script | None, trace: list[str]) -> World:
        return Delivery(seed, mood=mood, recording=recording, script=script, trace=trace)

    return shortened(make, within_s)
