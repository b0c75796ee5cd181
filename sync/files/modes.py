"""The modes of the new layout for files that keep their inodes, on one root; and back. What a mode was is on the disk
before it is changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from connectors.trees import place
from connectors.trees.place import Journal
from connectors.trees.walk import Entry, Walk
from sync.files.layout import AREA_MODES, Layout, Parts, Unit, mode_of

#: of one line's worth of waiting for the disk
_AT_ONCE = 5_000
_CHANGING = ("private", "shared")


def set_modes(
    layout: Layout, units: Sequence[Unit], journal: Journal, workers: int, stop: Callable[[], bool] | None
) -> int:
    """Give what is in its place the modes of the new layout. Returns how many changed. Safe to repeat."""
    wanted = [unit for unit in units if unit.area in _CHANGING]
    by_path = {unit.path: unit for unit in wanted}
    changes: list[tuple[Entry, int]] = []
    lock = threading.Lock()

    def take(_: bytes, entries: Sequence[Entry], __: object) -> None:
        found = [
            (e, mode)
            for e in entries
            if e.kind in ("file", "folder") and (mode := mode_of(_area(e), e.kind, e.mode)) != e.mode
        ]
        with lock:
            changes.extend(found)

    Walk(take, workers=workers, stop=stop).run([layout.new_start(unit, "placed") for unit in wanted])
    with place.translated("modes cannot be set"):
        for area in _CHANGING:
            _set_area(layout, area, journal)
        for at in range(0, len(changes), _AT_ONCE):
            now = changes[at : at + _AT_ONCE]
            journal.append(*({"path": e.path.hex(), "mode": e.mode} for e, _ in now))
            for entry, mode in now:
                _set(layout, _where(layout, by_path, entry.path), mode)
    return len(changes)


def restore_modes(layout: Layout, journal: Journal) -> int:
    """Give what is back in the old layout the modes that it had. Returns how many. Safe to repeat."""
    done = set()
    with place.translated("modes cannot be set back"):
        for line in journal.read():
            path = bytes.fromhex(line["path"])
            if path not in done:  # the first line has the mode from before all passes
                done.add(path)
                _set(layout, tuple(path.split(b"/")), line["mode"])
    return len(done)


def _set(layout: Layout, parts: Parts, mode: int) -> None:
    try:
        place.set_mode(layout.new, parts, mode)
    except FileNotFoundError:  # it went meanwhile
        return


def _set_area(layout: Layout, area: str, journal: Journal) -> None:
    mode = place.mode_at(layout.new, (area.encode(),))
    wanted = AREA_MODES[area]
    if mode is not None and mode & 0o777 != wanted:
        journal.append({"path": area.encode().hex(), "mode": mode})
        place.set_mode(layout.new, (area.encode(),), wanted | mode & 0o7000)


def _area(entry: Entry) -> str:
    return entry.path.partition(b"/")[0].decode("ascii", "replace")


def _where(layout: Layout, units: dict[bytes, Unit], path: bytes) -> Parts:
    area, _, rest = path.partition(b"/")
    name, _, inside = rest.partition(b"/")
    parts = layout.place(units[area + b"/" + name])
    return (*parts, *inside.split(b"/")) if inside else parts
