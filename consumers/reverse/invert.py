"""The compiled mapping read backwards: for each use of a table, which column a field of a document goes to, and what
goes to none. Pure. `not_invertible` says it by the lines of the mapping file, before a cutover rests on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from connectors.postgres.catalog import Column, Table
from connectors.postgres.writing import Given
from consumers.mapping import filters, spec
from consumers.mapping.expressions import Call, Is, Many, Node
from consumers.mapping.expressions import Column as ColumnNode
from consumers.mapping.plan import Plan, RowPlan, place_of
from consumers.mapping.spec import Path_
from consumers.reverse import alike, texts
from consumers.reverse.alike import Alike
from consumers.reverse.texts import ToText

#: columns of each table that PostgreSQL fills in by itself
Givens = Mapping[str, Mapping[str, Given]]
_TIMES = ("timestamp with time zone", "timestamp without time zone")


@dataclass(frozen=True)
class FieldBack:
    """A field that is one column's. nullable: the column takes NULL. given: PostgreSQL fills it in where it is left
    out."""

    name: str
    column: str
    to_text: ToText
    alike: Alike
    nullable: bool
    given: bool


@dataclass(frozen=True)
class ReferenceBack:
    """A field with the `_id` of another document. columns: those with its key, in its order. to: its collection,
    table: whose rows it holds. target: that table."""

    name: str
    columns: tuple[str, ...]
    to: str
    table: str
    nullable: bool


@dataclass(frozen=True)
class Back:
    """One use of a table, backwards.

    path: where it stands in the mapping. aside: fields that are made from rows and go to no column (computed,
    constants, copies, generated columns). arrays: by field. foreign: the columns with the parent's key, in its order.
    shown_by: a column and its text that takes a row out of the filter. identity: how an element of an array is known
    again, by the fields with its key; empty where they are not in it, so that it is known by all that it says.
    """

    use: RowPlan
    path: Path_
    fields: tuple[FieldBack, ...]
    references: tuple[ReferenceBack, ...]
    aside: frozenset[str]
    arrays: Mapping[str, Back]
    foreign: tuple[str, ...]
    hidden_by: tuple[str, str] | None
    identity: tuple[str, ...]
    given: Mapping[str, Given] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        """The table whose rows it is about."""
        return self.use.table.table

    @property
    def known(self) -> frozenset[str]:
        """Every field that the mapping knows."""
        named = {f.name for f in self.fields} | {r.name for r in self.references} | set(self.arrays)
        return frozenset(named | self.aside | {"_id", "_sync"})

    def key_fields(self) -> dict[str, FieldBack | ReferenceBack]:
        """Each key column's field, of those that a document has."""
        found: dict[str, FieldBack | ReferenceBack] = {}
        for reference in self.references:
            found |= {column: reference for column in reference.columns if column in self.table.key}
        for of in self.fields:
            if of.column in self.table.key:
                found.setdefault(of.column, of)
        return found

    def wanted(self, documents: Mapping[str, object]) -> Iterator[tuple[str, object]]:
        """Collection and `_id` of what a document refers to, its arrays included."""
        for reference in self.references:
            if documents.get(reference.name) is not None:
                yield reference.to, documents[reference.name]
        for name, inner in self.arrays.items():
            elements = documents.get(name)
            for element in elements if isinstance(elements, list) else ():
                if isinstance(element, Mapping):
                    yield from inner.wanted(element)


class Finding(NamedTuple):
    """Something that does not come back. lost: documents may be parked for it; else it is kept beside the rows."""

    line: int
    what: str
    lost: bool

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {"line": self.line, "what": self.what, "parks": self.lost}


def invert(plan: Plan, given: Givens) -> dict[str, Back]:
    """The mapping backwards, by collection. given: of `connectors.postgres.writing`."""
    backs = {}
    for name, use in plan.documents.items():
        declared = plan.declared.collections[name]
        shape = declared.shape
        assert shape is not None
        path: Path_ = ("collections", name)
        backs[name] = _back(plan, use, shape, path, declared.embed, tuple(declared.copies), given)
    return backs


def _back(
    plan: Plan,
    use: RowPlan,
    shape: spec.Shape,
    path: Path_,
    embeds: Mapping[str, spec.Embed],
    copies: Sequence[str],
    given: Givens,
) -> Back:
    table = use.table.table
    columns = {c.name: c for c in table.columns}
    mine = given.get(table.name, {})
    pointing = {c for r in shape.references.values() for c in r.columns}
    fields, aside = [], {*copies, *shape.constants}
    for name, column, _ in use.fields:
        if columns[column].generated or column in pointing:
            aside.add(name)
        else:
            fields.append(_field(name, columns[column], shape.convert.get(column), mine))
    for name, text in shape.computed.items():
        behind = _stands_for(text)
        taken = {f.column for f in fields} | pointing
        if behind is None or behind in taken or columns[behind].generated:
            aside.add(name)
        else:
            fields.append(_field(name, columns[behind], None, mine))
    references = tuple(
        ReferenceBack(
            name, r.columns, r.to, plan.declared.collections[r.to].table or "",
            all(not columns[c].not_null for c in r.columns),
        )
        for name, r in shape.references.items()
    )  # fmt: skip
    arrays = {
        name: _back(
            plan, plan.arrays[place_of(use.collection, use.path)][name], embed, (*path, "embed", name),
            embed.embed, (), given,
        )
        for name, embed in embeds.items()
    }  # fmt: skip
    foreign = shape.foreign_key if isinstance(shape, spec.Embed) else ()
    back = Back(
        use, path, tuple(fields), references, frozenset(aside), arrays, foreign, _hidden_by(shape.where, columns),
        (), mine,
    )  # fmt: skip
    sources = back.key_fields()
    told = [c for c in table.key if c not in foreign]
    identity = tuple(dict.fromkeys(sources[c].name for c in told)) if all(c in sources for c in told) else ()
    return replace(back, identity=identity)


def _field(
    name: str, column: Column, wanted: spec.Conversion | None, given: Mapping[str, Given]
) -> FieldBack:
    return FieldBack(
        name,
        column.name,
        texts.to_text(column, wanted),
        alike.of(column),
        not column.not_null,
        column.name in given,
    )


def _stands_for(text: str) -> str | None:
    """The column that a computed field's value may be written to: it is that column, or the first of a coalesce."""
    root = filters.parse(text).root
    if isinstance(root, Call) and root.name.lower() == "coalesce":
        root = root.of[0]
    return root.name if isinstance(root, ColumnNode) else None


def _hidden_by(where: str | None, columns: Mapping[str, Column]) -> tuple[str, str] | None:
    """A column and a value with which a row does not pass the filter, whatever else it says."""
    if where is None:
        return None
    for node in _each(filters.parse(where).root):
        if isinstance(node, ColumnNode) and columns[node.name].type == "boolean":
            return node.name, "false"
        if isinstance(node, Is) and isinstance(node.of, ColumnNode) and _is_null(node):
            kind = columns[node.of.name].type
            if kind in _TIMES:
                return node.of.name, "now"
        if isinstance(node, Is) and isinstance(node.of, ColumnNode) and node.value is True:
            return node.of.name, "false"
    return None


def _is_null(node: Is) -> bool:
    return node.value is None


def _each(root: Node) -> Iterator[Node]:
    """The conditions that all have to be true."""
    if isinstance(root, Many) and root.word.upper() == "AND":
        for node in root.of:
            yield from _each(node)
    else:
        yield root


# -- what does not come back -------------------------------------------------------------------------------------
def not_invertible(backs: Mapping[str, Back], declared: spec.Mapping_, lines: spec.Lines) -> list[Finding]:
    """What the way back cannot do, by line of the mapping."""
    found: list[Finding] = []
    for name, back in backs.items():
        found += _of_use(back, declared.collections[name].copies, lines)
    for name, collection in declared.collections.items():
        if collection.table is None:
            found.append(
                Finding(
                    lines.line("collections", name), f"{name}: no table feeds it; its documents stay", False
                )
            )
    uses: dict[str, list[Back]] = {}
    for back in every(backs.values()):
        uses.setdefault(back.table.name, []).append(back)
    for table, places in uses.items():
        if len(places) > 1:
            where = ", ".join(".".join((b.use.collection, *b.use.path)) for b in places)
            found.append(
                Finding(
                    lines.line(*places[-1].path),
                    f"{table} is in several places ({where}): the last one that is written decides what a row says",
                    True,
                )
            )
    return sorted(set(found))


def every(backs: Iterable[Back]) -> Iterator[Back]:
    """These, and all inside of them."""
    for back in backs:
        yield back
        yield from every(back.arrays.values())


def _of_use(back: Back, copies: Mapping[str, spec.Copy], lines: spec.Lines) -> Iterator[Finding]:
    at, place = back.path, ".".join((back.use.collection, *back.use.path))
    covered = (
        {f.column for f in back.fields} | {c for r in back.references for c in r.columns} | set(back.foreign)
    )
    for column in back.table.columns:
        if (
            column.not_null
            and column.name not in covered
            and column.name not in back.given
            and not column.generated
        ):
            yield Finding(
                lines.line(*at),
                f"{place}: a new document cannot become a row of {back.table.name}: {column.name} is NOT NULL, has no"
                " default, and no field holds it",
                True,
            )
    for name in sorted(back.aside - set(copies) - {n for n, _ in back.use.constants}):
        computed = any(n == name for n, _, _ in back.use.computed)
        why = "it is computed" if computed else "it is made from another field's column, or generated"
        yield Finding(
            lines.line(*at, "computed", name), f"{place}.{name}: {why}; a change of it is kept aside", False
        )
    for name in copies:
        yield Finding(
            lines.line(*at, "copy", name), f"{place}.{name}: a copy; a change of it is kept aside", False
        )
    if back.use.path and not back.identity and set(back.table.key) - set(back.foreign):
        yield Finding(
            lines.line(*at),
            f"{place}: its elements do not hold the key of {back.table.name}: one that changes becomes another row",
            False,
        )
    if not back.use.path and not back.key_fields().keys() >= set(back.table.key):
        missing = [c for c in back.table.key if c not in back.given and c not in back.key_fields()]
        if missing:
            yield Finding(
                lines.line(*at),
                f"{place}: a new document gets no key: {', '.join(missing)} has no default",
                True,
            )
    for inner in back.arrays.values():
        yield from _of_use(inner, {}, lines)
