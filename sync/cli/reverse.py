"""`tandem reverse`: what is written to MongoDB reaches PostgreSQL."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import log, out, print_json
from sync.reverse.report import ReverseStatus

app = typer.Typer(
    help="MongoDB's changes into PostgreSQL, while the application writes to MongoDB.", no_args_is_help=True
)


@app.command()
def run(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    until_drained: Annotated[
        bool, typer.Option("--until-drained", help="End when everything is applied that is written now.")
    ] = False,
) -> None:
    """Follow MongoDB's changes until stopped. Before a cutover it waits until that turns it on."""
    from sync import back

    asked = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: asked.set())
    tally = back.run(read_settings(config, mapping), log, asked.is_set, until_drained=until_drained)
    told = {"events": tally.events, "own_events": tally.own, "rows": tally.rows, "parked": tally.parked}
    if json:
        print_json(told)
    else:
        out.print(
            f"{tally.events:,} events, {tally.rows:,} rows written, {tally.parked:,} documents parked",
            soft_wrap=True,
        )


@app.command()
def status(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """How far behind it is, and what could not be written. Exit 1 when it is not in order."""
    from sync import back

    report = back.status(read_settings(config, mapping))
    if json:
        print_json(report.as_dict())
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def check(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """What the mapping cannot bring back, by its lines. Exit 1 when documents may be parked for it."""
    from sync import back

    settings = read_settings(config, mapping)
    found = back.check(settings)
    if json:
        print_json({"ok": not any(f.lost for f in found), "findings": [f.as_dict() for f in found]})
    else:
        for finding in found:
            mark = "[red]parks[/]" if finding.lost else "[yellow]note[/]"
            out.print(
                f"{mark} {escape(str(settings.mapping))}:{finding.line}: {escape(finding.what)}",
                soft_wrap=True,
            )
        if not found:
            out.print("everything that the mapping covers comes back")
    if any(f.lost for f in found):
        raise typer.Exit(1)


@app.command()
def retry(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """Let what is parked be tried again at once, by the `tandem reverse run` that is at work."""
    from sync import back

    number = back.retry(read_settings(config, mapping))
    if json:
        print_json({"due": number})
    else:
        out.print(f"{number:,} documents are tried again; see `tandem reverse status`")


@app.command()
def resync(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what differs.")] = False,
) -> None:
    """Compare all documents with their rows and write what differs: for when MongoDB's history does not reach back.
    Exit 1 when something differs (--dry-run), or could not be written."""
    from sync import back

    found = back.resync(read_settings(config, mapping), log, dry_run=dry_run)
    if json:
        print_json({"dry_run": dry_run, **found.as_dict()})
    else:
        verb = "would be written" if dry_run else "written"
        out.print(
            f"{found.documents:,} documents compared, {found.rows:,} rows {verb}, {found.parked:,} parked"
        )
        for name in found.differing:
            out.print(f"  {escape(name)}", soft_wrap=True)
    if found.parked or (dry_run and found.differing):
        raise typer.Exit(1)


def _print(report: ReverseStatus) -> None:
    at = report.standing
    out.print("[green]in order[/]" if report.ok else "[red]not in order[/]")
    for why in report.why():
        out.print(f"  {escape(why)}", soft_wrap=True)
    if at is None:
        return
    lag = "unknown" if report.lag_s is None else f"{report.lag_s:,.1f} s"
    behind = "unknown" if report.behind is None else f"{report.behind:,}{' or more' if report.more else ''}"
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("behind", f"{lag}, {behind} events"),
        ("applied", f"{at.events:,} events since {at.began:%Y-%m-%d %H:%M:%S}Z"),
        ("parked", f"{report.counts.get('parked', 0):,}"),
        ("kept aside", f"{report.counts.get('aside', 0):,} documents with fields that have no column"),
        ("new", f"{report.counts.get('new_documents', 0):,} documents of the application's own"),
        ("deleted rows", f"{report.counts.get('deleted_rows', 0):,}"),
    ):
        table.add_row(name, value)
    out.print(table)
    for p in report.parked:
        out.print(
            f"  {escape(p.collection)} {escape(p.id)}: {escape(p.reason)}  [dim]{p.tries} tries[/]",
            soft_wrap=True,
        )
