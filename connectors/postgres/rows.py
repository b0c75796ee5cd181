"""Rows of PostgreSQL in binary: many by COPY under a given snapshot, or a few as they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg import sql
from psycopg.types.numeric import Int4BinaryLoader, Int8BinaryLoader
from psycopg.types.string import ByteaBinaryLoader

from connectors.positions import Lsn, Snapshot
from connectors.postgres import catalog, slots
from connectors.postgres.client import Session, connect, translated
from connectors.settings import SourceEndpoint

Row = tuple[Any, ...]


class Selected(NamedTuple):
    """A column of a read. select: `plain`, `output` (what its type's output function writes), or the type that it
    is cast to. wire: the type its bytes are."""

    name: str
    select: str
    wire: str


@dataclass(frozen=True, slots=True)
class TableRead:
    """How rows of one table are read. casts: the key columns' types as SQL. alone: without tables that inherit."""

    table: str
    columns: tuple[Selected, ...]
    key: tuple[str, ...]
    casts: tuple[str, ...]
    #: collations of the key columns as SQL, empty where there is none
    collations: tuple[str, ...] = ()
    alone: bool = False

    @property
    def source(self) -> sql.Composed:
        """What stands behind FROM."""
        return sql.SQL("ONLY {}" if self.alone else "{}").format(identifier(self.table))

    def select(self) -> sql.Composed:
        """`SELECT columns FROM table`."""
        columns = [_asked(c).format(sql.Identifier(c.name)) for c in self.columns]
        return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(columns), self.source)


def _asked(column: Selected) -> sql.SQL:
    if column.select == "output":
        return sql.SQL("CASE WHEN {0} IS NOT NULL THEN pg_catalog.format('%s', {0}) END")
    return sql.SQL("{}" if column.select == "plain" else "{}::" + column.select)


class KeyRange(NamedTuple):
    """Keys from low (included) to high (not), as PostgreSQL's text of each column; None: no end."""

    low: tuple[str, ...] | None
    high: tuple[str, ...] | None


def identifier(table: str) -> sql.Identifier:
    """`schema.table`, quoted."""
    return sql.Identifier(*table.split(".", 1))


def in_range(columns: Sequence[str], read: TableRead, keys: KeyRange, *, collate: bool) -> sql.Composable:
    """A condition on columns that hold a key of `read`'s table: in this range.

    collate: compare as that table's key does, also where these columns have another collation.
    """
    casts = read.casts
    names = [
        sql.SQL("{} COLLATE " + order).format(sql.Identifier(c)) if collate and order else sql.Identifier(c)
        for c, order in zip(columns, read.collations or ("",) * len(columns), strict=True)
    ]
    row = sql.SQL("({})").format(sql.SQL(", ").join(names))

    def bound(values: Sequence[str]) -> sql.Composed:
        typed = [sql.SQL("{}::" + cast).format(sql.Literal(v)) for v, cast in zip(values, casts, strict=True)]
        return sql.SQL("({})").format(sql.SQL(", ").join(typed))

    parts = []
    if keys.low is not None:
        parts.append(sql.SQL("{} >= {}").format(row, bound(keys.low)))
    if keys.high is not None:
        parts.append(sql.SQL("{} < {}").format(row, bound(keys.high)))
    return sql.SQL(" AND ").join(parts) if parts else sql.SQL("true")


def rows_of(session: Session, table: str) -> int:
    """About how many rows a table has, by the statistics; counted where it has none."""
    known = session.execute(
        "SELECT sum(c.reltuples)::bigint, bool_or(c.reltuples < 0) FROM pg_class c"
        " WHERE c.oid = %s::regclass OR c.oid IN (SELECT relid FROM pg_partition_tree(%s::regclass))"
        " AND c.relkind = 'r'",
        [identifier(table).as_string(session), identifier(table).as_string(session)],
    ).fetchone()
    if known and known[0] is not None and not known[1]:
        return int(known[0])
    counted = session.execute(sql.SQL("SELECT count(*) FROM {}").format(identifier(table))).fetchone()
    return int(counted[0]) if counted else 0


def _this(read: TableRead) -> sql.Composed:
    """A condition: the row with the key that is given as parameters."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = %s::" + cast).format(sql.Identifier(c))
        for c, cast in zip(read.key, read.casts, strict=True)
    )


class SnapshotReader:
    """One session that reads under an exported snapshot. Used by one thread at a time."""

    def __init__(self, source: SourceEndpoint, snapshot: str) -> None:
        self._source = source
        self._session = connect(source, name="tandem loader")
        with translated(source):
            self._session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def boundaries(self, read: TableRead, every: int) -> tuple[list[tuple[str, ...]], int]:
        """The first key of every `every` rows in key order, less the very first; and the number of rows."""
        key = sql.SQL(", ").join(sql.Identifier(c) for c in read.key)
        text = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(c)) for c in read.key)
        with translated(self._source):
            found = self._session.execute(
                sql.SQL(
                    "SELECT {text} FROM (SELECT {key}, row_number() OVER (ORDER BY {key}) AS {n} FROM {table}) AS s"
                    " WHERE {n} % {every} = 1 OR {every} = 1 ORDER BY {n}"
                ).format(
                    n=sql.Identifier("tandem: row number"),
                    text=text,
                    key=key,
                    table=read.source,
                    every=sql.Literal(every),
                )
            ).fetchall()
            count = self._session.execute(sql.SQL("SELECT count(*) FROM {}").format(read.source)).fetchone()
        assert count is not None
        return [tuple(row) for row in found[1:]], count[0]

    def ask(self, query: sql.Composed) -> list[Row]:
        """The rows of a statement that was composed without placeholders."""
        with translated(self._source):
            return self._session.execute(query).fetchall()

    def copy(
        self,
        read: TableRead,
        keys: KeyRange,
        where: str | None,
        parent: tuple[TableRead, Sequence[str]] | None = None,
    ) -> Iterator[Row]:
        """Stream rows by binary COPY whose key lies in a range; or, parent given, those whose columns with that
        table's key do. Memory does not grow with their number."""
        of, columns = parent or (read, read.key)
        condition = in_range(columns, of, keys, collate=parent is not None)
        if where:
            condition = sql.SQL("{} AND ({})").format(condition, sql.SQL(where))
        yield from self.stream(read, condition)

    def stream(
        self, read: TableRead, condition: sql.Composable, sample: sql.Composable | None = None
    ) -> Iterator[Row]:
        """Stream rows by binary COPY that meet a condition. sample: a TABLESAMPLE clause."""
        table = read.select() if sample is None else sql.SQL(" ").join([read.select(), sample])
        query = sql.SQL("{} WHERE {}").format(table, condition)
        copy = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
        with translated(self._source), self._session.cursor() as cursor, cursor.copy(copy) as stream:
            stream.set_types([c.wire for c in read.columns])
            yield from stream.rows()


class CurrentRows:
    """Reads rows as they are now, and what is visible now. Connects when needed, again after a failure."""

    def __init__(self, source: SourceEndpoint) -> None:
        self._source = source
        self._open: Session | None = None

    def close(self) -> None:
        """End the session, if there is one."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _session(self) -> Session:
        if self._open is None or self._open.closed or self._open.broken:
            self._open = connect(self._source, name="tandem rows")
            adapters = self._open.adapters
            for name in ("timestamptz", "timestamp", "time"):
                adapters.register_loader(name, Int8BinaryLoader)
            adapters.register_loader("date", Int4BinaryLoader)
            for name in ("json", "jsonb"):
                adapters.register_loader(name, ByteaBinaryLoader)
            self._open.execute("SET lock_timeout = '5s'")
        return self._open

    def visible_now(self) -> Snapshot:
        """Which transactions a read that begins now would show. Raises Unavailable."""
        with translated(self._source):
            return slots.visible_now(self._session())

    def versions(self, tables: Sequence[str]) -> dict[str, str]:
        """The versions of tables: `catalog.versions`. Raises Unavailable."""
        with translated(self._source):
            return catalog.versions(self._session(), tables)

    def as_text(
        self, read: TableRead, columns: Sequence[str], key: Sequence[str]
    ) -> dict[str, str | None] | None:
        """PostgreSQL's own text of each of these columns of a row; None where there is no such row."""
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(c)) for c in columns)
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(texts, read.source, _this(read))
        with translated(self._source):
            found = self._session().execute(query, list(key)).fetchone()
        return None if found is None else dict(zip(columns, found, strict=True))

    def truth(self, read: TableRead, condition: str, key: Sequence[str]) -> bool | None:
        """What a condition, as SQL that was checked, is for a row that is there; None: unknown."""
        query = sql.SQL("SELECT ({})::boolean FROM {} WHERE {}").format(
            sql.SQL(condition.replace("%", "%%")), read.source, _this(read)
        )
        with translated(self._source):
            found = self._session().execute(query, list(key)).fetchone()
        return None if found is None else found[0]

    def read(self, wanted: Mapping[TableRead, Sequence[tuple[Any, ...]]]) -> tuple[dict[str, list[Row]], Lsn]:
        """The rows with these keys that there are, per table, all in one snapshot; and a WAL position read before it.

        Raises Unavailable, also when a lock (a TRUNCATE's, say) is not let go within 5 s.
        """
        with translated(self._source):
            session = self._session()
            lsn = slots.wal_position(session)
            found: dict[str, list[Row]] = {}
            with session.transaction():
                session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                for read, keys in wanted.items():
                    key = sql.SQL(", ").join(sql.Identifier(c) for c in read.key)
                    head = sql.SQL("{} WHERE ({})").format(read.select(), key).as_string(session)
                    arrays = ", ".join(f"%s::{cast}[]" for cast in read.casts)
                    query = head.replace("%", "%%") + f" IN (SELECT * FROM unnest({arrays}))"
                    values = [list(column) for column in zip(*keys, strict=True)]
                    found[read.table] = session.execute(query.encode(), values, binary=True).fetchall()
            return found, lsn
