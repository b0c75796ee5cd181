"""`tandem demo`: run it, then tell what it showed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sync.cli.dev import Home
from sync.cli.output import err, out, print_json
from sync.dev.demo import Demo, DemoReport
from sync.dev.progress import shown
from sync.dev.stack import Stack
from sync.verify.report import render


def demo(
    home: Home,
    users: Annotated[
        int, typer.Option(min=40, help="Users in the source; everything else follows from them.")
    ] = 2_000,
    changes: Annotated[
        int, typer.Option(min=1, help="Row changes to be written meanwhile, at least.")
    ] = 8_000,
    rate: Annotated[float, typer.Option(min=1, help="Row changes a second.")] = 400,
    consumers: Annotated[int, typer.Option(min=1, max=16, help="Consumer processes.")] = 2,
    seed: Annotated[
        int | None, typer.Option(help="Of the writer; printed, so that a run can be repeated.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up afterwards.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout; the rest on stderr.")
    ] = False,
) -> None:
    """The ACP case from nothing to verified, with live writes, on the embedded stack. Exit 0 only if all agree."""
    stack = Stack(home)
    was_up = stack.status().up
    try:
        with shown() as progress:
            stack.up(progress)
        told = Demo(
            stack, users=users, changes=changes, rate=rate, seed=seed, consumers=consumers, tell=_tell
        ).run(_Quiet())
        if json:
            print_json(_as_dict(told))
        else:
            _print(told, home if keep or was_up else None)
    finally:
        if not keep and not was_up:
            with shown() as progress:
                stack.down(progress=progress)
    if not told.ok:
        raise typer.Exit(1)


class _Quiet:
    def doing(self, part: str, what: str) -> None: ...

    def done(self, part: str, what: str) -> None: ...


def _tell(what: str) -> None:
    err.print(f"  [cyan]•[/] {what}", soft_wrap=True)


def _as_dict(report: DemoReport) -> dict[str, object]:
    return {
        "ok": report.ok,
        "seed": report.seed,
        "row_changes": report.written.total if report.written else 0,
        "transactions": report.written.transactions if report.written else 0,
        "snapshot": report.loaded.as_dict() if report.loaded else None,
        "token": report.token.as_dict() if report.token else None,
        "verify": report.verified.as_dict() if report.verified else None,
        "seconds": {name: round(seconds, 1) for name, seconds in report.seconds.items()},
    }


def _print(report: DemoReport, home: Path | None) -> None:
    """What was written, loaded, applied, and whether it agrees."""
    assert report.written
    assert report.loaded
    assert report.verified
    assert report.token
    table = Table(box=None, show_header=False, pad_edge=False)
    loaded = sum(of.rows + of.staged for of in report.loaded.collections.values())
    written = report.written
    rate = written.total / max(report.seconds["writing"], 0.1)
    table.add_row("written", f"{written.total:,} row changes in {written.transactions:,} transactions, {rate:,.0f}/s, "
                  f"of {len(written.changes)} kinds, while all of this went on")  # fmt: skip
    kind = "the slot's own snapshot" if report.loaded.exact else "a later snapshot"
    table.add_row(
        "snapshot", f"{loaded:,} rows in {report.loaded.seconds:.1f} s, under {kind} at {report.loaded.lsn}"
    )
    table.add_row("stream", f"{report.consumers} consumers; at most {report.most_behind:,} records behind")
    table.add_row(
        "caught up", f"{report.seconds['catch up']:.1f} s after the last write, as of {report.token.lsn}"
    )
    phases = ", ".join(
        f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items() if name != "writing"
    )
    table.add_row("time", phases)
    table.add_row("repeat", f"tandem demo --seed {report.seed}")
    out.print()
    render(report.verified, out)
    verdict = Text("PostgreSQL and MongoDB agree, field by field", "bold green")
    if not report.ok:
        verdict = Text("PostgreSQL and MongoDB do not agree", "bold red")
    out.print(Panel(table, title=verdict, expand=False, border_style="green" if report.ok else "red"))
    if home is not None:
        out.print(
            f"the stack is still up: `tandem dev status --home {home}`, and `tandem dev down --home {home}`"
        )
