"""What `tandem init` proposes of facts given as plain values: references, embeds, names, indexes, validators, and what
it leaves out with its reason. The proposal always loads, and compiles against the same tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

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
from sync.init.proposal import Proposal
from sync.init.propose import propose, to_measure
from sync.init.relations import Fanouts
from sync.init.text import content, render


def facts(name: str, key: str, columns: dict[str, str], nullable: str = "", **more: Any) -> TableFacts:
    """A table; columns: name -> type. Every column is NOT NULL but those in nullable."""
    described = tuple(Column(n, t, n not in nullable.split(), False, t) for n, t in columns.items())
    schema, _, relation = name.partition(".")
    primary = tuple(key.split())
    table = Table(
        name,
        "r",
        described,
        primary,
        "d",
        "p",
        False,
        more.pop("rows", -1),
        primary,
        carried=frozenset(primary),
    )
    declared = {n: ColumnFacts(t) for n, t in columns.items()}
    return TableFacts(table, schema, relation, {**declared, **more.pop("about", {})}, **more)


def fk(columns: str, table: str, target: str = "id", on_delete: str = "a", **more: Any) -> ForeignKey:
    own = tuple(columns.split())
    return ForeignKey(f"{'_'.join(own)}_fkey", own, table, tuple(target.split()), on_delete, **more)


def proposed(*tables: TableFacts, fanouts: Fanouts | None = None) -> Proposal:
    """The proposal, which loads and compiles and says in YAML what it says in itself."""
    found = propose(sorted({t.schema for t in tables}), tables, fanouts or {})
    if found.collections:
        text = render(found, source="shop")
        assert yaml.safe_load(text) == content(found)
        compile_plan(spec.parse(text), {t.name: t.table for t in tables}, spec.Lines(text, "m"))
    return found


def collection(proposal: Proposal, name: str) -> dict[str, Any]:
    found: dict[str, Any] = content(proposal)["collections"][name]
    return found


def left_out(proposal: Proposal) -> dict[str, str]:
    return {left.table: left.what for left in proposal.left_out}


USERS = facts("public.users", "id", {"id": "bigint", "name": "text"})
TEAMS = facts("public.teams", "id", {"id": "bigint", "title": "text"})


# -- names ------------------------------------------------------------------------------------------------------
def test_columns_and_tables_become_camel_case_and_an_id_gets_another_name() -> None:
    found = proposed(facts("public.user_accounts", "id", {"id": "integer", "full_name": "text"}))
    account = collection(found, "userAccounts")
    assert account["rename"] == {"id": "originalId"}
    assert list(account["validator"]["properties"]) == ["originalId", "fullName"]
    [line] = found.collections[0].rows.renames
    assert "_id" in line.why


def test_fields_that_would_collide_get_numbers_and_the_one_that_is_right_already_keeps_its_name() -> None:
    columns = {"key": "integer", "foo_bar": "text", "fooBar": "text", "foo__bar": "text"}
    found = proposed(facts("public.t", "key", columns))
    assert collection(found, "t")["rename"] == {"foo_bar": "fooBar2", "foo__bar": "fooBar3"}
    assert {line.why for line in found.collections[0].rows.renames} == {"'fooBar' is another field already"}


def test_names_that_mongodb_cannot_have_are_replaced() -> None:
    columns = {
        "key": "integer",
        "$price": "text",
        "a.b": "text",
        "größe": "text",
        "_id": "text",
        "x y": "text",
    }
    found = collection(proposed(facts("public.t", "key", columns)), "t")
    assert found["rename"] == {"$price": "price", "a.b": "aB", "_id": "originalId"}


def test_collections_of_one_name_in_several_schemas_get_their_schemas_names() -> None:
    columns = {"key": "integer"}
    names = ["public.a", "s1.a", "s2.a", "s2.b", "s3.s2_a"]
    found = proposed(*(facts(name, "key", columns) for name in names))
    assert {c.name: c.rows.table for c in found.collections} == {
        "a": "public.a",
        "s1A": "s1.a",
        "s2A2": "s2.a",
        "b": "s2.b",
        "s2A": "s3.s2_a",
    }


@pytest.mark.parametrize("relation", ["system.users", "_tandem_x", '"', "$", "system"])
def test_a_collection_gets_no_name_that_belongs_to_others(relation: str) -> None:
    table = facts("public.t", "key", {"key": "integer"})
    named = replace(table, relation=relation)
    [made] = propose(["public"], [named], {}).collections
    assert made.name[0].isalpha()
    assert not made.name.startswith(("system.", "_tandem"))
    assert made.name != "system"


# -- references -------------------------------------------------------------------------------------------------
def test_a_foreign_key_becomes_a_reference_also_to_its_own_table_and_in_a_circle() -> None:
    people = facts(
        "public.people",
        "id",
        {"id": "bigint", "boss_id": "bigint", "home": "integer"},
        "boss_id",
        foreign_keys=(fk("boss_id", "public.people"), fk("home", "public.places")),
    )
    places = facts(
        "public.places",
        "id",
        {"id": "bigint", "owner": "bigint"},
        foreign_keys=(fk("owner", "public.people"),),
    )
    found = proposed(people, places)
    assert collection(found, "people")["references"] == {
        "bossId": {"column": "boss_id", "to": "people"},
        "home": {"column": "home", "to": "places"},
    }
    assert collection(found, "people")["validator"]["properties"]["bossId"] == {
        "bsonType": ["objectId", "null"]
    }
    assert collection(found, "places")["references"] == {"owner": {"column": "owner", "to": "people"}}


def test_two_foreign_keys_to_one_table_are_two_references_and_two_over_one_column_are_one() -> None:
    film = facts(
        "public.film",
        "id",
        {"id": "integer", "language": "integer", "original": "integer"},
        "original",
        foreign_keys=(
            fk("language", "public.users"),
            fk("original", "public.users"),
            replace(fk("language", "public.teams"), name="second"),
        ),
    )
    found = proposed(film, USERS, TEAMS)
    assert collection(found, "film")["references"] == {
        "language": {"column": "language", "to": "users"},
        "original": {"column": "original", "to": "users"},
    }
    made = next(c for c in found.collections if c.name == "film")
    assert any("second" in note and "already" in note for note in made.rows.notes)


@pytest.mark.parametrize(
    ("kind", "target", "told"),
    [
        ("numeric", "id", "cannot hold the key"),
        ("text", "id", "cannot hold the key"),
        ("bigint", "name", "not the key of"),
    ],
)
def test_a_foreign_key_whose_values_give_no_id_stays_a_field_and_says_why(
    kind: str, target: str, told: str
) -> None:
    child = facts(
        "public.c", "id", {"id": "bigint", "u": kind}, foreign_keys=(fk("u", "public.users", target),)
    )
    found = proposed(child, USERS)
    assert "references" not in collection(found, "c")
    assert any(told in note for c in found.collections for note in c.rows.notes)


def test_a_foreign_key_under_a_collation_where_different_texts_are_equal_stays_a_field() -> None:
    parent = facts("public.p", "code", {"code": "text"})
    child = facts(
        "public.c", "id", {"id": "bigint", "p": "text"}, foreign_keys=(fk("p", "public.p", "code"),)
    )
    columns = tuple(replace(c, deterministic=c.name != "p") for c in child.table.columns)
    child = replace(child, table=replace(child.table, columns=columns))
    assert "references" not in collection(proposed(child, parent), "c")


def test_a_foreign_key_of_several_columns_is_one_reference_in_the_keys_order_and_keeps_its_values() -> None:
    parent = facts("public.copies", "book copy", {"copy": "integer", "book": "integer", "v": "text"})
    child = facts(
        "public.c",
        "id",
        {"id": "bigint", "nr": "integer", "book_id": "integer"},
        "nr",
        foreign_keys=(fk("nr book_id", "public.copies", "copy book"), fk("book_id", "public.users")),
        indexes=(_index("i", "book_id nr", unique=True),),
    )
    found = collection(proposed(parent, child, USERS), "c")
    assert found["references"] == {
        "bookId": {"column": "book_id", "to": "users"},
        "copiesId": {"column": ["book_id", "nr"], "to": "copies", "keep": ["originalBookId", "nr"]},
    }
    assert found["validator"]["properties"]["copiesId"] == {"bsonType": ["objectId", "null"]}
    assert found["indexes"] == [
        {"keys": {"bookId": 1, "nr": 1}, "unique": True, "partial": {"nr": {"$type": "int"}}}
    ]


def test_a_foreign_key_to_what_is_not_mapped_stays_a_field() -> None:
    child = facts("public.c", "id", {"id": "bigint", "u": "bigint"}, foreign_keys=(fk("u", "public.nokey"),))
    found = proposed(child, facts("public.nokey", "", {"id": "bigint"}))
    assert "references" not in collection(found, "c")
    assert "no primary key" in left_out(found)["public.nokey"]


# -- embeds -----------------------------------------------------------------------------------------------------
MEMBERS = facts(
    "public.team_members",
    "team_id user_id",
    {"team_id": "bigint", "user_id": "bigint", "role": "text"},
    foreign_keys=(fk("team_id", "public.teams", on_delete="c"), fk("user_id", "public.users")),
)
BOTH = {
    ("public.team_members", ("team_id",)): Fanout(12, 3.5),
    ("public.team_members", ("user_id",)): Fanout(40, 5.0),
}


def test_a_join_table_is_embedded_where_its_rows_are_fewest_with_a_reference_to_the_other_side() -> None:
    found = proposed(USERS, TEAMS, MEMBERS, fanouts=BOTH)
    assert set(content(found)["collections"]) == {"users", "teams"}
    assert collection(found, "teams")["embed"] == {
        "members": {
            "from": "public.team_members",
            "foreign_key": "team_id",
            "references": {"userId": {"column": "user_id", "to": "users"}},
        }
    }
    [team] = [c for c in found.collections if c.name == "teams"]
    assert "join table" in team.arrays[0].why
    assert "12 rows" in team.arrays[0].why
    assert {"keys": {"members.userId": 1}} in [line.index for line in team.indexes]
    other_way = {key: BOTH[other] for key, other in zip(BOTH, reversed(BOTH), strict=True)}
    assert "embed" in collection(proposed(USERS, TEAMS, MEMBERS, fanouts=other_way), "users")


@pytest.mark.parametrize(
    ("fanout", "told"),
    [
        (None, "not known"),
        (Fanout(101, 2.0), "101 rows"),
        (Fanout(80, 21.0), "21.0 on average"),
    ],
)
def test_what_is_not_known_to_be_bounded_gets_a_collection_and_says_why(
    fanout: Fanout | None, told: str
) -> None:
    found = proposed(USERS, TEAMS, MEMBERS, fanouts=dict.fromkeys(BOTH, fanout))
    [made] = [c for c in found.collections if c.name == "teamMembers"]
    assert any(told in line for line in made.about), made.about


def test_wide_rows_are_not_embedded() -> None:
    wide = replace(MEMBERS, bytes=100_000_000, table=replace(MEMBERS.table, rows=1_000))
    found = proposed(USERS, TEAMS, wide, fanouts=BOTH)
    assert "teamMembers" in content(found)["collections"]


def _items(**more: Any) -> TableFacts:
    given: dict[str, Any] = {
        "columns": {"id": "bigint", "order_id": "bigint", "what": "text"},
        "foreign_keys": (fk("order_id", "public.orders", on_delete="c"),),
        **more,
    }
    return facts("public.items", "id", given.pop("columns"), given.pop("nullable", ""), **given)


ORDERS = facts("public.orders", "id", {"id": "bigint"})
FEW: Fanouts = {("public.items", ("order_id",)): Fanout(9, 2.0)}


def test_a_child_that_goes_with_its_parent_is_embedded() -> None:
    found = proposed(ORDERS, _items(), fanouts=FEW)
    assert list(collection(found, "orders")["embed"]) == ["items"]
    assert "ON DELETE CASCADE" in found.collections[0].arrays[0].why
    assert [(t.name, k.columns) for t, k in to_measure([ORDERS, _items()])] == [
        ("public.items", ("order_id",))
    ]


@pytest.mark.parametrize(
    ("items", "more"),
    [
        (_items(nullable="order_id"), []),  # a row without a parent would be in no document
        (_items(foreign_keys=(fk("order_id", "public.orders"),)), []),  # no cascade: a life of its own
        (_items(foreign_keys=(fk("order_id", "public.orders", on_delete="c", validated=False),)), []),
        (
            _items(),
            [
                facts(
                    "public.n", "id", {"id": "bigint", "i": "bigint"}, foreign_keys=(fk("i", "public.items"),)
                )
            ],
        ),
        (
            _items(
                columns={"id": "bigint", "order_id": "bigint", "next": "bigint"},
                foreign_keys=(fk("order_id", "public.orders", on_delete="c"), fk("next", "public.items")),
            ),
            [],
        ),
    ],
    ids=["nullable", "restrict", "not-valid", "referred-to", "self-reference"],
)
def test_a_child_with_a_life_of_its_own_is_not_embedded(items: TableFacts, more: list[TableFacts]) -> None:
    found = proposed(ORDERS, items, *more, fanouts=FEW)
    assert "items" in content(found)["collections"]
    assert "embed" not in collection(found, "orders")


@pytest.mark.parametrize("kind", ["r", "p"])
def test_what_grows_with_time_is_not_embedded_however_small_it_is_now(kind: str) -> None:
    columns = {"device": "bigint", "at": "date" if kind == "r" else "integer"}
    log = facts(
        "public.readings", "device at", columns, foreign_keys=(fk("device", "public.orders", on_delete="c"),)
    )
    log = replace(log, table=replace(log.table, kind=kind))
    found = proposed(ORDERS, log, fanouts={("public.readings", ("device",)): Fanout(2, 1.0)})
    [made] = [c for c in found.collections if c.name == "readings"]
    assert any("grows" in line for line in made.about)


def test_at_most_one_child_is_embedded_without_being_counted() -> None:
    detail = facts(
        "public.order_details", "order_id", {"order_id": "bigint", "note": "text"},
        foreign_keys=(fk("order_id", "public.orders"),),
    )  # fmt: skip
    found = proposed(ORDERS, detail)
    [array] = found.collections[0].arrays
    assert (array.name, array.foreign_key) == ("details", ("order_id",))
    assert "at most 1 row" in array.why


def _marks(**more: Any) -> TableFacts:
    kept: dict[str, Any] = {
        "columns": {"id": "bigint", "item_id": "bigint", "items": "text"},
        "foreign_keys": (fk("item_id", "public.items", on_delete="c"),),
        **more,
    }
    return facts("public.item_marks", "id", **kept)


def _nested(items: int, marks: int) -> Fanouts:
    return {
        ("public.items", ("order_id",)): Fanout(items, 2.0),
        ("public.item_marks", ("item_id",)): Fanout(marks, 2.0),
    }


def test_a_child_of_an_embedded_child_is_an_array_inside_of_its_elements() -> None:
    found = proposed(ORDERS, _items(), _marks(), fanouts=_nested(10, 10))
    assert list(content(found)["collections"]) == ["orders"]
    order = collection(found, "orders")
    assert order["embed"]["items"]["embed"] == {
        "marks": {"from": "public.item_marks", "foreign_key": "item_id"}
    }
    items = order["validator"]["properties"]["items"]["items"]
    assert items["properties"]["marks"]["items"]["required"] == ["id", "items"]
    assert found.counts()["embedded"] == 2


@pytest.mark.parametrize(
    ("marks", "fanouts"),
    [
        pytest.param(_marks(), _nested(10, 11), id="too many rows in all"),
        pytest.param(_marks(bytes=20_000_000, rows=1_000), _nested(10, 9), id="too many bytes in all"),
    ],
)
def test_what_would_be_too_much_inside_of_it_gives_a_child_a_collection(
    marks: TableFacts, fanouts: Fanouts
) -> None:
    found = proposed(ORDERS, _items(), marks, fanouts=fanouts)
    assert "embed" not in collection(found, "orders")
    assert list(collection(found, "items")["embed"]) == ["marks"]
    assert any("not embedded in public.orders: up to" in line for c in found.collections for line in c.about)


@pytest.mark.parametrize(
    "marks",
    [
        pytest.param(_marks(foreign_keys=(fk("item_id", "public.items"),)), id="restrict"),
        pytest.param(_marks(nullable="item_id"), id="nullable"),
        pytest.param(
            _marks(
                columns={"id": "bigint", "item_id": "bigint", "other": "bigint"},
                foreign_keys=(
                    fk("item_id", "public.items", on_delete="c"),
                    fk("other", "public.items", on_delete="c"),
                ),
            ),
            id="refers to it twice",
        ),
    ],
)
def test_who_has_a_child_that_needs_its_id_is_not_embedded(marks: TableFacts) -> None:
    found = proposed(ORDERS, _items(), marks, fanouts=_nested(5, 5))
    assert "embed" not in collection(found, "orders")


def test_a_child_that_was_not_counted_keeps_its_parent_a_collection() -> None:
    found = proposed(ORDERS, _items(), _marks(), fanouts=FEW)
    assert {"orders", "items", "itemMarks"} == set(content(found)["collections"])
    assert "embed" not in collection(found, "orders")


def test_arrays_are_two_levels_deep_at_most() -> None:
    deeper = facts(
        "public.deeper", "id", {"id": "bigint", "mark_id": "bigint"},
        foreign_keys=(fk("mark_id", "public.item_marks", on_delete="c"),),
    )  # fmt: skip
    fanouts = {**_nested(2, 2), ("public.deeper", ("mark_id",)): Fanout(2, 2.0)}
    found = proposed(ORDERS, _items(), _marks(), deeper, fanouts=fanouts)
    assert "embed" not in collection(found, "orders")
    assert collection(found, "items")["embed"]["marks"]["embed"]


def test_a_composite_key_of_an_embedded_child_stands_in_the_parents_order() -> None:
    parent = facts("public.p", "b a", {"a": "integer", "b": "text", "v": "text"})
    child = facts(
        "public.c",
        "x y n",
        {"x": "integer", "y": "text", "n": "integer"},
        foreign_keys=(fk("x y", "public.p", "a b"),),
    )
    found = proposed(parent, child, fanouts={("public.c", ("x", "y")): Fanout(3, 1.5)})
    assert collection(found, "p")["embed"]["c"]["foreign_key"] == ["y", "x"]


def test_an_array_that_would_collide_with_a_field_gets_another_name() -> None:
    orders = facts("public.orders", "id", {"id": "bigint", "items": "text"})
    found = proposed(orders, _items(), fanouts=FEW)
    assert list(collection(found, "orders")["embed"]) == ["items2"]


# -- indexes ----------------------------------------------------------------------------------------------------
def _indexed(*indexes: IndexFacts, declared: str = "timestamp with time zone", **columns: str) -> TableFacts:
    about = {"seen": ColumnFacts(declared)}
    given = {
        "id": "bigint",
        "email": "text",
        "u": "bigint",
        "seen": "timestamp with time zone",
        "tags": "text[]",
        "doc": "jsonb",
        "net": "inet",
    }
    return facts(
        "public.t",
        "id",
        {**given, **columns},
        "email u",
        about=about,
        indexes=indexes,
        foreign_keys=(fk("u", "public.users"),),
    )


def _index(name: str, columns: str, **more: Any) -> IndexFacts:
    return IndexFacts(name, tuple((c.lstrip("-"), -1 if c[0] == "-" else 1) for c in columns.split()), **more)


def test_indexes_are_carried_over_with_the_fields_names_and_directions() -> None:
    table = _indexed(
        _index("a", "-seen id"), _index("b", "u"), _index("c", "-seen"), _index("d", "tags", method="gin")
    )
    assert collection(proposed(table, USERS), "t")["indexes"] == [
        {"keys": {"seen": -1, "originalId": 1}},
        {"keys": {"u": 1}},
        {"keys": {"seen": 1}},
        {"keys": {"tags": 1}},
    ]


def test_a_unique_index_over_nullable_columns_gets_the_filter_under_which_none_is_null() -> None:
    table = _indexed(_index("a", "email", unique=True), _index("b", "id u", unique=True))
    assert collection(proposed(table, USERS), "t")["indexes"] == [
        {"keys": {"email": 1}, "unique": True, "partial": {"email": {"$type": "string"}}},
        {"keys": {"originalId": 1, "u": 1}, "unique": True, "partial": {"u": {"$type": "objectId"}}},
    ]


def test_a_unique_index_over_microseconds_is_not_unique_in_mongodb_and_one_over_milliseconds_is() -> None:
    index = _index("a", "seen", unique=True)
    assert collection(proposed(_indexed(index), USERS), "t")["indexes"] == [{"keys": {"seen": 1}}]
    exact = _indexed(index, declared="timestamp(3) with time zone")
    assert collection(proposed(exact, USERS), "t")["indexes"] == [{"keys": {"seen": 1}, "unique": True}]


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (IndexFacts("i", (), unique=True), "expression"),
        (_index("i", "email", predicate="(email IS NOT NULL)"), "partial"),
        (_index("i", "doc", method="gin"), "gin over jsonb"),
        (_index("i", "net", method="gist"), "gist"),
        (_index("i", "tags", unique=True), "array"),
        (_index("i", "id doc"), "array"),
        (_index("i", "id", exclusion=True), "exclusion"),
    ],
)
def test_an_index_that_mongodb_cannot_have_is_left_out_and_says_why(index: IndexFacts, told: str) -> None:
    found = proposed(_indexed(index), USERS)
    assert "indexes" not in collection(found, "t")
    [line] = found.collections[0].indexes
    assert told in line.why
    assert line.index is None


def test_the_same_keys_twice_make_one_index_the_unique_one() -> None:
    table = _indexed(_index("a", "email"), _index("b", "email", unique=True))
    assert collection(proposed(table, USERS), "t")["indexes"] == [
        {"keys": {"email": 1}, "unique": True, "partial": {"email": {"$type": "string"}}}
    ]


def test_mongodb_takes_no_more_than_64_indexes() -> None:
    columns = {f"c{n}": "integer" for n in range(70)}
    table = facts("public.t", "c0", columns, indexes=tuple(_index(f"i{n}", f"c{n}") for n in range(70)))
    found = proposed(table)
    assert len(collection(found, "t")["indexes"]) == 63
    assert sum("no more than 64" in line.why for line in found.collections[0].indexes) == 7


# -- validators -------------------------------------------------------------------------------------------------
def test_a_validator_has_not_null_types_lists_bounds_enums_and_comments() -> None:
    about = {
        "mood": ColumnFacts("mood", labels=("sad", "ok")),
        "name": ColumnFacts("text", comment="as they\nare called"),
    }
    table = facts(
        "public.t",
        "id",
        {"id": "bigint", "status": "text", "age": "smallint", "mood": "enum", "name": "text", "doc": "jsonb"},
        "age mood doc",
        about=about,
        checks=(
            Check("a", "(status = ANY (ARRAY['on'::text, 'off'::text]))"),
            Check("b", "((age >= 0) AND (age < 150))"),
            Check("c", "(length(name) > 3)"),
            Check("d", "(age > '-5'::integer)"),
            Check("e", "(status <> 'x'::text)"),
        ),
    )
    found = proposed(table)
    assert collection(found, "t")["validator"] == {
        "required": ["originalId", "status", "name"],
        "properties": {
            "originalId": {"bsonType": "long"},
            "status": {"enum": ["on", "off"]},
            "age": {"bsonType": ["int", "null"], "minimum": 0, "maximum": 149},
            "mood": {"enum": ["sad", "ok", None]},
            "name": {"bsonType": "string", "description": "as they\nare called"},
        },
    }
    assert any("CHECK c" in note for note in found.collections[0].rows.notes)


def test_an_embedded_child_has_its_validator_in_its_parents() -> None:
    found = proposed(USERS, TEAMS, MEMBERS, fanouts=BOTH)
    assert collection(found, "teams")["validator"]["properties"]["members"] == {
        "bsonType": "array",
        "items": {
            "bsonType": "object",
            "required": ["userId", "role"],
            "properties": {"userId": {"bsonType": "objectId"}, "role": {"bsonType": "string"}},
        },
    }


# -- what is left out -------------------------------------------------------------------------------------------
def _as(base: TableFacts = USERS, **table: Any) -> TableFacts:
    return replace(base, table=replace(base.table, **table))


@pytest.mark.parametrize(
    ("table", "what", "remedy"),
    [
        (_as(kind="v"), "a view", "map the tables"),
        (_as(kind="m"), "a materialized view", "map the tables"),
        (_as(kind="f"), "a foreign table", "pipeline"),
        (_as(persistence="u"), "not logged", "SET LOGGED"),
        (_as(key=(), primary=()), "no primary key", "ADD PRIMARY KEY"),
        (_as(replica_identity="n", carried=frozenset()), "NOTHING", "REPLICA IDENTITY DEFAULT"),
        (replace(USERS, readable=False), "may not read", "GRANT"),
        (replace(USERS, extension="postgis"), "extension postgis", ""),
        (facts("public.c", "id", {"id": "bigint", "ID": "text"}), "only by case", "RENAME COLUMN"),
        (facts("public.c", "j", {"j": "jsonb"}), "of type jsonb", "unique index"),
    ],
)
def test_a_table_that_cannot_be_mapped_is_named_with_reason_and_remedy(
    table: TableFacts, what: str, remedy: str
) -> None:
    found = proposed(TEAMS, table)
    [left] = found.left_out
    assert what in left.what
    assert remedy in left.remedy
    text = render(found)
    assert f"# - {table.name}: {left.what}" in text


def test_a_unique_index_stands_for_the_key_that_a_table_has_not_or_does_not_send() -> None:
    unique = (Unique("by_name", ("name",)),)
    carried = frozenset({"name"})
    without = _as(key=(), primary=(), uniques=unique, replica_identity="i", carried=carried)
    other = _as(uniques=unique, replica_identity="i", carried=carried)
    for table, told in ((without, "no primary key"), (other, "replica identity")):
        found = proposed(table)
        assert collection(found, "users")["key"] == "name"
        key = found.collections[0].rows.key
        assert key is not None
        assert told in key.why
    unsent = proposed(TEAMS, _as(key=(), primary=(), uniques=unique, carried=frozenset()))
    assert "REPLICA IDENTITY USING INDEX" in unsent.left_out[0].remedy


def test_a_table_that_others_inherit_from_is_mapped_without_their_rows() -> None:
    [made] = proposed(_as(has_children=True)).collections
    assert any("inherit" in line for line in made.about)


def test_tables_whose_topics_would_be_one_are_not_mapped_both() -> None:
    columns = {"key": "integer"}
    found = proposed(facts("public.a b", "key", columns), facts("public.a_b", "key", columns))
    assert [c.rows.table for c in found.collections] == ["public.a b"]
    assert "topic" in left_out(found)["public.a_b"]


def test_columns_that_are_carried_as_text_or_may_not_fit_are_told() -> None:
    about = {"n": ColumnFacts("numeric"), "m": ColumnFacts("numeric(10,2)"), "v": ColumnFacts("tsquery")}
    table = facts(
        "public.t", "id", {"id": "bigint", "n": "numeric", "m": "numeric", "v": "tsquery"}, about=about
    )
    [made] = proposed(table).collections
    assert "a value of more than 34 digits does not fit, its row is parked: n numeric" in made.rows.notes
    assert "carried as PostgreSQL's text: v tsquery" in made.rows.notes
    assert any("read again" in note and note.endswith(": v") for note in made.rows.notes)


def test_comments_of_tables_stand_above_their_collections() -> None:
    text = render(proposed(replace(USERS, comment="People.\nAll # of them: \x07")))
    assert "  # People.\n  # All # of them: \\x07\n" in text
