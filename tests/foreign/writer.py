"""A writer for any schema: random inserts, updates and deletes, made from the catalog."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors, sql

from tests.foreign.values import Kind, value

_COLUMNS = """
WITH RECURSIVE base(start, oid, modifier) AS (
    SELECT a.attnum, a.atttypid, a.atttypmod FROM pg_attribute a
    WHERE a.attrelid = %(table)s AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.start, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
)
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull OR c.typnotnull,
       a.attgenerated <> '' OR a.attidentity = 'a', a.atthasdef OR a.attidentity <> '', t.oid, b.modifier
FROM base b JOIN pg_type t ON t.oid = b.oid JOIN pg_attribute a ON a.attrelid = %(table)s AND a.attnum = b.start
JOIN pg_type c ON c.oid = a.atttypid
WHERE t.typtype <> 'd' ORDER BY a.attnum
"""
_TYPE = """
SELECT t.typname::text, t.typtype::text, ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid),
       CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN t.typelem ELSE 0 END,
       t.typbasetype, t.typtypmod
FROM pg_type t WHERE t.oid = %s
"""
_FOREIGN = """
SELECT n.nspname::text, t.relname::text,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(num, ord)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.ord),
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(num, ord)
             JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.ord)
FROM pg_constraint k JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE k.conrelid = %s AND k.contype = 'f' AND NOT t.relispartition
"""
_KEY = """
SELECT a.attname::text FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY u(num, ord), pg_attribute a
WHERE i.indexrelid = (SELECT indexrelid FROM pg_index WHERE indrelid = %(table)s AND indisunique AND indpred IS NULL
                      AND indexprs IS NULL ORDER BY indisprimary DESC, indexrelid LIMIT 1)
  AND u.ord <= i.indnkeyatts AND a.attrelid = i.indrelid AND a.attnum = u.num ORDER BY u.ord
"""
#: what a constraint, a type or a trigger says no to: integrity, data, raised by a function, program limit
_REFUSED = ("23", "22", "P0", "54", "09", "27", "0A")


@dataclass(frozen=True)
class Column:
    """One column that may be written."""

    name: str
    declared: str
    not_null: bool
    has_default: bool
    kind: Kind


@dataclass(frozen=True)
class Target:
    """One table to write to. foreign: own columns -> (schema, table, its columns)."""

    schema: str
    relation: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    foreign: tuple[tuple[tuple[str, ...], tuple[str, str], tuple[str, ...]], ...]

    @property
    def name(self) -> sql.Identifier:
        """Quoted."""
        return sql.Identifier(self.schema, self.relation)


@dataclass
class Written:
    """What a writer did. untouched: tables in which no row could be changed."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    per_table: Counter[str] = field(default_factory=Counter)
    transactions: int = 0
    rolled_back: int = 0
    untouched: list[str] = field(default_factory=list)


class Writer:
    """Writes to these tables of one database; the same seed and state give the same writes."""

    def __init__(self, dsn: str, tables: Sequence[tuple[str, str]], seed: int) -> None:
        self.rng = random.Random(seed)
        self.session = psycopg.connect(dsn)
        self.session.execute("SET timezone = 'UTC'")
        self.session.execute("SELECT setseed(%s)", [random.Random(seed).random()])
        self.targets = [self._target(schema, relation) for schema, relation in tables]
        self.session.commit()
        self.written = Written()

    def close(self) -> None:
        """End its session."""
        self.session.close()

    # -- the catalog -------------------------------------------------------------------------------------------
    def _target(self, schema: str, relation: str) -> Target:
        found = self.session.execute(
            "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s",
            [schema, relation],
        ).fetchone()
        assert found is not None, f"{schema}.{relation} is gone"
        table = {"table": found[0]}
        columns = tuple(
            Column(name, declared, not_null, has_default, self._kind(oid, modifier))
            for name, declared, not_null, fixed, has_default, oid, modifier in self._rows(_COLUMNS, table)
            if not fixed
        )
        columns = tuple(column for column in columns if self._taken(column))
        key = tuple(row[0] for row in self._rows(_KEY, table))
        foreign = tuple(
            (tuple(own), (into, to), tuple(theirs))
            for into, to, own, theirs in self._rows(_FOREIGN, [found[0]])
        )
        return Target(schema, relation, columns, key, foreign)

    def _taken(self, column: Column) -> bool:
        """Whether the server takes values of the type: one built without libxml has xml in name only."""
        made = value(random.Random(0), column.kind)
        if made is None:
            return True
        try:
            with self.session.transaction():
                self.session.execute(sql.SQL("SELECT {}").format(_cast(column)), [made])
        except errors.FeatureNotSupported:
            return False
        except (errors.DataError, errors.IntegrityError):  # a domain's CHECK
            return True
        return True

    def _rows(self, query: str, parameters: Any) -> list[Any]:
        return self.session.execute(query.encode(), parameters).fetchall()

    def _kind(self, oid: int, modifier: int) -> Kind:
        [(name, category, labels, element, base, of_base)] = self._rows(_TYPE, [oid])
        if category == "d":
            return self._kind(base, of_base)
        inner = self._kind(element, modifier) if element else None
        return Kind(name, category, modifier, tuple(labels), inner)

    # -- writing -----------------------------------------------------------------------------------------------
    def write(self, changes: int) -> Written:
        """At least so many row changes, every table first; then whatever comes."""
        for target in self.targets:
            for action in ("insert", "insert", "insert", "update", "update", "delete", "insert", "update"):
                self._transaction([(action, target)])
            if not self.written.per_table[_told(target)]:
                self.written.untouched.append(_told(target))
        most = 20 * changes
        while sum(self.written.done.values()) < changes and most > 0:
            most -= 1
            count = self.rng.randint(1, 8)
            self._transaction(
                [
                    (
                        self.rng.choices(("insert", "update", "delete"), (5, 5, 2))[0],
                        self.rng.choice(self.targets),
                    )
                    for _ in range(count)
                ]
            )
        return self.written

    def _transaction(self, actions: Sequence[tuple[str, Target]]) -> None:
        done: list[tuple[str, str]] = []
        for action, target in actions:
            try:
                with self.session.transaction():  # a savepoint inside the one that psycopg has begun
                    count = {"insert": self._insert, "update": self._update, "delete": self._delete}[action](
                        target
                    )
                done += [(action, _told(target))] * count
            except errors.Error as error:
                if not (error.sqlstate or "").startswith(_REFUSED):
                    raise
                self.written.refused[f"{action} {_told(target)}: {type(error).__name__}"] += 1
        back = len(actions) > 1 and self.rng.random() < 0.1
        try:
            self.session.rollback() if back else self.session.commit()
        except errors.Error as error:  # a deferred constraint
            if not (error.sqlstate or "").startswith(_REFUSED):
                raise
            self.session.rollback()
            back = True
        self.written.transactions += 1
        self.written.rolled_back += back
        if not back:
            self.written.done.update(action for action, _ in done)
            self.written.per_table.update(table for _, table in done)

    def _insert(self, target: Target) -> int:
        values = self._values(target, [c for c in target.columns if not self._left_to_default(target, c)])
        if values is None:
            return 0
        names = sql.SQL(", ").join(sql.Identifier(c.name) for c, _ in values)
        marks = sql.SQL(", ").join(_cast(c) for c, _ in values)
        query = (
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(target.name, names, marks)
            if values
            else sql.SQL("INSERT INTO {} DEFAULT VALUES").format(target.name)
        )
        return self.session.execute(query, [v for _, v in values]).rowcount

    def _left_to_default(self, target: Target, column: Column) -> bool:
        return column.has_default and (column.name in target.key or self.rng.random() < 0.3)

    def _update(self, target: Target) -> int:
        row = self._some_row(target)
        others = [c for c in target.columns if c.name not in target.key or self.rng.random() < 0.1]
        if row is None or not others:
            return 0
        chosen = self.rng.sample(others, self.rng.randint(1, min(3, len(others))))
        values = self._values(target, chosen)
        if not values:
            return 0
        sets = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(c.name), _cast(c)) for c, _ in values
        )
        query = sql.SQL("UPDATE {} SET {} WHERE {}").format(target.name, sets, row)
        return self.session.execute(query, [v for _, v in values]).rowcount

    def _delete(self, target: Target) -> int:
        row = self._some_row(target)
        if row is None:
            return 0
        return self.session.execute(sql.SQL("DELETE FROM {} WHERE {}").format(target.name, row)).rowcount

    def _some_row(self, target: Target) -> sql.Composable | None:
        """A condition that is true for one row."""
        if not target.key:
            return None
        names = [sql.Identifier(c) for c in target.key]
        query = sql.SQL("SELECT {} FROM {} {} LIMIT 1").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(n) for n in names),
            target.name,
            self._offset(target),
        )
        found = self.session.execute(query).fetchone()
        if found is None:
            return None
        return sql.SQL(" AND ").join(
            sql.SQL("{}::text IS NOT DISTINCT FROM {}").format(n, sql.Literal(v))
            for n, v in zip(names, found, strict=True)
        )

    def _offset(self, target: Target) -> sql.Composable:
        [(count,)] = self._rows_of(sql.SQL("SELECT count(*) FROM {}").format(target.name))
        return sql.SQL("OFFSET {}").format(sql.Literal(self.rng.randrange(max(count, 1))))

    def _rows_of(self, query: sql.Composable) -> list[Any]:
        return self.session.execute(query).fetchall()

    def _values(self, target: Target, columns: Sequence[Column]) -> list[tuple[Column, str | None]] | None:
        """Texts of these columns; None where a column that may not be NULL has none."""
        found: dict[str, str | None] = {}
        wanted = {c.name for c in columns}
        for own, (schema, relation), theirs in target.foreign:
            if set(own) & wanted and not set(own) & set(found):
                parents = self._parent(schema, relation, theirs)
                found.update(zip(own, parents, strict=True))
        values: list[tuple[Column, str | None]] = []
        for column in columns:
            text = found[column.name] if column.name in found else self._value(target, column)
            if column.name in found and not column.not_null and self.rng.random() < 0.2:
                text = None
            if text is None and column.not_null:
                if column.has_default:
                    continue
                return None
            values.append((column, text))
        return values

    def _parent(self, schema: str, relation: str, columns: Sequence[str]) -> Sequence[str | None]:
        query = sql.SQL("SELECT {} FROM {} ORDER BY random() LIMIT 1").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(c)) for c in columns),
            sql.Identifier(schema, relation),
        )
        found = self.session.execute(query).fetchone()
        return found if found is not None else [None] * len(columns)

    def _value(self, target: Target, column: Column) -> str | None:
        if not column.not_null and self.rng.random() < 0.15:
            return None
        made = value(self.rng, column.kind)
        near = self.rng.random() < 0.5 or made is None
        return (self._near(target, column) or made) if near else made

    def _near(self, target: Target, column: Column) -> str | None:
        """A value that the column has somewhere, or one close to it: it fits CHECKs and partitions more often."""
        name = sql.Identifier(column.name)
        shifted: sql.Composable = sql.SQL("{}::text").format(name)
        if column.kind.name in ("timestamptz", "timestamp"):
            shifted = sql.SQL("({} + random() * interval '1 day')::text").format(name)
        query = sql.SQL("SELECT {} FROM {} {} LIMIT 1").format(shifted, target.name, self._offset(target))
        found = self.session.execute(query).fetchone()
        return found[0] if found is not None else None


def _told(target: Target) -> str:
    return f"{target.schema}.{target.relation}"


def _cast(column: Column) -> sql.Composable:
    return sql.SQL("CAST(%s AS {})").format(sql.SQL(column.declared))
