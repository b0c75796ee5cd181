"""Facts of servers, tables and a target judged: what is an error, what a warning, and what is in order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connectors.debezium.config import CONVERTER
from connectors.debezium.connect import PLUGIN
from connectors.errors import ServerGone
from connectors.mongo.probe import TargetFacts
from connectors.postgres.catalog import Column, Table
from connectors.postgres.facts import PublicationFacts, SourceFacts, TableFacts, Waiting
from connectors.postgres.slots import ServerFacts
from consumers.mapping import spec
from consumers.mapping.plan import compile_plan
from sync.preflight import assess, findings
from sync.preflight.findings import Finding, Level
from sync.preflight.tally import Histogram, Largest

SERVER = ServerFacts(180_006, "logical", False, "7", "app", "me", True, True, 10, 3)
SETTINGS = {
    "max_slot_wal_keep_size": "100GB",
    "idle_replication_slot_timeout": "0",
    "max_wal_senders": "10",
    "statement_timeout": "0",
    "server_encoding": "UTF8",
}
SOURCE = SourceFacts(SETTINGS, 1, (), None)
TABLE = Table("public.t", "r", (Column("id", "bigint", True, False, "bigint"),), ("id",), "d", "p", False, 5)
FACTS = TableFacts("public.t", True, True, False, 0, 0, 0, 5, 8192, 1)
TARGET = TargetFacts((8, 0), {}, (), 1 << 40)


def told(found: Any) -> list[tuple[Level, str]]:
    return [(f.level, f.kind) for f in found]


def with_settings(**changed: str) -> SourceFacts:
    return replace(SOURCE, settings={**SETTINGS, **changed})


def test_a_source_in_order() -> None:
    assert not told(assess.assess_server(SERVER, False, False, SOURCE))
    assert not told(assess.assess_retention(SOURCE))
    assert not told(assess.assess_timeouts(SOURCE, "me"))
    assert not told(assess.assess_waiting(SOURCE))
    assert not told(assess.assess_tables({"public.t": TABLE}, {}, {"public.t": FACTS}, "me"))


@pytest.mark.parametrize(
    ("server", "source", "kinds"),
    [
        (replace(SERVER, wal_level="replica", may_replicate=False), SOURCE, ["server", "server"]),
        (SERVER, replace(SOURCE, used_senders=10), ["senders"]),
        (SERVER, replace(SOURCE, publication=PublicationFacts(True, True)), ["publication"]),
        (SERVER, replace(SOURCE, publication=PublicationFacts(False, False)), ["publication"]),
        (SERVER, with_settings(server_encoding="SQL_ASCII"), ["encoding"]),
    ],
)
def test_a_server_that_setup_would_refuse(server: ServerFacts, source: SourceFacts, kinds: list[str]) -> None:
    found = list(assess.assess_server(server, False, source.publication is not None, source))
    assert told(found) == [(Level.ERROR, kind) for kind in kinds]
    assert all(f.remedy for f in found)


def test_senders_in_use_do_not_matter_to_a_pipeline_that_streams() -> None:
    assert not told(assess.assess_server(SERVER, True, False, replace(SOURCE, used_senders=10)))


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"max_slot_wal_keep_size": "-1"}, "slot-retention"),
        ({"max_slot_wal_keep_size": "512MB"}, "slot-retention"),
        ({"max_slot_wal_keep_size": "1GB"}, None),
        ({"idle_replication_slot_timeout": "1h"}, "slot-timeout"),
    ],
)
def test_what_a_slot_lives_under(changed: dict[str, str], kind: str | None) -> None:
    assert told(assess.assess_retention(with_settings(**changed))) == (
        [(Level.WARNING, kind)] if kind else []
    )


def test_limits_and_transactions_that_a_load_meets() -> None:
    assert told(assess.assess_timeouts(with_settings(statement_timeout="30s"), "me")) == [
        (Level.WARNING, "timeout")
    ]
    waiting = replace(SOURCE, transactions=(Waiting("gid", 900, True), Waiting("app (pid 7)", 90, False)))
    found = list(assess.assess_waiting(waiting))
    assert told(found) == [(Level.WARNING, "old-transaction")] * 2
    assert "ROLLBACK PREPARED 'gid'" in found[0].remedy


@pytest.mark.parametrize(
    ("changed", "level", "kind"),
    [
        ({"may_select": False}, Level.ERROR, "rights"),
        ({"owned": False}, Level.ERROR, "rights"),
        ({"row_security": True}, Level.ERROR, "row-security"),
        ({"partitions": 3}, Level.WARNING, "partition-truncate"),
        ({"unlogged_partitions": 1}, Level.ERROR, "partition"),
        ({"foreign_partitions": 1}, Level.ERROR, "partition"),
    ],
)
def test_a_table_that_would_not_come_whole(changed: dict[str, Any], level: Level, kind: str) -> None:
    facts = {"public.t": replace(FACTS, **changed)}
    assert told(assess.assess_tables({"public.t": TABLE}, {}, facts, "me")) == [(level, kind)]


def test_tables_that_setup_refuses_are_errors_each() -> None:
    table = replace(TABLE, persistence="u", replica_identity="n")
    found = list(assess.assess_tables({"public.t": table}, {"public.t": ["ts"]}, {}, "me"))
    assert told(found) == [(Level.ERROR, "table")] * 2
    assert "mapped by ts" in found[0].what


def test_connect() -> None:
    assert not told(assess.assess_connect({PLUGIN: "3.7.1.Final"}, []))
    assert told(assess.assess_connect({}, [])) == [(Level.ERROR, "plugin")]
    assert not told(assess.assess_connect({PLUGIN: "3.7.1.Final", CONVERTER: "3.5.0"}, []))
    puts_defaults = assess.assess_connect({PLUGIN: "3.7.1.Final", CONVERTER: "3.4.1"}, [])
    assert told(puts_defaults) == [(Level.ERROR, "plugin")]
    old = {PLUGIN: "3.6.3.Final"}
    complaints = ["exactly.once.support: no", "database.hostname: cannot be reached"]
    assert told(assess.assess_connect(old, complaints)) == [
        (Level.ERROR, "plugin"),
        (Level.ERROR, "exactly-once"),
        (Level.ERROR, "configuration"),
    ]


def test_topics() -> None:
    keeps = {"cleanup.policy": "compact", "min.compaction.lag.ms": str(168 * 3_600_000)}
    assert not told(assess.assess_topics({"x.a": keeps}, {"a": "x.a"}, 168))
    found = assess.assess_topics({"x.a": {"cleanup.policy": "delete"}}, {"a b": "x.a_b", "a?b": "x.a_b"}, 168)
    assert told(found) == [(Level.ERROR, "topic"), (Level.ERROR, "topic-name")]


def test_a_target() -> None:
    assert not told(assess.assess_target(TARGET))
    bad = replace(TARGET, version=(4, 4), refused={"build an index": "no"}, foreign=("users",))
    assert told(assess.assess_target(bad)) == [
        (Level.ERROR, "version"),
        (Level.ERROR, "rights"),
        (Level.ERROR, "foreign-documents"),
    ]


@pytest.mark.parametrize(
    ("free", "levels"),
    [(None, [Level.UNKNOWN]), (2_000, []), (1_100, [Level.WARNING]), (300, [Level.ERROR])],
)
def test_disk(free: int | None, levels: list[Level]) -> None:
    assert [f.level for f in assess.assess_disk(free, 1_000)] == levels


def test_a_check_that_cannot_run_is_an_error_and_one_that_finds_nothing_is_in_order() -> None:
    def gone() -> list[Finding]:
        raise ServerGone("it is away", remedy="start it")

    assert told(findings.run("Kafka", gone)) == [(Level.ERROR, "could-not-run")]
    assert told(findings.run("Kafka", list)) == [(Level.OK, "in-order")]


def test_counts_in_a_size_that_does_not_grow() -> None:
    lengths, largest, other = Histogram(), Largest(2), Histogram()
    for n in range(1, 1_001):
        (lengths if n % 2 else other).add(n)
        largest.add(n, (str(n),))
    lengths.merge(other)
    assert (lengths.total, lengths.most, lengths.sum) == (1_000, 1_000, 500_500)
    assert lengths.below(0.5) == 511
    assert lengths.below(1.0) == 1_000
    assert largest.all() == [(1_000, ("1000",)), (999, ("999",))]


def test_conversions_are_noted_wherever_they_stand() -> None:
    price = Column("price", "numeric", False, False, "numeric")
    parent = Column("parent", "bigint", False, False, "bigint")
    names = ("public.a", "public.b", "public.c", "public.d")
    tables = {n: replace(TABLE, name=n, columns=(*TABLE.columns, price, parent)) for n in names}
    text = """
version: 1
collections:
  a:
    from: public.a
    copy: {d: {from: public.d, foreign_key: parent, convert: {price: double}}}
    embed:
      b:
        from: public.b
        foreign_key: parent
        embed: {c: {from: public.c, foreign_key: parent, convert: {price: double}}}
"""
    plan = compile_plan(spec.parse(text), tables, spec.Lines(text, "m.yaml"))
    noted = [f.subject for f in assess.assess_columns(plan) if f.kind == "lossy-policy"]
    assert sorted(noted) == ["public.c", "public.d"]
