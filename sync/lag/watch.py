"""Asks PostgreSQL, Kafka and MongoDB how far they are, again and again, and never waits long for one that hangs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from connectors.debezium.envelope import committed_ms
from connectors.errors import SyncError
from connectors.kafka.admin import Admin
from connectors.kafka.peek import Nothing, Peek
from connectors.mongo import client as mongo
from connectors.mongo import clock, ledger, parked
from connectors.mongo.client import Database
from connectors.mongo.ledger import Position
from connectors.positions import Partition
from connectors.postgres import slots
from connectors.postgres.client import Session, connect, translated
from connectors.postgres.slots import WalFacts
from consumers.mapping import spec
from sync.lag.asked import Asked
from sync.lag.judge import LagReport, Sample, judge
from sync.settings import Settings

_KEPT_S = 75.0
#: between the looks of one answer: of fewer there is no rate
_LOOKS, _BETWEEN_S = 4, 0.7
#: so many partitions are looked into for their first record at one look
_PEEKED = 128


class Servers:
    """Connections that are opened when they are needed, and again after an error. Each is used by one thread."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings, self.name = settings, name
        self._session: Session | None = None
        self._db: Database | None = None
        self._kafka: tuple[Admin, Peek] | None = None

    # -- PostgreSQL
    def wal(self) -> WalFacts:
        """The WAL and the slot."""
        if self._session is None:
            self._session = connect(self.settings.source, name=self.name)
        with translated(self.settings.source):
            return slots.wal_facts(self._session, self.settings.source.slot)

    def close_postgres(self) -> None:
        """Close the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    # -- MongoDB
    @property
    def db(self) -> Database:
        """The target."""
        if self._db is None:
            self._db = mongo.connect(self.settings.target, timeout_ms=2_000, name=self.name)
        return self._db

    def marks(self) -> tuple[dict[Partition, Position], dict[str, int], list[clock.Tick]]:
        """Positions, parked rows by table, the clock's ticks."""
        return ledger.positions(self.db), parked.by_table(self.db), clock.ticks(self.db)

    def close_mongo(self) -> None:
        """Close the client."""
        db, self._db = self._db, None
        if db is not None:
            db.client.close()

    # -- Kafka
    @property
    def kafka(self) -> tuple[Admin, Peek]:
        """Who asks for ends, and who looks at records."""
        if self._kafka is None:
            with ExitStack() as stack:
                admin = stack.enter_context(Admin(self.settings.kafka, timeout_ms=2_000))
                peek = Peek(self.settings.kafka, timeout_ms=700)
                stack.pop_all()
            self._kafka = admin, peek
        return self._kafka

    def close_kafka(self) -> None:
        """Close both."""
        kafka, self._kafka = self._kafka, None
        for client in kafka or ():
            with suppress(Exception):  # one that is broken: nothing of it is needed any more
                client.close()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What was found at a partition's position. ms: of its first record, None where only markers come before end.
    sure: it is a record; else a transaction that was open then."""

    at: int
    end: int
    ms: int | None
    sure: bool
    looked: float

    def holds(self, at: int, end: int) -> bool:
        """Whether it is still so."""
        return self.at == at and (self.sure or (self.ms is None and self.end == end))


class LagWatch:
    """How far behind, look by look; rates are of the looks before. notes: write down which WAL position was when, so
    that a later look can say how old the slot's is; for roles that run for long."""

    def __init__(self, settings: Settings, *, notes: bool = False) -> None:
        self._mapping, self._mapped = settings.mapping, 0.0
        self.collections: dict[str, tuple[str, ...]] = {}
        self._map()
        self.notes = notes
        self._servers = Servers(settings, "tandem lag")
        self._postgres = Asked("PostgreSQL", self._servers.wal, self._servers.close_postgres)
        self._mongo = Asked("MongoDB", self._servers.marks, self._servers.close_mongo)
        self._noting = Asked("MongoDB", lambda: self._note(), lambda: None)
        self._partitions: tuple[Partition, ...] = ()
        self._kafka = Asked(
            "Kafka", lambda: self._servers.kafka[0].ends(self._partitions), self._servers.close_kafka
        )
        self._from: dict[Partition, int] = {}
        self._ends: Mapping[Partition, int] = {}
        self._peek = Asked(
            "Kafka", lambda: self._servers.kafka[1].firsts(self._from, self._ends), self._servers.close_kafka
        )
        self._samples: deque[Sample] = deque()
        self._ticks: deque[clock.Tick] = deque(maxlen=600)
        self._noted: list[clock.Tick] = []
        self._waiting: dict[Partition, _Waiting] = {}

    def _map(self) -> None:
        """Read the mapping file, if it was changed since. Raises MappingInvalid."""
        changed = self._mapping.stat().st_mtime if self._mapping.exists() else 0.0
        if changed != self._mapped or not self.collections:
            declared = spec.load(self._mapping)
            self.collections = {n: c.tables for n, c in declared.collections.items() if c.table}
            self._mapped = changed

    def close(self) -> None:
        """Close every connection."""
        for part in (self._postgres, self._mongo, self._kafka, self._peek, self._noting):
            part.close()

    def look(self) -> LagReport:
        """Ask all three. Takes a few milliseconds, and seconds where a server hangs."""
        with suppress(SyncError):  # a file that is being written: by the one before
            self._map()
        self._samples.append(self._sample())
        while self._samples[0].at < self._samples[-1].at - _KEPT_S:
            self._samples.popleft()
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return judge(self._samples, [*self._noted, *self._ticks], self.collections, at)

    def settled(self) -> LagReport:
        """A report with rates, of some looks in a row; a server that does not answer is not waited for again."""
        report = self.look()
        for _ in range(_LOOKS - 1):
            if set(report.unknown) - {"seconds"}:  # a server is away
                break
            time.sleep(_BETWEEN_S)
            report = self.look()
        return report

    def _sample(self) -> Sample:
        unknown: dict[str, str] = {}
        at = time.monotonic()
        wal, why = self._postgres.ask()
        if wal is None:
            unknown["wal_bytes"] = why
        else:
            self._ticks.append((wal.at_ms, wal.position))
        marks = self._marks(unknown) if not self._partitions else None  # which there are is MongoDB's to say
        ends: Mapping[Partition, int] | None = None
        if self._partitions:
            ends, why = self._kafka.ask()
            if ends is None:
                unknown["records"] = why
        positions, rows = self._marks(unknown) if marks is None or self._partitions else marks
        if self.notes and wal is not None and positions is not None:
            self._wal = wal
            self._noting.ask(0.5)
        oldest = self._oldest(wal, ends, positions, unknown) if ends and positions else {}
        return Sample(at, wal, ends, positions, rows, oldest, unknown)

    def _marks(
        self, unknown: dict[str, str]
    ) -> tuple[dict[Partition, Position] | None, dict[str, int] | None]:
        found, why = self._mongo.ask()
        if found is None:
            unknown["parked"] = why
            unknown.setdefault("records", why)
            return None, None
        positions, rows, self._noted = found
        self._partitions = tuple(sorted(positions))
        if not positions:
            unknown["records"] = "the pipeline is not set up"
            return None, rows
        return positions, rows

    def _note(self) -> bool:
        confirmed = self._wal.slot.confirmed if self._wal.slot else None
        if confirmed is not None:
            clock.tick(self._servers.db, self._wal.at_ms, self._wal.position, confirmed)
        return True

    def _oldest(
        self,
        wal: WalFacts | None,
        ends: Mapping[Partition, int],
        positions: Mapping[Partition, Position],
        unknown: dict[str, str],
    ) -> dict[Partition, int]:
        """The commit time of each partition's first record that is not applied, or an earlier one. Where a transaction
        is still open there: since when it is so. Where nothing is known of one, the whole is unknown."""
        behind = {p: positions[p].at for p, end in ends.items() if p in positions and positions[p].at < end}
        known = self._waiting
        held = {p for p in behind if p in known and known[p].holds(behind[p], ends[p])}
        # one that has moved: what comes first now is no older than what came first then
        self._waiting = {p: w for p, w in known.items() if p in held or (p in behind and w.ms is not None)}
        unread = sorted(behind.keys() - held, key=lambda p: known[p].looked if p in known else 0.0)
        self._from = {p: behind[p] for p in unread[:_PEEKED]}  # the others at the next looks
        self._ends = ends
        found, why = self._peek.ask(1.5) if self._from else ({}, "")
        now = wal.at_ms if wal is not None else time.time_ns() // 1_000_000
        for partition, record in (found or {}).items():
            at, end, before = behind[partition], ends[partition], self._waiting.get(partition)
            if record is Nothing.MARKERS:
                ms = None
            elif record is Nothing.OPEN:
                ms = before.ms if before is not None and before.at == at else now
            else:
                ms = committed_ms(record)
            sure = not isinstance(record, Nothing)
            self._waiting[partition] = _Waiting(at, end, ms, sure, time.monotonic())
        if never := [p for p in behind if p not in self._waiting]:
            unknown.setdefault("seconds", why or f"the first record of {never[0].id} has not come in time")
        return {p: w.ms for p, w in self._waiting.items() if w.ms is not None}
