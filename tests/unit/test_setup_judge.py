"""What setup refuses PostgreSQL for: all reasons at once, each with what is to be done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connectors.errors import SourceNotReady, TableUnfit
from connectors.postgres.catalog import Column, Table
from connectors.postgres.slots import ServerFacts
from sync.setup.judge import judge_server, judge_tables

FACTS = ServerFacts(180_006, "logical", False, "7", "app", "me", True, True, 10, 3)
TABLE = Table("public.t", "r", (Column("id", "bigint", True, False, "bigint"),), ("id",), "d", "p", False, 5)


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


@pytest.mark.parametrize("changed", [{}, {"kind": "p"}, {"replica_identity": "f"}])
def test_a_table_that_is_fit(changed: dict[str, Any]) -> None:
    judge_tables({"public.t": replace(TABLE, **changed)}, {"public.t": ["ts"]})


@pytest.mark.parametrize(
    ("changed", "what", "remedy"),
    [
        ({"kind": "v"}, "is no table", "map the tables that public.t is made from"),
        ({"kind": "f"}, "is no table", "map the tables"),
        ({"kind": "m"}, "is no table", "map the tables"),
        ({"persistence": "u"}, "is not logged", "SET LOGGED"),
        ({"key": ()}, "has no primary key", "ADD PRIMARY KEY"),
        ({"key": (), "replica_identity": "n"}, "has no primary key", "ADD PRIMARY KEY"),
        ({"replica_identity": "n"}, "REPLICA IDENTITY NOTHING", "REPLICA IDENTITY DEFAULT"),
        ({"replica_identity": "i"}, "REPLICA IDENTITY USING INDEX", "REPLICA IDENTITY DEFAULT"),
        ({"has_children": True}, "inherit from it", "map the inheriting tables"),
    ],
)
def test_a_table_that_is_not(changed: dict[str, Any], what: str, remedy: str) -> None:
    with pytest.raises(TableUnfit) as caught:
        judge_tables({"public.t": replace(TABLE, **changed)}, {"public.t": ["ts", "us"]})
    assert what in caught.value.what
    assert "public.t (mapped by ts, us)" in caught.value.what
    assert remedy in caught.value.remedy


def test_all_tables_are_judged_at_once() -> None:
    tables = {"a.a": replace(TABLE, name="a.a", key=()), "b.b": replace(TABLE, name="b.b", persistence="u")}
    with pytest.raises(TableUnfit, match=r"a\.a .*b\.b"):
        judge_tables(tables, {})
