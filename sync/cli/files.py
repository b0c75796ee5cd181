"""`tandem files`: workspaces into their new layout."""

from __future__ import annotations

import signal
import threading
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sync.cli.options import Config, Json, MappingFile, read_local
from sync.cli.output import err, log, out, print_json
from sync.files.copy import CopyReport, Progress
from sync.files.plan import FilesPlan
from sync.files.undo import UndoReport
from sync.files.verify import FilesReport

if TYPE_CHECKING:
    from rich.progress import TaskID

app = typer.Typer(
    name="files",
    help="Workspaces: into their new layout in two passes, compared byte for byte.",
    no_args_is_help=True,
)
#: a line each, where there is no terminal
_EVERY_S = 5.0


class Which(StrEnum):
    """The two passes."""

    HOT = "hot"
    FINAL = "final"


Execute = Annotated[bool, typer.Option("--execute", help="Do it; without, only say what would be done.")]


@app.command()
def plan(config: Config = None, mapping: MappingFile = None, json: Json = False) -> None:
    """What is there, what becomes of it, what stands in the way, and how long the last pass would take now."""
    from sync import app as root

    settings = read_local(config, mapping)
    with _Watched() as watched:
        found = root.files(settings.files, watched, watched.stop).plan()
    if json:
        print_json(found.as_dict())
    else:
        _print_plan(found)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def copy(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    which: Annotated[
        Which,
        typer.Option(
            "--pass", help="hot: while everything serves. final: into their places, within the fence."
        ),
    ] = Which.HOT,
    execute: Execute = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Take back what is in its place, and bring it up to date. Only before the flags turn: what was written"
            " in the new layout since would go.",
        ),
    ] = False,
) -> None:
    """Copy; with --pass final, compare byte for byte and put everything into its place. Resumable.

    The hot pass may be repeated at will. The last one is a dry run unless --execute.
    """
    from sync import app as root

    settings = read_local(config, mapping)
    with _Watched() as watched:
        room = root.files(settings.files, watched, watched.stop)
        if which is Which.FINAL and execute:
            report = room.copy("final", again=again)
        else:
            found = room.plan(predict=which is Which.FINAL)
            if not found.ok or which is Which.FINAL:
                _print_dry_run(found, json=json)
                return
            report = room.copy("hot", found.totals, again=again)
    if json:
        print_json(report.as_dict())
    else:
        _print_copy(report)


@app.command()
def verify(
    config: Config = None,
    mapping: MappingFile = None,
    json: Json = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Read everything, also what has not changed since it was read last."),
    ] = False,
    documents: Annotated[
        bool,
        typer.Option("--documents/--no-documents", help="Look for the paths that MongoDB's documents hold."),
    ] = True,
) -> None:
    """Compare both roots byte for byte, and look for every path in documents. Exit 1 on a difference."""
    from sync import app as root

    settings = read_local(config, mapping)
    with _Watched() as watched:
        room = root.files(settings.files, watched, watched.stop)
        report = root.verify_files(settings, room, documents=documents, fully=full)
    if json:
        print_json(report.as_dict())
    else:
        _print_verify(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def undo(
    config: Config = None, mapping: MappingFile = None, json: Json = False, execute: Execute = False
) -> None:
    """Take everything back out of its place; with one root, the old layout as it was. Only before the flags turn.

    A dry run unless --execute.
    """
    from sync import app as root

    room = root.files(read_local(config, mapping).files)
    if execute:
        report = room.undo()
        if json:
            print_json(report.as_dict())
        else:
            _print_undo(report)
        return
    standing = room.standing()
    if json:
        print_json({"dry_run": True, "state": str(standing.state), "would_take_back": len(standing.placed)})
    else:
        out.print(
            f"the files are in the state: {standing.state}; would take back {len(standing.placed):,} of them;"
            " repeat with --execute"
        )


def _print_dry_run(found: FilesPlan, *, json: bool) -> None:
    if json:
        print_json({"dry_run": True, **found.as_dict()})
    else:
        _print_plan(found)
        out.print("nothing is moved yet" + (": repeat with --execute" if found.ok else ""))
    if not found.ok:
        raise typer.Exit(1)


class _Watched:
    """A bar with bytes, files and time left on a terminal, a line every five seconds elsewhere. Ctrl-C and SIGTERM end
    the work in order."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description:>12}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        self._lock, self._stopping = threading.RLock(), False
        self._stage, self._said, self._began = "", time.monotonic(), 0.0
        self._task: TaskID | None = None

    def __enter__(self) -> _Watched:
        self._before = {n: signal.signal(n, self._asked) for n in (signal.SIGINT, signal.SIGTERM)}
        if err.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if err.is_terminal:
            self._bars.stop()

    def _asked(self, number: int, _: object) -> None:
        if self._stopping:  # asked twice
            raise KeyboardInterrupt
        self._stopping = True

    def stop(self) -> bool:
        """It was asked to end."""
        return self._stopping

    def __call__(self, now: Progress) -> None:
        """How far it is."""
        with self._lock:
            if now.stage != self._stage:
                self._stage, self._began = now.stage, time.monotonic()
                if self._task is not None:
                    self._bars.remove_task(self._task)
                self._task = self._bars.add_task(now.stage, total=now.total_bytes, said="")
            said = _so_far(now)
            if err.is_terminal and self._task is not None:
                self._bars.update(self._task, completed=now.bytes, said=said)
            elif time.monotonic() - self._said > _EVERY_S:
                self._said = time.monotonic()
                log(f"{now.stage}: {said}{_left(now, time.monotonic() - self._began)}")


def _so_far(now: Progress) -> str:
    of = f" of at most {_size(now.total_bytes)}" if now.total_bytes and now.stage == "copying" else ""
    files = f" of at most {now.total_files:,}" if now.total_files and now.stage == "copying" else ""
    return f"{_size(now.bytes)}{of}, {now.files:,}{files} files"


def _left(now: Progress, seconds: float) -> str:
    if now.stage != "copying" or not now.total_bytes or not now.bytes or seconds < 1:
        return ""
    return f", at most {(now.total_bytes - now.bytes) / (now.bytes / seconds):,.0f} s left"


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if unit in ("bytes", "kB") else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError


def _print_plan(found: FilesPlan) -> None:
    layout = found.layout
    table = Table("area", "entries", "files", "folders", "links", "bytes")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, tally in found.tallies.items():
        counts = (tally.units, tally.files, tally.folders, tally.links, tally.bytes)
        table.add_row(name, *(f"{count:,}" for count in counts))
    out.print(table)
    out.print(f"state: {found.state}")
    within = " (one root: workspaces are moved within it)" if layout.same else ""
    out.print(f"from {escape(str(layout.old))} to {escape(str(layout.new))}{within}", soft_wrap=True)
    out.print(
        f"{found.workspaces:,} workspaces become private/USER/{{active,saved,temp}}, what is in them"
        f" saved/{layout.saved.decode()}; private 700, shared 770; {_size(found.free_bytes)} free",
        soft_wrap=True,
    )
    if found.prediction is not None:
        p = found.prediction
        out.print(
            f"the last pass would take [bold]{p.seconds:.1f} s[/] now: rsync looks {p.rsync_s:.1f}, copies"
            f" {p.transfer_s:.1f} ({p.files:,} files, {_size(p.bytes)}), compares {p.look_s:.1f}, renames"
            f" {p.renames_s:.1f}",
            soft_wrap=True,
        )
    for note in found.notes:
        out.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    for complaint in found.complaints:
        out.print(f"[red]in the way[/] {escape(complaint)}", soft_wrap=True)


def _print_copy(report: CopyReport) -> None:
    out.print(
        f"{report.which} pass: {report.files:,} files copied ({_size(report.bytes)}), {report.deleted:,} that were gone"
        f" removed, {report.workspaces:,} workspaces, {report.seconds:.1f} s; state: {report.state}",
        soft_wrap=True,
    )
    if report.vanished or report.moving:
        out.print("files came, went or changed meanwhile: the next pass brings them")
    if report.which == "final" and report.compared is not None:
        out.print(f"compared byte for byte, and put {report.placed:,} entries into their places")
    if report.modes_changed:
        out.print(f"{report.modes_changed:,} modes set; `tandem files undo` knows what they were")
    for note in report.notes:
        out.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)


def _print_verify(report: FilesReport) -> None:
    if report.new is not None and report.old is not None:
        table = Table("root", "files", "folders", "links", "bytes", "digest")
        for column in table.columns[1:5]:
            column.justify = "right"
        for name, side in (("old", report.old), ("new", report.new)):
            counts = (side.files, side.folders, side.links, side.bytes)
            table.add_row(name, *(f"{count:,}" for count in counts), side.digest[:16])
        out.print(table)
    for sample in report.compared.as_dict()["samples"]:  # type: ignore[attr-defined]
        out.print(f"[red]differs[/] {escape(sample['path'])}: {', '.join(sample['reasons'])}", soft_wrap=True)
    for one in report.paths:
        out.print(
            f"{one.collection}.{one.field}: {one.checked:,} paths, {one.missing:,} missing, {one.unmoved:,} of the old"
            f" layout, {one.dangling:,} that pointed to nothing before, {one.outside:,} elsewhere",
            soft_wrap=True,
        )
        for text in one.samples:
            out.print(f"  {escape(text)}", soft_wrap=True)
    how = "agrees" if report.ok else "[red]not in order[/]"
    rest = f"{report.compared.differing:,} paths differ; state: {report.state}; {_size(report.read)} read now"
    out.print(f"{how}: {rest}, {report.seconds:.1f} s", soft_wrap=True)


def _print_undo(report: UndoReport) -> None:
    out.print(
        f"{report.taken_back:,} taken back, {report.modes_restored:,} modes as they were; state: {report.state}"
    )
