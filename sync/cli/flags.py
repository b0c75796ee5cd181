"""`tandem flags`: who gets which variant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from connectors.errors import Misused
from sync.cli.options import Config, Json, MappingFile, read_local
from sync.cli.output import out, print_json
from sync.flags.rules import Wanted
from sync.flags.run import Listed

app = typer.Typer(
    name="flags",
    help="Feature flags: in flagd's file, a collection, or behind a service.",
    no_args_is_help=True,
)
_COLORS = {"+": "green", "-": "red", "@": "cyan"}


@app.command("list")
def list_(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """Every flag, its variants, and who gets which. Exit 1 when flagd would not take one."""
    from sync import steps

    settings = read_local(config, mapping)
    with steps.flags_of(settings) as flags:
        found = flags.all()
        where = flags.store.where
    if json:
        print_json({"where": where, "flags": [one.as_dict() for one in found]})
    else:
        _print(found, where, settings.flags.names)
    if any(one.wrong for one in found):
        raise typer.Exit(1)


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="The flag.")],
    variant: Annotated[str, typer.Argument(help="on, off, or the name of a variant.")],
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    percent: Annotated[
        int | None, typer.Option(min=0, max=100, help="Only so many of a hundred keys, always the same ones.")
    ] = None,
    cohort: Annotated[str | None, typer.Option(help="Only a cohort of flags.cohorts.")] = None,
    cohort_file: Annotated[Path | None, typer.Option(help="Only the keys in this file, one a line.")] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make it, as a boolean flag that is off, where there is none.")
    ] = False,
    replace_targeting: Annotated[
        bool, typer.Option("--replace-targeting", help="Also targeting that tandem did not write.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> None:
    """Give a variant to everybody, to a percentage, or to a cohort; read back after it was written.

    For everybody: rules for percentage and cohorts go. A percentage leaves cohorts as they are, and a cohort the rest.
    """
    from sync import steps

    if cohort is not None and cohort_file is not None:
        raise Misused("--cohort and --cohort-file exclude each other", remedy="give one of them")
    settings = read_local(config, mapping)
    chosen = None
    if cohort is not None or cohort_file is not None:
        chosen = steps.cohort_of(settings.flags, cohort, cohort_file)
    wanted = Wanted(variant, percent, chosen, replace_targeting, create, settings.flags.key)
    with steps.flags_of(settings) as flags:
        change = flags.set(name, wanted, rehearse=dry_run)
        where = flags.store.where
    if json:
        print_json({"dry_run": dry_run, "where": where, **change.as_dict()})
        return
    if change.same:
        out.print(f"{escape(name)} is so already, in {escape(where)}", soft_wrap=True)
        return
    for line in change.lines():
        color = _COLORS.get(line[:1])
        out.print(f"[{color}]{escape(line)}[/]" if color else escape(line), soft_wrap=True)
    done = "would be changed" if dry_run else "is changed, and reads back so,"
    out.print(f"{escape(name)} {done} in {escape(where)}", soft_wrap=True)


def _print(found: list[Listed], where: str, turned: tuple[str, ...]) -> None:
    if not found:
        out.print(f"there are no flags in {escape(where)}", soft_wrap=True)
        return
    table = Table("flag", "variants", "who gets what", "cutover")
    for one in found:
        variants = one.definition.get("variants")
        names = ", ".join(map(str, variants)) if isinstance(variants, dict) else "-"
        if one.wrong:
            said = f"[red]{escape(one.wrong)}[/]"
        elif one.rollout is None:
            said = "[yellow]targeting that tandem did not write[/]"
        else:
            said = escape(one.rollout.in_words())
        table.add_row(escape(one.name), escape(names), said, "turns it" if one.name in turned else "")
    out.print(table)
    out.print(f"in {escape(where)}", soft_wrap=True)
