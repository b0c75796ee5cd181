"""Which of PostgreSQL's errors belong to ordinary concurrent writing, by SQLSTATE (manual, Appendix A)."""

from __future__ import annotations

import psycopg
from psycopg import DatabaseError as DatabaseError

#: foreign key, unique, exclusion, serialization failure, deadlock, lock timeout
_CONFLICTS = {"23503", "23505", "23P01", "40001", "40P01", "55P03"}
#: read-only transaction, raised by a function or trigger, object not in the state needed
_REFUSALS = {"25006", "P0001", "55000"}


def sqlstate(error: BaseException) -> str:
    """The error's SQLSTATE; empty for an error that did not come from a server."""
    return (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""


def is_conflict(error: BaseException) -> bool:
    """True when another session was in the way: the transaction is undone and may be tried again."""
    return sqlstate(error) in _CONFLICTS


def is_refused(error: BaseException) -> bool:
    """True when the server does not want this write now: a trigger's own error, or a read-only server."""
    return sqlstate(error) in _REFUSALS


def is_gone(error: BaseException) -> bool:
    """True when the session is lost: shut down, killed or cut off. Its last COMMIT may have counted."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    return not sqlstate(error) or sqlstate(error).startswith(("08", "57P"))
