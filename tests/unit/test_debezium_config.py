"""The connector's configuration keeps every value, names exactly what is mapped, and shows no secret in a name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from connectors.debezium.config import (
    LONGEST_RECORD_BYTES,
    message_keys,
    own_topics,
    placeholder,
    topic_of,
    wanted,
)
from connectors.debezium.connect import ConnectorState, first_cause
from connectors.settings import ConnectEndpoint, KafkaEndpoint, SourceEndpoint

SOURCE = SourceEndpoint(dsn=SecretStr("host=db"), slot="s1", publication="P1")
KAFKA = KafkaEndpoint(bootstrap_servers="k", topic_prefix="pre")
CONNECT = ConnectEndpoint(url="http://c", connector="c1")
PARAMETERS = {"host": "db,other", "port": "6543,6544", "user": "me", "password": "hunter2", "dbname": "app"}


def config(
    tables: list[str] | None = None, left_out: list[str] | None = None, connect: ConnectEndpoint = CONNECT
) -> dict[str, str]:
    return wanted(SOURCE, KAFKA, connect, PARAMETERS, tables or ["public.t"], left_out or [])


def test_names_and_addresses() -> None:
    found = config()
    assert (found["slot.name"], found["publication.name"], found["topic.prefix"]) == ("s1", "P1", "pre")
    assert (found["database.hostname"], found["database.port"]) == ("db", "6543")
    assert (found["database.user"], found["database.password"], found["database.dbname"]) == (
        "me",
        "hunter2",
        "app",
    )
    assert all(isinstance(value, str) for value in found.values())


def test_connect_may_see_postgresql_elsewhere() -> None:
    found = config(connect=ConnectEndpoint(url="u", database_hostname="inside", database_port=5432))
    assert (found["database.hostname"], found["database.port"]) == ("inside", "5432")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exactly.once.support", "required"),
        ("snapshot.mode", "no_data"),
        ("publication.autocreate.mode", "disabled"),
        ("slot.drop.on.stop", "false"),
        ("skipped.operations", "none"),
        ("tombstones.on.delete", "true"),
        ("event.converting.failure.handling.mode", "fail"),
        ("decimal.handling.mode", "string"),
        ("time.precision.mode", "microseconds"),
        ("binary.handling.mode", "bytes"),  # as text a TOASTed bytea that was not sent arrives as null
        ("transforms.wrap.field", "k"),
        ("key.converter.schemas.enable", "false"),
        ("value.converter.replace.null.with.default", "false"),
    ],
)
def test_what_the_write_rule_rests_on(name: str, value: str) -> None:
    assert config()[name] == value


def test_the_producer_takes_what_the_topics_take() -> None:
    assert int(config()["producer.override.max.request.size"]) == LONGEST_RECORD_BYTES == 20 << 20


def test_no_column_is_left_out_by_an_empty_list() -> None:
    assert "column.exclude.list" not in config()
    assert config(left_out=["public.t.v"])["column.exclude.list"] == r"public\.t\.v"


ODD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@given(ODD, ODD)
def test_a_list_matches_just_its_names(one: str, other: str) -> None:
    """As Debezium reads a list: split at commas, each a whole regular expression."""
    listed = config(tables=[f"s.{one}", f"s.{other}"])["table.include.list"].split(",")
    assert len(listed) == 2
    patterns = [re.compile(part.replace(r"\x2C", ","), re.DOTALL) for part in listed]
    assert patterns[0].fullmatch(f"s.{one}")
    assert patterns[1].fullmatch(f"s.{other}")
    assert bool(patterns[0].fullmatch(f"s.{other}")) == (one == other)


@pytest.mark.parametrize("name", [" leading", "trailing ", "  "])
def test_blanks_at_the_ends_of_a_name_survive_the_trimming_of_a_list(name: str) -> None:
    listed = config(tables=[f"s.{name}"], left_out=[f"s.t.{name}"])
    for option in ("table.include.list", "column.exclude.list"):
        assert listed[option] == listed[option].strip()


@pytest.mark.parametrize(
    ("table", "topic"),
    [
        ("public.users", "pre.public.users"),
        ("public.Users_2-a", "pre.public.Users_2-a"),
        ("Ödd.a b%{}", "pre._dd.a_b___"),
        ("s.🚀", "pre.s.__"),  # Debezium counts UTF-16 units
    ],
)
def test_topics(table: str, topic: str) -> None:
    assert topic_of("pre", table) == topic


def test_own_topics_and_the_placeholder_are_this_pipelines() -> None:
    assert own_topics("pre") == ("__debezium-heartbeat.pre", "pre.message")
    mine = placeholder(SOURCE, KAFKA)
    assert config()["unavailable.value.placeholder"] == mine
    assert mine != placeholder(SOURCE.model_copy(update={"slot": "s2"}), KAFKA)
    assert mine != placeholder(SOURCE, KAFKA.model_copy(update={"topic_prefix": "other"}))


def test_the_first_cause_of_a_trace() -> None:
    trace = "org.A: failed\n\tat x\nCaused by: org.B: because\n\tat y\nCaused by: org.C: of this\n\tat z"
    assert first_cause(trace) == "org.C: of this"
    assert first_cause("org.A: failed\n\tat x") == "org.A: failed"
    assert first_cause("") == ""


def test_when_a_connector_runs_and_when_it_has_failed() -> None:
    assert ConnectorState("RUNNING", ("RUNNING",), "").running
    for state in (
        ConnectorState("RUNNING", (), ""),
        ConnectorState("PAUSED", ("PAUSED",), ""),
        ConnectorState("ABSENT", (), ""),
    ):
        assert not state.running
        assert not state.failed
    assert ConnectorState("RUNNING", ("FAILED",), "x").failed
    assert ConnectorState("FAILED", (), "x").failed


def test_keys_that_are_no_primary_keys() -> None:
    assert "message.key.columns" not in config()
    found = wanted(SOURCE, KAFKA, CONNECT, PARAMETERS, ["s.t"], [], {"s.t": ("a", "b")})
    assert found["message.key.columns"] == r"(?-i)s\x{2e}t:a,b"


@given(st.dictionaries(st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1), min_size=1))
def test_a_key_of_any_name_keeps_debeziums_form(keys: dict[str, list[str]]) -> None:
    """What separates tables and columns, and blanks, are in it only as that (io.debezium.relational.Key)."""
    parts = message_keys(keys).split(";")
    assert len(parts) == len(keys)
    for part, (table, columns) in zip(parts, keys.items(), strict=True):
        match = re.fullmatch(r"\s*([^\s:]+):([^:\s]+)\s*", part)
        assert match is not None
        assert [_java(name) for name in match[2].split(",")] == columns
        assert _java(match[1].removeprefix("(?-i)")) == table


def _java(pattern: str) -> str:
    """The one text that a pattern of escapes stands for."""
    return re.sub(r"\\x\{([0-9a-f]+)\}", lambda found: chr(int(found[1], 16)), pattern)
