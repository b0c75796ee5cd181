"""What PostgreSQL's catalog says of the mapped tables."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connectors.postgres.client import Session
from connectors.postgres.types import Type, Types, named


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    type: the name of its type as `types.Type` has it; of: that type, where more than the name says it.
    """

    name: str
    type: str
    not_null: bool
    generated: bool
    #: the declared type as SQL, for casts
    cast: str
    #: its collation as SQL, empty where the type has none
    collation: str = ""
    of: Type | None = None
    #: pg_attribute.attnum: one that was dropped and made again has another
    number: int = 0

    @property
    def resolved(self) -> Type:
        """Its type with all parts."""
        return self.of or named(self.type)


@dataclass(frozen=True, slots=True)
class Table:
    """One table. key: its primary key's columns, in the key's order; empty where there is none.

    kind: pg_class.relkind. replica_identity: pg_class.relreplident. persistence: pg_class.relpersistence.
    has_children: other tables inherit from it.
    rows: the planner's estimate, -1 where it has none. version: every change of its columns alters it. since:
    events below this LSN may be from before it was so.
    """

    name: str
    kind: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    replica_identity: str
    persistence: str
    has_children: bool
    rows: int
    version: str = ""
    since: int = 0

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
_COLUMNS = """
SELECT a.attname::text, a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated <> '', format_type(a.atttypid, -1),
       coalesce((SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname)
                 FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = a.attcollation), ''),
       a.attnum
FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


# xmin: a column that is changed and changed back is another one all the same
_VERSIONS = """
SELECT n.nspname || '.' || c.relname, md5(
    string_agg(concat_ws(':', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.xmin::text, d.xmin::text),
               ',' ORDER BY a.attnum)
    || coalesce((SELECT i.indkey::text FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), ''))
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum AND a.attgenerated <> ''
WHERE n.nspname || '.' || c.relname = ANY(%s) AND c.relkind IN ('r', 'p')
GROUP BY c.oid, n.nspname, c.relname
"""


def versions(session: Session, names: Sequence[str]) -> dict[str, str]:
    """The version of each of these tables that exist."""
    return dict(session.execute(_VERSIONS, [list(names)]).fetchall())


def tables(session: Session, names: Sequence[str]) -> dict[str, Table]:
    """The named tables that exist, by name (`schema.table`), all as they were at one moment."""
    while True:
        before = versions(session, names)
        found = _tables(session, names, before)
        if versions(session, names) == before:
            return found


def _tables(session: Session, names: Sequence[str], known: Mapping[str, str]) -> dict[str, Table]:
    found: dict[str, Table] = {}
    types = Types(session)
    for name, oid, kind, identity, persistence, has_children, rows, key in session.execute(
        _TABLES, [list(names)]
    ).fetchall():
        columns = session.execute(_COLUMNS, [oid]).fetchall()
        types.read(column[1] for column in columns)
        found[name] = Table(
            name,
            kind,
            tuple(_column(types, *column) for column in columns),
            tuple(key),
            identity,
            persistence,
            has_children,
            rows,
            known.get(name, ""),
        )
    return found


def _column(
    types: Types,
    name: str,
    oid: int,
    modifier: int,
    not_null: bool,
    generated: bool,
    cast: str,
    collation: str,
    number: int,
) -> Column:
    of = types.type(oid, modifier)
    return Column(name, of.name, not_null, generated, cast, collation, of, number)


def similar_names(session: Session, name: str) -> list[str]:
    """Tables that a person may have meant: same name in another schema, or a near one."""
    rows = session.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        " AND n.nspname NOT LIKE 'pg_toast%%' ORDER BY 1"
    ).fetchall()
    return difflib.get_close_matches(name, [row[0] for row in rows], n=3, cutoff=0.6)
