"""`tandem verify`: compare, tell how far it is, and what was found; or show what was found last."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from connectors.errors import Misused
from sync.cli.options import Config, Json, MappingFile, Metrics, read_settings
from sync.cli.output import Barred, err, log, out, print_json, row_bars
from sync.cli.repair import repair as run_repair
from sync.verify.progress import told_seconds
from sync.verify.report import VerifyReport, render

if TYPE_CHECKING:
    from sync.proof import Asked

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
#: of a lines' progress
_SAID_EVERY_S = 5.0


def verify(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    collection: Annotated[
        list[str] | None, typer.Option(help="Only this collection; may be repeated.")
    ] = None,
    at: Annotated[
        str,
        typer.Option(
            help="First wait for this: `now`, an LSN, or a token of `wait-for` (or a file with it)."
        ),
    ] = "now",
    sample: Annotated[
        float | None, typer.Option(help="Compare so many percent of the rows; all `_id`s all the same.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draw the sample of this seed [default: a new one].")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the consumers before a second look.")
    ] = 60,
    max_rows_per_s: Annotated[
        int | None, typer.Option("--max-rows-per-s", help="Read so many rows a second at most.")
    ] = None,
    workers: Annotated[int, typer.Option(help="How many look at the same time.")] = 2,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, also where a run that ended too early could go on.")
    ] = False,
    last: Annotated[bool, typer.Option("--last", help="Compare nothing: show the last report.")] = False,
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="PERIOD", help="Walk everything once per period, slowly, without end: 30m, 6h, 1d."
        ),
    ] = None,
    metrics: Metrics = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make what differs anew from its rows. A dry run unless --execute."),
    ] = False,
    execute: Annotated[bool, typer.Option("--execute", help="With --repair: do it.")] = False,
    remove_foreign: Annotated[
        bool,
        typer.Option(
            "--remove-foreign",
            help="With --repair: remove documents too that tandem did not write and that no row can have.",
        ),
    ] = False,
) -> None:
    """Compare every field of every document with PostgreSQL, also while both are written. Exit 1 on a difference."""
    from sync import app as root
    from sync.proof import Asked

    settings = read_settings(config, mapping)
    if repair:
        if last or schedule is not None or sample is not None or at != "now":
            raise Misused(
                "--repair verifies all that it is to repair, as of now",
                remedy="leave --at, --sample, --last and --schedule out; --collection may be given",
            )
        run_repair(
            settings, collection, timeout_s=timeout, execute=execute, remove_foreign=remove_foreign, json=json
        )
        return
    if execute or remove_foreign:
        raise Misused("--execute and --remove-foreign belong to --repair", remedy="give --repair too")
    if last:
        _show(*root.last_verification(settings), json=json)
        return
    asked = Asked(
        collections=collection,
        at=at,
        sample=sample,
        seed=seed,
        max_rows_per_s=max_rows_per_s,
        timeout_s=timeout,
        resume=not fresh,
        workers=workers,
        scheduled=None if schedule is None else _seconds(schedule),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end it after the batch in hand
    if schedule is not None:
        root.verify_schedule(settings, asked, log, metrics=metrics)
        return
    try:
        with VerifyProgress() as progress:
            report = root.verify(settings, asked=asked, log=log, watch=progress)
    except KeyboardInterrupt:
        log("interrupted: run `tandem verify` again, it goes on where it was")
        raise
    _print(report, asked, json=json)
    if not report.ok:
        raise typer.Exit(1)


def _print(report: VerifyReport, asked: Asked, *, json: bool) -> None:
    if json:
        print_json(report.as_dict())
        return
    render(report, out)


def _show(report: VerifyReport, age_s: float, *, json: bool) -> None:
    if json:
        print_json({**report.as_dict(), "age_s": round(age_s, 1)})
    else:
        render(report, out)
        out.print(f"verified {told_seconds(age_s)} ago")
    if not report.ok:
        raise typer.Exit(1)


def _seconds(period: str) -> float:
    """Of `30m`, `6h`, `1d`. Raises Misused."""
    found = re.fullmatch(r"(\d+)([smhd])", period.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if seconds < 1:
        raise Misused(f"'{period}' is no period", remedy="give a number and a unit, such as 30m, 6h or 1d")
    return float(seconds)


class VerifyProgress(Barred):
    """A bar per collection with rows/s and time left on a terminal, a line every five seconds elsewhere."""

    def __init__(self) -> None:
        super().__init__(row_bars(transient=True))
        self._tasks: dict[str, object] = {}
        self._began: float | None = None
        self._first, self._said = 0, time.monotonic()

    def __call__(self, report: VerifyReport) -> None:
        """Show the report as it is now."""
        collections = dict(report.collections)
        done = sum(c.covered for c in collections.values())
        if not collections:
            return
        if self._began is None:
            self._began, self._first = time.monotonic(), done
        speed = (done - self._first) / max(time.monotonic() - self._began, 0.001)
        if err.is_terminal:
            for name, of in collections.items():
                if name not in self._tasks:
                    self._tasks[name] = self._bars.add_task(name, total=max(of.total, 1), speed="")
                self._bars.update(
                    self._tasks[name],  # type: ignore[arg-type]
                    completed=min(of.covered, of.total),
                    total=max(of.total, 1),
                    speed=f"{speed:,.0f}/s",
                )
        elif time.monotonic() - self._said > _SAID_EVERY_S:
            self._said = time.monotonic()
            err.print(_line(done, sum(c.total for c in collections.values()), speed))


def _line(done: int, total: int, speed: float) -> str:
    if done >= total > 0:
        return f"compared {done:,} rows; going through the `_id`s, and looking again at what was in doubt"
    left = f", about {told_seconds((total - done) / speed)} left" if speed > 0 else ""
    return f"compared {done:,} of about {total:,} rows, {speed:,.0f}/s{left}"
