"""`tandem verify --repair`: what differs is made anew from its rows."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from sync.cli.output import log, out, print_json
from sync.settings import Settings


def repair(
    settings: Settings,
    collections: Sequence[str] | None,
    *,
    timeout_s: float,
    execute: bool,
    remove_foreign: bool,
    json: bool,
) -> None:
    """Print what was done, or would be. Exit 1 when something differs."""
    from sync import app as root
    from sync.repair.report import render

    report = root.repair(
        settings,
        collections=collections,
        timeout_s=timeout_s,
        execute=execute,
        remove_foreign=remove_foreign,
        tell=log,
    )
    if json:
        print_json(report.as_dict())
    else:
        render(report, out)
    if not report.ok:
        raise typer.Exit(1)
