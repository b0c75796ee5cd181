"""What documents are made from beside their own rows and those of their arrays: rows inside of elements, and rows that
are copied. Looked up by their keys, some at a time, in a session of its own, since the others are being streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType

from connectors.postgres import sql
from connectors.postgres.rows import Row, SnapshotReader, TableRead
from connectors.settings import SourceEndpoint
from consumers.apply.write import table_read
from consumers.mapping.plan import Key, RowPlan
from sync.preflight.inspect import Inspector
from sync.preflight.tally import texts

_AT_ONCE = 500


class Beside:
    """Gives an inspector what belongs to the rows that pass through. Connects when there is something to look up."""

    def __init__(self, source: SourceEndpoint, snapshot: str, inspector: Inspector) -> None:
        self._source, self._snapshot, self._inspector = source, snapshot, inspector
        self._plan = inspector.plan
        self._open: SnapshotReader | None = None

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.close()

    def with_inner(self, use: RowPlan, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows of an embedded table; ahead of each, what is inside of its element."""
        inner = self._plan.arrays.get(use.place, {}).values()
        if not inner:
            yield from rows
            return
        for some in _some(rows):
            keys = [use.table.key_of(use.table.from_row(row)) for row in some]
            for child in inner:
                for row in self.with_inner(child, list(self._read(child, child.parent_columns, use, keys))):
                    self._inspector.child(child, row)
            yield from some

    def with_copied(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows of the collection's table; ahead of each, what is copied into its document."""
        use = self._inspector.use
        if not use.pointers:
            yield from rows
            return
        for some in _some(rows):
            natives = [use.table.from_row(row) for row in some]
            self._inspector.copies.clear()
            for field, parts, _ in use.pointers:
                held = [tuple(of[p.column] for p in parts) for of in natives]
                keys = {
                    tuple(p.value(v) for p, v in zip(parts, values, strict=True)): None
                    for values in held
                    if None not in values
                }
                copy = self._plan.copies[use.collection][field]
                for row in self._read(copy, copy.table.key, copy, list(keys)):
                    self._inspector.copied(copy, row)
            yield from some

    def _read(self, use: RowPlan, columns: Sequence[str], of: RowPlan, keys: Sequence[Key]) -> Iterator[Row]:
        """Rows of a use whose columns hold one of these keys of another table."""
        if not keys:
            return
        self._open = self._open or SnapshotReader(self._source, self._snapshot)
        held = one_of(table_read(of.table), columns, [texts(key) for key in keys])
        yield from self._open.stream(table_read(use.table), sql.SQL("{} AND {}").format(held, where(use)))


def _some(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while some := list(islice(rows, _AT_ONCE)):
        yield some


def where(use: RowPlan) -> sql.Composable:
    """A use's filter as a condition."""
    return sql.SQL("(" + use.where_sql + ")") if use.where_sql else sql.SQL("true")


def one_of(read: TableRead, columns: Sequence[str], keys: Sequence[tuple[str, ...]]) -> sql.Composed:
    """A condition: these columns hold one of these keys of a table."""
    rows = [
        sql.SQL("({})").format(
            sql.SQL(", ").join(
                sql.SQL("{}::" + cast).format(sql.Literal(text))
                for text, cast in zip(key, read.casts, strict=True)
            )
        )
        for key in keys
    ]
    named = sql.SQL(", ").join(sql.Identifier(c) for c in columns)
    return sql.SQL("({}) IN ({})").format(named, sql.SQL(", ").join(rows))
