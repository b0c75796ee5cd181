"""What an archive says of itself: which pipeline it is of, the chain of segments of each partition, and its bases.
Pure.

Each is a JSON file whose last field is the digest of all the others, and which says of what version it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any, TypeVar

from connectors.errors import ArchiveDamaged, ArchiveRefused
from connectors.positions import Lsn, Partition

VERSION = 1
#: version -> what makes a file's content of it one of the next version
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
ROOT = "archive.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Identity:
    """The pipeline that an archive is of: the system identifier and name of its database, and its topics' prefix."""

    system: str
    database: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One file: the records from offset `start` up to `next`, less this one. first, last: offsets of its records;
    Kafka's markers of transactions lie between them. odd: records of which something did not fit the schema.
    from_ms, to_ms: timestamps of its records. low, high: their LSNs, None where none has one."""

    start: int
    next: int
    records: int
    first: int
    last: int
    odd: int
    from_ms: int
    to_ms: int
    low: int | None
    high: int | None
    bytes: int
    blake2b: str
    ended: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets that were not kept. why: `expired` (Kafka had removed them), `compacted` (of these it may have removed
    some)."""

    start: int
    end: int
    why: str
    noticed: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A partition's segments: each begins where the one before it ended, or where a gap between them ends. start: what
    was before was removed, or never kept."""

    topic: str
    partition: int
    topic_id: str
    table: str
    start: int
    segments: tuple[Segment, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def home(self) -> Partition:
        """The partition."""
        return Partition(self.topic, self.partition)

    @property
    def next(self) -> int:
        """The offset that is kept next."""
        ends = [
            self.start,
            *(s.next for s in self.segments[-1:]),
            *(g.end for g in self.gaps if g.why == "expired"),
        ]
        return max(ends)

    @property
    def records(self) -> int:
        """Of all segments."""
        return sum(s.records for s in self.segments)

    @property
    def bytes(self) -> int:
        """Of all segments."""
        return sum(s.bytes for s in self.segments)

    def and_(self, segment: Segment) -> Chain:
        """With one more segment."""
        return replace(self, segments=(*self.segments, segment))

    def with_gap(self, gap: Gap) -> Chain:
        """With a gap; one that goes on where the last one of its kind ended makes that longer."""
        last = self.gaps[-1] if self.gaps else None
        if last is not None and last.why == gap.why and last.end >= gap.start:
            longer = replace(last, end=max(last.end, gap.end))
            return replace(self, gaps=(*self.gaps[:-1], longer))
        return replace(self, gaps=(*self.gaps, gap))

    def from_(self, start: int) -> Chain:
        """Without what lies before an offset."""
        return replace(
            self,
            start=max(self.start, start),
            segments=tuple(s for s in self.segments if s.start >= start),
            gaps=tuple(g for g in self.gaps if g.end > start),
        )


@dataclass(frozen=True, slots=True)
class BaseFile:
    """A file of a base's rows. path: below the base's folder."""

    path: str
    rows: int
    bytes: int
    blake2b: str


@dataclass(frozen=True, slots=True)
class BaseColumn:
    """How a column was read: `select` and `wire` are those of the plan's codec for its type."""

    name: str
    sql: str
    select: str
    wire: str


@dataclass(frozen=True, slots=True)
class BaseTable:
    """The rows of one table."""

    columns: tuple[BaseColumn, ...]
    key: tuple[str, ...]
    files: tuple[BaseFile, ...]

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(f.rows for f in self.files)


@dataclass(frozen=True, slots=True)
class Base:
    """The tables as one snapshot showed them. lsn: read before it. positions: every record before them was shown by it,
    so the tail from there brings it to any later state; by `topic/partition`."""

    name: str
    lsn: int
    began: str
    ended: str
    positions: Mapping[str, int]
    tables: Mapping[str, BaseTable]

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(t.rows for t in self.tables.values())

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(f.bytes for t in self.tables.values() for f in t.files)

    @property
    def at(self) -> Lsn:
        """`lsn` as people write it."""
        return Lsn(self.lsn)


# -- as files ----------------------------------------------------------------------------------------------------
def chain_name(home: Partition) -> str:
    """The file with a partition's chain."""
    return f"topics/{home.topic}/{home.partition}/chain.json"


def segment_name(home: Partition, start: int) -> str:
    """The file of the segment that begins at this offset."""
    return f"topics/{home.topic}/{home.partition}/{start:020d}.avro"


def base_name(name: str, path: str = "base.json") -> str:
    """A file of a base."""
    return f"bases/{name}/{path}"


def as_bytes(kind: str, content: Any) -> bytes:
    """The file of an Identity, a Chain or a Base."""
    told = {"version": VERSION, "kind": kind, **asdict(content)}
    return (json.dumps({**told, "digest": _digest(told)}, indent=1) + "\n").encode()


def identity(data: bytes, name: str = ROOT) -> Identity:
    """Raises ArchiveDamaged, ArchiveRefused."""
    return _read(data, "archive", name, lambda content: Identity(**content))


def chain(data: bytes, name: str) -> Chain:
    """Raises ArchiveDamaged, ArchiveRefused."""

    def made(content: dict[str, Any]) -> Chain:
        segments = tuple(Segment(**s) for s in content.pop("segments"))
        gaps = tuple(Gap(**g) for g in content.pop("gaps"))
        return Chain(**content, segments=segments, gaps=gaps)

    return _read(data, "chain", name, made)


def base(data: bytes, name: str) -> Base:
    """Raises ArchiveDamaged, ArchiveRefused."""

    def table(content: dict[str, Any]) -> BaseTable:
        columns = tuple(BaseColumn(**c) for c in content["columns"])
        return BaseTable(columns, tuple(content["key"]), tuple(BaseFile(**f) for f in content["files"]))

    def made(content: dict[str, Any]) -> Base:
        tables = {name: table(of) for name, of in content.pop("tables").items()}
        return Base(**content, tables=tables)

    return _read(data, "base", name, made)


def _read(data: bytes, kind: str, name: str, make: Callable[[dict[str, Any]], T]) -> T:
    try:
        content = json.loads(data)
        version = content["version"]
        if isinstance(version, int) and version > VERSION:
            raise ArchiveRefused(
                f"{name} of the archive is of version {version}, this tandem knows none after {VERSION}",
                remedy="use the tandem that wrote it, or a later one",
            )
        if content.pop("digest") != _digest(content):
            raise ValueError
        while content["version"] < VERSION:
            content = MIGRATIONS[content["version"]](content)
        if content.pop("kind") != kind:
            raise ValueError
        del content["version"]
        return make(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArchiveDamaged(
            f"{name} of the archive is not as it was written",
            remedy="`tandem archive verify` says what is whole; segments can be read by themselves",
        ) from None


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=32).hexdigest()
