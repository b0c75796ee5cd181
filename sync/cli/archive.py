"""`tandem archive`: what the topics hold, and images of the tables, kept as Avro files."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from connectors.positions import Lsn
from sync.archive.base import BaseReport
from sync.archive.prune import Going
from sync.archive.status import ArchiveStatus
from sync.archive.verify import ArchiveReport, Finding
from sync.cli.options import Config, Json, MappingFile, Metrics, read_settings
from sync.cli.output import log, out, print_json
from sync.cli.progress import StepProgress, stopping

app = typer.Typer(
    name="archive",
    help="The topics kept as Avro files, for a way back: run, base, status, verify, prune.",
    no_args_is_help=True,
)
_SHOWN = 20


@app.command()
def run(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when all is kept that is in the topics now.")
    ] = False,
    accept_gaps: Annotated[
        bool,
        typer.Option(
            "--accept-gaps",
            help="Go on behind events that Kafka has removed; what is missing is written down.",
        ),
    ] = False,
    metrics: Metrics = None,
) -> None:
    """Keep every record of the topics, until stopped. One process for all of them."""
    from sync import archives

    settings = read_settings(config, mapping)
    with stopping() as stop:
        kept = archives.run(
            settings,
            log,
            stop.is_set,
            until_caught_up=until_caught_up,
            accept_gaps=accept_gaps,
            metrics=metrics,
        )
    if json:
        print_json(kept.as_dict())
    else:
        out.print(
            f"kept {kept.records:,} records of {kept.partitions} partitions in {kept.segments:,} segments,"
            f" {_mb(kept.bytes)}; {kept.odd:,} with values that did not fit their schema"
        )


@app.command()
def base(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """Make a base: every mapped table as it is now. What is kept from then on brings it to any later state."""
    from sync import archives

    settings = read_settings(config, mapping)
    with stopping() as stop, StepProgress("base", "rows") as bar:

        def watch(report: BaseReport) -> None:
            bar(sum(report.rows.values()), None, part="base")

        report = archives.base(settings, log, stop.is_set, watch)
    if json:
        print_json(report.as_dict())
        return
    for name in report.swept:
        out.print(f"removed the base {name}, which did not come to its end")
    rows = sum(report.rows.values())
    out.print(
        f"base {report.name}: {rows:,} rows of {len(report.rows)} tables as of {report.lsn}, {_mb(report.bytes)}"
        f" in {report.seconds:.1f} s",
        soft_wrap=True,
    )


@app.command()
def status(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """How far it is, and which bases there are. Exit 1 when events are lost, or partitions are not kept."""
    from sync import archives

    found = archives.status(read_settings(config, mapping))
    if json:
        print_json(found.as_dict())
    else:
        _print_status(found)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def verify(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only that each file is there, of its size.")
    ] = False,
) -> None:
    """Chains without a hole, checksums, counts, and every file readable. Exit 1 when something is not in order."""
    from sync import archives

    settings = read_settings(config, mapping)
    with stopping() as stop, StepProgress("checking", "MB") as bar:
        report = archives.verify(
            settings,
            deep=not quick,
            stop=stop.is_set,
            watch=lambda name, done, of: bar(done / 1e6, of / 1e6, part="checking"),
        )
    if json:
        print_json(report.as_dict())
    else:
        _print_verified(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def prune(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would go.")] = False,
) -> None:
    """Remove what `archive.retention_days` and `archive.retention_bytes` let go; `run` does it by itself."""
    from sync import archives

    going = archives.pruned(read_settings(config, mapping), execute=yes)
    if json:
        print_json({"dry_run": not yes, **going.as_dict()})
    else:
        _print_going(going, done=yes)


def _print_going(going: Going, *, done: bool) -> None:
    segments = sum(len(of) for of in going.segments.values())
    if not segments and not going.bases:
        out.print("nothing may go: what is there is a base and the tail behind it, or no retention is set")
    else:
        verb = "removed" if done else "would remove"
        out.print(f"{verb} {len(going.bases)} bases and {segments:,} segments, {_mb(going.bytes)}")
        if not done:
            out.print("nothing is changed yet: repeat with --yes")
    if going.over:
        out.print(
            f"[yellow]note[/] {_mb(going.over)} more than archive.retention_bytes: make a new base, then more may go",
            soft_wrap=True,
        )


def _print_status(found: ArchiveStatus) -> None:
    if found.seen is None:
        seen = "no archiver has run"
    else:
        seen = f"an archiver was heard of {max(0, int(time.time()) - found.seen):,} s ago"
    behind = "unknown" if found.behind is None else f"{found.behind:,} offsets behind"
    out.print(f"archive {escape(found.place)}: {behind}; {seen}", soft_wrap=True)
    table = Table("partition", "from", "up to", "behind", "records", "segments", "size", "")
    for column in table.columns[1:7]:
        column.justify = "right"
    for one in found.partitions:
        chain = one.chain
        state = f"[red]{one.lost:,} offsets are lost[/]" if one.lost else ""
        if chain.gaps:
            state += f" {len(chain.gaps)} gaps"
        behind = "unknown" if one.behind is None else f"{one.behind:,}"
        cells = [
            f"{chain.start:,}",
            f"{chain.next:,}",
            behind,
            f"{chain.records:,}",
            f"{len(chain.segments):,}",
        ]
        table.add_row(escape(chain.home.id), *cells, _mb(chain.bytes), state)
    out.print(table)
    for home in found.missing:
        out.print(f"[red]not kept yet[/] {escape(home)}: run `tandem archive run`", soft_wrap=True)
    for base in found.bases:
        out.print(
            f"base {base.name}: {base.rows:,} rows as of {Lsn(base.lsn)}, ended {base.ended}, {_mb(base.bytes)}"
        )
    if not found.bases:
        out.print("there is no base: make one with `tandem archive base`")


def _print_verified(report: ArchiveReport) -> None:
    _print_findings("[red]not in order[/]", report.problems)
    _print_findings("[yellow]note[/]", report.notes)
    how = "every byte read" if report.deep else "sizes only"
    out.print(
        f"{report.segments:,} segments of {report.partitions} partitions with {report.records:,} records, "
        f"{report.bases} bases with {report.rows:,} rows, {_mb(report.bytes)}, {how}: "
        + ("[green]in order[/]" if report.ok else f"[red]{len(report.problems)} problems[/]"),
        soft_wrap=True,
    )
    if report.rebuilds:
        out.print(f"every state since the base {report.rebuilds} can be rebuilt")
    else:
        out.print("no state can be rebuilt from it alone: there is no base with the whole tail behind it")


def _print_findings(mark: str, found: list[Finding]) -> None:
    for one in found[:_SHOWN]:
        out.print(f"{mark} {escape(one.file)}: {escape(one.what)}", soft_wrap=True)
    if len(found) > _SHOWN:
        out.print(f"{mark} and {len(found) - _SHOWN:,} more")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
