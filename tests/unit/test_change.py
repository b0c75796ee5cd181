"""Another mapping on a running pipeline: what it asks for; and the order in which tables are walked."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from bson import ObjectId

from connectors.mongo import ledger, schema
from connectors.mongo.ledger import UNLOADED, Position
from connectors.positions import Lsn, Partition
from connectors.postgres.catalog import Column, Table
from consumers.mapping import spec
from consumers.mapping.plan import Plan, compile_plan
from sync.setup.change import Change, change, forget, told
from sync.snapshot.chunks import levels, parts_of
from tests.support.memory_mongo import MemoryMongo

MAPPING = """
version: 1
collections:
  teams:
    from: public.teams
    embed: {members: {from: public.members, foreign_key: team_id}}
"""
MEMBERS = MAPPING + "  members: {from: public.members}\n"
NOTES = MAPPING + "  notes: {from: public.notes}\n"
BOTH = (
    MAPPING + "  both: {from: public.notes, embed: {members: {from: public.members, foreign_key: team_id}}}\n"
)
RENAMED = MAPPING.replace("embed:", "rename: {name: title}\n    embed:")
INDEXED = MAPPING + "    indexes: [{keys: {name: 1}}]\n"


def plan(text: str) -> Plan:
    names = ("public.teams", "public.members", "public.notes")
    columns = (
        Column("id", "bigint", True, False, "bigint"),
        Column("name", "text", False, False, "text"),
        Column("team_id", "bigint", False, False, "bigint"),
    )
    tables = {name: Table(name, "r", columns, ("id",), "d", "p", False, -1) for name in names}
    return compile_plan(spec.parse(text), tables, spec.Lines(text, "mapping"))


def held(**holders: str | None) -> list[Position]:
    return [
        Position(Partition(f"t.public.{name}", 0), f"public.{name}", 0, holder, Lsn(0), "id")
        for name, holder in holders.items()
    ]


STREAMING = held(teams=None, members=None)
SHAPES = {"teams": plan(MAPPING).shape_of("teams")}


def test_the_same_mapping_asks_for_nothing() -> None:
    assert change(plan(MAPPING), SHAPES, STREAMING) == Change()


def test_what_documents_do_not_depend_on_asks_for_nothing() -> None:
    assert change(plan(INDEXED), SHAPES, STREAMING) == Change()


def test_a_collection_of_a_new_table_is_for_the_loader() -> None:
    positions = [*STREAMING, *held(notes=UNLOADED)]
    assert change(plan(NOTES), SHAPES, positions) == Change()


def test_a_collection_over_a_table_that_streams_is_read() -> None:
    assert change(plan(MEMBERS), SHAPES, STREAMING) == Change(new=("members",), tables=("public.members",))


def test_a_collection_over_a_new_table_and_one_that_streams() -> None:
    positions = [*STREAMING, *held(notes=UNLOADED)]
    assert change(plan(BOTH), SHAPES, positions) == Change(new=("both",), tables=("public.members",))


def test_other_fields_have_every_table_of_the_collection_read_again() -> None:
    found = change(plan(RENAMED), SHAPES, STREAMING)
    assert found == Change(changed=("teams",), tables=("public.teams", "public.members"))
    assert "tandem reload teams" in " ".join(told(found))


def test_a_load_that_has_begun_under_another_form_begins_anew() -> None:
    positions = held(teams="load:1", members="load:1")
    assert change(plan(RENAMED), SHAPES, positions) == Change(begun=("teams",))


def test_what_is_gone_is_told_with_its_tables() -> None:
    shapes = {**SHAPES, "notes": "some", "older": None}
    positions = [*STREAMING, *held(notes=None)]
    found = change(plan(MAPPING), shapes, positions)
    assert found == Change(removed=("notes",), removed_tables=("public.notes",))


def test_embedded_tables_are_walked_first_and_circles_last() -> None:
    assert levels(["a", "b", "c"], {"a": ["b"], "b": ["c"]}) == [["c"], ["b"], ["a"]]
    assert levels(["a", "b"], {"a": ["elsewhere"]}) == [["a", "b"]]
    assert levels(["a", "b", "c"], {"a": ["b"], "b": ["a"]}) == [["c"], ["a", "b"]]
    assert levels(["a"], {"a": ["a"]}) == [["a"]]


def test_the_parts_of_a_walk_cover_rows_documents_and_what_is_parked() -> None:
    parts = parts_of("public.t", [("10",), ("20",)], 25, 10, ["docs", "staged"], "stamp")
    assert [(p.what, p.target, p.keys.low, p.keys.high, p.rows) for p in parts] == [
        ("rows", "", None, ("10",), 10),
        ("rows", "", ("10",), ("20",), 10),
        ("rows", "", ("20",), None, 5),
        ("parked", "", None, None, 0),
        ("left", "docs", None, None, 0),
        ("left", "staged", None, None, 0),
    ]
    assert [type(p).of(p.document()) for p in parts] == parts


COPYING = """
version: 1
collections:
  teams: {from: public.teams}
  members:
    from: public.members
    copy: {team: {from: public.teams, foreign_key: team_id}}
"""


def test_nothing_is_left_of_copies_that_are_no_longer_mapped() -> None:
    """Their jobs would be waited for in vain; what was staged would be copied again when they are mapped again."""
    store = MemoryMongo()
    db: Any = store.db
    before, parent = plan(COPYING), ObjectId()
    for n, job in enumerate(("members/team", "teams/team")):
        collection, field = job.split("/")
        one = {"_id": f"copy/{job}/{parent}", "collection": collection, "field": field, "parent": parent}
        store.plain_write(ledger.JOBS, one["_id"], {**one, "serial": n})
    for name in (*before.targets(), "_tandem_rows_teams_members", *ledger.OWN):
        store.collection(name)
    after, dropped = plan(MAPPING), list[str]()
    with (
        patch.object(schema, "collection_names", lambda db: list(store.documents)),
        patch.object(schema, "drop", lambda db, names: dropped.extend(names)),
    ):
        forget(db, after, Change(removed=("members",)))
    assert list(store.collection(ledger.JOBS)) == [f"copy/teams/team/{parent}"]
    assert dropped == ["_tandem_copies_members_team"]
