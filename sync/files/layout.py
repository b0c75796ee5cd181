"""Where everything goes, and with which mode. Pure.

private/USER/...   ->  private/USER/{active,saved,temp}, and what was there under saved/migration_ID
shared/TEAM/...    ->  the same
temp/...           ->  the same
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from connectors.trees.walk import Kind, Start
from consumers.mapping.conversion import moved

AREAS = ("private", "shared", "temp")
#: of a user, in the new layout
ROOMS = (b"active", b"saved", b"temp")
#: ours, at the top of the new root and of each area in it
OURS = ".tandem-files"
OURS_NAME = OURS.encode()
AREA_MODES = {"private": 0o700, "shared": 0o770, "temp": 0o755}
#: rsync's --chmod, which says the same as `mode_of`
CHMOD = {
    "private": "Du=rwx,Dgo=,Dug-s,D-t,Fu=rwX,Fgo=,Fug-s,F-t",
    "shared": "Dug=rwx,Do=,Du-s,D-t,Fug=rwX,Fo=,Fug-s,F-t",
    "temp": None,
}

Parts = tuple[bytes, ...]


def mode_of(area: str, kind: Kind, mode: int) -> int:
    """The mode in the new layout of what has this mode in the old one.

    private: 700, shared: 770; of a file the execute bits only where it had one. A shared folder keeps its set-group-ID,
    by which new files get the team's group; all other special bits go. temp: as it is.
    """
    if area == "temp" or kind not in ("file", "folder"):
        return mode
    full = AREA_MODES[area]
    if kind == "folder":
        return full | (mode & 0o2000 if area == "shared" else 0)
    return full if mode & 0o111 else full & 0o666


@dataclass(frozen=True, slots=True)
class Unit:
    """What moves as one: an entry at the top of an area. For a folder in private: a user's workspace."""

    area: str
    name: bytes
    kind: Kind = "folder"

    @property
    def path(self) -> bytes:
        """In the old layout, from the root."""
        return self.area.encode() + b"/" + self.name

    @property
    def is_workspace(self) -> bool:
        """It gets the rooms of the new layout."""
        return self.area == "private" and self.kind == "folder"


@dataclass(frozen=True, slots=True)
class Layout:
    """Two roots. same: they are one folder. migration: the last part of saved/migration_ID."""

    old: Path
    new: Path
    same: bool
    migration: str

    @property
    def saved(self) -> bytes:
        """The name of the folder that takes an old workspace."""
        return b"migration_" + self.migration.encode()

    def here(self, unit: Unit) -> Parts:
        """Where the old root has it."""
        return unit.area.encode(), unit.name

    def staged(self, unit: Unit) -> Parts:
        """Where it waits, under the new root: for other roots the copy, for one root the new tree of a user."""
        return unit.area.encode(), OURS_NAME, unit.name

    def place(self, unit: Unit) -> Parts:
        """Where it ends, under the new root."""
        at = unit.area.encode(), unit.name
        return (*at, b"saved", self.saved) if unit.is_workspace else at

    def staged_place(self, unit: Unit) -> Parts:
        """One root: where the old workspace is put in the new tree that waits."""
        return (*self.staged(unit), b"saved", self.saved)

    def rooms(self, unit: Unit) -> list[Parts]:
        """The folders of a user's new tree, where it is made: in its place, or for one root where it waits."""
        top = self.staged(unit) if self.same else (unit.area.encode(), unit.name)
        return [top, *((*top, room) for room in ROOMS)]

    def old_start(self, unit: Unit) -> Start:
        """Where a walk of the old side begins."""
        return Start(unit.path, bytes(self.old), self.here(unit))

    def new_start(self, unit: Unit, where: Literal["staged", "placed"]) -> Start:
        """The same of the new side, told by the same path."""
        parts = self.place(unit) if where == "placed" else self.staged(unit)
        return Start(unit.path, bytes(self.new), parts)

    def moved(self, path: str) -> str:
        """What a path under the old root is called in the new layout; another one stays as it is."""
        old, new = (str(root).rstrip("/") for root in (self.old, self.new))
        return moved(path, old, new, f"saved/migration_{self.migration}")

    def old_paths(self, path: str) -> list[str]:
        """What a path under the new root may have been called in the old layout."""
        new, old = str(self.new).rstrip("/"), str(self.old).rstrip("/")
        if path != new and not path.startswith(f"{new}/"):
            return []
        parts = path[len(new) + 1 :].split("/")
        into = ["saved", f"migration_{self.migration}"]
        if parts[0] == "private" and parts[2:4] == into:
            parts[2:4] = []
        return ["/".join((old, *parts)) if path != new else old or "/"]
