"""What setup refuses PostgreSQL for: all reasons at once, each with what is to be done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connectors.errors import SourceNotReady, TableUnfit
from connectors.postgres.catalog import Column, Table, Unique
from connectors.postgres.slots import ServerFacts
from sync.setup.judge import judge_server, judge_tables

FACTS = ServerFacts(180_006, "logical", False, "7", "app", "me", True, True, 10, 3)
ID = ("id",)
CODE = (Unique("t_code_key", ("code",)),)
TABLE = Table(
    "public.t",
    "r",
    (Column("id", "bigint", True, False, "bigint"), Column("code", "text", True, False, "text")),
    ID,
    "d",
    "p",
    False,
    5,
    primary=ID,
    carried=frozenset(ID),
)
BARE = {"primary": (), "uniques": CODE, "key": ("code",), "carried": frozenset[str]()}


def test_a_server_that_is_ready() -> None:
    judge_server(FACTS, slot_exists=False)
    judge_server(replace(FACTS, used_slots=10), slot_exists=True)
    judge_server(replace(FACTS, version=150_000), slot_exists=False)


@pytest.mark.parametrize(
    ("changed", "what", "remedy"),
    [
        ({"in_recovery": True}, "it is a standby", "primary"),
        ({"version": 140_012}, "its version is 14", "15 or later"),
        ({"wal_level": "replica"}, "wal_level is 'replica'", "ALTER SYSTEM SET wal_level = 'logical'"),
        ({"may_replicate": False}, "the role me has no REPLICATION", 'ALTER ROLE "me" REPLICATION'),
        ({"used_slots": 10}, "all 10 replication slots are in use", "max_replication_slots"),
    ],
)
def test_a_server_that_is_not(changed: dict[str, Any], what: str, remedy: str) -> None:
    with pytest.raises(SourceNotReady) as caught:
        judge_server(replace(FACTS, **changed), slot_exists=False)
    assert what in caught.value.what
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 1


def test_all_reasons_of_a_server_at_once() -> None:
    bad = replace(
        FACTS, in_recovery=True, version=90_600, wal_level="minimal", may_replicate=False, used_slots=11
    )
    with pytest.raises(SourceNotReady) as caught:
        judge_server(bad, slot_exists=False)
    assert caught.value.what.count(";") == 4


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"kind": "p", "leaves": (("public.t1", frozenset(ID)),)},
        {"replica_identity": "f", "carried": frozenset({"id", "code"})},
        {"has_children": True},
        {"name": 'public.a "quoted" one'},
        {"replica_identity": "i", "carried": frozenset({"id", "code"})},
        {**BARE, "replica_identity": "i", "carried": frozenset({"code"})},
        {**BARE, "replica_identity": "f", "carried": frozenset({"id", "code"})},
        {"key": ("code",), "uniques": CODE, "replica_identity": "i", "carried": frozenset({"code"})},
    ],
)
def test_a_table_that_is_fit(changed: dict[str, Any]) -> None:
    judge_tables({"public.t": replace(TABLE, **changed)}, {"public.t": ["ts"]})


@pytest.mark.parametrize(
    ("changed", "what", "remedy"),
    [
        ({"kind": "v"}, "is no table", "map the tables that public.t is made from"),
        ({"kind": "f"}, "is no table", "map the tables"),
        ({"kind": "m"}, "is no table", "map the tables"),
        ({"persistence": "u"}, "is not logged", "SET LOGGED"),
        ({"name": 'public.a"'}, "double quote", "rename it"),
        ({"name": '"s.a'}, "double quote", "rename it"),
        ({"key": (), "primary": ()}, "has no primary key", "ADD PRIMARY KEY"),
        (
            {"replica_identity": "n", "carried": frozenset()},
            "REPLICA IDENTITY NOTHING",
            "REPLICA IDENTITY DEFAULT",
        ),
        (
            {"replica_identity": "i", "carried": frozenset({"code"})},
            "USING INDEX of other columns",
            "REPLICA IDENTITY DEFAULT; or map it with `key: [code]`",
        ),
        (BARE, "that does not carry the key (code)", "REPLICA IDENTITY USING INDEX t_code_key"),
        (
            {**BARE, "uniques": ()},
            "no unique index over just (code)",
            "CREATE UNIQUE INDEX ON public.t (code)",
        ),
        ({"key": ("code",), "uniques": CODE}, "does not carry the key (code)", "USING INDEX t_code_key"),
        (
            {"kind": "p", "leaves": (("public.Leaf", frozenset()),)},
            "a partition public.Leaf",
            'ALTER TABLE public."Leaf" REPLICA IDENTITY DEFAULT',
        ),
        (
            {"columns": (*TABLE.columns, Column("ID", "text", False, False, "text"))},
            "differ only by case",
            "RENAME COLUMN",
        ),
    ],
)
def test_a_table_that_is_not(changed: dict[str, Any], what: str, remedy: str) -> None:
    with pytest.raises(TableUnfit) as caught:
        judge_tables({"public.t": replace(TABLE, **changed)}, {"public.t": ["ts", "us"]})
    assert what in caught.value.what
    assert "public.t (mapped by ts, us)" in caught.value.what
    assert remedy in caught.value.remedy


def test_all_tables_are_judged_at_once() -> None:
    tables = {
        "a.a": replace(TABLE, name="a.a", key=(), primary=()),
        "b.b": replace(TABLE, name="b.b", persistence="u"),
    }
    with pytest.raises(TableUnfit, match=r"a\.a .*b\.b"):
        judge_tables(tables, {})
