"""Connections to PostgreSQL, and its errors in the project's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection, Rollback, conninfo
from psycopg.rows import TupleRow

from connectors.errors import Contended, SchemaChanged, ServerGone, SettingsInvalid, SourceNotReady, SyncError
from connectors.settings import SourceEndpoint

Session = Connection[TupleRow]
__all__ = ["Rollback", "Session", "connect", "effective", "parameters", "translate", "translated", "where"]
#: seconds, the last in milliseconds: how long a server that does not answer at all is waited for, where the DSN says
#: nothing else; one behind a line that was cut would be waited for as long as the system's TCP does, for hours
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def parameters(source: SourceEndpoint) -> dict[str, Any]:
    """The DSN's libpq parameters, with the password. Raises SettingsInvalid for one that libpq can't read."""
    try:
        return dict(conninfo.conninfo_to_dict(source.dsn.get_secret_value()))
    except psycopg.ProgrammingError:
        raise SettingsInvalid(
            "the PostgreSQL DSN cannot be read (it is not shown here: it may hold a password)",
            remedy="use libpq's form, `host=... port=... user=... dbname=...`, or a postgresql:// URI",
        ) from None


def effective(source: SourceEndpoint, session: Session) -> dict[str, Any]:
    """The parameters that a session was opened with, those from libpq's own places (PGPASSWORD, ~/.pgpass) included."""
    info = session.info
    return {
        **parameters(source),
        "host": info.host,
        "port": info.port,
        "user": info.user,
        "dbname": info.dbname,
        "password": info.password,
    }


def where(source: SourceEndpoint) -> str:
    """host:port/dbname for messages: no user, no password."""
    known = parameters(source)
    return f"{known.get('host', 'localhost')}:{known.get('port', 5432)}/{known.get('dbname', known.get('user', ''))}"


def connect(source: SourceEndpoint, *, replication: bool = False, name: str = "tandem") -> Session:
    """Open a session in autocommit mode, time zone UTC, ISO dates. Raises ServerGone or SourceNotReady.

    replication: a walsender session for replication commands (PostgreSQL documentation, 54.4); it takes
    statements through the simple protocol only.
    """
    options: dict[str, Any] = (
        {"replication": "database", "cursor_factory": psycopg.ClientCursor} if replication else {}
    )
    known = {**_PATIENCE, **parameters(source)}
    with translated(source):
        session = psycopg.connect(**known, autocommit=True, application_name=name, **options)
        if not replication:
            session.execute(
                "SELECT set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO, YMD', false),"
                " set_config('intervalstyle', 'iso_8601', false), set_config('extra_float_digits', '3', false),"
                " set_config('bytea_output', 'hex', false)"
            )
        return session


@contextmanager
def translated(source: SourceEndpoint | None = None) -> Iterator[None]:
    """Let psycopg's errors out as errors of this project, by SQLSTATE."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, source) from error


#: libpq tells no SQLSTATE of a login that was refused, only the server's words; in another language they are not
#: known, and the server counts as away. Source: PostgreSQL, src/backend/libpq/auth.c, utils/init/postinit.c
_REFUSALS = (
    (re.compile(r'FATAL: +database ".*" does not exist'), "3D000"),
    (re.compile(r'FATAL: +role ".*" does not exist'), "28000"),
    (re.compile(r'FATAL: +role ".*" is not permitted to log in'), "28000"),
    (re.compile(r"FATAL: +(no pg_hba\.conf entry|pg_hba\.conf rejects)"), "28000"),
    (re.compile(r'FATAL: +[\w -]*authentication failed for user ".*"'), "28P01"),
    (re.compile(r"no password supplied"), "28P01"),
    (re.compile(r"FATAL: +permission denied for database"), "42501"),
)


def _refused_at_login(message: str) -> str:
    return next((state for words, state in _REFUSALS if words.search(message)), "")


def translate(error: psycopg.Error, source: SourceEndpoint | None = None) -> SyncError:
    """The error of this project that a psycopg error stands for (PostgreSQL documentation, Appendix A)."""
    state = error.sqlstate or ""
    place = {"server": where(source)} if source else {}
    message = (
        (error.diag.message_primary or str(error).strip().splitlines()[0])
        if str(error)
        else type(error).__name__
    ).removeprefix("connection failed: ")
    state = state or _refused_at_login(message)
    if state.startswith("28"):
        return SourceNotReady(
            f"PostgreSQL refuses the login: {message}",
            remedy="correct user and password in POSTGRES_DSN, and pg_hba.conf on the server",
            **place,
        )
    if state == "3D000":
        return SourceNotReady(f"PostgreSQL: {message}", remedy="correct dbname in POSTGRES_DSN", **place)
    if state == "42501":
        return SourceNotReady(
            f"PostgreSQL: {message}", remedy="grant the role what is missing; see docs/operations.md", **place
        )
    if state == "53300":
        return ServerGone(f"PostgreSQL: {message}", remedy="raise max_connections or close sessions", **place)
    if state in ("40001", "40P01", "55P03", "57014"):
        return Contended(f"PostgreSQL: {message}", remedy="it is tried again", **place)
    if state == "42703":
        return SchemaChanged(
            f"PostgreSQL: {message}",
            remedy="a column was dropped or renamed since the mapping was read: look at it, then start again",
            **place,
        )
    if not state and not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return SourceNotReady(
            f"PostgreSQL: {message}", remedy="this is a fault of tandem's: report it", **place
        )
    if not state or state.startswith(("08", "53", "57P", "58")):
        return ServerGone(
            f"PostgreSQL cannot be reached: {message}",
            remedy="start the server, or correct host and port in POSTGRES_DSN",
            **place,
        )
    return SourceNotReady(f"PostgreSQL: {message} (SQLSTATE {state})", remedy="see the message", **place)
