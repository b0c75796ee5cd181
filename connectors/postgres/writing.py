"""Rows written one by one, by their keys, in a transaction that somebody else has begun.

A value is a text that PostgreSQL reads as the column's type by itself, without a cast: a cast would cut in silence what
is too long for its column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from psycopg import Error, sql
from psycopg.types.numeric import Int4BinaryLoader, Int8BinaryLoader
from psycopg.types.string import ByteaBinaryLoader

from connectors.errors import RowRefused, SyncError, Unappliable
from connectors.postgres.catalog import Table
from connectors.postgres.client import Session, translate, translated
from connectors.postgres.rows import Row, TableRead, identifier

#: column -> text, None for NULL
Cells = Mapping[str, str | None]


class Given(NamedTuple):
    """A column that PostgreSQL fills in when it is left out. always: it takes another value only when overridden."""

    always: bool


#: columns that a unique index has, by table
Uniques = Mapping[str, frozenset[str]]


_GIVEN = """
SELECT n.nspname || '.' || c.relname, a.attname::text, a.attidentity = 'a'
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
  AND (a.attidentity <> '' OR (a.atthasdef AND a.attgenerated = ''))
"""


def givens(session: Session, tables: Sequence[str]) -> dict[str, dict[str, Given]]:
    """Columns with a default or an identity, by table."""
    found: dict[str, dict[str, Given]] = {}
    with translated():
        for table, column, always in session.execute(_GIVEN, [list(tables)]).fetchall():
            found.setdefault(table, {})[column] = Given(always)
    return found


_UNIQUE = """
SELECT n.nspname || '.' || c.relname, array_agg(DISTINCT a.attname::text)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[])
WHERE n.nspname || '.' || c.relname = ANY(%s) AND i.indisunique GROUP BY 1
"""


def uniques(session: Session, tables: Sequence[str]) -> dict[str, frozenset[str]]:
    """Columns of unique indexes, by table."""
    with translated():
        rows = session.execute(_UNIQUE, [list(tables)]).fetchall()
    return {table: frozenset(columns) for table, columns in rows}


def as_natives(session: Session) -> None:
    """Let a session read rows as the mapping takes them: times as numbers, JSON as bytes."""
    for name in ("timestamptz", "timestamp", "time"):
        session.adapters.register_loader(name, Int8BinaryLoader)
    session.adapters.register_loader("date", Int4BinaryLoader)
    for name in ("json", "jsonb"):
        session.adapters.register_loader(name, ByteaBinaryLoader)


class Writing:
    """Reads and writes of single rows. Each write returns the row as it is behind it, as `read` has its columns."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """A savepoint: what fails inside is undone. Raises RowRefused for what is the row's fault, others by kind."""
        try:
            with self.session.transaction():
                yield
        except Error as error:
            raise refusal(error) from error

    def rows(self, read: TableRead, columns: Sequence[str], key: Sequence[str]) -> list[Row]:
        """The rows that hold this in these columns, locked for who writes them."""
        condition = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(c)) for c in columns)
        head = read.select().as_string(self.session).replace("%", "%%")
        query = f"{head} WHERE {condition.as_string(self.session)} FOR UPDATE"
        return self._all(query, list(key))

    def keys(self, read: TableRead) -> Iterator[Row]:
        """Of all rows; read: of the key's columns only. Memory does not grow with their number."""
        with self.session.cursor("tandem_keys", binary=True) as cursor:
            cursor.itersize = 10_000
            cursor.execute(read.select())
            yield from cursor

    def insert(self, read: TableRead, cells: Cells, *, overriding: bool) -> Row:
        """A new row. overriding: a column that is GENERATED ALWAYS AS IDENTITY is given."""
        names = sql.SQL(", ").join(map(sql.Identifier, cells))
        what = (
            sql.SQL("({}) {} VALUES ({})").format(
                names,
                sql.SQL("OVERRIDING SYSTEM VALUE" if overriding else ""),
                sql.SQL(", ").join([sql.SQL("%s")] * len(cells)),
            )
            if cells
            else sql.SQL("DEFAULT VALUES")
        )
        head = sql.SQL("INSERT INTO {} {}").format(identifier(read.table), what).as_string(self.session)
        return self._one(f"{head} RETURNING {self._returned(read)}", list(cells.values()), "inserted")

    def update(self, read: TableRead, key: Sequence[str], cells: Cells) -> Row:
        """Set columns of the row with this key."""
        changed = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(c)) for c in cells)
        head = sql.SQL("UPDATE {} SET {} WHERE {}").format(read.source, changed, self._this(read))
        query = f"{head.as_string(self.session)} RETURNING {self._returned(read)}"
        return self._one(query, [*cells.values(), *key], "updated")

    def delete(self, read: TableRead, key: Sequence[str]) -> str:
        """Delete the row with this key. Returns all of it, as JSON."""
        head = sql.SQL("DELETE FROM {} AS {} WHERE {} RETURNING row_to_json({})::text").format(
            read.source, sql.Identifier("gone"), self._this(read), sql.Identifier("gone")
        )
        [found] = self._one(head.as_string(self.session), list(key), "deleted", binary=False)
        return str(found)

    @staticmethod
    def _this(read: TableRead) -> sql.Composed:
        return sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(c)) for c in read.key)

    def _returned(self, read: TableRead) -> str:
        head = read.select().as_string(self.session)
        return head[len("SELECT ") : head.rindex(" FROM ")].replace("%", "%%")

    def _all(self, query: str, values: Sequence[Any]) -> list[Row]:
        return self.session.execute(query.encode(), values, binary=True).fetchall()

    def _one(self, query: str, values: Sequence[Any], done: str, *, binary: bool = True) -> Row:
        found = self.session.execute(query.encode(), values, binary=binary).fetchall()
        if len(found) != 1:
            raise RowRefused(
                f"{len(found)} rows were {done} where one was to be: a trigger or a policy of the table has a say",
                remedy="look at the triggers and row-level security of the table",
            )
        return found[0]


#: classes of SQLSTATE that the data of one row is to blame for: data exceptions, integrity, a CHECK OPTION, a RAISE
_OF_THE_ROW = ("22", "23", "44", "P0001", "42804")


def refusal(error: Error) -> SyncError:
    """What a failed statement means: of a row, or of the server."""
    state = error.sqlstate or ""
    if not state.startswith(_OF_THE_ROW):
        return translate(error)
    diag = error.diag
    named = diag.constraint_name or diag.column_name
    table = f"{diag.schema_name}.{diag.table_name}" if diag.table_name else "PostgreSQL"
    what = f"{table}: {_WORDS.get(state, 'the value is refused')} ({named or state})"
    found: Unappliable = RowRefused(
        what,
        remedy="mend the document or the row; it is tried again by itself, or by `tandem reverse retry`",
        details={"message": str(error).strip()},
        sqlstate=state,
    )
    return found


_WORDS = {
    "23505": "another row holds a value that has to be unique",
    "23503": "a row that it refers to is not there, or one that refers to it still is",
    "23502": "a column that takes no NULL has none",
    "23514": "a CHECK refuses it",
    "22001": "a text is too long",
    "22003": "a number is too large",
    "22P02": "a text that is no value of the column's type",
    "22021": "a text that PostgreSQL does not take",
}


def advance(session: Session, table: Table) -> int:
    """Let the sequences of a table's integer key columns go on behind the largest key. Returns how many were moved."""
    moved = 0
    with translated():
        for column in table.key:
            named = session.execute(
                "SELECT pg_get_serial_sequence(%s, %s)", [identifier(table.name).as_string(session), column]
            ).fetchone()
            if named is None or named[0] is None:
                continue
            # behind what the sequence has given already, too; a number that is left out does no harm
            query = sql.SQL(
                "SELECT setval({0}::regclass, greatest(nextval({0}::regclass), found.most)) FROM"
                " (SELECT max({1})::bigint AS most FROM {2}) AS found WHERE found.most IS NOT NULL"
            ).format(sql.Literal(named[0]), sql.Identifier(column), identifier(table.name))
            moved += len(session.execute(query).fetchall())
    return moved
