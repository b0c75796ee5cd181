"""Reads what is known of one document; what decides is in `verdict` and `origins`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bson import ObjectId

from connectors.errors import DecodeFailed, KeyUnknown, ServerGone, SourceNotReady, SyncError
from connectors.events import Operation, Record
from connectors.kafka.tail import Stopped, Tail, Tails
from connectors.mongo import ledger, parked
from connectors.mongo.client import Database, translated
from connectors.positions import Lsn, Partition
from connectors.postgres.rows import CurrentRows
from consumers.apply.untangle import key_in, parked_id
from consumers.apply.write import keys_read, table_read
from consumers.mapping.ids import object_id, row_key
from consumers.mapping.plan import Document, Key, Plan, RowPlan
from consumers.mapping.spec import Lines
from consumers.records import Decoder
from sync.explain.facts import EventFact, Facts, FieldFact, ParkedFact, StagedFact
from sync.explain.origins import numbered, origins

MASKED = "***"
#: staged rows that are shown
_STAGED = 200
_OPS = {
    Operation.CREATE: "insert",
    Operation.UPDATE: "update",
    Operation.DELETE: "delete",
    Operation.TRUNCATE: "truncate",
    Operation.READ: "read",
    Operation.TOMBSTONE: "tombstone",
}


@dataclass(frozen=True)
class Asked:
    """Which document: by its `_id` as text, or by its row's key, column by column. events: so many are shown.
    look_back: so many of the last records of a partition are looked at."""

    collection: str
    id: str | None = None
    pk: Mapping[str, str] | None = None
    events: int = 10
    look_back: int = 2_000


class Looked(Protocol):
    """Document and row side by side, as verification sees them."""

    @property
    def lsn(self) -> Lsn:
        """PostgreSQL's, read before."""

    @property
    def expected(self) -> Mapping[str, str] | None:
        """Each field as it has to be."""

    @property
    def found(self) -> Mapping[str, str] | None:
        """Each field as it is."""

    @property
    def differs(self) -> Mapping[str, tuple[str, str]]:
        """What was expected and found, by place."""

    @property
    def expires_ms(self) -> int | None:
        """When a TTL index lets go of it."""

    @property
    def gone(self) -> bool:
        """Whether it may be gone by now."""


@dataclass
class Explain:
    """looked: compares a document with its row, given its collection, `_id` and key. key_behind: the key of a row whose
    `_id` is a hash, found among all. tails: None where Kafka does not answer, and then why."""

    plan: Plan
    lines: Lines
    db: Database
    rows: CurrentRows
    decoder: Decoder
    tails: Tails | None
    no_tails: str
    looked: Callable[[str, Any, Key | None], Looked]
    key_behind: Callable[[str, ObjectId], Key | None]

    def facts(self, asked: Asked) -> Facts:
        """Everything. Raises KeyUnknown, Unavailable."""
        use = self.plan.documents[asked.collection]
        id_, key, how = self._which(asked, use)
        document = self._one(asked.collection, {"_id": id_})
        seen = self.looked(asked.collection, id_, key)
        facts = Facts(asked.collection, str(id_), use.table.name, str(seen.lsn), key_from=how)
        facts.document_there, facts.expected_there = seen.found is not None, seen.expected is not None
        facts.expires_ms, facts.expired = seen.expires_ms, seen.gone
        self._fields(facts, use, seen)
        stamp = (document or {}).get("_sync")
        if isinstance(stamp, dict):
            facts.sync = {n: str(v) if n == "lsn" else v for n, v in stamp.items()}
            if isinstance(stamp.get("lsn"), int):
                facts.sync["lsn"] = str(Lsn(stamp["lsn"]))
        if key is not None:
            self._row(facts, use, key)
        below = self._staged(facts, use, id_, document) if isinstance(id_, ObjectId) else {}
        self._parked(facts, use, key, below)
        self._ledger(facts, use)
        self._events(facts, use, id_, key, below, asked)
        return facts

    # -- which one -----------------------------------------------------------------------------------------------
    def _which(self, asked: Asked, use: RowPlan) -> tuple[Any, Key | None, str]:
        """The `_id`, the key of its row, and how that is known."""
        if asked.pk is not None:
            key = self._key_given(use, asked.pk)
            return use.id_of(key), key, "given"
        text = asked.id or ""
        if not ObjectId.is_valid(text):
            if self._one(asked.collection, {"_id": text}) is None:
                raise KeyUnknown(
                    f"'{text}' is no ObjectId, and no document of {asked.collection} has it as its _id",
                    remedy="give 24 hexadecimal digits, or the key of the row: --pk COLUMN=VALUE",
                )
            return text, None, ""
        id_ = ObjectId(text)
        places = [use, *(other for other in self.plan.uses(use.table.name) if other.staged)]
        for place in places:
            document = self._one(place.place, {"_id": id_}) or {"_id": id_}
            key_ = key_in(place, document)
            if key_ is not None:
                how = (
                    "read back from the _id"
                    if isinstance(key_[0], int) and len(key_) == 1
                    else "kept beside it"
                )
                return id_, key_, how
        found = None if self._whole_keys(use) else self.key_behind(asked.collection, id_)
        return id_, found, "found among all keys of the table" if found else ""

    @staticmethod
    def _whole_keys(use: RowPlan) -> bool:
        """Whether every `_id` tells its key: one that does not is no row's."""
        kinds = {column.name: column.type for column in use.table.table.columns}
        return len(use.table.key) == 1 and kinds[use.table.key[0]] in ("smallint", "integer", "bigint")

    def _key_given(self, use: RowPlan, given: Mapping[str, str]) -> Key:
        """The key of these values, in the form that PostgreSQL has them in. Raises KeyUnknown."""
        columns = ", ".join(use.table.key)
        if set(given) != set(use.table.key):
            wrong = [name for name in given if name not in use.table.key]
            missing = [name for name in use.table.key if name not in given]
            what = (
                f"{use.table.name} has no key column {', '.join(wrong)}"
                if wrong
                else f"a value is missing for {', '.join(missing)}"
            )
            example = ",".join(f"{name}=VALUE" for name in use.table.key)
            raise KeyUnknown(f"{what}; its key is {columns}", remedy=f"give --pk {example}")
        texts = [given[name] for name in use.table.key]
        try:
            key = use.table.key_from_texts(texts)
            read = keys_read(use.table)
            found, _ = self.rows.read({read: [tuple(texts)]})
        except (
            ValueError,
            ArithmeticError,
            SourceNotReady,
        ) as error:  # no value of its type, as PostgreSQL says
            raise KeyUnknown(
                f"{', '.join(texts)} is no key of {use.table.name} ({columns})",
                remedy="give values of the columns' types",
            ) from error
        return use.table.key_of_row(found[read.table][0]) if found[read.table] else key

    # -- document and row ----------------------------------------------------------------------------------------
    def _fields(self, facts: Facts, use: RowPlan, seen: Looked) -> None:
        declared = self.plan.declared.collections[facts.collection]
        known = numbered(origins(facts.collection, declared, use), self.lines)
        expected, found = seen.expected or {}, seen.found or {}
        names = [name for name in known if name in expected or name in found]
        names += [name for name in (*expected, *found) if name not in known]
        compared = seen.expected is not None and seen.found is not None
        for name in dict.fromkeys(names):
            origin, line = known.get(name, ("no part of the mapping", 0))
            differs = _difference(name, seen.differs) if compared else None
            facts.fields.append(FieldFact(name, origin, line, expected.get(name), found.get(name), differs))
        facts.sync_differs = _difference("_sync", seen.differs) if compared else None

    def _row(self, facts: Facts, use: RowPlan, key: Key) -> None:
        texts = [str(value) for value in key]
        facts.key = dict(zip(use.table.key, texts, strict=True))
        columns = [column.name for column in use.table.table.columns]
        read = table_read(use.table)
        row = self.rows.as_text(read, columns, texts)
        declared = self.plan.declared.collections[facts.collection]
        secret = set(getattr(declared, "secret", ()))
        if row is not None:
            row = {n: MASKED if n in secret and v is not None else v for n, v in row.items()}
        facts.row, facts.where = row, declared.where
        if declared.where is not None:
            facts.where_line = self.lines.line("collections", facts.collection, "where")
        if row is not None:
            facts.passes = True if use.where_sql is None else self.rows.truth(read, use.where_sql, texts)

    # -- what it is made from ------------------------------------------------------------------------------------
    def _staged(
        self, facts: Facts, use: RowPlan, id_: ObjectId, document: Document | None
    ) -> dict[str, set[Key]]:
        """The staged rows below it. Returns their keys by table."""
        keys: dict[str, set[Key]] = {}
        parents: dict[str, list[ObjectId]] = {use.collection: [id_]}
        uses = [u for u in self.plan.staged(use.collection) if u.array]
        for inner in sorted(uses, key=lambda u: len(u.path)):
            rows = self._find(inner.place, {"p": {"$in": parents.get(inner.home, [])}})
            self._take_staged(facts, keys, inner, rows)
            parents[inner.place] = [row["_id"] for row in rows]
        pointers = ((document or {}).get("_sync") or {}).get("copy") or {}
        for field, copied in self.plan.copies.get(use.collection, {}).items():
            if isinstance(pointers.get(field), ObjectId):
                self._take_staged(facts, keys, copied, self._find(copied.place, {"_id": pointers[field]}))
        return keys

    @staticmethod
    def _take_staged(facts: Facts, keys: dict[str, set[Key]], use: RowPlan, rows: Sequence[Document]) -> None:
        for row in rows:
            key = key_in(use, row)
            if key is not None:
                keys.setdefault(use.table.name, set()).add(key)
            told = "unknown" if key is None else parked_id(use.table.name, key)
            stamp = str(Lsn(row["l"])) if isinstance(row.get("l"), int) else "none"
            facts.staged.append(StagedFact(".".join(use.path), str(row["_id"]), told, stamp))

    def _parked(self, facts: Facts, use: RowPlan, key: Key | None, below: Mapping[str, set[Key]]) -> None:
        own = None if key is None else parked_id(use.table.name, key)
        ids = [parked_id(table, one) for table, keys in below.items() for one in keys]
        for one in parked.all_parked(self.db, ids=[*([own] if own else []), *ids], events=False):
            facts.parked.append(
                ParkedFact(one.id, one.parked_class, one.reason, one.count, own=one.id == own)
            )
            if one.id == own and one.partition:
                facts.partition = one.partition

    def _ledger(self, facts: Facts, use: RowPlan) -> None:
        tables = self.plan.declared.collections[use.collection].tables
        positions = ledger.positions(self.db)
        facts.held = sorted({p.table for p in positions.values() if p.table in tables and p.holder})
        facts.jobs = [
            f"truncate of {j.table} up to {j.lsn}" for j in ledger.jobs(self.db) if j.table in tables
        ]
        facts.jobs += [
            f"{j.table} has to be read again: {j.why}" for j in ledger.rereads(self.db) if j.table in tables
        ]
        pointers = (facts.sync or {}).get("copy") or {}
        facts.jobs += [
            f"{j.field} of {j.parent} is being copied into documents"
            for j in ledger.copy_jobs(self.db, [use.collection], "", 1_000)
            if str(pointers.get(j.field)) == str(j.parent)
        ]
        topics = {p.topic for p, at in positions.items() if at.table in tables}
        unread = [p for p in parked.all_parked(self.db, events=False, most=1_000) if not p.key]
        facts.parked_unknown = sum(one.table in topics or one.table in tables for one in unread)

    # -- events --------------------------------------------------------------------------------------------------
    def _events(
        self,
        facts: Facts,
        use: RowPlan,
        id_: Any,
        key: Key | None,
        below: Mapping[str, set[Key]],
        asked: Asked,
    ) -> None:
        if self.tails is None:
            facts.reach.append(f"Kafka was not asked: {self.no_tails}")
            return
        positions = ledger.positions(self.db)
        homes = [p for p, at in positions.items() if at.table in self._tables(use)]
        try:
            extents = self.tails.extents(homes)
            facts.behind = sum(max(0, end - positions[p].at) for p, (_, end) in extents.items())
            self._own_events(facts, use, key, positions, asked)
            for inner in self.plan.staged(use.collection):
                of = _Child(self.decoder, inner, id_, below.get(inner.table.name, set()))
                for home in sorted(p for p, at in positions.items() if at.table == inner.table.name):
                    self._take(facts, home, of, positions, asked, own=False)
        except ServerGone as gone:
            facts.reach.append(f"Kafka does not answer any more: {gone.what}")
        unique: dict[tuple[str, int], EventFact] = {}
        for one in facts.events:  # a row's own come first
            unique.setdefault((one.partition, one.offset), one)
        ordered = sorted(unique.values(), key=lambda e: (e.committed_ms, e.partition, e.offset))
        own = [e for e in ordered if e.own][-asked.events :]
        others = [e for e in ordered if not e.own][-asked.events :]
        facts.events = [e for e in ordered if e in own or e in others]

    def _tables(self, use: RowPlan) -> tuple[str, ...]:
        return self.plan.declared.collections[use.collection].tables

    def _own_events(
        self,
        facts: Facts,
        use: RowPlan,
        key: Key | None,
        positions: Mapping[Partition, ledger.Position],
        asked: Asked,
    ) -> None:
        """Of the row itself: of its partition only, where that can be told."""
        if key is None:
            return
        of = _Own(self.decoder, use.table.name, key)
        homes = sorted(p for p, at in positions.items() if at.table == use.table.name)
        at = (facts.sync or {}).get("at")
        assert self.tails is not None
        if facts.partition is None and isinstance(at, int):
            for home in homes:
                record = self.tails.at(home, at)
                if record is not None and of(record):
                    facts.partition = home.id
        mine = [home for home in homes if home.id == facts.partition] or homes
        for home in mine:
            self._take(facts, home, of, positions, asked, own=True)
        with_events = {one.partition for one in facts.events if one.own}
        if facts.partition is None and len(with_events) == 1:
            facts.partition = with_events.pop()

    def _take(
        self,
        facts: Facts,
        home: Partition,
        wanted: Callable[[Record], bool],
        positions: Mapping[Partition, ledger.Position],
        asked: Asked,
        *,
        own: bool,
    ) -> None:
        assert self.tails is not None
        tail = self.tails.last(home, wanted, asked.events, asked.look_back)
        facts.events += [self._event(record, positions[home].at, own=own) for record in tail.records]
        whole = tail.stopped is Stopped.BEGIN and tail.kept_from == 0
        if own or not (whole or tail.stopped is Stopped.ENOUGH):
            facts.reach.append(_reach(home, tail))

    def _event(self, record: Record, at: int, *, own: bool) -> EventFact:
        table, key = self.decoder.row_of(record)
        try:
            event = self.decoder.event(record)
            op, lsn, tx, ms = _OPS[event.op], event.lsn, event.tx, event.commit_ms
        except DecodeFailed:
            op, lsn, tx, ms = "unreadable", 0, None, 0
        told = str(Lsn(lsn)) if lsn else "-"
        return EventFact(
            table, row_key(key), op, told, tx, ms or record.timestamp_ms, record.home.id, record.offset,
            record.offset < at, own,
        )  # fmt: skip

    # -- MongoDB -------------------------------------------------------------------------------------------------
    def _one(self, collection: str, query: Mapping[str, Any]) -> Document | None:
        with translated():
            return self.db[collection].find_one(query)

    def _find(self, collection: str, query: Mapping[str, Any]) -> list[Document]:
        with translated():
            return list(self.db[collection].find(query, {"p": 1, "k": 1, "l": 1}).limit(_STAGED))


@dataclass(frozen=True)
class _Own:
    """Whether a record is of a row."""

    decoder: Decoder
    table: str
    key: Key

    def __call__(self, record: Record) -> bool:
        try:
            return self.decoder.row_of(record) == (self.table, self.key)
        except DecodeFailed:
            return False


@dataclass(frozen=True)
class _Child:
    """Whether a record is of a row that a document is made from: one that is staged for it, or says so itself."""

    decoder: Decoder
    use: RowPlan
    parent: Any
    keys: set[Key]

    def __call__(self, record: Record) -> bool:
        try:
            _, key = self.decoder.row_of(record)
            if key in self.keys:
                return True
            if not self.use.array or len(self.use.path) > 1:
                return False
            in_key = dict(zip(self.use.table.key, key, strict=True))
            if in_key.keys() >= set(self.use.parent_columns):
                parents = [in_key[column] for column in self.use.parent_columns]
                return bool(object_id(self.use.parent_table, parents) == self.parent)
            natives = self.use.table.from_event(self.decoder.event(record).row or {})
            return natives.keys() >= set(self.use.parent_columns) and (
                self.use.parent_of(natives) == self.parent
            )
        except (SyncError, ValueError, TypeError, ArithmeticError):  # of another form than the table has now
            return False


def _reach(home: Partition, tail: Tail) -> str:
    text = f"{home.id}: offsets {tail.since} to {tail.end}, {tail.stopped}"
    if tail.stopped is Stopped.BEGIN and tail.kept_from > 0:
        text += f"; what lay before {tail.kept_from} is no longer kept"
    return text


def _difference(name: str, differs: Mapping[str, tuple[str, str]]) -> tuple[str, str, str] | None:
    """The first difference inside of a field."""
    for place, (expected, found) in differs.items():
        if place == name or place.startswith((f"{name}.", f"{name}[")):
            return place, expected, found
    return None
