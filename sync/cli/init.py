"""`tandem init`: parse, call `sync.app`, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sync import settings as settings_reader
from sync.cli.output import err, print_json


def init(
    schema: Annotated[
        list[str] | None,
        typer.Option(help="Only this schema; may be repeated [default: all but the system's]."),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", "--mapping", help="The file to write; never overwritten.")
    ] = Path("mapping.yaml"),
    config: Annotated[
        Path | None, typer.Option("--config", help="Configuration file [default: tandem.yaml, if any].")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the mapping; write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout; logs on stderr.")
    ] = False,
) -> None:
    """Propose a mapping from a PostgreSQL schema, with the reason of each guess. Only POSTGRES_DSN is needed."""
    from sync import app as root

    source = settings_reader.read_known(config).source
    report = root.init(source, schema or (), None if dry_run else output, force=force)
    if json:
        print_json(report.as_dict())
    elif report.path is None:
        sys.stdout.write(report.text)
    for line in report.summary():
        err.print(escape(line), soft_wrap=True)
    if report.path is not None:
        err.print(
            f"written to {escape(str(report.path))}: read it, change it, then `tandem setup`", soft_wrap=True
        )
