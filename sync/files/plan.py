"""What is there, what becomes of it, what stands in the way, and how long the last pass will take. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from connectors.trees.place import Room
from connectors.trees.walk import Kind
from sync.files.layout import AREAS, OURS_NAME, Layout, Unit
from sync.files.state import State

#: so many of a kind are named
SAMPLES = 10


@dataclass(slots=True)
class Tally:
    """Of an area, or of all. outward: symbolic links that point out of what moves with them."""

    units: int = 0
    files: int = 0
    folders: int = 0
    links: int = 0
    bytes: int = 0
    #: what the files take on the disk
    disk_bytes: int = 0
    #: sockets, pipes, devices: they stay behind
    others: int = 0
    outward: int = 0
    outward_samples: list[str] = field(default_factory=list)
    troubles: int = 0
    trouble_samples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found. areas: the names at the top of each, in the old root. top: names at the top of the old root.
    taken: paths in the new root, of ours to be, where something is already that tandem did not put there."""

    old: Room
    new: Room
    areas: Mapping[str, Sequence[tuple[bytes, Kind]]]
    top: Sequence[tuple[bytes, Kind]]
    tallies: Mapping[str, Tally]
    taken: Sequence[str] = ()
    #: bytes on the disk that were copied already
    staged_bytes: int = 0
    as_root: bool = False
    state: State = State.NOTHING


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of the last pass, and what of it each part takes."""

    rsync_s: float = 0.0
    transfer_s: float = 0.0
    renames_s: float = 0.0
    look_s: float = 0.0
    #: bytes that would be copied now
    bytes: int = 0
    files: int = 0

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.rsync_s + self.transfer_s + self.renames_s + self.look_s


@dataclass(frozen=True, slots=True)
class FilesPlan:
    """complaints: why it cannot be done so; notes: what the operator should know."""

    layout: Layout
    units: Sequence[Unit]
    tallies: Mapping[str, Tally]
    complaints: Sequence[str]
    notes: Sequence[str]
    free_bytes: int
    prediction: Prediction | None = None
    state: State = State.NOTHING

    @property
    def ok(self) -> bool:
        """Nothing stands in the way."""
        return not self.complaints

    @property
    def workspaces(self) -> int:
        """Users with a workspace."""
        return sum(unit.is_workspace for unit in self.units)

    @property
    def totals(self) -> tuple[int, int]:
        """Bytes and files."""
        return sum(t.bytes for t in self.tallies.values()), sum(t.files for t in self.tallies.values())

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "state": str(self.state),
            "old": str(self.layout.old),
            "new": str(self.layout.new),
            "same_root": self.layout.same,
            "saved_as": os.fsdecode(self.layout.saved),
            "workspaces": self.workspaces,
            "areas": {
                name: {
                    "units": t.units,
                    "files": t.files,
                    "folders": t.folders,
                    "links": t.links,
                    "bytes": t.bytes,
                    "disk_bytes": t.disk_bytes,
                    "left_behind": t.others,
                    "links_outward": t.outward,
                    "unreadable": t.troubles,
                }
                for name, t in self.tallies.items()
            },
            "free_bytes": self.free_bytes,
            "complaints": list(self.complaints),
            "notes": list(self.notes),
            "final_pass": None
            if (p := self.prediction) is None
            else {
                "seconds": round(p.seconds, 3),
                "rsync_s": round(p.rsync_s, 3),
                "transfer_s": round(p.transfer_s, 3),
                "renames_s": round(p.renames_s, 3),
                "look_s": round(p.look_s, 3),
                "bytes": p.bytes,
                "files": p.files,
            },
        }


def units_of(
    areas: Mapping[str, Sequence[tuple[bytes, Kind]]], leave: Sequence[str]
) -> tuple[list[Unit], list[str]]:
    """What moves, and what is left because the settings say so."""
    units, left = [], []
    for area in AREAS:
        for name, kind in areas.get(area, ()):
            if name == OURS_NAME or kind == "other":
                continue
            unit = Unit(area, name, kind)
            if any(fnmatchcase(os.fsdecode(unit.path), pattern) for pattern in leave):
                left.append(shown(unit.path))
            else:
                units.append(unit)
    return units, left


def plan(
    listing: Listing,
    layout: Layout,
    leave: Sequence[str] = (),
    prediction: Prediction | None = None,
) -> FilesPlan:
    """Judge what was found."""
    units, left = units_of(listing.areas, leave)
    complaints, notes = [], []
    unknown = [
        os.fsdecode(name)
        for name, _ in listing.top
        if os.fsdecode(name) not in AREAS
        and name != OURS_NAME
        and not any(fnmatchcase(os.fsdecode(name), pattern) for pattern in leave)
    ]
    if unknown and not layout.same:
        complaints.append(
            f"the old root has more than {', '.join(AREAS)}, which the new layout has no place for:"
            f" {_few(unknown)}; move it by hand, then name it under files.leave"
        )
    elsewhere = [shown(unit.path) for unit in units if unit.area == "private" and unit.kind == "link"]
    if elsewhere:
        complaints.append(
            f"workspaces that are symbolic links, and so lie elsewhere: {_few(elsewhere)}; put the folder itself"
            " there (or mount it there), or name them under files.leave"
        )
    for area in AREAS:
        if any(name == area.encode() and kind != "folder" for name, kind in listing.top):
            complaints.append(f"{area} in the old root is no folder")
    if listing.taken:
        complaints.append(
            f"in the new root something is there already: {_few(listing.taken)}; move it away, or choose another"
            " files.migration_id"
        )
    troubles = [sample for tally in listing.tallies.values() for sample in tally.trouble_samples]
    if troubles:
        count = sum(tally.troubles for tally in listing.tallies.values())
        complaints.append(f"{count:,} files or folders cannot be read: {_few(troubles)}; run it as root")
    needed = sum(tally.disk_bytes for tally in listing.tallies.values()) - listing.staged_bytes
    if not layout.same and needed > listing.new.free_bytes:
        complaints.append(
            f"the new root has {listing.new.free_bytes:,} bytes free; {needed:,} more are needed"
        )
    notes += _notes(listing, left, units)
    return FilesPlan(
        layout, units, listing.tallies, complaints, notes, listing.new.free_bytes, prediction, listing.state
    )


def _notes(listing: Listing, left: Sequence[str], units: Sequence[Unit]) -> list[str]:
    notes = []
    if not listing.as_root:
        notes.append("not run as root: files will belong to this user, not to who owns them now")
    if not any(unit.is_workspace for unit in units):
        notes.append("there are no workspaces under private/")
    stray = [shown(unit.path) for unit in units if unit.area == "private" and unit.kind == "file"]
    if stray:
        notes.append(f"files beside the workspaces in private/ stay beside them: {_few(stray)}")
    if left:
        notes.append(f"left where it is, as files.leave says: {_few(left)}")
    others = sum(tally.others for tally in listing.tallies.values())
    if others:
        notes.append(f"{others:,} sockets, pipes or devices stay behind: they hold nothing")
    outward = sum(tally.outward for tally in listing.tallies.values())
    if outward:
        samples = [sample for tally in listing.tallies.values() for sample in tally.outward_samples]
        notes.append(
            f"{outward:,} symbolic links point out of their workspace; they are kept as they are, and may point to"
            f" nothing afterwards: {_few(samples)}"
        )
    return notes


def points_out(folder: bytes, target: bytes) -> bool:
    """Whether a link in this folder (by its path from the root) points out of its workspace. By its text alone."""
    if target.startswith(b"/"):
        return True
    depth = folder.count(b"/") - 1  # below the workspace: private/7 is 0
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0:
            return True
    return False


def shown(path: bytes) -> str:
    """A path for people: bytes that are no UTF-8, and control characters, as escapes."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _few(names: Sequence[str]) -> str:
    more = len(names) - SAMPLES
    return ", ".join(names[:SAMPLES]) + (f" and {more:,} more" if more > 0 else "")
