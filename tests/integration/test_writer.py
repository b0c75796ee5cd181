"""The ACP writer on a real PostgreSQL: every kind happens, a seed repeats itself, trouble is survived."""

from __future__ import annotations

import time
from random import SystemRandom
from typing import Any

import psycopg
import pytest

from connectors.settings import SourceEndpoint
from sync.dev.changes import KINDS, TRUNCATES
from sync.dev.state import Addresses
from sync.dev.writer import Writer
from tests.support.acp import load_acp
from tests.support.stack import Own, own_names
from tests.support.until import until

#: what two runs at different times must agree on; times are compared by what they mean
CONTENT = {
    "users": "id, username, email, full_name, phone, password_hash, nfs_workspace_path, is_active",
    "teams": "id, team_name, specialization, description, nfs_workspace_path, created_by, is_active",
    "team_members": "team_id, user_id, role, status",
    "api_keys": "id, user_id, api_key, expires_at IS NULL, is_active",
    "file_embeddings": "id, file_path, file_name, workspace_type, owner_id, team_id, content_hash,"
    " embedding::text, metadata::text",
    "user_sessions": "id, user_id, session_token, workspace_path, expires_at > now(), last_activity IS NULL",
}


@pytest.fixture
def source(own: Own) -> SourceEndpoint:
    return load_acp(own.addresses.postgres_dsn)


def content(source: SourceEndpoint) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(source.dsn.get_secret_value()) as session:
        return {
            table: session.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
            for table, columns in CONTENT.items()
        }


def test_every_kind_happens(source: SourceEndpoint) -> None:
    seed = SystemRandom().randrange(10**9)
    print("seed", seed)
    counts = Writer(source, seed=seed).run(2_000)
    assert counts.total >= 2_000
    assert {kind.name for kind in KINDS} - set(counts.done) == set()
    assert counts.refused == counts.reconnects == 0


def test_one_session_repeats_itself(stack: Addresses) -> None:
    seen = []
    for _ in range(2):
        with own_names(stack) as own:
            source = load_acp(own.addresses.postgres_dsn)
            with psycopg.connect(source.dsn.get_secret_value()) as session:  # load.sql makes random ones
                session.execute("UPDATE file_embeddings SET id = md5(file_path)::uuid")
            counts = Writer(source, seed=7, sessions=1, truncate=True).run(1_500)
            seen.append((counts, content(source)))
    assert seen[0] == seen[1]
    assert {kind.name for kind in TRUNCATES} <= set(seen[0][0].done)


def test_a_run_goes_on_where_the_last_one_ended(source: SourceEndpoint) -> None:
    writer = Writer(source, seed=3)
    first = writer.run(50)
    second = writer.run(50)
    assert second.total >= first.total + 50


def test_writes_until_stopped_and_at_its_rate(source: SourceEndpoint) -> None:
    writer = Writer(source, seed=4, sessions=3, rate=100)
    started = time.monotonic()
    with writer:
        until(lambda: writer.counts.total >= 100, within=20)
        with pytest.raises(RuntimeError, match="at work"):
            writer.start()
    seconds = time.monotonic() - started
    assert not writer.alive
    # large transactions come at once and are paid for afterwards
    assert writer.counts.total < 100 * (seconds + 2) + 3 * 250


def test_a_failure_comes_out_with_its_seed(source: SourceEndpoint) -> None:
    with psycopg.connect(source.dsn.get_secret_value()) as session:
        session.execute("ALTER TABLE users RENAME COLUMN phone TO telephone")
    with pytest.raises(psycopg.errors.UndefinedColumn) as failed:
        Writer(source, seed=5).run(5_000)
    assert any("seed 5" in note for note in failed.value.__notes__)


def test_lost_sessions_are_opened_again(source: SourceEndpoint) -> None:
    with (
        Writer(source, seed=6, rate=200) as writer,
        psycopg.connect(source.dsn.get_secret_value()) as session,
    ):
        session.autocommit = True
        until(lambda: writer.counts.total > 20)
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'acp'"
        )
        until(lambda: writer.counts.reconnects >= 2)
        before = writer.counts.total
        until(lambda: writer.counts.total > before + 20)


def test_a_fence_is_waited_for(source: SourceEndpoint) -> None:
    """A trigger that refuses writes is met, counted and outlived."""
    with Writer(source, seed=8) as writer, psycopg.connect(source.dsn.get_secret_value()) as session:
        session.autocommit = True
        session.execute(
            "CREATE FUNCTION fence() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no writes for now'; END $$"
        )
        for table in CONTENT:
            session.execute(
                f"CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION fence()"
            )
        until(lambda: writer.counts.refused >= 4)
        session.execute("DROP FUNCTION fence CASCADE")
        before = writer.counts.total
        until(lambda: writer.counts.total > before + 20)
