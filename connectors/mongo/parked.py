"""What is parked: one document per row in `_tandem_parked`, in the target database.

_id: `schema.table [key]`; `topic/partition@offset` for a record whose key cannot be read. table (then: the topic),
key. partition: of the row's events; empty where only a load has met the row. class, code, reason: why, as of the last
try; details: what the server said, with values, as JSON text. since: when it was parked. events: the last of them;
count: of all; lsn: the highest. due: an event has come since the last try. tries: how often it was tried again, tried:
when.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bson import DatetimeMS, Int64, json_util
from bson.binary import Binary
from pymongo import UpdateOne

from connectors.errors import Unappliable
from connectors.events import Record
from connectors.mongo.client import Database, Document, translated
from connectors.mongo.ledger import PARKED
from connectors.mongo.transaction import Transaction
from connectors.positions import Lsn

#: so many of the last events of a row are kept
_EVENTS = 50
#: how long the kept copy of a record's key and value may be, bytes
_BYTES = 16_000
#: that of a value which waits behind: it is for readers, what is retried is the row
_BYTES_BEHIND = 4_000
_REASON = 2_000
_SLICE = 500
#: all but what may be long, and have values in it
_BRIEF = dict.fromkeys(
    (
        "table",
        "key",
        "partition",
        "code",
        "class",
        "reason",
        "count",
        "since",
        "tries",
        "tried",
        "due",
    ),
    1,
)


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked row. key: its JSON text, empty where it is unknown. since_ms, tried_ms: 0 where unknown, or never."""

    id: str
    table: str
    key: str
    partition: str
    code: str
    parked_class: str
    reason: str
    count: int
    since_ms: int
    tries: int
    tried_ms: int
    due: bool
    details: str
    events: Sequence[Document]

    @classmethod
    def of(cls, document: Document) -> Parked:
        """From its document."""
        return cls(
            id=str(document["_id"]),
            table=document["table"],
            key=document["key"],
            partition=document.get("partition", ""),
            code=document.get("code", ""),
            parked_class=document.get("class", "data"),
            reason=document.get("reason", ""),
            count=int(document.get("count", 1)),
            since_ms=int(document.get("since", 0)),
            tries=int(document.get("tries", 0)),
            tried_ms=int(document.get("tried", 0)),
            due=bool(document.get("due")),
            details=document.get("details", ""),
            events=document.get("events", ()),
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that waits behind what is parked of its row. id: of the parked row."""

    id: str
    record: Record
    lsn: int


# -- in a transaction --------------------------------------------------------------------------------------------
def those_parked(tx: Transaction, ids: Iterable[str]) -> dict[str, int]:
    """Those of these rows of which something is parked, and how many events."""
    wanted = list(dict.fromkeys(ids))
    if not wanted or not tx.find(PARKED, {}, {"_id": 1}, most=1):  # as a rule there is nothing
        return {}
    found: dict[str, int] = {}
    for start in range(0, len(wanted), _SLICE):
        query = {"_id": {"$in": wanted[start : start + _SLICE]}}
        found.update({d["_id"]: int(d.get("count", 1)) for d in tx.find(PARKED, query, {"count": 1})})
    return found


def park(
    tx: Transaction,
    key_id: str,
    *,
    table: str,
    key: str,
    partition: str,
    trouble: Unappliable,
    now_ms: int,
    record: Record | None = None,
    lsn: int | None = None,
) -> None:
    """Park a row for what was just met: by a record, or by a load, which has none."""
    event: Document = {"at": None, "code": trouble.code}
    if record is not None:
        event = _kept(record, trouble.code, _BYTES)
    tx.update(
        PARKED,
        {"_id": key_id},
        {
            "$setOnInsert": {
                "table": table,
                "key": key,
                "partition": partition,
                "since": DatetimeMS(now_ms),
                **_why(trouble),
            },
            "$push": {"events": {"$each": [event], "$slice": -_EVENTS}},
            "$inc": {"count": Int64(1)},
            **({} if lsn is None else {"$max": {"lsn": Int64(lsn)}}),
        },
        upsert=True,
    )


def park_behind(tx: Transaction, waiting: Sequence[Waiting]) -> None:
    """Put events, in their order, behind what is parked of their rows, which are to be tried again."""
    by_row: dict[str, list[Waiting]] = {}
    for event in waiting:
        by_row.setdefault(event.id, []).append(event)
    writes = []
    for key_id, of in by_row.items():
        kept = [_kept(w.record, "ParkedBehind", _BYTES_BEHIND) for w in of[-_EVENTS:]]
        change = {
            "$push": {"events": {"$each": kept, "$slice": -_EVENTS}},
            "$inc": {"count": Int64(len(of))},
            "$set": {"partition": of[-1].record.home.id, "due": True},
            "$max": {"lsn": Int64(max(w.lsn for w in of))},
        }
        writes.append(UpdateOne({"_id": key_id}, change))
    tx.bulk(PARKED, writes)


def failed(tx: Transaction, key_id: str, count: int, trouble: Unappliable, now_ms: int) -> None:
    """A row was tried again in vain, when so many of its events were parked."""
    tx.update(
        PARKED,
        {"_id": key_id, "count": Int64(count)},
        {"$set": {**_why(trouble), "due": False, "tried": DatetimeMS(now_ms)}, "$inc": {"tries": Int64(1)}},
    )


def settled(tx: Transaction, ids: Iterable[str]) -> int:
    """These rows are as PostgreSQL has them: nothing of them is parked any more. Returns how many were."""
    return tx.delete(PARKED, {"_id": {"$in": list(ids)}})


def void_below(tx: Transaction, table: str, lsn: Lsn) -> int:
    """Rows of a table that a truncate has removed, with all that was parked of them. Returns how many."""
    return tx.delete(PARKED, {"table": table, "lsn": {"$lt": Int64(lsn)}})


def _why(trouble: Unappliable) -> Document:
    return {
        "code": trouble.code,
        "class": trouble.parked_class,
        "reason": trouble.what[:_REASON],
        # as text, for a server may refuse names that another one has told; and as much of it as is of use
        "details": json_util.dumps(trouble.details)[:_BYTES] if trouble.details else "",
    }


def _kept(record: Record, code: str, most: int) -> Document:
    key, value = record.key or b"", record.value
    kept: Document = {
        "at": Int64(record.offset),
        "code": code,
        "key": Binary(key[:_BYTES]),
        "value": None if value is None else Binary(value[:most]),
    }
    if len(key) > _BYTES or (value is not None and len(value) > most):
        kept["cut"] = True
    return kept


# -- outside of transactions -------------------------------------------------------------------------------------
def all_parked(
    db: Database, *, ids: Sequence[str] | None = None, events: bool = True, most: int | None = None
) -> list[Parked]:
    """Every parked row, or those of these ids, the oldest first; at most so many."""
    query = {} if ids is None else {"_id": {"$in": list(ids)}}
    with translated():
        cursor = db[PARKED].find(query, None if events else _BRIEF)
        if most is not None:
            cursor = cursor.sort([("since", 1), ("_id", 1)]).limit(most)
        found = [Parked.of(d) for d in cursor]
    return sorted(found, key=lambda p: (p.since_ms, p.id))


def due(db: Database, partitions: Iterable[str]) -> list[str]:
    """Rows of these partitions of which an event has come since they were last tried."""
    with translated():
        query = {"due": True, "partition": {"$in": list(partitions)}}
        return [str(d["_id"]) for d in db[PARKED].find(query, {"_id": 1})]


def by_class(db: Database) -> dict[str, int]:
    """How many rows are parked, by the class of their trouble."""
    with translated():
        found = db[PARKED].aggregate([{"$group": {"_id": "$class", "rows": {"$sum": 1}}}])
        return {str(d["_id"] or "data"): int(d["rows"]) for d in found}


def by_table(db: Database) -> dict[str, int]:
    """How many rows are parked, by their table (the topic, where a record's key cannot be read)."""
    with translated():
        found = db[PARKED].aggregate([{"$group": {"_id": "$table", "rows": {"$sum": 1}}}])
        return {str(d["_id"]): int(d["rows"]) for d in found}


def oldest(db: Database) -> Parked | None:
    """The row that waits longest."""
    with translated():
        found = list(db[PARKED].find({}, _BRIEF).sort([("since", 1), ("_id", 1)]).limit(1))
    return Parked.of(found[0]) if found else None
