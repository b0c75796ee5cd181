"""What is known of one document. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldFact:
    """One field. origin: what it is made from, and the line of the mapping that says so; 0 where none does. expected,
    found: as texts; None where there is none. differs: (place, expected, found), the first difference inside of it."""

    name: str
    origin: str
    line: int
    expected: str | None
    found: str | None
    differs: tuple[str, str, str] | None = None


@dataclass(frozen=True, slots=True)
class EventFact:
    """One event of its row, or of a row that it is made from, newest last. applied: it is before the partition's
    position. committed_ms: 0 where unknown, as of a tombstone."""

    table: str
    key: str
    op: str
    lsn: str
    tx: int | None
    committed_ms: int
    partition: str
    offset: int
    applied: bool
    own: bool


@dataclass(frozen=True, slots=True)
class StagedFact:
    """One staged row that the document is made from. field: the array or the object that it is in."""

    field: str
    id: str
    key: str
    lsn: str


@dataclass(frozen=True, slots=True)
class ParkedFact:
    """What is parked of a row. own: of the document's own one."""

    id: str
    parked_class: str
    reason: str
    events: int
    own: bool


@dataclass(slots=True)
class Facts:
    """All of it. key: the row's, as texts by column; empty where no row can have this `_id`. key_from: how it is known.
    row: PostgreSQL's text of it now; None: there is none. passes: whether it passes the filter, None: unknown (its
    columns are NULL), or no row. expected_there: a document is to be there. behind: records of its tables that are not
    applied yet. reach: of which part of the topics events were looked for."""

    collection: str
    id: str
    table: str
    lsn: str
    key: Mapping[str, str] = field(default_factory=dict)
    key_from: str = ""
    row: Mapping[str, str | None] | None = None
    where: str | None = None
    where_line: int = 0
    passes: bool | None = None
    document_there: bool = False
    expected_there: bool = False
    fields: list[FieldFact] = field(default_factory=list)
    sync: Mapping[str, Any] | None = None
    sync_differs: tuple[str, str, str] | None = None
    partition: str | None = None
    events: list[EventFact] = field(default_factory=list)
    reach: list[str] = field(default_factory=list)
    staged: list[StagedFact] = field(default_factory=list)
    parked: list[ParkedFact] = field(default_factory=list)
    parked_unknown: int = 0
    held: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    behind: int | None = None
    expires_ms: int | None = None
    expired: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)
