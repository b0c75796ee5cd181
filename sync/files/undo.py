"""Everything back out of its place: for one root the old layout as it was, for two the copies wait again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from connectors.errors import LayoutUnfit
from connectors.trees import place
from sync.files.copy import Desk
from sync.files.layout import AREAS, OURS_NAME, ROOMS, Layout, Unit
from sync.files.modes import restore_modes
from sync.files.plan import shown
from sync.files.state import State

_RENAMERS = 8


@dataclass(frozen=True, slots=True)
class UndoReport:
    """state: as it is then."""

    state: State
    taken_back: int = 0
    modes_restored: int = 0

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "state": str(self.state),
            "taken_back": self.taken_back,
            "modes_restored": self.modes_restored,
        }


def undo(layout: Layout, desk: Desk) -> UndoReport:
    """Take units back. Nothing where none is in its place. Safe to repeat.

    Only before the flags turn: what the application wrote into the new layout since is not in the old one. One root:
    raises LayoutUnfit where something was written there, and nothing is moved.
    """
    standing = desk.standing
    if standing.state not in (State.PLACING, State.PLACED, State.TAKING_BACK):
        return UndoReport(standing.state)
    units = [one.unit for one in standing.placed]
    if layout.same and standing.state is not State.TAKING_BACK:
        _check_unused(layout, units)
    desk.note({"event": "taking_back"})
    with place.translated("the folders where copies wait cannot be made"):
        for area in sorted({unit.area for unit in units}):
            place.make(layout.new, (area.encode(), OURS_NAME), 0o700)
    with ThreadPoolExecutor(_RENAMERS) as pool:
        taken = sum(pool.map(lambda unit: _take_back(layout, unit), units))
    restored = 0
    if layout.same:
        restored = restore_modes(layout, desk.modes)
        _tidy(layout, units)
    with place.translated(f"{layout.new} cannot be written to the disk"):
        place.sync_all(layout.new)
    desk.note({"event": "taken_back"})
    if layout.same:
        desk.modes.forget()
    return UndoReport(desk.standing.state, taken, restored)


def _tidy(layout: Layout, units: list[Unit]) -> None:
    """One root: the folders that were made ahead go, so that the old layout is as it was."""
    with place.translated("folders of the new layout cannot be removed"):
        for unit in units:
            if unit.is_workspace:
                for parts in reversed(layout.rooms(unit)):
                    place.remove_empty(layout.new, parts)
        for area in AREAS:
            place.remove_empty(layout.new, (area.encode(), OURS_NAME))


def _take_back(layout: Layout, unit: Unit) -> bool:
    with place.translated(f"{shown(unit.path)} cannot be taken back"):
        if not layout.same:
            if place.exists(layout.new, layout.place(unit)) is None or (
                place.exists(layout.new, layout.staged(unit)) is not None
            ):
                return False
            place.rename(layout.new, layout.place(unit), layout.staged(unit))
            return True
        if not unit.is_workspace:
            return False
        moved = False
        if place.exists(layout.new, layout.place(unit)) is not None:
            place.rename(layout.new, layout.here(unit), layout.staged(unit))
            moved = True
        if place.exists(layout.new, layout.staged_place(unit)) is not None:
            place.rename(layout.new, layout.staged_place(unit), layout.here(unit))
            moved = True
        return moved


def _check_unused(layout: Layout, units: list[Unit]) -> None:
    """Nothing but the old workspace is in a user's new tree."""
    used = []
    with place.translated(f"{layout.new} cannot be read"):
        for unit in units:
            if not unit.is_workspace or place.exists(layout.new, layout.place(unit)) is None:
                continue
            top = layout.here(unit)
            names = [(*top, name) for name, _ in place.listed(layout.new, top) if name not in ROOMS]
            for room in ROOMS:
                names += [
                    (*top, room, name)
                    for name, _ in place.listed(layout.new, (*top, room))
                    if (room, name) != (b"saved", layout.saved)
                ]
            used += [shown(b"/".join(parts)) for parts in names]
    if used:
        raise LayoutUnfit(
            f"the new layout is in use: {', '.join(used[:5])}",
            remedy="what was written there since has no place in the old layout: move it away by hand, then repeat",
            count=len(used),
        )
