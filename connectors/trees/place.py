"""What is done to folders: made, renamed, given modes, and a journal of it on the disk before it is done."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from connectors.errors import (
    FilesBusy,
    LayoutUnfit,
    RootDenied,
    RootFull,
    RootStale,
    RootUnfit,
    SyncError,
)
from connectors.trees.walk import Kind, kind_of, open_folder

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_STALE = {
    errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO,
    errno.EREMOTEIO,
}  # fmt: skip
#: a mount whose server is gone does not answer at all
_ANSWER_WITHIN_S = 10.0


def error_of(error: OSError, doing: str) -> SyncError:
    """The error of this project that the system's stands for, by its errno."""
    what = f"{doing}: {os.strerror(error.errno or 0)}"
    facts = {"path": os.fsdecode(error.filename)} if error.filename is not None else {}
    if error.errno in _FULL:
        return RootFull(what, remedy="make room, or raise the quota; the same command goes on", **facts)
    if error.errno in _DENIED:
        return RootDenied(
            what,
            remedy="run it as root, or give this user the right; a read-only mount: mount it anew",
            **facts,
        )
    if error.errno in _STALE:
        return RootStale(
            what,
            remedy="see whether the mount is there and its server answers; the same command goes on",
            **facts,
        )
    if error.errno == errno.EXDEV:
        return LayoutUnfit(
            f"{doing}: it would cross from one file system to another",
            remedy="a folder under the root is a mount of its own: move it by hand, or name it under files.leave",
            **facts,
        )
    if error.errno == errno.EBUSY:
        return LayoutUnfit(
            what,
            remedy="it is a mount of its own, or in use: unmount it, or name it under files.leave",
            **facts,
        )
    return RootUnfit(what, remedy="see the path; then run the same command again", **facts)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Let the system's errors out as errors of this project."""
    try:
        yield
    except OSError as error:
        raise error_of(error, doing) from error


@dataclass(frozen=True, slots=True)
class Room:
    """A root as it is. device and inode: which folder it is, whatever it is called."""

    device: int
    inode: int
    free_bytes: int
    free_files: int
    #: of files in use: 0 where the file system does not count them
    mode: int
    uid: int
    gid: int


def look(root: Path, what: str) -> Room:
    """The root, which answers within ten seconds. Raises RootUnfit, RootStale, RootDenied."""
    found: list[Room | OSError] = []

    def ask() -> None:
        try:
            of, room = os.stat(root), os.statvfs(root)
            if not stat.S_ISDIR(of.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(root))
            os.close(os.open(root, os.O_RDONLY | os.O_DIRECTORY))
            free = room.f_bavail * room.f_frsize
            found.append(
                Room(
                    of.st_dev, of.st_ino, free, room.f_favail, stat.S_IMODE(of.st_mode), of.st_uid, of.st_gid
                )
            )
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_WITHIN_S)
    if not found:
        raise RootStale(
            f"{what} {root} does not answer",
            remedy="its server is away or the mount is stale: see `mount` and the server, then run the same again",
            waited_s=_ANSWER_WITHIN_S,
        )
    if isinstance(found[0], OSError):
        if found[0].errno in (errno.ENOENT, errno.ENOTDIR):
            raise RootUnfit(
                f"{what} {root} is not there, or is no folder", remedy="correct the path, or mount it there"
            )
        raise error_of(found[0], f"{what} {root} cannot be opened") from found[0]
    return found[0]


def mount_of(path: Path) -> Path:
    """The mount that a folder lies on. To be asked of one that answers (`look`)."""
    at = path.resolve()
    while not os.path.ismount(at):
        at = at.parent
    return at


def may(path: Path) -> tuple[bool, bool]:
    """Whether this user may read a folder, and write it; on NFS the server is asked."""
    return os.access(path, os.R_OK | os.X_OK), os.access(path, os.W_OK | os.X_OK)


def listed(root: Path, parts: Sequence[bytes] = ()) -> list[tuple[bytes, Kind]]:
    """Names and kinds in a folder, in order. Nothing where the folder is not there. Raises OSError."""
    try:
        at = open_folder(os.fsencode(root), parts)
    except FileNotFoundError:
        return []
    try:
        names = sorted(os.fsencode(name) for name in os.listdir(at))
        return [(name, kind_of(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)) for name in names]
    finally:
        os.close(at)


@contextmanager
def locked(path: Path, wait_s: float = 15.0) -> Iterator[int]:
    """Be the only process at work on what this file stands for. Yields the descriptor: who inherits it holds the lock.

    Raises FilesBusy when another one has it for longer than wait_s.
    """
    with translated(f"{path} cannot be opened"):
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.1)
                    continue
                who = os.pread(held, 200, 0).decode(errors="replace").strip()
                raise FilesBusy(
                    "another process is at work on these files",
                    remedy="wait until it has ended, or end it; then run the same command",
                    by=who or "unknown",
                ) from None
            except OSError as error:
                raise error_of(error, f"{path} cannot be locked") from error
        os.ftruncate(held, 0)
        os.pwrite(held, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield held
    finally:
        os.close(held)


class Journal:
    """Lines of JSON that are on the disk before what they say is done. A last line that is cut off does not count."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[dict[str, Any]]:
        """All lines. Raises OSError."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines() if line]

    def append(self, *lines: Mapping[str, Any]) -> None:
        """Write lines; they are on the disk when this returns. Raises OSError."""
        existed = self._path.exists()
        with self._path.open("ab+") as file:
            _mend(file)
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        if not existed:
            sync_folder(self._path.parent)

    def forget(self) -> None:
        """It is empty. Raises OSError."""
        self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)


def _mend(file: IO[bytes]) -> None:
    """Take away a last line that was cut off when it was written."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def sync_folder(path: Path) -> None:
    """What was renamed in this folder is on the disk. Where a file system can't, it does so at once anyway."""
    at = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(at)
    finally:
        os.close(at)


def sync_all(root: Path) -> None:
    """All that was written under root's file system is on the disk."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ctypes.CDLL(None, use_errno=True).syncfs(at)
    finally:
        os.close(at)


def exists(root: Path, parts: Sequence[bytes]) -> Kind | None:
    """What is there, no link under root followed. None: nothing. Raises OSError."""
    try:
        at = open_folder(os.fsencode(root), parts[:-1])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    try:
        return kind_of(os.stat(parts[-1], dir_fd=at, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None
    finally:
        os.close(at)


def make(root: Path, parts: Sequence[bytes], mode: int, like: tuple[int, int] | None = None) -> None:
    """A folder with this mode, and of this owner and group when root asks. Safe to repeat. Raises OSError."""
    at = open_folder(os.fsencode(root), parts[:-1])
    try:
        with suppress(FileExistsError):
            os.mkdir(parts[-1], mode, dir_fd=at)
        made = os.open(parts[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
        try:
            found = os.fstat(made)
            if like is not None and os.geteuid() == 0 and (found.st_uid, found.st_gid) != like:
                os.fchown(made, *like)
            if stat.S_IMODE(found.st_mode) != mode:
                os.fchmod(made, mode)
        finally:
            os.close(made)
    finally:
        os.close(at)


def rename(root: Path, source: Sequence[bytes], target: Sequence[bytes]) -> None:
    """Both under root. A folder takes the place of an empty one. Raises OSError."""
    of = open_folder(os.fsencode(root), source[:-1])
    try:
        to = open_folder(os.fsencode(root), target[:-1])
        try:
            os.rename(source[-1], target[-1], src_dir_fd=of, dst_dir_fd=to)
        finally:
            os.close(to)
    finally:
        os.close(of)


def owner_of(root: Path, parts: Sequence[bytes]) -> tuple[int, int]:
    """Owner and group. Raises OSError."""
    at = open_folder(os.fsencode(root), parts[:-1])
    try:
        found = os.stat(parts[-1], dir_fd=at, follow_symlinks=False)
        return found.st_uid, found.st_gid
    finally:
        os.close(at)


def mode_at(root: Path, parts: Sequence[bytes]) -> int | None:
    """The mode of what is there. None: nothing. Raises OSError."""
    if exists(root, parts) is None:
        return None
    at = open_folder(os.fsencode(root), parts[:-1])
    try:
        return stat.S_IMODE(os.stat(parts[-1], dir_fd=at, follow_symlinks=False).st_mode)
    finally:
        os.close(at)


def set_mode(root: Path, parts: Sequence[bytes], mode: int) -> None:
    """The mode of a file or folder, never of what a link points to. Raises OSError."""
    at = open_folder(os.fsencode(root), parts[:-1])
    try:
        opened = os.open(parts[-1], os.O_PATH | os.O_NOFOLLOW, dir_fd=at)
        try:
            if not stat.S_ISLNK(os.fstat(opened).st_mode):
                os.chmod(f"/proc/self/fd/{opened}", mode)
        finally:
            os.close(opened)
    finally:
        os.close(at)


def remove(root: Path, parts: Sequence[bytes]) -> None:
    """A file, link, or folder with all in it; links are not followed. Nothing where it is not there."""
    at = open_folder(os.fsencode(root), parts[:-1])
    try:
        found = os.stat(parts[-1], dir_fd=at, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(os.fsdecode(parts[-1]), dir_fd=at)
        else:
            os.unlink(parts[-1], dir_fd=at)
    except FileNotFoundError:
        pass
    finally:
        os.close(at)


def remove_empty(root: Path, parts: Sequence[bytes]) -> bool:
    """A folder with nothing in it. False: something is in it. Nothing where it is not there. Raises OSError."""
    try:
        at = open_folder(os.fsencode(root), parts[:-1])
    except FileNotFoundError:
        return True
    try:
        os.rmdir(parts[-1], dir_fd=at)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    finally:
        os.close(at)
    return True


def same_folder(root: Path, parts: Sequence[bytes]) -> tuple[int, int]:
    """Device and inode of what is there, by which it is known again. Raises OSError."""
    at = open_folder(os.fsencode(root), parts[:-1])
    try:
        found = os.stat(parts[-1], dir_fd=at, follow_symlinks=False)
        return found.st_dev, found.st_ino
    finally:
        os.close(at)


def keeps_nanoseconds(folder: Path) -> bool:
    """Whether times that are this exact come back as they were set. Writes a file there for a moment."""
    probe = folder / f"probe-{os.getpid()}"
    probe.write_bytes(b"")
    try:
        os.utime(probe, ns=(123_456_789, 1_000_123_456_789))
        return os.stat(probe).st_mtime_ns == 1_000_123_456_789
    finally:
        probe.unlink(missing_ok=True)


def is_seen_at(folder: Path, other: Path) -> bool:
    """Whether what is written in one folder appears in the other: the same one, mounted twice."""
    name = f"probe-{os.getpid()}-{time.time_ns()}"
    (folder / name).write_bytes(b"")
    try:
        return (other / name).exists()
    finally:
        (folder / name).unlink(missing_ok=True)
