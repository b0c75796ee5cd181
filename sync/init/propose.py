"""From a schema's facts to the proposal of a mapping. Pure: the same facts give the same proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connectors.postgres.schema_facts import ForeignKey, TableFacts
from consumers.mapping.plan import not_carried
from consumers.mapping.spec import camel_case
from sync.init import indexes, names, validators
from sync.init.fitness import fit
from sync.init.proposal import (
    ArrayProposal,
    CollectionProposal,
    IndexLine,
    Line,
    Proposal,
    Rows,
)
from sync.init.relations import (
    Embedding,
    Fanouts,
    candidates,
    embeddings,
    in_key_order,
    is_join,
    points_to_key,
)
from sync.init.types import remarks


def to_measure(tables: Sequence[TableFacts]) -> list[tuple[TableFacts, ForeignKey]]:
    """The foreign keys whose rows per parent decide whether a child is embedded."""
    good, _ = fit(tables)
    return candidates(good)


def propose(schemas: Sequence[str], tables: Sequence[TableFacts], fanouts: Fanouts) -> Proposal:
    """The mapping of all tables that can be mapped; the others are told with reason and remedy."""
    good, left_out = fit(tables)
    embedded, doubts = embeddings(good, fanouts)
    own = [facts for facts in good if facts.name not in embedded]
    named = names.collections([(facts.schema, facts.relation) for facts in own])
    by_name = {facts.name: facts for facts in good}
    collections = {facts.name: named[facts.schema, facts.relation] for facts in own}
    proposer = _Proposer(by_name, collections, embedded, doubts)
    used = {facts.schema for facts in tables}
    schemas = [name for name in schemas if name in used]
    return Proposal(tuple(schemas), tuple(proposer.collection(facts) for facts in own), tuple(left_out))


@dataclass(frozen=True, slots=True)
class _Shaped:
    """A table's use: its part of the file, and the field of each column."""

    rows: Rows
    fields: dict[str, str]
    #: column -> the reference's field in its place
    references: dict[str, str]
    #: references of several columns, beside the fields that keep those: name -> whether it may be null
    several: dict[str, bool]


class _References:
    """The references of one use of a table, as they are found."""

    def __init__(self, facts: TableFacts, columns: Sequence[str]) -> None:
        self._facts, self._columns = facts, columns
        self.lines: dict[frozenset[str], Line] = {}
        self.notes: list[str] = []
        self.single: dict[str, str] = {}
        self.several: dict[str, bool] = {}
        #: column -> field, of everything that is named here
        self.fixed: dict[str, str] = {}

    def add(self, key: ForeignKey, parent: TableFacts, collection: str) -> None:
        """A reference to this collection by this foreign key."""
        own = in_key_order(key, parent)
        if len(own) == 1:
            [column] = own
            wanted = camel_case(column)
            if column == "id" or not names.is_field(wanted):
                wanted = names.plain(f"{parent.relation}_id")
            name = names.free(wanted, self._taken(column))
            self.single[column] = self.fixed[column] = name
            value: dict[str, object] = {"column": column, "to": collection}
        else:
            name = names.free(names.plain(f"{parent.relation}_id"), self._taken())
            value = {"column": list(own), "to": collection, "keep": self._kept(own, name)}
            columns = [self._facts.table.column(c) for c in own]
            self.several[name] = not all(c is not None and c.not_null for c in columns)
        self.lines[frozenset(own)] = Line(name, value, f"foreign key {key.name}")

    def _kept(self, own: Sequence[str], name: str) -> list[str]:
        """Fields for the columns' own values: an id of several columns cannot be read back."""
        found: list[str] = []
        for column in own:
            taken = {*self._taken(column), name, *found}
            wanted = camel_case(column)
            if wanted in taken or not names.is_field(wanted):
                wanted = names.plain(f"original_{column}")
            found.append(names.free(wanted, taken))
            self.fixed.setdefault(column, found[-1])
        return found

    def _taken(self, column: str = "") -> set[str]:
        """Names that a reference, or what it keeps, may not have."""
        kept = {field for line in self.lines.values() for field in line.value.get("keep", ())}
        others = {camel_case(c) for c in self._columns if c != column and c not in self.fixed}
        return others | kept | {line.name for line in self.lines.values()}


def _told(key: ForeignKey) -> str:
    return f"foreign key {key.name} ({', '.join(key.columns)} -> {key.table})"


def _first(line: Line) -> str:
    column = line.value["column"]
    return column if isinstance(column, str) else str(column[0])


def _declared_key(facts: TableFacts) -> Line | None:
    """`key`, where it is not the primary key."""
    table = facts.table
    if set(table.key) == set(table.primary):
        return None
    index = next((u.name for u in table.uniques if set(u.columns) == set(table.key)), "")
    why = (
        f"its replica identity is the index {index}"
        if table.primary
        else f"no primary key; the index {index} is one"
    )
    return Line("key", table.key[0] if len(table.key) == 1 else list(table.key), why)


class _Proposer:
    """What is known of all tables, for one collection after the other."""

    def __init__(
        self,
        tables: Mapping[str, TableFacts],
        collections: Mapping[str, str],
        embedded: Mapping[str, Embedding],
        doubts: Mapping[str, str],
    ) -> None:
        self._tables, self._collections = tables, collections
        self._embedded, self._doubts = embedded, doubts
        self._owners = {name: facts for name, facts in tables.items() if name in collections}

    def collection(self, facts: TableFacts) -> CollectionProposal:
        """The collection of one table, with the children embedded in it."""
        shaped = self._shape(facts, ())
        arrays, schemas = self._arrays(facts, shaped)
        own_indexes = indexes.proposed(facts, shaped.fields, shaped.references)
        return CollectionProposal(
            name=self._collections[facts.name],
            rows=shaped.rows,
            about=self._about(facts),
            arrays=tuple(arrays),
            indexes=(*own_indexes, *_other_sides(arrays, self._tables)),
            validator=validators.proposed(facts, shaped.fields, shaped.references, shaped.several, schemas),
        )

    def _arrays(self, facts: TableFacts, shaped: _Shaped) -> tuple[list[ArrayProposal], list[Line]]:
        """The children embedded in a table's documents or elements, and what a validator says of them."""
        arrays: list[ArrayProposal] = []
        schemas: list[Line] = []
        taken = {*shaped.fields.values(), *(line.name for line in shaped.rows.references)}
        taken |= {field for line in shaped.rows.references for field in line.value.get("keep", ())}
        for name, embedding in sorted(self._embedded.items()):
            if embedding.parent != facts.name:
                continue
            child = self._tables[name]
            array = names.free(names.inside(child.relation, facts.relation), taken)
            taken.add(array)
            inner = self._shape(child, embedding.foreign_key.columns)
            deeper, inside = self._arrays(child, inner)
            foreign = in_key_order(embedding.foreign_key, facts)
            arrays.append(ArrayProposal(array, inner.rows, foreign, embedding.why, tuple(deeper)))
            schemas.append(Line(array, _array_schema(child, inner, inside)))
        return arrays, schemas

    def _shape(self, facts: TableFacts, foreign: Sequence[str]) -> _Shaped:
        """One use of a table. foreign: the columns with its parent's key, which have no field."""
        columns = [c.name for c in facts.table.columns if c.name not in foreign]
        made = _References(facts, columns)
        # those of one column first: one of several columns keeps what they leave
        for key in sorted(facts.foreign_keys, key=lambda k: len(k.columns)):
            if key.columns != tuple(foreign) and not set(key.columns) <= set(columns):
                made.notes.append(f"{_told(key)}: it shares columns with the embedding; not carried over")
            elif not set(key.columns) & set(foreign):
                self._reference(facts, key, made)
        # an element has no _id beside which `id` would mislead
        fields, reasons = names.fields(
            columns,
            () if foreign else facts.table.key,
            made.fixed,
            [line.name for line in made.lines.values()],
        )
        rows = Rows(
            table=facts.name,
            key=_declared_key(facts),
            renames=tuple(Line(c, fields[c], why) for c, why in reasons.items() if c not in made.fixed),
            references=tuple(sorted(made.lines.values(), key=lambda line: columns.index(_first(line)))),
            notes=(*made.notes, *self._notes(facts, columns)),
        )
        return _Shaped(rows, fields, made.single, made.several)

    def _reference(self, facts: TableFacts, key: ForeignKey, made: _References) -> None:
        """Add the reference that a foreign key becomes; or the reason why it stays plain columns."""
        told = _told(key)
        if key.table in self._embedded:
            parent = self._embedded[key.table].parent
            made.notes.append(f"{told}: {key.table} is embedded in {parent}, so it has no _id of its own")
        elif key.table not in self._owners:
            made.notes.append(f"{told}: {key.table} is not mapped; the value stays a field")
        elif reason := points_to_key(key, facts, self._owners):
            made.notes.append(f"{told}: {reason}; the value stays a field")
        elif (known := made.lines.get(frozenset(key.columns))) is not None:
            made.notes.append(f"{told}: {', '.join(key.columns)} is the reference {known.name} already")
        else:
            parent_facts = self._owners[key.table]
            made.add(key, parent_facts, self._collections[key.table])

    def _about(self, facts: TableFacts) -> tuple[str, ...]:
        lines = [facts.comment] if facts.comment else []
        told = []
        if facts.partitions:
            told.append(f"partitioned ({facts.partitions} partitions): one collection")
        if facts.table.has_children:
            told.append("without the rows of the tables that inherit from it")
        if facts.inherits:
            told.append(f"inherits from {', '.join(facts.inherits)}: a collection of its own")
        if facts.table.rows >= 0 and facts.table.kind == "r":
            told.append(f"about {facts.table.rows:,} rows")
        lines += ["; ".join(told)] if told else []
        if facts.name in self._doubts:
            lines.append(self._doubts[facts.name])
        elif is_join(facts):
            lines.append("a join table")
        return tuple(lines)

    def _notes(self, facts: TableFacts, columns: Sequence[str]) -> list[str]:
        mine = [c for c in facts.table.columns if c.name in columns]
        said: dict[str, list[str]] = {}
        for column in mine:
            declared = _declared(facts, column.name)
            for remark in remarks(column, declared):
                said.setdefault(remark, []).append(f"{column.name} {declared}")
        notes = [f"{remark}: {', '.join(of)}" for remark, of in said.items()]
        again = [c for c in not_carried(facts.table) if c in columns]
        if again:
            notes.append(
                f"read again from PostgreSQL for every changed row, since events do not carry them: {', '.join(again)}"
            )
        _, checks = validators.limits(facts)
        notes += [f"CHECK {name} is not carried over" for name in checks]
        notes += [
            f"not carried over, of partitions only: {text}" for text in facts.foreign_keys_of_partitions
        ]
        return notes


def _other_sides(arrays: Sequence[ArrayProposal], tables: Mapping[str, TableFacts]) -> list[IndexLine]:
    """For embedded join tables: an index by which the parent is found from the other side."""
    return [
        IndexLine(
            {"keys": {f"{array.name}.{line.name}": 1}},
            f"{array.rows.table} is a join table: to find these from {line.value['to']}",
        )
        for array in arrays
        if is_join(tables[array.rows.table])
        for line in array.rows.references
    ]


def _declared(facts: TableFacts, column: str) -> str:
    known = facts.columns.get(column)
    return known.declared if known is not None else ""


def _array_schema(child: TableFacts, shaped: _Shaped, inside: Sequence[Line]) -> dict[str, object]:
    found = validators.proposed(child, shaped.fields, shaped.references, shaped.several, inside)
    items: dict[str, object] = {"bsonType": "object"}
    if found.required:
        items["required"] = list(found.required)
    if found.properties:
        items["properties"] = {line.name: line.value for line in found.properties}
    schema: dict[str, object] = {"bsonType": "array", "items": items}
    if child.comment:
        schema["description"] = child.comment
    return schema
