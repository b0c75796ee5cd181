"""PostgreSQL's side: runs the statements of `expected`, in snapshots that only read."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager

from bson import ObjectId

from connectors.positions import Lsn
from connectors.postgres.client import Session, translated
from connectors.postgres.sql import SQL, Composed
from sync.verify.catalog import Table
from sync.verify.chunks import Bound, KeyRange, bound_after, within
from sync.verify.expected import Children, Expected, Key, Part, Reading, Row

WHOLE = KeyRange()
_IDS_AT_ONCE = 5_000
#: a partitioned table has its rows in its leaves; NULL where one was never analysed
_ABOUT = """
SELECT CASE WHEN min(leaf.reltuples) >= 0 THEN sum(leaf.reltuples)::int8 END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
  LATERAL (SELECT l.reltuples FROM pg_catalog.pg_class l WHERE l.relkind = 'r' AND (l.oid = c.oid OR l.oid IN (
    SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)))) AS leaf
WHERE n.nspname = %s AND c.relname = %s
"""


@contextmanager
def snapshot(session: Session) -> Iterator[None]:
    """Everything read inside is of one moment. A policy that hides rows is an error, not silence."""
    with translated(), session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        session.execute("SELECT set_config('row_security', 'off', true), set_config('jit', 'off', true)")
        yield


def lsn(session: Session) -> Lsn:
    """Where PostgreSQL writes its WAL now: all that any earlier statement saw lies before it."""
    with translated():
        found = session.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert found is not None
    return Lsn.parse(found[0])


def clock_ms(session: Session) -> int:
    """PostgreSQL's clock."""
    with translated():
        found = session.execute("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::int8").fetchone()
    assert found is not None
    return int(found[0])


def stream(
    session: Session, reading: Reading, batch: int, keys: KeyRange = WHOLE
) -> Generator[list[Expected]]:
    """What every row of a collection with a key in a range has to be, in batches, as of one snapshot; memory holds one
    batch."""
    with snapshot(session), session.cursor(name="tandem_verify", binary=True) as cursor:
        cursor.execute(reading.rows_in(within(reading.table, keys)))
        while found := cursor.fetchmany(batch):
            yield _expected(session, reading, found)


def ids_in(session: Session, reading: Reading, keys: KeyRange) -> Iterator[bytes]:
    """The `_id` of every row that passes the filter and has a key in a range."""
    with snapshot(session), session.cursor(name="tandem_verify_ids", binary=True) as cursor:
        cursor.execute(reading.keys_in(within(reading.table, keys)))
        while found := cursor.fetchmany(_IDS_AT_ONCE):
            for row in found:
                yield reading.id_of(reading.key(row)).binary


def bound_in(session: Session, table: Table, keys: KeyRange, rows: int) -> Bound | None:
    """The key that so many rows of a range lie before; None where there are no more than these."""
    with translated():
        found = session.execute(bound_after(table, keys, rows)).fetchone()
    return None if found is None else tuple(found)


def about(session: Session, table: Table) -> int:
    """About how many rows a table has, by its statistics; counted where it has none."""
    with translated():
        found = session.execute(_ABOUT, [*table.parts]).fetchone()
        if found is not None and found[0] is not None and found[0] >= 0:
            return int(found[0])
        counted = session.execute(SQL("SELECT count(*) FROM {}").format(table.source)).fetchone()
    return int(counted[0]) if counted else 0


def blocks(session: Session) -> tuple[int, int] | None:
    """Blocks that this session has found in PostgreSQL's cache, and has read; None before PostgreSQL 18."""
    with translated():
        if session.info.server_version < 180_000:
            return None
        session.execute("SELECT pg_catalog.pg_stat_force_next_flush()")
        found = session.execute(
            "SELECT coalesce(sum(hits), 0)::int8, coalesce(sum(reads), 0)::int8"
            " FROM pg_catalog.pg_stat_get_backend_io(pg_catalog.pg_backend_pid())"
        ).fetchone()
    return None if found is None else (int(found[0]), int(found[1]))


def look(session: Session, reading: Reading, keys: Collection[Key]) -> list[Expected]:
    """What the rows with these keys have to be now, less those that are not there or not in the filter."""
    if not keys:
        return []
    with snapshot(session):
        return _expected(session, reading, _rows(session, reading.these_rows(list(keys))))


def present(session: Session, reading: Reading, keys: Collection[Key], *, filtered: bool) -> set[Key]:
    """Those of these keys that have a row now; filtered: one that passes the filter."""
    if not keys:
        return set()
    with translated():
        found = _rows(session, reading.these_keys(list(keys), filtered=filtered))
    return {reading.key(row) for row in found}


def versions(session: Session, reading: Reading, keys: Collection[Key]) -> dict[Key, list[str]]:
    """The versions of the rows with these keys and of all that their documents are made from, whether they pass a
    filter or not."""
    if not keys:
        return {}
    found: dict[Key, list[str]] = {}
    with translated():
        rows = _rows(session, reading.these_keys(list(keys), filtered=False))
        for row in rows:
            found.setdefault(reading.key(row), []).append(reading.version(row))
        for children in reading.children:
            for key, parts in _elements(session, children, list(keys), filtered=False).items():
                found.setdefault(key, []).extend(sorted(v for _, more in parts for v in more))
        for at, copied in enumerate(_copies(session, reading, rows, filtered=False)):
            for row in rows:
                pointer = reading.pointers(row)[at]
                if pointer is not None and pointer in copied:
                    found[reading.key(row)] += copied[pointer][1]
    return found


def keys_of(session: Session, reading: Reading, ids: Collection[ObjectId]) -> dict[ObjectId, Key]:
    """The keys behind these `_id`s. A hash does not tell its key: all the table's keys are gone through."""
    wanted, known = set(ids), {}
    with snapshot(session), session.cursor(name="tandem_verify_keys", binary=True) as cursor:
        cursor.execute(reading.all_keys())
        while found := cursor.fetchmany(5_000):
            for row in found:
                if (oid := reading.id_of(key := reading.key(row))) in wanted:
                    known[oid] = key
    return known


def _expected(session: Session, reading: Reading, found: Sequence[Row]) -> list[Expected]:
    keys = [reading.key(row) for row in found]
    elements = [_elements(session, children, keys, filtered=True) for children in reading.children]
    return reading.expected(found, elements, _copies(session, reading, found, filtered=True))


def _elements(
    session: Session, children: Children, parents: Sequence[Key], *, filtered: bool
) -> dict[Key, list[Part]]:
    """The elements of each of these parents in their order, with those inside of them. filtered: else their
    versions only, of all children."""
    if not parents:
        return {}
    statement = children.statement(parents) if filtered else children.versions(parents)
    found = _rows(session, statement)
    keys = [children.key(row) for row in found]
    inner = [(c.array, _elements(session, c, keys, filtered=filtered)) for c in children.inner]
    made: dict[Key, list[Part]] = {}
    for row, key in zip(found, keys, strict=True):
        element = children.fields(row) if filtered else {}
        seen = [children.version(row)]
        for array, of in inner:
            element[array] = [part for part, _ in of.get(key, ())]
            seen += [version for _, more in of.get(key, ()) for version in more]
        made.setdefault(children.parent_of(row), []).append((element, seen))
    return made


def _copies(
    session: Session, reading: Reading, found: Sequence[Row], *, filtered: bool
) -> list[dict[Key, Part]]:
    """What is copied into the documents of these rows, for each copy by key."""
    made = []
    pointers = [reading.pointers(row) for row in found]
    for at, copied in enumerate(reading.copied):
        keys = list({pointer[at]: None for pointer in pointers if pointer[at] is not None})
        wanted = [key for key in keys if key is not None]
        statement = copied.statement if filtered else copied.versions
        there = _rows(session, statement(wanted)) if wanted else []
        made.append(
            {
                copied.key(row): (copied.fields(row) if filtered else {}, [copied.version(row)])
                for row in there
            }
        )
    return made


def _rows(session: Session, statement: Composed) -> list[Row]:
    with session.cursor(binary=True) as cursor:
        return list(cursor.execute(statement).fetchall())
