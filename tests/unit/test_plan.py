"""The mapping compiled against a catalog: fields and their order, what is needed, read again, refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64
from bson.datetime_ms import DatetimeMS

from connectors.errors import DecodeFailed, MappingFailed, MappingInvalid
from connectors.postgres.catalog import Column, Table
from consumers.mapping import spec
from consumers.mapping.ids import object_id
from consumers.mapping.plan import Plan, RowPlan, compile_plan, not_carried
from sync.verify.canonical import constant


def table(name: str, key: str, *, generated: str = "", **types: str) -> Table:
    columns = tuple(
        Column(n, t.replace("_", " "), n in key.split(), n == generated, t) for n, t in types.items()
    )
    return Table(name, "r", columns, tuple(key.split()), "d", "p", False, -1)


CATALOG = {
    t.name: t
    for t in (
        table("public.users", "id", id="bigint", full_name="text", secret="text", is_active="boolean"),
        table(
            "public.teams",
            "id",
            id="bigint",
            team_name="text",
            created_by="bigint",
            is_active="boolean",
            price="numeric",
            seen="timestamp_with_time_zone",
            embedding="vector",
            total="integer",
            generated="total",
        ),
        table(
            "public.members",
            "team_id user_id",
            team_id="bigint",
            user_id="bigint",
            role="text",
            rank="real",
            tags="text[]",
        ),
        table("public.pairs", "a b", a="integer", b="text", v="text"),
        table("public.of_pairs", "id", id="bigint", pa="integer", pb="text"),
        table("public.by_json", "j", j="jsonb"),
        table("public.badges", "id", id="bigint", m_team="bigint", m_user="bigint", label="text"),
        table("public.by_uuid", "id", id="uuid", big="oid"),
    )
}
MAPPING = """version: 1
collections:
  users: {from: public.users, omit: [secret], rename: {id: originalId}}
  teams:
    from: public.teams
    where: "is_active AND price > 0"
    omit: [embedding]
    references: {createdBy: {column: created_by, to: users, keep: originalCreatedBy}}
    computed: {shown: "coalesce(seen, now())"}
    constants: {kind: team, version: 2}
    embed:
      members:
        from: public.members
        foreign_key: team_id
        where: "role IS DISTINCT FROM 'guest'"
        references: {userId: {column: user_id, to: users}}
        order_by: rank
  pairs:
    from: public.pairs
    embed: {children: {from: public.of_pairs, foreign_key: [pa, pb]}}
  plain: {indexes: [{keys: {a: 1}}]}
"""


def compiled(text: str = MAPPING) -> Plan:
    return compile_plan(spec.parse(text), CATALOG, spec.Lines(text, "m.yaml"))


def refused(text: str) -> list[str]:
    with pytest.raises(MappingInvalid) as caught:
        compiled(text)
    return caught.value.what.splitlines()


def one(options: str, source: str = "public.teams") -> str:
    return f"version: 1\ncollections:\n  c:\n    from: {source}\n    {options}\n  users: {{from: public.users}}\n"


TEAM = {
    "id": 7,
    "team_name": "a",
    "created_by": 3,
    "is_active": True,
    "price": Decimal("1.50"),
    "seen": 1_500,
    "total": 4,
}


def team() -> RowPlan:
    return compiled().documents["teams"]


def test_fields_in_the_tables_order_then_computed_then_constants() -> None:
    document = team().document(TEAM, 9_000)
    assert list(document.items()) == [
        ("id", Int64(7)),
        ("teamName", "a"),
        ("createdBy", object_id("public.users", (3,))),
        ("originalCreatedBy", Int64(3)),
        ("isActive", True),
        ("price", Decimal128("1.50")),
        ("seen", DatetimeMS(1)),
        ("total", 4),
        ("shown", DatetimeMS(1)),
        ("kind", "team"),
        ("version", 2),
    ]
    assert tuple(document) == team().names


def test_a_row_sent_in_part_gives_its_own_fields_in_the_same_order() -> None:
    part = {name: value for name, value in TEAM.items() if name not in ("team_name", "created_by")}
    assert [*team().document(part, 0)] == [
        "id",
        "isActive",
        "price",
        "seen",
        "total",
        "shown",
        "kind",
        "version",
    ]


def test_null_is_a_value_also_of_a_reference() -> None:
    document = team().document({**TEAM, "created_by": None, "seen": None, "team_name": None}, 9_000)
    assert (document["createdBy"], document["originalCreatedBy"], document["teamName"]) == (None, None, None)
    assert document["shown"] == DatetimeMS(9)


def test_an_element_lacks_its_foreign_key_and_what_a_reference_uses() -> None:
    use = compiled().arrays["teams"]["members"]
    row = {"team_id": 7, "user_id": 3, "role": None, "rank": 1.5, "tags": "{x}"}
    assert use.document(row, 0) == {
        "userId": object_id("public.users", (3,)),
        "role": None,
        "rank": 1.5,
        "tags": ["x"],
    }
    assert use.parent_of(row) == object_id("public.teams", (7,))
    assert use.parent_of({**row, "team_id": None}) is None
    assert [part.column for part in use.order] == ["rank", "team_id", "user_id"]
    assert use.place == "_tandem_rows_teams_members"


def test_a_parent_with_a_key_of_two_columns() -> None:
    use = compiled().arrays["pairs"]["children"]
    assert use.parent_of({"pa": 1, "pb": "x", "id": 2}) == object_id("public.pairs", (1, "x"))
    assert use.parent_of({"pa": 1, "pb": None, "id": 2}) is None
    assert compiled().documents["pairs"].id_of((1, "x")) == object_id("public.pairs", (1, "x"))


def test_a_condition_lets_a_row_in_only_when_it_is_true() -> None:
    use = team()
    assert use.inside(TEAM, 0)
    for changed in ({"is_active": False}, {"is_active": None}, {"price": None}):
        assert not use.inside({**TEAM, **changed}, 0)
    assert compiled().documents["users"].inside({}, 0)


def test_what_is_needed_read_again_sent_and_read() -> None:
    tables = compiled().tables
    teams, members, users = tables["public.teams"], tables["public.members"], tables["public.users"]
    assert teams.needed == {"id", "is_active", "price", "seen"}
    assert teams.reread == {"total"}  # generated; the vector is omitted, so it is no reason
    assert teams.sent == {"id", "team_name", "created_by", "is_active", "price", "seen"}
    assert teams.names == set(TEAM)
    assert [c.name for c in teams.columns] == [
        "id",
        "team_name",
        "created_by",
        "is_active",
        "price",
        "seen",
        "total",
    ]
    assert members.needed == {"team_id", "user_id", "role", "rank"}
    assert members.reread == {"tags"}
    assert users.sent == {"id", "full_name", "secret", "is_active"}
    assert "secret" not in users.names
    assert not_carried(CATALOG["public.teams"]) == ("embedding", "total")


def test_a_table_used_twice_is_read_once_with_all_that_any_use_needs() -> None:
    text = """version: 1
collections:
  teams: {from: public.teams, embed: {members: {from: public.members, foreign_key: team_id, omit: [role]}}}
  members: {from: public.members, where: "rank > 0", omit: [tags]}
"""
    plan = compiled(text)
    shared = plan.tables["public.members"]
    assert shared.names == {"team_id", "user_id", "role", "rank", "tags"}
    assert shared.needed == {"team_id", "user_id", "rank"}
    assert [use.array for use in plan.uses("public.members")] == ["members", None]
    assert {use.table is shared for use in plan.uses("public.members")} == {True}
    assert plan.groups == (("teams", "members"),)
    assert plan.document_of("public.members") is plan.documents["members"]
    assert [*plan.targets()] == ["teams", "_tandem_rows_teams_members", "members"]
    assert plan.uses("public.users") == []
    assert plan.group_tables(("teams",)) == ("public.teams", "public.members")


# -- natives -----------------------------------------------------------------------------------------------------
def test_an_event_and_a_row_give_the_same_natives() -> None:
    found = compiled().tables["public.teams"]
    sent = {
        "id": 7,
        "team_name": "a",
        "created_by": 3,
        "is_active": True,
        "price": "1.50",
        "seen": "1970-01-01T00:00:00.0015Z",
    }
    row = (7, "a", 3, True, TEAM["price"], 1_500 - 946_684_800_000_000, 4)
    assert found.from_row(row) == TEAM
    assert found.from_event(sent) == {k: v for k, v in TEAM.items() if k != "total"}
    assert found.from_event({"seen": None, "embedding": [1.0], "id": 7}) == {"id": 7, "seen": None}
    assert found.key_of(TEAM) == (7,)


@pytest.mark.parametrize(
    "sent", [{"price": "x"}, {"price": {}}, {"seen": "soon"}, {"seen": 5}, {"price": ["1"]}]
)
def test_an_events_value_that_cannot_be_read(sent: dict[str, Any]) -> None:
    with pytest.raises(DecodeFailed):
        compiled().tables["public.teams"].from_event(sent)


def test_keys_from_their_texts() -> None:
    plan = compiled(one("omit: []", "public.by_uuid"))
    [uuid_key] = plan.tables["public.by_uuid"].key_from_texts(["00000000-0000-0000-0000-000000000005"])
    assert object_id("public.by_uuid", (uuid_key,)) == object_id(
        "public.by_uuid", ("00000000-0000-0000-0000-000000000005",)
    )
    assert compiled().tables["public.pairs"].key_from_texts(["1", "x"]) == (1, "x")


def test_a_value_without_a_form_is_told_with_table_and_column() -> None:
    with pytest.raises(MappingFailed, match=r"^public\.teams\.seen: an infinite timestamp"):
        team().document({**TEAM, "seen": (1 << 63) - 1}, 0)
    with pytest.raises(MappingFailed, match=r"^public\.teams\.price: a numeric"):
        team().document({**TEAM, "price": Decimal("1" * 35)}, 0)


# -- mistakes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "line", "what"),
    [
        ("rename: {nme: x}", 5, "public.teams has no column 'nme' (it has: id, team_name"),
        ("omit: [nme]", 5, "has no column 'nme'"),
        ("references: {x: {column: nme, to: users}}", 5, "has no column 'nme'"),
        ("where: nme = 1", 5, "nme"),
        ("where: price", 5, "a condition is needed, and this is a numeric"),
        ("where: 'price > ('", 5, ""),
        ("where: lower(team_name) = 'a'", 5, ""),
        ("computed: {x: 'nme + 1'}", 5, "nme"),
        ("rename: {id: teamName}", 3, "two things would be written to the field 'teamName'"),
        ("constants: {teamName: x}", 3, "two things would be written to the field 'teamName'"),
        ("computed: {teamName: price}", 3, "two things would be written to the field 'teamName'"),
        ("references: {teamName: {column: created_by, to: users}}", 3, "two things"),
        ("references: {a: {column: created_by, to: users, keep: teamName}}", 3, "two things"),
        (
            "references: {a: {column: created_by, to: users}, b: {column: created_by, to: users, keep: a}}",
            3,
            "two things",
        ),
        ("embed: {teamName: {from: public.members, foreign_key: team_id}}", 3, "two things"),
        ("rename: {id: _id}", 3, "the field '_id' is tandem's own"),
        ("constants: {_sync: 1}", 3, "the field '_sync' is tandem's own"),
        ("embed: {m: {from: public.nobody, foreign_key: team_id}}", 5, "there is no table public.nobody"),
        ("embed: {m: {from: public.members, foreign_key: tm}}", 5, "has no column 'tm'"),
        (
            "embed: {m: {from: public.members, foreign_key: [team_id, user_id]}}",
            5,
            "as many columns as public.teams's key (id)",
        ),
        ("embed: {m: {from: public.members, foreign_key: team_id, order_by: nme}}", 5, "has no column 'nme'"),
        (
            "embed: {m: {from: public.members, foreign_key: team_id, order_by: tags}}",
            5,
            "cannot be ordered by a text[]",
        ),
        ("embed: {m: {from: public.members, foreign_key: team_id, constants: {role: x}}}", 5, "two things"),
    ],
)
def test_a_mistake_is_told_with_its_line(options: str, line: int, what: str) -> None:
    told = refused(one(options))
    assert told[0].startswith(f"m.yaml:{line}: "), told
    assert what in told[0]


def test_a_key_and_a_table_that_cannot_be() -> None:
    assert "records cannot be told apart by a jsonb" in refused(one("omit: []", "public.by_json"))[0]
    assert "m.yaml:4: there is no table public.nobody" in refused(one("omit: []", "public.nobody"))[0]


def test_a_reference_to_a_table_with_a_key_of_two_columns_is_a_mistake() -> None:
    text = MAPPING.replace("to: users}}\n        order_by", "to: pairs}}\n        order_by")
    assert "pairs" in refused(text)[0]


def test_all_mistakes_are_told_at_once() -> None:
    text = (
        MAPPING.replace("[secret]", "[sercet]")
        .replace("price > 0", "prise > 0")
        .replace("order_by: rank", "order_by: rnk")
    )
    assert [int(m.split(":")[1]) for m in refused(text)] == [3, 6, 17]


def test_a_reference_by_several_columns_is_null_where_one_is() -> None:
    text = one("references: {pair: {column: [pa, pb], to: pairs, keep: [a, b]}}", "public.of_pairs")
    use = compiled(text.replace("  users:", "  pairs: {from: public.pairs}\n  users:")).documents["c"]
    assert {"pa", "pb"} <= use.needed
    assert use.document({"id": 1, "pa": 2, "pb": "x"}, 0) == {
        "id": Int64(1),
        "pair": object_id("public.pairs", (2, "x")),
        "a": 2,
        "b": "x",
    }
    assert use.document({"id": 1, "pa": None, "pb": "x"}, 0)["pair"] is None
    assert use.document({"id": 1, "pa": 2, "pb": None}, 0)["pair"] is None


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ("pa", "m.yaml:5: it has to name as many columns as public.pairs's key (a, b)"),
        ("[pb, pa]", "m.yaml:5: public.of_pairs.pb: a text cannot hold the key a, which is a integer"),
        ("[pa, pc]", "m.yaml:5: public.of_pairs has no column 'pc' (it has: id, pa, pb)"),
    ],
)
def test_a_reference_that_does_not_fit_the_key(columns: str, what: str) -> None:
    text = one(f"references: {{pair: {{column: {columns}, to: pairs}}}}", "public.of_pairs")
    assert what in refused(text.replace("  users:", "  pairs: {from: public.pairs}\n  users:"))


def test_a_key_that_is_declared() -> None:
    plan = compiled(one("key: [team_name, id]"))
    assert plan.tables["public.teams"].key == ("team_name", "id")
    assert plan.tables["public.teams"].key_of({"id": 7, "team_name": "a"}) == ("a", 7)
    assert "no column 'ids'" in refused(one("key: [ids]"))[0]
    assert "another key" in refused(one("key: id\n  d: {from: public.teams, key: team_name}"))[0]


NESTED = """version: 1
collections:
  teams:
    from: public.teams
    only: [id, team_name]
    embed:
      members:
        from: public.members
        foreign_key: team_id
        only: [role]
        embed:
          badges: {from: public.badges, foreign_key: [m_team, m_user], only: label, order_by: label}
  members:
    from: public.members
    only: [role]
    copy:
      team: {from: public.teams, foreign_key: team_id, only: [team_name], where: is_active}
"""


def test_an_array_inside_of_an_element_hangs_on_its_staged_row() -> None:
    plan = compiled(NESTED)
    members = plan.arrays["teams"]["members"]
    badges = plan.arrays[members.place]["badges"]
    assert (badges.home, badges.path) == (members.place, ("members", "badges"))
    assert plan.at(badges.home) is members
    assert plan.staged("teams") == [badges, members]
    assert plan.staged_apart("teams") == [badges]
    assert badges.parent_of({"m_team": 1, "m_user": 2}) == members.id_of((1, 2))
    assert badges.document({"id": 1, "m_team": 1, "m_user": 2, "label": "x"}, 0) == {"label": "x"}
    assert plan.groups == (("teams", "members"),)


def test_what_is_copied_is_staged_and_pointed_to() -> None:
    plan = compiled(NESTED)
    use, team = plan.documents["members"], plan.copies["members"]["team"]
    assert [p.column for p in use.pointers[0][1]] == ["team_id"]
    assert "team_id" in use.needed
    assert team.document({**TEAM, "embedding": None}, 0) == {"teamName": "a"}
    assert team.staged
    assert [u.place for u in plan.uses("public.teams")] == [team.place, "teams"]
    assert set(plan.group_tables(("members",))) == {"public.members", "public.teams"}


def test_defaults_stand_for_null_only() -> None:
    use = compiled(one("only: [id, team_name]\n    defaults: {teamName: nobody}")).documents["c"]
    assert use.document({**TEAM, "team_name": None}, 0) == {"id": Int64(7), "teamName": "nobody"}
    assert use.document({**TEAM, "team_name": ""}, 0) == {"id": Int64(7), "teamName": ""}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("only: [id, ids]", "no column 'ids'"),
        ("only: [id]\n    omit: [price]", "give one of them"),
        ("defaults: {nothing: 1}", "no column is written to a field 'nothing'"),
        ("copy: {o: {from: public.users, foreign_key: team_name}}", "a text cannot hold the key id"),
        ("copy: {o: {from: public.users, foreign_key: creator}}", "no column 'creator'"),
        ("copy: {teamName: {from: public.users, foreign_key: created_by}}", "two things would be written"),
        (
            "embed: {m: {from: public.members, foreign_key: team_id, embed:"
            " {b: {from: public.badges, foreign_key: m_team}}}}",
            "it has to name as many columns as public.members's key (team_id, user_id)",
        ),
        (
            "embed: {m: {from: public.members, foreign_key: team_id, embed:"
            " {role: {from: public.badges, foreign_key: [m_team, m_user]}}}}",
            "two things would be written to the field 'role'",
        ),
    ],
)
def test_nested_and_copied_shapes_that_cannot_be(options: str, what: str) -> None:
    assert what in "\n".join(refused(one(options)))


def test_staged_rows_of_two_uses_never_lie_in_one_place() -> None:
    text = """version: 1
collections:
  a_b: {from: public.teams, embed: {c: {from: public.members, foreign_key: team_id}}}
  a: {from: public.teams, embed: {b_c: {from: public.members, foreign_key: team_id}}}
"""
    assert "_tandem_rows_a_b_c" in refused(text)[0]


# -- constants and defaults -----------------------------------------------------------------------------------------
YAML_VALUES = """
    constants: {day: 2020-01-01, at: 1960-01-01 10:00:00.0015, zoned: 2020-01-01T10:00:00+02:00, of: [{x: 2020-01-01}]}
    defaults: {teamName: 1969-12-31}"""


def test_dates_of_the_file_become_bson_dates_as_verify_has_them() -> None:
    declared = spec.parse(one(YAML_VALUES.strip())).collections["c"]
    use = compiled(one(YAML_VALUES.strip())).documents["c"]
    for mine, theirs in ((use.constants, declared.constants), (use.defaults, declared.defaults)):
        assert dict(mine) == {name: constant(value) for name, value in theirs.items()}
    assert dict(use.defaults) == {"teamName": DatetimeMS(-86_400_000)}
    document = use.document({"id": 1, "team_name": None}, 0)
    assert bson.encode(document)
    assert document["zoned"] == DatetimeMS(1_577_865_600_000)


@pytest.mark.parametrize(
    "value",
    ["!!set {a}", "99999999999999999999", r'{"a\0b": 1}', "{1: 2}", r'"\ud800"', "[[{a: !!set {b}}]]"],
)
@pytest.mark.parametrize("option", ["constants", "defaults"])
def test_a_constant_that_bson_does_not_take_is_refused_where_it_stands(option: str, value: str) -> None:
    omitted = "team_name" if option == "constants" else "seen"
    [line] = refused(one(f"{option}:\n      teamName: {value}\n    omit: [{omitted}]"))
    assert line.startswith("m.yaml:6: MongoDB does not take this value")
    copied = f"copy: {{x: {{from: public.users, foreign_key: created_by, {option}: {{fullName: {value}}}}}}}"
    assert any("MongoDB does not take this value" in one for one in refused(one(copied)))


# -- a clock in a condition -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        "embed: {m: {from: public.members, foreign_key: team_id, where: WHERE}}",
        "embed: {m: {from: public.members, foreign_key: team_id, embed: {b: {from: public.badges, foreign_key:"
        " [m_team, m_user], where: WHERE}}}}",
        "copy: {owner: {from: public.users, foreign_key: created_by, where: WHERE}}",
    ],
)
def test_the_clock_is_refused_where_no_ttl_index_can_follow_it(options: str) -> None:
    [line] = refused(one(options.replace("WHERE", "now() IS NOT NULL")))
    assert line.startswith("m.yaml:5: now() moves without an event")
    compiled(one("where: seen < now()"))
