"""rsync as a program: found, asked for its version, run with a list of arguments (never through a shell), its progress
read, its exit translated by code and errno."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from connectors.errors import (
    CopyCutOff,
    CopyFailed,
    ProgramMissing,
    ProgramUnfit,
    RootDenied,
    RootFull,
    RootStale,
    Stopped,
    SyncError,
)

#: `--modify-window=-1` and `--info=progress2` in the form that is read here
OLDEST = (3, 1, 3)
#: what a file is called while it is half there; a user's own of this name is not copied, which verification finds
PARTIAL = ".~tandem-partial~"
_INSTALL = "install it (Debian: apt-get install rsync)"
_VERSION = re.compile(r"^rsync\s+version\s+v?(\d+)\.(\d+)(?:\.(\d+))?")
_PROGRESS = re.compile(rb"^\s*(\d+)\s+\d+%")
_FILES = re.compile(rb"\(xfr#(\d+)")
_ERRNO = re.compile(r"\((\d+)\)\s*$")
#: "some files vanished before they could be transferred"
_VANISHED = 24
_FULL = {errno.ENOSPC, errno.EDQUOT}
_STALE = {
    errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO,
    errno.EREMOTEIO,
}  # fmt: skip
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True, slots=True)
class Order:
    """What is copied: names (with everything under them) of the folder source into the folder target.

    exact: names are single paths, and nothing under them or beside them is touched. delete: what is under a name in the
    target and not in the source goes. chmod: rsync's --chmod. nanoseconds: the target keeps times that exact.
    resumed: parts of large files lie there from a run that was cut off. again: files are copied also where size and
    time agree.
    """

    source: Path
    target: Path
    names: Sequence[bytes]
    chmod: str | None = None
    exact: bool = False
    delete: bool = True
    again: bool = False
    resumed: bool = False
    nanoseconds: bool = True
    dry_run: bool = False


@dataclass(slots=True)
class Outcome:
    """What rsync did, or in a dry run would do."""

    files: int = 0
    #: of the files that were sent
    bytes: int = 0
    #: entries looked at
    entries: int = 0
    deleted: int = 0
    #: files went while they were copied
    vanished: bool = False
    seconds: float = 0.0
    #: what rsync said on stderr, at most the last lines
    said: list[str] = field(default_factory=list)


#: bytes and files sent so far
Tell = Callable[[int, int], None]


class Rsync:
    """The program. Safe to use from several threads."""

    def __init__(self, program: str, version: str) -> None:
        self.program = program
        self.version = version

    @classmethod
    def find(cls, name: str = "rsync") -> Rsync:
        """The one on the path. Raises ProgramMissing or ProgramUnfit."""
        program = shutil.which(name)
        if program is None:
            raise ProgramMissing(f"the program {name} is not on this machine", remedy=_INSTALL, program=name)
        try:
            said = subprocess.run(  # noqa: S603
                [program, "--version"], capture_output=True, text=True, env=_ENVIRON, timeout=30, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProgramUnfit(f"{program} does not run: {error}", remedy=_INSTALL) from error
        found = _VERSION.match(said)
        if found is None or tuple(int(part or 0) for part in found.groups()) < OLDEST:
            first = said.splitlines()[0] if said else "it does not say its version"
            wanted = ".".join(map(str, OLDEST))
            raise ProgramUnfit(f"{program} will not do: {first}", remedy=f"{_INSTALL}, {wanted} or later")
        return cls(program, ".".join(part for part in found.groups() if part))

    def run(
        self,
        order: Order,
        tell: Tell | None = None,
        stop: Callable[[], bool] | None = None,
        hold: Sequence[int] = (),
    ) -> Outcome:
        """Copy. hold: descriptors that rsync keeps open, such as that of a lock, for as long as it lives.

        Raises Stopped after stop said so (what is half there goes on from where it is), and by what went wrong
        RootFull, RootDenied, RootStale, CopyCutOff or CopyFailed. Files that vanish are told, not raised.
        """
        began = time.monotonic()
        with tempfile.TemporaryFile() as names:
            names.write(b"".join(b"./" + name + b"\0" for name in order.names))
            names.seek(0)
            process = subprocess.Popen(  # noqa: S603
                [self.program, *arguments(order)],
                stdin=names,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_ENVIRON,
                cwd="/",
                pass_fds=tuple(hold),
                start_new_session=True,  # Ctrl-C reaches tandem, which ends it in order
            )
        assert process.stdout is not None
        assert process.stderr is not None
        outcome, complaints = Outcome(), deque[str](maxlen=200)
        readers = [
            threading.Thread(target=_read_progress, args=(process.stdout, outcome, tell), daemon=True),
            threading.Thread(target=_read_lines, args=(process.stderr, complaints), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            stopped = _wait(process, stop)
        finally:
            for reader in readers:
                reader.join(timeout=30)
            process.stdout.close()
            process.stderr.close()
        outcome.seconds = time.monotonic() - began
        outcome.said = list(complaints)
        if stopped:
            raise Stopped("the copy was told to stop", remedy="run it again: it goes on from where it is")
        if process.returncode == _VANISHED:
            outcome.vanished = True
        elif process.returncode:
            raise failure(process.returncode, list(complaints), order)
        return outcome


def arguments(order: Order) -> list[str]:
    """rsync's arguments. Pure.

    Links, modes, times, owners, groups, hard links and holes are kept, numbers of owners as they are; symbolic links
    are copied as links, whatever they point to, and never followed. Sockets, pipes and devices stay behind. Names come
    by --files-from, each ended by NUL and begun by ./ : a leading dash, #, newline or any byte is part of a name.
    """
    return [
        "--links", "--perms", "--times", "--owner", "--group", "--hard-links", "--sparse", "--numeric-ids",
        *(() if order.exact else ("--recursive",)),
        *(("--delete-delay",) if order.delete and not order.exact else ()),
        *(("--ignore-times",) if order.again else ()),
        *(("--no-whole-file",) if order.resumed and not order.again else ("--whole-file",)),
        *((f"--chmod={order.chmod}",) if order.chmod else ()),
        *(("--dry-run",) if order.dry_run else ()),
        # by default only whole seconds are compared: a change of the same size in the same second would be missed
        f"--modify-window={-1 if order.nanoseconds else 0}",
        f"--partial-dir={PARTIAL}", "--from0", "--files-from=-", "--stats", "--info=progress2,name0,nonreg0",
        "--no-human-readable", "--outbuf=L", "--",
        f"{order.source}/", f"{order.target}/",
    ]  # fmt: skip


def failure(code: int, said: Sequence[str], order: Order) -> SyncError:
    """The error that an exit stands for: by the errno at the end of its lines, then by its code."""
    found = [int(match[1]) for line in said if (match := _ERRNO.search(line))]
    first = next((line for line in said if _ERRNO.search(line)), said[0] if said else "it says nothing")
    facts = {"from": str(order.source), "to": str(order.target), "rsync_exit": code}
    if _FULL & set(found):
        return RootFull(
            f"there is no room left for the copy: {first}",
            remedy="make room, or raise the quota, on the file system of the new root; the same command goes on",
            **facts,
        )
    if _STALE & set(found):
        return RootStale(
            f"a root went away while it was copied: {first}",
            remedy="see whether the mount is there and its server answers, then run the same command: it goes on",
            **facts,
        )
    if _DENIED & set(found):
        return RootDenied(
            f"a file or folder may not be read or written: {first}",
            remedy="run it as root, or give this user the right; the same command goes on",
            **facts,
        )
    if code < 0 or code in (12, 20) or code > 128:
        signalled = f" ({signal.Signals(-code).name})" if -code in list(signal.Signals) else ""
        return CopyCutOff(
            f"rsync was ended in the middle{signalled}: {first}",
            remedy="run the same command again: it goes on from where it is",
            **facts,
        )
    return CopyFailed(
        f"rsync could not copy everything: {first}",
        remedy="see what it says, mend that, and run the same command again: it goes on",
        lines=len(said),
        **facts,
    )


def _wait(process: subprocess.Popen[bytes], stop: Callable[[], bool] | None) -> bool:
    """Until it ends. Returns whether it was told to."""
    while True:
        try:
            process.wait(timeout=0.1)
            return False
        except subprocess.TimeoutExpired:
            if stop is not None and stop():
                break
        except BaseException:
            process.terminate()
            raise
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return True


def _read_progress(stream: IO[bytes], outcome: Outcome, tell: Tell | None) -> None:
    pending = b""
    while block := os.read(stream.fileno(), 65_536):
        *lines, pending = re.split(rb"[\r\n]", pending + block)
        for line in lines:
            if found := _PROGRESS.match(line):
                outcome.bytes = int(found[1])
                if files := _FILES.search(line):
                    outcome.files = int(files[1])
                if tell is not None:
                    tell(outcome.bytes, outcome.files)
            else:
                _read_total(line, outcome)


def _read_total(line: bytes, outcome: Outcome) -> None:
    name, _, value = line.partition(b": ")
    fields = {
        b"Number of files": "entries",
        b"Number of deleted files": "deleted",
        b"Number of regular files transferred": "files",
        b"Total transferred file size": "bytes",
    }
    if name in fields and (number := re.match(rb"\d+", value)):
        setattr(outcome, fields[name], int(number[0]))


def _read_lines(stream: IO[bytes], lines: deque[str]) -> None:
    for line in stream:
        lines.append(line.decode("utf-8", "backslashreplace").rstrip())


#: nothing of ours: rsync reads settings of its own from there
_ENVIRON = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
