"""SQL files of others, loaded into a fresh database by psql: which files, in which order, and what is left out."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from sync.dev import install

_SUFFIXES = {".sql", ".ddl", ".psql"}
_ERROR = re.compile(r"(?:ERROR|FATAL):\s+([0-9A-Z]{5}):\s*(.*)")
#: SQLSTATEs of a file that is not for this database, with what is said of it
_LEFT_OUT = {
    "0A000": "it needs an extension that this server has not",
    "58P01": "it needs an extension that this server has not",
    "42P06": "what it makes is there already",
    "42P07": "what it makes is there already",
    "42710": "what it makes is there already",
    "42501": "it wants rights that its roles have in another database",
}


@dataclass
class Loaded:
    """What became of a case's files. left_out, failed: file -> why."""

    files: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def sql_files(folder: Path) -> list[Path]:
    """A case's files in the order in which they are tried: schemas first, data last, else by name."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES), key=_rank)


def _rank(path: Path) -> tuple[int, str]:
    words = re.split(r"[-_. ]", path.stem.lower())
    rank = 0 if "schema" in words else 2 if words[-1] == "data" else 1
    return rank, path.name


def psql() -> Path:
    """The psql of the embedded PostgreSQL, or the one on the PATH."""
    own = install.postgres_package() / "pginstall" / "bin" / "psql"
    found = own if own.exists() else shutil.which("psql")
    if found is None:
        raise LookupError("there is no psql: `make install` brings one")
    return Path(found)


def load(folder: Path, dsn: str) -> Loaded:
    """Load each file whole or not at all. One that fails is tried again after the others, until nothing changes."""
    loaded = Loaded()
    waiting = sql_files(folder)
    while waiting:
        errors: dict[Path, tuple[str, str]] = {}
        for path in waiting:
            error = _run(path, dsn)
            if error is None:
                loaded.files.append(path.name)
            else:
                errors[path] = error
        if len(errors) == len(waiting):
            for path, (state, message) in errors.items():
                if state in _LEFT_OUT:
                    loaded.left_out[path.name] = f"{_LEFT_OUT[state]} ({message})"
                else:
                    loaded.failed[path.name] = f"{message} (SQLSTATE {state or 'unknown'})"
            break
        waiting = list(errors)
    return loaded


def _run(path: Path, dsn: str) -> tuple[str, str] | None:
    """None when it went through; else the first error's SQLSTATE and message."""
    done = subprocess.run(
        [psql(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "--single-transaction",
         "-d", dsn, "-f", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=600,
    )  # fmt: skip
    if done.returncode == 0:
        return None
    found = _ERROR.search(done.stderr)
    return (found[1], found[2]) if found else ("", done.stderr.strip()[-300:])
