"""Where an archive lies: a folder, or a bucket of an object store. Files come there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Protocol
from urllib.parse import urlsplit

import fsspec

from connectors.errors import ArchiveRefused, ArchiveTaken, ServerGone, SettingsInvalid

_LOCK = ".lock"
_PARTIAL = ".partial-"
#: on this machine, files on their way to an object store
_SPOOL = "tandem-archive-"
#: the object stores' own ways to say that the address, the key or the bucket is wrong; the rest is tried again
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "Forbidden")


class Store(Protocol):
    """Names are relative, with `/` between their parts."""

    #: for people: without a password
    place: str

    def spool(self, name: str) -> Path:
        """A file of this machine that `put` takes under that name."""

    def put(self, name: str, file: Path) -> None:
        """Take the file, which is on the disk, under a name that is not there yet. Raises ArchiveTaken where it is."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, or write it anew: a reader finds the old one or the new one."""

    def read(self, name: str) -> bytes | None:
        """All of a file; None where there is none."""

    def open(self, name: str) -> IO[bytes]:
        """A file to be read from its beginning. Raises FileNotFoundError."""

    def names(self, below: str) -> list[str]:
        """The files below a folder, at any depth, in order."""

    def remove(self, name: str) -> None:
        """Safe to repeat."""

    @contextmanager
    def locked(self, below: str) -> Iterator[bool]:
        """One process at a time writes below this folder: True. False: the place has no locks. Raises ArchiveTaken
        beside another."""


def store_of(url: str) -> Store:
    """The place that a URL names: a path, or a URL that fsspec knows, such as `s3://bucket/path`.

    Credentials come from the store's own environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...). Raises
    SettingsInvalid.
    """
    scheme, _, path = url.partition("://")
    if "://" not in url or scheme == "file":
        return Folder(Path(url if "://" not in url else path))
    if urlsplit(url).username or urlsplit(url).password:
        raise SettingsInvalid(
            "archive.url has a user or a password in it (it is not shown here)",
            remedy="leave them out: they are taken from the store's own environment, such as AWS_ACCESS_KEY_ID",
        )
    return Objects(url.rstrip("/"))


class Folder:
    """A folder of a file system."""

    def __init__(self, root: Path) -> None:
        self.root, self.place = root.absolute(), str(root.absolute())

    def spool(self, name: str) -> Path:
        """In the same folder, under a name that nobody takes for whole."""
        path = self._path(name)
        with _denied(self.place):
            self._begin()
            path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f"{_PARTIAL}{path.name}")

    def put(self, name: str, file: Path) -> None:
        """Give it its name: by a link, which fails where the name is taken."""
        path = self._path(name)
        with _denied(self.place):
            try:
                os.link(file, path)
                file.unlink()
            except FileExistsError:
                raise _taken(self.place, name) from None
            except OSError:  # a file system without links: the lock is what keeps others out
                if path.exists():
                    raise _taken(self.place, name) from None
                file.rename(path)
            _sync(path.parent)

    def write(self, name: str, data: bytes) -> None:
        """Beside it, on the disk, and then in its place."""
        partial = self.spool(name)
        with _denied(self.place):
            with partial.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(self._path(name))
            _sync(partial.parent)

    def read(self, name: str) -> bytes | None:
        """All of a file; None where there is none."""
        with _denied(self.place), suppress(FileNotFoundError, NotADirectoryError):
            return self._path(name).read_bytes()
        return None

    def open(self, name: str) -> IO[bytes]:
        """A file to be read from its beginning. Raises FileNotFoundError."""
        with _denied(self.place):
            try:
                return self._path(name).open("rb")
            except FileNotFoundError as error:
                missing = error
        raise missing

    def names(self, below: str) -> list[str]:
        """The files below a folder, at any depth, in order; what is not whole is left out."""
        with _denied(self.place):
            found = [p for p in self._path(below).rglob("*") if not p.name.startswith(".") and p.is_file()]
        return sorted(p.relative_to(self.root).as_posix() for p in found)

    def remove(self, name: str) -> None:
        """Safe to repeat."""
        with _denied(self.place):
            self._path(name).unlink(missing_ok=True)

    @contextmanager
    def locked(self, below: str) -> Iterator[bool]:
        """By a lock of the file system, which goes with the process. What others left half written goes."""
        with _denied(self.place):
            self._begin()
            lock = (self.root / f"{_LOCK}-{below}").open("ab")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ArchiveTaken(
                    f"another process writes {below} of the archive {self.place}",
                    remedy="wait until it has ended, or stop it",
                ) from None
            for left in (self.root / below).rglob(f"{_PARTIAL}*"):
                left.unlink(missing_ok=True)
            yield True

    def _begin(self) -> None:
        """What is in it is whole rows: for this user alone."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, name: str) -> Path:
        return self.root / PurePosixPath(name)


class Objects:
    """An object store. It has no rename: an object is there when all of it was sent, so a file is written on this
    machine first and then sent whole, under a name that must not be there (`If-None-Match`). That is the lock, too: two
    processes that go on at one offset want the same name."""

    def __init__(self, url: str) -> None:
        self.place = url
        with _answered(url):
            try:
                # listings of others' files are not to be old
                self._fs, self._root = fsspec.url_to_fs(
                    url, use_listings_cache=False, skip_instance_cache=True
                )
            except (ImportError, ValueError) as error:
                raise SettingsInvalid(
                    f"archive.url {url} cannot be used: {error}",
                    remedy="give a folder, or s3://BUCKET/PATH with `pip install 'tandem-cdc[s3]'`",
                ) from None
        _sweep_spools()
        self._folder = Path(tempfile.mkdtemp(prefix=_SPOOL))
        self._lock = (self._folder / _LOCK).open("ab")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        weakref.finalize(self, _end_spool, self._folder, self._lock)

    def spool(self, name: str) -> Path:
        """In a folder of this process."""
        return self._folder / name.replace("/", "_")

    def put(self, name: str, file: Path) -> None:
        """Send it whole."""
        with _answered(self.place):
            try:
                self._fs.put_file(str(file), self._path(name), mode="create")
            except FileExistsError:
                raise _taken(self.place, name) from None
            except OSError as error:
                if "PreconditionFailed" in str(error) or "412" in str(error):
                    raise _taken(self.place, name) from None
                if "NotImplemented" not in str(error):
                    raise
                if self._fs.exists(self._path(name)):  # a store that does not know the condition
                    raise _taken(self.place, name) from None
                self._fs.put_file(str(file), self._path(name))
        file.unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """One object, sent whole."""
        with _answered(self.place):
            self._fs.pipe_file(self._path(name), data)

    def read(self, name: str) -> bytes | None:
        """All of a file; None where there is none."""
        with _answered(self.place), suppress(FileNotFoundError):
            return bytes(self._fs.cat_file(self._path(name)))
        return None

    def open(self, name: str) -> IO[bytes]:
        """A file to be read from its beginning. Raises FileNotFoundError."""
        with _answered(self.place):
            opened: IO[bytes] = self._fs.open(self._path(name), "rb")
        return opened

    def names(self, below: str) -> list[str]:
        """The files below a folder, at any depth, in order."""
        with _answered(self.place):
            found = self._fs.find(self._path(below))
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def remove(self, name: str) -> None:
        """Safe to repeat."""
        with _answered(self.place), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    @contextmanager
    def locked(self, below: str) -> Iterator[bool]:
        """Nothing to lock: `put` takes no name twice."""
        yield False

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _end_spool(folder: Path, lock: IO[bytes]) -> None:
    lock.close()
    shutil.rmtree(folder, ignore_errors=True)


def _sweep_spools() -> None:
    """Remove what processes have left that ended before they could: nobody holds its lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SPOOL}*"):
        with suppress(OSError), (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _taken(place: str, name: str) -> ArchiveTaken:
    return ArchiveTaken(
        f"{name} is there already in the archive {place}",
        remedy="is another process at work on this archive? let one go on alone",
    )


@contextmanager
def _denied(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArchiveRefused(
            f"the archive {place} cannot be used: {error.strerror or error}",
            remedy="make the folder, mount it, give this user the right to write there, or make room",
        ) from error


@contextmanager
def _answered(place: str) -> Iterator[None]:
    """An object store's troubles: what it refuses for good, and what is tried again."""
    try:
        yield
    except (ArchiveTaken, SettingsInvalid, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and "specified bucket" in str(error):
            raise _refused(place, error) from error
        raise
    except Exception as error:
        if isinstance(error, PermissionError) or any(word in str(error) for word in _DENIED):
            raise _refused(place, error) from error
        if isinstance(error, OSError) or type(error).__module__.split(".")[0] in (
            "botocore",
            "aiohttp",
            "aiobotocore",
        ):
            raise ServerGone(
                f"the archive's store {place} does not answer: {_told(error)}",
                remedy="see whether it can be reached; AWS_ENDPOINT_URL names one that is not Amazon's",
            ) from error
        raise


def _refused(place: str, error: Exception) -> ArchiveRefused:
    return ArchiveRefused(
        f"the archive's store refuses {place}: {_told(error)}",
        remedy="make the bucket; give credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) that"
        " may list, read, write and delete there",
    )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
