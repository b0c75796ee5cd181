"""What is done about tables that change, by policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.errors import SchemaChanged
from connectors.events import ChangeEvent, Operation
from connectors.positions import Partition
from connectors.postgres.catalog import Column, Table
from consumers.apply.decide import Put, Read, decide
from consumers.mapping import spec
from consumers.mapping.plan import compile_plan
from sync.setup.schema import Known, Verdict, columns_of, judge, leaving_out, refuse

MAPPING = """
version: 1
on_schema_change: POLICY
collections:
  things: {from: public.things, omit: [secret]}
"""
KEY, NAME = (
    Column("id", "bigint", True, False, "bigint", number=1),
    Column("name", "text", False, False, "text", number=2),
)
SECRET = Column("secret", "text", False, False, "text", number=3)
EXTRA = Column("extra", "integer", False, False, "integer", number=4)


def table(*columns: Column, version: str = "one", key: tuple[str, ...] = ("id",)) -> Table:
    return Table("public.things", "r", columns, key, "d", "p", False, -1, version)


BEFORE = table(KEY, NAME, SECRET)
KNOWN = Known("one", columns_of(BEFORE), ("id",), 500)


def judged(policy: str, now: Table, known: Known = KNOWN, *, asked: bool = False) -> Verdict:
    declared = spec.parse(MAPPING.replace("POLICY", policy))
    return judge(declared, {"public.things": known}, {"public.things": now}, asked=asked)


def test_a_table_as_it_was_asks_for_nothing() -> None:
    assert judged("stop", BEFORE) == Verdict()


ADDED = table(KEY, NAME, SECRET, EXTRA, version="two")
GONE = table(KEY, SECRET, version="two")
RETYPED = table(KEY, replace(NAME, type="jsonb", cast="jsonb"), SECRET, version="two")
MADE_AGAIN = table(KEY, replace(NAME, number=9), SECRET, version="two")
RENAMED = table(KEY, replace(NAME, name="title"), SECRET, version="two")
WITHOUT_SECRET = table(KEY, NAME, version="two")


@pytest.mark.parametrize("now", [ADDED, GONE, RETYPED, MADE_AGAIN, RENAMED])
def test_stop_waits_for_setup_which_has_the_rows_read_again(now: Table) -> None:
    found = judged("stop", now)
    assert [d.table for d in found.stop] == ["public.things"]
    with pytest.raises(SchemaChanged, match="things"):
        refuse(found)
    assert judged("stop", now, asked=True).reread.keys() == {"public.things"}


@pytest.mark.parametrize("now", [ADDED, GONE, RETYPED, MADE_AGAIN, RENAMED])
def test_apply_has_the_rows_read_again(now: Table) -> None:
    found = judged("apply", now)
    assert (found.stop, found.reread.keys()) == ((), {"public.things"})


def test_ignore_leaves_new_columns_out_and_stops_for_anything_else() -> None:
    found = judged("ignore", ADDED)
    assert (found.stop, dict(found.reread)) == ((), {})
    assert found.ignored == {"public.things": ("extra",)}
    for now in (GONE, RETYPED, MADE_AGAIN, RENAMED):
        assert judged("ignore", now).stop


def test_a_column_that_is_omitted_may_change_as_it_likes() -> None:
    for policy in ("stop", "apply", "ignore"):
        assert judged(policy, WITHOUT_SECRET) == Verdict()


def test_another_primary_key_is_never_taken_over() -> None:
    now = table(KEY, NAME, SECRET, version="two", key=("id", "name"))
    for asked in (False, True):
        with pytest.raises(SchemaChanged, match="another primary key"):
            refuse(judged("apply", now, asked=asked))


def test_columns_that_were_left_out_are_taken_in_when_the_policy_changes() -> None:
    known = replace(KNOWN, version="two", columns=columns_of(ADDED), ignored=("extra",))
    assert judged("apply", ADDED, known).reread.keys() == {"public.things"}
    assert judged("ignore", ADDED, known) == Verdict(ignored={"public.things": ("extra",)})


def test_what_is_left_out_is_in_no_document() -> None:
    declared = spec.parse(MAPPING.replace("POLICY", "ignore"))
    less = leaving_out(declared, {"public.things": ("extra",)})
    plan = compile_plan(less, {"public.things": ADDED}, spec.Lines(MAPPING, "mapping"))
    assert plan.documents["things"].names == ("id", "name")
    assert plan.tables["public.things"].sent == {"id", "name", "secret", "extra"}


def test_an_event_from_before_a_change_has_its_row_read() -> None:
    """It has the same columns as the table has now, and values of another type perhaps."""
    plan = compile_plan(
        spec.parse(MAPPING.replace("POLICY", "apply")),
        {"public.things": replace(BEFORE, since=500)},
        spec.Lines(MAPPING, "mapping"),
    )
    row = {"id": 1, "name": "a", "secret": "b"}
    for lsn, wanted in ((499, Read), (500, Put)):
        event = ChangeEvent(
            Partition("t", 0), 1, "public.things", Operation.UPDATE, {"id": 1}, row, frozenset(), lsn, 1, 0
        )
        assert isinstance(decide(event, plan.tables["public.things"]), wanted)


# -- columns that get no field and have a say all the same ----------------------------------------------------------
POINTING = """
version: 1
on_schema_change: POLICY
collections:
  things:
    from: public.things
    FIELDS
    copy: {owner: {from: public.owners, foreign_key: secret, only: [name]}}
"""
SECRET_CHANGED = [
    table(KEY, NAME, replace(SECRET, number=9), version="two"),  # dropped and made again, with a DEFAULT
    table(KEY, NAME, replace(SECRET, type="integer", cast="integer"), version="two"),  # ALTER TYPE ... USING
]


@pytest.mark.parametrize("now", SECRET_CHANGED)
@pytest.mark.parametrize("fields", ["omit: [secret]", "only: [id]"])
def test_what_a_copy_points_by_is_used(now: Table, fields: str) -> None:
    for policy in ("stop", "apply", "ignore"):
        declared = spec.parse(POINTING.replace("POLICY", policy).replace("FIELDS", fields))
        before, tables = {"public.things": KNOWN}, {"public.things": now}
        found = judge(declared, before, tables, asked=False)
        if policy == "apply":
            assert (found.stop, found.reread.keys()) == ((), {"public.things"})
        else:
            assert [d.table for d in found.stop] == ["public.things"]
        assert judge(declared, before, tables, asked=True).reread.keys() == {"public.things"}


def test_what_a_copy_points_by_is_used_though_it_was_left_out_once() -> None:
    known = replace(KNOWN, ignored=("secret",))
    declared = spec.parse(POINTING.replace("POLICY", "ignore").replace("FIELDS", "omit: [name]"))
    assert judge(declared, {"public.things": known}, {"public.things": SECRET_CHANGED[1]}, asked=False).stop


def test_a_column_that_one_collection_leaves_out_is_used_by_another() -> None:
    text = MAPPING.replace("POLICY", "ignore").replace(", omit: [secret]", "")
    declared = spec.parse(text + "  others: {from: public.things, on_schema_change: apply}\n")
    known = replace(KNOWN, ignored=("secret",))
    found = judge(declared, {"public.things": known}, {"public.things": SECRET_CHANGED[1]}, asked=True)
    assert found.reread.keys() == {"public.things"}


ONLY = """
version: 1
on_schema_change: POLICY
collections:
  things: {from: public.things, only: [id], MORE}
"""


@pytest.mark.parametrize("policy", ["stop", "apply", "ignore"])
@pytest.mark.parametrize(
    ("more", "used"),
    [
        ("rename: {id: name}", False),
        ("where: \"name = 'a'\"", True),
        ('computed: {x: "coalesce(name, note)"}', True),
        ("references: {x: {column: name, to: things}}", True),
        ("key: name", True),
    ],
)
def test_a_column_outside_of_only_is_used_where_it_is_named(policy: str, more: str, used: bool) -> None:
    declared = spec.parse(ONLY.replace("POLICY", policy).replace("MORE", more))
    for now in (GONE, RETYPED):
        found = judge(declared, {"public.things": KNOWN}, {"public.things": now}, asked=False)
        assert bool(found.stop or found.reread) is used
    added = judge(declared, {"public.things": KNOWN}, {"public.things": ADDED}, asked=False)
    assert added == Verdict()


def test_a_key_of_another_type_is_told_though_it_gets_no_field() -> None:
    declared = spec.parse(MAPPING.replace("POLICY", "stop").replace("omit: [secret]", "omit: [id]"))
    now = table(replace(KEY, type="text", cast="text"), NAME, SECRET, version="two")
    assert judge(declared, {"public.things": KNOWN}, {"public.things": now}, asked=False).stop
