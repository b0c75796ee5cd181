"""Where the files stand, as the journal under the new root tells it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sync.files.layout import Layout, Unit


class State(StrEnum):
    """Of the files of one migration."""

    #: nothing was done
    NOTHING = "nothing"
    #: a hot pass began: copies wait under the new root, nothing is in its place
    COPYING = "copying"
    #: a hot pass ended
    COPIED = "copied"
    #: the last pass: units are put in their places
    PLACING = "placing"
    #: all are in their places
    PLACED = "placed"
    #: units are taken back out of their places
    TAKING_BACK = "taking back"


@dataclass(frozen=True, slots=True)
class Placed:
    """A unit that is put in its place. device and inode: of the folder, with one root; it keeps them."""

    unit: Unit
    device: int = 0
    inode: int = 0


@dataclass(slots=True)
class Standing:
    """state; begun: the roots and the id that it began with; placed: what the last pass put in places, or is about to;
    rate: bytes a second of the last hot pass that copied much."""

    state: State = State.NOTHING
    begun: Mapping[str, Any] | None = None
    placed: Sequence[Placed] = field(default_factory=tuple)
    rate: float | None = None


#: so many bytes say how fast copying is
_TELLING = 10_000_000


def standing(lines: Iterable[Mapping[str, Any]]) -> Standing:
    """Read the journal."""
    found = Standing()
    for line in lines:
        event = line["event"]
        if event == "begun":
            found.begun = line
            found.state = State.COPYING
        elif event == "copied":
            found.state = State.COPIED
            if line["bytes"] >= _TELLING and line["seconds"] > 0:
                found.rate = line["bytes"] / line["seconds"]
        elif event == "placing":
            found.state = State.PLACING
            found.placed = tuple(_placed(one) for one in line["units"])
        elif event == "placed":
            found.state = State.PLACED
        elif event == "taking_back":
            found.state = State.TAKING_BACK
        elif event == "taken_back":
            found.state, found.placed = State.COPIED, ()
    return found


def begun(layout: Layout) -> dict[str, Any]:
    """The line that begins a migration, or a pass of it."""
    return {
        "event": "begun",
        "old": str(layout.old),
        "new": str(layout.new),
        "migration": layout.migration,
        "same": layout.same,
    }


def placing(units: Iterable[Placed]) -> dict[str, Any]:
    """The line before the first rename."""
    return {
        "event": "placing",
        "units": [
            {
                "area": one.unit.area,
                "name": one.unit.name.hex(),
                "kind": one.unit.kind,
                "device": one.device,
                "inode": one.inode,
            }
            for one in units
        ],
    }


def _placed(line: Mapping[str, Any]) -> Placed:
    unit = Unit(line["area"], bytes.fromhex(line["name"]), line["kind"])
    return Placed(unit, line["device"], line["inode"])
