"""What verification found: counts, samples, one renderer for people and one form for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from connectors.positions import Lsn
from sync.verify.chunks import Seen, hexed, plus


class Kind(StrEnum):
    """How a document and its row disagree."""

    MISSING = "missing"  # a row, and no document
    EXTRA = "extra"  # a document, and no row that passes the filter
    DIFFERS = "differs"  # both, and a field that is not as the row says
    IN_FLUX = "in flux"  # the row changed between all looks at it


@dataclass(frozen=True)
class Difference:
    """One disagreement. key: as the parked events write it; None where the document's `_id` tells no key.

    field: None for a whole document. cause: the likely one, where it can be told.
    """

    kind: Kind
    collection: str
    id: str
    key: str | None
    field: str | None = None
    expected: str | None = None
    found: str | None = None
    cause: str | None = None


@dataclass
class Counts:
    """One collection. rows: that pass the filter. documents: in the collection. compared: both were there.

    expiring: at the end of a TTL, so free to be there or not. differing: documents that disagree. total: rows of the
    table, about, and covered: those of them that were gone through, filter not applied. source, target: the hashes of
    its rows and of their documents at the first look.
    """

    table: str
    rows: int = 0
    documents: int = 0
    compared: int = 0
    fields: int = 0
    expiring: int = 0
    differing: int = 0
    total: int = 0
    covered: int = 0
    chunks: int = 0
    source: int = 0
    target: int = 0

    def add(self, seen: Seen) -> None:
        """One more chunk."""
        self.chunks += 1
        self.covered += seen.covered
        self.rows += seen.rows
        self.compared += seen.compared
        self.fields += seen.fields
        self.expiring += seen.expiring
        self.source, self.target = plus(self.source, seen.source), plus(self.target, seen.target)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"source": hexed(self.source), "target": hexed(self.target)}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Counts:
        """From that."""
        return cls(**{**kept, "source": int(kept["source"], 16), "target": int(kept["target"], 16)})


@dataclass
class Cost:
    """What a verification took of the machine and of the servers. postgresql_s, mongodb_s: the time that was waited
    for each, of all workers together. blocks_*: of 8 kB, had by the sessions of this run from PostgreSQL's cache, or
    from the system; None where it does not tell. peak_mb: of this process."""

    workers: int = 0
    rows_per_s: float = 0.0
    documents: int = 0
    cpu_s: float = 0.0
    postgresql_s: float = 0.0
    mongodb_s: float = 0.0
    blocks_hit: int | None = None
    blocks_read: int | None = None
    peak_mb: float = 0.0


#: of the chunks so many are told one by one
CHUNKS_TOLD = 1_000


@dataclass
class VerifyReport:
    """Every document against its row. lsn: what PostgreSQL had written when it began; until: when it ended.

    waited: what differed was looked at again when the consumers had applied everything, so it is confirmed.
    not_waited: why not. differences: the first ones of `total`. unchecked: differed once, and were too many
    to be looked at again. wanted: what the target had to hold before the walk began, where that was asked. sample: so
    many percent of the rows were compared, drawn by the seed; the `_id`s were, whatever the sample. resumed: chunks
    that an earlier run, which ended too early, had done. chunks: the first of them, with their hashes.
    """

    lsn: Lsn
    at: datetime
    until: Lsn
    took_s: float = 0.0
    waited: bool = False
    not_waited: str | None = None
    collections: dict[str, Counts] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    total: int = 0
    in_flux: int = 0
    rounds: int = 0
    unchecked: int = 0
    wanted: Lsn | None = None
    sample: float | None = None
    seed: int | None = None
    run: str = ""
    resumed: int = 0
    scheduled: bool = False
    #: collections of the mapping that were not looked at
    left_out: list[str] = field(default_factory=list)
    mapping: str = ""
    version: str = ""
    chunks: list[dict[str, Any]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    #: why the report could not be kept in the target; None where it was, or was not to be
    not_kept: str | None = None

    @classmethod
    def begun(cls) -> VerifyReport:
        """One that is to be filled."""
        return cls(lsn=Lsn(0), at=datetime.now(UTC), until=Lsn(0))

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> VerifyReport:
        """What was kept of one, in the form of `--json`."""
        known = {name: kept[name] for name in cls.__dataclass_fields__ if name in kept}
        lsns = {name: Lsn.parse(known[name]) for name in ("lsn", "until", "wanted") if known.get(name)}
        return cls(
            **known
            | lsns
            | {
                "at": datetime.fromisoformat(known["at"]),
                "collections": {name: Counts.of(one) for name, one in known["collections"].items()},
                "differences": [Difference(**one) for one in known["differences"]],
                "cost": Cost(**known["cost"]),
            }
        )

    def add(self, seen: Seen) -> None:
        """One more chunk."""
        self.collections[seen.chunk.collection].add(seen)
        if len(self.chunks) < CHUNKS_TOLD:
            self.chunks.append(
                {
                    "collection": seen.chunk.collection,
                    "number": seen.chunk.number,
                    "low": seen.chunk.keys.low,
                    "lsn": str(seen.lsn),
                    "rows": seen.rows,
                    "source": hexed(seen.source),
                    "target": hexed(seen.target),
                }
            )

    @property
    def coverage(self) -> float:
        """Which part of the whole was compared, from 0 to 1: of the collections, times the sample."""
        known = len(self.collections) + len(self.left_out)
        return (1.0 if self.sample is None else self.sample / 100) * len(self.collections) / max(known, 1)

    @property
    def ok(self) -> bool:
        """True when every field of every document was seen to say what PostgreSQL says."""
        return not (self.total or self.unchecked)

    def as_dict(self) -> dict[str, Any]:
        """The report for `--json`."""
        return asdict(self) | {
            "ok": self.ok,
            "coverage": round(self.coverage, 6),
            "lsn": str(self.lsn),
            "until": str(self.until),
            "at": self.at.isoformat(),
            "took_s": round(self.took_s, 3),
            "wanted": None if self.wanted is None else str(self.wanted),
            "collections": {name: counts.as_dict() for name, counts in self.collections.items()},
        }


def render(report: VerifyReport, console: Console) -> None:
    """Print a report for people."""
    grid = Grid("collection", "table", *("rows", "documents", "compared", "fields", "expiring", "differing"))
    for column in grid.columns[2:]:
        column.justify = "right"
    for name, counts in report.collections.items():
        numbers = (
            counts.rows,
            counts.documents,
            counts.compared,
            counts.fields,
            counts.expiring,
            counts.differing,
        )
        grid.add_row(escape(name), escape(counts.table), *(f"{number:,}" for number in numbers))
    console.print(grid)
    for difference in report.differences:
        console.print(_line(difference), soft_wrap=True, highlight=False)
    if report.total > len(report.differences):
        console.print(f"… and {report.total - len(report.differences):,} more")
    if report.unchecked:
        console.print(f"{report.unchecked:,} more differed at first and were too many to be looked at again")
    for note in _notes(report):
        console.print(escape(note), soft_wrap=True, highlight=False)
    if report.cost.workers:
        console.print(f"[dim]{_cost(report.cost)}[/dim]", soft_wrap=True, highlight=False)
    console.print(_verdict(report), soft_wrap=True, highlight=False)


def _line(difference: Difference) -> str:
    place = f"{difference.collection} {difference.id}" + (f" key {difference.key}" if difference.key else "")
    line = f"[red]{difference.kind}[/red] {escape(place)}"
    if difference.field is not None:
        line += escape(f" {difference.field}: expected {difference.expected}, found {difference.found}")
    return line + (escape(f" ({difference.cause})") if difference.cause else "")


def _cost(cost: Cost) -> str:
    blocks = ""
    if cost.blocks_hit is not None and cost.blocks_read is not None:
        blocks = f" ({cost.blocks_hit * 8 / 1024:,.0f} MB of its cache, {cost.blocks_read * 8 / 1024:,.0f} MB read)"
    return (
        f"{cost.workers} workers, {cost.rows_per_s:,.0f} rows/s; {cost.cpu_s:.1f} s of CPU here, waited"
        f" {cost.postgresql_s:.1f} s for PostgreSQL{blocks} and {cost.mongodb_s:.1f} s for MongoDB;"
        f" at most {cost.peak_mb:,.0f} MB of memory"
    )


def _notes(report: VerifyReport) -> Iterator[str]:
    """What a reader has to know of the verdict."""
    if report.sample is not None:
        yield f"a sample of {report.sample:g} % of the rows, --seed {report.seed}; the `_id`s of all"
    if report.left_out:
        yield f"not looked at: {', '.join(report.left_out)}"
    if report.wanted is not None:
        yield f"everything up to {report.wanted} was there when it began"
    if report.resumed:
        yield f"{report.resumed:,} chunks were compared by an earlier run, which ended too early"
    if report.not_waited is not None:
        yield f"not waited for the consumers: {report.not_waited}"
    if report.not_kept is not None:
        yield f"the report could not be kept in the target: {report.not_kept}"


def _verdict(report: VerifyReport) -> str:
    span = f"at {report.lsn}" if report.lsn == report.until else f"from {report.lsn} to {report.until}"
    fields = sum(counts.fields for counts in report.collections.values())
    seen = f"{fields:,} fields compared, {span}, {report.took_s:.1f} s"
    if report.ok:
        return f"[green]agrees[/green]: {seen}"
    reason = "" if report.waited else "; seen once, not waited"
    flux = f", {report.in_flux:,} of them in flux" if report.in_flux else ""
    found = f"[red]differs[/red]: {report.total:,} differences{flux}; {seen}"
    return found + reason
