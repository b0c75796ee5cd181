"""Whole histories without servers: real workers and loaders between a PostgreSQL, a Kafka and a MongoDB in memory.

A `World` is one history, made from one seed. Nothing runs at the same time as anything else: ahead of each operation
on a store, `World.moment` may let PostgreSQL and Debezium go on, run another worker or loader for a while (the first
one stands still meanwhile, for as long as a whole rebalance if need be), kill the one that runs, take the server
away, lose a commit's answer, or move partitions. At the end everybody is left in peace; at rest the target is
compared with what the source's rows say, computed here by hand.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

import orjson
from bson import Decimal128, ObjectId

import consumers.apply.attempt as attempt_module
import consumers.apply.copies as copies_module
import consumers.apply.jobs as jobs_module
import consumers.apply.write as write_module
import consumers.dead_letters as dead_letters
import consumers.worker as worker_module
import sync.snapshot.lease as lease_module
import sync.snapshot.load as load_module
import sync.snapshot.reload as reload_module
import sync.snapshot.walk as walk_module
from connectors.errors import Moved, Refused, ServerGone, Unappliable, Unavailable, UniqueTaken
from connectors.mongo import client, ledger, parked
from connectors.positions import Lsn
from connectors.postgres.catalog import Column, Table
from consumers.mapping import spec
from consumers.mapping.plan import Plan, compile_plan
from consumers.records import Decoder
from consumers.worker import Worker
from sync.settings import Limits
from sync.setup.renew import begins_anew, healed, replace_slot
from tests.support.memory_mongo import Document, MemoryMongo, MemoryTransactions
from tests.support.memory_postgres import (
    Blocked,
    Change,
    Group,
    Key,
    MemoryPostgres,
    MemoryRows,
    MemorySnapshotReader,
    MemoryStream,
    RowValues,
    Source,
    SourceTransaction,
    Topics,
    Violated,
)
from tests.support.shrinking import smallest

PLACEHOLDER = "__unsent_of_a_test"
TEAMS, MEMBERS, FILES = "public.teams", "public.members", "public.files"
BADGES = "public.badges"
NOW_US = 1_700_000_000_000_000
#: no Decimal128 holds it: a row with it cannot be mapped
BAD = Decimal("1." + "1" * 40)

MAPPING = """
version: 1
collections:
  teams:
    from: public.teams
    where: is_active
    rename: {id: originalId}
    embed:
      members:
        from: public.members
        foreign_key: team_id
        where: "status = 'active'"
        rename: {id: memberId}
        order_by: place
    indexes: [{keys: {teamName: 1}, unique: true}]
  memberships:
    from: public.members
    where: "status <> 'gone'"
    rename: {id: memberId}
    references: {teamId: {column: team_id, to: teams}}
  files:
    from: public.files
    rename: {id: fileId}
    references: {teamId: {column: team_id, to: teams}}
    indexes: [{keys: {folder: 1, name: 1}, unique: true}]
"""


#: the same, with arrays inside of the elements of an array, and a parent's fields in its children's documents
DEEP = MAPPING.replace(
    """        order_by: place
""",
    """        order_by: place
        embed:
          badges: {from: public.badges, foreign_key: member_id, where: shown, rename: {id: badgeId}, order_by: rank}
""",
).replace(
    """  files:
""",
    """    copy:
      team: {from: public.teams, foreign_key: team_id, where: is_active, only: [team_name, description, score]}
  files:
    copy:
      team: {from: public.teams, foreign_key: team_id, where: is_active, only: [team_name, description, score]}
""",
)
NOT_NULL = {"id", "team_name", "folder", "name"}


def table(relation: str, /, **columns: str) -> Table:
    """A table whose first column is its key."""
    first = next(iter(columns))
    return Table(
        name=relation,
        kind="r",
        columns=tuple(Column(c, kind, c in NOT_NULL, False, kind) for c, kind in columns.items()),
        key=(first,),
        replica_identity="d",
        persistence="p",
        has_children=False,
        rows=-1,
    )


SOURCES = {
    TEAMS: Source(
        table(TEAMS, id="bigint", team_name="text", description="text", is_active="boolean", score="numeric"),
        unique=(("team_name",),),
        toasted=frozenset({"description"}),
    ),
    MEMBERS: Source(
        table(
            MEMBERS,
            id="bigint",
            team_id="bigint",
            place="integer",
            joined="timestamp with time zone",
            note="text",
            status="text",
            weight="numeric",
        ),
        toasted=frozenset({"note"}),
    ),
    FILES: Source(
        table(FILES, id="uuid", folder="text", name="text", team_id="bigint", body="text", meta="jsonb"),
        unique=(("folder", "name"),),
        toasted=frozenset({"body"}),
    ),
}
#: the same, with a column that no event carries
TAGGED = {
    **SOURCES,
    FILES: Source(
        table(
            FILES,
            id="uuid",
            folder="text",
            name="text",
            team_id="bigint",
            body="text",
            meta="jsonb",
            tags="text[]",
        ),
        unique=(("folder", "name"),),
        toasted=frozenset({"body"}),
    ),
}


BADGE = Source(
    table(BADGES, id="bigint", member_id="bigint", rank="integer", label="text", shown="boolean"),
    toasted=frozenset({"label"}),
)


def sources_of(features: Set[str]) -> dict[str, Source]:
    """The tables of a history with these features."""
    sources = TAGGED if "tagged" in features else SOURCES
    return {**sources, BADGES: BADGE} if "deep" in features else sources


@cache
def plan_of(tagged: bool, deep: bool = False) -> Plan:
    """The mapping, compiled."""
    sources = sources_of({name for name, on in (("tagged", tagged), ("deep", deep)) if on})
    text = DEEP if deep else MAPPING
    return compile_plan(
        spec.parse(text), {n: s.table for n, s in sources.items()}, spec.Lines(text, "mapping")
    )


class Failed(AssertionError):
    """The history ends in a state that it should not."""


@dataclass(frozen=True)
class Script:
    """What is left of a history when it is made shorter. turns, moments: those at which something comes in between,
    by number. transactions: those of the source that take place, by session and number. features: what is on."""

    turns: frozenset[int]
    moments: frozenset[int]
    transactions: frozenset[tuple[int, int]]
    features: frozenset[str]


class Crashed(BaseException):
    """The process is gone: nothing of it runs any more, and nothing is put in order."""


@dataclass(eq=False)
class Actor:
    """A process of ours. away: its next operation finds no server. spins: how often it has waited in a row."""

    name: str
    dead: bool = False
    away: bool = False
    spins: int = 0
    idle: int = 0
    calls: int = 0
    budget: int = 0
    worker: Worker | None = None
    stream: MemoryStream | None = None


#: what a history may have; each seed draws some of it
FEATURES = (
    "crash",
    "gone",
    "lost answer",
    "rebalance",
    "zombie",
    "repeat",
    "markers",
    "swap",
    "truncate",
    "rekey",
    "reinsert",
    "delete",
    "flip",
    "toast",
    "savepoint",
    "bad",
    "retry",
    "unique",
    "load",
    "tagged",
    "leftovers",
)
#: drawn apart, so that the histories of before stay as they were: rows are read again under a hold; a slot is lost
LATER_FEATURES = ("reload", "lost slot")
#: what histories have to have, and must not: so that each kind is met often
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "anything": (set(), set()),
    "loads that die": ({"load", "crash", "gone"}, set()),
    "unique values": ({"unique", "swap", "crash", "lost answer"}, {"load"}),
    "truncates": ({"truncate", "reinsert", "rekey"}, {"bad"}),
    "zombies": ({"zombie", "rebalance", "crash", "flip"}, {"load"}),
    "rows read again": ({"reload", "crash", "gone"}, {"load"}),
    "slots that are lost": ({"lost slot", "crash", "delete"}, set()),
    "arrays in arrays, copies": ({"deep", "flip", "rekey", "delete", "crash"}, set()),
    "arrays in arrays, copies, loads that die": ({"deep", "load", "crash", "gone", "truncate"}, set()),
    "rows that cannot be mapped": ({"bad", "unique", "swap", "delete"}, {"load"}),
    "rows tried again": ({"bad", "retry", "crash", "flip"}, set()),
}
#: rare meetings, made likely: the tables, what is on, what is off
THEMES: tuple[tuple[tuple[str, ...], set[str], set[str]], ...] = (
    ((TEAMS,), {"unique", "swap"}, {"load", "truncate"}),
    ((TEAMS, MEMBERS), {"flip", "delete"}, {"load", "bad", "truncate"}),
    ((MEMBERS,), {"truncate", "delete"}, {"bad"}),
    ((TEAMS, FILES), {"truncate", "reinsert", "rekey"}, {"bad"}),
    ((TEAMS, MEMBERS, FILES), {"load", "crash"}, {"bad"}),
)


@dataclass
class World:
    """One history. without: features that it may not have; only: those that it has to have. mood: what else is
    not left to chance: tables, width (keys of a table), busy (how often something comes in between), pauses (how
    long), moves (how often partitions do), partitions."""

    seed: int
    without: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    mood: Mapping[str, Any] = field(default_factory=dict)
    trace: list[str] | None = None
    script: Script | None = None

    rng: random.Random = field(init=False)
    clock: float = field(default=1_000.0, init=False)
    quiet: bool = field(default=False, init=False)
    stack: list[Actor] = field(default_factory=list, init=False)
    events: int = field(default=0, init=False)
    #: what has happened so far, so that it can be made shorter
    turns: list[int] = field(default_factory=list, init=False)
    moments: list[int] = field(default_factory=list, init=False)
    transactions: list[tuple[int, int]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.seed)
        self.pace = random.Random(f"{self.seed} pace")
        self.turn_number = self.moment_number = 0
        self.features = {f for f in FEATURES if rng.random() < 0.5}
        tables: tuple[str, ...] = rng.choice(
            ((TEAMS, MEMBERS), (TEAMS, MEMBERS), (TEAMS,), (MEMBERS,), (FILES, TEAMS))
        )
        if rng.random() < 0.5:
            tables, on, off = rng.choice(THEMES)
            self.features = (self.features | on) - off
        later = random.Random(self.seed ^ 0x5EED)
        self.features |= {f for f in LATER_FEATURES if later.random() < 0.25}
        self.features = (self.features | self.only) - self.without
        if self.script is not None:
            self.features &= self.script.features
        if "deep" in self.features:
            self.features.discard("bad")  # copies of what cannot be mapped are not judged
        if "load" in self.features:
            self.features.discard("unique")  # indexes are built after the load has caught up
        mood = {
            "tables": tables,
            "width": rng.choice((1, 2, 2, 3)),
            "busy": rng.choice((0.02, 0.08, 0.2, 0.4)),
            "pauses": rng.choice((2, 6, 20)),
            "moves": rng.choice((0.0, 1.0, 10.0)),
            "partitions": rng.choice((1, 2, 2, 3)),
            "workers": rng.choice((1, 2, 2, 2, 3)),
            **self.mood,
        }
        self.tables: tuple[str, ...] = mood["tables"]
        if "deep" in self.features and "tables" not in self.mood:
            self.tables = rng.choice(((TEAMS, MEMBERS, BADGES), (MEMBERS, BADGES), (TEAMS, FILES)))
        self.width: int = mood["width"]
        self.busy: float = mood["busy"]
        self.pauses: int = mood["pauses"]
        self.moves: float = mood["moves"]
        self.workers: int = mood["workers"]
        self._make_source(mood)
        self.group = Group(self.topics)
        self.store = MemoryMongo(
            before=self.moment,
            clock=lambda: self.clock,
            wait=lambda: self.sleep(0.05),
            lifetime_s=rng.choice((2.0, 8.0)),
            races_as_duplicates=self.seed % 3 == 0,
        )
        self.store.fate = self._fate
        self.sent = self.confirmed = 0
        self.slot = self.connector = True
        #: what a Connect worker that is cut off still holds of a lost slot, and sends until another one begins
        self.late: list[Change] = []
        #: whose session holds the lock of `connectors.postgres.slots.fence`
        self.heals: Actor | None = None
        self.actors: list[Actor] = []
        self.serial = 0
        self.slot_snapshot: Any = None
        self.commits_by_hand = self.parked_ever = 0

    def _make_source(self, mood: Mapping[str, Any]) -> None:
        """PostgreSQL and Kafka."""
        rng = self.rng
        self.plan = plan_of("tagged" in self.features, "deep" in self.features)
        sources = sources_of(self.features)
        self.pg = MemoryPostgres(sources, first_tx=rng.choice((700, (1 << 32) - 5, (3 << 32) + 9)))
        self.topics = Topics(sources, mood["partitions"], PLACEHOLDER)
        self.rows: Any = MemoryRows(self.pg, self.moment, lambda: self.sleep(0.1))
        self.placeholder = PLACEHOLDER
        self.sessions = [self._session(number) for number in range(rng.choice((1, 2, 3)))]
        self.draws = {session: random.Random(self.seed) for session in self.sessions}

    # -- the whole ----------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Play the history; raises Failed."""
        with self._patched():
            self._begin()
            over = 0
            for _ in range(self.rng.choice((60, 150, 300))):
                self._scripted(self.turn_number, self.turns, "turns", self.turn)
                self.turn_number += 1
                over += not self.sessions and self.sent == len(self.pg.wal)
                if over > 15:
                    break
            self._come_to_rest()
            self._judge()

    def _begin(self) -> None:
        me = Actor("setup")
        self.stack.append(me)
        self.quiet = True
        loaded = "load" in self.features
        if loaded:
            self._fill()
            if "leftovers" in self.features:
                self._leave_documents()
        for name in self.pg.sources:
            ends = dict.fromkeys(self.topics.of(name), 0)
            ledger.add_positions(self.store.db, name, "id", ends, self.plan.follows(name))  # type: ignore[arg-type]
            if not loaded:
                for partition in self.topics.of(name):
                    position = self.store.collection(ledger.POSITIONS)[partition.id]
                    self.store.plain_write(ledger.POSITIONS, partition.id, {**position, "holder": None})
        if "unique" in self.features:
            self._build_indexes()
        self.quiet = False
        self.stack.pop()
        for _ in range(self.workers):
            self._new_worker()
        self._rebalance()

    def _fill(self) -> None:
        """Rows that are there before the slot is."""
        for name in self.tables:
            for n in range(self.width):
                row = self._new_row(name, n)
                if not self._value_taken(self.pg.seen[name], name, row):
                    self.pg.fill(name, row)
        for _ in range(self.rng.choice((0, 5, 30, 200))):
            self._source_step()
        self.slot_snapshot = self.pg.create_slot()
        self.sent = self.confirmed = len(self.pg.wal)

    def _leave_documents(self) -> None:
        """Of an earlier pipeline."""
        old = {"teamName": "old", "_sync": {"at": 1, "lsn": 5}, "members": []}
        for collection, document in (
            ("teams", {"_id": ObjectId(b"an old thing"), **old}),
            (
                "_tandem_rows_teams_members",
                {"_id": _id(MEMBERS, 77), "p": _id(TEAMS, 1), "o": [1], "l": 5, "d": {}},
            ),
        ):
            self.store.plain_write(collection, document["_id"], document)

    def _build_indexes(self) -> None:
        for name, collection in self.plan.declared.collections.items():
            for index in collection.indexes:
                if index.unique:
                    self.store.build_unique(name, tuple(index.keys))

    @contextmanager
    def _patched(self) -> Iterator[None]:
        time = SimpleNamespace(
            monotonic=lambda: self.clock,
            time=lambda: self.clock,
            sleep=self.sleep,
            time_ns=lambda: NOW_US * 1_000,
        )
        threading = SimpleNamespace(
            Thread=_Inline, Lock=load_module.threading.Lock, Event=load_module.threading.Event
        )
        slots = SimpleNamespace(
            visible_now=lambda session: self.rows.visible_now(), export_snapshot=self._export
        )
        patches = {
            "time": time,
            "threading": threading,
            "slots": slots,
            "mongo": SimpleNamespace(connect=lambda *_, **__: self.store.db, translated=client.translated),
            "Transactions": MemoryTransactions,
            "SnapshotReader": self._reader,
            "connect": lambda *_, **__: nullcontext(SimpleNamespace(execute=self._waits_for_standby)),
            "translated": lambda *_: nullcontext(),
        }
        few, slots_ = random.Random(f"{self.seed} copies").choice(((200, 8), (0, 8), (1, 1), (0, 1)))
        with ExitStack() as stack:
            stack.enter_context(patch.object(copies_module, "FEW", few))
            stack.enter_context(patch.object(copies_module, "SLOTS", slots_))
            stack.enter_context(patch.object(write_module, "SLOTS", slots_))
            stack.enter_context(
                patch.object(jobs_module, "_AT_ONCE", random.Random(self.seed).choice((1, 2, 100)))
            )
            for module in (worker_module, dead_letters, jobs_module, attempt_module):
                stack.enter_context(patch.object(module, "time", time))
            patches["CurrentRows"] = lambda *_: self.rows
            for module in (load_module, lease_module, reload_module, walk_module):
                for name, twin in patches.items():
                    if name in vars(module):
                        stack.enter_context(patch.object(module, name, twin))
            yield

    # -- time and chance -----------------------------------------------------------------------------------------
    def say(self, text: str) -> None:
        """A line of the history."""
        if self.trace is not None:
            names = ">".join(a.name for a in self.stack)
            self.trace.append(f"{self.clock:10.3f} {names:20s} {text}")

    def moment(self, what: str) -> None:
        """Ahead of an operation of whoever runs."""
        self.clock += 0.001
        actor = self.stack[-1]
        self._alive(actor)
        self.say(what)
        if self.quiet:
            return
        number, chance = self.moment_number, self.pace.random()
        self.moment_number += 1
        if chance < self.busy + 0.004 or self.script is not None:
            self._scripted(number, self.moments, "moments", lambda: self._between(actor, what, chance))

    def _between(self, actor: Actor, what: str, chance: float) -> None:
        if chance < 0.004:
            self._trouble(actor, what)
            return
        for _ in range(1 if self.rng.random() < 0.8 else self.rng.randrange(1, 3 * self.pauses)):
            self.turn()
        self._alive(actor)

    def _scripted(self, number: int, done: list[int], kind: str, what: Callable[[], object]) -> None:
        """Do something that has a number, with chance of its own: without it the others stay as they are."""
        if self.script is not None and number not in getattr(self.script, kind):
            return
        done.append(number)
        with self._drawing(random.Random(f"{self.seed} {kind} {number}")):
            what()

    @contextmanager
    def _drawing(self, rng: random.Random) -> Iterator[None]:
        before, self.rng = self.rng, rng
        try:
            yield
        finally:
            self.rng = before

    def _alive(self, actor: Actor) -> None:
        if actor.dead:
            raise Crashed
        if actor.away:
            actor.away = False
            raise ServerGone("the server does not answer", remedy="it is tried again")

    def _trouble(self, actor: Actor, what: str) -> None:
        kind = self.rng.choice(("crash", "gone"))
        if kind not in self.features:
            return
        if kind == "gone":
            self.say(f"no server for {what}")
            raise ServerGone("the server does not answer", remedy="it is tried again")
        self._kill(actor)
        raise Crashed

    def _kill(self, actor: Actor) -> None:
        self.say(f"{actor.name} dies")
        actor.dead = True
        if actor in self.actors:
            self.actors.remove(actor)
            self._new_worker()
            if self.rng.random() < 0.6:
                self._rebalance()

    def _fate(self) -> str:
        if self.quiet or "lost answer" not in self.features or self.rng.random() > 0.03:
            return ""
        fate = self.rng.choice(("before", "after"))
        self.say(f"a commit's answer is lost: {fate} it was done")
        return fate

    def sleep(self, seconds: float) -> None:
        """Time passes, and the world goes on. Who waits in vain for one that stands still below gives up."""
        self.clock += seconds
        actor = self.stack[-1]
        if actor.dead:
            raise Crashed
        actor.spins += 1
        for _ in range(3):
            self._source_step()
            self._send()
        if not self.quiet and self.rng.random() < 0.3:
            self.turn()
        if actor.dead:
            raise Crashed
        if actor.spins > 40 and len(self.stack) > 1:
            actor.away = True
        if actor.spins > 3_000:
            raise Failed(f"{actor.name} waits for ever")

    def turn(self) -> None:
        """A step of something."""
        on, alone = self.features, not self.stack
        paused = [a for a in self.stack[:-1] if not a.dead]
        idle = [a for a in self.actors if a not in self.stack]
        held = "load" in on and self._held()
        deep = len(self.stack) >= 3
        (step,) = self.rng.choices(
            (
                self._source,
                self._connect,
                self._other_works,
                self._rebalance,
                self._end,
                self._repeat,
                self._load,
                self._reload,
                self._lose_slot,
                self._retries,
            ),
            (
                30 if alone else 12,
                30 if alone else 20,
                30 if idle and not deep else 0,
                self.moves if "rebalance" in on else 0,
                1 if paused and "crash" in on else 0,
                1 if "repeat" in on else 0,
                3 if held and not deep else 0,
                self._wants_reload() if not deep else 0,
                0.3 if "lost slot" in on and self.slot else 0,
                15 if "retry" in on and not deep and self.store.collection(ledger.PARKED) else 0,
            ),
        )
        step()

    def _source(self) -> None:
        for _ in range(self.rng.randrange(1, 16)):
            self._source_step()

    def _connect(self) -> None:
        for _ in range(self.rng.randrange(1, 5)):
            self._send()

    def _other_works(self) -> None:
        idle = [a for a in self.actors if a not in self.stack]
        self._work(self.rng.choice(idle), self.rng.choice((1, 2, 4, 8, 12)))

    def _end(self) -> None:
        self._kill(self.rng.choice([a for a in self.stack[:-1] if not a.dead]))

    def _repeat(self) -> None:
        self.say("connect starts again: a part is sent once more")
        self.sent = self.confirmed

    # -- PostgreSQL and Debezium ---------------------------------------------------------------------------------
    def _source_step(self) -> None:
        if self.sessions:
            session = self.rng.choice(self.sessions)
            with self._drawing(self.draws[session]):
                if next(session, "over") == "over":
                    self.sessions.remove(session)

    def _lose_slot(self) -> None:
        self.say("the slot is lost")
        self.slot = False
        self.late = self.pg.wal[self.sent :][: self.rng.choice((0, 0, 3))]

    def _send(self) -> None:
        if self.late and self.rng.random() < 0.3:
            self._to_kafka(self.late.pop(0))
        if not self.slot or not self.connector:
            return
        if self.sent == len(self.pg.wal):
            self.confirmed = self.sent
            return
        change = self.pg.wal[self.sent]
        self.sent += 1
        self._to_kafka(change)
        if self.rng.random() < 0.2:
            self.confirmed = self.sent

    def _to_kafka(self, change: Change) -> None:
        self.events += 1
        before = {p: len(log) for p, log in self.topics.logs.items()}
        self.topics.send(change, self.rng.randrange(99))
        self.say(f"kafka: {_told(change)}")
        if "markers" in self.features and self.rng.random() < 0.3:
            for partition, log in self.topics.logs.items():
                if len(log) > before[partition]:
                    self.topics.marker(partition)

    def _session(self, number: int) -> Iterator[None]:
        """A client of the source: transaction after transaction, each with chance of its own."""
        self.rng.seed(f"{self.seed} session {number}")
        for n in range(self.rng.randrange(2, 40)):
            if self.script is not None and (number, n) not in self.script.transactions:
                continue
            self.transactions.append((number, n))
            self.rng.seed(f"{self.seed} session {number} transaction {n}")
            yield from self._transaction()
            for _ in range(self.rng.randrange(3)):
                yield

    def _transaction(self) -> Iterator[None]:
        tx = self.pg.begin()
        try:
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                kept = tx.savepoint() if "savepoint" in self.features and self.rng.random() < 0.2 else None
                for act in self._statement(tx):
                    for attempt in range(16):
                        try:
                            act()
                            break
                        except Blocked:
                            if attempt == 15:
                                tx.end()
                                return
                            yield
                    yield
                if kept is not None:
                    tx.rollback_to(kept)
            if self.rng.random() < 0.1:
                tx.end()
                return
            tx.commit()
            if tx.log:
                self.say(f"pg: tx {tx.tx} commits: " + "; ".join(_told(change) for change in tx.log))
            for _ in range(self.rng.choice((0, 0, 1, 3, 30))):
                yield
            tx.show()
        except Violated:
            tx.end()

    def _statement(self, tx: SourceTransaction) -> Iterator[Callable[[], object]]:
        """The parts of a random statement; each is tried until it goes through."""
        rng, on = self.rng, self.features
        name = rng.choice(self.tables)
        kinds = ["update", "update", "whole", "insert"]
        kinds += [k for k in ("delete", "reinsert", "rekey", "flip", "swap", "toast", "truncate") if k in on]
        if "delete" in on:
            kinds.append("delete")
        kind = rng.choice(kinds)
        if kind == "truncate" and rng.random() < 0.6:
            kind = "update"
        n = rng.randrange(self.width)
        key = self._key(name, n)
        if kind == "truncate":
            yield lambda: tx.truncate(name)
            return
        there = tx.rows(name)
        if kind == "insert" or key not in there:
            row = self._new_row(name, n)
            yield lambda: tx.log_insert(name)
            yield lambda: tx.insert(name, row)
        elif kind in ("delete", "reinsert"):
            yield lambda: tx.delete(name, key)
            if kind == "reinsert":
                row = self._new_row(name, n)
                yield lambda: tx.insert(name, row)
        elif kind == "rekey":
            other = self._key(name, rng.randrange(self.width))
            yield lambda: tx.update(name, key, id=other[0])
        elif kind == "swap":
            yield from self._swap(tx, name, key)
        else:
            values = self._new_row(name, n)
            if kind == "whole":
                del values["id"]
            elif kind == "flip":
                if name == FILES:
                    return
                flipped = {TEAMS: "is_active", BADGES: "shown"}.get(name, "status")
                old = there[key][flipped]
                values = {flipped: rng.choice(("active", "disabled", "gone")) if name == MEMBERS else not old}
            elif kind == "toast":  # the long value alone
                column = next(iter(self.pg.sources[name].toasted))
                values = {column: values[column]}
            else:
                small = {
                    TEAMS: ("team_name", "score"),
                    MEMBERS: ("team_id", "place", "weight"),
                    FILES: ("name", "team_id"),
                    BADGES: ("member_id", "rank"),
                }
                column = rng.choice(small[name])
                values = {column: values[column]}
            yield lambda: tx.update(name, key, **values)

    def _swap(self, tx: SourceTransaction, name: str, key: Key) -> Iterator[Callable[[], object]]:
        column = {TEAMS: "team_name", FILES: "name"}.get(name)
        others = [k for k in tx.rows(name) if k != key]
        if column is None or not others:
            return
        other = self.rng.choice(sorted(others))
        one, two = tx.rows(name)[key][column], tx.rows(name)[other][column]
        if self.rng.random() < 0.5:  # by way of a third value
            yield lambda: tx.update(name, key, **{column: f"tmp{key[0]}"})
            yield lambda: tx.update(name, other, **{column: one})
            yield lambda: tx.update(name, key, **{column: two})
            return

        def both() -> None:  # a deferred constraint
            rows = tx.rows(name)
            if key not in rows or other not in rows:
                raise Violated
            one, two = rows[key][column], rows[other][column]
            if name == FILES and rows[key]["folder"] != rows[other]["folder"]:
                raise Violated
            for k in (key, other):  # all locks, then both
                tx.update(name, k, **{column: rows[k][column]})
            tx.update(name, key, check=False, **{column: two})
            tx.update(name, other, check=False, **{column: one})

        yield both

    def _key(self, name: str, n: int) -> Key:
        return (UUID(int=n + 1),) if name == FILES else (n + 1,)

    def _new_row(self, name: str, n: int) -> RowValues:
        rng = self.rng
        self.serial += 1
        fresh = f"{self.serial}"
        number = BAD if "bad" in self.features and rng.random() < 0.1 else Decimal(self.serial) / 4
        if name == TEAMS:
            return {
                "id": n + 1,
                "team_name": rng.choice("abcd"),
                "description": rng.choice((None, f"text {fresh}", f"text {fresh}")),
                "is_active": rng.random() < 0.75,
                "score": number,
            }
        if name == MEMBERS:
            return {
                "id": n + 1,
                "team_id": rng.choice((1, 1, 2, 2, None)),
                "place": rng.choice((1, 2, 3, None)),
                "joined": self.serial * 1_000_007,
                "note": f"note {fresh}",
                "status": rng.choice(("active", "active", "active", "disabled", "gone")),
                "weight": number,
            }
        if name == BADGES:
            return {
                "id": n + 1,
                "member_id": rng.choice((1, 1, 2, None)),
                "rank": rng.choice((1, 2, None)),
                "label": f"label {fresh}",
                "shown": rng.random() < 0.8,
            }
        row: RowValues = {
            "id": UUID(int=n + 1),
            "folder": rng.choice("fg"),
            "name": rng.choice("ab"),
            "team_id": rng.choice((1, 2, None)),
            "body": f"body {fresh}",
            "meta": f'{{"n": {fresh}}}',
        }
        if "tagged" in self.features:
            row["tags"] = f"{{tag{fresh}}}"
        return row

    def _value_taken(self, rows: Mapping[Key, RowValues], name: str, row: RowValues) -> bool:
        return any(
            all(row[c] == other[c] for c in columns)
            for columns in self.pg.sources[name].unique
            for other in rows.values()
        )

    # -- our processes -------------------------------------------------------------------------------------------
    def _new_worker(self) -> None:
        self.serial += 1
        actor = Actor(f"w{self.serial}")
        actor.stream = MemoryStream(
            self.group,
            actor.name,
            before=self.moment,
            idle=lambda _: self._nothing_came(actor),
            draw=lambda below: self.rng.randrange(below),
        )
        actor.worker = Worker(
            name=actor.name,
            stream=actor.stream,
            transactions=MemoryTransactions(self.store.db),  # type: ignore[arg-type]
            rows=self.rows,
            plan=self.plan,
            placeholder=self.placeholder,
            topic_ids=lambda: {p.topic: "id" for p in self.topics.logs},
            now_us=lambda: NOW_US,
            log=lambda message, **facts: self.say(f"{actor.name}: {message} {facts}"),
            batch_events=self.rng.choice((1, 3, 10, 50)),
            batch_bytes=self.rng.choice((300, 2_000, 8_000_000)),
        )
        self.actors.append(actor)

    def _rebalance(self) -> None:
        shares: dict[str, set[Any]] = {actor.name: set() for actor in self.actors}
        all_to_one = self.rng.random() < 0.2
        one = self.rng.choice(sorted(shares))
        for partition in self.topics.logs:
            shares[one if all_to_one else self.rng.choice(sorted(shares))].add(partition)
        self.group.assign({name: frozenset(of) for name, of in shares.items()})
        for actor in self.actors:
            if actor.stream and "zombie" in self.features and self.rng.random() < 0.3:
                actor.stream.deaf = self.rng.randrange(1, 6)
        self.say("rebalance: " + str({n: sorted(p.id for p in of) for n, of in shares.items()}))

    def _work(self, actor: Actor, budget: int) -> None:
        """Let a worker go on for a while."""
        actor.spins = actor.calls = actor.idle = 0
        actor.budget = budget

        def stop() -> bool:
            actor.calls += 1
            return actor.calls > actor.budget or actor.spins > 40 or actor.idle > (2 if self.quiet else 0)

        assert actor.worker is not None
        worker = actor.worker
        self._as(actor, lambda: worker.run(stop))

    def _nothing_came(self, actor: Actor) -> None:
        actor.idle += 1
        self.clock += self.rng.choice((0.2, 0.6, 1.2))

    def _as(self, actor: Actor, body: Callable[[], object]) -> None:
        self.stack.append(actor)
        try:
            body()
        except Crashed:
            if not actor.dead:
                raise
        finally:
            self.stack.pop()

    def _held(self, kind: str = "") -> bool:
        holders = (p["holder"] for p in self.store.collection(ledger.POSITIONS).values())
        return any(holder and holder.startswith(kind) for holder in holders)

    def _load(self) -> None:
        self.serial += 1
        actor = Actor(f"load{self.serial}")
        limits = Limits(chunk_rows=self.rng.choice((1, 2)), load_rows=self.rng.choice((1, 2, 5)))

        def body() -> None:
            snapshot, self.slot_snapshot = self.slot_snapshot, None
            nothing: Any = SimpleNamespace(database="test")
            try:
                load_module.Loader(
                    nothing,
                    nothing,
                    self.plan,
                    limits,
                    log=lambda message, **facts: self.say(f"{actor.name}: {message} {facts}"),
                    slot_snapshot=snapshot,
                ).load()
            except (Unavailable, Refused, Unappliable) as error:
                self.say(f"{actor.name} ends: {error}")

        self._as(actor, body)

    def _wants_reload(self) -> float:
        """How soon somebody reads rows again."""
        if not self.slot or not self.connector or self._held(ledger.WALK):
            return 2
        return 0.5 if "reload" in self.features and not self._held() else 0

    def _reload(self) -> None:
        """`tandem reload` of some tables; `tandem heal`, of all of them, where the slot is lost or was just made."""
        if self.slot and not self.connector and not self._healing():
            self.say("setup: the connector is put")  # somebody who was late has taken it away, and no more
            self.connector = True
            return
        self.serial += 1
        actor = Actor(f"reload{self.serial}")
        limits = Limits(chunk_rows=self.rng.choice((1, 2)), load_rows=self.rng.choice((1, 2, 5)))
        some = [name for name in self.plan.documents if self.rng.random() < 0.7]
        tables = [t for name in some for t in self.plan.declared.collections[name].tables]

        def body() -> None:
            nothing: Any = SimpleNamespace(database="test")
            again = reload_module.Reload(
                nothing,
                nothing,
                self.plan,
                limits,
                log=lambda message, **facts: self.say(f"{actor.name}: {message} {facts}"),
            )
            try:
                with again.leased():
                    if heal := self._to_be_healed():
                        self._heal(actor, again)
                    else:
                        again.take(tables)
                    again.walk()
                    if heal:
                        healed(again.db)
            except (Unavailable, Refused, Unappliable) as error:
                self.say(f"{actor.name} ends: {error}")

        self._as(actor, body)

    def _healing(self) -> Any:
        return self.store.collection(ledger.STATE).get("pipeline", {}).get("healing")

    def _to_be_healed(self) -> bool:
        return not self.slot or not self.connector or (bool(self._healing()) and self.rng.random() < 0.5)

    def _heal(self, actor: Actor, again: reload_module.Reload) -> None:
        """As `sync.setup.renew.Renewal.renew` does it."""
        self.moment("the session of whoever made a slot is ended")
        self.heals = actor
        if begins_anew(self._healing(), in_order=self.slot):
            replace_slot(
                stop=self._stop_connector,
                ends=lambda: {p: len(log) for p, log in self.topics.logs.items()},
                take=lambda ends: again.take(self.plan.tables, ends),
                make=lambda: self._new_slot(actor),
                start=self._start_connector,
                move=again.move,
            )
        else:
            again.take(self.plan.tables)
            self._start_connector()
        if self.heals is actor:
            self.heals = None

    def _stop_connector(self) -> None:
        self.moment("the connector is taken away")
        self.connector = False

    def _start_connector(self) -> None:
        """Its producer fences the one before."""
        self.moment("the connector is put")
        self.sleep(self.rng.choice((0.1, 3.0)))
        self.connector = True
        self.late.clear()

    def _new_slot(self, actor: Actor) -> Lsn:
        """Drop it, make it, both in the session that has the lock."""
        for what in ("drop the slot", "new slot"):
            self.moment(what)
            if self.heals is not actor:
                raise ServerGone("the session was ended", remedy="it is tried again")
            if what == "new slot" and self.slot:
                raise Refused("the slot is there already", remedy="heal again")
            self.slot = what == "new slot"
        return self._slot_begins()

    def _slot_begins(self) -> Lsn:
        """It sends what is committed from here on."""
        self.sent = self.confirmed = len(self.pg.wal)
        return Lsn(self.pg.lsn)

    def _export(self, source: object) -> Any:
        self.moment("export snapshot")
        return self.pg.export()

    def _reader(self, source: object, name: str) -> MemorySnapshotReader:
        conditions: dict[str, Callable[[RowValues], bool]] = {
            str(self.plan.documents["teams"].where_sql): team_inside,
            str(self.plan.documents["memberships"].where_sql): membership_inside,
            str(self.plan.arrays["teams"]["members"].where_sql): member_inside,
        }
        for inner in self.plan.arrays.get("_tandem_rows_teams_members", {}).values():
            conditions[str(inner.where_sql)] = badge_inside
        return MemorySnapshotReader(
            self.pg, self.pg.exported[name], conditions, self.moment, lambda: self.sleep(0.1)
        )

    def _waits_for_standby(self, _: str) -> Any:
        waits = bool(self.pg.running & self.pg.decoded)
        return SimpleNamespace(fetchone=lambda: (1,) if waits else None)

    # -- rest ----------------------------------------------------------------------------------------------------
    def _come_to_rest(self) -> None:
        """Nothing goes wrong any more; everybody works until nothing is left to do."""
        self.quiet = True
        self.say("---- in peace ----")
        me = Actor("rest")
        self.stack.append(me)
        for _ in range(20_000):
            if not self.sessions:
                break
            self._source_step()
        self.stack.pop()
        for _ in range(3):
            if not self.slot or not self.connector:
                self._reload()
        self.stack.append(me)
        while self.sent < len(self.pg.wal):
            self._send()
        self.stack.pop()
        self._rebalance()
        for actor in self.actors:
            assert actor.stream
            actor.stream.deaf = 0
        for _ in range(150):
            if self._at_rest():
                break
            for actor in list(self.actors):
                self._work(actor, 12)
            if self._held():
                self._load()
            if self._held(ledger.WALK):
                self._reload()
        else:
            raise Failed(f"it does not come to rest: {self._unrest()}")
        self.clock += 1_000
        self.store.expire()
        self.parked_ever = len(self.store.collection(ledger.PARKED))
        if "bad" not in self.features and self.parked_ever:
            raise Failed(f"parked though it could be applied: {self.store.collection(ledger.PARKED)}")
        self._moot()
        for _ in range(3):
            self._as(me, self._retry)

    def _unrest(self) -> dict[str, Any]:
        ends = {p.id: len(log) for p, log in self.topics.logs.items()}
        found = {
            _id: (p["at"], p["holder"], ends[_id])
            for _id, p in self.store.collection(ledger.POSITIONS).items()
            if p["holder"] is not None or p["at"] != ends[_id]
        }
        if due := [_id for _id, d in self.store.collection(ledger.PARKED).items() if d.get("due")]:
            found["to be tried again"] = due
        if self.store.collection(ledger.JOBS):
            found["jobs"] = list(self.store.collection(ledger.JOBS).values())
        return found

    def _at_rest(self) -> bool:
        return not self._unrest()

    def _moot(self) -> None:
        """What became of a row after it was parked has come as an event, and healed it, unless it is still bad."""
        if "unique" in self.features:  # what is tied to a bad row waits with it, and nothing comes behind
            return
        for found in self.store.collection(ledger.PARKED).values():
            key = (orjson.loads(found["key"])[0],)
            row = self.pg.written[found["table"]].get(key)
            if found["class"] == "data" and not (row and BAD in row.values()):
                raise Failed(f"parked, though it has changed since: {found['_id']} {found['reason']}")

    def _retries(self) -> None:
        """`tandem dead-letters retry --all`, beside all else."""
        self.serial += 1
        actor = Actor(f"retry{self.serial}")

        def body() -> None:
            try:
                self._retry()
            except Unavailable as error:
                self.say(f"{actor.name} ends: {error}")

        self._as(actor, body)

    def _retry(self) -> None:
        """What is parked is read anew, all that it is tied to with it, and settled."""
        settler = dead_letters.Settler(
            MemoryTransactions(self.store.db),  # type: ignore[arg-type]
            self.rows,
            self.plan,
            Decoder(self.plan, PLACEHOLDER, {p.topic: p.topic.split(".", 1)[1] for p in self.topics.logs}),
            lambda: NOW_US,
            lambda: ledger.positions(self.store.db).values(),  # type: ignore[arg-type]
        )
        for outcome in settler.settle(parked.all_parked(self.store.db)):  # type: ignore[arg-type]
            self.say(f"retry: {outcome.parked.id}: {outcome.fate} {outcome.reason}")

    # -- the judge -----------------------------------------------------------------------------------------------
    def _judge(self) -> None:
        if "unique" not in self.features and "bad" not in self.features:
            try:
                self._build_indexes()
            except UniqueTaken as taken:
                raise Failed(f"the unique indexes cannot be built: {taken}") from taken
        if self.store.open:
            raise Failed("transactions are left open")
        judge(self.pg.written, self.store, early="unique" in self.features)


class _Inline:
    """A thread that runs when it is started; the one that only says that its process lives does not."""

    def __init__(self, *, target: Callable[..., object], args: Sequence[object] = (), **_: object) -> None:
        self._target, self._args = target, args

    def start(self) -> None:
        if self._target.__name__ != "_beat":
            self._target(*self._args)

    def join(self) -> None:
        """It has ended already."""


def _told(change: Change) -> str:
    row = "" if change.row is None else re.sub(r"1\.1{20,}", "BAD", str(list(change.row.values())[1:]))
    unsent = f" unsent {sorted(change.unsent)}" if change.unsent else ""
    word = {"c": "insert", "u": "update", "d": "delete", "t": "truncate"}[change.op]
    return f"{word} {change.table[7:]}{[str(v)[-2:] for v in change.key]} {row} lsn {change.lsn}{unsent}"


# -- what the source's rows say, by hand -------------------------------------------------------------------------
def team_inside(row: RowValues) -> bool:
    """teams: where is_active."""
    return row["is_active"] is True


def member_inside(row: RowValues) -> bool:
    """teams.members: where status = 'active'."""
    return bool(row["status"] == "active")


def membership_inside(row: RowValues) -> bool:
    """memberships: where status <> 'gone'."""
    return bool(row["status"] != "gone")


def badge_inside(row: RowValues) -> bool:
    """teams.members.badges: where shown."""
    return row["shown"] is True


def _id(name: str, key: int | UUID | None) -> ObjectId | None:
    if key is None:
        return None
    if isinstance(key, UUID):
        text = orjson.dumps([name, str(key)])
        return ObjectId(hashlib.blake2b(text, digest_size=12).digest())
    return ObjectId(hashlib.blake2b(name.encode(), digest_size=4).digest() + key.to_bytes(8, "big"))


def _element(row: RowValues) -> Document:
    return {
        "memberId": row["id"],
        "place": row["place"],
        "joined": row["joined"] // 1_000,
        "note": row["note"],
        "status": row["status"],
        "weight": _number(row["weight"]),
    }


def _number(value: Decimal) -> Any:
    return BAD if value == BAD else Decimal128(value)


def judge(rows: Mapping[str, Mapping[Key, RowValues]], store: MemoryMongo, *, early: bool) -> None:
    """Compare what MongoDB holds with what these rows say. Raises Failed."""
    teams, members, files = (rows[name].values() for name in (TEAMS, MEMBERS, FILES))
    parked = set(store.collection(ledger.PARKED))
    bad_members = {m["id"] for m in members if m["weight"] == BAD and membership_inside(m)}
    bad_teams = {t["id"] for t in teams if t["score"] == BAD and team_inside(t)}
    for name, ids in ((TEAMS, bad_teams), (MEMBERS, bad_members)):
        for one in ids:
            if f"{name} [{one}]" not in parked:
                raise Failed(f"dropped in silence: {name} {one}")
    by_id = {_id(TEAMS, n): n for n in range(1, 10)}
    names = {by_id.get(_id_): d.get("teamName") for _id_, d in store.collection("teams").items()}
    for _ in (
        teams if early else ()
    ):  # who wants the name that a row which cannot be written still holds, waits
        held = {names[t] for t in bad_teams if t in names}
        bad_teams |= {t["id"] for t in teams if team_inside(t) and t["team_name"] in held}
    allowed = {f"{TEAMS} [{t}]" for t in bad_teams} | {f"{MEMBERS} [{m}]" for m in bad_members}
    if parked - allowed:
        raise Failed(f"parked though it could be applied: {sorted(parked - allowed)}")

    arrays: dict[Any, list[RowValues]] = {}
    for member in members:
        if member_inside(member) and member["id"] not in bad_members and member["team_id"] is not None:
            arrays.setdefault(member["team_id"], []).append(member)
    for of in arrays.values():
        of.sort(key=lambda m: (m["place"] is None, m["place"] or 0, m["id"]))
    want = {
        _id(TEAMS, t["id"]): {
            "originalId": t["id"],
            "teamName": t["team_name"],
            "description": t["description"],
            "isActive": True,
            "score": _number(t["score"]),
            "members": [{**_element(m), **_inner(rows, m)} for m in arrays.get(t["id"], ())],
        }
        for t in teams
        if team_inside(t)
    }
    have = {k: _plain(d) for k, d in store.collection("teams").items()}
    for document in have.values():
        document["members"] = [m for m in document["members"] if m["memberId"] not in bad_members]
    _compare("teams", want, have, {_id(TEAMS, t) for t in bad_teams})
    _compare(
        "memberships",
        {
            _id(MEMBERS, m["id"]): {
                **_element(m),
                "teamId": _id(TEAMS, m["team_id"]),
                **_team_of(rows, m),
            }
            for m in members
            if membership_inside(m)
        },
        {k: _plain(d) for k, d in store.collection("memberships").items()},
        {_id(MEMBERS, m) for m in bad_members},
    )
    _compare(
        "files",
        {_id(FILES, f["id"]): {**_file(f), **_team_of(rows, f)} for f in files},
        {k: _plain(d) for k, d in store.collection("files").items()},
        set(),
    )
    staged = {
        _id(MEMBERS, m["id"]): (_id(TEAMS, m["team_id"]), _element(m))
        for m in members
        if member_inside(m) and m["team_id"] is not None
    }
    held_rows = store.collection("_tandem_rows_teams_members")
    _compare(
        "staged",
        staged,
        {k: (d["p"], _dated(d["d"])) for k, d in held_rows.items()},
        {_id(MEMBERS, m) for m in bad_members},
    )
    _compare(
        "staged badges",
        {
            _id(BADGES, b["id"]): (_id(MEMBERS, b["member_id"]), _badge(b))
            for b in rows.get(BADGES, {}).values()
            if badge_inside(b) and b["member_id"] is not None
        },
        {k: (d["p"], d["d"]) for k, d in store.collection("_tandem_rows_teams_members_badges").items()},
        set(),
    )


def _badge(row: RowValues) -> Document:
    return {"badgeId": row["id"], "rank": row["rank"], "label": row["label"], "shown": True}


def _inner(rows: Mapping[str, Mapping[Key, RowValues]], member: RowValues) -> Document:
    """The array inside of a member's element."""
    if BADGES not in rows:
        return {}
    mine = [b for b in rows[BADGES].values() if badge_inside(b) and b["member_id"] == member["id"]]
    mine.sort(key=lambda b: (b["rank"] is None, b["rank"] or 0, b["id"]))
    return {"badges": [_badge(b) for b in mine]}


def _team_of(rows: Mapping[str, Mapping[Key, RowValues]], row: RowValues) -> Document:
    """What is copied of the team of a member or a file."""
    if BADGES not in rows:
        return {}
    team = rows[TEAMS].get((row["team_id"],))
    if team is None or not team_inside(team):
        return {"team": None}
    return {
        "team": {
            "teamName": team["team_name"],
            "description": team["description"],
            "score": _number(team["score"]),
        }
    }


def _file(row: RowValues) -> Document:
    found = {
        "fileId": row["id"],
        "folder": row["folder"],
        "name": row["name"],
        "teamId": _id(TEAMS, row["team_id"]),
        "body": row["body"],
        "meta": orjson.loads(row["meta"]),
    }
    return {**found, "tags": [tag for tag in row["tags"][1:-1].split(",") if tag]} if "tags" in row else found


def _plain(document: Document) -> Document:
    stamp = document.get("_sync")
    if not isinstance(stamp, dict) or not isinstance(stamp.get("lsn"), int):
        raise Failed(f"no stamp: {document}")
    found = {name: value for name, value in document.items() if name not in ("_id", "_sync")}
    if "members" in found:
        found["members"] = [_dated(m) for m in found["members"]]
    return _dated(found)


def _dated(document: Document) -> Document:
    return {**document, "joined": int(document["joined"])} if "joined" in document else dict(document)


def _compare(what: str, want: Mapping[Any, Any], have: Mapping[Any, Any], skip: set[Any]) -> None:
    for key in sorted((want.keys() | have.keys()) - skip, key=str):
        if key not in have:
            raise Failed(f"{what} {key} is missing: {want[key]}")
        if key not in want:
            raise Failed(f"{what} {key} is left over: {have[key]}")
        if want[key] != have[key]:
            raise Failed(f"{what} {key} differs: {have[key]} should be {want[key]}")


#: what is said of every single operation, too much to read
_SMALL = re.compile(
    r"(plain|find|bulk|insert|update|delete|poll|visible_now|wal|read|rows|killS|end s|copy|bound)"
)


def history(world: World) -> list[str]:
    """What happened, less what is said of every single operation."""
    lines = [line for line in world.trace or () if not _SMALL.match(line[32:])]
    return [line for one, line in zip(["", *lines], lines, strict=False) if one[11:] != line[11:]]


def shortened(make: Callable[[Script | None, list[str]], World], within_s: float = 20.0) -> World:
    """A shorter history that fails too. make: the world of a script, with its trace; None: the whole."""
    whole = make(None, [])
    kind = type(_failure(whole))
    kinds = {k: getattr(whole, k) for k in ("turns", "moments", "transactions", "features")}
    items = [(kind, n) for kind, found in kinds.items() for n in sorted(set(found))]

    def world(kept: Sequence[tuple[str, Any]]) -> World:
        return make(Script(**{k: frozenset(n for kind, n in kept if kind == k) for k in kinds}), [])

    kept = smallest(items, lambda some: isinstance(_failure(world(some)), kind), within_s)
    found = world(kept)
    return found if isinstance(_failure(found), kind) else whole


def _failure(world: World) -> BaseException | None:
    try:
        world.run()
    except Exception as error:
        return error
    return None


def check(
    seed: int,
    without: frozenset[str] = frozenset(),
    only: frozenset[str] = frozenset(),
    mood: Mapping[str, Any] | None = None,
) -> World:
    """Play one history. One that fails is made shorter and told."""
    try:
        return play(seed, without, only, mood)
    except Exception as failed:
        short = shortened(lambda script, trace: World(seed, without, only, mood or {}, trace, script))
        told = "\n".join(history(short))
        raise Failed(f"{failed}\nseed {seed}, made shorter ({_failure_of(short)}):\n{told}") from failed


def _failure_of(world: World) -> str:
    again = replace(world, trace=[])
    return str(_failure(again) or "not again")


def play(
    seed: int,
    without: frozenset[str] = frozenset(),
    only: frozenset[str] = frozenset(),
    mood: Mapping[str, Any] | None = None,
) -> World:
    """One history; raises Failed, with its seed."""
    world = World(seed, without, only, mood or {})
    try:
        world.run()
    except Moved as moved:  # nobody may let it out
        raise Failed(f"seed {seed}: {moved}") from moved
    except Failed as failed:
        raise Failed(f"seed {seed}: {failed}") from failed
    return world
