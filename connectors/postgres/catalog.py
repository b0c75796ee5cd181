"""What PostgreSQL's catalog says of the mapped tables."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from connectors.postgres.client import Session


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    type: `format_type` without its modifier for PostgreSQL's own types, the bare name for others, `enum`
    for every enum, the base type's for a domain, the element's and `[]` for an array.
    """

    name: str
    type: str
    not_null: bool
    generated: bool
    #: the declared type as SQL, for casts
    cast: str
    #: its collation as SQL, empty where the type has none
    collation: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One table. key: its primary key's columns, in the key's order; empty where there is none.

    kind: pg_class.relkind. replica_identity: pg_class.relreplident. persistence: pg_class.relpersistence.
    has_children: other tables inherit from it.
    rows: the planner's estimate, -1 where it has none.
    """

    name: str
    kind: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    replica_identity: str
    persistence: str
    has_children: bool
    rows: int

    @property
    def schema(self) -> str:
        """The schema's name."""
        return self.name.partition(".")[0]

    @property
    def relation(self) -> str:
        """The name without its schema."""
        return self.name.partition(".")[2]

    def column(self, name: str) -> Column | None:
        """The column of this name, or None."""
        return next((c for c in self.columns if c.name == name), None)


_TABLES = """
SELECT n.nspname || '.' || c.relname, c.oid, c.relkind::text, c.relreplident::text, c.relpersistence::text,
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid), c.reltuples::bigint,
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.ord)
                 FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, ord)
                 JOIN pg_attribute a ON a.attnum = k.num
                 WHERE k.ord <= i.indnkeyatts AND i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
# A domain is followed down to its base type; an array's element likewise.
_COLUMNS = """
WITH RECURSIVE base(start, oid) AS (
    SELECT t.oid, t.oid FROM pg_type t WHERE t.oid IN (SELECT atttypid FROM pg_attribute WHERE attrelid = %s)
    UNION ALL
    SELECT b.start, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
), resolved AS (
    SELECT b.start, t.* FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd'
)
SELECT a.attname::text,
       CASE WHEN e.oid IS NOT NULL
            THEN CASE WHEN e.typtype = 'e' THEN 'enum'
                      WHEN e.typnamespace = 'pg_catalog'::regnamespace THEN format_type(e.oid, NULL)
                      ELSE e.typname::text END || '[]'
            WHEN t.typtype = 'e' THEN 'enum'
            WHEN t.oid = 'numeric'::regtype AND greatest(a.atttypmod, c.typtypmod) >= 4
                 AND (((greatest(a.atttypmod, c.typtypmod) - 4) & 2047) # 1024) - 1024 < 0
            THEN 'numeric of negative scale'
            WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN format_type(t.oid, NULL)
            ELSE t.typname::text END,
       a.attnotnull, a.attgenerated <> '', format_type(a.atttypid, -1),
       coalesce((SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname)
                 FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = a.attcollation), '')
FROM pg_attribute a
JOIN pg_type c ON c.oid = a.atttypid
JOIN resolved t ON t.start = a.atttypid
LEFT JOIN pg_type d
  ON d.oid = t.typelem AND t.typcategory = 'A' AND t.typsubscript = 'array_subscript_handler'::regproc
LEFT JOIN pg_type e ON e.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""


def tables(session: Session, names: Sequence[str]) -> dict[str, Table]:
    """The named tables that exist, by name (`schema.table`)."""
    found = {}
    for name, oid, kind, identity, persistence, has_children, rows, key in session.execute(
        _TABLES, [list(names)]
    ).fetchall():
        columns = session.execute(_COLUMNS, [oid, oid]).fetchall()
        found[name] = Table(
            name,
            kind,
            tuple(Column(*column) for column in columns),
            tuple(key),
            identity,
            persistence,
            has_children,
            rows,
        )
    return found


def similar_names(session: Session, name: str) -> list[str]:
    """Tables that a person may have meant: same name in another schema, or a near one."""
    rows = session.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        " AND n.nspname NOT LIKE 'pg_toast%%' ORDER BY 1"
    ).fetchall()
    return difflib.get_close_matches(name, [row[0] for row in rows], n=3, cutoff=0.6)
