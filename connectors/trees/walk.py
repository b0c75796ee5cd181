"""Everything under some folders, looked at by several threads; no symbolic link is followed, whatever changes."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple

from connectors.errors import Stopped

Kind = Literal["file", "folder", "link", "other"]
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = 1 << 20
#: times that a file which changes is read
_TRIES = 3
#: a file that changed so lately is read again: it may change once more without its times showing it
_SETTLED_NS = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin: the entry at parts under root, told as `path`."""

    path: bytes
    root: bytes
    parts: tuple[bytes, ...]


class Entry(NamedTuple):
    """One file, folder, link, or other thing. digest: BLAKE2b of a file's content, where it was asked for."""

    folder: bytes
    name: bytes
    kind: Kind
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    device: int
    inode: int
    links: int
    blocks: int
    target: bytes = b""
    digest: bytes = b""
    #: it had not changed for long when it was read: what has these times and this inode still is the same
    settled: bool = False

    @property
    def path(self) -> bytes:
        """Folder and name."""
        return self.folder + b"/" + self.name if self.folder else self.name

    def same_as(self, known: Entry) -> bool:
        """Nothing was written to it since."""
        return (self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns, self.kind) == (
            known.device,
            known.inode,
            known.size,
            known.mtime_ns,
            known.ctime_ns,
            known.kind,
        )


@dataclass(slots=True)
class WalkReport:
    """What a walk met. Counts are of entries taken."""

    files: int = 0
    folders: int = 0
    links: int = 0
    others: int = 0
    size: int = 0
    #: bytes that were read, those of digests known from before left out
    read: int = 0
    #: (path, errno) of what could not be looked at; the first ones
    troubles: list[tuple[bytes, int]] = field(default_factory=list)
    trouble_count: int = 0
    #: paths of files that changed each time they were read; the first ones
    moving: list[bytes] = field(default_factory=list)
    seconds: float = 0.0


Take = Callable[[bytes, Sequence[Entry], Mapping[bytes, Entry]], None]
Known = Callable[[bytes], Mapping[bytes, Entry]]
_KEPT = 20


class Walk:
    """One walk.

    take: given each folder's path, its entries, and what was known of them, from several threads. known: what is known
    of a folder's entries by name. digests: read the files. reuse: but not those that are as they are known. tell: bytes
    and files so far.
    """

    def __init__(
        self,
        take: Take,
        *,
        digests: bool = False,
        known: Known | None = None,
        reuse: bool = True,
        workers: int = 4,
        stop: Callable[[], bool] | None = None,
        tell: Callable[[int, int], None] | None = None,
        skip: frozenset[bytes] = frozenset(),
    ) -> None:
        self._take, self._known, self._digests, self._reuse = take, known, digests, reuse
        self._workers, self._stop, self._tell = workers, stop, tell
        #: names that are passed over at the top of a start
        self._skip = skip
        self._todo: list[tuple[Start, tuple[bytes, ...]]] = []
        self._busy = 0
        self._turn = threading.Condition()
        self._error: BaseException | None = None
        self.report = WalkReport()

    def run(self, starts: Iterable[Start]) -> WalkReport:
        """Look at every start and at all under them. Raises Stopped, and what `take` raises."""
        began = time.monotonic()
        self._settled_before = time.time_ns() - _SETTLED_NS
        by_parent: dict[tuple[bytes, bytes, tuple[bytes, ...]], list[Start]] = {}
        for start in starts:
            at = (start.path.rpartition(b"/")[0], start.root, start.parts[:-1])
            by_parent.setdefault(at, []).append(start)
        tops: dict[bytes, list[Entry]] = {}
        for (folder, root, parts), of in by_parent.items():
            tops.setdefault(folder, []).extend(self._look_at_starts(folder, root, parts, of))
        for folder, found in tops.items():
            self._count(found)
            self._take(folder, found, self._known(folder) if self._known is not None else {})
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        self.report.seconds = time.monotonic() - began
        return self.report

    def _look_at_starts(
        self, folder: bytes, root: bytes, parts: tuple[bytes, ...], starts: Sequence[Start]
    ) -> list[Entry]:
        try:
            at = open_folder(root, parts)
        except OSError as error:
            for start in starts:
                self._trouble(start.path, error)
            return []
        found = []
        try:
            for start in starts:
                entry = self._entry(at, folder, start.path.rpartition(b"/")[2], start.parts[-1], {})
                if entry is not None:
                    found.append(entry)
                    if entry.kind == "folder":
                        self._todo.append((start, ()))
        finally:
            os.close(at)
        return found

    def _work(self) -> None:
        while True:
            with self._turn:
                while not self._todo and self._busy and self._error is None:
                    self._turn.wait()
                if self._error is not None or not self._todo:
                    self._turn.notify_all()
                    return
                start, parts = self._todo.pop()  # the last one first: few wait at a time
                self._busy += 1
            try:
                if self._stop is not None and self._stop():
                    raise Stopped("it was told to stop", remedy="run it again")
                more = self._folder(start, parts)
            except BaseException as error:
                more, self._error = [], error
            with self._turn:
                self._busy -= 1
                self._todo += more
                self._turn.notify_all()

    def _folder(self, start: Start, parts: tuple[bytes, ...]) -> list[tuple[Start, tuple[bytes, ...]]]:
        path = b"/".join((start.path, *parts))
        try:
            at = open_folder(start.root, start.parts + parts)
        except OSError as error:
            self._trouble(path, error)
            return []
        try:
            try:
                names = [os.fsencode(name) for name in os.listdir(at)]
            except OSError as error:
                self._trouble(path, error)
                return []
            known = self._known(path) if self._known is not None else {}
            if not parts and self._skip:
                names = [name for name in names if name not in self._skip]
            found = [e for name in names if (e := self._entry(at, path, name, name, known)) is not None]
        finally:
            os.close(at)
        self._count(found)
        self._take(path, found, known)
        return [(start, (*parts, entry.name)) for entry in found if entry.kind == "folder"]

    def _entry(
        self, at: int, folder: bytes, name: bytes, real: bytes, known: Mapping[bytes, Entry]
    ) -> Entry | None:
        """None: it is not there any more, or cannot be looked at."""
        try:
            entry = _looked_at(at, folder, name, real)
            if self._digests and entry.kind == "file":
                before = known.get(name) if self._reuse else None
                if before is not None and before.settled and before.digest and entry.same_as(before):
                    return entry._replace(digest=before.digest, settled=True)
                entry = self._read(at, entry, real)
        except OSError as error:
            self._trouble(folder + b"/" + name if folder else name, error)
            return None
        return entry

    def _read(self, at: int, entry: Entry, real: bytes) -> Entry:
        """With its digest; without, when it changed each time."""
        for _ in range(_TRIES):
            digest, size = self._digest(at, real)
            after = _looked_at(at, entry.folder, entry.name, real)
            if after.same_as(entry) and size == entry.size:
                return entry._replace(digest=digest, settled=entry.ctime_ns < self._settled_before)
            entry = after
            if entry.kind != "file":
                return entry
        with self._turn:
            if len(self.report.moving) < _KEPT:
                self.report.moving.append(entry.path)
        return entry

    def _digest(self, at: int, real: bytes) -> tuple[bytes, int]:
        made, size = blake2b(digest_size=32), 0
        opened = os.open(real, _OPEN_FILE, dir_fd=at)
        try:
            while block := os.read(opened, _BLOCK):
                made.update(block)
                size += len(block)
                if self._stop is not None and size % (64 * _BLOCK) == 0 and self._stop():
                    raise Stopped("it was told to stop", remedy="run it again")
        finally:
            os.close(opened)
        with self._turn:
            self.report.read += size
        return made.digest(), size

    def _count(self, entries: Sequence[Entry]) -> None:
        counts = Counter(entry.kind for entry in entries)
        size = sum(entry.size for entry in entries if entry.kind == "file")
        with self._turn:
            report = self.report
            report.files += counts["file"]
            report.folders += counts["folder"]
            report.links += counts["link"]
            report.others += counts["other"]
            report.size += size
            if self._tell is not None:
                self._tell(report.size, report.files)

    def _trouble(self, path: bytes, error: OSError) -> None:
        if error.errno == errno.ENOENT:  # it went meanwhile
            return
        with self._turn:
            self.report.trouble_count += 1
            if len(self.report.troubles) < _KEPT:
                self.report.troubles.append((path, error.errno or 0))


def open_folder(root: bytes, parts: Sequence[bytes]) -> int:
    """A descriptor of a folder under root, no link below root followed. Raises OSError."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            below = os.open(part, _OPEN_DIR, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def _looked_at(at: int, folder: bytes, name: bytes, real: bytes) -> Entry:
    found = os.stat(real, dir_fd=at, follow_symlinks=False)
    kind = kind_of(found.st_mode)
    return Entry(
        folder,
        name,
        kind,
        found.st_size if kind in ("file", "link") else 0,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_dev,
        found.st_ino,
        found.st_nlink,
        found.st_blocks,
        os.fsencode(os.readlink(real, dir_fd=at)) if kind == "link" else b"",
    )


def kind_of(mode: int) -> Kind:
    """What a st_mode says it is."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"
