"""The mapping compiled against the source's catalog: for each table, what is made of its rows.

A table may be used several times: as a collection of its own, and embedded in others. Each use is a `RowPlan`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from bson import ObjectId

from connectors.errors import DecodeFailed, ExpressionFailed, MappingFailed
from connectors.postgres.catalog import Column, Table
from consumers.mapping import filters, keys, spec
from consumers.mapping.composed import codec, codec_of
from consumers.mapping.conversion import converter, unfit
from consumers.mapping.ids import KeyValue, object_id
from consumers.mapping.keys import KeyPart
from consumers.mapping.spec import Path_
from consumers.mapping.values import Codec, Convert, NotFaithful, constant

Natives = Mapping[str, Any]
Document = dict[str, Any]
Key = tuple[KeyValue, ...]
#: of a collection, what its documents do not depend on
_BESIDE = {"indexes", "vector_search", "validator", "on_schema_change"}


#: types whose staged values order in Python as they do in PostgreSQL (texts by code point)
SORTABLE = frozenset(
    {
        "smallint",
        "integer",
        "bigint",
        "oid",
        "text",
        "character varying",
        "uuid",
        "timestamp with time zone",
        "timestamp without time zone",
        "date",
        "time without time zone",
        "boolean",
        "double precision",
        "real",
    }
)


class ColumnPlan(NamedTuple):
    """One column as it is read: its name and how its values travel."""

    name: str
    codec: Codec


@dataclass(frozen=True)
class TablePlan:
    """What is read of one table, whatever it is used for.

    columns: those that some use needs, in the table's order; names: theirs. reread: those that no event
    carries faithfully, so that every change makes the row be read from PostgreSQL.
    known: every column it had when the plan was made. sent: every column that an event of this table has,
    needed or not. needed: columns without which a row sent in part cannot be judged or placed by some use.
    """

    table: Table
    columns: tuple[ColumnPlan, ...]
    names: frozenset[str]
    reread: frozenset[str]
    sent: frozenset[str]
    needed: frozenset[str]
    known: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """`schema.table`."""
        return self.table.name

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that tell its rows apart: its primary key, or what stands for it."""
        return self.table.key

    @cached_property
    def _key_parts(self) -> tuple[KeyPart, ...]:
        return tuple(keys.part(_column(self.table, name)) for name in self.table.key)

    @cached_property
    def _sent_key(self) -> dict[str, Callable[[Any], KeyValue]]:
        return {name: keys.event_part(_column(self.table, name)) for name in self.table.key}

    @property
    def one_partition(self) -> bool:
        """Whether the same key may be sent in several forms: only a topic of one partition keeps their order."""
        return any(keys.many_forms(_column(self.table, name)) for name in self.table.key)

    def key_of(self, natives: Natives) -> Key:
        """The key's values, in its order."""
        return tuple(natives[column] if of is None else of(natives[column]) for column, of in self._key_parts)

    def key_of_row(self, row: Sequence[Any]) -> Key:
        """The key of a row of PostgreSQL, given as its key columns in the table's order."""
        kinds = [column for column in self.columns if column.name in self.table.key]
        return self.key_of(
            {
                name: value if kind.from_row is None else kind.from_row(value)
                for (name, kind), value in zip(kinds, row, strict=True)
            }
        )

    def key_of_event(self, sent: Natives) -> Key:
        """The key that an event's record has. Raises DecodeFailed."""
        if any(sent.get(column) is None for column in self.table.key):
            raise DecodeFailed(
                f"{self.name}: a record's key lacks a column of the table's key ({', '.join(self.table.key)})",
                remedy="was the key changed? run `tandem teardown` and set the pipeline up anew",
            )
        try:
            return tuple(of(sent[column]) for column, of in self._sent_key.items())
        except (NotFaithful, ValueError, TypeError, ArithmeticError) as error:
            raise DecodeFailed(
                f"{self.name}: a record's key cannot be read: {type(error).__name__}",
                remedy="has a key column's type changed? restart the consumers, then retry the parked event",
            ) from error

    def key_from_texts(self, texts: Sequence[str]) -> Key:
        """A key from its values' texts, as `_sync.key` keeps them."""
        types = [_column(self.table, name).type for name in self.table.key]
        return tuple(keys.FROM_TEXT.get(kind, str)(text) for kind, text in zip(types, texts, strict=True))

    def from_event(self, sent: Natives) -> dict[str, Any]:
        """Native values of the needed columns that were sent. Raises DecodeFailed."""
        natives = {}
        for name, kind in self.columns:
            if name in sent:
                value = sent[name]
                try:
                    natives[name] = (
                        value if value is None or kind.from_event is None else kind.from_event(value)
                    )
                except (ValueError, TypeError, ArithmeticError) as error:
                    raise DecodeFailed(
                        f"{self.name}.{name}: an event's value cannot be read: {type(error).__name__}",
                        remedy="has the column's type changed? restart the consumers, then retry the parked event",
                    ) from error
        return natives

    def from_row(self, row: Sequence[Any]) -> dict[str, Any]:
        """Native values of a row of PostgreSQL, given in the order of `columns`."""
        return {
            name: value if value is None or kind.from_row is None else kind.from_row(value)
            for (name, kind), value in zip(self.columns, row, strict=True)
        }


@dataclass(frozen=True)
class RowPlan:
    """One use of a table: a collection's documents, elements of an array in them or in other elements (array is
    set), or objects that are copied into documents (copied is set).

    collection: the target's name. path: the fields that lead from the document to it; array, copied: the last of
    them. references: field, the columns with the other row's key, its table.
    parent_key: of an embedded row, the columns with its parent's key; parent_table: the parent's table.
    order: sort columns of an embedded row, its key last. needed: columns without which a row that was sent in
    part cannot be judged or placed. names: the fields in their order.
    """

    table: TablePlan
    collection: str
    path: tuple[str, ...]
    array: str | None
    copied: str | None
    fields: tuple[tuple[str, str, Convert | None], ...]
    references: tuple[tuple[str, tuple[KeyPart, ...], str], ...]
    computed: tuple[tuple[str, Callable[[Natives, int], Any], Convert | None], ...]
    constants: tuple[tuple[str, Any], ...]
    where: Callable[[Natives, int], Any] | None
    where_sql: str | None
    needed: frozenset[str]
    parent_key: tuple[KeyPart, ...]
    parent_table: str
    order: tuple[KeyPart, ...]
    names: tuple[str, ...]
    defaults: tuple[tuple[str, Any], ...] = ()
    #: of a document: field, the columns with the copied row's key, its table
    pointers: tuple[tuple[str, tuple[KeyPart, ...], str], ...] = ()

    @property
    def place(self) -> str:
        """The MongoDB collection with its rows, one document each: staged ones where they are no documents."""
        return place_of(self.collection, self.path, copied=self.copied is not None)

    @property
    def home(self) -> str:
        """Of an embedded row: where its parents are."""
        return place_of(self.collection, self.path[:-1])

    @property
    def staged(self) -> bool:
        """Whether its rows are no documents, but what documents are made from."""
        return bool(self.path)

    @property
    def stamp(self) -> str:
        """The field with the LSN of a row's last event."""
        return "l" if self.staged else "_sync.lsn"

    def inside(self, natives: Natives, now_us: int) -> bool:
        """Whether the row is there under its filter (three-valued: only true is)."""
        if self.where is None:
            return True
        try:
            return self.where(natives, now_us) is True
        except (ValueError, TypeError, ArithmeticError) as error:
            raise ExpressionFailed(
                f"{self.table.name}: `where` cannot be evaluated for a row: {type(error).__name__}",
                remedy="mend the row or the condition; then retry the parked event",
                details={"message": str(error)},
            ) from error

    def id_of(self, key: Key) -> ObjectId:
        """The `_id` of the document of the row with this key."""
        return object_id(self.table.name, key)

    def parent_of(self, natives: Natives) -> ObjectId | None:
        """The `_id` of the parent's document; None where the row has no parent."""
        return referred(self.parent_table, self.parent_key, natives)

    @property
    def parent_columns(self) -> tuple[str, ...]:
        """The columns with its parent's key."""
        return tuple(part.column for part in self.parent_key)

    def sort_values(self, natives: Natives) -> list[Any]:
        """What an embedded row is ordered by."""
        return [
            value if of is None or value is None else of(value)
            for value, of in ((natives[column], of) for column, of in self.order)
        ]

    def document(self, natives: Natives, now_us: int) -> Document:
        """The fields that these values give, in the mapping's order. Columns that are absent give none.

        Raises MappingFailed, naming table and column.
        """
        fields: Document = {}
        column, failed = "", MappingFailed
        try:
            for name, column, convert in self.fields:
                if column in natives:
                    value = natives[column]
                    fields[name] = value if value is None or convert is None else convert(value)
            for name, parts, table in self.references:
                column = parts[0].column
                if column in natives:
                    fields[name] = referred(table, parts, natives)
            failed = ExpressionFailed
            for name, compute, convert in self.computed:
                column = name
                value = compute(natives, now_us)
                fields[name] = value if value is None or convert is None else convert(value)
            for name, value in self.defaults:
                if name in fields and fields[name] is None:
                    fields[name] = value
        except (MappingFailed, ValueError, TypeError, ArithmeticError) as error:
            what = error.what if isinstance(error, MappingFailed) else type(error).__name__
            raise failed(
                f"{self.table.name}.{column}: {what}",
                remedy="mend the row, or omit the column in the mapping; then retry the parked event",
                column=column,
                details={"message": str(error)},
            ) from error
        fields.update(self.constants)
        return {name: fields[name] for name in self.names if name in fields}


def place_of(collection: str, path: Sequence[str], *, copied: bool = False) -> str:
    """The name of the MongoDB collection with a use's rows."""
    if not path:
        return collection
    return f"_tandem_{'copies' if copied else 'rows'}_{collection}_{'_'.join(path)}"


def pointer_of(field: str) -> str:
    """Where a document keeps the `_id` of the row that is copied into it."""
    return f"_sync.copy.{field}"


def referred(table: str, parts: Sequence[KeyPart], natives: Natives) -> ObjectId | None:
    """The `_id` of the row that these columns point to; None where any of them is NULL."""
    values = []
    for column, of in parts:
        native = natives[column]
        if native is None:
            return None
        values.append(native if of is None else of(native))
    return object_id(table, values)


@dataclass(frozen=True)
class Plan:
    """The whole mapping, compiled.

    arrays: by the place of the parents (a collection, or staged rows that have arrays themselves) and the array's
    name. copies: by collection and field. groups: collections that share tables, loaded and let go together.
    """

    tables: Mapping[str, TablePlan]
    documents: Mapping[str, RowPlan]
    arrays: Mapping[str, Mapping[str, RowPlan]]
    copies: Mapping[str, Mapping[str, RowPlan]]
    groups: tuple[tuple[str, ...], ...]
    declared: spec.Mapping_
    #: as the file has it, where `declared` leaves out new columns
    written: spec.Mapping_ | None = None
    _uses: dict[str, list[RowPlan]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _staged: dict[str, RowPlan] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def digest(self) -> str:
        """Stands for what is declared: two files with the same meaning have the same one."""
        return digest_of(self.written or self.declared)

    def follows(self, table: str) -> str:
        """What whoever writes rows of a table has to go by: this mapping, and the table as it is."""
        return f"{self.digest}/{self.tables[table].table.version}"

    def shape_of(self, name: str) -> str:
        """Stands for what a collection's documents are made from, and how: what is declared beside (indexes, a
        validator) does not count."""
        collection = (self.written or self.declared).collections[name]
        text = collection.model_dump_json(exclude=_BESIDE)
        shapes = [shape for path, shape in self.declared.shapes() if path[1] == name]
        ids = sorted(
            (r.to, str(self.declared.collections[r.to].table)) for s in shapes for r in s.references.values()
        )
        return hashlib.blake2b(f"{text} {ids}".encode(), digest_size=12).hexdigest()

    def uses(self, table: str) -> list[RowPlan]:
        """Every use of a table: staged ones first, since documents are made from them."""
        return self._uses.get(table, [])

    def staged(self, collection: str) -> list[RowPlan]:
        """Every use whose staged rows this collection's documents are made from; the innermost first."""
        found = [use for of in self.arrays.values() for use in of.values() if use.collection == collection]
        return [
            *sorted(found, key=lambda use: -len(use.path)),
            *self.copies.get(collection, {}).values(),
        ]

    def staged_apart(self, collection: str) -> list[RowPlan]:
        """Those of them that a load stages before it: their rows are not found by the documents' keys."""
        return [use for use in self.staged(collection) if use.copied or len(use.path) > 1]

    def at(self, place: str) -> RowPlan | None:
        """The use whose staged rows lie there; None for a collection."""
        return self._staged.get(place)

    def __post_init__(self) -> None:
        for placed in (*self.arrays.values(), *self.copies.values()):
            for use in placed.values():
                self._uses.setdefault(use.table.name, []).append(use)
                self._staged[use.place] = use
        for use in self.documents.values():
            self._uses.setdefault(use.table.name, []).append(use)

    def document_of(self, table: str) -> RowPlan | None:
        """The use of a table as a collection's documents, None where it is only embedded."""
        return next((use for use in self.uses(table) if not use.staged), None)

    def group_tables(self, group: Sequence[str]) -> tuple[str, ...]:
        """Every table that feeds one of these collections."""
        return tuple(dict.fromkeys(t for name in group for t in self.declared.collections[name].tables))

    def only(self, names: Sequence[str]) -> Plan:
        """The part of it that makes these collections. What is declared stays whole: references lead out of the part,
        and the digest is the whole file's."""
        part = set(names)
        tables = {table for name in names for table in self.declared.collections[name].tables}
        groups = [tuple(name for name in group if name in part) for group in self.groups]
        inside = {
            home: {array: use for array, use in of.items() if use.collection in part}
            for home, of in self.arrays.items()
        }
        return replace(
            self,
            tables={name: of for name, of in self.tables.items() if name in tables},
            documents={name: use for name, use in self.documents.items() if name in part},
            arrays={home: of for home, of in inside.items() if of},
            copies={name: of for name, of in self.copies.items() if name in part},
            groups=tuple(group for group in groups if group),
        )

    def targets(self) -> Iterator[str]:
        """Names of every MongoDB collection that rows are written to, staging included."""
        for name in self.documents:
            yield name
            for use in self.staged(name):
                yield use.place


def digest_of(declared: spec.Mapping_) -> str:
    """A plan's digest, which does not depend on the catalog."""
    return hashlib.blake2b(declared.model_dump_json().encode(), digest_size=12).hexdigest()


class _Compiler:
    """Collects every mistake, then raises once."""

    def __init__(self, declared: spec.Mapping_, catalog: Mapping[str, Table]) -> None:
        self.declared = declared
        self.mistakes: list[tuple[Path_, str]] = []
        self.catalog = self._keyed(catalog)

    def _keyed(self, catalog: Mapping[str, Table]) -> dict[str, Table]:
        """Each table with the key that tells its rows apart."""
        declared, found = self.declared.keys(), {}
        for name, table in catalog.items():
            key = keys.chosen(table, declared.get(name))
            if any(table.column(column) is None for column in key):
                key = table.key  # told where it stands
            found[name] = replace(table, key=key)
        return found

    def table_of(self, collection: str) -> str:
        return self.declared.collections[collection].table or ""

    def wrong(self, path: Path_, what: str) -> None:
        self.mistakes.append((path, what))

    def unknown(self, path: Path_, table: Table, column: str) -> bool:
        if table.column(column) is not None:
            return False
        self.wrong(
            path,
            f"{table.name} has no column '{column}' (it has: {', '.join(c.name for c in table.columns)})",
        )
        return True

    def use(
        self,
        path: Path_,
        shape: spec.Shape,
        collection: str,
        into: tuple[str, ...] = (),
        parent: Table | None = None,
    ) -> RowPlan | None:
        table = self.catalog.get(shape.table)
        if table is None:
            self.wrong((*path, "from"), f"there is no table {shape.table} in the source database")
            return None
        before = len(self.mistakes)
        foreign = shape.foreign_key if isinstance(shape, spec.Embed) else ()
        order = shape.order_by if isinstance(shape, spec.Embed) else ()
        self._columns_exist(path, shape, table, (*foreign, *order), order)
        if parent is not None and len(self.mistakes) == before:
            self._refers((*path, "foreign_key"), table, foreign, parent)
        types = {c.name: c.type for c in table.columns}
        where = self._expression((*path, "where"), shape.where, types, boolean=True) if shape.where else None
        if where is not None and where[0].uses_now and isinstance(shape, spec.Embed | spec.Copy):
            self.wrong(
                (*path, "where"),
                "now() moves without an event, and here no TTL index takes out what has run out: compare with a"
                " column only, or let whoever reads the documents do it",
            )
        computed = {
            name: self._expression((*path, "computed", name), text, types)
            for name, text in shape.computed.items()
        }
        for option, values in (("constants", shape.constants), ("defaults", shape.defaults)):
            for name, value in values.items():
                try:
                    constant(value)
                except ValueError as error:
                    self.wrong((*path, option, name), str(error))
        if len(self.mistakes) > before:
            return None
        return self._row_plan(shape, table, collection, into, parent, foreign, order, where, computed)

    def embedded(
        self,
        path: Path_,
        embeds: Mapping[str, spec.Embed],
        collection: str,
        into: tuple[str, ...],
        parent: Table,
    ) -> Iterator[RowPlan]:
        """The uses of these embeds and of those inside of them."""
        for array, embed in embeds.items():
            inner = (*into, array)
            use = self.use((*path, "embed", array), embed, collection, inner, parent)
            table = self.catalog.get(embed.table)
            if use is not None and table is not None:
                yield use
                self.distinct((*path, "embed", array), use, tuple(embed.embed))
                yield from self.embedded((*path, "embed", array), embed.embed, collection, inner, table)

    def copied(self, path: Path_, copies: Mapping[str, spec.Copy], use: RowPlan) -> Iterator[RowPlan]:
        """The uses of what is copied into the documents of a use."""
        for field_name, copy in copies.items():
            place = (*path, "copy", field_name)
            target = self.catalog.get(copy.table)
            unknown = [
                c for c in copy.foreign_key if self.unknown((*place, "foreign_key"), use.table.table, c)
            ]
            if target is not None and not unknown:
                self._refers((*place, "foreign_key"), use.table.table, copy.foreign_key, target)
            made = self.use(place, copy, use.collection, (field_name,))
            if made is not None:
                yield made
                self.distinct(place, made, ())

    def distinct(self, path: Path_, use: RowPlan, more: Sequence[str]) -> None:
        """A field that two things would write is a mistake; so is one that tandem keeps for itself."""
        written = [f for f, _, _ in use.fields] + [f for f, _, _ in use.references]
        written += [f for f, _, _ in use.computed] + [f for f, _ in use.constants] + list(more)
        for name in sorted({f for f in written if written.count(f) > 1}):
            self.wrong(path, f"two things would be written to the field '{name}': rename or omit one")
        for name in sorted({f for f in written if "." in f or f.startswith("$") or not f}):
            self.wrong(path, f"'{name}' cannot be a field's name: rename the column")
        for name in sorted({"_id", "_sync"} & set(written)):
            self.wrong(path, f"the field '{name}' is tandem's own: rename the column")
        for name in sorted({f for f, _ in use.defaults} - set(written)):
            self.wrong((*path, "defaults", name), f"no column is written to a field '{name}'")

    def _columns_exist(
        self, path: Path_, shape: spec.Shape, table: Table, others: Sequence[str], order: Sequence[str]
    ) -> None:
        for column in shape.rename:
            self.unknown((*path, "rename", column), table, column)
        for option in ("omit", "secret"):
            for column in getattr(shape, option):
                self.unknown((*path, option), table, column)
        self._conversions_fit(path, shape, table)
        for column in shape.only or ():
            self.unknown((*path, "only"), table, column)
        for column in shape.key or ():
            self.unknown((*path, "key"), table, column)
        for name, reference in shape.references.items():
            place = (*path, "references", name)
            target = self.catalog.get(self.table_of(reference.to))
            unknown = [column for column in reference.columns if self.unknown(place, table, column)]
            if target is not None and not unknown:
                self._refers(place, table, reference.columns, target)
        for column in others:
            self.unknown((*path, "order_by" if column in order else "foreign_key"), table, column)
        for column in order:
            kind = table.column(column)
            if kind is not None and kind.type not in SORTABLE:
                self.wrong(
                    (*path, "order_by"), f"{table.name}.{column}: an array cannot be ordered by a {kind.type}"
                )
        for column in table.key:
            kind = table.column(column)
            if kind is not None and keys.form(kind) is None:
                self.wrong(
                    (*path, "from"),
                    f"{table.name}.{column}: Debezium's records cannot be told apart by a"
                    f" {'generated column' if kind.generated else kind.type}; name the columns of another unique"
                    " index over NOT NULL columns with `key:`, or give the table one",
                )

    def _refers(self, path: Path_, table: Table, columns: Sequence[str], target: Table) -> None:
        """Whether these columns can hold the target's key."""
        if not target.key:
            return  # the target is refused for that
        if len(columns) != len(target.key):
            self.wrong(
                path, f"it has to name as many columns as {target.name}'s key ({', '.join(target.key)})"
            )
            return
        for holder, key in zip(columns, target.key, strict=True):
            why = keys.refers(_column(table, holder), _column(target, key))
            if why is not None:
                self.wrong(path, f"{table.name}.{holder}: {why}")

    def _conversions_fit(self, path: Path_, shape: spec.Shape, table: Table) -> None:
        without = {*shape.omit, *(c for r in shape.references.values() if not r.keep for c in r.columns)}
        for column, wanted in shape.convert.items():
            place = (*path, "convert", column)
            if self.unknown(place, table, column):
                continue
            if (problem := unfit(_column(table, column), wanted)) is not None:
                self.wrong(place, f"{table.name}.{column}: {problem}")
            elif column in without:
                self.wrong(place, f"{table.name}.{column} has no field: there is nothing to convert")

    def _expression(
        self, path: Path_, text: str, types: Mapping[str, str], *, boolean: bool = False
    ) -> tuple[filters.Expression, Callable[[Natives, int], Any], str] | None:
        try:
            expression = filters.parse(text)
            result = expression.check(types)
            if boolean and result != "boolean":
                raise filters.FilterInvalid(f"a condition is needed, and this is a {result}")
            return expression, expression.compile(types), result
        except filters.FilterInvalid as error:
            self.wrong(path, str(error))
            return None

    def _row_plan(
        self,
        shape: spec.Shape,
        table: Table,
        collection: str,
        into: tuple[str, ...],
        parent: Table | None,
        foreign: Sequence[str],
        order: Sequence[str],
        where: tuple[filters.Expression, Callable[[Natives, int], Any], str] | None,
        computed: Mapping[str, tuple[filters.Expression, Callable[[Natives, int], Any], str] | None],
    ) -> RowPlan:
        pointing = {column for r in shape.references.values() for column in r.columns}
        left_out = {*shape.omit, *foreign, *pointing}
        if shape.only is not None:
            left_out |= {column.name for column in table.columns} - set(shape.only)
        array = into[-1] if isinstance(shape, spec.Embed) else None
        fields, names = [], []
        referenced: dict[str, list[str]] = {}
        for name, reference in shape.references.items():
            referenced.setdefault(reference.columns[0], []).append(name)
            for kept, column_name in reference.kept:
                referenced.setdefault(column_name, []).append(kept)
                held = _column(table, column_name)
                fields.append((kept, column_name, converter(held, shape.convert.get(column_name))))
        for column in table.columns:
            if column.name not in left_out:
                name = shape.rename.get(column.name, spec.camel_case(column.name))
                fields.append((name, column.name, converter(column, shape.convert.get(column.name))))
                names.append(name)
            names += referenced.get(column.name, [])
        sort = tuple(dict.fromkeys((*order, *table.key))) if array else ()
        expressions = [e for e in (where, *computed.values()) if e is not None]
        together = [r.columns for r in shape.references.values() if len(r.columns) > 1]
        needed = frozenset().union(
            *(e[0].columns for e in expressions), foreign, sort if array else (), table.key, *together
        )
        used = needed | {c for _, c, _ in fields} | pointing
        return RowPlan(
            table=_table_plan(table, used, needed),
            collection=collection,
            path=into,
            array=array,
            copied=into[-1] if isinstance(shape, spec.Copy) else None,
            fields=tuple(fields),
            references=tuple(
                (n, self._parts(table, r.columns), self.table_of(r.to)) for n, r in shape.references.items()
            ),
            computed=tuple((n, e[1], codec(e[2]).to_bson) for n, e in computed.items() if e is not None),
            constants=tuple((n, constant(value)) for n, value in shape.constants.items()),
            where=where[1] if where else None,
            where_sql=where[0].sql() if where else None,
            needed=needed,
            parent_key=self._parts(table, foreign),
            parent_table=parent.name if parent else "",
            order=tuple(
                KeyPart(c, None) if _column(table, c).type in SORTABLE else keys.part(_column(table, c))
                for c in sort
            ),
            names=tuple(dict.fromkeys((*names, *shape.computed, *shape.constants))),
            defaults=tuple((n, constant(value)) for n, value in shape.defaults.items()),
        )

    def pointing(self, use: RowPlan, copies: Mapping[str, spec.Copy]) -> RowPlan:
        """The use of a collection's documents, with what is copied into them."""
        if not copies:
            return use
        columns = {column for copy in copies.values() for column in copy.foreign_key}
        needed = use.needed | columns
        return replace(
            use,
            table=_table_plan(use.table.table, use.table.names | columns, needed),
            needed=needed,
            pointers=tuple(
                (name, self._parts(use.table.table, copy.foreign_key), copy.table)
                for name, copy in copies.items()
            ),
        )

    @staticmethod
    def _parts(table: Table, columns: Sequence[str]) -> tuple[KeyPart, ...]:
        return tuple(keys.part(_column(table, name)) for name in columns)


def _column(table: Table, name: str) -> Column:
    column = table.column(name)
    assert column is not None, f"{table.name}.{name} was checked before"
    return column


def not_carried(table: Table) -> tuple[str, ...]:
    """Columns kept out of the events: Debezium would lose or refuse values, or PostgreSQL does not send them."""
    return tuple(c.name for c in table.columns if c.generated or not codec_of(c.resolved).carried)


def _table_plan(table: Table, used: AbstractSet[str], needed: AbstractSet[str]) -> TablePlan:
    names = frozenset(c.name for c in table.columns if c.name in used)
    left_out = frozenset(not_carried(table))
    return TablePlan(
        table=table,
        columns=tuple(ColumnPlan(c.name, codec_of(c.resolved)) for c in table.columns if c.name in names),
        names=names,
        reread=names & left_out,
        sent=frozenset(c.name for c in table.columns) - left_out,
        needed=frozenset(needed),
        known=frozenset(c.name for c in table.columns),
    )


def compile_plan(declared: spec.Mapping_, catalog: Mapping[str, Table], lines: spec.Lines) -> Plan:
    """The plan of a mapping for the tables of a catalog. Raises MappingInvalid with the line of every mistake."""
    compiler = _Compiler(declared, catalog)
    documents: dict[str, RowPlan] = {}
    staged: list[RowPlan] = []
    for name, collection in declared.collections.items():
        shape = collection.shape
        if shape is None:
            continue
        path: Path_ = ("collections", name)
        use = compiler.use(path, shape, name)
        parent = compiler.catalog.get(shape.table)
        if parent is not None:
            staged += compiler.embedded(path, collection.embed, name, (), parent)
        if use is not None:
            staged += compiler.copied(path, collection.copies, use)
            compiler.distinct(path, use, (*collection.embed, *collection.copies))
            _unique_without_nulls(compiler, path, use, collection)
            if not compiler.mistakes:
                documents[name] = compiler.pointing(use, collection.copies)
    if not compiler.mistakes:
        _places_are_distinct(compiler, [*documents.values(), *staged])
    if compiler.mistakes:
        raise lines.invalid(compiler.mistakes)
    return _merged(declared, documents, staged)


def _places_are_distinct(compiler: _Compiler, uses: Sequence[RowPlan]) -> None:
    """Two uses whose staged rows would lie in one MongoDB collection, are a mistake."""
    seen: set[str] = set()
    for use in uses:
        if use.place in seen:
            compiler.wrong(
                ("collections", use.collection, "embed", *use.path),
                f"its staged rows would lie where another one's do ({use.place}): rename it",
            )
        seen.add(use.place)


def _unique_without_nulls(
    compiler: _Compiler, path: Path_, use: RowPlan, collection: spec.Collection
) -> None:
    """PostgreSQL takes several NULLs in a unique column; a unique index of MongoDB takes one."""
    columns = [(field, column) for field, column, _ in use.fields]
    columns += [(field, part.column) for field, parts, _ in use.references for part in parts]
    nullable = {field for field, column in columns if not _column(use.table.table, column).not_null}
    for number, index in enumerate(collection.indexes):
        if index.unique and index.partial is None and (bad := sorted(nullable & set(index.keys))):
            compiler.wrong(
                (*path, "indexes", number),
                f"a unique index over {', '.join(bad)}, which may be NULL in several rows: MongoDB would take one;"
                f" add partial: {{{bad[0]}: {{$type: ...}}}}",
            )


def _merged(declared: spec.Mapping_, documents: Mapping[str, RowPlan], staged: Sequence[RowPlan]) -> Plan:
    """One TablePlan per table, with the columns that any of its uses needs."""
    uses = [*documents.values(), *staged]
    tables: dict[str, TablePlan] = {}
    for name in declared.tables:
        mine = [use for use in uses if use.table.name == name]
        tables[name] = _table_plan(
            mine[0].table.table,
            {n for use in mine for n in use.table.names},
            {n for use in mine for n in use.needed},
        )
    arrays: dict[str, dict[str, RowPlan]] = {}
    copies: dict[str, dict[str, RowPlan]] = {}
    for use in sorted(staged, key=lambda use: len(use.path)):
        whole = replace(use, table=tables[use.table.name])
        if use.array is not None:
            arrays.setdefault(use.home, {})[use.array] = whole
        elif use.copied is not None:
            copies.setdefault(use.collection, {})[use.copied] = whole
    return Plan(
        tables=tables,
        documents={n: replace(use, table=tables[use.table.name]) for n, use in documents.items()},
        arrays=arrays,
        copies=copies,
        groups=tuple(declared.load_groups()),
        declared=declared,
    )
