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
from sync.init.relations import Embedding, Fanouts, candidates, embeddings, is_join, points_to_key
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
        arrays: list[ArrayProposal] = []
        schemas: list[Line] = []
        taken = set(shaped.fields.values())
        for name, embedding in sorted(self._embedded.items()):
            if embedding.parent != facts.name:
                continue
            child = self._tables[name]
            array = names.free(names.inside(child.relation, facts.relation), taken)
            taken.add(array)
            inner = self._shape(child, embedding.foreign_key.columns)
            arrays.append(ArrayProposal(array, inner.rows, _in_key_order(embedding, facts), embedding.why))
            schemas.append(Line(array, _array_schema(child, inner)))
        own_indexes = indexes.proposed(facts, shaped.fields, shaped.references)
        return CollectionProposal(
            name=self._collections[facts.name],
            rows=shaped.rows,
            about=self._about(facts),
            arrays=tuple(arrays),
            indexes=(*own_indexes, *_other_sides(arrays, self._tables)),
            validator=validators.proposed(facts, shaped.fields, shaped.references, schemas),
        )

    def _shape(self, facts: TableFacts, foreign: Sequence[str]) -> _Shaped:
        """One use of a table. foreign: the columns with its parent's key, which have no field."""
        columns = [c.name for c in facts.table.columns if c.name not in foreign]
        notes: list[str] = []
        references: dict[str, Line] = {}
        for key in facts.foreign_keys:
            if set(key.columns) & set(foreign):
                continue
            line, note = self._reference(facts, key, columns, references)
            if line is not None:
                references[key.columns[0]] = line
            if note:
                notes.append(note)
        fixed = {column: line.name for column, line in references.items()}
        # an element has no _id beside which `id` would mislead
        fields, reasons = names.fields(columns, () if foreign else facts.table.key, fixed)
        notes += self._notes(facts, columns)
        rows = Rows(
            table=facts.name,
            renames=tuple(Line(c, fields[c], why) for c, why in reasons.items() if c not in references),
            references=tuple(references[c] for c in columns if c in references),
            notes=tuple(notes),
        )
        return _Shaped(rows, fields, fixed)

    def _reference(
        self, facts: TableFacts, key: ForeignKey, columns: Sequence[str], known: Mapping[str, Line]
    ) -> tuple[Line | None, str]:
        """The reference that a foreign key becomes; or None and why it stays plain columns."""
        told = f"foreign key {key.name} ({', '.join(key.columns)} -> {key.table})"
        if len(key.columns) != 1:
            return None, f"{told}: a reference has one column; these stay fields of their own"
        column = key.columns[0]
        if key.table in self._embedded:
            parent = self._embedded[key.table].parent
            return None, f"{told}: {key.table} is embedded in {parent}, so it has no _id of its own"
        if key.table not in self._owners:
            return None, f"{told}: {key.table} is not mapped; the value stays a field"
        if reason := points_to_key(key, facts, self._owners):
            return None, f"{told}: {reason}; the value stays a field"
        if column in known:
            return None, f"{told}: {column} is the reference {known[column].name} already"
        wanted = camel_case(column)
        if column == "id" or not names.is_field(wanted):
            wanted = names.plain(f"{self._tables[key.table].relation}_id")
        others = {camel_case(c) for c in columns if c != column} | {line.name for line in known.values()}
        name = names.free(wanted, others)
        value = {"column": column, "to": self._collections[key.table]}
        return Line(name, value, f"foreign key {key.name}"), ""

    def _about(self, facts: TableFacts) -> tuple[str, ...]:
        lines = [facts.comment] if facts.comment else []
        told = []
        if facts.partitions:
            told.append(f"partitioned ({facts.partitions} partitions): one collection")
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


def _in_key_order(embedding: Embedding, parent: TableFacts) -> tuple[str, ...]:
    key = embedding.foreign_key
    own = dict(zip(key.target_columns, key.columns, strict=True))
    return tuple(own[column] for column in parent.table.key)


def _array_schema(child: TableFacts, shaped: _Shaped) -> dict[str, object]:
    found = validators.proposed(child, shaped.fields, shaped.references)
    items: dict[str, object] = {"bsonType": "object"}
    if found.required:
        items["required"] = list(found.required)
    if found.properties:
        items["properties"] = {line.name: line.value for line in found.properties}
    schema: dict[str, object] = {"bsonType": "array", "items": items}
    if child.comment:
        schema["description"] = child.comment
    return schema
