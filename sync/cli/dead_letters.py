"""`tandem dead-letters`: the rows that could not be applied."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from connectors.errors import Misused
from consumers.dead_letters import Fate, Outcome
from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import out, print_json
from sync.dead_letters.desk import Listed, Shown, moment

app = typer.Typer(
    name="dead-letters",
    help="Rows that could not be applied and are parked: look at them, try them again, give them up.",
    no_args_is_help=True,
)
#: so much of a value is shown to people; `--json` has all
_WIDTH = 300
_COLORS = {Fate.HEALED: "green", Fate.GONE: "green", Fate.FAILING: "red", Fate.BUSY: "yellow"}

Class = Annotated[
    str | None,
    typer.Option("--class", help="Only rows of this class: data, mapping, validator, unique, decode."),
]


@app.command("list")
def list_(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    collection: Annotated[str | None, typer.Option(help="Only rows that feed this collection.")] = None,
    parked_class: Class = None,
) -> None:
    """Every parked row: its key, why, since when. No values: see `show`."""
    from sync import app as root

    found = root.dead_letters(
        read_settings(config, mapping), collection=collection, parked_class=parked_class
    )
    if json:
        print_json({"parked": [one.as_dict() for one in found]})
        return
    if not found:
        out.print("nothing is parked")
        return
    table = Table("key", "collections", "class", "reason", "events", "since", "partition")
    table.columns[4].justify = "right"
    for one in found:
        it = one.parked
        table.add_row(
            escape(it.id),
            ", ".join(one.collections) or "-",
            it.parked_class,
            escape(it.reason),
            f"{it.count:,}",
            moment(it.since_ms) or "-",
            it.partition or "-",
        )
    out.print(table)
    out.print(
        "mend the row in PostgreSQL, or the mapping (then `tandem setup`, and start the consumers again), then"
        " `tandem dead-letters retry --all`",
        soft_wrap=True,
    )


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="As `list` has it, such as 'public.users [7]'.")],
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
) -> None:
    """All of one parked row: the events, what MongoDB said, the row as it is now, and what a retry would do.

    Shows the values of its columns.
    """
    from sync import app as root

    shown = root.show_dead_letter(read_settings(config, mapping), key)
    if json:
        print_json(shown.as_dict())
    else:
        _print_shown(shown)


@app.command()
def retry(
    keys: Annotated[list[str] | None, typer.Argument(help="As `list` has them.", metavar="KEY...")] = None,
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    all_: Annotated[bool, typer.Option("--all", help="All that is parked.")] = False,
    parked_class: Class = None,
) -> None:
    """Read rows anew and write them as they are; what is parked of them is settled. Exit 1 when one is still parked."""
    from sync import app as root

    if sum((bool(keys), all_, parked_class is not None)) != 1:
        raise Misused("what is to be tried again?", remedy="name keys, or give --all, or --class")
    report = root.retry_dead_letters(
        read_settings(config, mapping),
        keys or None,
        parked_class=parked_class,
        tell=(lambda _: None) if json else _print_outcome,
    )
    if json:
        print_json(report.as_dict())
    else:
        told = [f"{len(report.of(fate))} {fate}" for fate in Fate if report.of(fate)]
        out.print(", ".join(told) if told else "nothing is parked")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def discard(
    keys: Annotated[list[str], typer.Argument(help="As `list` has them.", metavar="KEY...")],
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be lost.")] = False,
) -> None:
    """Give up what is parked of rows. A dry run unless --yes."""
    from sync import app as root

    found = root.discard_dead_letters(read_settings(config, mapping), keys, yes=yes)
    if json:
        print_json(
            {"dry_run": not yes, "discarded" if yes else "would_discard": [one.as_dict() for one in found]}
        )
        return
    for one in found:
        out.print(_loss(one), soft_wrap=True)
    if not yes:
        out.print("nothing is discarded yet: repeat with --yes")


def _loss(one: Listed) -> str:
    it = one.parked
    where = f" in {', '.join(one.collections)}" if one.collections else ""
    return (
        f"[bold]{escape(it.id)}[/]: {it.count:,} events are lost ({escape(it.reason)}). Its document{where} stays as it"
        " was before them, and differs from the row, or is missing, until the row changes again; `tandem verify` names"
        " it. `retry` loses nothing: it reads the row as it is now."
    )


def _print_outcome(outcome: Outcome) -> None:
    reason = f": {escape(outcome.reason)}" if outcome.reason else ""
    color = _COLORS[outcome.fate]
    out.print(f"[{color}]{outcome.fate}[/] {escape(outcome.parked.id)}{reason}", soft_wrap=True)


def _print_shown(shown: Shown) -> None:
    it = shown.listed.parked
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    tried = f"{it.tries} times, last {moment(it.tried_ms)}" if it.tries else "not yet"
    for name, value in (
        ("key", it.id),
        ("collections", ", ".join(shown.listed.collections) or "-"),
        ("class", f"{it.parked_class} ({it.code})"),
        ("reason", it.reason),
        ("details", _short(it.details)),
        ("parked since", moment(it.since_ms) or "unknown"),
        ("tried again", tried),
        ("partition", it.partition or "unknown"),
        (
            "events",
            f"{it.count:,}"
            + (f", the last {len(shown.events)} kept" if it.count > len(shown.events) else ""),
        ),
    ):
        if value:
            facts.add_row(name, escape(value))
    out.print(facts)
    events = Table(
        "offset", "what", "committed", "values, as the event has them", title="events", title_justify="left"
    )
    for event in shown.events:
        values = event.raw if event.row is None else ", ".join(f"{c}={v!r}" for c, v in event.row.items())
        if event.unsent:
            values += f"; not sent: {', '.join(event.unsent)}"
        if event.cut:
            values += " (cut: it was longer)"
        events.add_row(
            "-" if event.at is None else str(event.at),
            f"{event.op} ({event.code})",
            event.committed or "-",
            escape(_short(values)),
        )
    out.print(events)
    if shown.row is None:
        out.print(f"the row now: {escape(shown.note)}", soft_wrap=True)
    else:
        row = Table("column", "value in PostgreSQL now", title="the row", title_justify="left")
        for column, text in shown.row.items():
            row.add_row(escape(column), "[dim]NULL[/]" if text is None else escape(_short(text)))
        out.print(row)
    reason = f": {escape(shown.retry.reason)}" if shown.retry.reason else ""
    color = _COLORS[shown.retry.fate]
    out.print(f"a retry now would end so: [{color}]{shown.retry.fate}[/]{reason}", soft_wrap=True)


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}… ({len(text):,} characters)"
