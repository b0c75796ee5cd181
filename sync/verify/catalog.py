"""What PostgreSQL's catalog says of the mapped tables: columns, types, keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connectors.errors import TableUnfit
from connectors.postgres.client import Session, translated
from connectors.postgres.sql import SQL, Composable, Identifier
from sync.verify import forms, parts
from sync.verify.forms import Form


@dataclass(frozen=True)
class Column:
    """sql_type: as a cast names it. collated: it sorts by a collation."""

    name: str
    form: Form
    sql_type: str
    collated: bool


@dataclass(frozen=True)
class Table:
    """A table, its columns in its own order, its key in the key's order.

    alone: it is read without the tables that inherit from it.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[Column, ...]
    alone: bool = False

    @property
    def parts(self) -> tuple[str, str]:
        """Schema and name."""
        schema, _, name = self.name.partition(".")
        return schema, name

    @property
    def source(self) -> Composable:
        """What stands behind FROM."""
        return SQL("ONLY {}" if self.alone else "{}").format(Identifier(*self.parts))

    def column(self, name: str) -> Column | None:
        """The column of this name."""
        return next((column for column in self.columns if column.name == name), None)


_TABLE = """
SELECT c.oid, c.relkind = 'r' FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""
_COLUMNS = """
SELECT attname::text, atttypid, pg_catalog.format_type(atttypid, atttypmod), attcollation <> 0
FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_KEY = """
SELECT a.attname::text
FROM pg_catalog.pg_index i, pg_catalog.pg_attribute a,
  unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
WHERE i.indrelid = %s AND i.indisprimary AND k.n <= i.indnkeyatts
  AND a.attrelid = i.indrelid AND a.attnum = k.attnum
ORDER BY k.n
"""
# What stands for a primary key: the index of the replica identity, or the narrowest that can.
_UNIQUE = """
SELECT array_agg(a.attname::text ORDER BY k.n)
FROM pg_catalog.pg_class c, pg_catalog.pg_index i, pg_catalog.pg_class x, pg_catalog.pg_attribute a,
  unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
WHERE c.oid = %s AND i.indrelid = c.oid AND x.oid = i.indexrelid AND a.attrelid = c.oid AND a.attnum = k.attnum
  AND k.n <= i.indnkeyatts AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY x.relname, i.indnkeyatts, c.relreplident, i.indisreplident
HAVING bool_and(a.attnotnull)
ORDER BY c.relreplident = 'i' AND i.indisreplident DESC, i.indnkeyatts, x.relname LIMIT 1
"""
_TYPE = """
SELECT t.typname::text, n.nspname::text, t.typtype::text, t.typbasetype, pg_catalog.format_type(t.typbasetype, NULL),
  (SELECT e.oid FROM pg_catalog.pg_type e WHERE e.typarray = t.oid),
  (SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid),
  (SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid),
  t.typrelid
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = %s
"""
_BUILT_IN = {
    "int2": forms.INT,
    "int4": forms.INT,
    "int8": forms.BIGINT,
    "oid": forms.OID,
    "xid": forms.XID,
    "cid": forms.XID,
    "xid8": forms.XID,
    "bool": forms.BOOL,
    "float8": forms.DOUBLE,
    "float4": forms.DOUBLE,
    "numeric": forms.NUMERIC,
    "money": forms.MONEY,
    "text": forms.TEXT,
    "varchar": forms.TEXT,
    "bpchar": forms.CHAR,
    "uuid": forms.IDENTITY,
    "json": forms.JSON,
    "jsonb": forms.JSON,
    "bytea": forms.BYTES,
    "timestamptz": forms.MOMENT,
    "timestamp": forms.MOMENT,
    "date": forms.DAY,
    "time": forms.TIME,
    "interval": parts.INTERVAL,
    "inet": forms.AS_OUTPUT,
    "cidr": forms.AS_OUTPUT,
    "int2vector": parts.vector_of(forms.INT, "int2[]"),
    "oidvector": parts.vector_of(forms.OID, "oid[]"),
    **parts.GEOMETRY,
}


def _base(name: str, schema: str) -> Form:
    """The form of a base type or an enum."""
    if schema == "pg_catalog":
        return forms.OID_NAMES if name.startswith("reg") else _BUILT_IN.get(name, forms.OTHER)
    if name in ("vector", "halfvec"):
        return forms.VECTOR
    if name == "sparsevec":
        return parts.sparse(schema)
    return parts.pairs(schema) if name == "hstore" else forms.OTHER


class Catalog:
    """Reads the catalog, each thing once. keys: those that the mapping declares, by table."""

    def __init__(self, session: Session, keys: Mapping[str, Sequence[str]]) -> None:
        self._session, self._keys = session, keys
        self._tables: dict[str, Table] = {}
        self._forms: dict[int, Form] = {}

    def table(self, name: str) -> Table:
        """A table by `schema.table`. Raises TableUnfit where there is none, or it has no key."""
        if name not in self._tables:
            self._tables[name] = self._read(name)
        return self._tables[name]

    def form_of(self, table: Table, expression: Composable) -> Form:
        """The form of what an expression over the table's columns gives: PostgreSQL types it."""
        with translated():
            found = self._session.execute(SQL("SELECT {} FROM {} LIMIT 0").format(expression, table.source))
        assert found.description is not None
        return self._form(found.description[0].type_code)

    def _read(self, name: str) -> Table:
        schema, _, relation = name.partition(".")
        oid = self._rows(_TABLE, schema, relation)
        if not oid:
            raise TableUnfit(
                f"there is no table {name}", remedy="correct 'from' in the mapping, or the DSN's dbname"
            )
        columns = tuple(
            Column(column, self._form(type_oid), sql_type, collated)
            for column, type_oid, sql_type, collated in self._rows(_COLUMNS, oid[0][0])
        )
        by_name = {column.name: column for column in columns}
        key = tuple(by_name[column] for column in self._key(name, oid[0][0]) if column in by_name)
        if not key:
            raise TableUnfit(
                f"table {name} has no primary key", remedy="give it one: ids are computed from it"
            )
        return Table(name, columns, key, alone=oid[0][1])

    def _key(self, name: str, oid: int) -> Sequence[str]:
        if name in self._keys:
            return self._keys[name]
        primary = [column for (column,) in self._rows(_KEY, oid)]
        return primary or next((columns for (columns,) in self._rows(_UNIQUE, oid)), [])

    def _form(self, oid: int) -> Form:
        if oid not in self._forms:
            self._forms[oid] = self._made(oid)
        return self._forms[oid]

    def _made(self, oid: int) -> Form:
        found = self._rows(_TYPE, oid)
        if not found:
            return forms.OTHER
        [(name, schema, kind, base, base_type, element, subtype, range_, relation)] = found
        if kind == "d":
            form = self._form(base)
            return parts.on_base(form, base_type) if form.parts else form
        if element is not None:
            return parts.array_of(self._form(element))
        if subtype is not None:
            return parts.range_of(self._form(subtype))
        if range_ is not None:
            return parts.multirange_of(self._form(range_))
        if kind == "c":
            fields = self._rows(_COLUMNS, relation)
            return parts.composite_of([(field, self._form(type_oid)) for field, type_oid, _, _ in fields])
        return forms.OTHER if kind == "e" else _base(name, schema)

    def _rows(self, query: str, *parameters: object) -> list[Any]:
        with translated():
            return self._session.execute(query.encode(), parameters).fetchall()
