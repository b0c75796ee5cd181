"""The two passes: a hot one while everything serves, and the last one inside the fence, which ends with everything in
its place. Each is safe to repeat, and goes on where one was killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from connectors.errors import FilesDiffer, FilesMoving, LayoutUnfit, Stopped, SyncError
from connectors.rsync.program import Order, Outcome, Rsync
from connectors.trees import place
from connectors.trees.manifest import Manifest
from connectors.trees.walk import Walk, WalkReport
from sync.files import state
from sync.files.compare import SUSPECT, Comparison, compare
from sync.files.layout import AREA_MODES, AREAS, CHMOD, OURS, OURS_NAME, ROOMS, Layout, Unit
from sync.files.modes import set_modes
from sync.files.plan import shown, units_of
from sync.files.state import Placed, Standing, State

Pass = Literal["hot", "final"]
Where = Literal["staged", "placed"]
Stage = Literal["looking", "copying", "reading back", "placing"]
#: rounds of the last pass while files vanish or change
_ROUNDS = 4
_RENAMERS = 8
_AGAIN = (
    "as long as the flags are not turned, copy with --again: it takes everything back, and brings the rest; after that"
    " the new root is the one that counts"
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is. total_bytes: None where it is not known."""

    stage: Stage
    bytes: int = 0
    files: int = 0
    total_bytes: int | None = None
    total_files: int | None = None


Tell = Callable[[Progress], None]


@dataclass(slots=True)
class CopyReport:
    """What a pass did."""

    which: Pass
    state: State = State.COPYING
    workspaces: int = 0
    #: sent now; what was there already is not counted
    files: int = 0
    bytes: int = 0
    deleted: int = 0
    #: files that went while they were copied, in some round
    vanished: bool = False
    rounds: int = 0
    placed: int = 0
    modes_changed: int = 0
    seconds: float = 0.0
    compared: Comparison | None = None
    #: after a hot pass: files that were being written while they were read
    moving: int = 0
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "pass": self.which,
            "state": str(self.state),
            "workspaces": self.workspaces,
            "files": self.files,
            "bytes": self.bytes,
            "deleted": self.deleted,
            "vanished": self.vanished,
            "rounds": self.rounds,
            "placed": self.placed,
            "modes_changed": self.modes_changed,
            "seconds": round(self.seconds, 3),
            "compared": self.compared.as_dict() if self.compared else None,
            "moving": self.moving,
            "notes": self.notes,
        }


class Desk:
    """The new root, locked: journal and manifest. Only one process has it."""

    def __init__(self, layout: Layout, held: int) -> None:
        self.layout, self.held = layout, held
        self.folder = layout.new / OURS
        self.journal = place.Journal(self.folder / "journal.jsonl")
        self.modes = place.Journal(self.folder / "modes.jsonl")
        self.standing: Standing = state.standing(self.journal.read())

    def note(self, line: dict[str, object]) -> None:
        """In the journal, on the disk; and what follows from it."""
        self.journal.append(line)
        self.standing = state.standing(self.journal.read())

    @contextmanager
    def manifest(self) -> Iterator[Manifest]:
        """The manifest of both sides."""
        manifest = Manifest(self.folder / "manifest.db")
        try:
            yield manifest
        finally:
            manifest.close()


@contextmanager
def desk(layout: Layout, wait_s: float = 15.0) -> Iterator[Desk]:
    """Be the only one at work on the new root. Raises FilesBusy, and LayoutUnfit for another migration's."""
    with place.translated(f"{layout.new} cannot be written"):
        place.make(layout.new, (OURS_NAME,), 0o700)
    with place.locked(layout.new / OURS / "lock", wait_s) as held:
        with place.translated(f"the journal under {layout.new / OURS} cannot be read"):
            found = Desk(layout, held)
        wanted = state.begun(layout)
        if found.standing.begun is not None and dict(found.standing.begun) != wanted:
            raise LayoutUnfit(
                "files of another migration are here: it began with other roots or another id",
                remedy=f"use those, or `tandem files undo` it with them and remove {layout.new / OURS}",
                began_with={k: v for k, v in found.standing.begun.items() if k != "event"},
            )
        yield found


class Copier:
    """One pass. tell: called often, from several threads."""

    def __init__(
        self,
        layout: Layout,
        leave: Sequence[str],
        *,
        workers: int = 4,
        tell: Tell | None = None,
        stop: Callable[[], bool] | None = None,
        totals: tuple[int, int] | None = None,
    ) -> None:
        self._layout, self._leave, self._workers = layout, leave, workers
        self._tell, self._stop = tell, stop
        self._totals = totals
        self._as_root = os.geteuid() == 0

    def run(self, which: Pass, desk: Desk) -> CopyReport:
        """Copy, and in the last pass compare and put into place. Raises what is in the way; nothing is lost then."""
        began = time.monotonic()
        report = CopyReport(which)
        standing = desk.standing
        if standing.state is State.TAKING_BACK or (
            which == "hot" and standing.state in (State.PLACING, State.PLACED)
        ):
            raise LayoutUnfit(
                f"the files are {standing.state} already",
                remedy="as long as the flags are not turned: `tandem files undo --execute` takes them back out of their"
                " places, or copy with --again",
            )
        if standing.state in (State.PLACING, State.PLACED):
            if standing.state is State.PLACING:  # killed in the middle: the rest of the renames
                self._place(desk, standing.placed, report)
            report.notes.append("everything is in its place already")
            self._check_placed(desk, report)
        else:
            self._pass(desk, which, report)
        report.state = desk.standing.state
        report.seconds = time.monotonic() - began
        return report

    def _pass(self, desk: Desk, which: Pass, report: CopyReport) -> None:
        units = self._units()
        report.workspaces = sum(unit.is_workspace for unit in units)
        self._check_free(units)
        resumed = desk.standing.state is State.COPYING
        desk.note(state.begun(self._layout))
        with place.translated(f"folders of the new layout cannot be made under {self._layout.new}"):
            self._make_folders(units)
        if self._layout.same:
            self._forget_gone(units)
            desk.note({"event": "copied", "bytes": 0, "seconds": 0.0})
        else:
            self._copy(desk, units, which, report, resumed=resumed)
        if which == "final":
            with place.translated("the old root cannot be read"):
                placed = [self._to_place(unit) for unit in units]
            self._place(desk, placed, report)

    def _check_placed(self, desk: Desk, report: CopyReport) -> None:
        """What came under the old root since it was put in place would be lost in silence."""
        if self._layout.same:
            if found := strays(self._layout, self._units()):
                raise FilesDiffer(
                    f"{len(found):,} paths in the old layout came since: {', '.join(map(shown, found[:5]))}",
                    remedy=_AGAIN,
                )
            return
        units = [*self._units(), *(one.unit for one in desk.standing.placed)]
        units = list(dict.fromkeys(units))
        report.compared, report.moving = self._compare(desk, units, self._exact(desk), "placed")
        if report.compared.differing:
            raise FilesDiffer(
                f"{report.compared.differing:,} paths differ since they were put in their places:"
                f" {_told(report.compared)}",
                remedy=_AGAIN,
            )

    def _exact(self, desk: Desk) -> bool:
        with place.translated(f"{desk.folder} cannot be written"):
            return place.keeps_nanoseconds(desk.folder)

    def _units(self) -> list[Unit]:
        return old_units(self._layout, self._leave)

    def _check_free(self, units: Sequence[Unit]) -> None:
        """Before a unit is in its place, nothing of somebody else's may be there."""
        found = taken(self._layout, units)
        if found:
            raise LayoutUnfit(
                f"in the new root something is there already: {', '.join(found[:5])}",
                remedy="move it away, or choose another files.migration_id",
                count=len(found),
            )

    def _make_folders(self, units: Sequence[Unit]) -> None:
        layout = self._layout
        for area in AREAS:
            name = area.encode()
            like = self._owner((name,)) if place.exists(layout.old, (name,)) == "folder" else None
            if not layout.same or place.exists(layout.new, (name,)) is None:
                place.make(layout.new, (name,), AREA_MODES[area], like)
            place.make(layout.new, (name, OURS_NAME), 0o700)
        for unit in units:
            if unit.is_workspace:
                like = self._owner(layout.here(unit))
                for parts in layout.rooms(unit):
                    place.make(layout.new, parts, 0o700, like)

    def _owner(self, parts: tuple[bytes, ...]) -> tuple[int, int] | None:
        try:
            return place.owner_of(self._layout.old, parts)
        except FileNotFoundError:
            return None

    def _copy(
        self, desk: Desk, units: Sequence[Unit], which: Pass, report: CopyReport, *, resumed: bool
    ) -> None:
        rsync = Rsync.find()
        exact = self._exact(desk)
        began = time.monotonic()
        for _ in range(_ROUNDS):
            report.rounds += 1
            units = units if report.rounds == 1 else self._units()
            with place.translated("folders of the new layout cannot be made"):
                self._make_folders(units)  # users that came meanwhile
            vanished = self._rsync(rsync, desk, self._orders(units, exact, resumed), report)
            self._forget_gone(units)
            if which == "hot":
                break
            if vanished:
                continue
            self._sync()
            comparison, moving = self._compare(desk, units, exact)
            report.compared, report.moving = comparison, moving
            if not comparison.differing:
                break
            self._rsync(rsync, desk, self._orders_again(comparison.content, exact), report)
        else:
            raise self._never_the_same(report)
        desk.note({"event": "copied", "bytes": report.bytes, "seconds": time.monotonic() - began})
        if which == "hot":
            self._sync()
            # read both sides once, while there is time: the last pass then reads what changed since
            comparison, report.moving = self._compare(desk, units, exact)
            self._rsync(rsync, desk, self._orders_again(comparison.content, exact), report)

    def _never_the_same(self, report: CopyReport) -> SyncError:
        if report.vanished or report.moving or report.compared is None:
            return FilesMoving(
                "files change all the time while they are copied",
                remedy="end what writes under the old root, then run the same command",
                rounds=report.rounds,
            )
        return FilesDiffer(
            f"after {report.rounds} rounds {report.compared.differing:,} paths still differ: {_told(report.compared)}",
            remedy="end what writes under the old root, see whether the new root keeps owners, modes and times, then"
            " run the same command",
        )

    def _orders(self, units: Sequence[Unit], exact: bool, resumed: bool) -> list[Order]:
        layout = self._layout
        return [
            Order(
                layout.old / area,
                layout.new / area / OURS,
                [unit.name for unit in units if unit.area == area],
                CHMOD[area],
                resumed=resumed,
                nanoseconds=exact,
            )
            for area in AREAS
            if any(unit.area == area for unit in units)
        ]

    def _orders_again(self, paths: Sequence[bytes], exact: bool) -> list[Order]:
        """For files that differ though size and time agree."""
        orders = []
        for area in AREAS:
            start = area.encode() + b"/"
            if names := [path[len(start) :] for path in paths if path.startswith(start)]:
                orders += [
                    replace(order, names=names, exact=True, again=True)
                    for order in self._orders([Unit(area, names[0])], exact, False)
                ]
        return orders

    def _rsync(self, rsync: Rsync, desk: Desk, orders: Sequence[Order], report: CopyReport) -> bool:
        """One rsync for each area, at the same time. Returns whether files vanished."""
        sent, lock, failed = [(0, 0)] * len(orders), threading.Lock(), threading.Event()

        def one(index: int) -> Outcome:
            def tell(size: int, files: int) -> None:
                with lock:
                    sent[index] = (size, files)
                    self._say("copying", sum(b for b, _ in sent), sum(f for _, f in sent))

            try:
                return rsync.run(
                    orders[index], tell, lambda: failed.is_set() or self._stopping(), (desk.held,)
                )
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(max(1, len(orders))) as pool:
            waiting = [pool.submit(one, index) for index in range(len(orders))]
            errors = [error for future in waiting if (error := future.exception()) is not None]
        if errors:  # the first that is not only the echo of another's
            raise next((e for e in errors if not isinstance(e, Stopped)), errors[0])
        outcomes = [future.result() for future in waiting]
        for outcome in outcomes:
            report.files += outcome.files
            report.bytes += outcome.bytes
            report.deleted += outcome.deleted
            report.vanished |= outcome.vanished
        return any(outcome.vanished for outcome in outcomes)

    def _forget_gone(self, units: Sequence[Unit]) -> None:
        """What is no longer in the old root does not wait for its place either."""
        wanted = {(unit.area, unit.name) for unit in units}
        with place.translated("what waits under the new root cannot be tidied"):
            for area in AREAS:
                for name, _ in place.listed(self._layout.new, (area.encode(), OURS_NAME)):
                    if (area, name) in wanted:
                        continue
                    if self._layout.same:  # only folders that were made ahead: nothing of anybody's
                        for parts in reversed(self._layout.rooms(Unit(area, name))):
                            place.remove_empty(self._layout.new, parts)
                    else:
                        place.remove(self._layout.new, (area.encode(), OURS_NAME, name))

    def _sync(self) -> None:
        with place.translated(f"{self._layout.new} cannot be written to the disk"):
            place.sync_all(self._layout.new)

    def _compare(
        self, desk: Desk, units: Sequence[Unit], exact: bool, where: Where = "staged"
    ) -> tuple[Comparison, int]:
        with desk.manifest() as manifest:
            moving = 0
            for report in look(
                self._layout, units, manifest, where, self._workers, self._stop, self._reading
            ):
                moving += len(report.moving)
            found = compare(manifest.pairs(SUSPECT), owners=self._as_root, nanoseconds=exact)
            return found, moving

    def _reading(self, size: int, files: int) -> None:
        self._say("reading back", size, files)

    def _say(self, stage: Stage, size: int, files: int) -> None:
        if self._tell is not None:
            total, count = self._totals or (None, None)
            self._tell(Progress(stage, size, files, total, count))

    def _stopping(self) -> bool:
        return self._stop is not None and self._stop()

    def _to_place(self, unit: Unit) -> Placed:
        if not self._layout.same:
            return Placed(unit)
        return Placed(unit, *place.same_folder(self._layout.old, self._layout.here(unit)))

    def _place(self, desk: Desk, placed: Sequence[Placed], report: CopyReport) -> None:
        """Put everything in its place. What is to be done is in the journal first; a rename is whole or not there."""
        if desk.standing.state is not State.PLACING:
            desk.note(state.placing(placed))
        units = [one.unit for one in placed]
        report.workspaces = sum(unit.is_workspace for unit in units)
        done = 0
        with ThreadPoolExecutor(_RENAMERS) as pool:
            for moved in pool.map(self._place_one, units):
                done += moved
                self._say("placing", 0, done)
        report.placed = len(units)
        if self._layout.same:
            report.modes_changed = set_modes(self._layout, units, desk.modes, self._workers, self._stop)
        with place.translated("what is left of the staging cannot be removed"):
            for area in AREAS:
                if not place.remove_empty(self._layout.new, (area.encode(), OURS_NAME)):
                    report.notes.append(f"{area}/{OURS} in the new root is not empty: see what is in it")
                if place.exists(self._layout.new, (area.encode(),)):
                    place.sync_folder(self._layout.new / area)
        self._sync()
        desk.note({"event": "placed"})

    def _place_one(self, unit: Unit) -> bool:
        layout = self._layout
        with place.translated(f"{shown(unit.path)} cannot be put into its place"):
            if not layout.same:
                if place.exists(layout.new, layout.staged(unit)) is None:
                    return False  # it was renamed before a crash
                place.rename(layout.new, layout.staged(unit), layout.place(unit))
                return True
            if not unit.is_workspace:
                return False
            if place.exists(layout.new, layout.place(unit)) is not None:
                return False
            if place.exists(layout.new, layout.staged_place(unit)) is None:
                place.rename(layout.new, layout.here(unit), layout.staged_place(unit))
            place.rename(layout.new, layout.staged(unit), layout.here(unit))
            return True


def _told(found: Comparison) -> str:
    return "; ".join(f"{shown(d.path)} ({', '.join(d.reasons)})" for d in found.samples[:5])


def strays(layout: Layout, units: Sequence[Unit]) -> list[bytes]:
    """One root, everything in its place: what lies beside the rooms of a user."""
    with place.translated(f"{layout.new} cannot be read"):
        return [
            unit.path + b"/" + name
            for unit in units
            if unit.is_workspace
            for name, _ in place.listed(layout.new, layout.here(unit))
            if name not in ROOMS
        ]


def old_units(layout: Layout, leave: Sequence[str]) -> list[Unit]:
    """What is to move, as the old root has it now."""
    with place.translated(f"{layout.old} cannot be read"):
        areas = {area: place.listed(layout.old, (area.encode(),)) for area in AREAS}
    return units_of(areas, leave)[0]


def taken(layout: Layout, units: Sequence[Unit]) -> list[str]:
    """Places of units where something is already. An empty folder is nothing."""
    found = []
    with place.translated(f"{layout.new} cannot be read"):
        for unit in units:
            at = layout.place(unit)
            if layout.same and not unit.is_workspace:
                continue
            kind = place.exists(layout.new, at)
            if kind is None or (kind == "folder" == unit.kind and not place.listed(layout.new, at)):
                continue
            found.append(shown(b"/".join(at)))
    return found


def look(
    layout: Layout,
    units: Sequence[Unit],
    manifest: Manifest,
    where: Where,
    workers: int,
    stop: Callable[[], bool] | None,
    tell: Callable[[int, int], None] | None,
    *,
    fully: bool = False,
) -> list[WalkReport]:
    """Read both sides into the manifest: old, new. fully: also what has not changed since it was read.

    Raises FilesDiffer where something cannot be read.
    """
    reports = []
    for side in ("old", "new"):
        walk = Walk(
            manifest.taker(side),
            digests=True,
            known=manifest.known(side),
            reuse=not fully,
            workers=workers,
            stop=stop,
            tell=tell,
        )
        starts = [layout.old_start(u) if side == "old" else layout.new_start(u, where) for u in units]
        report = walk.run(starts)
        manifest.end(side, {area.encode() for area in AREAS} - {unit.area.encode() for unit in units})
        if report.troubles:
            path, code = report.troubles[0]
            raise place.error_of(
                OSError(code, os.strerror(code)),
                f"{report.trouble_count:,} files or folders of the {side} root cannot be read, such as {shown(path)}",
            )
        reports.append(report)
    return reports
