"""The report for people."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sync.preflight.findings import Finding, Level
from sync.preflight.run import PreflightReport, rows_read, scanned

_MARKS = {
    Level.OK: "[green]ok[/]",
    Level.NOTE: "[dim]note[/]",
    Level.WARNING: "[yellow]warning[/]",
    Level.ERROR: "[red]error[/]",
    Level.UNKNOWN: "[magenta]unknown[/]",
}
_ORDER = (Level.ERROR, Level.WARNING, Level.UNKNOWN, Level.NOTE, Level.OK)
#: rows/s that a load writes, at least, on a small machine: docs/performance.md
_LOAD_ROWS_PER_S = 2_000


def render(report: PreflightReport, out: Console) -> None:
    """Findings with what is worst first, what was read, and the verdict."""
    table = Table("", "check", "subject", "what", box=None, pad_edge=False)
    for finding in sorted(_gathered(report.findings), key=lambda f: _ORDER.index(f.level)):
        table.add_row(_MARKS[finding.level], finding.check, escape(finding.subject), _told(finding))
    out.print(table)
    if report.scan is not None:
        _data(report, out)
    counts = report.counts()
    verdict = "[green]nothing stands in the way[/]" if report.ok else "[red]not in order[/]"
    out.print(
        f"{verdict}: {counts['error']} errors, {counts['warning']} warnings, {counts['unknown']} not looked at,"
        f" {counts['note']} notes; {report.seconds:.1f} s"
    )


def _gathered(found: list[Finding]) -> list[Finding]:
    """Notes of one kind in one line."""
    notes: dict[str, list[Finding]] = {}
    for finding in found:
        if finding.level is Level.NOTE:
            notes.setdefault(finding.kind, []).append(finding)
    single = [f for f in found if f.level is not Level.NOTE or len(notes[f.kind]) == 1]
    for kind, of in notes.items():
        if len(of) > 1:
            places = ", ".join(
                f"{f.subject} ({', '.join(map(str, columns))})" if isinstance(columns, list) else f.subject
                for f in of
                for columns in [f.facts.get("columns")]
            )
            what = f"{of[0].what.partition(': ')[2] or of[0].what}: {places}"
            single.append(Finding(Level.NOTE, of[0].check, kind, f"{len(of)} tables", what, of[0].remedy))
    return single


def _told(finding: Finding) -> str:
    lines = [escape(finding.what)]
    for example in finding.examples:
        reason = f": {example.reason}" if example.reason else ""
        value = f" = {example.value}" if example.value is not None else ""
        lines.append(f"[dim]key {escape('/'.join(example.key) + reason + value)}[/]")
    if len(finding.examples) < finding.count and finding.examples:
        lines.append(f"[dim]and {finding.count - len(finding.examples):,} more[/]")
    if finding.remedy and finding.level is not Level.OK:
        lines.append(f"[bold]what to do[/]: {escape(finding.remedy)}")
    return "\n".join(lines)


def _data(report: PreflightReport, out: Console) -> None:
    assert report.scan is not None
    scan = report.scan
    table = Table("collection", "rows read", "of its arrays", "documents", "bytes each (99 %)", "largest")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, tally in scan.tallies.items():
        sizes = tally.sizes.as_dict()
        part = "" if scan.reading[name].whole else " (sample)"
        table.add_row(
            name,
            f"{tally.rows:,}{part}",
            f"{tally.child_rows:,}",
            f"{tally.documents:,}",
            f"{sizes['p99']:,}",
            f"{sizes['max']:,}",
        )
    out.print(table)
    whole = scanned(scan)
    rows, size = int(str(whole["estimated_rows"])), int(str(whole["estimated_bytes"]))
    speed = rows_read(scan) / max(scan.seconds, 0.001)
    seed = f", seed {scan.extent.seed}" if scan.extent.percent is not None else ""
    out.print(
        f"read {rows_read(scan):,} rows in {scan.seconds:.1f} s ({speed:,.0f} rows/s), {whole['mode']}{seed}, as of"
        f" {scan.lsn}"
    )
    out.print(
        f"the load: about {rows:,} rows, {size / 1e6:,.0f} MB of BSON before compression, at"
        f" {_LOAD_ROWS_PER_S:,} rows/s about {_span(rows / _LOAD_ROWS_PER_S)}",
    )


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3600:.1f} h"
