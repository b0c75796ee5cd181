"""What the commands print: logs and progress on stderr, results on stdout, one JSON document with `--json`."""

from __future__ import annotations

import atexit
import json
import sys
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from connectors.errors import SyncError
from sync.lag.status import StatusReport
from sync.lag.token import Token
from sync.observe.logs import Form, Repeats, as_json
from sync.snapshot.load import LoadReport
from sync.snapshot.reload import Outlook, ReloadReport
from sync.verify.progress import told_seconds

if TYPE_CHECKING:
    from rich.progress import Progress

#: columns where there is no terminal to ask
_WIDTH = 120
out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _WIDTH)


class _Log:
    """Where log lines go: stderr. Used by several threads."""

    def __init__(self) -> None:
        self.form: Form = "auto"
        self.component = "tandem"
        self._repeats, self._lock = Repeats(), threading.RLock()

    def __call__(self, message: str, **facts: object) -> None:
        """One line for an operator; of those that repeat some are left out, and counted in a line of their own."""
        with self._lock:
            tell = self._repeats.tells(message, facts)
            self._tell_left_out()
            if tell:
                self._line(message, facts)

    def end(self) -> None:
        """Tell what was left out."""
        with self._lock:
            self._tell_left_out(at_the_end=True)

    def error(self, error: SyncError) -> bool:
        """An error that ends the command, where all lines are to be for machines. False: it is told to people."""
        if self.form != "json":
            return False
        facts = {"code": error.code, "remedy": error.remedy, **{k: str(v) for k, v in error.facts.items()}}
        sys.stderr.write(as_json(self.component, error.what, facts, "error") + "\n")
        sys.stderr.flush()
        return True

    @property
    def _for_people(self) -> bool:
        return self.form == "human" or (self.form == "auto" and err.is_terminal)

    def _tell_left_out(self, *, at_the_end: bool = False) -> None:
        for message, times in self._repeats.left_out(at_the_end=at_the_end):
            self._line(f"{times} more like: {message}", {"repeated": times})

    def _line(self, message: str, facts: Mapping[str, object]) -> None:
        if not self._for_people:
            sys.stderr.write(as_json(self.component, message, facts) + "\n")
            sys.stderr.flush()
            return
        clock = datetime.now().strftime("%H:%M:%S")
        more = "  ".join(f"{name}={value}" for name, value in facts.items())
        tail = f"  [dim]{escape(more)}[/]" if more else ""
        err.print(f"[dim]{clock}[/] {escape(message)}{tail}", soft_wrap=True)


log = _Log()
atexit.register(log.end)


def print_json(content: object) -> None:
    """The one JSON document on stdout."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def print_error(error: SyncError, *, as_json: bool) -> None:
    """What happened, the facts, what to do, whether a retry helps."""
    if as_json:
        print_json(error.as_dict())
    if log.error(error):
        return
    err.print(f"[red]error[/] {escape(error.what)}  [dim]({error.code})[/]", soft_wrap=True)
    for name, value in error.facts.items():
        err.print(f"  {name}: {escape(str(value))}", soft_wrap=True)
    err.print(f"  [bold]what to do[/]: {escape(error.remedy)}", soft_wrap=True)
    if error.retry_helps:
        err.print("  the same command may go through later")


def print_token(token: Token) -> None:
    """The completeness token."""
    out.print(f"complete as of [bold]{token.lsn}[/], seen {token.at}, {len(token.positions)} partitions")


_MARKS = {True: "[green]ok[/]", False: "[red]not in order[/]", None: "[yellow]unknown[/]"}


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def print_health(report: StatusReport) -> None:
    """Components, and the consumers by name."""
    _print_parts(report)
    for member in report.members:
        out.print(f"consumer {member['name']}: {member['partitions']} partitions", soft_wrap=True)


def _print_parts(report: StatusReport) -> None:
    parts = Table("component", "", "what", box=None, pad_edge=False)
    for part in report.parts:
        remedy = f"\n[dim]{escape(part.remedy)}[/]" if part.remedy and not part.ok else ""
        parts.add_row(part.name, _MARKS[part.ok], escape(part.what) + remedy)
    out.print(parts)


def print_status(report: StatusReport) -> None:
    """Phase, components, lag, collections."""
    out.print(f"phase: {report.phase}" + (f", checkpoint {report.checkpoint}" if report.checkpoint else ""))
    _print_parts(report)
    out.print(
        f"lag: {_number(report.wal_bytes)} bytes of WAL not yet in Kafka, {_number(report.records)} records not yet"
        f" applied, {_number(report.parked)} rows parked"
    )
    out.print(f"verified: {_verified(report)}", soft_wrap=True)
    table = Table("collection", "table", "phase", "loaded", "documents", "records behind")
    for column in table.columns[3:]:
        column.justify = "right"
    for c in report.collections:
        loaded = f"{c.chunks_done}/{c.chunks} chunks" if c.chunks else "-"
        table.add_row(c.name, c.table, c.phase, loaded, _number(c.documents), _number(c.behind))
    out.print(table)


def _verified(report: StatusReport) -> str:
    if report.verification is None:
        return "unknown"
    last, whole = report.verification["last"], report.verification["whole"]
    if last is None:
        return "never; run `tandem verify`"
    found = "[green]agrees[/]" if last.ok else f"[red]{last.differences:,} differences[/]"
    part = "the whole" if last.coverage == 1 else f"{last.coverage:.1%} of it"
    told = f"{told_seconds(last.age_s)} ago, {part}: {found}, from {last.lsn} to {last.until}"
    if not last.mapping:
        told += ", under another mapping"
    if last.coverage < 1:
        told += f"; the whole {'never' if whole is None else told_seconds(whole.age_s) + ' ago'}"
    return told


def print_load(report: LoadReport) -> None:
    """What was loaded."""
    if not report.collections:
        if report.again is None:
            out.print("everything is loaded already")
        else:
            print_reload(report.again)
        return
    table = Table("collection", "rows in the table", "documents", "staged rows", "parked")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, of in report.collections.items():
        table.add_row(name, f"{of.total:,}", f"{of.rows:,}", f"{of.staged:,}", f"{of.parked:,}")
    out.print(table)
    rows = sum(of.rows + of.staged for of in report.collections.values())
    kind = (
        "the slot's own snapshot" if report.exact else "a later snapshot; the stream brings the rest in line"
    )
    speed = f"{rows / report.seconds:,.0f} rows/s" if report.seconds > 0 else ""
    out.print(f"{rows:,} rows in {report.seconds:.1f} s ({speed}), read at {report.lsn} under {kind}")

    if report.again is not None:
        print_reload(report.again)


def print_reload(report: ReloadReport) -> None:
    """What was read again."""
    table = Table("table", "rows", "parked")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, of in report.collections.items():
        table.add_row(name, f"{of.rows:,}", f"{of.parked:,}")
    out.print(table)
    rows = sum(of.rows for of in report.collections.values())
    speed = f" ({rows / report.seconds:,.0f} rows/s)" if report.seconds > 0 else ""
    out.print(
        f"{rows:,} rows read again in {report.seconds:.1f} s{speed}; the tables stood still for"
        f" {report.held_s:.1f} s; {report.removed:,} documents and staged rows had no row and are gone"
    )
    if report.foreign:
        out.print(f"{report.foreign:,} documents that tandem did not write are left as they are")


def print_outlook(found: Outlook) -> None:
    """What a reload would do."""
    for name, rows in found.rows.items():
        out.print(f"would hold {name} and read its {rows:,} rows again")
    how = "as the last one went" if found.measured else "as nothing was measured yet"
    out.print(
        f"they would stand still for about {found.seconds:,.0f} s, at {found.rate:,.0f} rows/s {how}; other tables"
        " go on; the application reads on"
    )


def row_bars(*, transient: bool) -> Progress:
    """Bars of rows done, with rows/s and time left. A task's field `speed` is a text."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:>16}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} rows"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=err,
        transient=transient,
    )


class Barred:
    """Bars that are there for the length of a block, on a terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def __enter__(self) -> Self:
        if err.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if err.is_terminal:
            self._bars.stop()


class LoadProgress(Barred):
    """A bar per collection with rows/s and time left on a terminal, a line every five seconds elsewhere."""

    def __init__(self) -> None:
        super().__init__(row_bars(transient=False))
        self._tasks: dict[str, object] = {}
        self._began, self._first = time.monotonic(), dict[str, int]()
        self._said = 0.0

    def __call__(self, report: LoadReport | ReloadReport) -> None:
        """Show the report as it is now."""
        collections = dict(report.collections)
        for name, of in collections.items():
            self._first.setdefault(name, of.rows)
        seconds = max(time.monotonic() - self._began, 0.001)
        if err.is_terminal:
            for name, of in collections.items():
                done = of.total if of.released else of.rows
                if name not in self._tasks:
                    self._tasks[name] = self._bars.add_task(name, total=of.total, speed="")
                speed = f"{(of.rows - self._first[name]) / seconds:,.0f}/s"
                self._bars.update(self._tasks[name], completed=done, total=max(of.total, 1), speed=speed)  # type: ignore[arg-type]
        elif collections and time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            rows, total = (
                sum(of.rows for of in collections.values()),
                sum(of.total for of in collections.values()),
            )
            speed_now = (rows - sum(self._first.values())) / seconds
            left = f", about {(total - rows) / speed_now:.0f} s left" if speed_now > 0 else ""
            err.print(f"loaded {rows:,} of at most {total:,} rows, {speed_now:,.0f}/s{left}")
