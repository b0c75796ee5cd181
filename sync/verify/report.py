"""What verification found: counts, samples, one renderer for people and one form for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from connectors.positions import Lsn


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

    expiring: at the end of a TTL, so free to be there or not. differing: documents that disagree.
    """

    table: str
    rows: int = 0
    documents: int = 0
    compared: int = 0
    fields: int = 0
    expiring: int = 0
    differing: int = 0


@dataclass
class VerifyReport:
    """Every document against its row. lsn: what PostgreSQL had written when it began; until: when it ended.

    waited: what differed was looked at again when the consumers had applied everything, so it is confirmed.
    not_waited: why not. differences: the first ones of `total`. unchecked: differed once, and were too many
    to be looked at again.
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

    @property
    def ok(self) -> bool:
        """True when every field of every document was seen to say what PostgreSQL says."""
        return not (self.total or self.unchecked)

    def as_dict(self) -> dict[str, Any]:
        """The report for `--json`."""
        return asdict(self) | {
            "ok": self.ok,
            "lsn": str(self.lsn),
            "until": str(self.until),
            "at": self.at.isoformat(),
            "took_s": round(self.took_s, 3),
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
    console.print(_verdict(report), soft_wrap=True, highlight=False)


def _line(difference: Difference) -> str:
    place = f"{difference.collection} {difference.id}" + (f" key {difference.key}" if difference.key else "")
    line = f"[red]{difference.kind}[/red] {escape(place)}"
    if difference.field is not None:
        line += escape(f" {difference.field}: expected {difference.expected}, found {difference.found}")
    return line + (escape(f" ({difference.cause})") if difference.cause else "")


def _verdict(report: VerifyReport) -> str:
    span = f"at {report.lsn}" if report.lsn == report.until else f"from {report.lsn} to {report.until}"
    fields = sum(counts.fields for counts in report.collections.values())
    seen = f"{fields:,} fields compared, {span}, {report.took_s:.1f} s"
    if report.ok:
        return f"[green]agrees[/green]: {seen}"
    reason = "" if report.waited else f"; seen once, not waited{': ' if report.not_waited else ''}"
    flux = f", {report.in_flux:,} of them in flux" if report.in_flux else ""
    found = f"[red]differs[/red]: {report.total:,} differences{flux}; {seen}"
    return found + reason + escape(report.not_waited or "")
