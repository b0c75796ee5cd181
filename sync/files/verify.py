"""Whether the new root holds what the old one does, byte for byte; and whether the paths in documents exist in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from dataclasses import field as made
from itertools import islice
from pathlib import Path

from connectors.errors import LayoutUnfit
from connectors.trees import place
from connectors.trees.manifest import Summary
from connectors.trees.walk import Entry, Walk
from sync.files.compare import SUSPECT, Comparison, Difference, compare
from sync.files.copy import Desk, look, old_units, strays
from sync.files.layout import AREAS, OURS_NAME, Layout, Unit, mode_of
from sync.files.plan import SAMPLES
from sync.files.state import Placed, State

#: looked at together, by threads
_AT_ONCE = 2_000
_LOOKERS = 8


@dataclass(frozen=True, slots=True)
class PathField:
    """A field of documents that holds paths, and some of its values."""

    collection: str
    field: str
    values: Iterable[str]


@dataclass(slots=True)
class PathsReport:
    """Of one field. missing: there is no such path, and in the old layout there was one. unmoved: it is a path of the
    old layout: the mapping does not rewrite the field. dangling: there was nothing in the old layout either. outside:
    under neither root."""

    collection: str
    field: str
    checked: int = 0
    missing: int = 0
    unmoved: int = 0
    dangling: int = 0
    outside: int = 0
    samples: list[str] = made(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self)


@dataclass(slots=True)
class FilesReport:
    """What was compared. state: where the files stand; before they are placed, differences are what the last pass
    would copy."""

    state: State
    old: Summary | None = None
    new: Summary | None = None
    compared: Comparison = made(default_factory=Comparison)
    paths: list[PathsReport] = made(default_factory=list)
    #: bytes that were read now; of what had not changed since it was read last, the digest was kept
    read: int = 0
    moving: int = 0
    manifest: Path | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Everything is in its place, nothing differs, and no document points to what is missing."""
        return (
            self.state is State.PLACED
            and not self.compared.differing
            and not any(one.missing or one.unmoved for one in self.paths)
        )

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""

        def of(summary: Summary | None) -> dict[str, object] | None:
            return None if summary is None else asdict(summary)

        return {
            "ok": self.ok,
            "state": str(self.state),
            "old": of(self.old),
            "new": of(self.new),
            "compared": self.compared.as_dict(),
            "paths": [one.as_dict() for one in self.paths],
            "read_bytes": self.read,
            "moving": self.moving,
            "manifest": None if self.manifest is None else str(self.manifest),
            "seconds": round(self.seconds, 3),
        }


def verify(
    layout: Layout,
    desk: Desk,
    leave: Sequence[str] = (),
    *,
    workers: int,
    fully: bool = False,
    stop: Callable[[], bool] | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> FilesReport:
    """Compare both sides. fully: read everything, also what has not changed since it was read last.

    One root: a workspace is the same folder as before by its inode; modes are looked at, content is not read.
    Raises LayoutUnfit where nothing was copied, or a pass was cut off.
    """
    standing = desk.standing
    report = FilesReport(standing.state)
    if standing.state is State.NOTHING:
        raise LayoutUnfit(
            "nothing was copied yet", remedy="run `tandem files copy`, then `--pass final --execute`"
        )
    if standing.state in (State.PLACING, State.TAKING_BACK):
        raise LayoutUnfit(
            f"the files are in between: {standing.state}", remedy="run the command that was cut off again"
        )
    if layout.same:
        report.compared = _same_folders(layout, list(standing.placed), leave, workers, stop)
        return report
    placed = standing.state is State.PLACED
    there = [one.unit for one in standing.placed] if placed else _waiting(layout)
    units = list(dict.fromkeys([*old_units(layout, leave), *there]))
    with place.translated(f"{desk.folder} cannot be written"):
        exact = place.keeps_nanoseconds(desk.folder)
    with desk.manifest() as manifest:
        for walk in look(
            layout, units, manifest, "placed" if placed else "staged", workers, stop, tell, fully=fully
        ):
            report.read += walk.read
            report.moving += len(walk.moving)
        report.compared = compare(manifest.pairs(SUSPECT), owners=os.geteuid() == 0, nanoseconds=exact)
        report.manifest = desk.folder / "manifest.jsonl"
        with place.translated(f"{report.manifest} cannot be written"):
            report.new = manifest.summary("new", report.manifest)
        report.old = manifest.summary("old")
    return report


def _waiting(layout: Layout) -> list[Unit]:
    with place.translated(f"{layout.new} cannot be read"):
        return [
            Unit(area, name, kind)
            for area in AREAS
            for name, kind in place.listed(layout.new, (area.encode(), OURS_NAME))
        ]


def _same_folders(
    layout: Layout, placed: list[Placed], leave: Sequence[str], workers: int, stop: Callable[[], bool] | None
) -> Comparison:
    """One root: each workspace is the folder that it was, with the modes of the new layout."""
    found = Comparison()

    def differs(path: bytes, reason: str) -> None:
        found.differing += 1
        found.counts[reason] += 1
        if len(found.samples) < SAMPLES:
            found.samples.append(Difference(path, (reason,)))

    with place.translated(f"{layout.new} cannot be read"):
        for one in placed:
            at = layout.place(one.unit)
            if place.exists(layout.new, at) is None:
                differs(one.unit.path, "missing")
            elif place.same_folder(layout.new, at) != (one.device, one.inode):
                differs(one.unit.path, "content")
    for path in strays(layout, old_units(layout, leave)):
        differs(path, "extra")

    def take(_: bytes, entries: Iterable[Entry], __: object) -> None:
        for entry in entries:
            area = entry.path.partition(b"/")[0].decode("ascii", "replace")
            if entry.kind in ("file", "folder") and mode_of(area, entry.kind, entry.mode) != entry.mode:
                differs(entry.path, "mode")

    Walk(take, workers=workers, stop=stop).run([layout.new_start(one.unit, "placed") for one in placed])
    return found


def check_paths(layout: Layout, fields: Iterable[PathField]) -> list[PathsReport]:
    """Look at every path that documents hold. Links are followed: what the application would find."""
    reports = []
    with ThreadPoolExecutor(_LOOKERS) as pool:
        for one in fields:
            report = PathsReport(one.collection, one.field)
            values = iter(one.values)
            while some := list(islice(values, _AT_ONCE)):
                for value, found in zip(some, pool.map(lambda v: _judged(layout, v), some), strict=True):
                    report.checked += 1
                    if found is not None:
                        setattr(report, found, getattr(report, found) + 1)
                        if len(report.samples) < SAMPLES:
                            report.samples.append(f"{found}: {value}")
            reports.append(report)
    return reports


def _judged(layout: Layout, value: str) -> str | None:
    """What is wrong with a path; None: it is there."""
    old, new = (str(root).rstrip("/") + "/" for root in (layout.old, layout.new))
    if not f"{value}/".startswith(new):
        return "unmoved" if f"{value}/".startswith(old) else "outside"
    if _is_there(value):
        return None
    if layout.same and layout.moved(value) != value and _is_there(layout.moved(value)):
        return "unmoved"
    return "missing" if any(_is_there(path) for path in layout.old_paths(value)) else "dangling"


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # NUL in it: no path at all
        return False
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return False
        raise place.error_of(error, "a path that a document holds cannot be looked at") from error
    return True
