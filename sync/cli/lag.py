"""`tandem lag`: how far behind, is it getting better, and until when the slot has room."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sync.cli.options import Config, Json, MappingFile, read_settings
from sync.cli.output import out, print_json
from sync.lag.judge import CollectionLag, LagReport

_STATES = {
    "caught_up": ("caught up", "green"),
    "catching_up": ("catching up", "yellow"),
    "falling_behind": ("falling behind", "red"),
    "stalled": ("stalled: nothing is applied", "red"),
    "unknown": ("unknown", "yellow"),
}


#: a slot that fills later than this is not worth a word
_SOON_S = 60 * 86_400.0


def lag(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Once a second, until Ctrl-C; with --json a document a line.")
    ] = False,
) -> None:
    """How far behind, whether it gets better, and until when the slot has room. Exit 1 when a part is unknown."""
    from sync import app as root

    settings = read_settings(config, mapping)
    if not watch:
        report = root.lag(settings)
        if json:
            print_json(report.as_dict())
        else:
            out.print(drawn(report))
        if not report.known:
            raise typer.Exit(1)
        return
    reports = root.watch_lag(settings)
    if json:
        for report in reports:
            print_json(report.as_dict())
    elif out.is_terminal:
        with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
            for report in reports:
                live.update(drawn(report), refresh=True)
    else:
        for report in reports:
            out.print(line(report), soft_wrap=True)


def line(report: LagReport) -> str:
    """One line, for where there is no terminal."""
    why = "".join(f"; {name} unknown: {reason}" for name, reason in report.unknown.items())
    return (
        f"{report.at}  {_state(report).plain}: {_bytes(report.wal_bytes)} of WAL not yet in Kafka,"
        f" {_count(report.records)} records not yet applied, {_seconds(report.seconds)} behind,"
        f" {_count(report.parked)} parked; in {_rate(report.records_in)}, out {_rate(report.records_out)}{why}"
    )


def drawn(report: LagReport) -> RenderableType:
    """The four numbers, the slot, the collections."""
    numbers = Table.grid(padding=(0, 2))
    numbers.add_column()
    numbers.add_column(justify="right")
    numbers.add_column()
    unknown = report.unknown
    written = f"written {_bytes_rate(report.wal_bytes_in)}"
    passed = f"in {_rate(report.records_in)}, out {_rate(report.records_out)}"
    listed = "see `tandem dead-letters list`" if report.parked else ""
    for key, name, shown, more in (
        ("wal_bytes", "WAL not yet in Kafka", _bytes(report.wal_bytes), written),
        ("records", "records not yet applied", _count(report.records), passed),
        ("seconds", "seconds behind", _seconds(report.seconds), ""),
        ("parked", "rows parked", _count(report.parked), listed),
    ):
        if key in unknown:
            numbers.add_row(name, Text("unknown", "yellow"), Text(unknown[key], "yellow"))
        else:
            numbers.add_row(name, Text(shown, "bold"), Text(more, "dim"))
    return Group(_state(report), numbers, _slot(report), _table(report.collections))


def _state(report: LagReport) -> Text:
    words, colour = _STATES[report.state]
    if report.state == "catching_up" and report.catch_up_s is not None:
        words += f", about {_duration(report.catch_up_s)} left"
    return Text(words, f"bold {colour}")


def _slot(report: LagReport) -> Text:
    slot = report.slot
    if slot is None:
        return Text("slot: unknown", "yellow")
    words = f"slot: {'streams' if slot.active else 'nobody streams from it'}, {_bytes(slot.retained_bytes)} of WAL"
    words += f" retained, {_bytes_rate(slot.growth, signed=True)}"
    if slot.wal_status not in ("reserved", ""):
        words += f", {slot.wal_status}"
    if slot.limit is None or slot.left_bytes is None:
        words += (
            "; no limit is known (max_slot_wal_keep_size is not set, and the disk cannot be seen from here)"
        )
    else:
        words += f"; {_bytes(slot.left_bytes)} left until {slot.limit}"
        if slot.full_in_seconds is not None and slot.full_in_seconds < _SOON_S:
            words += f", reached in about {_duration(slot.full_in_seconds)}"
    return Text(words, "" if slot.active and slot.wal_status in ("reserved", "extended", "") else "red")


def _table(collections: list[CollectionLag]) -> Table:
    table = Table("collection", "table", "phase", "records", "seconds", "in", "out", "parked", box=None)
    for column in table.columns[3:]:
        column.justify = "right"
    for c in collections:
        table.add_row(
            c.name,
            c.table,
            c.phase,
            _count(c.records),
            _seconds(c.seconds),
            _rate(c.records_in),
            _rate(c.records_out),
            _count(c.parked),
        )
    return table


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f} s"


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}/s"


def _bytes(value: float | None) -> str:
    if value is None:
        return "unknown"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f} bytes"


def _bytes_rate(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "growth unknown" if signed else "unknown"
    return f"{'+' if signed and value >= 0 else ''}{_bytes(value)}/s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3_600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.0f} h" if seconds < 72 * 3_600 else f"{seconds / 86_400:.0f} days"
