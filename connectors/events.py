"""What comes in from the stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from connectors.positions import Partition


class Operation(StrEnum):
    """Debezium's `op` (Debezium documentation, PostgreSQL connector, "Data change events")."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    TRUNCATE = "t"
    READ = "r"
    TOMBSTONE = "-"


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record, not decoded. home and offset are where it lies."""

    home: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A record with all that Kafka has of it. timestamp_type: 0: when it was sent, 1: when the broker had it."""

    record: Record
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_type: int = 0


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """One decoded change.

    table: `schema.table`. key: the primary key's columns, empty for a truncate. row: the columns that were
    sent, as Debezium's JSON has them; a column that was not sent is absent from it and named in `unsent`.
    None for a delete, a truncate and a tombstone. lsn: the row's own WAL position. tx: 32-bit transaction
    id, None where Debezium gives none. commit_ms: when the transaction was committed.
    """

    home: Partition
    offset: int
    table: str
    op: Operation
    key: Mapping[str, Any]
    row: Mapping[str, Any] | None
    unsent: frozenset[str]
    lsn: int
    tx: int | None
    commit_ms: int
