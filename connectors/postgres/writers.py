"""Who is writing to which tables now, as far as the locks tell."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.postgres.client import Session, translated

# a lock of a kind that the fence's own one waits for (PostgreSQL documentation, 13.3)
_LONGEST = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - a.xact_start)), 0)::float8
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND a.pid <> pg_backend_pid()
  AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
    'AccessExclusiveLock')
  AND l.relation = ANY (SELECT to_regclass(format('%%I.%%I', t.s, t.n)) FROM unnest(%s::text[], %s::text[]) AS t (s, n))
"""


def longest_s(session: Session, tables: Sequence[str]) -> float:
    """Seconds since the oldest transaction began that has written to one of these tables (`schema.table`)."""
    split = [table.partition(".") for table in tables]
    with translated():
        found = session.execute(_LONGEST, [[s for s, _, _ in split], [n for _, _, n in split]]).fetchone()
    assert found is not None
    return float(found[0])
