"""Errors of the file system in the project's words, and a full disk by its name, whoever tripped over it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from connectors.errors import StackFailed

#: With less than this free nothing is started.
_TOO_LITTLE_BYTES = 32_000_000


class CutOff(StackFailed):
    """The start of a component was given up, since another one failed or the user wished so."""


@contextmanager
def explained(places: Sequence[Path]) -> Iterator[None]:
    """Let errors of the file system out as StackFailed. places: the folders that this stack writes to."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(Path(error.filename or places[0]), str(error)) from error
        raise StackFailed(
            f"the embedded stack cannot use its folders: {error}",
            remedy=f"see to {error.filename or places[0]}, or name another folder with --home DIR",
            folders=", ".join(map(str, places)),
        ) from error
    except StackFailed as error:
        # A program that met the full disk says so in its output, in the words of the C library.
        said = f"{error.facts.get('last_lines', '')}{error.facts.get('output', '')}"
        if os.strerror(errno.ENOSPC) in said:
            raise disk_full(fullest(places), error.what) from error
        raise


def demand_room(places: Sequence[Path]) -> None:
    """Raise StackFailed when a place has next to nothing free: better now than halfway."""
    place = fullest(places)
    if free_bytes(place) < _TOO_LITTLE_BYTES:
        raise disk_full(place, "nothing was started")


def fullest(places: Sequence[Path]) -> Path:
    """The one with the least free space."""
    return min(places, key=free_bytes)


def free_bytes(place: Path) -> int:
    """What is free on the file system of that folder, or of the parent that it will be made in."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def disk_full(place: Path, what: str) -> StackFailed:
    """The error that names the full disk."""
    return StackFailed(
        f"the disk of {place} is full: {what}",
        remedy="free some space (a new stack wants 300 MB), then run `tandem dev up` again: it goes on",
        free_bytes_now=free_bytes(place),
    )


def would_not_start(what: str, log: Path, last_lines: str) -> StackFailed:
    """The error that shows the end of a log."""
    remedy = "see the log, then run `tandem dev up` again"
    return StackFailed(what, remedy=remedy, log=log, last_lines=last_lines)
