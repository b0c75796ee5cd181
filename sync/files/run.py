"""What the command and the cutover call: plan, copy, verify, undo. Each is safe to repeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from connectors.errors import LayoutUnfit, SettingsInvalid
from sync.files import survey, undo
from sync.files import verify as verifying
from sync.files.copy import Copier, CopyReport, Pass, Progress, Tell, desk
from sync.files.layout import Layout
from sync.files.plan import FilesPlan
from sync.files.plan import plan as judged
from sync.files.state import Standing, State
from sync.files.undo import UndoReport
from sync.files.verify import FilesReport, PathField


class Wanted(Protocol):
    """The settings of this room."""

    @property
    def old(self) -> Path | None:
        """The old root."""

    @property
    def new(self) -> Path | None:
        """The new root; the same as the old one where workspaces are moved within it."""

    @property
    def migration_id(self) -> str:
        """Old workspaces become saved/migration_ID."""

    @property
    def leave(self) -> Sequence[str]:
        """Patterns of what stays where it is."""

    @property
    def workers(self) -> int:
        """Threads that look at files."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one migration.

    tell: how far it is, from several threads. stop: asked often; raises Stopped soon after it says so, and the same
    call goes on later.
    """

    wanted: Wanted
    tell: Tell | None = None
    stop: Callable[[], bool] | None = None

    def layout(self) -> Layout:
        """The roots, which are there and answer.

        Raises SettingsInvalid, RootUnfit, RootStale, RootDenied, LayoutUnfit."""
        if self.wanted.old is None or self.wanted.new is None:
            missing = [name for name in ("old", "new") if getattr(self.wanted, name) is None]
            raise SettingsInvalid(
                f"settings are missing: {', '.join(f'files.{name}' for name in missing)}",
                remedy="set TANDEM_FILES__OLD and TANDEM_FILES__NEW (or OLD_NFS_PATH and NEW_NFS_PATH, or NFS_BASE_PATH"
                " for both), or files.old and files.new in tandem.yaml",
            )
        return survey.layout_of(self.wanted.old, self.wanted.new, self.wanted.migration_id)

    def standing(self) -> Standing:
        """Where the files stand."""
        return survey.standing_of(self.layout())

    def plan(self, *, predict: bool = True) -> FilesPlan:
        """What is there, what becomes of it, what stands in the way, how long the last pass would take now. Writes
        nothing."""
        looking = survey.Survey(
            self.layout(), self.wanted.leave, workers=self.wanted.workers, tell=self.tell, stop=self.stop
        )
        listing = looking.listing()
        layout = self.layout()
        first = judged(listing, layout, self.wanted.leave)
        if not predict or not first.ok:
            return first
        return judged(listing, layout, self.wanted.leave, looking.predict(listing))

    def copy(self, pass_: Pass, totals: tuple[int, int] | None = None, *, again: bool = False) -> CopyReport:
        """The hot pass, while everything serves; or the last one, inside the fence: then everything is in its place,
        compared byte for byte. totals: bytes and files to be expected, for who watches.

        again: what is in its place already, or on its way there, is taken back first and brought up to date: what a
        cutover does whose fence may have lapsed. Only as long as no application uses the new layout: what it wrote
        there would go. Without, FilesDiffer is raised where the old root has changed since.

        Raises what stands in the way, by name; the same call goes on from there.
        """
        layout = self.layout()
        with desk(layout) as held:
            if again:
                undo.undo(layout, held)
            looked = survey.Survey(layout, self.wanted.leave).listing(count=False)
            if (found := judged(looked, layout, self.wanted.leave)).complaints:
                raise LayoutUnfit("; ".join(found.complaints), remedy="see `tandem files plan`")
            return Copier(
                layout,
                self.wanted.leave,
                workers=self.wanted.workers,
                tell=self.tell,
                stop=self.stop,
                totals=totals,
            ).run(pass_, held)

    def verify(self, fields: Iterable[PathField] = (), *, fully: bool = False) -> FilesReport:
        """Compare both roots, and look for every path that documents hold."""
        began, layout = time.monotonic(), self.layout()
        with desk(layout) as held:
            report = verifying.verify(
                layout,
                held,
                self.wanted.leave,
                workers=self.wanted.workers,
                fully=fully,
                stop=self.stop,
                tell=lambda size, files: (
                    self.tell(Progress("reading back", size, files)) if self.tell else None
                ),
            )
        report.paths = verifying.check_paths(layout, fields)
        report.seconds = time.monotonic() - began
        return report

    def undo(self) -> UndoReport:
        """Back out of the places, before the flags turn: for one root the old layout as it was."""
        layout = self.layout()
        if survey.standing_of(layout).begun is None:
            return UndoReport(State.NOTHING)
        with desk(layout) as held:
            return undo.undo(layout, held)
