"""What is there: the old root walked once, nothing written; and how long the last pass would take now."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from connectors.errors import LayoutUnfit, RootUnfit
from connectors.rsync.program import Order, Rsync
from connectors.trees import place
from connectors.trees.walk import Entry, Walk
from sync.files import state
from sync.files.copy import Progress, Tell, taken
from sync.files.layout import AREAS, CHMOD, OURS, OURS_NAME, Layout, Unit
from sync.files.plan import SAMPLES, Listing, Prediction, Tally, points_out, shown, units_of
from sync.files.state import Standing, State

#: bytes a second where nothing was measured yet
_RATE = 100e6
#: of one unit put into its place; some four round trips to a file server
_RENAME_S = 0.002


def layout_of(old: os.PathLike[str], new: os.PathLike[str], migration: str) -> Layout:
    """The two roots, which are there and answer, and do not lie one in the other.

    Raises RootUnfit, RootStale, RootDenied, LayoutUnfit.
    """
    before, after = Path(os.path.abspath(old)), Path(os.path.abspath(new))
    a, b = place.look(before, "the old root"), place.look(after, "the new root")
    same = (a.device, a.inode) == (b.device, b.inode)
    if same and before != after:
        raise RootUnfit(
            f"{before} and {after} are one folder under two names",
            remedy="give the same path for both: then workspaces are moved within it",
        )
    real_old, real_new = before.resolve(), after.resolve()
    if not same and (real_old in real_new.parents or real_new in real_old.parents):
        raise LayoutUnfit(
            "one root lies inside of the other",
            remedy="choose a new root beside the old one",
            old=before,
            new=after,
        )
    return Layout(before, after, same, migration)


def standing_of(layout: Layout) -> Standing:
    """Where the files stand; without the lock, so possibly of a moment ago."""
    with place.translated(f"the journal under {layout.new / OURS} cannot be read"):
        return state.standing(place.Journal(layout.new / OURS / "journal.jsonl").read())


class Survey:
    """One look at the old root."""

    def __init__(
        self,
        layout: Layout,
        leave: Sequence[str],
        *,
        workers: int = 4,
        tell: Tell | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self._layout, self._leave, self._workers = layout, leave, workers
        self._tell, self._stop = tell, stop
        self._seconds = 0.0

    def listing(self, *, count: bool = True) -> Listing:
        """Walk it, and count. What cannot be read is told, not raised. Without counting, only the names at the top."""
        layout = self._layout
        with place.translated(f"{layout.old} cannot be read"):
            areas = {
                area: place.listed(layout.old, (area.encode(),))
                for area in AREAS
                if place.exists(layout.old, (area.encode(),)) == "folder"
            }
            top = place.listed(layout.old)
        units, _ = units_of(areas, self._leave)
        standing = standing_of(layout)
        placed = standing.state in (State.PLACING, State.PLACED, State.TAKING_BACK)
        began = time.monotonic()
        by_area = {area: [u for u in units if u.area == area] for area in areas}
        tallies = {area: self._tally(of) for area, of in by_area.items()} if count else {}
        self._seconds = time.monotonic() - began
        return Listing(
            place.look(layout.old, "the old root"),
            place.look(layout.new, "the new root"),
            areas,
            top,
            tallies,
            () if placed else taken(layout, units),
            0 if layout.same or not count else self._staged_bytes(units, placed=placed),
            os.geteuid() == 0,
            standing.state,
        )

    def _tally(self, units: Sequence[Unit]) -> Tally:
        tally, lock, twins = Tally(units=len(units)), threading.Lock(), set[tuple[int, int]]()

        def take(_: bytes, entries: Sequence[Entry], __: object) -> None:
            with lock:
                for entry in entries:
                    _add(tally, entry, twins)

        walk = Walk(take, workers=self._workers, stop=self._stop, tell=self._say)
        report = walk.run([self._layout.old_start(unit) for unit in units])
        tally.files, tally.folders, tally.links = report.files, report.folders, report.links
        tally.bytes, tally.others = report.size, report.others
        tally.troubles = report.trouble_count
        tally.trouble_samples = [f"{shown(path)} ({os.strerror(code)})" for path, code in report.troubles]
        return tally

    def _staged_bytes(self, units: Sequence[Unit], *, placed: bool) -> int:
        size, lock = 0, threading.Lock()

        def take(_: bytes, entries: Sequence[Entry], __: object) -> None:
            nonlocal size
            with lock:
                size += sum(entry.blocks * 512 for entry in entries)

        where = "placed" if placed else "staged"
        began = time.monotonic()
        Walk(take, workers=self._workers, stop=self._stop).run(
            [self._layout.new_start(unit, where) for unit in units]  # type: ignore[arg-type]
        )
        self._seconds += time.monotonic() - began
        return size

    def _say(self, size: int, files: int) -> None:
        if self._tell is not None:
            self._tell(Progress("looking", size, files))

    def predict(self, listing: Listing) -> Prediction:
        """How long the last pass would take now: a dry run of rsync, and what was measured of the rest."""
        layout = self._layout
        units, _ = units_of(listing.areas, self._leave)
        if layout.same:
            return Prediction(renames_s=len(units) * _RENAME_S, look_s=self._seconds)
        orders = [
            Order(
                layout.old / area,
                layout.new / area / OURS,
                [unit.name for unit in units if unit.area == area],
                CHMOD[area],
                dry_run=True,
            )
            for area in AREAS
            if any(unit.area == area for unit in units)
        ]
        with place.translated(f"{layout.new} cannot be read"):
            waits = all(place.exists(layout.new, (o.source.name.encode(), OURS_NAME)) for o in orders)
        rate = standing_of(layout).rate or _RATE
        if not waits:  # before the first hot pass: all of it
            size, files = (
                sum(t.bytes for t in listing.tallies.values()),
                sum(t.files for t in listing.tallies.values()),
            )
            return Prediction(
                self._seconds, size / rate, len(units) * _RENAME_S, 2 * self._seconds, size, files
            )
        rsync, began = Rsync.find(), time.monotonic()
        with ThreadPoolExecutor(max(1, len(orders))) as pool:
            outcomes = list(pool.map(lambda order: rsync.run(order, stop=self._stop), orders))
        seconds = time.monotonic() - began
        size, files = sum(o.bytes for o in outcomes), sum(o.files for o in outcomes)
        return Prediction(seconds, size / rate, len(units) * _RENAME_S, 2 * self._seconds, size, files)


def _add(tally: Tally, entry: Entry, twins: set[tuple[int, int]]) -> None:
    if entry.links > 1 and entry.kind == "file":
        if (entry.device, entry.inode) in twins:
            return
        twins.add((entry.device, entry.inode))
    tally.disk_bytes += entry.blocks * 512
    if entry.kind == "link" and points_out(entry.folder, entry.target):
        tally.outward += 1
        if len(tally.outward_samples) < SAMPLES:
            tally.outward_samples.append(f"{shown(entry.path)} -> {shown(entry.target)}")
