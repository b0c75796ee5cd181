"""What preflight has to know of a server and of tables, beyond what setup asks for. Judged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from connectors.postgres.client import Session

#: settings that decide whether a slot lives, and whether long reads do
SETTINGS = (
    "max_slot_wal_keep_size",
    "idle_replication_slot_timeout",
    "max_wal_senders",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
    "server_encoding",
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction that is older than most. prepared: it waits for COMMIT PREPARED; then name is its gid."""

    name: str
    seconds: int
    prepared: bool


@dataclass(frozen=True, slots=True)
class PublicationFacts:
    """A publication that is there. all_tables: it cannot be made to publish some."""

    all_tables: bool
    owned: bool


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """settings: as PostgreSQL shows them, with units; one that it does not know is absent."""

    settings: Mapping[str, str]
    used_senders: int
    transactions: tuple[Waiting, ...]
    publication: PublicationFacts | None


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A validated foreign key."""

    columns: tuple[str, ...]
    table: str
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One table. unique: columns of its valid, immediate unique indexes over whole columns, without a condition.

    nondeterministic: columns in whose collation texts of different bytes are equal. inserts_per_day: of the
    statistics' time, None where it is not known.
    """

    name: str
    may_select: bool
    owned: bool
    row_security: bool
    partitions: int
    unlogged_partitions: int
    foreign_partitions: int
    rows: int
    bytes: int
    blocks: int
    unique: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    nondeterministic: frozenset[str] = field(default_factory=frozenset)
    inserts_per_day: float | None = None


def clock_s(session: Session) -> float:
    """The server's clock, in seconds since 1970."""
    row = session.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    assert row is not None
    return float(row[0])


def source_facts(session: Session, publication: str, older_than_s: int = 60) -> SourceFacts:
    """Settings, sessions and the publication of this name, as of now. Transactions: the oldest ten of that age."""
    settings = session.execute(
        "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)", [list(SETTINGS)]
    ).fetchall()
    senders = session.execute("SELECT count(*)::int FROM pg_stat_replication").fetchone()
    waiting = session.execute(
        "SELECT coalesce(nullif(application_name, ''), 'a session') || ' (pid ' || pid || ', ' || coalesce(state, '?')"
        " || ')', extract(epoch FROM now() - xact_start)::int, false FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND xact_start < now() - make_interval(secs => %s)"
        " AND pid <> pg_backend_pid() AND backend_xid IS NOT NULL"
        " UNION ALL SELECT gid, extract(epoch FROM now() - prepared)::int, true FROM pg_prepared_xacts"
        " ORDER BY 2 DESC LIMIT 10",
        [older_than_s],
    ).fetchall()
    published = session.execute(
        "SELECT puballtables, pg_has_role(current_user, pubowner, 'USAGE') FROM pg_publication WHERE pubname = %s",
        [publication],
    ).fetchone()
    return SourceFacts(
        dict(settings),
        senders[0] if senders else 0,
        tuple(Waiting(*row) for row in waiting),
        PublicationFacts(*published) if published else None,
    )


_TABLE = """
WITH RECURSIVE parts AS (
    SELECT c.oid FROM pg_class c WHERE c.oid = %(oid)s
    UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN parts p ON p.oid = i.inhparent
), leaves AS (
    SELECT c.* FROM parts p JOIN pg_class c ON c.oid = p.oid WHERE c.relkind <> 'p'
)
SELECT has_table_privilege(c.oid, 'SELECT'), pg_has_role(current_user, c.relowner, 'USAGE'),
       row_security_active(c.oid),
       (SELECT count(*) FROM leaves WHERE c.relkind = 'p')::int,
       (SELECT count(*) FROM leaves l WHERE l.relpersistence = 'u' AND c.relkind = 'p')::int,
       (SELECT count(*) FROM leaves l WHERE l.relkind = 'f')::int,
       coalesce((SELECT sum(greatest(l.reltuples, 0)) FROM leaves l), 0)::bigint,
       coalesce((SELECT sum(pg_table_size(l.oid)) FROM leaves l WHERE l.relkind IN ('r', 'm')), 0)::bigint,
       coalesce((SELECT sum(pg_relation_size(l.oid)) FROM leaves l WHERE l.relkind IN ('r', 'm')), 0)::bigint
         / current_setting('block_size')::int,
       (SELECT sum(s.n_tup_ins) / greatest(extract(epoch FROM now() - max(d.stats_reset)) / 86400.0, 0.0001)
        FROM leaves l JOIN pg_stat_user_tables s ON s.relid = l.oid, pg_stat_database d
        WHERE d.datname = current_database() AND d.stats_reset < now() - interval '1 day')::float8
FROM pg_class c WHERE c.oid = %(oid)s
"""
_UNIQUE = """
SELECT array_agg(a.attname::text ORDER BY k.ord)
FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, ord)
LEFT JOIN pg_attribute a ON a.attnum = k.num AND a.attnum > 0
WHERE i.indrelid = %(oid)s AND a.attrelid = %(oid)s AND k.ord <= i.indnkeyatts
  AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid
"""
_FOREIGN_KEYS = """
SELECT (SELECT array_agg(a.attname::text ORDER BY k.ord) FROM unnest(f.conkey) WITH ORDINALITY AS k(num, ord)
        JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.num),
       n.nspname || '.' || t.relname,
       (SELECT array_agg(a.attname::text ORDER BY k.ord) FROM unnest(f.confkey) WITH ORDINALITY AS k(num, ord)
        JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.num)
FROM pg_constraint f JOIN pg_class t ON t.oid = f.confrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE f.conrelid = %(oid)s AND f.contype = 'f' AND f.convalidated
"""
_NONDETERMINISTIC = """
SELECT a.attname::text FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
  AND (NOT c.collisdeterministic OR a.atttypid IN (SELECT oid FROM pg_type WHERE typname = 'citext'))
"""


def table_facts(session: Session, names: Sequence[str]) -> dict[str, TableFacts]:
    """Facts of the named tables that exist."""
    found = {}
    for name, oid in session.execute(
        "SELECT n.nspname || '.' || c.relname, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname || '.' || c.relname = ANY(%s) AND c.relkind IN ('r', 'p')",
        [list(names)],
    ).fetchall():
        of = {"oid": oid}
        row = session.execute(_TABLE, of).fetchone()
        assert row is not None
        found[name] = TableFacts(
            name,
            may_select=row[0],
            owned=row[1],
            row_security=row[2],
            partitions=row[3],
            unlogged_partitions=row[4],
            foreign_partitions=row[5],
            rows=row[6],
            bytes=row[7],
            blocks=row[8],
            inserts_per_day=row[9],
            unique=tuple(tuple(r[0]) for r in session.execute(_UNIQUE, of).fetchall()),
            foreign_keys=tuple(
                ForeignKey(tuple(columns), table, tuple(key))
                for columns, table, key in session.execute(_FOREIGN_KEYS, of).fetchall()
            ),
            nondeterministic=frozenset(r[0] for r in session.execute(_NONDETERMINISTIC, of).fetchall()),
        )
    return found
