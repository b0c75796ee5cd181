"""A PostgreSQL, its Debezium and its Kafka in memory: rows, a WAL, topics.

What matters of PostgreSQL to the write rule: a statement's WAL position is given when it is made, an INSERT's even
before it waits for the unique index; transactions are decoded in the order of their commits; a commit is decoded
a moment before others see it, with its locks still held; TRUNCATE empties older snapshots too. Nothing waits: a
statement that would have to raises `Blocked` and is tried again. `Topics` holds what Debezium would send, as bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from connectors.debezium.envelope import KEY_FIELD
from connectors.errors import ServerGone
from connectors.events import Record
from connectors.positions import Lsn, Partition, Snapshot
from connectors.postgres.catalog import Table
from connectors.postgres.rows import KeyRange, TableRead

RowValues = dict[str, Any]
Key = tuple[Any, ...]
Tables = dict[str, dict[Key, RowValues]]
EPOCH_2000_US = 946_684_800_000_000


class Blocked(Exception):
    """Another transaction has to end first."""


class Violated(Exception):
    """A constraint does not allow it: the transaction is lost."""


@dataclass(frozen=True, slots=True)
class Change:
    """One decoded change. unsent: TOASTed columns that were not written."""

    table: str
    op: str
    key: Key
    row: RowValues | None
    unsent: frozenset[str]
    lsn: int
    tx: int


@dataclass(frozen=True, slots=True)
class Source:
    """A table: what the catalog says, its unique columns, and those that are TOASTed."""

    table: Table
    unique: tuple[tuple[str, ...], ...] = ()
    toasted: frozenset[str] = frozenset()

    def key_of(self, row: Mapping[str, Any]) -> Key:
        """The primary key's values."""
        return tuple(row[column] for column in self.table.key)


@dataclass(slots=True)
class MemoryPostgres:
    """The server. written: as the WAL has it, which is what decoding and exported snapshots see. seen: as other
    sessions see it, a moment later."""

    sources: Mapping[str, Source]
    first_tx: int = 700
    wal: list[Change] = field(default_factory=list)
    lsn: int = 1_000
    next_tx: int = 0
    written: Tables = field(default_factory=dict)
    seen: Tables = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    decoded: set[int] = field(default_factory=set)
    #: what is locked, and by which transactions
    locks: dict[tuple[Any, ...], int] = field(default_factory=dict)
    users: dict[str, set[int]] = field(default_factory=dict)
    truncates: list[tuple[str, int]] = field(default_factory=list)
    exported: dict[str, Exported] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.next_tx = self.first_tx
        for name in self.sources:
            self.written[name], self.seen[name], self.users[name] = {}, {}, set()

    def begin(self) -> SourceTransaction:
        """A new transaction."""
        return SourceTransaction(self)

    def fill(self, table: str, row: RowValues) -> None:
        """A row that was there before everything, in no event."""
        key = self.sources[table].key_of(row)
        self.written[table][key] = self.seen[table][key] = row

    def visible_now(self) -> Snapshot:
        """`pg_current_snapshot()`."""
        return Snapshot(min(self.running, default=self.next_tx), self.next_tx, frozenset(self.running))

    def locked_by_truncate(self, table: str) -> bool:
        """Whether a read of the table would wait."""
        return ("truncate", table) in self.locks

    def export(self) -> Exported:
        """A snapshot of what is visible."""
        shown = frozenset(tx for _, tx in self.truncates if tx not in self.running)
        return self._exported({name: dict(rows) for name, rows in self.seen.items()}, shown)

    def create_slot(self) -> Exported:
        """A snapshot of all that is committed, visible or not: the WAL from here on goes on from it."""
        shown = frozenset(tx for _, tx in self.truncates)
        return self._exported({name: dict(rows) for name, rows in self.written.items()}, shown)

    def _exported(self, rows: Tables, truncates: frozenset[int]) -> Exported:
        made = Exported(f"snapshot-{len(self.exported)}", Lsn(self.lsn), rows, truncates)
        self.exported[made.name] = made
        return made

    def rows_under(self, snapshot: Exported, table: str) -> dict[Key, RowValues]:
        """A table under a snapshot; empty when it was truncated since."""
        if any(name == table and tx not in snapshot.truncates for name, tx in self.truncates):
            return {}
        return snapshot.rows[table]


@dataclass(slots=True)
class Exported:
    """A snapshot with a name; the context manager that the loader expects. truncates: those that it shows."""

    name: str
    lsn: Lsn
    rows: Tables
    truncates: frozenset[int]

    def __enter__(self) -> Exported:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Savepoint:
    """What a transaction had done when it was set."""

    length: int
    own: Mapping[tuple[str, Key], RowValues | None]
    emptied: frozenset[str]


class SourceTransaction:
    """Statements, then commit, then show: between the two the commit is decoded and not visible."""

    def __init__(self, server: MemoryPostgres) -> None:
        self.server = server
        self.log: list[Change] = []
        self._own: dict[tuple[str, Key], RowValues | None] = {}
        self._emptied: set[str] = set()
        self._tx: int | None = None
        self._reserved: int | None = None

    @property
    def tx(self) -> int:
        """Its 64-bit id, given with the first change."""
        if self._tx is None:
            self._tx = self.server.next_tx
            self.server.next_tx += 1
            self.server.running.add(self._tx)
        return self._tx

    def rows(self, table: str) -> dict[Key, RowValues]:
        """What it sees."""
        rows = {} if table in self._emptied else dict(self.server.seen[table])
        for (name, key), row in self._own.items():
            if name == table:
                rows[key] = row  # type: ignore[assignment]
        return {key: row for key, row in rows.items() if row is not None}

    def log_insert(self, table: str) -> None:
        """The first half of an INSERT: its row is in the WAL before the unique indexes are asked."""
        self._use(table)
        self._reserved = self._next_lsn()

    def insert(self, table: str, row: RowValues, unsent: frozenset[str] = frozenset()) -> None:
        """The second half; the first too, if need be."""
        if self._reserved is None:
            self.log_insert(table)
        key = self.server.sources[table].key_of(row)
        self._lock(table, *key)
        if key in self.rows(table):
            raise Violated
        self._unique(table, key, row)
        lsn, self._reserved = self._reserved, None
        assert lsn is not None
        self._write(table, "c", key, row, unsent, lsn)

    def update(self, table: str, key: Key, check: bool = True, **values: Any) -> None:
        """Change columns. A TOASTed one that is not among them is not sent. Another key: a delete and an insert.

        check: unique values are looked at now, not at the commit as those of a deferred constraint are.
        """
        self._use(table)
        self._lock(table, *key)
        source, old = self.server.sources[table], self.rows(table).get(key)
        if old is None:
            raise Violated
        row = {**old, **values}
        unsent = source.toasted - values.keys()
        new_key = source.key_of(row)
        if new_key != key:
            self._lock(table, *new_key)
            if new_key in self.rows(table):
                raise Violated
            self._unique_locks(table, row)
            self.delete(table, key)
            self.insert(table, row, unsent)
            return
        if check:
            self._unique(table, key, row)
        else:
            self._unique_locks(table, row)
        self._write(table, "u", key, row, unsent, self._next_lsn())

    def delete(self, table: str, key: Key) -> None:
        """Delete a row."""
        self._use(table)
        self._lock(table, *key)
        old = self.rows(table).get(key)
        if old is None:
            raise Violated
        self._unique_locks(table, old)
        self._write(table, "d", key, None, frozenset(), self._next_lsn())

    def truncate(self, table: str) -> None:
        """Empty a table."""
        if (
            self.server.users[table] - {self.tx}
            or self.server.locks.get(("truncate", table), self.tx) != self.tx
        ):
            raise Blocked
        self.server.locks["truncate", table] = self.tx
        for place in [place for place in self._own if place[0] == table]:
            del self._own[place]
        self._emptied.add(table)
        self.log.append(Change(table, "t", (), None, frozenset(), self._next_lsn(), self.tx))

    def savepoint(self) -> Savepoint:
        """A point to come back to."""
        return Savepoint(len(self.log), dict(self._own), frozenset(self._emptied))

    def rollback_to(self, point: Savepoint) -> None:
        """What came after it is void, what it has locked stays so. Its WAL is there, and is not decoded."""
        del self.log[point.length :]
        self._own, self._emptied, self._reserved = dict(point.own), set(point.emptied), None

    def commit(self) -> None:
        """In the WAL, decoded; not yet visible."""
        server = self.server
        if not self.log:
            self.end()
            return
        server.lsn += 1
        for change in self.log:
            _replay(server.written, change)
            if change.op == "t":
                server.truncates.append((change.table, change.tx))
        server.wal += self.log
        server.decoded.add(self.tx)

    def show(self) -> None:
        """Visible to all."""
        for change in self.log:
            _replay(self.server.seen, change)
        self.end()

    def end(self) -> None:
        """Over: shown, or rolled back."""
        if self._tx is None:
            return
        server = self.server
        server.running.discard(self._tx)
        for place in [place for place, holder in server.locks.items() if holder == self._tx]:
            del server.locks[place]
        for users in server.users.values():
            users.discard(self._tx)

    def _next_lsn(self) -> int:
        self.server.lsn += 8
        return self.server.lsn

    def _use(self, table: str) -> None:
        if self.server.locks.get(("truncate", table), self.tx) != self.tx:
            raise Blocked
        self.server.users[table].add(self.tx)

    def _lock(self, *what: Any) -> None:
        if self.server.locks.setdefault(what, self.tx) != self.tx:
            raise Blocked

    def _unique_locks(self, table: str, row: RowValues) -> None:
        for columns in self.server.sources[table].unique:
            self._lock("unique", table, *columns, *(row[c] for c in columns))

    def _unique(self, table: str, key: Key, row: RowValues) -> None:
        old = self.rows(table).get(key)
        if old is not None:
            self._unique_locks(table, old)
        self._unique_locks(table, row)
        for columns in self.server.sources[table].unique:
            wanted = [row[c] for c in columns]
            for other, found in self.rows(table).items():
                if other != key and [found[c] for c in columns] == wanted:
                    raise Violated

    def _write(
        self, table: str, op: str, key: Key, row: RowValues | None, unsent: frozenset[str], lsn: int
    ) -> None:
        self._own[table, key] = row
        self.log.append(Change(table, op, key, row, unsent, lsn, self.tx))


def _replay(rows: Tables, change: Change) -> None:
    if change.op == "t":
        rows[change.table].clear()
    elif change.row is None:
        rows[change.table].pop(change.key)
    else:
        rows[change.table][change.key] = change.row


# -- as PostgreSQL answers ---------------------------------------------------------------------------------------
@dataclass(slots=True)
class MemoryRows:
    """Rows as they are now: `consumers.contracts.Rows`. before: called ahead of each step."""

    server: MemoryPostgres
    before: Callable[[str], None]
    wait: Callable[[], None]

    def close(self) -> None:
        """Nothing to do."""

    def visible_now(self) -> Snapshot:
        """Which transactions a read that begins now would show."""
        self.before("visible_now")
        return self.server.visible_now()

    def read(
        self, wanted: Mapping[TableRead, Sequence[tuple[Any, ...]]]
    ) -> tuple[dict[str, list[tuple[Any, ...]]], Lsn]:
        """The rows with these keys, all in one snapshot, and a WAL position read before it."""
        self.before("wal position")
        lsn, snapshot = Lsn(self.server.lsn), None
        found = {}
        for read, keys in wanted.items():
            self.before(f"read {read.table}")
            until_unlocked(self.server, read.table, self.wait)
            snapshot = snapshot or self.server.export()
            rows = self.server.rows_under(snapshot, read.table)
            source = self.server.sources[read.table]
            texts = {tuple(str(value) for value in key): row for key, row in rows.items()}
            found[read.table] = [binary_row(source, read, texts[tuple(k)]) for k in keys if tuple(k) in texts]
        self.before("rows were read")
        return found, lsn


@dataclass(slots=True)
class MemorySnapshotReader:
    """Rows under an exported snapshot: the part of `SnapshotReader` that the loader uses.

    conditions: what the SQL text of a filter means.
    """

    server: MemoryPostgres
    snapshot: Exported
    conditions: Mapping[str, Callable[[RowValues], bool]]
    before: Callable[[str], None]
    wait: Callable[[], None]

    def close(self) -> None:
        """Nothing to do."""

    def boundaries(self, read: TableRead, every: int) -> tuple[list[tuple[str, ...]], int]:
        """The first key of every `every` rows, less the very first; and the number of rows."""
        self.before("boundaries")
        until_unlocked(self.server, read.table, self.wait)
        keys = sorted(self.server.rows_under(self.snapshot, read.table))
        return [tuple(str(v) for v in key) for key in keys[::every][1:]], len(keys)

    def copy(
        self,
        read: TableRead,
        keys: KeyRange,
        where: str | None,
        parent: tuple[TableRead, Sequence[str]] | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """Rows whose key lies in a range; or, parent given, those whose columns with that table's key do."""
        of, range_columns = parent or (read, read.key)
        self.before(f"copy {read.table}")
        until_unlocked(self.server, read.table, self.wait)
        casts = [_CASTS[cast] for cast in of.casts]
        low, high = (
            None if end is None else [cast(text) for cast, text in zip(casts, end, strict=True)]
            for end in (keys.low, keys.high)
        )
        for row in list(self.server.rows_under(self.snapshot, read.table).values()):
            place = [row[column] for column in range_columns]
            if (low is not None or high is not None) and None in place:
                continue
            if (low is not None and place < low) or (high is not None and place >= high):
                continue
            if where is None or self.conditions[where](row):
                yield binary_row(self.server.sources[read.table], read, row)


_CASTS: dict[str, Callable[[str], Any]] = {"bigint": int, "uuid": UUID, "text": str}


def until_unlocked(server: MemoryPostgres, table: str, wait: Callable[[], None]) -> None:
    """A read waits for a TRUNCATE that is under way. Raises ServerGone after a while, as a lock timeout does."""
    for _ in range(60):
        if not server.locked_by_truncate(table):
            return
        wait()
    raise ServerGone("a lock was not let go in time", remedy="it is tried again")


def binary_row(source: Source, read: TableRead, row: RowValues) -> tuple[Any, ...]:
    """A row as psycopg's loaders and COPY in binary give it."""
    types = {column.name: column.type for column in source.table.columns}
    return tuple(_binary(types[column.name], row[column.name]) for column in read.columns)


def _binary(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "timestamp with time zone":
        return value - EPOCH_2000_US
    if kind == "jsonb":
        return b"\x01" + value.encode()
    return value


# -- as Debezium sends -------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Topics:
    """Kafka's topics, one for each table. None in a partition's log: a transaction's marker, which is no record."""

    sources: Mapping[str, Source]
    partitions: int
    placeholder: str
    logs: dict[Partition, list[Record | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logs = {partition: [] for table in self.sources for partition in self.of(table)}

    def of(self, table: str) -> list[Partition]:
        """The partitions of a table's topic."""
        return [Partition(f"tandem.{table}", n) for n in range(self.partitions)]

    def home(self, table: str, key: Key) -> Partition:
        """Where a key's events lie."""
        text = orjson.dumps([str(value) for value in key])
        return self.of(table)[zlib.crc32(text) % self.partitions]

    def send(self, change: Change, chance: int = 0) -> None:
        """What Debezium sends for a change. chance: the partition of a truncate, which has no key."""
        source = self.sources[change.table]
        if change.op == "t":
            home = self.of(change.table)[chance % self.partitions]
            self._append(home, None, self._value(change, "t", None), change.lsn)
            return
        home = self.home(change.table, change.key)
        types = {column.name: column.type for column in source.table.columns}
        key = {c: _sent(types[c], v) for c, v in zip(source.table.key, change.key, strict=True)}
        after = None
        if change.row is not None:
            after = {
                column.name: self.placeholder
                if column.name in change.unsent and change.row[column.name] is not None
                else _sent(column.type, change.row[column.name])
                for column in source.table.columns
                if column.type not in NOT_SENT
            }
        self._append(home, key, self._value(change, change.op, after), change.lsn)
        if change.op == "d":
            self._append(home, key, None, change.lsn)

    def marker(self, partition: Partition) -> None:
        """A transaction of the producer ends here."""
        self.logs[partition].append(None)

    def _value(self, change: Change, op: str, after: RowValues | None) -> bytes:
        schema, _, table = change.table.partition(".")
        return orjson.dumps(
            {
                "before": None,
                "after": after,
                "source": {
                    "schema": schema,
                    "table": table,
                    "lsn": change.lsn,
                    "txId": change.tx & 0xFFFFFFFF,
                    "ts_ms": change.lsn,
                },
                "op": op,
                "ts_ms": change.lsn,
            }
        )

    def _append(self, home: Partition, key: RowValues | None, value: bytes | None, time_ms: int) -> None:
        log = self.logs[home]
        log.append(Record(home, len(log), orjson.dumps({KEY_FIELD: key}), value, time_ms))


#: types that the connector leaves out (their values are read from the row)
NOT_SENT = frozenset({"text[]", "vector"})


def _sent(kind: str, value: Any) -> Any:
    if isinstance(value, Decimal | UUID):
        return str(value)
    if value is not None and kind == "timestamp with time zone":
        seconds, micros = divmod(value, 1_000_000)
        days, seconds = divmod(seconds, 86_400)
        assert 0 <= days < 28, "in January 1970"
        clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{micros:06d}"
        return f"1970-01-{days + 1:02d}T{clock}Z"
    return value


class Group:
    """A consumer group: who is assigned what. Members learn of a change when they poll, deaf ones later."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.epoch = 0
        self.assigned: dict[str, frozenset[Partition]] = {}
        self.told: dict[Partition, int] = {}

    def assign(self, shares: Mapping[str, frozenset[Partition]]) -> None:
        """A rebalance."""
        self.assigned = dict(shares)
        self.epoch += 1


class InOrder(frozenset[Partition]):
    """Partitions that are always met in the same order, so that a history can be played again."""

    def __iter__(self) -> Iterator[Partition]:
        return iter(sorted(super().__iter__()))


class MemoryStream:
    """One member of the group: `consumers.contracts.Stream`. deaf: for so many polls it hears of no rebalance.

    draw(n): a number below n, for how much a poll brings.
    """

    def __init__(
        self,
        group: Group,
        member: str,
        *,
        before: Callable[[str], None],
        idle: Callable[[float], None],
        draw: Callable[[int], int],
    ) -> None:
        self.generation = 0
        self.deaf = 0
        self._group, self._member, self._before, self._idle, self._draw = group, member, before, idle, draw
        self._epoch = -1
        self._mine: frozenset[Partition] = InOrder()
        self._at: dict[Partition, int | None] = {}

    def assigned(self) -> frozenset[Partition]:
        """The partitions that are this member's, as far as it knows."""
        return self._mine

    def place(self, offsets: Mapping[Partition, int | None]) -> None:
        """Go on at these offsets; None: do not read this partition for now."""
        self._at.update(offsets)

    def poll(self, timeout_ms: int, most: int) -> dict[Partition, list[Record]]:
        """Some records."""
        self._before("poll")
        if self.deaf:
            self.deaf -= 1
        elif self._epoch != self._group.epoch:
            self._epoch = self._group.epoch
            self._mine = InOrder(self._group.assigned.get(self._member, ()))
            self._at = {}
            self.generation += 1
            return {}
        polled: dict[Partition, list[Record]] = {}
        left = 1 + self._draw(most)
        for partition in sorted(sorted(self._mine), key=lambda _: self._draw(8)):
            at = self._at.get(partition)
            if at is None or left <= 0:
                continue
            log, found = self._group.topics.logs[partition], []
            while at < len(log) and (log[at] is None or len(found) < left):
                if (record := log[at]) is not None:
                    found.append(record)
                at += 1
            self._at[partition] = at
            left -= len(found)
            if found:
                polled[partition] = found
        if not polled:
            self._idle(timeout_ms / 1_000)
        return polled

    def position(self, partition: Partition) -> int:
        """The offset that would be read next."""
        at = self._at.get(partition)
        if at is None:
            raise ServerGone(f"{partition.id} was not placed", remedy="none: this is a test")
        return at

    def tell(self, offsets: Mapping[Partition, int]) -> None:
        """Kafka's own note of where the group is."""
        self._group.told.update(offsets)
