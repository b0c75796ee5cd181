"""One document into its rows, in a transaction that somebody else has begun.

A document is compared with what its rows say now, read through the mapping as the way forward reads them, and only
columns whose fields differ are written. Each row that was written is read again and has to say what the document says:
a value that PostgreSQL rounds, cuts or changes by a trigger is refused, never kept in silence. What goes to no column
comes back as `aside`.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol

from bson import ObjectId

from connectors.errors import RowRefused
from connectors.postgres.catalog import Column
from connectors.postgres.rows import Row, TableRead
from consumers.apply.write import table_read
from consumers.mapping.ids import integer_key, object_id
from consumers.mapping.plan import Document, Natives, TablePlan
from consumers.reverse import alike
from consumers.reverse.invert import Back, FieldBack, ReferenceBack
from consumers.reverse.texts import NoText, kind, no_text

#: a key, as PostgreSQL's text of each column
KeyTexts = tuple[str, ...]


class Rows(Protocol):
    """Rows in the transaction: `connectors.postgres.writing`, or a copy of it in memory."""

    def rows(self, read: TableRead, columns: Sequence[str], key: Sequence[str]) -> list[Row]:
        """The rows that hold this in these columns."""

    def insert(self, read: TableRead, cells: Mapping[str, str | None], *, overriding: bool) -> Row:
        """A new row, as it is behind it."""

    def update(self, read: TableRead, key: Sequence[str], cells: Mapping[str, str | None]) -> Row:
        """The row, as it is behind it."""

    def delete(self, read: TableRead, key: Sequence[str]) -> str:
        """Delete it. Returns all of it, as JSON."""


class Ids(Protocol):
    """Which row a document is of, where its `_id` does not say it."""

    def key(self, collection: str, id_: Any) -> KeyTexts | None:
        """The key, where it is known without looking at rows."""


@dataclass
class Written:
    """What became of a document. key: of its row; None where there is none. aside: what goes to no column, by field.
    rows: that were inserted, updated or deleted. gone: rows that were deleted, with their table, as JSON."""

    key: KeyTexts | None
    aside: Document = field(default_factory=dict)
    rows: int = 0
    inserted: bool = False
    gone: list[tuple[str, str]] = field(default_factory=list)


def key_texts(table: TablePlan, natives: Natives) -> KeyTexts:
    """The key of a row."""
    return tuple(str(value) for value in table.key_of(natives))


def id_of(table: TablePlan, key: KeyTexts) -> ObjectId:
    """The `_id` that the way forward gives the row's document."""
    return object_id(table.name, table.key_from_texts(key))


def says_key(back: Back) -> bool:
    """Whether the key can be read from the `_id`s of a table's documents: it is one integer."""
    key = back.table.key
    column = back.table.column(key[0]) if len(key) == 1 else None
    return column is not None and column.type in ("smallint", "integer", "bigint", "oid")


def key_of_id(back: Back, id_: Any) -> KeyTexts | None:
    """The key that an `_id` says by itself: that of a table with an integer key."""
    if not says_key(back) or not isinstance(id_, ObjectId):
        return None
    found = integer_key(back.table.name, id_)
    return None if found is None else (str(found),)


def key_of_document(back: Back, document: Mapping[str, Any]) -> KeyTexts | None:
    """The key of the row that a document was made from: its `_id` says it, or proves it."""
    found = key_of_id(back, document.get("_id"))
    if found is not None:
        return found
    stamp = document.get("_sync")
    kept = stamp.get("key") if isinstance(stamp, Mapping) else None
    for texts in (kept, _named_key(back, document)):
        if texts is not None and _proves(back, texts, document.get("_id")):
            return tuple(texts)
    return None


def _named_key(back: Back, document: Mapping[str, Any]) -> KeyTexts | None:
    """The key that a document's fields have, where all of it is in fields of its own."""
    sources = back.key_fields()
    texts: list[str] = []
    for column in back.table.key:
        source = sources.get(column)
        if not isinstance(source, FieldBack) or document.get(source.name) is None:
            return None
        text = source.to_text(document[source.name])
        if text is None:
            return None
        texts.append(text)
    return tuple(texts)


def _proves(back: Back, texts: Sequence[Any], id_: Any) -> bool:
    try:
        return len(texts) == len(back.table.key) and id_of(back.use.table, tuple(map(str, texts))) == id_
    except (ValueError, TypeError):
        return False


class Writer:
    """Writes documents of one plan into rows. now_us: PostgreSQL's clock, for filters."""

    def __init__(
        self, backs: Mapping[str, Back], rows: Rows, ids: Ids, now_us: int, *, deletes: bool
    ) -> None:
        self._backs, self._rows, self._ids, self._now = backs, rows, ids, now_us
        #: rows are deleted also where their filter could say that they are not there
        self._deletes = deletes
        self._reads: dict[str, TableRead] = {}

    # -- a document ----------------------------------------------------------------------------------------------
    def put(self, collection: str, document: Mapping[str, Any], key: KeyTexts | None) -> Written:
        """Make its rows say what it says. key: of its row, None where it is new. Raises NoText, RowRefused."""
        back = self._backs[collection]
        done = Written(key)
        natives = self._one(back, key) if key is not None else None
        if key is None and (named := _named_key(back, document)) is not None:
            natives = self._one(back, named)
            if natives is not None and back.use.inside(natives, self._now):
                raise no_text(f"{back.table.name} has a row with its key, which is another document's")
        forced = dict(zip(back.table.key, key, strict=True)) if key is not None and natives is None else {}
        self._settle(back, document, natives, forced, done, done.aside)
        return done

    def remove(self, collection: str, key: KeyTexts) -> Written:
        """Its document is gone: let its row pass the filter no more, or delete it with what was embedded."""
        back, done = self._backs[collection], Written(key)
        natives = self._one(back, key)
        if natives is not None and back.use.inside(natives, self._now):
            self._take_out(back, natives, done)
        return done

    def free(self, collection: str, key: KeyTexts, columns: AbstractSet[str]) -> None:
        """Let a row hold none of the values that have to be unique, until it is written again in this transaction."""
        back = self._backs[collection]
        natives = self._one(back, key)
        cells: dict[str, str | None] = {}
        for column in back.table.columns:
            if column.name in columns and column.name not in back.table.key and not column.generated:
                cells[column.name] = self._unlike(column) if column.not_null else None
        if natives is not None and cells:
            self._rows.update(self._read(back), key, cells)

    @staticmethod
    def _unlike(column: Column) -> str:
        """A value that no other row has."""
        if column.type in ("text", "character varying", "citext"):
            return uuid.uuid4().hex
        if column.type == "uuid":
            return str(uuid.uuid4())
        if column.type in ("bigint", "integer", "numeric"):
            return str(-secrets.randbelow(1 << 31) - 1)
        raise no_text(
            f"{column.name}: two rows swap values that have to be unique, of a type for which that is not done"
        )

    # -- rows ----------------------------------------------------------------------------------------------------
    def _read(self, back: Back) -> TableRead:
        name = back.table.name
        if name not in self._reads:
            self._reads[name] = table_read(back.use.table)
        return self._reads[name]

    def _one(self, back: Back, key: KeyTexts) -> Natives | None:
        found = self._rows.rows(self._read(back), back.table.key, key)
        return back.use.table.from_row(found[0]) if found else None

    def _settle(
        self,
        back: Back,
        document: Mapping[str, Any],
        natives: Natives | None,
        forced: Mapping[str, str],
        done: Written,
        aside: Document,
    ) -> Natives:
        """One row and its arrays. forced: columns whose value is known from elsewhere. Returns the row behind it."""
        cells = {**self._cells(back, document, natives), **forced}
        read = self._read(back)
        if natives is None:
            always = any(of.always for column, of in back.given.items() if column in cells)
            row = self._rows.insert(read, cells, overriding=always)
            done.inserted = done.inserted or not back.foreign
        elif cells:
            row = self._rows.update(read, key_texts(back.use.table, natives), cells)
        if natives is None or cells:
            done.rows += 1
            before = natives
            natives = back.use.table.from_row(row)
            if before is not None and key_texts(back.use.table, before) != key_texts(back.use.table, natives):
                raise no_text("the key of a row cannot be changed: its document's _id comes from it")
        assert natives is not None
        if not back.foreign:
            done.key = key_texts(back.use.table, natives)
        self._demand_same(back, document, natives, aside)
        for name, inner in back.arrays.items():
            self._array(inner, name, document.get(name), natives, done, aside)
        return natives

    def _cells(
        self, back: Back, document: Mapping[str, Any], natives: Natives | None
    ) -> dict[str, str | None]:
        """The columns that have to be written."""
        forward = {} if natives is None else back.use.document(natives, self._now)
        cells: dict[str, str | None] = {}
        for of in back.fields:
            there, value = of.name in document, document.get(of.name)
            if natives is not None:
                if of.alike(value, forward.get(of.name)) or (value is None and natives[of.column] is None):
                    continue
                if value is None and (of.column in back.table.key or not (there or of.nullable)):
                    continue  # it says nothing
            elif value is None and not of.nullable:
                continue  # PostgreSQL fills it in, or refuses the row
            cells[of.column] = self._text(back, of, value)
        for reference in back.references:
            value = document.get(reference.name)
            if natives is not None and self._refers_the_same(reference, value, forward.get(reference.name)):
                continue
            cells |= self._key_cells(back, reference, value)
        return cells

    def _text(self, back: Back, of: FieldBack, value: Any) -> str | None:
        if value is None:
            return None
        try:
            return of.to_text(value)
        except (NoText, ValueError, TypeError, ArithmeticError) as error:
            what = error.what if isinstance(error, NoText) else type(error).__name__
            raise no_text(f"{back.table.name}.{of.column}: {what}") from error

    def _refers_the_same(self, reference: ReferenceBack, value: Any, forward: Any) -> bool:
        if value == forward:
            return True
        if value is None or forward is None:
            return False
        key = self._key_referred(reference, value)
        return key is not None and id_of(self._backs[reference.to].use.table, key) == forward

    def _key_referred(self, reference: ReferenceBack, value: Any) -> KeyTexts | None:
        return key_of_id(self._backs[reference.to], value) or self._ids.key(reference.to, value)

    def _key_cells(self, back: Back, reference: ReferenceBack, value: Any) -> dict[str, str | None]:
        if value is None:
            return dict.fromkeys(reference.columns)
        key = self._key_referred(reference, value)
        if key is None:
            raise no_text(f"{reference.name} refers to a document of {reference.to} that is not there")
        return dict(zip(reference.columns, key, strict=True))

    def _demand_same(
        self, back: Back, document: Mapping[str, Any], natives: Natives, aside: Document
    ) -> None:
        """The row says what the document says; what it cannot say goes aside."""
        forward = back.use.document(natives, self._now)
        for of in back.fields:
            value = document.get(of.name)
            if value is None and (of.name not in document or of.column in back.table.key):
                continue
            if not of.alike(value, forward.get(of.name)) and not (
                value is None and natives[of.column] is None
            ):
                raise RowRefused(
                    f"{back.table.name}.{of.column}: it reads back as another value than was written: its type rounds"
                    " or cuts it, or a trigger of the table changes it",
                    remedy="mend the document, the column or the trigger; then `tandem reverse retry`",
                )
        for reference in back.references:
            if not self._refers_the_same(
                reference, document.get(reference.name), forward.get(reference.name)
            ):
                raise no_text(f"{reference.name} reads back as a reference to another document")
        for name, value in document.items():
            if name in back.known and not (name in back.aside and not alike.same(value, forward.get(name))):
                continue
            if name != "_sync":
                aside[name] = value

    # -- arrays --------------------------------------------------------------------------------------------------
    def _array(
        self, back: Back, name: str, elements: Any, parent: Natives, done: Written, aside: Document
    ) -> None:
        """Rows of an embedded table, with as few changes as may be."""
        if elements is not None and not isinstance(elements, list):
            raise no_text(f"{name} is a {kind(elements)}, not an array")
        key = tuple(str(v) for v in self._parents_key(back, parent))
        rows = self._children(back, key)
        used: set[int] = set()
        found: list[tuple[Mapping[str, Any], Natives | None]] = []
        for element in elements or ():
            if not isinstance(element, Mapping):
                raise no_text(f"{name} has a {kind(element)} in it, where an object is needed")
            at = next(
                (n for n, row in enumerate(rows) if n not in used and self._is(back, element, row)), None
            )
            if at is not None:
                used.add(at)
            found.append((element, None if at is None else rows[at]))
        for number, row in enumerate(rows):
            if number not in used and back.use.inside(row, self._now):
                self._take_out(back, row, done)
        forced = dict(zip(back.foreign, key, strict=True))
        beside: list[Document] = []
        for element, of_row in found:
            more: Document = {}
            natives = self._settle(back, element, of_row, forced if of_row is None else {}, done, more)
            if more:
                beside.append({"key": list(key_texts(back.use.table, natives)), **more})
        if beside:
            aside[name] = beside

    def _parents_key(self, back: Back, parent: Natives) -> Sequence[Any]:
        of = self._of_table(back.use.parent_table, back)
        return of.use.table.key_of(parent)

    def _of_table(self, table: str, child: Back) -> Back:
        """The use that a child is embedded in."""
        here = self._backs[child.use.collection]
        for step in child.use.path[:-1]:
            here = here.arrays[step]
        assert here.table.name == table
        return here

    def _children(self, back: Back, key: KeyTexts) -> list[Natives]:
        return [back.use.table.from_row(row) for row in self._rows.rows(self._read(back), back.foreign, key)]

    def _is(self, back: Back, element: Mapping[str, Any], row: Natives) -> bool:
        """Whether an element is this row's."""
        forward = back.use.document(row, self._now)
        fields = {f.name: f for f in back.fields}
        references = {r.name: r for r in back.references}
        names = back.identity or (*fields, *references)
        if not back.identity and not back.use.inside(row, self._now):
            return False
        for name in names:
            value = element.get(name)
            if name in fields:
                if not fields[name].alike(value, forward.get(name)):
                    return False
            elif not self._refers_the_same(references[name], value, forward.get(name)):
                return False
        return True

    # -- what is gone --------------------------------------------------------------------------------------------
    def _take_out(self, back: Back, natives: Natives, done: Written) -> None:
        key = key_texts(back.use.table, natives)
        read = self._read(back)
        if back.hidden_by is not None and not self._deletes:
            column, text = back.hidden_by
            self._rows.update(read, key, {column: text})
            done.rows += 1
            return
        for inner in back.arrays.values():
            parent = tuple(str(v) for v in self._parents_key(inner, natives))
            for child in self._children(inner, parent):
                self._delete(inner, child, done)
        done.gone.append((back.table.name, self._rows.delete(read, key)))
        done.rows += 1

    def _delete(self, back: Back, natives: Natives, done: Written) -> None:
        for inner in back.arrays.values():
            parent = tuple(str(v) for v in self._parents_key(inner, natives))
            for child in self._children(inner, parent):
                self._delete(inner, child, done)
        done.gone.append(
            (back.table.name, self._rows.delete(self._read(back), key_texts(back.use.table, natives)))
        )
        done.rows += 1
