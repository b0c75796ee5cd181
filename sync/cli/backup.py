"""`tandem backup`: source, target and file trees, made whole or not at all, checked, restored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from connectors.errors import Misused
from sync.backup.create import Made
from sync.backup.manifest import PARTS
from sync.backup.restore import Into, Restored
from sync.backup.store import Listed
from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import out, print_json
from sync.cli.progress import StepProgress, stopping

app = typer.Typer(
    name="backup",
    help="Backups of PostgreSQL, MongoDB and file trees: make, check, restore.",
    no_args_is_help=True,
)
_SHOWN = 10

Only = Annotated[
    list[str] | None, typer.Option("--only", help=f"{', '.join(PARTS)}; may be repeated [default: all].")
]


@app.command()
def create(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Programs, rights and room; nothing is made.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="[default: the time, in UTC].")] = None,
    only: Only = None,
) -> None:
    """Make one. With the name of one that is there and whole, nothing is done."""
    from sync import steps

    settings = read_settings(config, mapping)
    wanted = name or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with stopping() as stop, StepProgress("backup", "MB") as bar:
        report = steps.backup_create(
            settings,
            name=wanted,
            parts=_parts(only),
            rehearse=dry_run,
            stop=stop,
            watch=lambda part, done, of: bar(done / 1e6, of / 1e6, part=part),
        )
    if json:
        print_json(report.as_dict())
    else:
        _print_made(report)


@app.command("list")
def list_(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, and compare the checksums.")] = False,
) -> None:
    """Every backup, and whether it is whole: sizes, or with --deep contents. Exit 1 when one is not."""
    from sync import steps

    settings = read_settings(config, mapping)
    with StepProgress("checking", "MB") as bar:
        found = steps.backup_list(
            settings, deep=deep, tell=lambda name, done, of: bar(done / 1e6, of / 1e6, part=name)
        )
    if json:
        print_json({"path": str(settings.backup.path), "backups": [one.as_dict() for one in found]})
    else:
        _print_listed(found, deep=deep)
    if not all(one.ok for one in found):
        raise typer.Exit(1)


@app.command()
def restore(
    name: Annotated[str, typer.Argument(help="As `list` has it.")],
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    execute: Annotated[
        bool, typer.Option("--execute", help="Do it; without, the same checks and the plan only.")
    ] = False,
    only: Only = None,
    replace: Annotated[bool, typer.Option("--replace", help="What is there goes.")] = False,
    postgres_database: Annotated[
        str | None, typer.Option(help="Into this database of the server, which has to exist.")
    ] = None,
    mongodb_database: Annotated[str | None, typer.Option(help="Into this database of MongoDB.")] = None,
    files_to: Annotated[
        Path | None, typer.Option(help="Into this folder; several trees into 0, 1, … of it.")
    ] = None,
    foreign: Annotated[
        bool, typer.Option("--foreign", help="Also one of another server or database; owners are not kept.")
    ] = False,
) -> None:
    """Bring one back. A dry run unless --execute. Exit 1 when something is in its way, with every reason."""
    from sync import steps

    settings = read_settings(config, mapping)
    into = Into(
        _parts(only, all_=()),
        postgres_database=postgres_database,
        mongodb_database=mongodb_database,
        folder=files_to,
        replace=replace,
        foreign=foreign,
        pg_bin=settings.backup.pg_bin,
    )
    with stopping() as stop, StepProgress("restore", "MB") as bar:
        report = steps.backup_restore(
            settings,
            name,
            into,
            execute=execute,
            stop=stop,
            watch=lambda part, done, of: bar(done / 1e6, of / 1e6, part=part),
        )
    if json:
        print_json(report.as_dict())
    else:
        _print_restored(report)
    if not report.ok:
        raise typer.Exit(1)


def _parts(only: list[str] | None, all_: tuple[str, ...] = PARTS) -> tuple[str, ...]:
    if not only:
        return all_
    if unknown := sorted(set(only) - set(PARTS)):
        raise Misused(f"--only {unknown[0]}: there is no such part", remedy=f"name of: {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in only)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _print_made(report: Made) -> None:
    for left in report.swept:
        out.print(f"removed {left}, which did not come to its end")
    for warning in report.warnings:
        out.print(f"[yellow]note[/] {escape(warning)}", soft_wrap=True)
    parts = ", ".join(report.parts)
    if report.existing:
        out.print(f"{report.path} is there and whole: {parts}, {_mb(report.bytes)}", soft_wrap=True)
    elif report.rehearsed:
        needed = ", ".join(f"{part} at most {_mb(size)}" for part, size in report.needed_bytes.items())
        out.print(f"would make {report.path}: {needed}; {_mb(report.free_bytes)} are free", soft_wrap=True)
    else:
        lsn = f", PostgreSQL as of {report.lsn}" if report.lsn else ""
        kind = f", MongoDB: {report.consistency}" if report.consistency else ""
        out.print(
            f"{report.path}: {parts}, {_mb(report.bytes)} in {report.seconds:.1f} s{lsn}{kind}",
            soft_wrap=True,
        )


def _print_listed(found: list[Listed], *, deep: bool) -> None:
    if not found:
        out.print("there is no backup")
        return
    table = Table("backup", "parts", "size", "ended", "PostgreSQL as of", "MongoDB", "")
    table.columns[2].justify = "right"
    for one in found:
        it = one.manifest
        state = (
            f"[green]{'whole' if deep else 'sizes agree'}[/]"
            if one.ok
            else f"[red]damaged ({len(one.problems)})[/]"
        )
        table.add_row(
            escape(one.name),
            ", ".join(it.parts) if it else "-",
            _mb(it.bytes) if it else "-",
            it.ended if it else "-",
            str(it.source.get("lsn", "-")) if it else "-",
            str(it.target.get("consistency", "-")) if it else "-",
            state,
        )
    out.print(table)
    for one in found:
        for problem in one.problems[:_SHOWN]:
            out.print(f"[red]damaged[/] {escape(one.name)}: {escape(problem)}", soft_wrap=True)


def _print_restored(report: Restored) -> None:
    for note in report.notes:
        out.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    for step in report.steps:
        out.print(escape(f"would restore {step}" if report.rehearsed else f"restored {step}"), soft_wrap=True)
    for refusal in report.refusals:
        out.print(f"[red]refused[/] {escape(refusal)}", soft_wrap=True)
    if report.rehearsed and report.ok:
        out.print("nothing is changed yet: repeat with --execute")
