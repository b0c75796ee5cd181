"""What a rebuild from the past reads: a base image of the archive, records of the archive and then of the topics, and
where they are cut for `--until`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial

from bson import Int64

from connectors.archive.manifest import Base
from connectors.archive.reader import ArchiveReader
from connectors.debezium import config
from connectors.debezium.envelope import Origin, origin
from connectors.errors import (
    ArchiveRefused,
    DecodeFailed,
    Misused,
    NotComplete,
    Refused,
    RowUnknown,
    TooMuchAtOnce,
    Unappliable,
)
from connectors.events import Record
from connectors.kafka.assigned import AssignedConsumer
from connectors.kafka.tail import Tails
from connectors.mongo import ledger, rebuilds
from connectors.mongo.client import Database, Document, Shadow
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn, Partition, Snapshot
from connectors.postgres import slots
from connectors.postgres.client import connect, translated
from connectors.postgres.rows import CurrentRows, Row, TableRead
from consumers.apply.decide import Put
from consumers.apply.untangle import park_row
from consumers.apply.write import RowWriter, table_read
from consumers.contracts import Stream
from consumers.joined import Joined
from consumers.mapping.plan import Key, Plan, TablePlan
from sync.rebuild.cut import Cut, Moment
from sync.settings import Settings

Log = Callable[..., None]
_CONFIRMED_WITHIN_S = 60.0


class PastRows:
    """Rows for a state of the past: PostgreSQL is not asked for them, as it has them only as they are now."""

    def __init__(self, current: CurrentRows) -> None:
        self._current = current

    def read(self, wanted: Mapping[TableRead, Sequence[tuple[str, ...]]]) -> tuple[dict[str, list[Row]], Lsn]:
        """Raises RowUnknown."""
        raise RowUnknown(
            f"events leave out values of {', '.join(sorted(read.table for read in wanted))}, and what they were then"
            " is not known",
            remedy="rebuild as of a later moment, or from a base that has the rows (--from archive)",
        )

    def visible_now(self) -> Snapshot:
        """As PostgreSQL says."""
        return self._current.visible_now()

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        """As PostgreSQL says."""
        return dict(self._current.versions(list(names)))


class Past:
    """One source of the past. plan: of the rebuilt collections. source: `topics` or `archive`."""

    def __init__(self, settings: Settings, db: Database, source: str, until: str | None, log: Log) -> None:
        self.settings, self.db, self.source, self.log = settings, db, source, log
        self.moment = None if until is None else Moment.parse(until)
        self.archive: ArchiveReader | None = None
        if source == "archive":
            if not settings.archive.url:
                raise ArchiveRefused(
                    "no archive is named", remedy="set archive.url (docs/archive.md), or give --from snapshot"
                )
            self.archive = ArchiveReader(settings.archive.url)

    # -- where it begins -----------------------------------------------------------------------------------------
    def base(self, name: str | None = None) -> Base | None:
        """The base image; name: the one that was begun with. None: from nothing, as `demand_whole` has seen to."""
        if self.archive is None:
            return None
        if name:
            return next(b for b in self.archive.bases() if b.name == name)
        if self.moment is not None and self.moment.us is not None:
            us = self.moment.us
            found = [
                b for b in self.archive.bases() if datetime.fromisoformat(b.ended).timestamp() * 1e6 <= us
            ]
            if not found:
                raise ArchiveRefused(
                    "the archive has no base of before that time",
                    remedy="`tandem archive status` lists its bases",
                )
            return found[-1]
        return self.archive.base_before(None if self.moment is None else self.moment.lsn)

    def begins(self, partitions: Sequence[Partition], base: Base | None) -> dict[Partition, int]:
        """Where each partition is read from. Raises ArchiveRefused, ArchiveGap."""
        if base is None:
            return dict.fromkeys(partitions, 0)
        missing = [p.id for p in partitions if p.id not in base.positions]
        if missing:
            raise ArchiveRefused(
                f"the base {base.name} does not know {', '.join(missing[:3])}",
                remedy="make a new one with `tandem archive base`",
            )
        return {p: base.positions[p.id] for p in partitions}

    def demand_whole(self, plan: Plan) -> None:
        """The topics alone make the documents: nothing was in the tables when the slot was made, and they still have
        the first event. Raises Refused."""
        loaded = rebuilds.rows_loaded(self.db, list(plan.documents))
        if loaded is None or loaded > 0:
            rows = "it is not known how many rows" if loaded is None else f"{loaded:,} rows"
            raise Refused(
                f"topics have what changed since the slot was made, and {rows} were there before: they are in no event",
                remedy="give --from snapshot, or --from archive, which has an image of the tables",
            )
        tails = Tails(self.settings.kafka)
        try:
            homes = list(rebuilds.live_positions(self.db, plan.tables))
            gone = [home.id for home, (begin, _) in tails.extents(homes).items() if begin > 0]
            begun = Lsn.parse(str((ledger.state(self.db, "pipeline") or {}).get("slotLsn", "0/0")))
            for home in homes:
                first = next(iter(self._some(tails, home)), None)
                told = None if first is None else origin(first)
                if told is not None and told.lsn < begun:
                    gone.append(home.id)
        finally:
            tails.close()
        if gone:
            raise Refused(
                f"topics no longer begin where this slot did: {', '.join(gone[:3])}",
                remedy="give --from snapshot, or --from archive",
            )

    @staticmethod
    def _some(tails: Tails, home: Partition) -> Iterator[Record]:
        begin, end = tails.extents([home])[home]
        for offset in range(begin, min(end, begin + 3)):
            if (found := tails.at(home, offset)) is not None:
                yield found

    # -- what is read --------------------------------------------------------------------------------------------
    def wrap(self, stream: Stream) -> Stream:
        """The topics' stream with the archive before it."""
        if self.archive is None:
            return stream
        reader = self.archive

        def tail(partition: Partition, offset: int) -> tuple[Iterator[Record], int]:
            end = reader.chain(partition).next
            return (reader.tail(partition, offset) if end > offset else iter(())), end

        return Joined(stream, tail)

    def demand_joined(self, partitions: Sequence[Partition]) -> None:
        """The topics still have what comes after the archive, and compaction has not been at it. Raises Refused."""
        if self.archive is None:
            return
        tails = Tails(self.settings.kafka)
        try:
            extents = tails.extents(partitions)
        finally:
            tails.close()
        oldest = (time.time() - self.settings.kafka.compaction_lag_hours * 3_600) * 1_000
        for home, (begin, end) in extents.items():
            chain = self.archive.chain(home)
            late = bool(chain.segments) and chain.segments[-1].to_ms < oldest and end > chain.next
            if begin > chain.next or late:
                raise Refused(
                    f"{home.id}: the topic no longer has every event after offset {chain.next}, where the archive ends",
                    remedy="make a new base with `tandem archive base`, and keep `tandem archive run` running",
                )

    # -- the base image ------------------------------------------------------------------------------------------
    def load(self, base: Base, plan: Plan, shadow: Shadow, begins: Mapping[Partition, int]) -> int:
        """Write the base's rows, then let the tables stream. Killed, it is done again: the rows are the same. Returns
        how many rows there were."""
        run = f"{ledger.LOAD}:{uuid.uuid4().hex[:12]}"
        transactions = Transactions(shadow)
        try:
            transactions.repeat(lambda tx: _claim(tx, run))
            rows = sum(
                self._table(base, table, plan, transactions, run)
                for table in sorted(plan.tables.values(), key=lambda t: plan.document_of(t.name) is not None)
            )
            transactions.repeat(lambda tx: _let_go(tx, run, begins))
        finally:
            transactions.close()
        return rows

    def _table(self, base: Base, table: TablePlan, plan: Plan, transactions: Transactions, run: str) -> int:
        assert self.archive is not None
        mine = {c.name: (c.select, c.wire) for c in table_read(table).columns}
        there = {c.name: (c.select, c.wire) for c in base.tables[table.name].columns if c.name in mine}
        if mine != there:
            raise ArchiveRefused(
                f"the base {base.name} has {table.name} in another form than it is read in now",
                remedy="make a new one with `tandem archive base`",
            )
        current = CurrentRows(self.settings.source)
        writer = RowWriter(plan, PastRows(current), lambda: time.time_ns() // 1_000, run)
        piece: dict[Key, Put] = {}
        rows = 0
        try:
            for row in self.archive.base(table.name, base):
                natives = table.from_row([row[column.name] for column in table.columns])
                key = table.key_of(natives)
                piece[key] = Put(key, natives, True, True, None, base.lsn)
                rows += 1
                if len(piece) >= self.settings.limits.load_rows:
                    self._write(transactions, writer, table, piece, run)
                    piece = {}
            self._write(transactions, writer, table, piece, run)
        finally:
            current.close()
        return rows

    def _write(
        self,
        transactions: Transactions,
        writer: RowWriter,
        table: TablePlan,
        piece: Mapping[Key, Put],
        run: str,
    ) -> None:
        """What is refused is found by halving, and parked."""
        if not piece:
            return

        def put(tx: Transaction) -> None:
            ledger.claim(tx, run)
            writer.apply(tx, {table.name: dict(piece)})

        def park(tx: Transaction, key: Key, trouble: Unappliable) -> None:
            ledger.claim(tx, run)
            park_row(tx, table.name, key, trouble, time.time_ns() // 1_000_000, 0)

        try:
            transactions.repeat(put)
        except (Unappliable, TooMuchAtOnce) as trouble:
            if len(piece) > 1:
                keys = list(piece)
                for some in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                    self._write(transactions, writer, table, {key: piece[key] for key in some}, run)
            elif isinstance(trouble, Unappliable):
                transactions.repeat(partial(park, key=next(iter(piece)), trouble=trouble))
            else:
                raise

    # -- until ---------------------------------------------------------------------------------------------------
    def cut(self, base: Base | None, stop: Callable[[], bool]) -> dict[Partition, int]:
        """Where each partition ends for the moment: read through once, of all tables of the pipeline. Raises Misused
        for a moment that has not come, NotComplete while Kafka does not have all of it."""
        assert self.moment is not None
        tables = {p.table for p in ledger.positions(self.db).values()}
        partitions = list(rebuilds.live_positions(self.db, tables))
        heard = Partition(config.own_topics(self.settings.kafka.topic_prefix)[1], 0)
        self._await_sent(heard)
        cut = Cut(self.moment)
        with ExitStack() as stack:
            tails = Tails(self.settings.kafka)
            stack.callback(tails.close)
            extents = tails.extents([*partitions, heard])
            ends = {home: end for home, (_, end) in extents.items()}
            begins = {**self.begins(partitions, base), heard: extents[heard][0]}
            self.log("looking for the moment in the topics", partitions=len(partitions))
            inner = AssignedConsumer(self.settings.kafka, ends, "tandem-rebuild-cut")
            stack.callback(inner.close)
            stream: Stream = Joined(inner, self._tail_of(set(partitions)))
            stream.place(dict(begins))
            left = {home for home in ends if begins[home] < ends[home]}
            while left:
                if stop():
                    raise Refused("told to stop", remedy="run `tandem rebuild` again")
                for home, records in stream.poll(200, 2_000).items():
                    for record in records:
                        cut.add(home, record.offset, _origin(record))
                left = {home for home in left if stream.position(home) < ends[home]}
        return cut.offsets({home: ends[home] for home in partitions})

    def _tail_of(
        self, partitions: set[Partition]
    ) -> Callable[[Partition, int], tuple[Iterator[Record], int]]:
        reader = self.archive

        def tail(partition: Partition, offset: int) -> tuple[Iterator[Record], int]:
            if reader is None or partition not in partitions:
                return iter(()), 0
            end = reader.chain(partition).next
            return (reader.tail(partition, offset) if end > offset else iter(())), end

        return tail

    def _await_sent(self, heard: Partition) -> None:
        """Kafka has all that was committed up to the moment, and a record of after it."""
        assert self.moment is not None
        source = self.settings.source
        with connect(source, name="tandem rebuild") as session, translated(source):
            now = slots.wal_facts(session, source.slot)
            if self.moment.lsn is not None and self.moment.lsn > now.position:
                raise Misused(
                    f"PostgreSQL has not written {self.moment.lsn} yet: it is at {now.position}",
                    remedy="give an LSN of the past",
                )
            if self.moment.us is not None and self.moment.us > now.at_ms * 1_000:
                raise Misused(
                    "--until is in the future, by PostgreSQL's clock", remedy="give a time of the past"
                )
            wanted = now.position
            slots.emit_marker(session)
        until = time.monotonic() + _CONFIRMED_WITHIN_S
        while True:  # the connector's heartbeat writes a message every second, which is sent like a change
            tails = Tails(self.settings.kafka)  # its extents are those of when it was asked first
            try:
                last = tails.last(heard, lambda _: True, 1, 50).records
            finally:
                tails.close()
            told = origin(last[-1]) if last else None
            if told is not None and told.lsn >= wanted:
                return
            if time.monotonic() > until:
                raise NotComplete(
                    f"Kafka does not have everything up to {wanted} yet",
                    remedy="see `tandem status`: does the connector run?",
                )
            time.sleep(0.3)


def _origin(record: Record) -> Origin | None:
    try:
        return origin(record)
    except DecodeFailed:  # it is parked when it is applied
        return None


def _claim(tx: Transaction, run: str) -> None:
    tx.delete(ledger.CLAIMS, {})
    tx.insert(ledger.CLAIMS, [{"_id": run, "run": run, "kind": ledger.LOAD, "n": Int64(0)}])


def _let_go(tx: Transaction, run: str, begins: Mapping[Partition, int]) -> None:
    ledger.claim(tx, run)
    for partition, at in begins.items():
        tx.update(
            ledger.POSITIONS,
            {"_id": partition.id, "holder": ledger.UNLOADED},
            {"$set": {"at": Int64(at), "holder": None}},
        )


def kept_cut(known: Document) -> dict[Partition, int]:
    """As the journal has it."""
    found = {}
    for _id, offset in known.get("cut", []):
        topic, _, number = str(_id).rpartition("/")
        found[Partition(topic, int(number))] = int(offset)
    return found
