"""Every kind of mistake in a mapping file is told with its line, all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import MappingInvalid
from consumers.mapping.spec import Lines, camel_case, load, parse

GOOD = """version: 1
collections:
  users: {from: public.users}
  teams:
    from: public.teams
    references: {createdBy: {column: created_by, to: users}}
    embed:
      members: {from: public.members, foreign_key: team_id, order_by: [joined_at]}
  notes:
    indexes: [{keys: {teamId: 1}}]
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(MappingInvalid) as caught:
        parse(text, "m.yaml")
    assert caught.value.exit_code == 2
    return caught.value.what.splitlines()


def test_a_good_file_is_read() -> None:
    mapping = parse(GOOD)
    assert mapping.tables == ("public.users", "public.teams", "public.members")
    assert mapping.collections["teams"].embed["members"].foreign_key == ("team_id",)
    assert mapping.collections["notes"].shape is None
    assert mapping.collections["notes"].indexes[0].wire_name == "teamId_1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["m.yaml:1: the file is not a mapping with 'version' and 'collections'"]),
        ("- a", ["m.yaml:1: the file is not a mapping with 'version' and 'collections'"]),
        ("version: 1", ["m.yaml:1: 'collections' is missing (at collections)"]),
        ("version: 1\ncollections:\n  a: [", ["m.yaml:3: expected the node content, but found '<stream end>'"]),
        ("version: 1\ncollections:\n\ta: 1", ["m.yaml:3: found character '\\t' that cannot start any token"]),
        ("version: 1\ncollections:\n  a: {from: s.t}\n  a: {from: s.u}", ["m.yaml:4: 'a' stands here twice"]),
    ],
)  # fmt: skip
def test_a_file_that_is_none(text: str, expected: list[str]) -> None:
    assert mistakes(text) == expected


@pytest.mark.parametrize(
    ("line", "old", "new", "what"),
    [
        (1, "version: 1", "version: 2", "version"),
        (3, "{from: public.users}", "{frm: public.users}", "unknown option 'frm'"),
        (3, "{from: public.users}", "{from: users}", "users.from"),
        (3, "{from: public.users}", "{from: a.b.c}", "users.from"),
        (3, "{from: public.users}", "{where: is_active}", "'where' needs 'from'"),
        (3, "{from: public.users}", "{from: public.users, rename: {a: _x.y}}", "users.rename.a"),
        (3, "{from: public.users}", "{from: public.users, rename: {a: $x}}", "users.rename.a"),
        (3, "{from: public.users}", "{from: public.users, id: uuid}", "users.id"),
        (3, "  users:", "  $users:", "collections"),
        (6, "to: users", "to: nobody", "'nobody' is no collection with a table (there are: users, teams)"),
        (6, "to: users", "to: notes", "'notes' is no collection with a table"),
        (6, "column: created_by, ", "", "'column' is missing"),
        (6, "to: users", "to: users, keep: a.b", "createdBy.keep"),
        (8, "foreign_key: team_id, ", "", "'foreign_key' is missing"),
        (8, "foreign_key: team_id", "foreign_key: []", "members.foreign_key"),
        (8, "order_by: [joined_at]", "embeds: {}", "unknown option 'embeds'"),
        (10, "keys: {teamId: 1}", "keys: {}", "indexes.0.keys"),
        (10, "keys: {teamId: 1}", "keys: {teamId: 1}, expire_after_s: -1", "indexes.0.expire_after_s"),
        (10, "keys: {teamId: 1}", "keys: {teamId: 1}, uniq: true", "unknown option 'uniq'"),
    ],
)
def test_a_mistake_is_told_with_its_line(line: int, old: str, new: str, what: str) -> None:
    assert old in GOOD
    [told] = mistakes(GOOD.replace(old, new, 1))[:1]
    assert told.startswith(f"m.yaml:{line}: "), told
    assert what in told


def test_all_mistakes_are_told_at_once() -> None:
    text = GOOD.replace("version: 1", "version: 9").replace("public.users", "users").replace("keys", "kys")
    assert [int(m.split(":")[1]) for m in mistakes(text)] == [1, 3, 10, 10]


@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "dotProduct"])
def test_vector_search(similarity: str) -> None:
    one = f"{{name: v, path: e, dimensions: 768, similarity: {similarity}}}"
    text = f"version: 1\ncollections:\n  a:\n    from: s.t\n    vector_search: [{one}]\n"
    assert parse(text).collections["a"].vector_search[0].similarity == similarity
    assert "m.yaml:5" in mistakes(text.replace("768", "0"))[0]
    assert "m.yaml:5" in mistakes(text.replace(similarity, "near"))[0]


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(MappingInvalid, match="there is no mapping file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MappingInvalid, match="cannot be read"):
        load(tmp_path / "bytes.yaml")
    with pytest.raises(MappingInvalid, match="cannot be read"):
        load(tmp_path)


def test_lines_of_mistakes_that_show_only_against_the_source() -> None:
    lines = Lines(GOOD, "m.yaml")
    assert lines.line("collections", "teams", "embed", "members", "where") == 8
    assert lines.line("collections", "teams", "references", "createdBy") == 6
    assert lines.line("collections", "notes", "indexes", 0, "keys") == 10
    error = lines.invalid([(("collections", "users"), "b"), (("collections", "users"), "a")])
    assert error.what == "m.yaml:3: a\nm.yaml:3: b"


def groups(**tables: str) -> list[tuple[str, ...]]:
    text = ["version: 1", "collections:"]
    for name, of in tables.items():
        own, *children = of.split()
        embeds = ", ".join(f"a{n}: {{from: s.{c}, foreign_key: f}}" for n, c in enumerate(children))
        text.append(f"  {name}: {{from: s.{own}, embed: {{{embeds}}}}}")
    return parse("\n".join(text)).load_groups()


def test_collections_that_share_tables_are_loaded_together() -> None:
    assert groups(a="t", b="u") == [("a",), ("b",)]
    assert groups(a="t", b="t") == [("a", "b")]
    assert groups(a="t x", b="u y", c="x") == [("b",), ("a", "c")]
    assert groups(a="t x", b="u y", c="x y", d="v") == [("a", "b", "c"), ("d",)]
    assert groups(a="t t") == [("a",)]


@given(
    st.lists(
        st.lists(st.sampled_from("tuvwxyz"), min_size=1, max_size=3, unique=True), min_size=1, max_size=6
    )
)
def test_groups_share_nothing_and_none_could_be_cut(tables: list[list[str]]) -> None:
    found = groups(**{f"c{n}": " ".join(of) for n, of in enumerate(tables)})
    assert sorted(name for group in found for name in group) == sorted(f"c{n}" for n in range(len(tables)))
    fed = [set().union(*(tables[int(name[1:])] for name in group)) for group in found]
    assert sum(map(len, fed)) == len(set().union(*fed))
    for group in found:
        reached, left = set(tables[int(group[0][1:])]), list(group[1:])
        while touching := [name for name in left if reached & set(tables[int(name[1:])])]:
            reached |= set(tables[int(touching[0][1:])])
            left.remove(touching[0])
        assert not left


@pytest.mark.parametrize(
    ("column", "field"),
    [
        ("nfs_workspace_path", "nfsWorkspacePath"), ("id", "id"), ("userId", "userId"), ("_id", "Id"), ("a__b", "aB"),
        ("a_", "a"), ("_", "_"), ("__", "__"), ("", ""), ("a_1", "a1"), ("größe_ü", "größeÜ"), ("A_b", "AB"),
    ],
)  # fmt: skip
def test_camel_case(column: str, field: str) -> None:
    assert camel_case(column) == field
