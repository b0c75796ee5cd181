"""What each row's document has to be. Pure: `catalog` knows tables and types, `rows` runs the statements.

The SQL makes PostgreSQL filter, compute and order; what it returns becomes canonical values here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlglot
from bson import ObjectId
from sqlglot import exp
from sqlglot.errors import SqlglotError

from connectors.errors import MappingInvalid
from connectors.postgres.sql import SQL, Composable, Composed, Identifier, Literal
from consumers.mapping.ids import KeyValue, object_id
from consumers.mapping.spec import (
    Collection,
    Conversion,
    Copy,
    Embed,
    Mapping_,
    Reference,
    Rewrite,
    Shape,
    camel_case,
)
from sync.verify.canonical import constant
from sync.verify.catalog import Column, Table
from sync.verify.forms import Form
from sync.verify.keys import key_sql, key_value, ordered
from sync.verify.parts import moved

Key = tuple[KeyValue, ...]
Row = Sequence[Any]


class Types(Protocol):
    """What is asked about the source; `catalog.Catalog` reads it from PostgreSQL."""

    def table(self, name: str) -> Table:
        """A table by `schema.table`."""
        ...

    def form_of(self, table: Table, expression: Composable) -> Form:
        """The form of an expression over a table's columns."""
        ...


@dataclass(frozen=True)
class Expected:
    """One row's document. fields: less `_id` and `_sync`. version: another one for each state of its rows. copy: the
    `_id` of each row that is copied into it; None where it points to none."""

    key: Key
    id: ObjectId
    fields: dict[str, Any]
    version: tuple[str, ...]
    copy: Mapping[str, ObjectId | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Output:
    """One field: what PostgreSQL evaluates, and what the result becomes. points_to: a reference's table."""

    field: str
    sql: Composable
    form: Form

    def value(self, raw: Row) -> Any:
        return self.form.canonical(raw[0])

    @property
    def wanted(self) -> Sequence[Composable]:
        return (self.sql,)


@dataclass(frozen=True)
class _Pointer:
    """One field with the `_id` of another row: the columns that hold its key, and that key's forms."""

    field: str
    wanted: Sequence[Composable]
    forms: Sequence[Form]
    table: str

    def value(self, raw: Row) -> Any:
        if None in raw:
            return None
        return object_id(self.table, tuple(key_value(f, v) for f, v in zip(self.forms, raw, strict=True)))


@dataclass(frozen=True)
class _Rows:
    """The rows of one table under one shape."""

    table: Table
    outputs: tuple[_Output | _Pointer, ...]
    constants: Mapping[str, Any]
    defaults: Mapping[str, Any]
    condition: Composable | None

    def fields(self, raw: Row) -> dict[str, Any]:
        values, at = {}, 0
        for output in self.outputs:
            width = len(output.wanted)
            values[output.field] = output.value(raw[at : at + width])
            at += width
        assert at == len(raw)
        for name, value in self.defaults.items():
            if name in values and values[name] is None:
                values[name] = value
        values.update(self.constants)
        return values

    def select(
        self, lead: Sequence[Composable], conditions: Sequence[Composable], tail: Composable
    ) -> Composed:
        wanted = [*lead, *(sql for output in self.outputs for sql in output.wanted)]
        return SQL("SELECT {} FROM {}{}{}").format(
            SQL(", ").join(wanted), self.table.source, _where(self.condition, *conditions), tail
        )


_VERSION: Composable = SQL("xmin::text")


@dataclass(frozen=True)
class Children:
    """The elements of one array. parent: the parent's key columns, as children hold them in held. inner: arrays
    inside of each element."""

    array: str
    rows: _Rows
    parent: tuple[Column, ...]
    parent_key: tuple[Composable, ...]
    held_in: tuple[Composable, ...]
    order: Composable
    inner: tuple[Children, ...]

    def statement(self, parents: Sequence[Key]) -> Composed:
        """What reads the elements of these parents, in order."""
        return self.rows.select(self._lead(), [self._of(parents)], SQL(" ORDER BY {}").format(self.order))

    def versions(self, parents: Sequence[Key]) -> Composed:
        """What reads the keys and versions of all children of these parents, filtered or not."""
        return SQL("SELECT {} FROM {}{}").format(
            SQL(", ").join(self._lead()), self.rows.table.source, _where(self._of(parents))
        )

    def parent_of(self, raw: Row) -> Key:
        """The parent's key, with which a row of either begins."""
        return _key(self.parent, raw)

    def key(self, raw: Row) -> Key:
        """The child's own key, which follows it."""
        return _key(self.rows.table.key, raw[len(self.parent) :])

    def version(self, raw: Row) -> str:
        """The child's version, which follows that."""
        return str(raw[len(self.parent) + len(self.rows.table.key)])

    def fields(self, raw: Row) -> dict[str, Any]:
        """The element of a row of `statement`, less the arrays inside of it."""
        return self.rows.fields(raw[len(self.parent) + len(self.rows.table.key) + 1 :])

    def _lead(self) -> list[Composable]:
        return [*self.parent_key, *_own_key(self.rows.table), _VERSION]

    def _of(self, parents: Sequence[Key]) -> Composable:
        return SQL("({}) IN ({})").format(SQL(", ").join(self.held_in), _listed(self.parent, parents))


@dataclass(frozen=True)
class Copied:
    """One row of a parent's table as an object. pointer: its key, as the document's own table holds it."""

    field: str
    rows: _Rows
    pointer: tuple[Composable, ...]

    def statement(self, keys: Sequence[Key]) -> Composed:
        """What reads those of the rows with these keys that pass the filter."""
        return self.rows.select(self._lead(), [self._among(keys)], SQL(""))

    def versions(self, keys: Sequence[Key]) -> Composed:
        """What reads the keys and versions of the rows with these keys, filtered or not."""
        return SQL("SELECT {} FROM {}{}").format(
            SQL(", ").join(self._lead()), self.rows.table.source, _where(self._among(keys))
        )

    def key(self, raw: Row) -> Key:
        """The key that a row of either begins with."""
        return _key(self.rows.table.key, raw)

    def id_of(self, key: Key) -> ObjectId:
        """The `_id` that a document which points to this key keeps."""
        return object_id(self.rows.table.name, key)

    def version(self, raw: Row) -> str:
        """The version that follows it."""
        return str(raw[len(self.rows.table.key)])

    def fields(self, raw: Row) -> dict[str, Any]:
        """The object of a row of `statement`."""
        return self.rows.fields(raw[len(self.rows.table.key) + 1 :])

    def _lead(self) -> list[Composable]:
        return [*_own_key(self.rows.table), _VERSION]

    def _among(self, keys: Sequence[Key]) -> Composable:
        return _among(self.rows.table, keys)


#: an element or an object, and the versions of the rows that it is made from
Part = tuple[dict[str, Any], list[str]]


@dataclass(frozen=True)
class Reading:
    """One collection: the statements to read its rows, and what they become."""

    collection: str
    table: Table
    rows: _Rows
    children: tuple[Children, ...]
    #: (field, seconds) of each TTL index
    ttl: tuple[tuple[str, int], ...]
    #: other tables that its documents are made from
    embedded: tuple[str, ...] = field(default=())
    copied: tuple[Copied, ...] = field(default=())
    #: places in its documents whose values nobody is shown, such as `members.token`
    secret: frozenset[str] = field(default=frozenset())

    @property
    def has_integer_key(self) -> bool:
        """True where a document's `_id` tells its row's key."""
        return len(self.table.key) == 1 and self.table.key[0].form.name in ("int32", "int64")

    def all_rows(self) -> Composed:
        """Every row that passes the filter."""
        return self.rows.select(self._lead(), [], SQL(""))

    def rows_in(self, condition: Composable | None) -> Composed:
        """Every row that passes the filter and this condition."""
        return self.rows.select(self._lead(), [] if condition is None else [condition], SQL(""))

    def keys_in(self, condition: Composable | None) -> Composed:
        """The keys of these, less everything else."""
        return SQL("SELECT {} FROM {}{}").format(
            SQL(", ").join(_own_key(self.table)), self.table.source, _where(self.rows.condition, condition)
        )

    def these_rows(self, keys: Sequence[Key]) -> Composed:
        """Those of the rows with these keys that pass the filter."""
        return self.rows.select(self._lead(), [_among(self.table, keys)], SQL(""))

    def all_keys(self) -> Composed:
        """Key, version and pointers of every row, whether it passes the filter or not."""
        return SQL("SELECT {} FROM {}").format(SQL(", ").join(self._lead()), self.table.source)

    def these_keys(self, keys: Sequence[Key], *, filtered: bool) -> Composed:
        """The same of those of these keys that have a row; filtered: one that passes the filter."""
        condition = self.rows.condition if filtered else None
        return SQL("{}{}").format(self.all_keys(), _where(condition, _among(self.table, keys)))

    def key(self, raw: Row) -> Key:
        """The key that a row of any of these statements begins with."""
        return _key(self.table.key, raw)

    def version(self, raw: Row) -> str:
        """The version that follows it."""
        return str(raw[len(self.table.key)])

    def pointers(self, raw: Row) -> list[Key | None]:
        """The key of each row that is copied into this one's document; None where it points to none."""
        at, found = len(self.table.key) + 1, list[Key | None]()
        for copied in self.copied:
            held = raw[at : at + len(copied.pointer)]
            found.append(None if None in held else _key(copied.rows.table.key, held))
            at += len(copied.pointer)
        return found

    def id_of(self, key: Key) -> ObjectId:
        """The `_id` of the document for a key."""
        return object_id(self.table.name, key)

    def expected(
        self,
        rows: Sequence[Row],
        elements: Sequence[Mapping[Key, Sequence[Part]]],
        copies: Sequence[Mapping[Key, Part]] = (),
    ) -> list[Expected]:
        """The documents for rows. elements: of each array, by the parent's key. copies: of each copy, by key."""
        width = len(self.table.key) + 1 + sum(len(copied.pointer) for copied in self.copied)
        made = []
        for row in rows:
            key, versions = self.key(row), [self.version(row)]
            fields = self.rows.fields(row[width:])
            for children, of in zip(self.children, elements, strict=True):
                fields[children.array] = [element for element, _ in of.get(key, ())]
                versions += [version for _, more in of.get(key, ()) for version in more]
            pointing: dict[str, ObjectId | None] = {}
            for copied, pointer, there in zip(self.copied, self.pointers(row), copies, strict=True):
                pointing[copied.field] = None if pointer is None else copied.id_of(pointer)
                found = None if pointer is None else there.get(pointer)
                fields[copied.field] = found[0] if found else None
                versions += found[1] if found else []
            made.append(Expected(key, self.id_of(key), fields, tuple(versions), pointing))
        return made

    def _lead(self) -> list[Composable]:
        pointers = [held for copied in self.copied for held in copied.pointer]
        return [*_own_key(self.table), _VERSION, *pointers]


def _key(columns: Sequence[Column], raw: Row) -> Key:
    return tuple(key_value(c.form, v) for c, v in zip(columns, raw[: len(columns)], strict=True))


def _own_key(table: Table) -> list[Composable]:
    return [_key_form(column, column, table) for column in table.key]


def _among(table: Table, keys: Sequence[Key]) -> Composable:
    columns = SQL(", ").join(Identifier(table.parts[1], column.name) for column in table.key)
    return SQL("({}) IN ({})").format(columns, _listed(table.key, keys))


def reading(name: str, mapping: Mapping_, types: Types) -> Reading:
    """How one collection of the mapping is read. Raises MappingInvalid or TableUnfit."""
    collection = mapping.collections[name]
    shape = collection.shape
    assert shape is not None  # collections without a table are not asked for
    table = types.table(shape.table)
    return Reading(
        collection=name,
        table=table,
        rows=_rows(name, shape, table, mapping, types, left_out=()),
        children=tuple(
            _children(name, array, table, e, mapping, types) for array, e in collection.embed.items()
        ),
        ttl=tuple(_ttl(collection)),
        embedded=tuple(name for name in collection.tables if name != shape.table),
        copied=tuple(
            _copied(name, field, table, copy, mapping, types) for field, copy in collection.copies.items()
        ),
        secret=secret_places(collection),
    )


def secret_places(collection: Collection) -> frozenset[str]:
    """Fields of a collection's documents, by their path without indices, whose values are not shown."""
    if collection.shape is None:
        return frozenset()
    return frozenset(_secret(collection.shape, {**collection.embed, **collection.copies}))


def _secret(shape: Shape, inner: Mapping[str, Shape]) -> Iterator[str]:
    """Places that hold what becomes of a secret column, what is computed from one included."""
    for column in shape.secret:
        yield shape.rename.get(column, camel_case(column))
        for name, reference in shape.references.items():
            if column in reference.columns:
                yield from (name, *(kept for kept, held in reference.kept if held == column))
        yield from (
            n
            for n, written in shape.computed.items()
            if re.search(rf"(?<!\w){re.escape(column)}(?!\w)", written)
        )
    for name, one in inner.items():
        yield from (f"{name}.{place}" for place in _secret(one, one.embed if isinstance(one, Embed) else {}))


def _copied(place: str, field: str, own: Table, copy: Copy, mapping: Mapping_, types: Types) -> Copied:
    place = f"{place}.{field}"
    table = types.table(copy.table)
    holding = _holding(place, own, copy.foreign_key, table)
    return Copied(
        field=field,
        rows=_rows(place, copy, table, mapping, types, left_out=()),
        pointer=tuple(_key_form(c, k, own) for c, k in zip(holding, table.key, strict=True)),
    )


def _holding(place: str, holder: Table, columns: Sequence[str], target: Table) -> list[Column]:
    """The columns that hold another table's key. Raises MappingInvalid."""
    if len(columns) != len(target.key):
        raise MappingInvalid(
            f"{place}: {', '.join(columns)} cannot hold the key of {target.name}, which has"
            f" {len(target.key)} columns",
            remedy="name the columns that hold that key, in its order",
        )
    return [_column(place, holder, name) for name in columns]


def _ttl(collection: Collection) -> Iterator[tuple[str, int]]:
    for index in collection.indexes:
        if index.expire_after_s is not None:
            yield next(iter(index.keys)), index.expire_after_s


def _rows(
    place: str, shape: Shape, table: Table, mapping: Mapping_, types: Types, left_out: Sequence[str]
) -> _Rows:
    for name in (
        *shape.rename,
        *shape.omit,
        *shape.secret,
        *(c for r in shape.references.values() for c in r.columns),
    ):
        _column(place, table, name)
    outputs: dict[str, _Output | _Pointer] = {}
    for column in table.columns:
        for output in _outputs(column, shape, table, mapping, types, left_out):
            outputs[output.field] = output
    for name, written in shape.computed.items():
        expression = one_expression(written, f"{place}.{name}")
        form = types.form_of(table, expression)
        outputs[name] = _Output(name, form.sql(expression), form)
    return _Rows(
        table=table,
        outputs=tuple(outputs.values()),
        constants={name: constant(value) for name, value in shape.constants.items()},
        defaults={name: constant(value) for name, value in shape.defaults.items()},
        condition=one_expression(shape.where, f"{place}.where") if shape.where is not None else None,
    )


def _outputs(
    column: Column, shape: Shape, table: Table, mapping: Mapping_, types: Types, left_out: Sequence[str]
) -> Iterator[_Output | _Pointer]:
    here = Identifier(table.parts[1], column.name)
    references = [(name, r) for name, r in shape.references.items() if column.name in r.columns]
    converted = _converted(column, table, shape.convert.get(column.name))
    for name, reference in references:
        if column.name == reference.columns[0]:
            yield _pointer(name, reference, table, mapping, types)
        for kept, held in reference.kept:
            if held == column.name:
                yield _Output(kept, converted.sql(here), converted)
    if shape.only is not None and column.name not in shape.only:
        return
    if not references and column.name not in shape.omit and column.name not in left_out:
        yield _Output(shape.rename.get(column.name, camel_case(column.name)), converted.sql(here), converted)


def _converted(column: Column, table: Table, wanted: Conversion | None) -> Form:
    """The form of a column under what `convert` in the mapping says of it."""
    if wanted is None:
        return column.form
    if isinstance(wanted, Rewrite):
        return moved(column.form, *wanted.prefix.folders, wanted.prefix.workspaces)
    form = column.form.under(wanted)
    if form is None:
        raise MappingInvalid(
            f"{table.name}.{column.name}: there is no policy '{wanted}' for its type",
            remedy=f"name one of: {', '.join((column.form.default, *column.form.policies))}",
        )
    return form


def _pointer(field: str, reference: Reference, table: Table, mapping: Mapping_, types: Types) -> _Pointer:
    name = mapping.collections[reference.to].table
    assert name is not None  # the mapping was checked for this when it was loaded
    target = types.table(name)
    holding = _holding(field, table, reference.columns, target)
    return _Pointer(
        field,
        [_key_form(column, key, table) for column, key in zip(holding, target.key, strict=True)],
        [key.form for key in target.key],
        target.name,
    )


def _children(
    place: str, array: str, parent: Table, embed: Embed, mapping: Mapping_, types: Types
) -> Children:
    place = f"{place}.{array}"
    table = types.table(embed.table)
    holding = _holding(place, table, embed.foreign_key, parent)
    sorting = [*(_column(place, table, name) for name in embed.order_by), *table.key]
    return Children(
        array=array,
        rows=_rows(place, embed, table, mapping, types, left_out=embed.foreign_key),
        parent=parent.key,
        parent_key=tuple(_key_form(c, k, table) for c, k in zip(holding, parent.key, strict=True)),
        held_in=tuple(_comparable(c, k, table) for c, k in zip(holding, parent.key, strict=True)),
        order=SQL(", ").join(_sorted(column, table) for column in sorting),
        inner=tuple(_children(place, a, table, e, mapping, types) for a, e in embed.embed.items()),
    )


def _sorted(column: Column, table: Table) -> Composable:
    here = Identifier(table.parts[1], column.name)
    return here if ordered(column.form) else SQL('({})::text COLLATE "C"').format(key_sql(column.form, here))


def _column(place: str, table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        raise MappingInvalid(
            f"{place}: table {table.name} has no column '{name}'",
            remedy=f"its columns are {', '.join(c.name for c in table.columns)}",
        )
    return column


def _key_form(column: Column, key: Column, table: Table) -> Composable:
    """A column's value as a part of a key of the type of `key`."""
    here: Composable = Identifier(table.parts[1], column.name)
    if column.sql_type != key.sql_type and key.form is not column.form:
        here = SQL("{}::{}").format(here, _trusted(key.sql_type))
    return key_sql(key.form, here)


def _comparable(column: Column, key: Column, table: Table) -> Composable:
    """A column as it is looked up by values of the type of `key`: bare where it can be, for its index."""
    alike = column.form is key.form or (column.form.native and key.form.native)
    return Identifier(table.parts[1], column.name) if alike else _key_form(column, key, table)


def _listed(columns: Sequence[Column], keys: Sequence[Key]) -> Composable:
    """A query that returns these keys, in their columns' types."""
    names = [Identifier(f"k{n}") for n in range(len(columns))]
    values = [Literal([str(key[n]) for key in keys]) for n in range(len(columns))]
    return SQL("SELECT {} FROM unnest({}) AS listed ({})").format(
        SQL(", ").join(
            SQL("{}::{}").format(n, _trusted(c.sql_type)) for n, c in zip(names, columns, strict=True)
        ),
        SQL(", ").join(SQL("{}::text[]").format(v) for v in values),
        SQL(", ").join(names),
    )


def _where(*conditions: Composable | None) -> Composable:
    given = [SQL("({})").format(condition) for condition in conditions if condition is not None]
    return SQL(" WHERE {}").format(SQL(" AND ").join(given)) if given else SQL("")


def _trusted(text: str) -> SQL:
    """Text as SQL: a type's name as the catalog gives it, or an expression that has been checked."""
    return SQL(text)


def one_expression(written: str, place: str) -> Composable:
    """The text of `where` or of a computed field as an expression to put into a statement.

    Raises MappingInvalid unless it is one expression without clause, subquery, comment or parameter.
    """
    wrong = _why_not_one(written)
    if wrong:
        raise MappingInvalid(
            f"{place}: {wrong}: {written}",
            remedy="write one SQL expression over the row's columns; docs/mapping.md",
        )
    return SQL("({}\n)").format(_trusted(written))


def _why_not_one(written: str) -> str | None:
    try:
        tokens = sqlglot.tokenize(written, dialect="postgres")
        statements = sqlglot.parse(f"SELECT (\n{written}\n)", dialect="postgres")
    except SqlglotError:
        return "this cannot be read as an SQL expression"
    if any(token.comments for token in tokens):
        return "a comment has no place in it"
    if len(statements) != 1 or not isinstance(statements[0], exp.Select):
        return "this is more than one expression"
    select = statements[0]
    clauses = [name for name, value in select.args.items() if value and name not in ("expressions", "kind")]
    if clauses or len(select.expressions) != 1:
        return "this is more than one expression"
    [inside] = select.expressions
    if inside.find(exp.Query) is not None:
        return "a subquery has no place in it"
    if inside.find(exp.Placeholder, exp.Parameter) is not None:
        return "a parameter has no place in it"
    if not isinstance(inside, exp.Paren):
        return "this is more than one expression"
    return "an alias has no place in it" if isinstance(inside.this, exp.Alias) else None
