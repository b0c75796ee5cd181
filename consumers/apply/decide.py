"""What an event asks of its row, and what several events of one row ask together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from connectors.events import ChangeEvent, Operation
from consumers.mapping.plan import Key, TablePlan
from consumers.mapping.values import NotFaithful


@dataclass(frozen=True, slots=True)
class Put:
    """The row has these values. whole: all of them. create: no document of an earlier life may shine through."""

    key: Key
    natives: Mapping[str, Any]
    whole: bool
    create: bool
    at: int | None
    lsn: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The row is deleted."""

    key: Key
    at: int | None
    lsn: int


@dataclass(frozen=True, slots=True)
class Read:
    """The events do not say all: the row is read from PostgreSQL, in the transaction that writes it."""

    key: Key
    create: bool
    at: int | None
    lsn: int


RowOp = Put | Gone | Read


def decide(event: ChangeEvent, table: TablePlan) -> RowOp:
    """What one event asks of its row. Raises DecodeFailed for a value that cannot be read.

    A tombstone asks what the delete before it asks: compaction may have left only the tombstone. An event
    with other columns than the plan was made for, from before or after a change of the table, has the row
    read: as it is now is always right. So has one whose event holds a value that may not be the row's.
    """
    key = table.key_of_event(event.key)
    if event.op in (Operation.DELETE, Operation.TOMBSTONE) or event.row is None:
        return Gone(key, event.offset, event.lsn)
    create = event.op is not Operation.UPDATE
    if event.lsn < table.table.since or event.row.keys() | event.unsent != table.sent:
        return Read(key, create, event.offset, event.lsn)
    missing = event.unsent & table.names
    if table.reread or missing & table.needed or (create and missing):
        return Read(key, create, event.offset, event.lsn)
    try:
        natives = table.from_event(event.row)
    except NotFaithful:
        return Read(key, create, event.offset, event.lsn)
    return Put(key, natives, not missing, create, event.offset, event.lsn)


def fold(ops: Iterable[RowOp]) -> dict[Key, RowOp]:
    """Merge the operations of each row into one that leaves what they would leave one after the other.

    ops: of one table, in topic order. A later value wins; one that was not sent keeps the earlier one. What
    was asked of a row before it was deleted is void; what comes after that in part has to be read.
    """
    rows: dict[Key, RowOp] = {}
    for op in ops:
        before = rows.get(op.key)
        rows[op.key] = op if before is None else merge(before, op)
    return rows


def merge(before: RowOp, op: RowOp) -> RowOp:
    """Two operations of one row as one."""
    if isinstance(op, Gone):
        return op
    if isinstance(op, Read):
        return replace(op, create=op.create or isinstance(before, Gone) or before.create)
    if isinstance(before, Gone):
        return replace(op, create=True) if op.whole else Read(op.key, True, op.at, op.lsn)
    if isinstance(before, Read):
        return (
            replace(op, create=before.create or op.create)
            if op.whole
            else replace(before, at=op.at, lsn=op.lsn)
        )
    natives = op.natives if op.whole else {**before.natives, **op.natives}
    return replace(op, natives=natives, whole=before.whole or op.whole, create=before.create or op.create)


def unknown_columns(event: ChangeEvent, table: TablePlan) -> frozenset[str]:
    """Columns that an event has and the plan does not know: added since, or dropped before it was made."""
    return frozenset() if event.row is None else frozenset((event.row.keys() | event.unsent) - table.known)
