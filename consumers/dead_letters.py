"""Rows that wait: what cannot be applied is parked, later events of the row behind it; reading the row anew settles it
(docs/write-rule.md, clause 10)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from connectors.errors import Contended, DecodeFailed, Unappliable
from connectors.events import Record
from connectors.mongo import ledger, parked
from connectors.mongo.parked import Parked
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn, Partition, Snapshot
from connectors.postgres.rows import Row, TableRead
from consumers.apply.attempt import attempt
from consumers.apply.decide import Read
from consumers.apply.untangle import parked_id
from consumers.apply.write import RowWriter
from consumers.contracts import Rows
from consumers.mapping.ids import row_key
from consumers.mapping.plan import Key, Plan
from consumers.records import Decoder

#: rows settled in one transaction
_TOGETHER = 50
#: a row that failed again is left alone for that long, then twice as long, up to
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
#: tries that fail may take this share of a worker's time
_SHARE = 0.2


# -- parking -----------------------------------------------------------------------------------------------------
class Parking:
    """Puts away what cannot be applied. now_us: the clock that people read."""

    def __init__(self, decoder: Decoder, now_us: Callable[[], int]) -> None:
        self._decoder, self._now_us = decoder, now_us

    def alone(self, tx: Transaction, record: Record, trouble: Unappliable) -> None:
        """Park one record, under its row's key where that can be read."""
        table, key, lsn = record.home.topic, None, None
        try:
            table, key = self._decoder.row_of(record)
            lsn = self._decoder.event(record).lsn
        except Unappliable:
            pass
        parked.park(
            tx,
            parked_id(table, key) if key is not None else f"{record.home.id}@{record.offset}",
            table=table,
            key=row_key(key) if key is not None else "",
            # a record that nobody can read was perhaps not sent by the connector, and may lie anywhere
            partition="" if lsn is None else record.home.id,
            trouble=trouble,
            now_ms=self._now_us() // 1_000,
            record=record,
            lsn=lsn,
        )


# -- settling ----------------------------------------------------------------------------------------------------
class Fate(StrEnum):
    """What became of a parked row."""

    HEALED = "healed"
    #: PostgreSQL has no such row: neither is there a document now
    GONE = "row gone"
    #: it still cannot be written, or not be read
    FAILING = "still failing"
    #: it was not tried: a direct writer holds its table, or others were always in the way
    BUSY = "not tried"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one. trouble: why it is still parked, if it is."""

    parked: Parked
    fate: Fate
    trouble: Unappliable | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """A parked row whose key is known, and the positions that guard it."""

    parked: Parked
    table: str
    key: Key
    partitions: tuple[Partition, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """What is parked of it: under its key, and under a record whose key could not be read then."""
        return tuple(dict.fromkeys((self.parked.id, parked_id(self.table, self.key))))


class _Noting:
    """Reads rows, and notes which are there."""

    def __init__(self, rows: Rows, plan: Plan) -> None:
        self._rows, self._plan = rows, plan
        self.there: set[tuple[str, Key]] = set()

    def read(self, wanted: Mapping[TableRead, Sequence[tuple[Any, ...]]]) -> tuple[dict[str, list[Row]], Lsn]:
        """As the rows do."""
        found, lsn = self._rows.read(wanted)
        for table, rows in found.items():
            plan = self._plan.tables[table]
            self.there.update((table, plan.key_of(plan.from_row(row))) for row in rows)
        return found, lsn

    def visible_now(self) -> Snapshot:
        """As the rows do."""
        return self._rows.visible_now()


class Settler:
    """Reads parked rows anew and writes them as they are, with all that follows from it: they are no longer parked.

    One transaction writes the rows' positions first, so that whoever else writes them conflicts, and none while they
    are held; then PostgreSQL is read; then they are written, and taken out of what is parked. positions: all there
    are, of which the partitions of a table are known.
    """

    def __init__(
        self,
        transactions: Transactions,
        rows: Rows,
        plan: Plan,
        decoder: Decoder,
        now_us: Callable[[], int],
        positions: Callable[[], Iterable[ledger.Position]],
        *,
        within_s: float = 60.0,
    ) -> None:
        self._transactions, self._plan, self._decoder = transactions, plan, decoder
        self._now_us, self._positions, self._within_s = now_us, positions, within_s
        self._rows = _Noting(rows, plan)
        self._writer = RowWriter(plan, self._rows, now_us)

    def settle(self, wanted: Sequence[Parked], stop: Callable[[], bool] = lambda: False) -> Iterator[Outcome]:
        """Settle each; those that can be are written together. Raises Unavailable where a server is away."""
        groups: dict[tuple[Partition, ...], list[_Row]] = {}
        for one in wanted:
            try:
                row = self._row(one)
            except DecodeFailed as trouble:
                yield self._failed(one, one.count, trouble)
                continue
            groups.setdefault(row.partitions, []).append(row)
        todo = [of[n : n + _TOGETHER] for of in groups.values() for n in range(0, len(of), _TOGETHER)]
        while todo and not stop():
            group = todo.pop(0)
            outcomes = self._group(group)
            if outcomes is None:
                half = len(group) // 2
                todo[:0] = [group[:half], group[half:]]
            else:
                yield from outcomes

    def rehearse(self, one: Parked) -> Outcome:
        """What `settle` would do now, found by doing it in a transaction of which nothing is kept."""
        try:
            row = self._row(one)
        except DecodeFailed as trouble:
            return Outcome(one, Fate.FAILING, trouble, trouble.what)
        outcomes = self._group([row], keep=False)
        assert outcomes is not None
        return outcomes[0]

    def key_of(self, one: Parked) -> tuple[str, Key]:
        """Table and key of the row. Raises DecodeFailed."""
        if one.key:
            if one.table not in self._plan.tables:
                raise DecodeFailed(
                    f"{one.table} is not mapped", remedy="map it again, or discard what is parked"
                )
            texts = [str(value) for value in orjson.loads(one.key)]
            return one.table, self._plan.tables[one.table].key_from_texts(texts)
        kept = one.events[-1] if one.events else {}
        topic, _, number = one.id.partition("@")[0].rpartition("/")
        record = Record(
            Partition(topic, int(number or 0)),
            int(kept.get("at") or 0),
            kept.get("key"),
            kept.get("value"),
            0,
        )
        try:
            return self._decoder.row_of(record)
        except DecodeFailed as trouble:
            if not kept.get("cut"):
                raise
            raise DecodeFailed(
                f"{trouble.what} (only the first 16,000 bytes of it were kept)",
                remedy="the record may still be in the topic; else discard it",
            ) from trouble

    def _row(self, one: Parked) -> _Row:
        table, key = self.key_of(one)
        if one.partition:
            topic, _, number = one.partition.rpartition("/")
            return _Row(one, table, key, (Partition(topic, int(number)),))
        return _Row(
            one, table, key, tuple(sorted(p.partition for p in self._positions() if p.table == table))
        )

    def _group(self, group: Sequence[_Row], *, keep: bool = True) -> list[Outcome] | None:
        """Settle rows in one transaction. None: not all of them can be, so it is for fewer."""
        counts: dict[str, int] = {}

        def work(tx: Transaction, careful: bool) -> None:
            self._together(tx, group, counts, careful=careful)

        alone = len(group) == 1
        ended = attempt(self._transactions, work, alone=alone, keep=keep, within_s=self._within_s)
        if ended.fewer:
            return None
        if ended.busy is not None:
            return [Outcome(row.parked, Fate.BUSY, None, ended.busy.what) for row in group]
        if ended.trouble is not None:
            return [self._told(group[0], counts, ended.trouble, keep=keep)]
        there = set(self._rows.there)
        return [
            Outcome(
                row.parked,
                Fate.HEALED
                if (row.table, row.key) in there or not any(i in counts for i in row.ids)
                else Fate.GONE,
            )
            for row in group
        ]

    def _told(self, row: _Row, counts: Mapping[str, int], trouble: Unappliable, *, keep: bool) -> Outcome:
        if not keep:
            return Outcome(row.parked, Fate.FAILING, trouble, trouble.what)
        return self._failed(row.parked, counts.get(row.parked.id, row.parked.count), trouble)

    def _failed(self, one: Parked, count: int, trouble: Unappliable) -> Outcome:
        now_ms = self._now_us() // 1_000
        with suppress(Contended):  # it is told all the same, and written down the next time
            self._transactions.repeat(
                lambda tx: parked.failed(tx, one.id, count, trouble, now_ms), within_s=self._within_s
            )
        return Outcome(one, Fate.FAILING, trouble, trouble.what)

    def _together(
        self, tx: Transaction, group: Sequence[_Row], counts: dict[str, int], *, careful: bool
    ) -> None:
        """What is done in one transaction. counts: filled with how many events are parked of each row that is."""
        partitions = sorted({p for row in group for p in row.partitions})
        counts.clear()
        self._rows.there.clear()
        ledger.touch(tx, partitions, self._plan.follows)
        counts.update(parked.those_parked(tx, (i for row in group for i in row.ids)))
        still = [row for row in group if any(i in counts for i in row.ids)]
        ops: dict[str, dict[Key, Read]] = {}
        for row in still:
            ops.setdefault(row.table, {})[row.key] = Read(row.key, True, None, 0)
        self._writer.apply(tx, ops, careful=careful)
        parked.settled(tx, [i for row in still for i in row.ids])


# -- healing by itself -------------------------------------------------------------------------------------------
@dataclass
class Healing:
    """Rows of which an event has come since they were tried: tried again, the more seldom the oftener they failed.

    So a row that stays bad costs a try now and then, however often it is written.
    """

    settler: Settler
    #: when each is to be tried
    _due: dict[str, float] = field(default_factory=dict)
    #: how long each is left alone after it failed, and until when
    _pauses: dict[str, tuple[float, float]] = field(default_factory=dict)
    _rest_until: float = 0.0

    def expect(self, ids: Iterable[str]) -> None:
        """An event of these rows is parked behind."""
        now = time.monotonic()
        for one in ids:
            self._due.setdefault(one, max(now, self._pauses.get(one, (0.0, 0.0))[1]))

    def forget(self) -> None:
        """The partitions are perhaps no longer this worker's."""
        self._due = {}

    def settled_by_others(self, ids: Iterable[str]) -> None:
        """Of these nothing is parked any more."""
        for one in ids:
            self._due.pop(one, None)
            self._pauses.pop(one, None)

    def ready(self) -> list[str]:
        """Those whose time has come."""
        now = time.monotonic()
        if not self._due or now < self._rest_until:
            return []
        return [one for one, at in self._due.items() if at <= now][:_TOGETHER]

    def heal(self, found: Sequence[Parked], stop: Callable[[], bool]) -> list[Outcome]:
        """Try these now."""
        began, outcomes = time.monotonic(), []
        for outcome in self.settler.settle(found, stop):
            outcomes.append(outcome)
            one = outcome.parked.id
            self._due.pop(one, None)
            if outcome.fate in (Fate.HEALED, Fate.GONE):
                self._pauses.pop(one, None)
                continue
            now = time.monotonic()
            pause = min(self._pauses.get(one, (_PAUSE_S / 2, 0.0))[0] * 2, _LONGEST_PAUSE_S)
            self._pauses[one] = (pause, now + pause)
            if outcome.fate is Fate.BUSY:
                self._due[one] = now + pause
        if any(outcome.trouble for outcome in outcomes):
            now = time.monotonic()
            self._rest_until = now + (now - began) * (1 / _SHARE - 1)
        return outcomes
