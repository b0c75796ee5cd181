"""What PostgreSQL's catalog says of the mapped tables."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

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
    #: a length, or precision and scale, is declared
    modified: bool = False
    #: texts that are equal under its collation are the same texts
    deterministic: bool = True

    @property
    def resolved(self) -> Type:
        """Its type with all parts."""
        return self.of or named(self.type)


@dataclass(frozen=True, slots=True)
class Unique:
    """A unique index that can stand for a primary key: whole, immediate, over NOT NULL columns only."""

    name: str
    columns: tuple[str, ...]


#: not given; no column has this name
_AS_THE_KEY: Final = ("\0",)


@dataclass(frozen=True, slots=True)
class Table:
    """One table. key: the columns that rows are told apart by, in the key's order; empty where there is none.

    The catalog gives the primary key; a plan may have put another one there. primary: the primary key's columns;
    that and carried follow from the key where they are not given.
    uniques: what may stand for it, narrowest first. kind: pg_class.relkind. replica_identity:
    pg_class.relreplident. carried: the columns that an old row of the WAL has by it. leaves: of a partitioned
    table, each partition with rows and what its old rows have. persistence: pg_class.relpersistence.
    has_children: other tables inherit from it. rows: the planner's estimate, -1 where it has none.
    version: every change of its columns alters it. since: events below this LSN may be from before it was so.
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
    primary: tuple[str, ...] = _AS_THE_KEY
    uniques: tuple[Unique, ...] = ()
    carried: frozenset[str] = frozenset(_AS_THE_KEY)
    leaves: tuple[tuple[str, frozenset[str]], ...] = ()

    def __post_init__(self) -> None:
        if self.primary == _AS_THE_KEY:
            object.__setattr__(self, "primary", self.key)
        if self.carried == frozenset(_AS_THE_KEY):
            by_identity = {"d": self.key, "f": tuple(c.name for c in self.columns)}
            object.__setattr__(self, "carried", frozenset(by_identity.get(self.replica_identity, ())))

    @property
    def alone(self) -> bool:
        """Whether it is read and published without the tables that inherit from it."""
        return self.kind == "r"

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
       a.attnum,
       greatest(a.atttypmod, (SELECT typtypmod FROM pg_type WHERE oid = a.atttypid)) >= 0,
       coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = a.attcollation), true)
FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
# The columns of each unique index that can stand for a primary key, itself included; narrowest first.
_UNIQUES = """
SELECT x.relname::text, i.indisprimary, array_agg(a.attname::text ORDER BY k.ord)
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid,
     unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, ord)
     JOIN pg_attribute a ON a.attnum = k.num
WHERE k.ord <= i.indnkeyatts AND i.indrelid = %s AND a.attrelid = i.indrelid
  AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY x.relname, i.indisprimary, i.indnkeyatts
HAVING bool_and(a.attnotnull)
ORDER BY i.indnkeyatts, x.relname
"""
# What old rows in the WAL have, of a table itself or of each of its partitions that has rows.
_CARRIED = """
SELECT n.nspname || '.' || c.relname, c.oid = %s,
       coalesce(CASE c.relreplident
           WHEN 'f' THEN (SELECT array_agg(attname::text) FROM pg_attribute
                          WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
           WHEN 'n' THEN '{}'
           ELSE (SELECT array_agg(a.attname::text)
                 FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, ord)
                 JOIN pg_attribute a ON a.attnum = k.num
                 WHERE i.indrelid = c.oid AND a.attrelid = c.oid AND k.ord <= i.indnkeyatts
                   AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END) END, '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s OR (c.relkind = 'r' AND c.oid IN (SELECT relid FROM pg_partition_tree(%s)))
ORDER BY 1
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
        uniques = session.execute(_UNIQUES, [oid]).fetchall()
        carried = session.execute(_CARRIED, [oid, oid, oid]).fetchall()
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
            primary=tuple(key),
            uniques=tuple(Unique(index, tuple(of)) for index, primary, of in uniques if not primary),
            carried=frozenset(column for _, own, of in carried if own for column in of),
            leaves=tuple((leaf, frozenset(of)) for leaf, own, of in carried if not own),
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
    modified: bool,
    deterministic: bool,
) -> Column:
    of = types.type(oid, modifier)
    return Column(name, of.name, not_null, generated, cast, collation, of, number, modified, deterministic)


def similar_names(session: Session, name: str) -> list[str]:
    """Tables that a person may have meant: same name in another schema, or a near one."""
    rows = session.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        " AND n.nspname NOT LIKE 'pg_toast%%' ORDER BY 1"
    ).fetchall()
    return difflib.get_close_matches(name, [row[0] for row in rows], n=3, cutoff=0.6)
