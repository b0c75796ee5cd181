"""A real history as it was: what Debezium sent of it, and what PostgreSQL showed after each transaction.

It is recorded once, and can then be delivered to workers as often as one likes, without any server: they read rows,
and the loader its snapshot, from what PostgreSQL showed at the time. What the documents have to be is SQL's answer at
the end (`Truth`), made into documents here by hand.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
import psycopg
from bson import Decimal128, ObjectId
from kafka import KafkaConsumer, TopicPartition

from connectors.debezium import config
from connectors.events import Record
from connectors.positions import Lsn, Partition, Snapshot
from connectors.postgres import catalog
from connectors.postgres.client import connect
from connectors.postgres.rows import CurrentRows, TableRead
from connectors.settings import SourceEndpoint
from consumers.apply.write import table_read
from consumers.mapping import spec
from consumers.mapping.plan import Plan, compile_plan
from sync.settings import Settings
from tests.support import real_history
from tests.support.real_history import Driver, Step

Document = dict[str, Any]
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """One row as a reader gets it. key: its texts. passes: the filters, as SQL text, that it passes."""

    key: tuple[str, ...]
    row: Row
    passes: frozenset[str]


@dataclass(frozen=True, slots=True)
class State:
    """What PostgreSQL showed at one moment, under one snapshot. lsn: a WAL position read before."""

    lsn: Lsn
    snapshot: Snapshot
    rows: Mapping[str, tuple[Seen, ...]]


@dataclass(frozen=True, slots=True)
class Truth:
    """What MongoDB has to hold: by collection and `_id`, less `_sync`; and what has to be staged."""

    documents: Mapping[str, Mapping[ObjectId, Document]]
    staged: frozenset[ObjectId]


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent of one change: its record, and the tombstone behind it. state: the first that shows it."""

    tx: int
    state: int
    records: tuple[Record, ...]
    truncates: bool

    @property
    def lsns(self) -> list[int]:
        """Of its records that have one."""
        return [orjson.loads(r.value)["source"]["lsn"] for r in self.records if r.value]


@dataclass(slots=True)
class Recording:
    """One history. told: what the sessions did, in words."""

    number: int
    seed: int
    steps: Sequence[Step]
    plan: Plan
    placeholder: str
    reads: Mapping[str, TableRead]
    partitions: int
    prefix: str
    told: list[str] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    truth: Truth | None = None

    @property
    def tables(self) -> tuple[str, str]:
        """Its two tables."""
        return real_history.tables_of(self.number)

    def partitions_of(self, table: str) -> list[Partition]:
        """Of its topic."""
        return [Partition(config.topic_of(self.prefix, table), n) for n in range(self.partitions)]


class Recorder:
    """Plays histories on the sets of tables of one pipeline, and records what comes of them."""

    def __init__(self, settings: Settings, sets: int) -> None:
        self.settings, self.sets = settings, sets
        self.dsn = settings.source.dsn.get_secret_value()
        self.monitor = psycopg.connect(self.dsn, autocommit=True)
        self.tap = Tap(settings, sets)
        self.drivers: dict[int, Driver] = {}
        self.plans: dict[int, Plan] = {}
        self.prefix = settings.kafka.topic_prefix
        self.placeholder = config.placeholder(settings.source, settings.kafka)
        self._mark = 0

    def close(self) -> None:
        """End all sessions."""
        for driver in self.drivers.values():
            driver.close()
        self.monitor.close()
        self.tap.close()

    def plan(self, number: int) -> Plan:
        """The mapping of one set alone, compiled."""
        if number not in self.plans:
            text = real_history.mapping([number])
            declared = spec.parse(text)
            with connect(self.settings.source) as session:
                found = catalog.tables(session, declared.tables)
            whole = compile_plan(declared, found, spec.Lines(text, "mapping"))
            del declared.collections["marks"]
            mine = {name: t for name, t in found.items() if name != "public.marks"}
            self.plans[number] = compile_plan(declared, mine, spec.Lines(text, "mapping"))
            assert len(self.plans[number].documents) == len(whole.documents) - 1
        return self.plans[number]

    def driver(self, number: int) -> Driver:
        """Of one set's sessions."""
        if number not in self.drivers:
            self.drivers[number] = Driver(self.dsn, f"h{number}", self.monitor)
        return self.drivers[number]

    def record(self, wanted: Sequence[tuple[int, int, Sequence[Step], bool]]) -> list[Recording]:
        """Histories on different sets, one after the other: set, seed, steps, and whether its tables are emptied
        before."""
        made = [self._play(number, seed, steps, emptied) for number, seed, steps, emptied in wanted]
        sent = self.tap.until_marked(self.mark())
        for recording in made:
            recording.sent = arranged(recording, sent)
        return made

    def mark(self) -> int:
        """A row behind all that was committed until now."""
        self._mark += 1
        self.monitor.execute("INSERT INTO public.marks VALUES (%s)", [self._mark])
        return self._mark

    def blank(self, number: int, seed: int, steps: Sequence[Step]) -> Recording:
        """A recording of which nothing has been played yet."""
        plan = self.plan(number)
        reads = {table: table_read(plan.tables[table]) for table in real_history.tables_of(number)}
        partitions = self.settings.kafka.partitions
        return Recording(number, seed, steps, plan, self.placeholder, reads, partitions, self.prefix)

    def _play(self, number: int, seed: int, steps: Sequence[Step], emptied: bool) -> Recording:
        recording = self.blank(number, seed, steps)
        if emptied:
            self.monitor.execute(f"TRUNCATE h{number}.teams, h{number}.members".encode())
        driver = self.driver(number)
        with Camera(self.settings.source, recording) as camera:
            camera.look()
            driver.play(steps, camera.look)
            recording.truth = camera.truth()
        recording.told = list(driver.told)
        return recording


class Camera:
    """Looks at a set of tables."""

    def __init__(self, source: SourceEndpoint, recording: Recording) -> None:
        self._rows, self.recording = CurrentRows(source), recording
        self._session = self._rows._session()
        self._session.execute("SET lock_timeout = '15ms'")

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def look(self) -> None:
        """The state now. Behind a TRUNCATE that is under way nobody can look."""
        wheres = {
            table: sorted({u.where_sql for u in self.recording.plan.uses(table) if u.where_sql})
            for table in self.recording.tables
        }
        lsn = Lsn.parse(self._value("SELECT pg_current_wal_insert_lsn()::text"))
        try:
            with self._one_snapshot():
                snapshot = Snapshot.parse(self._value("SELECT pg_current_snapshot()::text"))
                rows = {}
                for table, read in self.recording.reads.items():
                    select = read.select().as_string(self._session)
                    keys = ", ".join(f'"{column}"::text' for column in read.key)
                    extra = ", ".join([keys, *(f"coalesce(({where}), false)" for where in wheres[table])])
                    query = f"SELECT {extra}, {select.removeprefix('SELECT ')}"
                    found = self._session.execute(query.encode(), binary=True).fetchall()
                    rows[table] = tuple(self._seen(read, wheres[table], row) for row in found)
        except psycopg.errors.LockNotAvailable:
            return
        self.recording.states.append(State(lsn, snapshot, rows))

    def any_rows(self) -> bool:
        """Whether there are any now."""
        either = " UNION ALL ".join(f"SELECT 1 FROM {table}" for table in self.recording.tables)
        return self._session.execute(f"{either} LIMIT 1".encode()).fetchone() is not None

    @staticmethod
    def _seen(read: TableRead, wheres: Sequence[str], row: Row) -> Seen:
        keys, told = len(read.key), len(wheres)
        passes = frozenset(w for w, yes in zip(wheres, row[keys : keys + told], strict=True) if yes)
        return Seen(tuple(row[:keys]), tuple(row[keys + told :]), passes)

    def _value(self, query: str) -> Any:
        found = self._session.execute(query.encode()).fetchone()
        assert found is not None
        return found[0]

    @contextmanager
    def _one_snapshot(self) -> Iterator[None]:
        with self._session.transaction():
            self._session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield

    def truth(self) -> Truth:
        """What the documents have to be, by SQL; texts become values here."""
        return truth(self._session, self.recording.number)


_TEAMS_SQL = """SELECT id, name, score::text, about, floor(extract(epoch FROM changed_at) * 1000)::bigint
    FROM h{n}.teams WHERE is_active"""
_MEMBERS_SQL = """SELECT team_id, id, place, status, weight::text, note FROM h{n}.members
    WHERE {where} ORDER BY team_id, place NULLS LAST, {key}"""


def truth(session: psycopg.Connection[Any], number: int) -> Truth:
    """What MongoDB has to hold of a set of tables now."""
    s, paired = f"h{number}", real_history.shape_of(number) == "paired"
    key = "team_id, id" if paired else "id"
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        teams = session.execute(_TEAMS_SQL.format(n=number).encode(), binary=False).fetchall()
        active, there = (
            session.execute(_MEMBERS_SQL.format(n=number, where=where, key=key).encode()).fetchall()
            for where in ("status = 'active'", "status <> 'gone'")
        )
    arrays: dict[int, list[Document]] = {}
    for row in active:
        if row[0] is not None:
            arrays.setdefault(row[0], []).append(_element(row))
    documents = {
        f"{s}_teams": {
            _integer_id(f"{s}.teams", row[0]): {
                "originalId": row[0],
                "name": row[1],
                "isActive": True,
                "score": _number(row[2]),
                "about": row[3],
                "changedAt": row[4],
                "members": arrays.get(row[0], []),
            }
            for row in teams
        },
        f"{s}_memberships": {
            _member_id(s, paired, row): {
                **_element(row),
                "teamId": None if row[0] is None else _integer_id(f"{s}.teams", row[0]),
            }
            for row in there
        },
    }
    staged = frozenset(_member_id(s, paired, row) for row in active if row[0])
    return Truth(documents, staged)


def _element(row: Row) -> Document:
    _, member, place, status, weight, note = row
    return {"memberId": member, "place": place, "status": status, "weight": _number(weight), "note": note}


def _number(text: str | None) -> Decimal128 | None:
    return None if text is None else Decimal128(Decimal(text))


def _integer_id(table: str, key: int) -> ObjectId:
    return ObjectId(hashlib.blake2b(table.encode(), digest_size=4).digest() + key.to_bytes(8, "big"))


def _member_id(s: str, paired: bool, row: Row) -> ObjectId:
    if not paired:
        return _integer_id(f"{s}.members", row[1])
    text = orjson.dumps([f"{s}.members", str(row[0]), str(row[1])])
    return ObjectId(hashlib.blake2b(text, digest_size=12).digest())


# -- what was sent -----------------------------------------------------------------------------------------------
class Tap:
    """Reads all of the pipeline's topics of rows, from where they are now."""

    def __init__(self, settings: Settings, sets: int) -> None:
        tables = ["public.marks", *(t for n in range(sets) for t in real_history.tables_of(n))]
        topics = [config.topic_of(settings.kafka.topic_prefix, table) for table in tables]
        self._consumer = KafkaConsumer(
            bootstrap_servers=settings.kafka.bootstrap_servers,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
            metrics_enabled=False,
        )
        self._all = [TopicPartition(topic, n) for topic in topics for n in range(settings.kafka.partitions)]
        self._consumer.assign(self._all)
        self._marks = topics[0]
        self.marked = 0

    def close(self) -> None:
        """Leave."""
        self._consumer.close(autocommit=False)

    def poll(self) -> dict[Partition, list[Record]]:
        """What has come."""
        found: dict[Partition, list[Record]] = {}
        for tp, records in self._consumer.poll(timeout_ms=50, max_records=5_000).items():
            home = Partition(tp.topic, tp.partition)
            for r in records:
                if tp.topic == self._marks:
                    self.marked = max(self.marked, orjson.loads(r.key)["k"]["id"])
                else:
                    found.setdefault(home, []).append(Record(home, r.offset, r.key, r.value, r.timestamp))
        return found

    def until_marked(self, mark: int, within_s: float = 40) -> dict[Partition, list[Record]]:
        """All that was sent before a mark: then it lies in the topics, and is committed."""
        found: dict[Partition, list[Record]] = {}
        until = time.monotonic() + within_s
        while self.marked < mark:
            _lay_on(found, self.poll())
            if time.monotonic() > until:
                raise AssertionError(f"mark {mark} does not come; the last was {self.marked}")
        ends = self._consumer.end_offsets(self._all)
        while any(self._consumer.position(tp) < ends[tp] for tp in self._all):
            _lay_on(found, self.poll())
            if time.monotonic() > until:
                raise AssertionError("the ends of the topics are not reached")
        return found


def _lay_on(found: dict[Partition, list[Record]], more: Mapping[Partition, list[Record]]) -> None:
    for home, records in more.items():
        found.setdefault(home, []).extend(records)


def arranged(recording: Recording, found: Mapping[Partition, Sequence[Record]]) -> list[Sent]:
    """What was sent of a history, in the order of its commits. Fails where a partition has another order."""
    sent: list[tuple[tuple[int, int, Partition, int], Sent]] = []
    for table in recording.tables:
        for home in recording.partitions_of(table):
            last = -1
            for group in _groups(found.get(home, ())):
                source = orjson.loads(group[0].value or b"{}")
                tx = source["source"]["txId"]
                state = _first_that_shows(recording.states, tx)
                if state == 0:
                    continue  # from before the history
                if state < last:
                    raise AssertionError(f"{home.id}: a transaction was sent behind a later one")
                last = state
                commit = int(orjson.loads(source["source"]["sequence"])[0] or 0)
                place = (state, commit, home, group[0].offset)
                sent.append((place, Sent(tx, state, tuple(group), source["op"] == "t")))
    return [one for _, one in sorted(sent, key=lambda pair: pair[0])]


def _groups(records: Sequence[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    for record in records:
        if record.value is not None and group:
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def _first_that_shows(states: Sequence[State], tx: int) -> int:
    for number, state in enumerate(states):
        if state.snapshot.shows(tx):
            return number
    raise AssertionError(f"transaction {tx} was sent, and PostgreSQL never showed it")
