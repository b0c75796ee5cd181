"""The folder of backups: each has its name only when it is whole; what is not is swept away by the next."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from connectors.errors import BackupDamaged, BackupRefused, Misused
from sync.backup import manifest
from sync.backup.manifest import Manifest

_PARTIAL = ".partial-"
_LOCK = ".tandem-backup.lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup as it is found. manifest: None where that cannot be read. problems: what is not as it says."""

    name: str
    manifest: Manifest | None
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """It is whole, as far as it was looked at."""
        return self.manifest is not None and not self.problems

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        it = self.manifest
        return {
            "name": self.name,
            "ok": self.ok,
            "problems": list(self.problems),
            "began": it.began if it else None,
            "ended": it.ended if it else None,
            "parts": list(it.parts) if it else [],
            "bytes": it.bytes if it else None,
            "source": dict(it.source) if it else {},
            "target": dict(it.target) if it else {},
        }


def named(name: str) -> str:
    """The name, if a backup can have it. Raises Misused."""
    if not _NAME.fullmatch(name):
        raise Misused(
            f"a backup cannot be named {name!r}",
            remedy="use up to 100 letters, digits, dots, dashes and underscores; the first a letter or a digit",
        )
    return name


class Store:
    """One folder of backups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self) -> None:
        """Raise BackupRefused where the folder is not there, is none, or may not be written."""
        if not self.folder.is_dir():
            what = "is no folder" if self.folder.exists() else "is not there"
            raise BackupRefused(
                f"the folder for backups {self.folder} {what}",
                remedy="make it, mount it, or correct BACKUP_PATH",
            )
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise BackupRefused(
                f"the folder for backups {self.folder} may not be written",
                remedy="give this user the right to",
            )

    @property
    def free_bytes(self) -> int:
        """Of its file system, for this user."""
        return shutil.disk_usage(self.folder).free

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time makes backups here. Raises BackupRefused beside another."""
        with (self.folder / _LOCK).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BackupRefused(
                    f"another process makes a backup in {self.folder}", remedy="wait until it has ended"
                ) from None
            yield

    def leftovers(self) -> list[Path]:
        """Of backups that did not come to their end. Under the lock they are nobody's."""
        return sorted(p for p in self.folder.glob(f"{_PARTIAL}*") if p.is_dir() and not p.is_symlink())

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """A folder to fill, which gets its name when the block has ended well and all is on the disk; else it goes."""
        partial = self.folder / f"{_PARTIAL}{name}"
        partial.mkdir(mode=0o700)
        try:
            yield partial
            synced(partial)
            partial.rename(self.folder / name)
            _sync(self.folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def place(self, name: str) -> Path:
        """Where a backup of this name is. Raises BackupRefused where there is none."""
        found = self.folder / named(name)
        if not (found / manifest.NAME).is_file():
            near = ", ".join(p.name for p in self._places()) or "none"
            raise BackupRefused(
                f"there is no backup {name} in {self.folder}", remedy=f"name one that is there: {near}"
            )
        return found

    def all(
        self, *, deep: bool = False, tell: Callable[[str, int, int], None] = lambda *_: None
    ) -> list[Listed]:
        """Every backup, oldest first, and whether it is as its manifest says."""
        return [self.look(place, deep=deep, tell=tell) for place in self._places()]

    def look(
        self, place: Path, *, deep: bool = False, tell: Callable[[str, int, int], None] = lambda *_: None
    ) -> Listed:
        """One of them. tell: name, bytes looked at, bytes of all."""
        try:
            found = manifest.read(place)
        except BackupDamaged as error:
            return Listed(place.name, None, (error.what,))
        if found.name != place.name:
            return Listed(place.name, found, (f"it was made under the name {found.name}",))
        wrong = manifest.problems(
            place, found, deep=deep, tell=lambda done: tell(place.name, done, found.bytes)
        )
        return Listed(place.name, found, tuple(wrong))

    def _places(self) -> list[Path]:
        found = [p.parent for p in self.folder.glob(f"*/{manifest.NAME}") if _NAME.fullmatch(p.parent.name)]
        return sorted(found, key=lambda p: (p.stat().st_mtime, p.name))


def synced(folder: Path) -> None:
    """Put everything below a folder on the disk: files, then the folders that name them."""
    for here, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = Path(here, name)
            if path.is_file() and not path.is_symlink():
                _sync(path)
        _sync(Path(here))


def _sync(path: Path) -> None:
    try:
        opened = os.open(path, os.O_RDONLY)
    except PermissionError:  # a file of the tree that its owner may not read either
        os.sync()
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
