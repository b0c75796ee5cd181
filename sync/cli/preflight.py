"""`tandem preflight`."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from connectors.errors import Misused
from sync import settings as settings_reader
from sync.cli.output import Barred, err, out, print_json, row_bars

if TYPE_CHECKING:
    from rich.progress import TaskID

    from sync.preflight.scan import ScanReport

_DEFAULT_PERCENT = 5.0


def preflight(
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration file [default: tandem.yaml, if there is one]."),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="Mapping file [default: mapping.yaml].")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout; logs on stderr.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Read every row.")] = False,
    sample: Annotated[
        str | None,
        typer.Option("--sample", help="Percent of large tables to read, such as 5% [default: 5%]."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample: the same one again.")] = None,
    collection: Annotated[
        list[str] | None, typer.Option(help="Only the data of this collection; may be repeated.")
    ] = None,
    only_data: Annotated[
        bool, typer.Option("--only-data", help="Leave out the settings of the servers.")
    ] = False,
    only_settings: Annotated[bool, typer.Option("--only-settings", help="Leave out the data.")] = False,
    examples: Annotated[int, typer.Option(min=0, help="Rows shown of each kind.")] = 5,
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Show the values that do not fit, not only their keys.")
    ] = False,
) -> None:
    """Tell what will not work, and which rows will not fit, before anything moves. Exit 1 when there is an error."""
    from sync import app as root
    from sync.preflight.render import render
    from sync.preflight.run import Asked
    from sync.preflight.scan import Extent

    if full and sample is not None:
        raise Misused("--full and --sample exclude each other", remedy="give one of them")
    if only_data and only_settings:
        raise Misused("--only-data and --only-settings exclude each other", remedy="give one of them")
    extent = Extent(
        percent=None if full else _percent(sample),
        seed=secrets.randbelow(1 << 31) if seed is None else seed,
        examples=examples,
        show_values=show_values,
        collections=tuple(collection or ()),
    )
    settings = settings_reader.read_known(config, mapping)
    with _Progress() as progress:
        report = root.preflight(
            settings, Asked(extent, settings=not only_data, data=not only_settings), progress
        )
    if json:
        print_json(report.as_dict())
    else:
        render(report, out)
    if not report.ok:
        raise typer.Exit(1)


def _percent(sample: str | None) -> float:
    try:
        percent = _DEFAULT_PERCENT if sample is None else float(sample.strip().removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise Misused(f"--sample {sample}: a percentage is needed", remedy="give something like --sample 5%")
    return percent


class _Progress(Barred):
    """A bar per collection with rows/s and time left on a terminal, a line every five seconds elsewhere."""

    def __init__(self) -> None:
        super().__init__(row_bars(transient=True))
        self._tasks: dict[str, TaskID] = {}
        self._began = self._said = time.monotonic()

    def __call__(self, report: ScanReport) -> None:
        """Show how far the scan is."""
        reading = dict(report.reading)
        seconds = max(time.monotonic() - self._began, 0.001)
        if err.is_terminal:
            for name, of in reading.items():
                if name not in self._tasks:
                    self._tasks[name] = self._bars.add_task(name, total=max(of.total, 1), speed="")
                speed = f"{of.rows / seconds:,.0f}/s"
                total = max(of.total, of.rows, 1)
                self._bars.update(self._tasks[name], completed=of.rows, total=total, speed=speed)
        elif reading and time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            rows, total = sum(of.rows for of in reading.values()), sum(of.total for of in reading.values())
            left = f", about {(total - rows) * seconds / rows:.0f} s left" if 0 < rows < total else ""
            err.print(f"looked at {rows:,} of about {total:,} rows, {rows / seconds:,.0f}/s{left}")
