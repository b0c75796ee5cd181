"""The loop: poll, decide, write. One transaction holds a batch and the positions that it moves (docs/write-rule.md).

Any line may die: the transaction leaves all of it or nothing, and the next owner starts at the position.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from connectors.errors import (
    Broken,
    Contended,
    EventsExpired,
    Moved,
    SchemaChanged,
    SourceReplaced,
    SyncError,
    TooMuchAtOnce,
    Unappliable,
    Unavailable,
    UniqueTaken,
)
from connectors.events import ChangeEvent, Operation, Record
from connectors.mongo import ledger, parked
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn, Partition, Snapshot
from consumers.apply.decide import RowOp, decide, fold, unknown_columns
from consumers.apply.jobs import Jobs
from consumers.apply.untangle import parked_id
from consumers.apply.write import RowWriter
from consumers.contracts import FullSpeed, Observer, Pace, Rows, Stream, Unobserved
from consumers.dead_letters import Fate, Healing, Parking, Settler
from consumers.mapping.plan import Plan
from consumers.records import Decoder

#: a look at what is visible serves that long: transaction ids wrap around
_SEEN_FOR_S = 60.0
_TELL_EVERY_S = 5.0
#: a duplicate that is met by one event alone is looked at so often again before it is parked
_LOOKS_AT_DUPLICATES = 4
#: after a batch that met a unique value of another row, so many are written the careful way at once
_CAREFUL_BATCHES = 8
#: conflicts at the start of a batch for that long: perhaps a dead worker's transaction holds the positions
_SUSPECT_AFTER_S = 1.0
#: between two tries of a batch: whoever holds the anchors begins its next one at once, so look often
_LONGEST_PAUSE_S = 0.05
#: so often others may be faster before a batch is made smaller
_SLOWER_TIMES = 3
#: what holds a batch up for so long is told, and again each time
_TELL_WAITING_S = 10.0
#: a transaction that was ended after that long was perhaps too much for the server: fewer events go through
_LONG_S = 30.0
#: for so long a parked row is tried in the face of conflicts: later is as well
_HEAL_WITHIN_S = 2.0


class Stopping(Unavailable):
    """The worker was told to stop while it waited."""


class Log(Protocol):
    """Where the worker says what an operator has to know."""

    def __call__(self, message: str, **facts: object) -> None: ...


@dataclass(slots=True)
class Tally:
    """What a worker has done since it started."""

    events: int = 0
    rows: int = 0
    reread: int = 0
    batches: int = 0
    conflicts: int = 0
    parked: int = 0
    healed: int = 0
    untangled: int = 0
    moved: int = 0
    last_commit_ms: int = 0
    #: seconds spent on batches, from the records polled to the transaction committed
    busy_s: float = 0.0


@dataclass(slots=True)
class Batch:
    """Records in a row, each partition's in order; where each partition is before them and after them."""

    records: list[Record]
    moves: dict[Partition, tuple[int, int]]
    events: list[tuple[Record, ChangeEvent]] = field(default_factory=list)


class Worker:
    """One consumer. name: unique among all that run. unit tests hand in twins of stream and rows."""

    def __init__(
        self,
        *,
        name: str,
        stream: Stream,
        transactions: Transactions,
        rows: Rows,
        plan: Plan,
        placeholder: str,
        topic_ids: Callable[[], dict[str, str]],
        now_us: Callable[[], int],
        log: Log,
        batch_events: int = 500,
        batch_bytes: int = 8_000_000,
        compaction_lag_ms: int = 0,
        has_columns: Callable[[str, frozenset[str]], bool] = lambda table, columns: True,
        same_tables: Callable[[], None] = lambda: None,
        pace: Pace | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.name, self.stream, self.transactions, self.rows, self.plan = (
            name,
            stream,
            transactions,
            rows,
            plan,
        )
        self.topic_ids, self.log = topic_ids, log
        self.batch_events, self.batch_bytes = batch_events, batch_bytes
        self.compaction_lag_ms, self.has_columns = compaction_lag_ms, has_columns
        self.same_tables = same_tables
        self.pace, self.observer = pace or FullSpeed(), observer or Unobserved()
        self._paused = False
        self._applied: list[tuple[str, int]] = []
        self._lsn = 0
        self.decoder = Decoder(plan, placeholder)
        self._stop: Callable[[], bool] = lambda: False
        self._told_shapes: set[tuple[str, frozenset[str]]] = set()
        self.writer = RowWriter(plan, rows, now_us, name)
        self.parking = Parking(self.decoder, now_us)
        settler = Settler(
            transactions,
            rows,
            plan,
            self.decoder,
            now_us,
            lambda: ledger.positions(transactions.db).values(),
            within_s=_HEAL_WITHIN_S,
        )
        self.healing = Healing(settler)
        self._most = batch_events
        self.jobs = Jobs(transactions, plan, self.writer, log, self._first_of)
        self.tally = Tally()
        self.at: dict[Partition, int | None] = {}
        self._generation = -1
        self._backlog: list[Record] = []
        self._looked_at_holds = 0.0
        self._told, self._told_events = time.monotonic(), 0
        self._seen: Snapshot | None = None
        self._careful = 0
        self._looked = 0.0

    # -- the loop ------------------------------------------------------------------------------------------------
    def run(self, stop: Callable[[], bool], enough: Callable[[], bool] = lambda: False) -> None:
        """Work until stop() says so, or enough() does, which is asked every second and may do work of its own.

        Servers that are away are waited for. Raises Broken and Refused errors.
        """
        waiting, asked, more = 0.0, time.monotonic(), False
        self._stop = stop
        while not stop():
            try:
                self.step()
                if not self.pace.paused:
                    self._heal()
                if waiting:
                    self.log("all servers answer again")
                waiting = 0.0
                if (more or time.monotonic() - asked > 1) and not self.pace.paused:
                    more = self.jobs.run()
                if time.monotonic() - asked > 1:
                    asked = time.monotonic()
                    if enough():
                        return
            except Stopping:
                return
            except Moved as moved:
                self.tally.moved += 1
                self.log("positions were moved by others: going on at MongoDB's", **moved.facts)
                self._forget()
            except Unavailable as away:
                self.log(f"waiting: {away.what}", remedy=away.remedy)
                self._forget()
                waiting = min(max(waiting * 2, 0.2), 5.0)
                _sleep(waiting, stop)

    def step(self, timeout_ms: int = 200) -> bool:
        """Poll once and apply what came. False when nothing came."""
        if self.pace.paused or self._paused:
            return self._stand_still(timeout_ms)
        if not self._backlog:
            polled = self.stream.poll(timeout_ms, self.pace.most(self.batch_events))
            if self.stream.generation != self._generation:
                self._place()
                return True
            self._backlog = [r for partition in polled for r in polled[partition]]
            self._look_at_holds()
        if not self._backlog:
            self._skip_markers()
            self._tell(now=False)
            return False
        started = time.monotonic()
        batch = self._cut()
        self.pace.wait(len(batch.records), lambda: self._stop() or self.pace.paused)
        if self.pace.paused:
            return True
        self._consume(batch)
        self.tally.busy_s += time.monotonic() - started
        self._backlog = self._backlog[len(batch.records) :]
        self._tell(now=False)
        return True

    def _stand_still(self, timeout_ms: int) -> bool:
        """While it is paused: a member of its group that reads nothing. Then on from MongoDB's positions."""
        if not self.pace.paused:
            self._paused = False
            self.log("resumed")
            self._place()
            return True
        if not self._paused:
            self._paused = True
            self.log("paused: `tandem resume` goes on")
            self._forget()
        if self.stream.generation != self._generation:  # what was assigned meanwhile is not read either
            self._generation = self.stream.generation
            mine = self.stream.assigned()
            if mine:
                ledger.register_worker(self.transactions.db, self.name, self.transactions.session_id, mine)
            self.stream.place(dict.fromkeys(mine))
        self.stream.poll(timeout_ms, 1)
        self._tell(now=False)
        return False

    def close(self) -> None:
        """Leave in order: nothing is in flight between two steps."""
        with suppress(SyncError):  # whatever ended this is told; this is only courtesy
            self._tell(now=True)
            ledger.forget_worker(self.transactions.db, self.name)
            self.transactions.close()

    # -- positions -----------------------------------------------------------------------------------------------
    def _forget(self) -> None:
        self._generation, self._backlog, self.at = -1, [], {}
        self.healing.forget()

    def _place(self) -> None:
        """After an assignment or an error: go on at MongoDB's positions."""
        generation = self.stream.generation
        self._forget()
        mine = self.stream.assigned()
        if mine:
            ledger.register_worker(self.transactions.db, self.name, self.transactions.session_id, mine)
        self.at = self._positions(mine)
        self.stream.place(self.at)
        self.healing.expect(parked.due(self.transactions.db, [p.id for p in mine]) if mine else ())
        self._generation = generation

    def _positions(self, partitions: frozenset[Partition]) -> dict[Partition, int | None]:
        found = ledger.positions(self.transactions.db, partitions)
        ids = self.topic_ids() if partitions else {}
        for partition in partitions:
            position = found.get(partition)
            if position is None or position.topic_id != ids.get(partition.topic):
                raise SourceReplaced(
                    f"the topic {partition.topic} is not the one that this pipeline was set up with",
                    remedy="it was made anew: run `tandem teardown`, `tandem setup` and `tandem snapshot`",
                )
        self.decoder.tables.update({p.topic: position.table for p, position in found.items()})
        return {p: (found[p].at if found[p].holder is None else None) for p in partitions}

    def _first_of(self, table: str) -> Partition | None:
        """The first partition of a table, where it is this worker's."""
        return next(
            (p for p in self.at if p.partition == 0 and self.decoder.tables.get(p.topic) == table), None
        )

    def _look_at_holds(self) -> None:
        """Start reading what was held and is no longer."""
        held = frozenset(p for p, at in self.at.items() if at is None)
        if held and time.monotonic() - self._looked_at_holds > 0.5:
            self._looked_at_holds = time.monotonic()
            free = {p: at for p, at in self._positions(held).items() if at is not None}
            self.at.update(free)
            self.stream.place(free)

    def _skip_markers(self) -> None:
        """Move positions over markers of transactions, which are no records, so that they reach the end."""
        moves = {}
        for partition, at in self.at.items():
            if at is not None and (end := self.stream.position(partition)) > at:
                moves[partition] = (at, end)
        if moves:
            self._transact(moves, lambda tx, marks: None)

    def _tell(self, *, now: bool) -> None:
        """Every few seconds, and at the end."""
        if now or time.monotonic() - self._told > _TELL_EVERY_S:
            seconds, self._told = time.monotonic() - self._told, time.monotonic()
            new, self._told_events = self.tally.events - self._told_events, self.tally.events
            if new:
                self.log(f"applied {self.tally.events:,} events, {new / seconds:,.0f}/s", lsn=Lsn(self._lsn))
            known = {p: at for p, at in self.at.items() if at is not None}
            if self._paused:
                ledger.seen(self.transactions.db, self.name)
            elif known and self.stream.generation == self._generation:
                self.stream.tell(known)
                ledger.seen(self.transactions.db, self.name)
                self._positions(frozenset(known))  # that the topics are still the same ones

    # -- a batch -------------------------------------------------------------------------------------------------
    def _cut(self) -> Batch:
        """The next batch: bounded by bytes; a truncate stands alone."""
        self._not_too_late(self._backlog[0])
        taken: list[Record] = []
        events: list[tuple[Record, ChangeEvent]] = []
        size = 0
        for record in self._backlog[: self.pace.most(self.batch_events)]:
            size += len(record.value or b"")
            if taken and size > self.batch_bytes:
                break
            event = self._decoded(record)
            if event is not None and event.op is Operation.TRUNCATE:
                if taken:
                    break
                taken, events = [record], [(record, event)]
                break
            taken.append(record)
            if event is not None:
                events.append((record, event))
        return Batch(taken, self._moves(taken, whole=len(taken) == len(self._backlog)), events)

    def _not_too_late(self, record: Record) -> None:
        """Compaction leaves only what is younger than its lag as it was: behind that, changes may be hidden."""
        if self.compaction_lag_ms and record.timestamp_ms < time.time() * 1_000 - self.compaction_lag_ms:
            raise EventsExpired(
                f"{record.home.id} offset {record.offset} is older than the topic keeps every event",
                remedy="the consumers were stopped for too long, and compaction may have hidden changes from them:"
                " run `tandem teardown`, `tandem setup` and `tandem snapshot`",
            )

    def _decoded(self, record: Record) -> ChangeEvent | None:
        """None for a record that cannot be decoded: it is parked when its turn comes."""
        try:
            return self.decoder.event(record)
        except Unappliable:
            return None

    def _other_columns(self, event: ChangeEvent, unknown: frozenset[str]) -> None:
        """Columns that the plan does not know: a loss, if the table has them; else the event is from before."""
        if (event.table, unknown) in self._told_shapes:
            return
        if self.has_columns(event.table, unknown):
            raise SchemaChanged(
                f"{event.table} has columns that it had not when the consumers started",
                remedy="look at the mapping, then start the consumers again; rows that got a column's DEFAULT without"
                " an event have to be loaded again (`tandem verify` names them)",
                new_columns=", ".join(sorted(unknown)),
                partition=event.home.id,
                offset=event.offset,
            )
        self._told_shapes.add((event.table, unknown))
        self.log(
            f"events of {event.table} from before a change of its columns: the rows are read as they are now"
        )

    def _moves(self, records: Sequence[Record], *, whole: bool) -> dict[Partition, tuple[int, int]]:
        ends: dict[Partition, int] = {}
        for record in records:
            if record.offset < (self.at[record.home] or 0):
                raise Moved(f"{record.home.id} is read from elsewhere", remedy="go on at MongoDB's position")
            ends[record.home] = record.offset + 1
        moves = {}
        for partition, end in ends.items():
            start = self.at[partition]
            if start is None or end <= start:
                raise Moved(
                    f"{partition.id} is read from elsewhere", remedy="go on at the position that MongoDB has"
                )
            moves[partition] = (start, max(end, self.stream.position(partition)) if whole else end)
        return moves

    def _consume(self, batch: Batch) -> None:
        """Apply a batch. What cannot be applied is found by halving, and then handled alone."""
        self._await_visible(batch)
        records, size, looks = batch.records, min(len(batch.records), self._most), 0
        while records:
            part = records[:size]
            moves = batch.moves if len(part) == len(batch.records) else self._moves(part, whole=False)
            careful, began = self._careful > 0, time.monotonic()
            try:
                self._transact(
                    moves,
                    lambda tx, marks: self._apply(tx, part, marks, careful),  # noqa: B023 - run at once
                    smaller=len(part) > 1,
                )
            except Contended:
                self._most = size = len(part) // 2
                continue
            except Unappliable as trouble:
                if isinstance(trouble, UniqueTaken) and not careful:
                    self._careful = _CAREFUL_BATCHES
                    continue
                if len(part) > 1:
                    size = len(part) // 2
                    continue
                if isinstance(trouble, UniqueTaken) and looks < _LOOKS_AT_DUPLICATES:
                    looks += 1  # a race with another worker may be told as a duplicate; that one is soon done
                    self._check_stop()
                    time.sleep(0.02 * 2**looks)
                    continue
                self._park_alone(part[0], moves, trouble)
            except TooMuchAtOnce as trouble:
                if len(part) == 1:
                    raise
                self._most = size = len(part) // 2
                self.log(f"{trouble.what}: {size} events at once from here", remedy=trouble.remedy)
                continue
            else:
                self.observer.applied(self._applied, time.monotonic() - began)
            looks, size = 0, min(size * 2, self._most)
            self.tally.events += len(part)
            records = records[len(part) :]
        self.tally.batches += 1
        self._most = min(self.batch_events, self._most + self._most // 8 + 1)
        self._careful = max(0, self._careful - 1)

    def _await_visible(self, batch: Batch) -> None:
        """Wait until PostgreSQL shows every transaction of the batch: a commit can be decoded before that."""
        pause, told = 0.002, time.monotonic()
        if time.monotonic() - self._looked > _SEEN_FOR_S:
            self._seen = None
        unseen = {e.tx for _, e in batch.events if e.tx is not None and not self._is_old(e.tx)}
        while unseen:
            shown = self.rows.visible_now()
            # whatever an event shown by this was written under has been committed by now
            self.same_tables()
            self._seen = shown
            self._looked = time.monotonic()
            unseen = {tx for tx in unseen if not shown.shows(tx)}
            if unseen:
                self._check_stop()
                if time.monotonic() - told > _TELL_WAITING_S:
                    told = time.monotonic()
                    self.log(
                        "waiting until PostgreSQL shows transactions", count=len(unseen), one=min(unseen)
                    )
                time.sleep(pause)
                pause = min(pause * 1.5, 0.2)

    def _check_stop(self) -> None:
        if self._stop():
            raise Stopping("stopped while waiting", remedy="nothing was left half done")

    def _is_old(self, tx: int) -> bool:
        return self._seen is not None and self._seen.full_id(tx) < self._seen.xmin

    def _transact(
        self,
        moves: dict[Partition, tuple[int, int]],
        work: Callable[[Transaction, dict[Partition, Lsn]], object],
        *,
        smaller: bool = False,
    ) -> None:
        """Move the positions and do the work, in one transaction; again after each conflict. smaller: less could be
        done at once; raises Contended where others were faster several times, though the anchors were this one's: to
        write documents that somebody else goes through in short transactions, one has to be as short."""
        since = told = time.monotonic()
        pause, slower = 0.004, 0

        def whole(tx: Transaction) -> None:
            self.writer.met = False
            work(tx, ledger.advance(tx, moves, self.plan.follows))

        while True:
            began = time.monotonic()
            try:
                self.transactions.once(whole)
                break
            except Contended as lost:
                self.tally.conflicts += 1
                if time.monotonic() - began > _LONG_S:
                    raise TooMuchAtOnce(lost.what, remedy="fewer events are tried at once") from lost
                slower += self.writer.met
                if smaller and slower >= _SLOWER_TIMES:
                    raise
                if time.monotonic() - told > _TELL_WAITING_S:
                    told = time.monotonic()
                    self.log(f"a batch meets conflicts again and again: {lost.what}", **lost.facts)
                if time.monotonic() - since > _SUSPECT_AFTER_S:
                    since = time.monotonic()
                    ended = ledger.end_sessions_of_others(self.transactions.db, self.name, moves)
                    if ended:
                        self.log("ended the sessions of former owners of these partitions", sessions=ended)
                self._check_stop()
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
        for partition, (_, end) in moves.items():
            self.at[partition] = end

    def _apply(
        self, tx: Transaction, records: Sequence[Record], marks: dict[Partition, Lsn], careful: bool
    ) -> None:
        """The events of a transaction, in order."""
        latest = 0
        asked: list[tuple[Record, ChangeEvent, RowOp]] = []
        self._applied = []
        for record in records:
            event = self.decoder.event(record)
            latest, self._lsn = max(latest, event.commit_ms), max(self._lsn, event.lsn)
            if event.op is Operation.TRUNCATE:
                self._truncate(tx, event)
                continue
            if event.op is not Operation.TOMBSTONE and event.lsn < marks[record.home]:
                continue  # void since a truncate
            table = self.plan.tables[event.table]
            op = decide(event, table)
            if unknown := unknown_columns(event, table):
                self._other_columns(event, unknown)
            asked.append((record, event, op))
            if event.commit_ms:
                self._applied.append((event.table, event.commit_ms))
        ids = [parked_id(event.table, op.key) for _, event, op in asked]
        behind = parked.those_parked(tx, ids)
        ops: dict[str, list[RowOp]] = {}
        waiting: list[parked.Waiting] = []
        for row_id, (record, event, op) in zip(ids, asked, strict=True):
            if row_id in behind:
                waiting.append(parked.Waiting(row_id, record, event.lsn))
            else:
                ops.setdefault(event.table, []).append(op)
        parked.park_behind(tx, waiting)
        self.healing.expect(behind)
        slots: dict[str, int] = {}
        for home in sorted({record.home for record in records}, reverse=True):
            slots[self.decoder.tables[home.topic]] = home.partition
        folded = {table: fold(of) for table, of in ops.items()}
        applied = self.writer.apply(tx, folded, careful=careful, slots=slots)
        self.tally.rows += applied.rows
        self.tally.reread += applied.reread
        self.tally.untangled += applied.untangled
        self.tally.last_commit_ms = max(self.tally.last_commit_ms, latest)

    # -- what cannot be applied ----------------------------------------------------------------------------------
    def _park_alone(
        self, record: Record, moves: dict[Partition, tuple[int, int]], trouble: Unappliable
    ) -> None:
        """One event that cannot be applied, not even with all rows that it is tied to."""
        self._transact(moves, lambda tx, marks: self.parking.alone(tx, record, trouble))
        self.tally.parked += 1
        self.log(
            f"parked: {trouble.what}",
            table=self.decoder.tables.get(record.home.topic, record.home.topic),
            partition=record.home.id,
            offset=record.offset,
            remedy=trouble.remedy,
        )

    def _heal(self) -> None:
        """Try parked rows again of which an event has come since: as they are now, perhaps they can be written."""
        ready = self.healing.ready()
        if not ready:
            return
        found = parked.all_parked(self.transactions.db, ids=ready)
        self.healing.settled_by_others(set(ready) - {p.id for p in found})
        for outcome in self.healing.heal(found, self._stop):
            if outcome.fate in (Fate.HEALED, Fate.GONE):
                self.tally.healed += 1
                self.log(f"no longer parked: {outcome.parked.id}: {outcome.fate}")

    # -- truncates -----------------------------------------------------------------------------------------------
    def _truncate(self, tx: Transaction, event: ChangeEvent) -> None:
        """The watermark goes where every transaction of the table looks and writes; the rows go by a job."""
        lsn = ledger.mark(tx, event.table, Lsn(event.lsn))
        ledger.record_job(tx, event.table, lsn)


def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop():
        time.sleep(0.05)


__all__ = ["Batch", "Broken", "Log", "Tally", "Worker"]
