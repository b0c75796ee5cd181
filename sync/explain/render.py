"""The story of a document for people. Pure, but for the console that it is printed on."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sync.explain.facts import Facts
from sync.explain.verdict import Verdict, moment

_WIDTH = 120
_ROWS = 12


def render(facts: Facts, told: Verdict, console: Console, mapping: str) -> None:
    """Print it: the verdict first, then what it rests on."""
    color = "green" if told.ok else "red"
    console.print(f"[{color}]{escape(told.what)}[/]", soft_wrap=True)
    for why in told.why:
        console.print(f"  {escape(why)}", soft_wrap=True)
    console.print(_head(facts, mapping))
    if facts.fields:
        console.print(_fields(facts))
    if facts.row is not None:
        values = ", ".join(f"{name}={'NULL' if v is None else _short(v)}" for name, v in facts.row.items())
        console.print(f"[bold]row now[/] {escape(values)}", soft_wrap=True)
    if facts.staged:
        console.print(_staged(facts))
    for one in facts.parked:
        console.print(
            f"[yellow]parked[/] {escape(f'{one.id}: {one.events} events, {one.parked_class}: {one.reason}')}",
            soft_wrap=True,
        )
    if facts.events:
        console.print(_events(facts))
    else:
        console.print("no event of it was found")
    for part in facts.reach:
        console.print(f"  [dim]{escape(part)}[/]", soft_wrap=True)


def _head(facts: Facts, mapping: str) -> Table:
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("document", escape(f"{facts.collection} {facts.id}"))
    key = ", ".join(f"{name}={value}" for name, value in facts.key.items())
    grid.add_row("row", escape(f"{facts.table} {key}" + (f" ({facts.key_from})" if facts.key_from else "")))
    if facts.where is not None:
        truth = (
            "no row" if facts.row is None else {True: "true", False: "false", None: "unknown"}[facts.passes]
        )
        grid.add_row("filter", escape(f"{facts.where}: {truth} ({mapping}:{facts.where_line})"))
    if facts.sync is not None:
        at = facts.sync.get("at")
        where = "a read of PostgreSQL" if at is None else f"offset {at}"
        where += f" of {facts.partition}" if facts.partition and at is not None else ""
        grid.add_row("_sync", escape(f"LSN {facts.sync.get('lsn')}, {where}"))
    if facts.sync_differs is not None:
        place, expected, found = facts.sync_differs
        grid.add_row("", f"[red]{escape(f'{place}: expected {expected}, found {found}')}[/]")
    if facts.expires_ms is not None:
        grid.add_row("TTL", f"expires {moment(facts.expires_ms)}" + (", so by now" if facts.expired else ""))
    if facts.held:
        grid.add_row("held", escape(", ".join(facts.held)))
    for job in facts.jobs:
        grid.add_row("job", escape(job))
    if facts.behind is not None:
        grid.add_row("behind", f"{facts.behind:,} records of its tables are not applied yet")
    return grid


def _fields(facts: Facts) -> Table:
    table = Table("field", "made from", "line", "", "value", pad_edge=False)
    table.columns[4].overflow = "fold"
    compared = facts.document_there and facts.expected_there
    for one in facts.fields:
        line = str(one.line) if one.line else "-"
        if one.differs is None:
            mark = "agrees" if compared else ""
            value = one.found if one.found is not None else one.expected
            table.add_row(escape(one.name), escape(one.origin), line, mark, escape(_short(value or "")))
            continue
        place, expected, found = one.differs
        inside = f"{place}: " if place != one.name else ""
        value = f"{inside}expected {_short(expected)}\n{' ' * len(inside)}found    {_short(found)}"
        table.add_row(escape(one.name), escape(one.origin), line, "[red]differs[/]", escape(value))
    return table


def _staged(facts: Facts) -> Table:
    table = Table("staged for", "row", "LSN", pad_edge=False)
    for one in facts.staged[:_ROWS]:
        table.add_row(escape(one.field), escape(one.key), one.lsn)
    if len(facts.staged) > _ROWS:
        table.add_row(f"… and {len(facts.staged) - _ROWS} more", "", "")
    return table


def _events(facts: Facts) -> Table:
    table = Table("committed", "what", "row", "LSN", "transaction", "partition", "offset", "", pad_edge=False)
    for one in facts.events:
        table.add_row(
            moment(one.committed_ms) if one.committed_ms else "-",
            one.op,
            escape(f"{one.table} {one.key}"),
            one.lsn,
            "-" if one.tx is None else str(one.tx),
            escape(one.partition),
            str(one.offset),
            "" if one.applied else "[yellow]not applied yet[/]",
        )
    return table


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}… ({len(text):,} characters)"
