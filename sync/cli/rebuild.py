"""`tandem rebuild`: collections made again beside the live ones, compared, and swapped in."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import err, log, out, print_json
from sync.cli.progress import stopping


def rebuild(
    collections: Annotated[
        list[str] | None, typer.Argument(help="Collections to rebuild [default: go on with what was begun].")
    ] = None,
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", help="snapshot: PostgreSQL as it is now; topics; archive [default: snapshot]."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="LSN|TIME",
            help="Into the shadow only: the state as of a commit LSN or a time.",
        ),
    ] = None,
    swap: Annotated[bool, typer.Option("--swap", help="Put it in the place of the live ones.")] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring what the last swap replaced up to date, and swap it back.")
    ] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Throw the rebuild away.")] = False,
    drop_kept: Annotated[
        bool, typer.Option("--drop-kept", help="Drop what the last swap has kept; there is no --undo then.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Whether a swap keeps a copy of what it replaces.")
    ] = True,
    replace_existing: Annotated[
        bool,
        typer.Option("--replace-existing", help="Swap also where documents go that tandem did not write."),
    ] = False,
    within: Annotated[
        float,
        typer.Option("--within", min=1, help="Seconds that a swap may hold the consumers up to catch up."),
    ] = 60,
) -> None:
    """Make collections again beside the live ones, from now or from the past; verify, compare, swap. Resumable."""
    from sync.rebuild.states import Asked, check
    from sync.shadow import Rebuild

    asked = Asked(
        collections=tuple(collections or ()),
        source=source,
        until=until,
        swap=swap,
        undo=undo,
        discard=discard,
        drop_kept=drop_kept,
        keep=keep,
        replace_existing=replace_existing,
    )
    check(asked)
    with stopping() as stop:
        report = Rebuild(read_settings(config, mapping), asked, log, stop=stop.is_set, within_s=within).run()
    if json:
        print_json(report.as_dict())
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


def _print(report: object) -> None:
    """What became of it, what differs, and what can be done next."""
    from sync.made import RebuildReport

    assert isinstance(report, RebuildReport)
    if report.discarded:
        out.print(f"discarded: {report.id}")
        return
    for name, of in report.differences.items():
        same = "no difference" if of.same else (
            f"{of.differing:,} documents differ, {of.only_live:,} are only live, {of.only_shadow:,} only in the shadow"
        )  # fmt: skip
        out.print(
            f"[bold]{escape(name)}[/]: live {of.live:,}, shadow {of.shadow:,} documents; {same}",
            soft_wrap=True,
        )
        most = sorted(of.fields.items(), key=lambda pair: (-pair[1], pair[0]))[:10]
        if most:
            out.print(
                "  fields: " + escape(", ".join(f"{field} ({n:,})" for field, n in most)), soft_wrap=True
            )
        for sample in of.samples:
            out.print(
                f"  {sample['_id']}: {escape(', '.join(sample['fields']).replace('$', ''))}", soft_wrap=True
            )
        if of.unchecked:
            out.print(f"  {of.unchecked:,} more differed at the first look")
        if of.foreign:
            out.print(f"  {of.foreign:,} live documents that tandem did not write")
    if report.parked:
        err.print(f"[red]parked in the shadow[/]: {escape(', '.join(report.parked[:5]))}", soft_wrap=True)
    if report.verified is not None:
        verdict = "agrees" if report.verified.ok else f"differs: {report.verified.total:,}"
        out.print(f"the shadow against PostgreSQL: {verdict}")
    if report.swapped:
        what = "taken back" if report.undone else "swapped in"
        out.print(f"{what}: {', '.join(report.collections)}; the consumers waited {report.held_s:.1f} s")
        if report.kept:
            out.print(f"kept as {report.kept}*: `tandem rebuild --undo` swaps back, --drop-kept drops it")
        return
    if report.until:
        out.print(f"as of {report.until}, in {report.prefix}*; `tandem rebuild --discard` drops it")
        return
    out.print(
        f"ready in {report.prefix}*: `tandem rebuild --swap` puts it in the place of the live ones,"
        " `tandem rebuild --discard` throws it away",
        soft_wrap=True,
    )
