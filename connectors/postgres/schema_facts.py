"""What PostgreSQL's catalog says of whole schemas: tables with keys, constraints, indexes and comments, and what is
there besides tables. Names are read as they are, never quoted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connectors.postgres import catalog
from connectors.postgres.catalog import Table
from connectors.postgres.client import Session
from connectors.postgres.sql import SQL, Identifier

#: a table of more rows, or bytes where the rows are not known, is judged by the planner's statistics, not counted
COUNTED_ROWS = 2_000_000
COUNTED_BYTES = 400_000_000


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """What a column has beyond its type. labels: of its enum, in their order, else empty."""

    #: as it was declared, with its modifier: `character varying(20)`
    declared: str
    comment: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key. on_delete: pg_constraint.confdeltype. target_columns: in the order of columns."""

    name: str
    columns: tuple[str, ...]
    #: the table pointed to, `schema.table`
    table: str
    target_columns: tuple[str, ...]
    on_delete: str = "a"
    validated: bool = True


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """A valid index that is not the primary key's.

    keys: column -> 1 or -1, in the index's order; empty where a key is an expression. predicate: of a partial
    one, as SQL. method: its access method.
    """

    name: str
    keys: tuple[tuple[str, int], ...]
    unique: bool = False
    method: str = "btree"
    predicate: str = ""
    nulls_not_distinct: bool = False
    #: it belongs to an exclusion constraint
    exclusion: bool = False
    #: its uniqueness is checked at once, not at the end of the transaction
    immediate: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """A validated CHECK constraint of a table, or of a domain: then `column` has it and it says VALUE."""

    name: str
    expression: str
    column: str = ""


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One table: an ordinary one, the root of a partitioned one, or one that is no table at all (see kind)."""

    table: Table
    schema: str
    relation: str
    columns: Mapping[str, ColumnFacts] = field(default_factory=dict)
    comment: str = ""
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[IndexFacts, ...] = ()
    checks: tuple[Check, ...] = ()
    #: the role may SELECT from it
    readable: bool = True
    #: the extension that it belongs to, or empty
    extension: str = ""
    #: leaf and inner partitions below it
    partitions: int = 0
    #: tables that it inherits from (not as a partition)
    inherits: tuple[str, ...] = ()
    #: foreign keys that partitions have and their root has not
    foreign_keys_of_partitions: tuple[str, ...] = ()
    bytes: int = 0

    @property
    def name(self) -> str:
        """`schema.table`."""
        return self.table.name


@dataclass(frozen=True, slots=True)
class Fanout:
    """Rows of a child per parent that has any. exact: counted; else estimated from the planner's statistics."""

    most: int
    average: float
    exact: bool = True


def schemas(session: Session) -> list[str]:
    """The schemas that are not the system's or an extension's."""
    rows = session.execute(
        "SELECT nspname::text FROM pg_namespace n WHERE nspname NOT LIKE 'pg\\_%%' AND nspname <> 'information_schema'"
        " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid"
        " AND d.deptype = 'e') ORDER BY 1",
        [],
    ).fetchall()
    return [row[0] for row in rows]


_RELATIONS = """
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
       coalesce(obj_description(c.oid, 'pg_class'), ''),
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       coalesce((SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' LIMIT 1), ''),
       CASE WHEN c.relkind = 'p' THEN (SELECT count(*) - 1 FROM pg_partition_tree(c.oid)) ELSE 0 END,
       ARRAY(SELECT pn.nspname || '.' || p.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
             JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid ORDER BY i.inhseqno),
       CASE WHEN c.relkind IN ('r', 'm') THEN pg_table_size(c.oid) ELSE 0 END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
ORDER BY n.nspname, c.relname
"""
_COLUMNS = """
SELECT a.attrelid, a.attname::text, format_type(a.atttypid, a.atttypmod),
       coalesce(col_description(a.attrelid, a.attnum), ''),
       ARRAY(WITH RECURSIVE base(oid) AS (
                 SELECT a.atttypid
                 UNION ALL
                 SELECT t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
             SELECT e.enumlabel::text FROM base b JOIN pg_enum e ON e.enumtypid = b.oid ORDER BY e.enumsortorder)
FROM pg_attribute a WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum
"""
_FOREIGN_KEYS = """
SELECT k.conrelid, k.conname::text,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(num, ord)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.ord),
       n.nspname || '.' || t.relname,
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(num, ord)
             JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.ord),
       k.confdeltype::text, k.convalidated
FROM pg_constraint k JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE k.contype = 'f' AND k.conrelid = ANY(%s) AND NOT t.relispartition ORDER BY k.conrelid, k.conkey, k.conname
"""
_FOREIGN_KEYS_OF_PARTITIONS = """
SELECT r.oid, array_agg(DISTINCT pg_get_constraintdef(k.oid) ORDER BY pg_get_constraintdef(k.oid))
FROM unnest(%s::oid[]) AS r(oid), pg_partition_tree(r.oid) p JOIN pg_constraint k ON k.conrelid = p.relid
WHERE k.contype = 'f' AND k.conparentid = 0 AND p.level > 0 GROUP BY r.oid
"""
# indexprs: one key at least is an expression. indoption: bit 0 says descending.
_INDEXES = """
SELECT i.indrelid, c.relname::text,
       CASE WHEN i.indexprs IS NULL THEN
           ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(num, ord)
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.num
                 WHERE u.ord <= i.indnkeyatts ORDER BY u.ord)
       ELSE '{}' END,
       (i.indoption::int2[])[0:i.indnkeyatts - 1], i.indisunique, m.amname::text,
       coalesce(pg_get_expr(i.indpred, i.indrelid), ''), i.indnullsnotdistinct, i.indisexclusion, i.indimmediate
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = ANY(%s) AND NOT i.indisprimary AND i.indisvalid ORDER BY i.indrelid, c.relname
"""
_CHECKS = """
SELECT conrelid, conname::text, pg_get_expr(conbin, conrelid), ''
FROM pg_constraint WHERE contype = 'c' AND convalidated AND conrelid = ANY(%(tables)s)
UNION ALL
SELECT b.attrelid, k.conname::text, pg_get_expr(k.conbin, 0), b.attname
FROM (WITH RECURSIVE base(attrelid, attname, oid) AS (
          SELECT a.attrelid, a.attname::text, a.atttypid FROM pg_attribute a
          WHERE a.attrelid = ANY(%(tables)s) AND a.attnum > 0 AND NOT a.attisdropped
          UNION ALL
          SELECT b.attrelid, b.attname, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.oid
          WHERE t.typtype = 'd')
      SELECT * FROM base) b
JOIN pg_constraint k ON k.contypid = b.oid AND k.contype = 'c' AND k.convalidated
ORDER BY 1, 4, 2
"""


def read(session: Session, names: Sequence[str]) -> tuple[TableFacts, ...]:
    """Tables, views and foreign tables of these schemas, by schema and name. Partitions are told by their root.

    Reads the catalog only, no rows. It is read in several statements: a schema that is changed meanwhile may
    be told half.
    """
    relations = session.execute(_RELATIONS, [list(names)]).fetchall()
    oids = [row[0] for row in relations]
    columns: dict[int, dict[str, ColumnFacts]] = defaultdict(dict)
    for oid, column, *facts in session.execute(_COLUMNS, [oids]):
        columns[oid][column] = ColumnFacts(facts[0], facts[1], tuple(facts[2]))
    foreign: dict[int, list[ForeignKey]] = defaultdict(list)
    for oid, name, own, table, target, on_delete, validated in session.execute(_FOREIGN_KEYS, [oids]):
        foreign[oid].append(ForeignKey(name, tuple(own), table, tuple(target), on_delete, validated))
    roots = [row[0] for row in relations if row[3] == "p"]
    of_partitions = {row[0]: tuple(row[1]) for row in session.execute(_FOREIGN_KEYS_OF_PARTITIONS, [roots])}
    checks: dict[int, list[Check]] = defaultdict(list)
    for oid, *check in session.execute(_CHECKS, {"tables": oids}):
        checks[oid].append(Check(*check))
    indexes = _indexes(session, oids)
    tables = catalog.tables(session, [f"{row[1]}.{row[2]}" for row in relations])
    return tuple(
        TableFacts(
            table=tables[f"{schema}.{relation}"],
            schema=schema,
            relation=relation,
            columns=columns[oid],
            comment=comment,
            foreign_keys=tuple(foreign[oid]),
            indexes=tuple(indexes[oid]),
            checks=tuple(checks[oid]),
            readable=readable,
            extension=extension,
            partitions=partitions,
            inherits=tuple(inherits),
            foreign_keys_of_partitions=of_partitions.get(oid, ()),
            bytes=size,
        )
        for oid, schema, relation, _, comment, readable, extension, partitions, inherits, size in relations
        if f"{schema}.{relation}" in tables
    )


def _indexes(session: Session, oids: Sequence[int]) -> dict[int, list[IndexFacts]]:
    found: dict[int, list[IndexFacts]] = defaultdict(list)
    for oid, name, columns, options, unique, method, *rest in session.execute(_INDEXES, [list(oids)]):
        ways = (-1 if option & 1 else 1 for option in options)
        keys = tuple(zip(columns, ways, strict=False))
        found[oid].append(IndexFacts(name, keys, unique, method, *rest))
    return found


_STATISTICS = """
SELECT s.n_distinct, (s.most_common_freqs)[1] FROM pg_stats s
WHERE s.schemaname = %s AND s.tablename = %s AND s.attname = %s AND NOT s.inherited
"""


def rows_per_parent(session: Session, facts: TableFacts, columns: Sequence[str]) -> Fanout | None:
    """How many rows share the same values in these columns, where none is NULL. None: there is nothing to tell from.

    A small table is counted, which reads it whole; a large one is estimated from the statistics of ANALYZE.
    """
    rows = facts.table.rows
    small = rows <= COUNTED_ROWS if rows >= 0 else facts.bytes <= COUNTED_BYTES
    if small:
        names = SQL(", ").join(Identifier(c) for c in columns)
        given = SQL(" AND ").join(SQL("{} IS NOT NULL").format(Identifier(c)) for c in columns)
        query = SQL(
            "SELECT max(n), avg(n)::float8 FROM (SELECT count(*) AS n FROM {} WHERE {} GROUP BY {}) AS per_parent"
        ).format(Identifier(facts.schema, facts.relation), given, names)
        return _fanout(session.execute(query).fetchone(), exact=True)
    if len(columns) != 1:
        return None
    known = session.execute(_STATISTICS, [facts.schema, facts.relation, columns[0]]).fetchone()
    if known is None or known[0] is None or rows <= 0:
        return None
    distinct, frequency = known
    parents = distinct if distinct > 0 else -distinct * rows
    average = rows / max(parents, 1.0)
    most = max(average, frequency * rows if frequency is not None else 0.0)
    return Fanout(round(most), average, exact=False)


def _fanout(row: Sequence[Any] | None, *, exact: bool) -> Fanout | None:
    return Fanout(row[0], row[1], exact) if row is not None and row[0] is not None else None
