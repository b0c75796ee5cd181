"""The text of a proposed mapping: whatever the schema, it is YAML that says what was proposed, loads, and compiles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.postgres.catalog import Column, Table, Unique
from connectors.postgres.schema_facts import (
    Check,
    ColumnFacts,
    Fanout,
    ForeignKey,
    IndexFacts,
    TableFacts,
)
from consumers.mapping import spec
from consumers.mapping.plan import compile_plan
from sync.init.propose import propose, to_measure
from sync.init.text import comment, content, flow, render

#: of identifiers: whatever PostgreSQL takes, and what is hard for YAML, MongoDB or camelCase
NASTY = [
    "id",
    "_id",
    "_sync",
    "a",
    "a_b",
    "aB",
    "A_B",
    "$x",
    "x.y",
    "a b",
    "é",
    "null",
    "yes",
    "1",
    "1e3",
    "-",
    "_",
]
NAMES = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8),
    st.sampled_from(
        ["#", "'", '"', ": ", "\n", "\x85", "\u2028", "\ufeff", "[a]", "{", "*", "&x", "!t", "%", "@"]
    ),
)
TYPES = [
    "integer", "bigint", "text", "character varying", "uuid", "boolean", "numeric", "jsonb", "text[]", "inet",
    "timestamp with time zone", "enum", "character", "bytea", "vector", "tsvector", "citext", "oid", "date",
]  # fmt: skip
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@st.composite
def tables(draw: st.DrawFn) -> list[TableFacts]:
    """A few tables of random columns, keys, indexes, checks, with foreign keys among them."""
    names = draw(
        st.lists(st.tuples(st.sampled_from(["public", "s", "$"]), NAMES), min_size=1, max_size=4, unique=True)
    )
    found = [draw(_table(schema, relation)) for schema, relation in names]
    return [draw(_with_foreign_keys(table, found)) for table in found]


@st.composite
def _table(draw: st.DrawFn, schema: str, relation: str) -> TableFacts:
    columns = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    described = tuple(
        Column(name, draw(st.sampled_from(TYPES)), draw(st.booleans()), draw(st.booleans()), "t")
        for name in columns
    )
    key = tuple(draw(st.lists(st.sampled_from(columns), max_size=2, unique=True)))
    described = tuple(replace(c, not_null=c.not_null or c.name in key) for c in described)
    table = Table(
        f"{schema}.{relation}",
        draw(st.sampled_from("rrrrpv")),
        described,
        key,
        draw(st.sampled_from("dddfni")),
        "p",
        draw(st.booleans()),
        draw(st.sampled_from([-1, 0, 1_000])),
        key,
        uniques=tuple(draw(st.lists(_uniques(described), max_size=2))),
        carried=frozenset(draw(st.sampled_from([key, tuple(columns), ()]))),
    )
    about = {
        c.name: ColumnFacts(
            draw(st.sampled_from(["text", "timestamp(3) with time zone", "numeric(5,2)"])),
            draw(TEXTS),
            tuple(draw(st.lists(TEXTS, max_size=3, unique=True))) if c.type == "enum" else (),
        )
        for c in described
    }
    keys = st.lists(
        st.tuples(st.sampled_from(columns), st.sampled_from([1, -1])), max_size=3, unique_by=lambda k: k[0]
    )
    indexes = [
        IndexFacts(
            draw(NAMES),
            tuple(draw(keys)),
            draw(st.booleans()),
            draw(st.sampled_from(["btree", "gin", "hash", "brin"])),
            draw(st.sampled_from(["", "", "(a > 0)"])),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    quoted = columns[0].replace('"', '""')
    checks = [
        Check(draw(NAMES), text)
        for text in draw(
            st.lists(
                st.sampled_from([f'("{quoted}" > 3)', f"(\"{quoted}\" = 'x'::text)", "(f(x) > 1)"]),
                max_size=2,
            )
        )
    ]
    return TableFacts(
        table, schema, relation, about, draw(TEXTS), indexes=tuple(indexes), checks=tuple(checks),
        bytes=draw(st.sampled_from([0, 10**9])),
    )  # fmt: skip


@st.composite
def _uniques(draw: st.DrawFn, columns: tuple[Column, ...]) -> Unique:
    names = [c.name for c in columns if c.not_null] or [columns[0].name]
    return Unique(draw(NAMES), tuple(draw(st.permutations(names))[: draw(st.integers(1, 2))]))


@st.composite
def _with_foreign_keys(draw: st.DrawFn, table: TableFacts, others: list[TableFacts]) -> TableFacts:
    keys = []
    for _ in range(draw(st.integers(0, 3))):
        target = draw(st.sampled_from(others))
        wanted = target.table.key
        own = [c.name for c in table.table.columns]
        if not wanted or len(own) < len(wanted):
            continue
        columns = tuple(draw(st.permutations(own))[: len(wanted)])
        keys.append(
            ForeignKey(
                draw(NAMES), columns, target.name, wanted, draw(st.sampled_from("ac")), draw(st.booleans())
            )
        )
    return replace(table, foreign_keys=tuple(keys))


@given(tables(), st.sampled_from([None, Fanout(1, 1.0), Fanout(50, 3.0, exact=False), Fanout(10**6, 900.0)]))
@settings(max_examples=120, deadline=None)
def test_whatever_the_schema_the_file_says_what_was_proposed_loads_and_compiles(
    found: list[TableFacts], fanout: Fanout | None
) -> None:
    fanouts = {(t.name, k.columns): fanout for t, k in to_measure(found)}
    proposal = propose(["public", "s", "$"], found, fanouts)
    text = render(proposal, source="x")
    if proposal.collections:
        assert yaml.safe_load(text) == content(proposal)
        mapping = spec.parse(text)
        compile_plan(mapping, {t.name: t.table for t in found}, spec.Lines(text, "m"))
        mapped = set(mapping.tables)
    else:
        mapped = set()
    # every table is in the mapping or named with its reason, and none is both
    assert mapped ^ {left.table for left in proposal.left_out} == {t.name for t in found}
    assert propose(["public", "s", "$"], found, fanouts) == proposal


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS, st.sampled_from(NASTY)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


@given(VALUES)
@example({"A\n": None})
@settings(max_examples=200, deadline=None)
def test_a_value_is_read_back_as_it_was(value: Any) -> None:
    assert yaml.safe_load(f"v: {flow(value)}") == {"v": value}


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_a_comment_is_nothing_but_a_comment(text: str) -> None:
    lines = list(comment(text, indent=2))
    assert yaml.safe_load("\n".join(["a: 1", *lines, "b: 2"])) == {"a": 1, "b": 2}
